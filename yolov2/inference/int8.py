"""A network in eight bits: weights with a scale per filter, maps with one scale each, by onnxruntime's tools.

Ranges of the maps are learnt from pictures. The last convolution, whose outputs are boxes and scores, and the
first, which is quick and sees the pictures themselves, stay in float32.
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from yolov2.errors import UserError
from yolov2.inference.engines import to_onnx_bytes
from yolov2.network import Network


def quantised(network: Network, inputs: Iterable[Tensor]) -> bytes:
    """The ONNX file of a network with quantise and dequantise nodes around its convolutions.

    Parameters
    ----------
    network : Network
        On a CPU; the layers in front of its head are written.
    inputs : iterable of Tensor, float32 (1, 3, height, width)
        Pictures as the network sees them, all of one size, which becomes that of the file.

    Returns
    -------
    bytes

    Raises
    ------
    UserError
        If a package is missing, or there is no picture.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.calibrate import CalibrationMethod
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise UserError('--precision int8: pip install "yolov2[onnxruntime]"') from None

    class Reader(CalibrationDataReader):
        """Feeds the pictures one by one."""

        def __init__(self, feeds: Iterator[dict[str, Any]]):
            self._feeds = feeds

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    feeds = [{"images": image.contiguous().numpy()} for image in inputs]
    if not feeds:
        raise UserError("--calibration: no pictures to learn the ranges from")
    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (Path(folder, f"{name}.onnx") for name in ("plain", "ready", "int8"))
        plain.write_bytes(to_onnx_bytes(network, feeds[0]["images"].shape[1:]))
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(small),
            Reader(iter(feeds)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=_outermost(ready),
            extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
        )
        return small.read_bytes()


def _outermost(path: Path) -> list[str]:
    """Names of the first and the last convolution."""
    import onnx

    convolutions = [node.name for node in onnx.load(path).graph.node if node.op_type in ("Conv", "Gemm")]
    return [convolutions[0], convolutions[-1]]

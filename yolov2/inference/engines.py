"""The ways to run a folded network: torch as it is, torch.compile, onnxruntime, OpenVINO.

An engine is called with the network's input, (B, 3, height, width) in the engine's dtype and on its device,
and returns the raw output in front of the head as `Network.forward` does. Many threads may call one engine.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from reference.layers import head_index
from yolov2.errors import UserError
from yolov2.inference.folded import can_pack, fold, pack, pool_first
from yolov2.network import Network, get_parameters

EngineName = Literal["auto", "eager", "compile", "onnxruntime", "openvino"]
Precision = Literal["auto", "float32", "float16", "bfloat16", "int8"]

Engine = Callable[[Tensor], Tensor]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def open_engine(
    network: Network,
    device: torch.device,
    name: EngineName = "auto",
    precision: Precision = "auto",
    calibration: Iterable[Tensor] | None = None,
) -> tuple[Engine, torch.dtype]:
    """A network made ready to run.

    Parameters
    ----------
    network : Network
        On any device; left as it is.
    device : torch.device
        Where to run.
    name : {"auto", "eager", "compile", "onnxruntime", "openvino"}
        "auto" is "eager": on CPUs its packed weights ran as fast as onnxruntime, and need nothing but torch;
        for "int8" it is "onnxruntime".
    precision : {"auto", "float32", "float16", "bfloat16", "int8"}
        "auto" is float16 on CUDA GPUs and float32 elsewhere. "int8" needs onnxruntime.
    calibration : iterable of Tensor, float32 (1, 3, height, width)
        Inputs like those to come, from which "int8" learns the ranges of all maps.

    Returns
    -------
    (engine, dtype)
        What to call, and the dtype of its input.

    Raises
    ------
    UserError
        If a package is missing, or the engine cannot do that here.
    ValueError
        If a name has no meaning.
    """
    for option, value, known in (("engine", name, EngineName), ("precision", precision, Precision)):
        if value not in get_args(known):
            raise ValueError(f"{option}: {value!r} is not one of {', '.join(get_args(known))}")
    if precision == "auto":
        precision = "float16" if device.type == "cuda" else "float32"
    if name == "auto":
        name = "onnxruntime" if precision == "int8" else "eager"
    if name in ("onnxruntime", "openvino"):
        if device.type != "cpu":
            raise UserError(f"--engine {name} runs on CPUs here; add --device cpu")
        if precision not in ("float32", "int8"):
            raise UserError(f"--engine {name} computes in float32 or int8, not {precision}")
    if precision == "int8":
        if name != "onnxruntime":
            raise UserError(f"--precision int8 needs --engine onnxruntime, not {name}")
        if calibration is None:
            raise UserError("--precision int8 needs --calibration: some pictures like those to come")
        from yolov2.inference.int8 import quantised

        return OnnxRuntime(network, quantised(network, calibration)), torch.float32
    if name == "onnxruntime":
        return OnnxRuntime(network), torch.float32
    if name == "openvino":
        return OpenVino(network), torch.float32
    dtype = DTYPES[precision]
    folded = fold(network, dtype).to(device)
    if name == "compile":
        return Compiled(folded), dtype
    packs = device.type == "cpu" and dtype == torch.float32 and can_pack()
    return Packed(folded) if packs else pool_first(folded), dtype


class Packed:
    """A folded network on an x86 CPU; its weights are put in oneDNN's order at the first call."""

    def __init__(self, folded: Network):
        self._network = folded
        self._packed = False
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        with self._lock:
            if not self._packed:
                self._network = pool_first(pack(self._network, images))
                self._packed = True
        return self._network(images)


class Compiled:
    """A folded network under torch.compile, compiled for each shape that it meets, which takes a while."""

    def __init__(self, folded: Network):
        options: dict[str, Any] = {"freezing": True} if not next(folded.parameters()).is_cuda else {}
        self._run = torch.compile(folded, dynamic=False, options=options)
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        # freezing wants no_grad and knows no inference mode
        with self._lock, torch.inference_mode(False), torch.no_grad():
            try:
                return self._run(images.clone() if images.is_inference() else images)
            except torch._dynamo.exc.BackendCompilerFailed as error:
                reason = str(error).splitlines()[0]
                raise UserError(f"--engine compile: torch.compile fails here ({reason}); try eager") from None


class OnnxRuntime:
    """The network in onnxruntime, as `yolov2.export` writes it; a session per size of input."""

    planes = True  # its input is row-major

    def __init__(self, network: Network, model: bytes | None = None):
        self._runtime = _import("onnxruntime")
        self._network, self._model = network, model
        self._made_for = None if model is None else network.input_shape
        self._sessions: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        key = tuple(images.shape[1:])
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._session(key)
        (output,) = self._sessions[key].run(None, {"images": np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(output)

    def _session(self, shape: tuple[int, ...]) -> Any:
        if self._made_for is not None and shape != self._made_for:
            sides = "x".join(map(str, self._made_for[:0:-1]))
            raise UserError(f"--imgsz: int8 was calibrated for {sides}; leave it out")
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # its threads would go on spinning while torch's decode and suppress
        options.add_session_config_entry("session.force_spinning_stop", "1")
        model = to_onnx_bytes(self._network, shape) if self._model is None else self._model
        return self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OpenVino:
    """The network in OpenVINO, a compiled model per size of input."""

    planes = True

    def __init__(self, network: Network):
        self._core = _import("openvino").Core()
        self._network = network
        self._models: dict[tuple[int, ...], Any] = {}
        self._lock = threading.Lock()

    def __call__(self, images: Tensor) -> Tensor:
        key = tuple(images.shape)
        with self._lock:
            if key not in self._models:
                model = self._core.read_model(to_onnx_bytes(self._network, key[1:]))
                model.reshape(list(key))
                threads = torch.get_num_threads()
                hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
                # bfloat16 where the CPU has it would be another precision than was asked for
                hints["INFERENCE_PRECISION_HINT"] = "f32"
                self._models[key] = self._core.compile_model(model, "CPU", hints)
        request = self._models[key].create_infer_request()
        result = request.infer({"images": np.ascontiguousarray(images.numpy())})
        return torch.from_numpy(next(iter(result.values())).copy())


def to_onnx_bytes(network: Network, shape: tuple[int, ...]) -> bytes:
    """The layers in front of the head as an ONNX file for inputs (B, *shape) with any B."""
    from yolov2.onnx_graph import to_onnx

    layers = network.layers[: head_index(network.layers)]
    parameters = get_parameters(network)[: len(layers)]
    model = to_onnx(layers, parameters, shape, names=(), batch_norm=network.batch_norm)  # type: ignore[arg-type]
    return model.SerializeToString()


def _import(package: str) -> Any:
    """An optional engine's package, and the one that writes its files."""
    try:
        __import__("onnx")
        return __import__(package)
    except ImportError:
        raise UserError(f'--engine {package}: not installed; pip install "yolov2[{package}]"') from None

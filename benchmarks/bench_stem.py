"""The stem, fused: against its three layers, alone and in whole networks, which decides whether it is kept.

`benchmarks/NOTES.md` has the rule: the predictor gets it if "layer by layer" takes 1.05 times as long as
"triton" or longer, from bytes to boxes, as a CUDA graph.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import reference.stem
from benchmarks.timing import BATCHES, CUDA, DEVICE, OURS, Race, nbytes
from fast import _launch
from fast.detect import detect
from fast.letterbox import letterbox_packed, pack
from fast.stem import stem
from yolov2.inference.folded import FoldedConv, fold
from yolov2.network import Network
from yolov2.presets import PRESETS

SIDE = 416
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
#: one rounding of the largest outputs and one of those near 0
TOLERANCE = {"fp32": 1e-4, "fp16": 4e-3, "bf16": 3e-2}
#: how far raw outputs of a network may be from float32's: root mean square, of the outputs' own
OF_NETWORK = {"fp32": 1e-4, "fp16": 0.02}


def layer_by_layer(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """The way of a network in torch; on a GPU the convolution is cuDNN's."""
    y = F.leaky_relu_(F.conv2d(x, weights, bias, padding=1), 0.1)
    return F.max_pool2d(y, 2, ceil_mode=True)


def larger_tiles(*given: Tensor) -> Tensor:
    """The kernel with tiles of 128 outputs: fewer instructions, and fewer programs beside each other."""
    import fast.kernels.stem as kernel

    before, kernel.BYTES = kernel.BYTES, 2 * kernel.BYTES
    try:
        return kernel.stem(*given)
    finally:
        kernel.BYTES = before


@pytest.mark.parametrize("form", ["fp16", "bf16"] if CUDA else ["fp32"])
@pytest.mark.parametrize("filters", [32, 16])
@pytest.mark.parametrize("batch", BATCHES)
def test_stem(benchmark, batch, filters, form):
    """Pictures in [0, 1], channels last, as the letterbox makes them."""
    g = torch.Generator().manual_seed(0)
    shapes = (batch, 3, SIDE, SIDE), (filters, 3, 3, 3), (filters,)
    x, weights, bias = torch.rand(shapes[0], generator=g), *(torch.randn(s, generator=g) for s in shapes[1:])
    x, weights = (t.contiguous(memory_format=torch.channels_last) for t in (x, weights / 27**0.5))
    given = [t.to(DEVICE, DTYPES[form]) for t in (x, weights, bias / 4)]
    few = sorted({0, batch - 1})
    numbers = [t.float().cpu().numpy() for t in (given[0][few], *given[1:])]
    want = reference.stem.stem(*numbers)

    def check(got):
        assert got.shape[0] == batch
        np.testing.assert_allclose(
            got[few].float().cpu().numpy(), want, rtol=TOLERANCE[form], atol=TOLERANCE[form]
        )

    race = Race("stem", f"{filters} filters, {SIDE}x{SIDE}, B{batch}, {form}", batch, check)
    race.ours(lambda: stem(*given))
    race.peer("layer by layer", lambda: layer_by_layer(*given))
    race.peer("triton, 128 a tile", (lambda: larger_tiles(*given)) if CUDA else None, note="needs a GPU")
    if CUDA or (batch == 1 and filters == 32):
        race.compiled(layer_by_layer, *given)
    if not CUDA and batch == 1:
        race.peer("oracle", lambda: torch.from_numpy(reference.stem.stem(*numbers)).to(given[0]))
    race.run(benchmark, nbytes(*given) + batch * filters * (SIDE // 2) ** 2 * DTYPES[form].itemsize)


class Stem(nn.Module):
    """A folded convolution with the pool behind it."""

    def __init__(self, conv: FoldedConv):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        return stem(x, self.weight, self.bias)


def with_stem(network: Network) -> Network:
    """Put the stem in place of the first two layers of a folded network, which is changed."""
    first = network.blocks[0]
    assert isinstance(first, FoldedConv)
    network.blocks[0], network.blocks[1] = Stem(first), nn.Identity()
    return network


@pytest.mark.parametrize("model", ["yolov2-voc", "yolov2-tiny-voc"] if CUDA else ["yolov2-tiny-voc"])
@pytest.mark.parametrize("batch", BATCHES if CUDA else (1,))
def test_bytes_to_boxes(benchmark, batch, model):
    """Letterbox, network and detections, as the predictor captures them; the weights are random."""
    preset, form = PRESETS[model], "fp16" if CUDA else "fp32"
    dtype = DTYPES[form]
    torch.manual_seed(0)
    network = Network(preset.build(preset.region)).to(DEVICE).eval()
    rng = np.random.default_rng(0)
    pictures = [torch.from_numpy(rng.integers(0, 256, (375, 500, 3), np.uint8)) for _ in range(batch)]
    packed = pack(pictures, SIDE, SIDE).to(DEVICE)
    with torch.inference_mode():
        want = network(letterbox_packed(packed, channels_last=True))

    def check(got):
        error = (got[0] - want).square().mean().sqrt() / want.square().mean().sqrt()
        assert error <= OF_NETWORK[form], f"raw outputs are off by {error:.2g} of their size"

    def whole(run):
        def call():
            with torch.inference_mode(), _launch.use_backend("auto"):
                raw = run(letterbox_packed(packed, dtype, channels_last=True))
                return raw, *detect(raw, preset.region)

        return call

    race = Race("bytes to boxes", f"{model}, {SIDE}x{SIDE}, B{batch}, {form}", batch, check)
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True  # cuDNN tries its algorithms, as it does for the predictor
    try:
        race.peer(OURS, whole(with_stem(fold(network, dtype))))
        race.peer("layer by layer", whole(fold(network, dtype)))
        race.run(benchmark, nbytes(packed.buffer, *network.parameters()))
    finally:
        torch.backends.cudnn.benchmark = before

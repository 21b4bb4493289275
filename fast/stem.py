"""The layers that a picture meets first, as one: convolution, leaky, max pool (SPEC 10).

Nothing in a network is larger than the map between them: at 416 pixels 5.5 million values a picture, of which
the pool keeps a quarter. The kernel never writes it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from fast._launch import DTYPES, operator, use_triton


def stem(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution that keeps the size, leaky, and a 2x2 max pool that halves it; for inference.

    Parameters
    ----------
    x : Tensor (B, 3, H, W)
        Pictures, finite: what a NaN or an infinity touches becomes NaN or infinite, and its neighbours may.
    weights : Tensor (F, 3, 3, 3)
        One kernel a filter, batch norm folded into it.
    bias : Tensor (F,)
        All three have one dtype. `x` and `weights` may lie in memory as they like; what is not channels_last
        is copied first.

    Returns
    -------
    Tensor (B, F, ceil(H / 2), ceil(W / 2))
        channels_last. The kernel adds up in float32 and rounds once.

    Raises
    ------
    ValueError
        If shapes or dtypes do not go together.
    """
    if x.ndim != 4 or x.shape[1] != 3 or weights.shape[1:] != (3, 3, 3) or bias.shape != weights.shape[:1]:
        shapes = " and ".join(str(tuple(t.shape)) for t in (x, weights, bias))
        raise ValueError(f"stem: {shapes} are not (B, 3, H, W), (F, 3, 3, 3) and (F,)")
    if not x.dtype == weights.dtype == bias.dtype:
        raise ValueError(f"stem: pictures are {x.dtype}, weights {weights.dtype}, bias {bias.dtype}")
    return _stem(x, weights, bias)


@operator("yolov2::stem")
def _stem(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    x, weights = (t.contiguous(memory_format=torch.channels_last) for t in (x, weights))
    if use_triton(x) and x.dtype in DTYPES:
        from fast.kernels.stem import stem as kernel

        return kernel(x, weights, bias)
    # leaky is monotonic, so the pool may come first: the same numbers for a quarter of the work
    largest = F.max_pool2d(F.conv2d(x, weights, bias, padding=1), 2, ceil_mode=True)
    return F.leaky_relu_(largest, 0.1).contiguous(memory_format=torch.channels_last)


@_stem.register_fake
def _(x, weights, bias):
    (B, _, H, W), filters = x.shape, weights.shape[0]
    shape = B, filters, (H + 1) // 2, (W + 1) // 2
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)

"""Reorg as a copy in which every program writes a run of the output (SPEC 9).

Bytes: each element is read once and written once. Writes are contiguous; with stride s the reads of one
program touch every s-th element, and the programs that want the elements between find them in the cache.

All four maps (two orders, there and back) are space to depth or its inverse on a "map shape". For the
textbook order that is the tensor's own shape; Darknet reads the same memory as (C / s^2, H s, W s).
"""

import triton
import triton.language as tl
from torch import Tensor

from fast._launch import empty_strided, launch

BLOCK = 1024  # outputs a program


@triton.jit
def _reorg_kernel(
    x, out,
    in_b, in_c, in_y, in_x, out_b, out_c, out_y, out_x,  # strides
    C_in, H_in, W_in, C_out, H_out, W_out,  # real shapes
    C_from, H_from, W_from, C_to, H_to, W_to,  # map shapes
    S, channels_last,
    DARKNET: tl.constexpr, INVERSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One run of BLOCK outputs of one image. Grid: (runs, images)."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < C_out * H_out * W_out
    # neighbours in a program are neighbours in the output's memory
    if channels_last:
        c, y, x_ = at % C_out, at // C_out // W_out, at // C_out % W_out
    else:
        c, y, x_ = at // (H_out * W_out), at // W_out % H_out, at % W_out
    image = tl.program_id(1).to(tl.int64)
    target = out + image * out_b + c * out_c + y * out_y + x_ * out_x

    if DARKNET:
        flat = (c * H_out + y) * W_out + x_
        c, y, x_ = flat // (H_to * W_to), flat // W_to % H_to, flat % W_to
    if INVERSE:  # depth to space: the place in its block says which channel
        c, y, x_ = (y % S * S + x_ % S) * C_to + c, y // S, x_ // S
    else:  # space to depth: the channel says which place of the block
        place = c // C_from
        c, y, x_ = c % C_from, y * S + place // S, x_ * S + place % S
    if DARKNET:
        flat = (c * H_from + y) * W_from + x_
        c, y, x_ = flat // (H_in * W_in), flat // W_in % H_in, flat % W_in

    value = tl.load(x + image * in_b + c * in_c + y * in_y + x_ * in_x, inside, other=0)
    tl.store(target, value, inside)


def reorg(x: Tensor, shape: tuple[int, int, int], s: int, darknet: bool, inverse: bool) -> Tensor:
    """Move the elements of `x` (B, C, H, W) into a new tensor (B, *shape), laid out as `x` is."""
    B, *real = x.shape
    C, H, W = shape
    channels_last = x.stride(1) == 1 and x.shape[1] > 1
    strides = (1, W * C, C) if channels_last else (H * W, W, 1)
    out = empty_strided((B, *shape), (C * H * W, *strides), x)
    # the shapes that memory is read as: "space" has the s x s blocks, "depth" their channels
    space = shape if inverse else tuple(real)
    if darknet:
        space = (space[0] // (s * s), space[1] * s, space[2] * s)
    depth = (space[0] * s * s, space[1] // s, space[2] // s)
    start, end = (depth, space) if inverse else (space, depth)
    launch(
        _reorg_kernel,
        (triton.cdiv(C * H * W, BLOCK), B),
        x, out, *x.stride(), *out.stride(), *real, *shape, *start, *end, s, int(channels_last),
        DARKNET=darknet, INVERSE=inverse, BLOCK=BLOCK,
    )  # fmt: skip
    return out

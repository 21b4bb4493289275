"""Letterbox of a whole batch in one launch, bit for bit as the oracle computes it (SPEC 14 and 8.1).

Bytes: an output element is written once, in runs of BLOCK. It reads 4 bytes of the picture: neighbours in
a program read neighbours or the same ones, so they come from memory once and then from the cache.
On a picture of 500x375 pixels and an input of 416x416 in half precision that is .56 MB read and 1.04 MB
written. Bytes are loaded one by one all the same: three channels fill no word, so wider loads would need
shifts by an amount that differs from pixel to pixel.

A lane keeps its column, so positions along x are computed once for ROWS outputs; positions along y are
scalars of the program. Where the channels of a pixel lie together, neighbouring lanes are the channels of
one pixel and then of the next: all stores are contiguous in both layouts.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import empty_strided, launch

BLOCK = 256  # neighbours in the output's memory
ROWS = 8  # rows a program
WARPS = 2  # 4 outputs a thread and row: 8-byte stores in half precision


@triton.jit
def _taps(i, n, size):
    """Output `i` of `size` lies between two of `n` inputs: which, and how far from the first."""
    scale = tl.div_rn((n - 1).to(tl.float32), tl.maximum(size - 1, 1).to(tl.float32))
    # corners aligned: the last output copies the last input, whatever was rounded
    position = tl.where(i == size - 1, (n - 1).to(tl.float32), i.to(tl.float32) * scale)
    low = position.to(tl.int32)
    return low, tl.minimum(low + 1, n - 1), position - low.to(tl.float32)


@triton.jit
def _unit(byte):
    """byte / 255, rounded as a division would round it.

    Two multiplications instead of a division's ten instructions, four times an output. The float32 nearest
    to 1/255 would miss the quotient's last bit for 126 of the 256 bytes, that nearest to 1/765 for none.
    """
    return byte.to(tl.float32) * 3.0 * (1 / 765)


@triton.jit
def _letterbox_kernel(
    buffer, table, out,
    W_out, H_out,
    PLANES: tl.constexpr, FIELDS: tl.constexpr, GREY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of BLOCK outputs of one image, in each plane. Grid: (blocks, strips of rows, images).

    PLANES is 3 for planes of one channel, 1 for a plane of three channels that lie together.
    """
    image = tl.program_id(2).to(tl.int64)
    row = table + image * FIELDS
    picture = buffer + tl.load(row)
    H, W = tl.load(row + 1).to(tl.int32), tl.load(row + 2).to(tl.int32)
    w, h = tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    x0, y0 = tl.load(row + 5).to(tl.int32), tl.load(row + 6).to(tl.int32)

    TOGETHER: tl.constexpr = 3 // PLANES
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = at // TOGETHER - x0
    columns = (x >= 0) & (x < w)
    left, right, dx = _taps(x, W, w)
    left, right = left * 3 + at % TOGETHER, right * 3 + at % TOGETHER
    first = tl.program_id(1) * ROWS
    for line in range(first, tl.minimum(first + ROWS, H_out)):
        y = line - y0
        upper, lower, dy = _taps(y, H, h)
        top, bottom = picture + upper.to(tl.int64) * W * 3, picture + lower.to(tl.int64) * W * 3
        for plane in tl.static_range(PLANES):
            value = tl.full((BLOCK,), GREY, tl.float32)
            if (y >= 0) & (y < h):  # a quarter of the rows of a 4:3 picture is grey: nothing to compute
                a = _unit(tl.load(top + left + plane, columns, other=0))
                b = _unit(tl.load(top + right + plane, columns, other=0))
                c = _unit(tl.load(bottom + left + plane, columns, other=0))
                d = _unit(tl.load(bottom + right + plane, columns, other=0))
                # first along the rows, then between them
                inside = (1 - dy) * ((1 - dx) * a + dx * b) + dy * ((1 - dx) * c + dx * d)
                value = tl.where(columns, inside, GREY)
            start = ((image * PLANES + plane) * H_out + line) * W_out * TOGETHER
            tl.store(out + start + at, value.to(out.dtype.element_ty), at < W_out * TOGETHER)


def letterbox(
    buffer: Tensor,
    table: Tensor,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    grey: float,
) -> Tensor:
    """The input (B, 3, height, width) for pictures in `buffer`, which the rows of `table` describe."""
    B, C, H, W = shape
    strides = (1, W * C, C) if channels_last else (H * W, W, 1)
    out = empty_strided(shape, (C * H * W, *strides), buffer, dtype)
    planes = 1 if channels_last else C
    launch(
        _letterbox_kernel,
        (triton.cdiv(W * C // planes, BLOCK), triton.cdiv(H, ROWS), B),
        buffer, table, out, W, H, warps=WARPS,
        PLANES=planes, FIELDS=table.shape[1], GREY=grey, ROWS=ROWS, BLOCK=BLOCK,
    )  # fmt: skip
    return out

"""Training pictures of a whole batch in one launch: placed, recoloured and mirrored (SPEC 14 and 15).

Bytes: an output element is written once, in runs of a block; a byte of the picture is read by the two or
three outputs between which it lies, next to each other in a program, so it comes from memory once and then
from the cache. A picture of 500x375 pixels on an input of 416x416 in half precision is .56 MB read and
1.04 MB written.

Arithmetic takes longer than the bytes do, so there is little of it: some 130 instructions a pixel on sm_90,
a tenth of them loads. A lane keeps its column: where that lies in the picture, and the shares of the two
pixels there, are computed once for ROWS outputs; what belongs to a row is a scalar of the program. Samples
stay in levels of 255, which only the last factor takes to [0, 1]. Nothing is divided to change a colour.
Loads need no masks: places beyond the picture are moved to its edge, where their share is zero.

Recolouring needs the three channels of a pixel in one lane. Where they lie together in memory too, they are
handed over inside the program (`tl.gather`) to lanes that are neighbours in the output: all stores are
contiguous in both layouts, instead of three that each write a third of the same lines.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import empty_strided, launch

BLOCK = 128  # pixels of a row
ROWS = 16  # rows a program
WARPS = 2  # 8 outputs a thread and row where channels lie together: 16-byte stores in half precision


@triton.jit
def _taps(i, scale, n):
    """Pixel `i` lies at i * scale among `n`: the pixel before it, the step to the next, their shares."""
    position = i.to(tl.float32) * scale
    low = tl.minimum(tl.maximum(position.to(tl.int32), 0), n - 1)
    share = position - low.to(tl.float32)
    inside = low + 1 < n  # behind the last one everything is zero
    return low, tl.where(inside, 1, 0), 1 - share, tl.where(inside, share, 0.0)


@triton.jit
def _sample(top, bottom, left, right, near_x, far_x, near_y, far_y):
    """One channel between four pixels, in levels: first along the rows, then between them."""
    a = tl.load(top + left).to(tl.float32) * near_x
    b = tl.load(bottom + left).to(tl.float32) * near_x
    a = tl.fma(tl.load(top + right).to(tl.float32), far_x, a)
    b = tl.fma(tl.load(bottom + right).to(tl.float32), far_x, b)
    return tl.fma(b, far_y, a * near_y)


@triton.jit
def _channel(most, fall, saturation, exposure):
    return tl.minimum(tl.maximum(tl.fma(-saturation, fall, most) * exposure, 0.0), 1.0)


@triton.jit
def _distort(r, g, b, turn, saturation, exposure):
    """Change colours as by way of HSV, without a division, see `fast.augment._distort`."""
    most = tl.maximum(tl.maximum(r, g), b)
    spread = most - tl.minimum(tl.minimum(r, g), b)
    circle = 6.0 * spread
    hue = tl.where(
        r == most, g - b, tl.where(g == most, tl.fma(spread, 2.0, b - r), tl.fma(spread, 4.0, r - g))
    )
    hue = tl.where(hue < 0, hue + circle, hue)
    hue = tl.fma(spread, turn, hue)
    hue = tl.where(hue > circle, hue - circle, tl.where(hue < 0, hue + circle, hue))
    fall_r = tl.maximum(tl.minimum(2.0 * spread - tl.abs(tl.fma(spread, -3.0, hue)), spread), 0.0)
    fall_g = tl.maximum(tl.minimum(tl.abs(tl.fma(spread, -2.0, hue)) - spread, spread), 0.0)
    fall_b = tl.maximum(tl.minimum(tl.abs(tl.fma(spread, -4.0, hue)) - spread, spread), 0.0)
    return (
        _channel(most, fall_r, saturation, exposure),
        _channel(most, fall_g, saturation, exposure),
        _channel(most, fall_b, saturation, exposure),
    )


@triton.jit
def _augment_kernel(
    buffer, table, colour, out,
    W_out, H_out,
    TOGETHER: tl.constexpr, FIELDS: tl.constexpr, GREY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """ROWS rows of BLOCK pixels of one image. Grid: (blocks, strips of rows, images).

    TOGETHER: whether the three channels of a pixel lie together in `out`.
    """
    image = tl.program_id(2).to(tl.int64)
    row = table + image * FIELDS
    picture = buffer + tl.load(row)
    H, W = tl.load(row + 1).to(tl.int32), tl.load(row + 2).to(tl.int32)
    w, h = tl.load(row + 3).to(tl.int32), tl.load(row + 4).to(tl.int32)
    x0, y0 = tl.load(row + 5).to(tl.int32), tl.load(row + 6).to(tl.int32)
    mirror, flip_vertical, transpose = tl.load(row + 7), tl.load(row + 8), tl.load(row + 9)
    turn, saturation = tl.load(colour + image * 3) * 6.0, tl.load(colour + image * 3 + 1)
    exposure = tl.load(colour + image * 3 + 2)
    grey = tl.minimum(GREY * exposure, 1.0).to(out.dtype.element_ty)
    exposure *= 1 / 255

    # of the transposed picture, if it is
    columns, step_x = tl.where(transpose != 0, H, W), tl.where(transpose != 0, W * 3, 3)
    rows, step_y = tl.where(transpose != 0, W, H), tl.where(transpose != 0, 3, W * 3)

    scale_x = tl.div_rn(columns.to(tl.float32), tl.maximum(w, 1).to(tl.float32))
    scale_y = tl.div_rn(rows.to(tl.float32), tl.maximum(h, 1).to(tl.float32))

    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.where(mirror != 0, W_out - 1 - at, at) - x0
    seen = (x >= 0) & (x < w)
    low, one, near_x, far_x = _taps(x, scale_x, columns)
    left = low.to(tl.int64) * step_x
    right = left + one * step_x
    first = tl.program_id(1) * ROWS
    for line in range(first, tl.minimum(first + ROWS, H_out)):
        y = tl.where(flip_vertical != 0, H_out - 1 - line, line) - y0
        r = tl.full((BLOCK,), 0.0, out.dtype.element_ty) + grey
        g, b = r, r
        if (y >= 0) & (y < h):
            upper, down, near_y, far_y = _taps(y, scale_y, rows)
            top = picture + upper.to(tl.int64) * step_y
            bottom = top + down * step_y
            r_, g_, b_ = _distort(
                _sample(top, bottom, left, right, near_x, far_x, near_y, far_y),
                _sample(top + 1, bottom + 1, left, right, near_x, far_x, near_y, far_y),
                _sample(top + 2, bottom + 2, left, right, near_x, far_x, near_y, far_y),
                turn, saturation, exposure,
            )  # fmt: skip
            r = tl.where(seen, r_.to(r.dtype), grey)
            g = tl.where(seen, g_.to(r.dtype), grey)
            b = tl.where(seen, b_.to(r.dtype), grey)
        if TOGETHER:
            start = (image * H_out + line) * W_out * 3 + tl.program_id(0) * BLOCK * 3
            four = tl.reshape(tl.join(tl.join(r, b), tl.join(g, g)), (BLOCK * 4,))  # r g b g of each pixel
            to = tl.arange(0, BLOCK * 4)
            three = tl.gather(four, tl.minimum(to // 3 * 4 + to % 3, BLOCK * 4 - 1), 0)
            left_over = (W_out - tl.program_id(0) * BLOCK) * 3
            tl.store(out + start + to, three, (to < BLOCK * 3) & (to < left_over))
        else:
            start = (image * 3 * H_out + line) * W_out
            tl.store(out + start + at, r, at < W_out)
            tl.store(out + start + H_out * W_out + at, g, at < W_out)
            tl.store(out + start + 2 * H_out * W_out + at, b, at < W_out)


def augment(
    buffer: Tensor,
    table: Tensor,
    colour: Tensor,
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    channels_last: bool,
    grey: float,
) -> Tensor:
    """The pictures (B, 3, height, width) that the rows of `table` and `colour` make of those in `buffer`."""
    B, C, H, W = shape
    strides = (1, W * C, C) if channels_last else (H * W, W, 1)
    out = empty_strided(shape, (C * H * W, *strides), buffer, dtype)
    launch(
        _augment_kernel,
        (triton.cdiv(W, BLOCK), triton.cdiv(H, ROWS), B),
        buffer, table, colour, out, W, H, warps=WARPS,
        TOGETHER=channels_last, FIELDS=table.shape[1], GREY=grey, ROWS=ROWS, BLOCK=BLOCK,
    )  # fmt: skip
    return out

"""Convolution, bias, leaky and max pool of the first layers in one pass (SPEC 10).

Bytes: each number of a picture comes from memory once, each output goes there once. In half precision and
with 32 filters at 416 pixels that is 1.04 MB in and 2.77 MB out a picture; the map in front of the pool,
which layer by layer is written, activated and read again, has 11.1 MB.

An output depends on 4 x 4 pixels. Channels last, a row of these is a run of 12 numbers, so a tile of outputs
meets a row of theirs as a matrix of runs, and

    convolutions of the upper two pixels under the pool = sum of runs 0, 1, 2 times kernel rows 0, 1, 2
                 of the lower two                       = sum of runs 1, 2, 3 times kernel rows 0, 1, 2

A row of the kernels stands twice in its matrix: for the left pixel, and three numbers further for the right.
A run begins three numbers early. Then it starts at an even place in memory, so that two numbers are read at a
time, and has the 16 numbers that tensor cores multiply at least; where no kernel is, the matrix has zeros.
Of 96 x 64 products an output and 32 filters, 108 x 32 are wanted; all are 34 GFLOP a batch of 64.

Leaky is monotonic, so the pool comes first, in registers: a thread has all four pixels of its windows.
"""

import triton
import triton.language as tl
from torch import Tensor

from fast._launch import empty_strided, launch

COLUMNS = 16  # outputs side by side in a tile: inputs of a network are multiples of 32 pixels
BYTES = 128  # of a tile's outputs of one filter: 64 in half precision; float32 needs twice the registers
FILTERS = 32  # at most, of a program
PROGRAMS = 2048  # enough to fill a GPU; only where there are more tiles, a program gets several


@triton.jit
def _largest(a, b):
    """A max pool passes NaN on."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit(do_not_specialize=["strip"])
def _stem_kernel(
    x, weights, bias, out,
    H, W, H_out, W_out, F,
    blocks, strip,
    ODD: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FILTERS: tl.constexpr,
):  # fmt: skip
    """`strip` tiles below each other of one picture. Grid: (columns, strips, images x blocks of filters)."""
    image = (tl.program_id(2) // blocks).to(tl.int64)
    f = tl.program_id(2) % blocks * FILTERS + tl.arange(0, FILTERS)
    x += image * H * W * 3
    out += image * H_out * W_out * F

    run = tl.arange(0, 16) - 6
    side, g = tl.arange(0, 2 * FILTERS) // FILTERS, tl.arange(0, 2 * FILTERS) % FILTERS
    g += tl.program_id(2) % blocks * FILTERS
    k = (run + 3)[:, None] - 3 * side[None, :]  # place in a kernel row: three pixels of three channels
    row_0 = weights + g[None, :] * 27 + k
    used = (k >= 0) & (k < 9) & (g < F)[None, :]
    kernel_0 = tl.load(row_0, used, other=0)
    kernel_1 = tl.load(row_0 + 9, used, other=0)
    kernel_2 = tl.load(row_0 + 18, used, other=0)
    shift = tl.load(bias + f, f < F, other=0).to(tl.float32)

    place = tl.arange(0, ROWS * COLUMNS)
    px = tl.program_id(0) * COLUMNS + place % COLUMNS
    at = 6 * px[:, None] + run[None, :]  # in a row of the picture
    inside = (at >= 0) & (at < 3 * W)
    first = tl.program_id(1) * strip * ROWS
    # not pipelined: other programs hide the loads, and buffers would take 30 per cent more instructions
    for top in tl.range(first, tl.minimum(first + strip * ROWS, H_out), ROWS, num_stages=1):
        py = top + place // COLUMNS
        y = (2 * py - 1)[:, None]
        runs = x + y * (3 * W) + at
        run_0 = tl.load(runs, inside & (y >= 0) & (y < H), other=0)
        run_1 = tl.load(runs + 3 * W, inside & (y + 1 < H), other=0)
        run_2 = tl.load(runs + 6 * W, inside & (y + 2 < H), other=0)
        run_3 = tl.load(runs + 9 * W, inside & (y + 3 < H), other=0)

        upper = tl.dot(run_0, kernel_0, input_precision="ieee")
        upper = tl.dot(run_1, kernel_1, upper, input_precision="ieee")
        upper = tl.dot(run_2, kernel_2, upper, input_precision="ieee")
        lower = tl.dot(run_1, kernel_0, input_precision="ieee")
        lower = tl.dot(run_2, kernel_1, lower, input_precision="ieee")
        lower = tl.dot(run_3, kernel_2, lower, input_precision="ieee")
        if ODD:  # the last windows reach over the edge
            lower = tl.where((2 * py + 1 < H)[:, None], lower, float("-inf"))
        left, right = _largest(upper, lower).reshape(ROWS * COLUMNS, 2, FILTERS).permute(0, 2, 1).split()
        if ODD:
            right = tl.where((2 * px + 1 < W)[:, None], right, float("-inf"))

        value = _largest(left, right) + shift[None, :]
        value = tl.maximum(value, 0.1 * value)
        to = out + (py * W_out + px)[:, None] * F + f[None, :]
        exists = ((py < H_out) & (px < W_out))[:, None] & (f < F)[None, :]
        tl.store(to, value.to(out.dtype.element_ty), exists)


def stem(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Run the stem on `x` (B, 3, H, W), channels last as the weights are (F, 3, 3, 3)."""
    (B, _, H, W), F = x.shape, len(weights)
    H_out, W_out = (H + 1) // 2, (W + 1) // 2
    out = empty_strided((B, F, H_out, W_out), (H_out * W_out * F, 1, W_out * F, F), x)
    rows = BYTES // (COLUMNS * x.element_size())
    filters = min(FILTERS, max(8, triton.next_power_of_2(F)))
    blocks, across, down = triton.cdiv(F, filters), triton.cdiv(W_out, COLUMNS), triton.cdiv(H_out, rows)
    strip = max(1, min(8, across * down * B * blocks // PROGRAMS))
    launch(
        _stem_kernel,
        (across, triton.cdiv(down, strip), B * blocks),
        x, weights, bias, out, H, W, H_out, W_out, F, blocks, strip,
        ODD=bool(H % 2 or W % 2), ROWS=rows, COLUMNS=COLUMNS, FILTERS=filters,
    )  # fmt: skip
    return out

"""Overlap of boxes inside a kernel (SPEC 3.1)."""

import triton
import triton.language as tl

ALL = tl.constexpr(tl.PropagateNan.ALL)


@triton.jit
def iou(ax, ay, aw, ah, bx, by, bw, bh):
    """IoU of boxes (centre and size) that broadcast; 0/0 and NaN coordinates give NaN, as in the oracle.

    Divided as IEEE 754 says, since a threshold follows: the default division of a GPU is approximate.
    """
    right, left = ax + aw / 2, ax - aw / 2
    bottom, top = ay + ah / 2, ay - ah / 2
    width = tl.minimum(right, bx + bw / 2, ALL) - tl.maximum(left, bx - bw / 2, ALL)
    height = tl.minimum(bottom, by + bh / 2, ALL) - tl.maximum(top, by - bh / 2, ALL)
    intersection = tl.maximum(width, 0.0, ALL) * tl.maximum(height, 0.0, ALL)
    return tl.div_rn(intersection, aw * ah + bw * bh - intersection)

"""Reorg: trade resolution for channels, in the order of Darknet or of the textbook (SPEC 9)."""

import numpy as np

from reference.layers import ReorgOrder


def reorg(x: np.ndarray, stride: int = 2, order: ReorgOrder = "darknet", reverse: bool = False) -> np.ndarray:
    """Turn s x s neighbouring pixels into s * s channels; s is the stride.

    Space to depth cuts every channel into blocks of s x s pixels, and output channel (oy * s + ox) * C + c
    holds pixel (oy, ox) of every block of channel c. Darknet does exactly that, but reads its input, laid
    out as (C, H, W), as if it were (C / s^2, H s, W s), and its output likewise. So its cells do NOT hold
    the pixels that lie at their place; networks learn this scattered order and need it.

    Parameters
    ----------
    x : ndarray, (B, C, H, W)
        Input.
    stride : int
        Divides H and W; the order "darknet" needs C divisible by s^2 too, as does `reverse`.
    order : {"darknet", "space_to_depth"}
        See above.
    reverse : bool
        Depth to space instead, the inverse of the order "space_to_depth". It is what Darknet's reverse=1
        does as well, although that does NOT undo its own forward order; `reorg_grad` does.

    Returns
    -------
    ndarray
        (B, C s^2, H / s, W / s), or (B, C / s^2, H s, W s) in reverse.

    Raises
    ------
    ValueError
        If `order` is unknown or the shape is not divisible as said above.
    """
    b, c, h, w = x.shape
    s = stride
    if order not in ("darknet", "space_to_depth"):
        raise ValueError(f"order {order!r} is not one of darknet, space_to_depth")
    if reverse:
        if c % (s * s):
            raise ValueError(f"{c} channels are not divisible by {s * s}")
        blocks = x.reshape(b, s, s, c // (s * s), h, w)
        return blocks.transpose(0, 3, 4, 1, 5, 2).reshape(b, c // (s * s), h * s, w * s)
    if h % s or w % s or (order == "darknet" and c % (s * s)):
        raise ValueError(f"{w}x{h}x{c} is not divisible by stride {s} (channels by {s * s})")
    read_as = (c, h // s, s, w // s, s) if order == "space_to_depth" else (c // (s * s), h, s, w, s)
    return x.reshape(b, *read_as).transpose(0, 3, 5, 1, 2, 4).reshape(b, c * s * s, h // s, w // s)


def reorg_grad(
    dout: np.ndarray, stride: int = 2, order: ReorgOrder = "darknet", reverse: bool = False
) -> np.ndarray:
    """Send every dL/d(output) back to the place it came from: the inverse permutation of `reorg`.

    Parameters
    ----------
    dout : ndarray
        Shaped like the output of ``reorg(x, stride, order, reverse)``.
    stride, order, reverse
        The arguments of that call.

    Returns
    -------
    ndarray
        dL/dx, shaped like x.

    Raises
    ------
    ValueError
        As `reorg`.
    """
    if reverse:
        return reorg(dout, stride, "space_to_depth")
    if order == "space_to_depth":
        return reorg(dout, stride, reverse=True)
    b, c, h, w = dout.shape
    shape = (b, c // (stride * stride), h * stride, w * stride)
    return reorg(dout.reshape(shape), stride, reverse=True).reshape(shape)

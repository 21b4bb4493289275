"""Trade resolution for channels (SPEC 9)."""

import torch
from torch import Tensor

from fast._launch import layout, operator, use_triton
from reference.layers import ReorgOrder

#: what the kernel takes elements of so many bytes for: a permutation moves bits, whatever they mean
BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def reorg(x: Tensor, stride: int = 2, order: ReorgOrder = "darknet", reverse: bool = False) -> Tensor:
    """Darknet's reorg layer, or the textbook space-to-depth.

    Parameters
    ----------
    x : Tensor (B, C, H, W)
        Feature map, any dtype and strides.
    stride : int
        Side of the blocks.
    order : {"darknet", "space_to_depth"}
        "darknet" scatters values as the original does (its trained weights need that); "space_to_depth"
        puts the block of an output cell into that cell, channels ordered offset-major.
    reverse : bool
        The inverse of "space_to_depth": (B, C, H, W) -> (B, C / stride^2, H * stride, W * stride).

    Returns
    -------
    Tensor (B, C * stride^2, H / stride, W / stride)
        For ``reverse=False``. Laid out like `x`: channels_last if `x` is.

    Raises
    ------
    ValueError
        If `order` is unknown or a size is not divisible.
    """
    _, C, H, W = x.shape
    s = stride
    if order not in ("darknet", "space_to_depth"):
        raise ValueError(f"order {order!r} is not one of darknet, space_to_depth")
    if reverse and C % (s * s):
        raise ValueError(f"reorg: {C} channels are not divisible by stride^2 = {s * s}")
    if not reverse and (H % s or W % s or (order == "darknet" and C % (s * s))):
        raise ValueError(f"reorg: {W}x{H}x{C} is not divisible by stride {s} (channels by {s * s})")
    # the inverse map is the same in both orders
    return _reorg(x, s, order == "darknet" and not reverse, reverse)


def reorg_grad(dout: Tensor, stride: int = 2, order: ReorgOrder = "darknet", reverse: bool = False) -> Tensor:
    """Send every dL/d(output) back to the place it came from: the inverse permutation of `reorg`.

    Parameters
    ----------
    dout : Tensor
        Shaped like the output of ``reorg(x, stride, order, reverse)``.
    stride, order, reverse
        The arguments of that call.

    Returns
    -------
    Tensor
        dL/dx, shaped like x.
    """
    return _reorg(dout, stride, order == "darknet" and not reverse, not reverse)


def _shape(x: Tensor, s: int, inverse: bool) -> tuple[int, int, int]:
    _, C, H, W = x.shape
    return (C // (s * s), H * s, W * s) if inverse else (C * s * s, H // s, W // s)


@operator("yolov2::reorg")
def _reorg(x: Tensor, s: int, darknet: bool, inverse: bool) -> Tensor:
    """Space to depth or, `inverse`, depth to space; `darknet`: of the memory read as (C / s^2, H s, W s)."""
    shape = _shape(x, s, inverse)
    if use_triton(x) and x.element_size() in BITS:
        from fast.kernels.reorg import reorg as kernel

        return kernel(x.view(BITS[x.element_size()]), shape, s, darknet, inverse).view(x.dtype)
    B = x.shape[0]
    D, H, W = shape if inverse else x.shape[1:]  # the side where the blocks are
    if darknet:
        D, H, W = D // (s * s), H * s, W * s
    if inverse:
        moved = x.reshape(B, s, s, D, H // s, W // s).permute(0, 3, 4, 1, 5, 2)
    else:
        moved = x.reshape(B, D, H // s, s, W // s, s).permute(0, 3, 5, 1, 2, 4)
    out = moved.reshape(B, *shape).contiguous(memory_format=layout(x))
    # the result of an operator shares no memory with its input; where nothing moves, reshaping does
    return out.clone() if out.data_ptr() == x.data_ptr() else out


@_reorg.register_fake
def _(x, s, darknet, inverse):
    return x.new_empty((x.shape[0], *_shape(x, s, inverse))).contiguous(memory_format=layout(x))


def _setup(ctx, inputs, output):
    _, ctx.s, ctx.darknet, ctx.inverse = inputs


def _backward(ctx, grad):
    return _reorg(grad, ctx.s, ctx.darknet, not ctx.inverse), None, None, None


_reorg.register_autograd(_backward, setup_context=_setup)

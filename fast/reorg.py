"""Trade resolution for channels (SPEC 9)."""

from torch import Tensor

from reference.layers import ReorgOrder


def reorg(x: Tensor, stride: int = 2, order: ReorgOrder = "darknet", reverse: bool = False) -> Tensor:
    """Darknet's reorg layer, or the textbook space-to-depth.

    Parameters
    ----------
    x : Tensor (B, C, H, W)
        Feature map, any dtype.
    stride : int
        Side of the blocks.
    order : {"darknet", "space_to_depth"}
        "darknet" scatters values as the original does (its trained weights need that); "space_to_depth"
        puts the block of an output cell into that cell, channels ordered offset-major.
    reverse : bool
        The inverse map: (B, C, H, W) -> (B, C / stride^2, H * stride, W * stride).

    Returns
    -------
    Tensor (B, C * stride^2, H / stride, W / stride)
        For ``reverse=False``.

    Raises
    ------
    ValueError
        If a size is not divisible.
    """
    B, C, H, W = x.shape
    s = stride
    if reverse:
        if C % (s * s):
            raise ValueError(f"reorg: {C} channels are not divisible by stride^2 = {s * s}")
        D = C // (s * s)
        blocks = x.reshape(B, s, s, D, H, W).permute(0, 3, 4, 1, 5, 2)  # to (B, D, H, s, W, s)
        # both orders are the same map on memory, read in different shapes
        return blocks.reshape(B, D, H * s, W * s)
    if H % s or W % s or (order == "darknet" and C % (s * s)):
        raise ValueError(f"reorg: {W}x{H}x{C} is not divisible by stride {s} (channels by {s * s})")
    if order == "darknet":
        blocks = x.reshape(B, C // (s * s), H, s, W, s).permute(0, 3, 5, 1, 2, 4)
    else:
        blocks = x.reshape(B, C, H // s, s, W // s, s).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(B, C * s * s, H // s, W // s)

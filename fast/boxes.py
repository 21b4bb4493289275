"""Boxes and their overlap (SPEC 3.1). Every box is (x, y, w, h): centre and size."""

import torch
from torch import Tensor


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size (..., 4) to left, top, right, bottom (..., 4), in the same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], -1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Left, top, right, bottom (..., 4) to centre and size (..., 4), in the same unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], -1)


def box_iou_broadcast(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 4) and (..., 4) whose leading dimensions broadcast; 0/0 is NaN, as in C."""
    ax, ay, aw, ah = a.unbind(-1)
    bx, by, bw, bh = b.unbind(-1)
    width = torch.minimum(ax + aw / 2, bx + bw / 2) - torch.maximum(ax - aw / 2, bx - bw / 2)
    height = torch.minimum(ay + ah / 2, by + bh / 2) - torch.maximum(ay - ah / 2, by - bh / 2)
    intersection = width.clamp_(min=0).mul_(height.clamp_(min=0))
    union = (aw * ah + bw * bh).sub_(intersection)
    return intersection.div_(union)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair.

    Parameters
    ----------
    a : Tensor (N, 4)
        Boxes (x, y, w, h) in any unit.
    b : Tensor (M, 4)
        Boxes in the same unit.

    Returns
    -------
    Tensor (N, M)
        No epsilon anywhere: touching boxes give 0, two empty boxes NaN.
    """
    return box_iou_broadcast(a[:, None], b[None])

"""Which truth each prediction answers for (SPEC 3.2): vectorised, no loop over images, cells or truths."""

from typing import NamedTuple

import torch
from torch import Tensor

from fast.boxes import box_iou_broadcast
from fast.decode import decode_boxes, split_head
from reference.region import Region


class Assignment(NamedTuple):
    """B images, A anchors, H x W cells."""

    index: Tensor  # type: ignore[assignment]  # (B, A, H, W) int32, row of the responsible truth, -1 for none
    ignore: Tensor  # (B, A, H, W) bool, best IoU with any truth exceeds the ignore threshold


class Matches(NamedTuple):
    """The assignment seen from the truths. B images, T truths."""

    valid: Tensor  # (B, T) bool, the row is a truth (before the end of the list)
    slot: Tensor  # (B, T) int64, a*H*W + row*W + col of the chosen prediction
    iou: Tensor  # (B, T), overlap of the chosen prediction with the truth
    wins: Tensor  # (B, T) bool, no later truth of the list chose the same slot


def list_mask(truth: Tensor) -> Tensor:
    """True (B, T) for the rows before the first one whose x is 0, which ends the list (SPEC 2)."""
    return (truth[..., 0] != 0).cumprod(1).bool()


def match(boxes: Tensor, truth: Tensor, valid: Tensor, region: Region) -> tuple[Assignment, Matches]:
    """Assign truths (B, T, 5) to decoded boxes (B, A, H, W, 4); rows that are not `valid` are left out."""
    B, A, H, W, _ = boxes.shape
    T = truth.shape[1]
    device = boxes.device
    flat = boxes.flatten(1, 3)  # (B, A*H*W, 4)
    truth_box = truth[..., :4]

    # B.3: the mask is (B, A*H*W, T) wide for a moment; NaN (two empty boxes) compares false
    overlap = box_iou_broadcast(flat[:, :, None], truth_box[:, None])
    ignore = ((overlap > region.ignore_threshold) & valid[:, None]).any(2).view(B, A, H, W)

    # C.1, C.2: the cell holds the centre, the anchor fits the shape best, the first one on a tie
    size = boxes.new_tensor([W, H])
    col, row = (truth_box[..., :2] * size).where(valid[..., None], 0).long().unbind(-1)
    if region.bias_match:
        shapes = (boxes.new_tensor(region.anchors) / size).expand(B, T, A, 2)
    else:
        image = torch.arange(B, device=device)[:, None]
        shapes = boxes[image, :, row, col, 2:]
    centred = torch.cat([torch.zeros_like(shapes), shapes], -1)
    wanted = torch.cat([torch.zeros_like(truth_box[..., 2:]), truth_box[..., 2:]], -1)
    anchor = box_iou_broadcast(centred, wanted[:, :, None]).nan_to_num(0).argmax(2)
    slot = (anchor * H + row) * W + col  # (B, T)

    # "the last truth of the list wins a slot" is a maximum over rows, so the order of writes is irrelevant
    rows = torch.arange(T, device=device).where(valid, -1)
    index = torch.full((B, A * H * W), -1, device=device)
    index.scatter_reduce_(1, slot, rows, "amax")
    chosen = flat.gather(1, slot[..., None].expand(B, T, 4))
    matches = Matches(
        valid=valid,
        slot=slot,
        iou=box_iou_broadcast(chosen, truth_box),
        wins=valid & (index.gather(1, slot) == rows),
    )
    return Assignment(index.int().view(B, A, H, W), ignore), matches


@torch.no_grad()
def assign_targets(pred: Tensor, truth: Tensor, region: Region) -> Assignment:
    """Assign truths to predictions as Darknet's region layer does.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions.
    truth : Tensor (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list.
    region : Region
        Settings of the head.

    Returns
    -------
    Assignment
        Row of the responsible truth per prediction (-1 none), and the predictions that overlap some truth
        by more than ``region.ignore_threshold``. A classification-only image of a tree has neither.

    Raises
    ------
    ValueError
        If shapes do not fit.
    """
    boxes = decode_boxes(split_head(pred, region), region)
    valid = list_mask(truth)
    if region.tree is not None:
        valid &= ~((truth[..., 0] > 100000) & (truth[..., 1] > 100000) & valid).any(1, keepdim=True)
    return match(boxes, truth.to(boxes.dtype), valid, region)[0]

"""Greedy non-maximum suppression (SPEC 8.2)."""

import torch
from torch import Tensor

from fast.boxes import box_iou


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, groups: Tensor | None = None) -> Tensor:
    """Keep the best boxes, dropping each that overlaps a better kept one by more than `iou_threshold`.

    Parameters
    ----------
    boxes : Tensor (N, 4)
        x, y, w, h in any unit.
    scores : Tensor (N,)
        Higher is better; of equal scores the lower index comes first.
    iou_threshold : float
        Compared strictly: an IoU equal to it survives.
    groups : Tensor (N,), optional
        Boxes of different groups (classes) never suppress each other.

    Returns
    -------
    Tensor (K,) int64
        Indices of the kept boxes in descending score order.

    Notes
    -----
    With boxes sorted by score, greedy NMS is the one solution of ``keep[j] = no i < j with keep[i] and
    overlap[i, j]``. Iterating that equation from "keep everything" settles at least one more rank a round,
    and in practice the longest chain of suppressions: two to six rounds instead of a loop over boxes.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    overlap = (box_iou(boxes, boxes) > iou_threshold).triu_(1)
    if groups is not None:
        groups = groups[order]
        overlap &= groups[:, None] == groups
    keep = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    while True:
        settled = ~(overlap & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return order[keep]
        keep = settled

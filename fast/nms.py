"""Greedy non-maximum suppression (SPEC 8.2)."""

import torch
from torch import Tensor

from fast.boxes import box_iou


def greedy_keep(overlap: Tensor) -> Tensor:
    """Which boxes survive, given who overlaps whom.

    Parameters
    ----------
    overlap : Tensor (N, N) bool
        ``overlap[i, j]``: box i, if kept, suppresses box j. Boxes are in descending score order; only the
        part above the diagonal is read.

    Returns
    -------
    Tensor (N,) bool

    Notes
    -----
    Greedy suppression is the one solution of ``keep[j] = no i < j with keep[i] and overlap[i, j]``.
    Iterating that equation from "keep everything" settles at least one more rank a round, and in practice
    ends after the longest chain of suppressions: a few rounds of whole-matrix work, no loop over boxes.
    """
    overlap = overlap.triu(1)
    keep = torch.ones(len(overlap), dtype=torch.bool, device=overlap.device)
    while True:
        settled = ~(overlap & keep[:, None]).any(0)
        if torch.equal(settled, keep):
            return keep
        keep = settled


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best boxes, dropping each that overlaps a better kept one by more than `iou_threshold`.

    Parameters
    ----------
    boxes : Tensor (N, 4)
        x, y, w, h in any unit.
    scores : Tensor (N,)
        Higher is better; of equal scores the lower index comes first.
    iou_threshold : float
        Compared strictly: an IoU equal to it survives.

    Returns
    -------
    Tensor (K,) int64
        Indices of the kept boxes in descending score order.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes = boxes[order]
    return order[greedy_keep(box_iou(boxes, boxes) > iou_threshold)]

"""Greedy non-maximum suppression (SPEC 8.2)."""

from typing import NamedTuple

import numpy as np

from reference.boxes import box_iou_broadcast


class Survivors(NamedTuple):
    """Darknet's detections after suppression, in the order its sorting leaves them."""

    order: np.ndarray  # (N,) int64, original row of each row below
    objectness: np.ndarray  # (N,) zeroed where suppressed as a whole
    probs: np.ndarray  # (N, C) zeroed where suppressed


def nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float) -> np.ndarray:
    """Keep the best box, drop what overlaps it by more than the threshold, and so on.

    Parameters
    ----------
    boxes : ndarray (N, 4)
        cxcywh, any unit.
    scores : ndarray (N,)
        The order of preference; the lower index wins a tie.
    iou_threshold : float
        Exactly this IoU still survives.

    Returns
    -------
    ndarray (K,) int64
        Kept rows, best first.
    """
    keep: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        if not (box_iou_broadcast(boxes[i], boxes[keep]) > iou_threshold).any():
            keep.append(i)
    return np.array(keep, dtype=np.int64)


def _empty_last(objectness: np.ndarray) -> tuple[np.ndarray, int]:
    """Order that swaps rows of objectness 0 to the back as Darknet does, and how many rows stay in front."""
    order = np.arange(len(objectness))
    i, last = 0, len(order) - 1
    while i <= last:
        if objectness[order[i]] == 0:
            order[[i, last]] = order[[last, i]]
            last -= 1
        else:
            i += 1
    return order, last + 1


def nms_per_class(
    boxes: np.ndarray, objectness: np.ndarray, probs: np.ndarray, iou_threshold: float
) -> Survivors:
    """Suppression of every class on its own, Darknet's choice for testing.

    The rows are really reordered and each class starts from the order the one before left, which decides
    ties.

    Parameters
    ----------
    boxes : ndarray (N, 4)
        cxcywh, any unit.
    objectness : ndarray (N,)
        Rows with 0 take no part.
    probs : ndarray (N, C)
        Scores.
    iou_threshold : float
        Exactly this IoU still survives.

    Returns
    -------
    Survivors
    """
    probs = probs.copy()
    order, count = _empty_last(objectness)
    for c in range(probs.shape[1]):
        front = order[:count]
        order[:count] = front[np.argsort(-probs[front, c], kind="stable")]
        for position, i in enumerate(order[:count]):
            if probs[i, c] != 0:
                later = order[position + 1 : count]
                probs[later[box_iou_broadcast(boxes[i], boxes[later]) > iou_threshold], c] = 0
    return Survivors(order, objectness[order], probs[order])


def nms_objectness(
    boxes: np.ndarray, objectness: np.ndarray, probs: np.ndarray, iou_threshold: float
) -> Survivors:
    """Suppression of whole boxes by objectness, Darknet's choice for recall and video; as `nms_per_class`."""
    objectness, probs = objectness.copy(), probs.copy()
    order, count = _empty_last(objectness)
    front = order[:count]
    order[:count] = front[np.argsort(-objectness[front], kind="stable")]
    for position, i in enumerate(order[:count]):
        if objectness[i] != 0:
            later = order[position + 1 : count]
            dropped = later[box_iou_broadcast(boxes[i], boxes[later]) > iou_threshold]
            objectness[dropped], probs[dropped] = 0, 0
    return Survivors(order, objectness[order], probs[order])

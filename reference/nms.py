"""Greedy non-maximum suppression (SPEC 8.2)."""

from typing import NamedTuple

import numpy as np

from reference.boxes import box_iou_broadcast


class Survivors(NamedTuple):
    """Darknet's detections after suppression, in the order its sorting leaves them."""

    order: np.ndarray  # (N,) int64, original row of each row below
    objectness: np.ndarray  # (N,) zeroed where suppressed as a whole
    probs: np.ndarray  # (N, C) zeroed where suppressed


class Kept(NamedTuple):
    """Surviving boxes of every image, best first; rows past `count` are -1."""

    index: np.ndarray  # type: ignore[assignment]  # (B, max_det) int64 rows of the input; hides tuple.index
    count: np.ndarray  # type: ignore[assignment]  # (B,) int64; hides tuple.count


class KeptLabels(NamedTuple):
    """Surviving (box, class) pairs of every image, best first; rows past `count` are -1 and score 0."""

    index: np.ndarray  # type: ignore[assignment]  # (B, max_det) int64 rows of the input; hides tuple.index
    classes: np.ndarray  # (B, max_det) int64
    scores: np.ndarray  # (B, max_det)
    count: np.ndarray  # type: ignore[assignment]  # (B,) int64; hides tuple.count


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


def _nms_by_group(boxes: np.ndarray, scores: np.ndarray, groups: np.ndarray, threshold: float) -> np.ndarray:
    """`nms` within every group on its own, (K,) rows of all groups together, best first."""
    keep: list[int] = []
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        keep.extend(rows[nms(boxes[rows], scores[rows], threshold)])
    found = np.array(sorted(keep), np.int64)
    return found[np.argsort(-scores[found], kind="stable")]


def batched_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou_threshold: float,
    max_det: int,
    classes: np.ndarray | None = None,
    conf: float = 0.0,
) -> Kept:
    """Suppress the boxes of every image of a batch.

    Parameters
    ----------
    boxes : ndarray (B, N, 4)
        cxcywh, any unit.
    scores : ndarray (B, N)
        The order of preference; the lower index wins a tie.
    iou_threshold : float
        Exactly this IoU still survives.
    max_det : int
        Keep so many of an image's boxes.
    classes : ndarray (B, N) int, optional
        Boxes suppress only boxes of their own class.
    conf : float
        Rows that do not score above this, strictly, take no part.

    Returns
    -------
    Kept
    """
    groups = np.zeros(scores.shape, np.int64) if classes is None else classes
    pairs = multi_label_nms(boxes, scores[..., None], iou_threshold, max_det, conf, groups=groups)
    return Kept(pairs.index, pairs.count)


def multi_label_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou_threshold: float,
    max_det: int,
    conf: float = 0.0,
    class_agnostic: bool = False,
    groups: np.ndarray | None = None,
) -> KeptLabels:
    """Suppress where each box has a score for every class.

    Parameters
    ----------
    boxes : ndarray (B, N, 4)
        cxcywh, any unit.
    scores : ndarray (B, N, C)
        Of every class of every box; of equal ones the lower box, then the lower class comes first.
    iou_threshold, max_det, conf
        As for `batched_nms`; `max_det` counts pairs of box and class.
    class_agnostic : bool
        Suppress across classes; otherwise classes do not interact.
    groups : ndarray (B, N) int, optional
        Suppress within these groups of boxes instead.

    Returns
    -------
    KeptLabels
    """
    B = len(boxes)
    found = KeptLabels(
        np.full((B, max_det), -1, np.int64),
        np.full((B, max_det), -1, np.int64),
        np.zeros((B, max_det), scores.dtype),
        np.zeros(B, np.int64),
    )
    for image in range(B):
        location, label = np.nonzero(scores[image] > conf)  # by location, then by class
        score = scores[image, location, label]
        if groups is not None:
            group = groups[image, location]
        else:
            group = np.zeros_like(label) if class_agnostic else label
        keep = _nms_by_group(boxes[image, location], score, group, iou_threshold)[:max_det]
        n = len(keep)
        found.index[image, :n], found.classes[image, :n] = location[keep], label[keep]
        found.scores[image, :n], found.count[image] = score[keep], n
    return found


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

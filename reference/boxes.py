"""Boxes and how much they overlap (SPEC 3.1). A box is x, y, w, h with (x, y) its centre: "cxcywh"."""

import numpy as np


def box_cxcywh_to_xyxy(boxes: np.ndarray) -> np.ndarray:
    """Centre and size to left, top, right, bottom; (..., 4) to (..., 4), any unit."""
    centre, size = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([centre - size / 2, centre + size / 2], axis=-1)


def box_xyxy_to_cxcywh(boxes: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom to centre and size; (..., 4) to (..., 4), any unit."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return np.concatenate([(low + high) / 2, high - low], axis=-1)


def box_intersection(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that `a` and `b` share: (..., 4) and (..., 4) cxcywh, broadcast against each other, to (...)."""
    a, b = box_cxcywh_to_xyxy(a), box_cxcywh_to_xyxy(b)
    overlap = np.maximum(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0)
    return overlap[..., 0] * overlap[..., 1]


def box_union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Area that `a` and `b` cover together: (..., 4) and (..., 4) cxcywh, broadcast, to (...)."""
    return a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - box_intersection(a, b)


def box_iou_broadcast(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes broadcast against each other.

    Parameters
    ----------
    a, b : ndarray (..., 4)
        Boxes cxcywh, any unit, leading dimensions that broadcast.

    Returns
    -------
    ndarray (...)
        In 0..1. No epsilon: two boxes of no area give 0/0 = NaN, which compares false (SPEC 3.1).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return box_intersection(a, b) / box_union(a, b)


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of `a` (N, 4) with every box of `b` (M, 4), cxcywh: (N, M)."""
    return box_iou_broadcast(a[:, None], b[None])


def box_rmse(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Euclidean distance of boxes as points in four dimensions; (..., 4) and (..., 4), broadcast, to (...).

    The name is Darknet's (SPEC 11), the unit that of the boxes.
    """
    return np.sqrt(((a - b) ** 2).sum(axis=-1))

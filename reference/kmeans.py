"""Anchors by k-means over box shapes (paper 2, sec. 2, "Dimension Clusters").

Euclidean k-means minimises an error that large boxes dominate. What an anchor is for is overlap, so the
distance here is ``1 - IoU`` of two boxes that share their centre.
"""

from collections.abc import Callable

import numpy as np

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
Representative = Callable[[np.ndarray], np.ndarray]


def shape_iou(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes that share their centre.

    Parameters
    ----------
    wh : (N, 2) float
        Widths and heights.
    anchors : (K, 2) float
        Widths and heights in the same unit.

    Returns
    -------
    (N, K) float
    """
    w, h = np.ascontiguousarray(wh.T)  # boxes last in memory: five times as fast as K numbers a row
    aw, ah = anchors[:, :1], anchors[:, 1:]
    intersection = np.minimum(w, aw) * np.minimum(h, ah)
    return (intersection / (w * h + aw * ah - intersection)).T


def mean_best_iou(wh: np.ndarray, anchors: np.ndarray) -> float:
    """Mean over boxes of the IoU with the anchor that fits best: the measure of paper 2, table 1.

    Arguments as for `shape_iou`.
    """
    return float(shape_iou(wh, anchors).max(axis=1).mean())


def recall_at(wh: np.ndarray, anchors: np.ndarray, threshold: float = 0.5) -> float:
    """Share of the boxes whose best anchor has an IoU of at least `threshold`; see `mean_best_iou`."""
    return float((shape_iou(wh, anchors).max(axis=1) >= threshold).mean())


def iou_kmeans(
    wh: np.ndarray, k: int, seed: int = 0, iterations: int = 100, restarts: int = 5
) -> tuple[np.ndarray, float]:
    """Anchors of greatest mean IoU with the boxes: k-means with the distance ``1 - IoU``.

    The paper does not say how a cluster is represented. The mean of its widths and heights comes within
    0.002 of the paper's numbers; the median is as simple and fits better, so it is the rule here. On the
    non-difficult boxes of VOC07+12 trainval, letterboxed into a square:

    ============================  =====  =====
    mean IoU                      k = 5  k = 9
    ============================  =====  =====
    paper 2, table 1              0.610  0.672
    1 - IoU, mean of the cluster  0.608  0.674
    1 - IoU, median (this)        0.618  0.684
    Euclidean (`sse_kmeans`)      0.585  0.659
    ============================  =====  =====

    Parameters
    ----------
    wh : (N, 2) float
        Widths and heights of the boxes, in cells (any unit will do: the IoU has none).
    k : int
        Number of anchors.
    seed : int
        Seed of the random starts.
    iterations : int
        Most updates of one start; it ends earlier when no box changes its cluster.
    restarts : int
        Starts, of which the best is kept.

    Returns
    -------
    anchors : (k, 2) float
        In the unit and dtype of `wh`, by increasing area.
    mean_iou : float
        ``mean_best_iou(wh, anchors)``.

    Raises
    ------
    ValueError
        If a box has no area, or `k` is not between 1 and the number of different boxes.
    """
    return _kmeans(
        wh, k, seed, iterations, restarts, _iou_distance, lambda members: np.median(members, axis=0)
    )


def sse_kmeans(
    wh: np.ndarray, k: int, seed: int = 0, iterations: int = 100, restarts: int = 5
) -> tuple[np.ndarray, float]:
    """Anchors of least squared distance in (w, h), the paper's comparison. Otherwise as `iou_kmeans`."""
    return _kmeans(wh, k, seed, iterations, restarts, _squared_distance, lambda members: members.mean(axis=0))


def _iou_distance(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    return np.maximum(1 - shape_iou(wh, anchors), 0)  # the quotient can round to above 1


def _squared_distance(wh: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    w, h = np.ascontiguousarray(wh.T)
    return ((w - anchors[:, :1]) ** 2 + (h - anchors[:, 1:]) ** 2).T


def _kmeans(
    wh: np.ndarray,
    k: int,
    seed: int,
    iterations: int,
    restarts: int,
    distance: Distance,
    representative: Representative,
) -> tuple[np.ndarray, float]:
    """The start with the least mean distance, its anchors sorted by area, and their mean IoU."""
    if wh.ndim != 2 or wh.shape[1] != 2:
        raise ValueError(f"wh: shape {wh.shape} is not (N, 2)")
    if not (np.isfinite(wh) & (wh > 0)).all():
        raise ValueError("wh: every width and height must be positive and finite")
    distinct = len(np.unique(wh, axis=0))
    if not 1 <= k <= distinct:
        raise ValueError(f"k: {k} anchors from {distinct} different boxes")
    rng = np.random.default_rng(seed)
    starts = [
        _lloyd(wh, _spread_seeds(wh, k, rng, distance), iterations, distance, representative)
        for _ in range(restarts)
    ]
    anchors = min(starts, key=lambda a: distance(wh, a).min(axis=1).mean())
    anchors = anchors[np.argsort(anchors.prod(axis=1), kind="stable")]
    return anchors, mean_best_iou(wh, anchors)


def _spread_seeds(wh: np.ndarray, k: int, rng: np.random.Generator, distance: Distance) -> np.ndarray:
    """k of the boxes, each drawn with odds proportional to its distance from those before (k-means++)."""
    chosen = wh[rng.integers(len(wh), size=1)]
    for _ in range(1, k):
        # The tiny floor matters only where boxes differ by so little that every distance rounds to 0.
        odds = distance(wh, chosen).min(axis=1).astype(np.float64) + np.finfo(np.float64).tiny
        chosen = np.concatenate([chosen, wh[[rng.choice(len(wh), p=odds / odds.sum())]]])
    return chosen


def _lloyd(
    wh: np.ndarray, anchors: np.ndarray, iterations: int, distance: Distance, representative: Representative
) -> np.ndarray:
    """Assign every box to its nearest anchor, move the anchors to their clusters, until nothing changes."""
    before = None
    for _ in range(iterations):
        far = distance(wh, anchors)
        nearest = far.argmin(axis=1)
        if before is not None and np.array_equal(nearest, before):
            break
        before = nearest
        sizes = np.bincount(nearest, minlength=len(anchors))
        # Anchors that no box chose go to the boxes that are served worst.
        empty = (sizes == 0).sum()
        worst = iter(wh[np.argsort(-far.min(axis=1), kind="stable")[:empty]] if empty else ())
        anchors = np.stack(
            [representative(wh[nearest == j]) if size else next(worst) for j, size in enumerate(sizes)]
        )
    return anchors

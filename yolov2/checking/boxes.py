"""Boxes of a data set as the network will meet them: against its anchors and its grid."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from reference.kmeans import iou_kmeans, mean_best_iou, shape_iou
from yolov2.checking.problems import Problem
from yolov2.data.dataset import Dataset
from yolov2.letterbox import Letterbox, Mode

Anchors = tuple[tuple[float, float], ...]

SAMPLE = 20_000  # boxes that k-means is run on
SMALL = 8  # pixels of a side at the input below which a box is called small, as it is below half a cell
LARGEST_INPUT = 1024  # that is recommended
SHARE = 0.01  # of all boxes, from which on there is a hint


@dataclass(frozen=True)
class BoxFit:
    """How boxes and anchors fit.

    Parameters
    ----------
    wh : ndarray, float64 (N, 2)
        Sizes of the boxes that are trained on, in cells.
    anchors : ndarray, float64 (K, 2)
        In cells.
    imgsz, stride : int
        Side of the input and of a cell, in pixels.
    won : ndarray of int (K,)
        Boxes whose best anchor this is.
    iou : ndarray, float64 (K,)
        Their mean IoU with it; NaN where there are none.
    best_anchors : ndarray, float64 (K, 2)
        Of k-means on these boxes; fewer where there are fewer different boxes.
    lost : int
        Boxes that share picture, cell and anchor with another one: a network can learn one of them.
    """

    wh: np.ndarray
    anchors: np.ndarray
    imgsz: int
    stride: int
    won: np.ndarray
    iou: np.ndarray
    best_anchors: np.ndarray
    lost: int

    @property
    def small(self) -> np.ndarray:
        """Which boxes are small, bool (N,)."""
        return small(self.wh * self.stride, self.stride)

    def problems(self) -> Iterator[Problem]:
        """What is wrong with the anchors, and hints on the size of the input."""
        if not len(self.wh):
            return
        grid = self.imgsz / self.stride
        got, in_pixels = (mean_best_iou(self.wh, a) for a in (self.anchors, self.anchors / self.stride))
        if self.anchors.max() > grid and in_pixels > got:
            reason = f"largest {self.anchors.max():g}, the grid has {grid:g} cells; mean IoU with the boxes "
            reason += f"{got:.2f}, divided by {self.stride} it would be {in_pixels:.2f}"
            yield Problem("error", "anchors in pixels instead of cells", reason=reason)
        share = self.small.mean()
        if share >= SHARE:
            reason = f"{share:.1%} at {self.imgsz} pixels{self._advice()}"
            yield Problem("hint", "boxes below half a cell or 8 pixels", reason=reason)
        share = self.lost / len(self.wh)
        if share >= SHARE:
            reason = f"{share:.1%} at {self.imgsz} pixels; a larger --imgsz has a finer grid"
            yield Problem("hint", "boxes that share cell and anchor with another one", reason=reason)

    def _advice(self) -> str:
        for imgsz in range(self.imgsz, LARGEST_INPUT + 1, self.stride):
            if small(self.wh * self.stride * imgsz / self.imgsz, self.stride).mean() < SHARE:
                return f"; --imgsz {imgsz} leaves less than {SHARE:.0%}"
        return f"; still more than {SHARE:.0%} at {LARGEST_INPUT}"


def small(wh: np.ndarray, stride: int) -> np.ndarray:
    """Which boxes (N, 2), in pixels of the input, are below half a cell in both sides or 8 pixels in one."""
    return (wh.max(axis=1) < stride / 2) | (wh.min(axis=1) < SMALL)


def placed(dataset: Dataset, imgsz: int, resize: Mode) -> tuple[np.ndarray, np.ndarray]:
    """The boxes that are trained on, i.e. not difficult.

    Returns
    -------
    boxes : ndarray, float64 (N, 4)
        cxcywh, fractions of the input.
    picture : ndarray of int (N,)
        Index of the item of each.
    """
    boxes, pictures = [np.zeros((0, 4))], [np.zeros(0, int)]
    for i, item in enumerate(dataset.items):
        kept = item.boxes[~item.difficult].astype(np.float64)
        boxes.append(Letterbox(item.width, item.height, imgsz, imgsz, resize).boxes(kept))
        pictures.append(np.full(len(kept), i))
    return np.concatenate(boxes), np.concatenate(pictures)


def fit(dataset: Dataset, anchors: Anchors, imgsz: int, stride: int, resize: Mode) -> BoxFit:
    """Measure a training set against anchors.

    Parameters
    ----------
    dataset : Dataset
        Maybe without boxes.
    anchors : pairs of float
        In cells.
    imgsz, stride : int
        Side of the input and of a cell, in pixels.
    resize : {"letterbox", "stretch"}
        How pictures meet the input.
    """
    boxes, picture = placed(dataset, imgsz, resize)
    grid = imgsz // stride
    wh, shapes = boxes[:, 2:] * grid, np.array(anchors, np.float64)
    iou = shape_iou(wh, shapes)
    best = iou.argmax(axis=1)
    won = np.bincount(best, minlength=len(shapes))
    total = np.bincount(best, iou.max(axis=1, initial=0), len(shapes))
    cells = np.floor(boxes[:, :2] * grid)
    places = np.unique(np.column_stack([picture, cells, best]), axis=0)
    sample = wh
    if len(wh) > SAMPLE:
        sample = wh[np.random.default_rng(0).choice(len(wh), SAMPLE, replace=False)]
    distinct = len(np.unique(sample, axis=0))
    best_anchors = iou_kmeans(sample, min(len(shapes), distinct))[0] if distinct else np.zeros((0, 2))
    mean = np.divide(total, won, out=np.full(len(shapes), np.nan), where=won > 0)
    return BoxFit(wh, shapes, imgsz, stride, won, mean, best_anchors, len(boxes) - len(places))

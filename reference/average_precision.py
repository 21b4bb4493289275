"""Average precision: which detections are right (Pascal VOC's matching), and three ways to sum that up.

Boxes are (centre x, centre y, width, height) and overlap is `box_iou`. VOC's development kit counts a pixel
more in either direction, since its corners are pixels that belong to the box: `inclusive_xyxy_to_cxcywh`
makes of such corners the boxes whose plain overlap is the development kit's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from reference.boxes import box_intersection, box_iou_broadcast, box_xyxy_to_cxcywh

Method = Literal["voc11", "voc11_numpy", "voc_all", "coco101"]
CHUNK = 1 << 16  # detections whose overlaps are computed at a time, so that memory stays bounded


@dataclass(frozen=True)
class TruthTable:
    """The labelled boxes of all pictures, one row per box.

    Parameters
    ----------
    picture : (T,) int
        The picture each box belongs to.
    boxes : (T, 4) float
        cxcywh; the unit is free but the same as that of the detections.
    classes : (T,) int
        Class index.
    difficult : (T,) bool
        Neither finding nor missing such a box counts.
    crowd : (T,) bool, optional
        Difficult boxes around many objects (COCO's ``iscrowd``). A detection overlaps such a box by the share
        of itself that lies in it.
    area : (T,) float, optional
        What COCO sorts objects by size with, in the unit of the boxes squared: there it is the area of the
        object's outline. None is the area of the box.

    Raises
    ------
    ValueError
        If the columns differ in length, or a crowd is not difficult.
    """

    picture: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray | None = None
    area: np.ndarray | None = None

    def __post_init__(self):
        _check_columns(self)
        if self.crowd is not None and (self.crowd & ~self.difficult).any():
            raise ValueError("crowd: a crowd can be neither found nor missed, so it is also difficult")

    def where(self, rows: np.ndarray) -> "TruthTable":
        """Some of the rows."""
        crowd, area = (None if column is None else column[rows] for column in (self.crowd, self.area))
        columns = self.picture[rows], self.boxes[rows], self.classes[rows], self.difficult[rows]
        return TruthTable(*columns, crowd, area)


@dataclass(frozen=True)
class DetectionTable:
    """The detections in all pictures, one row per box and class.

    Parameters
    ----------
    picture : (D,) int
        The picture each detection belongs to.
    boxes : (D, 4) float
        cxcywh.
    classes : (D,) int
        Class index.
    scores : (D,) float
        Higher is surer.

    Raises
    ------
    ValueError
        If the columns differ in length or a score is not finite.
    """

    picture: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        _check_columns(self)
        if not np.isfinite(self.scores).all():
            raise ValueError("scores: not finite, so the detections have no order")

    def where(self, rows: np.ndarray) -> "DetectionTable":
        """Some of the rows."""
        return DetectionTable(self.picture[rows], self.boxes[rows], self.classes[rows], self.scores[rows])


class Matches(NamedTuple):
    """What became of the detections of one class, surest first; those of difficult truths are left out."""

    scores: np.ndarray  # (M,), descending
    hit: np.ndarray  # (M,) bool: a true positive
    positives: int  # truths to be found


class MeanAveragePrecision(NamedTuple):
    """Average precision of every class and its mean."""

    mean: float  # over the classes that have truths; NaN if none has
    per_class: np.ndarray  # (C,), NaN where there is no truth
    truths: np.ndarray  # (C,) int: truths that are not difficult


def inclusive_xyxy_to_cxcywh(corners: np.ndarray) -> np.ndarray:
    """The boxes covered by the pixels from one corner to the other, both of which belong to them.

    Pixel n, counted from 1, reaches from n - 1 to n. The box is therefore [xmin - 1, xmax], and its width the
    xmax - xmin + 1 of VOC's development kit.

    Parameters
    ----------
    corners : (..., 4)
        xmin, ymin, xmax, ymax in pixels, counted from 1; fractions of a pixel, as detectors write, are taken
        alike.

    Returns
    -------
    (..., 4) float
        cxcywh in pixels.
    """
    return box_xyxy_to_cxcywh(np.concatenate([corners[..., :2] - 1, corners[..., 2:]], axis=-1))


def overlapping_pairs(
    detections: DetectionTable, truths: TruthTable
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every detection with every truth of its own picture that it overlaps; classes are not looked at.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        D and T rows, of all pictures.

    Returns
    -------
    detection, truth : (P,) int
        Rows of the tables, by detection and then by truth.
    overlap : (P,) float
        IoU, more than 0; with a crowd the share of the detection that lies in it.
    """
    by_picture = np.argsort(truths.picture, kind="stable")
    pictures = truths.picture[by_picture]
    begin, end = (np.searchsorted(pictures, detections.picture, side) for side in ("left", "right"))
    pairs = []
    for start in range(0, max(1, len(begin)), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(begin)))
        count = end[rows] - begin[rows]
        detection = np.repeat(rows, count)
        # a detection's pairs are `count` rows; the first of them is its picture's first truth
        truth = by_picture[np.arange(len(detection)) + np.repeat(begin[rows] + count - count.cumsum(), count)]
        a, b = detections.boxes[detection], truths.boxes[truth]
        overlap = box_iou_broadcast(a, b)
        if truths.crowd is not None:
            i = np.flatnonzero(truths.crowd[truth])
            with np.errstate(divide="ignore", invalid="ignore"):
                overlap[i] = box_intersection(a[i], b[i]) / (a[i, 2] * a[i, 3])
        some = overlap > 0  # no NaN: boxes without area overlap nothing
        pairs.append((detection[some], truth[some], overlap[some]))
    detection, truth, overlap = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return detection, truth, overlap


def best_truths(detections: DetectionTable, truths: TruthTable) -> tuple[np.ndarray, np.ndarray]:
    """The truth of its own picture that each detection overlaps most; classes are not looked at.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        D and T rows, of all pictures.

    Returns
    -------
    truth : (D,) int
        Row of `truths`, the first of equals; -1 where it overlaps none.
    iou : (D,) float
        0 where it overlaps none.
    """
    detection, truth, overlap = overlapping_pairs(detections, truths)
    order = np.lexsort((-overlap, detection))  # stable: of equals the first stays the first
    rows, first = np.unique(detection[order], return_index=True)
    best = np.full(len(detections.picture), -1)
    iou = np.zeros(len(detections.picture), overlap.dtype)
    best[rows], iou[rows] = truth[order[first]], overlap[order[first]]
    return best, iou


def match_detections(detections: DetectionTable, truths: TruthTable, iou_threshold: float = 0.5) -> Matches:
    """Decide which detections of one class are right, by the rule of Pascal VOC's development kit.

    Every detection speaks for the truth it overlaps most, if the IoU is ``>= iou_threshold`` (so the kit's
    VOCevaldet.m; its text asks for more than half, and ports to Python compare with ``>``). Of those that
    speak for the same truth the surest is right and the others are wrong, even if another truth is near.
    (COCO's own tool differs there, see `reference.coco_metric`.) Whoever speaks for a difficult truth is left
    out, and of those that speak for none, whoever lies in a crowd by ``iou_threshold`` of its area.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        Rows of one class, of all pictures.
    iou_threshold : float
        Least overlap of a detection that is right.

    Returns
    -------
    Matches
        Detections of equal score keep their order.
    """
    return _match(detections, *_nearest(detections, truths), iou_threshold)


def _nearest(
    detections: DetectionTable, truths: TruthTable
) -> tuple[TruthTable, np.ndarray, np.ndarray, np.ndarray]:
    """The truths but for crowds; of these `best_truths`; the greatest share of each detection in a crowd."""
    crowd = np.zeros(len(truths.picture), bool) if truths.crowd is None else truths.crowd
    objects = truths.where(~crowd)
    return objects, *best_truths(detections, objects), best_truths(detections, truths.where(crowd))[1]


def _match(
    detections: DetectionTable,
    truths: TruthTable,
    truth: np.ndarray,
    iou: np.ndarray,
    in_crowd: np.ndarray,
    iou_threshold: float,
) -> Matches:
    order = np.argsort(-detections.scores, kind="stable")
    speaks = (truth >= 0) & (iou >= iou_threshold)
    ignored = in_crowd >= iou_threshold
    ignored[speaks] = truths.difficult[truth[speaks]]
    order = order[~ignored[order]]
    speakers = np.flatnonzero(speaks[order])
    _, first = np.unique(truth[order[speakers]], return_index=True)  # the surest of every truth
    hit = np.zeros(len(order), bool)
    hit[speakers[first]] = True
    return Matches(detections.scores[order], hit, int((~truths.difficult).sum()))


def precision_recall(hit: np.ndarray, positives: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of the M surest detections, for M = 1, 2, ...

    Parameters
    ----------
    hit : (M,) bool
        True positives, surest first.
    positives : int
        Truths to be found.

    Returns
    -------
    recall, precision : (M,) float64

    Raises
    ------
    ValueError
        If there is nothing to be found: recall is not defined.
    """
    if positives < 1:
        raise ValueError("positives: recall is not defined where there is no truth")
    found = np.cumsum(hit)
    return found / positives, found / np.arange(1, len(hit) + 1)


def average_precision(recall: np.ndarray, precision: np.ndarray, method: Method = "voc11") -> float:
    """One number for a precision-recall curve.

    All look at the interpolated precision p(r), the greatest precision at any recall >= r (0 where that
    recall is not reached): "voc11" is its mean over r = 0, .1, ..., 1 (VOC until 2009, and the VOC2007
    numbers of the papers), "coco101" over r = 0, .01, ..., 1, "voc_all" its integral (VOC since 2010).
    "voc11_numpy" is "voc11" as most Python ports of the devkit have it, with the recalls of
    ``numpy.arange(0, 1.1, 0.1)``: rounding makes .3, .6 and .7 of them greater than 3/10, 6/10 and 7/10, so
    a curve with exactly that recall does not reach them and may lose up to 1/11.

    Parameters
    ----------
    recall, precision : (M,) float64
        As `precision_recall` returns them: recall does not decrease. M may be 0.
    method : {"voc11", "voc11_numpy", "voc_all", "coco101"}
        How p(r) is averaged.

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If `method` is none of these.
    """
    match method:
        # i / steps rounds as found / positives does, so a recall of exactly 3/10 reaches .3.
        case "voc11":
            levels = np.arange(11) / 10
        case "coco101":
            levels = np.arange(101) / 100
        case "voc11_numpy":
            levels = np.arange(0, 1.1, 0.1)
        case "voc_all":
            return float(np.diff(recall, prepend=0.0) @ interpolated_precision(recall, precision, recall))
        case _:
            raise ValueError(f"method: {method!r} is not one of {', '.join(get_args(Method))}")
    return float(interpolated_precision(recall, precision, levels).mean())


def interpolated_precision(recall: np.ndarray, precision: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The greatest precision at any recall of at least each level.

    Parameters
    ----------
    recall, precision : (M,) float64
        As `precision_recall` returns them.
    levels : (L,) float64
        Recalls from 0 to 1.

    Returns
    -------
    (L,) float64
        0 at levels that are not reached.
    """
    # the greatest precision from here on, and 0 after the last recall
    best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best[np.searchsorted(recall, levels, side="left")]


def mean_average_precision(
    detections: DetectionTable,
    truths: TruthTable,
    classes: int,
    iou_threshold: float | Sequence[float] = 0.5,
    method: Method = "voc11",
) -> MeanAveragePrecision:
    """Average precision per class and its mean over the classes that have truths.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        All classes, all pictures.
    classes : int
        Number of classes.
    iou_threshold : float or sequence of float
        With several, the average precision of a class is its mean over them; COCO's .5:.95 is
        ``numpy.arange(50, 100, 5) / 100`` with ``method="coco101"``.
    method : {"voc11", "voc11_numpy", "voc_all", "coco101"}
        See `average_precision`.

    Returns
    -------
    MeanAveragePrecision

    Raises
    ------
    ValueError
        If a class index of the truths is not below `classes`, or `method` is unknown.
    """
    if not ((truths.classes >= 0) & (truths.classes < classes)).all():
        raise ValueError(f"truths: class {truths.classes.max()} where there are {classes} classes")
    thresholds = np.atleast_1d(iou_threshold)
    per_class = np.full(classes, np.nan)
    counts = np.bincount(truths.classes[~truths.difficult], minlength=classes)
    for c in np.flatnonzero(counts):
        found, wanted = detections.where(detections.classes == c), truths.where(truths.classes == c)
        nearest = _nearest(found, wanted)
        matches = [_match(found, *nearest, threshold) for threshold in thresholds]
        per_class[c] = np.mean(
            [average_precision(*precision_recall(m.hit, m.positives), method) for m in matches]
        )
    mean = float(per_class[counts > 0].mean()) if counts.any() else float("nan")
    return MeanAveragePrecision(mean, per_class, counts)


def _check_columns(table: TruthTable | DetectionTable) -> None:
    lengths = {name: len(column) for name, column in vars(table).items() if column is not None}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns differ in length: {lengths}")

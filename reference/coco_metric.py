"""COCO's measure of detections: average precision and recall over ten thresholds, by size of the objects.

The matching is not Pascal VOC's. Detections choose in the order of their scores, and each takes the free
truth that it overlaps most, so a second detection of one object may take the next object. Truths that are
left out (crowds, difficult ones, those of another size) are taken only by a detection that finds no other,
which is then left out too; so is a detection of another size that takes none. Of a class, only the surest
detections of each picture are looked at.

Everything is as in the program of the COCO data set, to rounding in the last place.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from reference.average_precision import (
    DetectionTable,
    TruthTable,
    interpolated_precision,
    overlapping_pairs,
    precision_recall,
)

THRESHOLDS = np.linspace(0.5, 0.95, 10)
# Ten of these, .35 among them, are a rounding above i / 100: a recall of exactly 35/100 does not reach them.
RECALLS = np.linspace(0, 1, 101)
# Area in pixels from .. to, either included: an object of exactly 32 x 32 is both small and medium.
AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
MAX_DETECTIONS = (1, 10, 100)


class CocoMatches(NamedTuple):
    """The truth that each detection takes: T thresholds, A ranges of area, D detections."""

    truth: np.ndarray  # (T, A, D) int, row of the truths; -1 is none
    ignored: np.ndarray  # (T, A, D) bool: neither right nor wrong


class CocoMetric(NamedTuple):
    """Average precision and recall: T thresholds, C classes, A ranges of area, M numbers of detections."""

    precision: np.ndarray  # (T, C, A, M), NaN where a class has no truth of that area
    recall: np.ndarray  # (T, C, A, M), likewise

    def summary(self) -> dict[str, float]:
        """COCO's twelve numbers, each a mean over thresholds and over classes that have truths.

        AP, at IoU .5 and at .75, of small, medium and large objects; AR with 1, 10 and 100 detections of a
        class in a picture, of small, medium and large objects. NaN where no class has truths.
        """
        half, three_quarters = 0, 5
        values = {
            "AP": self.precision[:, :, 0, -1],
            "AP50": self.precision[half, :, 0, -1],
            "AP75": self.precision[three_quarters, :, 0, -1],
            **{f"AP{area}": self.precision[:, :, i, -1] for i, area in enumerate("sml", 1)},
            **{f"AR{most}": self.recall[:, :, 0, i] for i, most in enumerate(MAX_DETECTIONS)},
            **{f"AR{area}": self.recall[:, :, i, -1] for i, area in enumerate("sml", 1)},
        }
        return {name: _mean(value) for name, value in values.items()}

    def per_class(self) -> np.ndarray:
        """AP of every class, (C,), over all thresholds, areas and detections; NaN where it has no truth."""
        return self.precision[:, :, 0, -1].mean(axis=0)


def match_coco(
    detections: DetectionTable,
    truths: TruthTable,
    thresholds: np.ndarray = THRESHOLDS,
    areas: Sequence[tuple[float, float]] = (AREAS["all"],),
) -> CocoMatches:
    """Decide which truth each detection takes; classes are not looked at.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        D and N rows, of all pictures; boxes in pixels.
    thresholds : (T,) float
        Least overlap of a detection with the truth it takes.
    areas : sequence of A pairs (least, greatest)
        In pixels squared.

    Returns
    -------
    CocoMatches
        Detections of equal score choose in their order; of truths equally near, the last is taken.
    """
    T, A, D, N = len(thresholds), len(areas), len(detections.picture), len(truths.picture)
    many = truths.difficult  # what is left out whatever its size, any number of detections may take
    left_out = many | ~_within(_area(truths.boxes) if truths.area is None else truths.area, areas)  # (A, N)
    pairs = overlapping_pairs(detections, truths)
    detection, truth, overlap = (column[pairs[2] >= thresholds.min()] for column in pairs)
    begin, end = (np.searchsorted(detection, np.arange(D), side) for side in ("left", "right"))

    takes, taken = np.full((T, A, D), -1), np.zeros((T, A, N), bool)
    order = np.argsort(-detections.scores, kind="stable")
    for d in order[begin[order] < end[order]]:
        near, iou = truth[begin[d] : end[d]], overlap[begin[d] : end[d]]
        free = (iou >= thresholds[:, None, None]) & (many[near] | ~taken[:, :, near])  # (T, A, len(near))
        wanted = free & ~left_out[:, near]
        choice = np.where(wanted.any(axis=2, keepdims=True), wanted, free)
        best = near[len(near) - 1 - np.where(choice, iou, -1)[:, :, ::-1].argmax(axis=2)]
        t, a = np.nonzero(choice.any(axis=2))
        takes[t, a, d] = best[t, a]
        taken[t, a, best[t, a]] = True

    left_out = np.pad(left_out, ((0, 0), (0, 1)))  # a last truth for the index -1
    outside = ~_within(_area(detections.boxes), areas)
    return CocoMatches(takes, np.where(takes < 0, outside, left_out[np.arange(A)[:, None], takes]))


def coco_metric(detections: DetectionTable, truths: TruthTable, classes: int) -> CocoMetric:
    """Average precision and recall of every class by COCO's rules.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        All classes, all pictures; boxes in pixels. Difficult truths are taken for crowds: COCO
        knows no others that are left out.
    classes : int
        Number of classes.

    Returns
    -------
    CocoMetric
        For the ten `THRESHOLDS`, the four `AREAS` and the three `MAX_DETECTIONS`.
    """
    areas = tuple(AREAS.values())
    precision = np.full((len(THRESHOLDS), classes, len(areas), len(MAX_DETECTIONS)), np.nan)
    recall = precision.copy()
    truths = replace(truths, crowd=truths.difficult)
    rank = rank_in_picture(detections)
    for c in range(classes):
        rows = (detections.classes == c) & (rank < max(MAX_DETECTIONS))
        found, wanted = detections.where(rows), truths.where(truths.classes == c)
        area = _area(wanted.boxes) if wanted.area is None else wanted.area
        positives = (_within(area, areas) & ~wanted.difficult).sum(axis=1)
        matches = match_coco(found, wanted, THRESHOLDS, areas)
        order = np.lexsort((found.picture, -found.scores))  # of equal scores the first picture's
        for m, most in enumerate(MAX_DETECTIONS):
            surest = order[rank[rows][order] < most]
            for t, a in np.ndindex(len(THRESHOLDS), len(areas)):
                if positives[a]:
                    counted = surest[~matches.ignored[t, a, surest]]
                    hit = matches.truth[t, a, counted] >= 0
                    curve = precision_recall(hit, positives[a])
                    precision[t, c, a, m] = interpolated_precision(*curve, RECALLS).mean()
                    recall[t, c, a, m] = hit.sum() / positives[a]
    return CocoMetric(precision, recall)


def rank_in_picture(detections: DetectionTable) -> np.ndarray:
    """How many detections of its class and picture are surer than each, or as sure and earlier: (D,) int."""
    order = np.lexsort((-detections.scores, detections.picture, detections.classes))
    picture, classes = detections.picture[order], detections.classes[order]
    new = np.append(True, (np.diff(picture) != 0) | (np.diff(classes) != 0))[: len(order)]
    place = np.arange(len(order))
    rank = np.empty(len(order), int)
    rank[order] = place - np.maximum.accumulate(np.where(new, place, 0))
    return rank


def _area(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2] * boxes[:, 3]


def _within(area: np.ndarray, ranges: Sequence[tuple[float, float]]) -> np.ndarray:
    """Whether each area (N,) is in each of A ranges: (A, N)."""
    least, greatest = np.array(ranges).T[:, :, None]
    return (least <= area) & (area <= greatest)


def _mean(values: np.ndarray) -> float:
    """Of what is not NaN; NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")

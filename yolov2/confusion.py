"""What was taken for what: every truth and every sure detection in one table.

Detections above a confidence choose among the truths of their picture, whatever the classes, the surest
first: each takes the free truth that it overlaps most, if that is enough. A truth is taken once. So a second
box on one object is a false positive, as it is for average precision. Difficult truths do not count, nor
do detections that overlap nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reference.average_precision import DetectionTable, TruthTable
from reference.coco_metric import match_coco
from yolov2 import plots


class Pairs(NamedTuple):
    """Sure detections, those of difficult truths left out, and the truths that count."""

    detections: DetectionTable  # D rows
    truths: TruthTable  # N rows
    truth: np.ndarray  # (D,) int, the row of `truths` that each detection takes, or -1


@dataclass(frozen=True)
class Confusion:
    """How often each class was taken for each."""

    names: tuple[str, ...]
    counts: np.ndarray  # (C + 1, C + 1) int: truth, the last being background; prediction, the last none
    conf: float
    iou: float

    def table(self) -> str:
        """The counts as text, truths downwards, predictions to the right."""
        heads = [*self.names, "missed"]
        sides = ["truth", *self.names, "background"]
        numbers = [[str(count) for count in row] for row in self.counts.tolist()]
        numbers[-1][-1] = ""  # what is neither there nor found
        rows = [heads, *numbers]
        first = max(map(len, sides))
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        return "\n".join(
            "  ".join(
                [f"{side:<{first}}", *(f"{text:>{width}}" for text, width in zip(row, widths, strict=True))]
            ).rstrip()
            for side, row in zip(sides, rows, strict=True)
        )

    def plot(self, out: Path) -> None:
        """Draw the counts, each row coloured by its share of the truths."""
        title = f"score > {self.conf:g}, IoU >= {self.iou:g}"
        plots.confusion_matrix(self.counts, self.names, title, out)


def pair_up(detections: DetectionTable, truths: TruthTable, conf: float = 0.25, iou: float = 0.5) -> Pairs:
    """Decide which truth each sure detection is of, by the rule of the module's docstring.

    Parameters
    ----------
    detections, truths : DetectionTable, TruthTable
        All classes, all pictures.
    conf : float
        Detections count above this score.
    iou : float
        Least overlap.
    """
    sure = detections.where(detections.scores > conf)
    matches = match_coco(sure, truths, np.array([iou]), [(0.0, np.inf)])
    truth, ignored = matches.truth[0, 0], matches.ignored[0, 0]
    row = np.append(np.cumsum(~truths.difficult) - 1, -1)  # of the truths that count; -1 stays -1
    return Pairs(sure.where(~ignored), truths.where(~truths.difficult), row[truth[~ignored]])


def confusion(pairs: Pairs, names: tuple[str, ...], conf: float, iou: float) -> Confusion:
    """Count what was taken for what.

    Parameters
    ----------
    pairs : Pairs
        Of `pair_up`.
    names : tuple of str
        Names of the classes.
    conf, iou : float
        What the pairs were made with.
    """
    nothing = len(names)
    counts = np.zeros((nothing + 1, nothing + 1), np.int64)
    of = np.append(pairs.truths.classes, nothing)[pairs.truth]  # -1 is the appended one
    np.add.at(counts, (of, pairs.detections.classes), 1)
    missed = np.setdiff1d(np.arange(len(pairs.truths.classes)), pairs.truth)
    np.add.at(counts, (pairs.truths.classes[missed], nothing), 1)
    return Confusion(names, counts, conf, iou)

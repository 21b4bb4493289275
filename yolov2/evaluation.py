"""How good is a detector? `evaluate` says it for a network, `compare` for detections that are there already.

Where many processes share the pictures, each calls `detect_all` on its items ``[rank::world]``;
`merge_shards` puts the results in order and `compare` measures them as if one process had made them all.
"""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from reference.average_precision import (
    DetectionTable,
    Matches,
    MeanAveragePrecision,
    TruthTable,
    inclusive_xyxy_to_cxcywh,
    match_detections,
    mean_average_precision,
    precision_recall,
)
from reference.coco_metric import MAX_DETECTIONS, CocoMetric, match_coco, rank_in_picture
from yolov2 import plots
from yolov2.coco_metric import coco_metric, has_pycocotools
from yolov2.data.dataset import Dataset, Item
from yolov2.data.detections import boxes_to_corners
from yolov2.detector import Detector, Found
from yolov2.errors import Complaints, UserError, shortened
from yolov2.inference.predictor import Predictor
from yolov2.model import input_size

Metric = Literal["voc_all", "voc11", "voc11_numpy", "coco101", "coco"]
Overlap = Literal["continuous", "inclusive"]
Table = TypeVar("Table", TruthTable, DetectionTable)

METRIC_NAMES = {
    "voc_all": "VOC all-point",
    "voc11": "VOC 11-point",
    "voc11_numpy": "VOC 11-point at numpy.arange",
    "coco101": "101-point, VOC matching",
    "coco": "COCO 101-point",
}
THREADS, AHEAD = 4, 32  # pictures are decoded while the network is busy, so many ahead


class Settings(NamedTuple):
    """How a network was asked; every number depends on it."""

    width: int  # of the network's input, in pixels
    height: int
    resize: str  # how pictures were brought to that size
    conf: float
    iou: float  # of NMS
    max_det: int

    def __str__(self) -> str:
        return (
            f"{self.width}x{self.height} {self.resize}, conf {_short(self.conf)}, NMS {_short(self.iou)}, "
            f"at most {self.max_det} a picture"
        )


class Point(NamedTuple):
    """A point of a precision-recall curve."""

    f1: float
    conf: float  # a threshold between the scores of what counts and the next, as --conf takes it
    precision: float
    recall: float


class ClassResult(NamedTuple):
    """A line of the table."""

    name: str
    truths: int  # but for difficult ones
    difficult: int
    found: int
    ap: float  # NaN where there are no truths
    best: Point | None  # where F1 is greatest; None where nothing is right


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate` and `compare`."""

    names: tuple[str, ...]  # the classes asked for
    precision: MeanAveragePrecision
    items: list[Item]  # pictures that can be read
    data_names: tuple[str, ...]  # all classes of the data, in the order of their numbers in `items`
    found: list[Found]  # what was found on them
    found_names: tuple[str, ...]  # all classes that could be, in the order of their numbers in `found`
    detections: DetectionTable  # what of it is of the classes asked for, numbered as `names`; in pixels
    truths: TruthTable  # likewise
    seconds: float
    method: Metric
    thresholds: tuple[float, ...]
    overlap: Overlap
    settings: Settings | None  # None where no network was asked
    coco: CocoMetric | None  # with the method "coco"

    @property
    def map50(self) -> float:
        """Mean average precision over the classes that have truths, at IoU .5 if no other was asked for."""
        return self.precision.mean

    @property
    def metric(self) -> str:
        """All that the mean depends on besides the pictures."""
        counted = int((self.precision.truths > 0).sum())
        name = METRIC_NAMES[self.method]
        if self.method == "coco" and has_pycocotools():
            name += " by pycocotools"
        parts = [name, f"{self.overlap} overlap", f"mean of {counted} class{'es' * (counted != 1)}"]
        return ", ".join(parts + [str(self.settings)] * (self.settings is not None))

    def headline(self) -> str:
        """The number in a line, with everything that it depends on."""
        low, high = _short(min(self.thresholds)), _short(max(self.thresholds))
        number = f"mAP@{low if low == high else f'[{low}:{high}]'} {self.map50:.4f}"
        if self.coco:
            number = f"AP@[.5:.95] {self.coco.summary()['AP']:.4f}, {number}"
        return f"{number} ({self.metric})"

    def matches(self, c: int) -> Matches:
        """What became of the detections of class `c` of `names`, at the least threshold."""
        found = self.detections.where(self.detections.classes == c)
        wanted = self.truths.where(self.truths.classes == c)
        if self.method != "coco":
            return match_detections(found, wanted, min(self.thresholds))
        truth, ignored = (part[0, 0] for part in match_coco(found, _crowds(wanted), np.array([0.5])))
        order = np.lexsort((found.picture, -found.scores))
        order = order[~ignored[order]]
        return Matches(found.scores[order], truth[order] >= 0, int((~wanted.difficult).sum()))

    @cached_property
    def classes(self) -> list[ClassResult]:
        """The table, a row per class of `names`."""
        found = np.bincount(self.detections.classes, minlength=len(self.names)).tolist()
        difficult = np.bincount(
            self.truths.classes[self.truths.difficult], minlength=len(self.names)
        ).tolist()
        columns = (
            self.names,
            self.precision.truths.tolist(),
            difficult,
            found,
            self.precision.per_class.tolist(),
        )
        return [
            ClassResult(*row, best_f1(self.matches(c)) if row[1] else None)
            for c, row in enumerate(zip(*columns, strict=True))
        ]

    def table(self) -> str:
        """`classes` as text, the last columns for the threshold `conf` with the greatest F1."""
        width = max(5, *(len(name) for name in self.names))
        coco = self.coco and self.coco.per_class()
        heads = ["truths", "difficult", "found", "AP", *[".5:.95"] * (coco is not None)]
        heads += ["F1", "conf", "precision", "recall"]
        widths = [max(6, len(head)) for head in heads]
        rows: list[tuple] = [("class", *heads)]
        for c, row in enumerate(self.classes):
            more = () if coco is None else (coco[c],)
            rows.append((*row[:5], *more, *(row.best or [np.nan] * 4)))
        sums = self.precision.truths.sum(), self.truths.difficult.sum(), len(self.detections.scores)
        rows.append(("mean", *sums, self.map50, *(() if self.coco is None else (self.coco.summary()["AP"],))))
        return "\n".join(
            "  ".join(
                [f"{name:<{width}}", *(f"{_cell(v):>{w}}" for v, w in zip(values, widths, strict=False))]
            )
            for name, *values in rows
        )

    def coco_table(self) -> str:
        """COCO's twelve numbers as text, where the method is "coco"."""
        assert self.coco is not None
        kinds = [(".5:.95", "all"), (".5", "all"), (".75", "all"), *((".5:.95", s) for s in SIZES)]
        rows = [("AP", *kind, MAX_DETECTIONS[-1]) for kind in kinds]
        rows += [("AR", ".5:.95", "all", most) for most in MAX_DETECTIONS]
        rows += [("AR", ".5:.95", size, MAX_DETECTIONS[-1]) for size in SIZES]
        lines = [f"{'':2}  {'IoU':<6}  {'size':<6}  {'at most':>7}"]
        for row, value in zip(rows, self.coco.summary().values(), strict=True):
            number = "-" if np.isnan(value) else f"{value:.4f}"
            lines.append(f"{row[0]}  {row[1]:<6}  {row[2]:<6}  {row[3]:>7}  {number:>6}")
        return "\n".join(lines)

    def plot(self, out: Path) -> None:
        """Draw precision against recall, for every class that has truths."""
        curves, precision = {}, {}
        for c in np.flatnonzero(self.precision.truths).tolist():
            matches = self.matches(c)
            curves[self.names[c]] = precision_recall(matches.hit, matches.positives)
            precision[self.names[c]] = float(self.precision.per_class[c])
        plots.precision_recall_curves(curves, precision, out)


SIZES = ("small", "medium", "large")


def best_f1(matches: Matches) -> Point | None:
    """The threshold at which precision and recall have the greatest harmonic mean; None if nothing is right.

    Detections of equal score are above a threshold all together. The threshold lies half way to the next
    score, or to 0, so that it can be rounded.
    """
    if not matches.hit.any():
        return None
    recall, precision = precision_recall(matches.hit, matches.positives)
    after = np.append(matches.scores[1:], 0)
    f1 = 2 * matches.hit.cumsum() / (np.arange(1, len(recall) + 1) + matches.positives)
    best = int(np.where(matches.scores > after, f1, -1).argmax())
    conf = (float(matches.scores[best]) + float(after[best])) / 2
    return Point(float(f1[best]), conf, float(precision[best]), float(recall[best]))


def truth_table(items: Sequence[Item]) -> TruthTable:
    """All labelled boxes of a data set's items, as fractions of their pictures."""
    return TruthTable(
        np.repeat(np.arange(len(items)), [len(item.boxes) for item in items]),
        np.concatenate([item.boxes for item in items] or [np.zeros((0, 4), np.float32)]),
        np.concatenate([item.classes for item in items] or [np.zeros(0, np.int64)]),
        np.concatenate([item.difficult for item in items] or [np.zeros(0, bool)]),
    )


def detection_table(found: Sequence[Found]) -> DetectionTable:
    """Detections of picture 0, 1, ... in one table."""
    return DetectionTable(
        np.repeat(np.arange(len(found)), [len(f.scores) for f in found]),
        np.concatenate([f.boxes for f in found] or [np.zeros((0, 4), np.float32)]),
        np.concatenate([f.classes for f in found] or [np.zeros(0, np.int64)]),
        np.concatenate([f.scores for f in found] or [np.zeros(0, np.float32)]),
    )


def evaluate(
    detector: Detector,
    dataset: Dataset,
    conf: float = 0.005,
    iou: float = 0.45,
    max_det: int = 300,
    method: Metric = "voc_all",
    threshold: float | Sequence[float] = 0.5,
    batch: int = 16,
    progress: bool = True,
    complaints: Complaints | None = None,
    classes: Sequence[str] | None = None,
    overlap: Overlap = "continuous",
    predictor: Predictor | None = None,
) -> Evaluation:
    """Detect on every picture of a data set and compare with its truths.

    Parameters
    ----------
    detector, dataset, conf, iou, max_det, batch, progress, complaints, predictor
        As in `detect_all`.
    method, threshold, classes, overlap
        As in `compare`.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If the detector does not know a class of the data or of `classes`, or no picture can be read.
    """
    check_classes(classes, detector.names)  # before the work
    start = time.perf_counter()
    found = detect_all(detector, dataset, conf, iou, max_det, batch, progress, complaints, predictor)
    settings = settings_of(detector, conf, iou, max_det)
    result = compare(dataset, found, detector.names, method, threshold, classes, overlap, settings)
    return replace(result, seconds=time.perf_counter() - start)


def detect_all(
    detector: Detector,
    dataset: Dataset,
    conf: float = 0.005,
    iou: float = 0.45,
    max_det: int = 300,
    batch: int = 16,
    progress: bool = True,
    complaints: Complaints | None = None,
    predictor: Predictor | None = None,
) -> list[Found | None]:
    """What a detector finds on every picture of a data set.

    Parameters
    ----------
    detector : Detector
        What to measure.
    dataset : Dataset
        The pictures; its class names must be among the detector's. It may be empty.
    conf, iou : float
        Darknet's thresholds for validation (SPEC 8.3).
    max_det : int
        At most so many detections a picture.
    batch : int
        Pictures at a time.
    progress : bool
        Show a bar when it takes more than two seconds.
    complaints : Complaints, optional
        Counts pictures that cannot be read. Without it the first one raises.
    predictor : Predictor, optional
        The detector made ready to run by an engine; without it the network runs as it was trained.

    Returns
    -------
    list of Found or None
        One per item; None where a picture cannot be read.

    Raises
    ------
    UserError
        If the detector does not know a class of the data, or, without `complaints`, of the first picture that
        cannot be read.
    """
    if not set(dataset.names) <= set(detector.names):
        raise UserError(
            f"the weights know {len(detector.names)} classes ({shortened(detector.names)}), the data "
            f"{len(dataset.names)} ({shortened(dataset.names)}); evaluate on data of the same classes"
        )
    found: list[Found | None] = [None] * len(dataset)
    kept: list[int] = []

    def pictures() -> Iterator[Image.Image]:
        for i, picture in readable(dataset, [item.path for item in dataset.items], complaints):
            kept.append(i)
            yield picture

    stream = (predictor or detector).stream(pictures(), batch, conf=conf, iou=iou, max_det=max_det)
    bar = tqdm(stream, "evaluating", len(dataset), leave=False, unit="img", delay=2, disable=not progress)
    for place, (_, one) in enumerate(bar):
        found[kept[place]] = one
    return found


def merge_shards(shards: Sequence[Sequence[Found | None]]) -> list[Found | None]:
    """What was found on all items, in their order, where process r of n looked at the items ``[r::n]``.

    Raises
    ------
    ValueError
        If the shards' lengths are not those of such parts.
    """
    whole: list[Found | None] = [None] * sum(map(len, shards))
    for rank, shard in enumerate(shards):
        if len(shard) != len(range(rank, len(whole), len(shards))):
            raise ValueError(f"shards of {', '.join(str(len(s)) for s in shards)} items are no [rank::world]")
        whole[rank :: len(shards)] = shard
    return whole


def settings_of(detector: Detector, conf: float = 0.005, iou: float = 0.45, max_det: int = 300) -> Settings:
    """The settings of `detect_all`, for `compare` to tell."""
    return Settings(*input_size(detector.imgsz), detector.resize, conf, iou, max_det)


def compare(
    dataset: Dataset,
    found: Sequence[Found | None],
    names: tuple[str, ...],
    method: Metric = "voc_all",
    threshold: float | Sequence[float] = 0.5,
    classes: Sequence[str] | None = None,
    overlap: Overlap = "continuous",
    settings: Settings | None = None,
) -> Evaluation:
    """Compare detections with the truths of a data set.

    Parameters
    ----------
    dataset : Dataset
        Pictures, which are not opened, and truths.
    found : sequence of Found or None
        One per picture. Pictures with None are left out, and with them their truths.
    names : tuple of str
        What the class numbers of `found` mean. The data may have fewer classes, and in another order.
    method : {"voc_all", "voc11", "voc11_numpy", "coco101", "coco"}
        How the precision-recall curve is averaged, after Pascal VOC's matching
        (`reference.average_precision`), or "coco" for COCO's own matching and twelve numbers
        (`yolov2.coco_metric`), where `threshold` must be .5 and `overlap` continuous.
    threshold : float or sequence of float
        Overlap that makes a detection right; several are averaged.
    classes : sequence of str, optional
        The classes to measure, in this order; by default all `names`. Those without truths have no part in
        the mean.
    overlap : {"continuous", "inclusive"}
        A box from l to r pixels is r - l wide or, as in Pascal VOC's development kit, r - l + 1, since in its
        files (see `yolov2.data.detections`) it is the pixels l + 1 to r + 1, both included.
    settings : Settings, optional
        How `found` was made, for the report.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If one of `classes` is not among `names`, or no picture can be read.
    ValueError
        If "coco" is asked for with another threshold or overlap.
    """
    start = time.perf_counter()
    chosen = check_classes(classes, names)
    thresholds = tuple(np.atleast_1d(threshold).tolist())
    if method == "coco" and (thresholds, overlap) != ((0.5,), "continuous"):
        raise ValueError("coco: this method has its own thresholds, and overlap is continuous")
    readable = [(item, f) for item, f in zip(dataset.items, found, strict=True) if f is not None]
    if not readable:
        first = f", e.g. {dataset.items[0].path}" if len(dataset) else ""
        raise UserError(f"none of the {len(dataset)} pictures can be read{first}")
    items, kept = [item for item, _ in readable], [f for _, f in readable]
    detections = _renumbered(_measured(detection_table(kept), items, overlap), names, chosen)
    truths = _renumbered(_measured(truth_table(items), items, overlap), dataset.names, chosen)
    coco = None
    if method == "coco":
        detections = detections.where(
            rank_in_picture(detections) < MAX_DETECTIONS[-1]
        )  # the others do not count
        coco = coco_metric(detections, truths, len(chosen))
        counts = np.bincount(truths.classes[~truths.difficult], minlength=len(chosen))
        precision = MeanAveragePrecision(coco.summary()["AP50"], coco.precision[0, :, 0, -1], counts)
    else:
        precision = mean_average_precision(detections, truths, len(chosen), thresholds, method)
    seconds = time.perf_counter() - start
    tables = detections, truths, seconds, method, thresholds, overlap
    return Evaluation(chosen, precision, items, dataset.names, kept, names, *tables, settings, coco)


def check_classes(classes: Sequence[str] | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes to measure, each once; all `names` if none are asked for.

    Raises
    ------
    UserError
        If one is unknown.
    """
    unknown = [name for name in classes or () if name not in names]
    if unknown:
        raise UserError(f"--classes: no {shortened(unknown)} among {len(names)}: {shortened(names, 20)}")
    return names if classes is None else tuple(dict.fromkeys(classes))


class Pictures(Protocol):
    """Pictures by number; those that cannot be read raise UserError."""

    def __len__(self) -> int: ...

    def picture(self, index: int, /) -> Image.Image:
        """An RGB picture, upright."""


def readable(
    pictures: Pictures, paths: Sequence[Path | None], complaints: Complaints | None
) -> Iterator[tuple[int, Image.Image]]:
    """The pictures that can be read and their numbers, in order; some are decoded ahead by threads.

    Parameters
    ----------
    pictures : Pictures
        The pictures.
    paths : sequence of Path or None
        Their files, for complaints.
    complaints : Complaints, optional
        Counts those that cannot be read. Without it the first one raises.

    Raises
    ------
    UserError
        Without `complaints`, of the first picture that cannot be read.
    """
    for i, future in enumerate(_decoded(pictures)):
        try:
            picture = future.result()
        except UserError:
            if complaints is None:
                raise
            complaints.add("unreadable pictures left out", paths[i])
        else:
            yield i, picture


def _decoded(pictures: Pictures) -> Iterator[Future[Image.Image]]:
    waiting: deque[Future[Image.Image]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for i in range(len(pictures)):
                waiting.append(pool.submit(pictures.picture, i))
                if len(waiting) > AHEAD:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
        finally:
            for future in waiting:
                future.cancel()


def _renumbered(table: Table, names: tuple[str, ...], chosen: tuple[str, ...]) -> Table:
    """The rows whose class, an index of `names`, is among `chosen`; there it is an index of those."""
    number = {name: i for i, name in enumerate(chosen)}
    classes = np.array([number.get(name, -1) for name in names])[table.classes]
    rows = classes >= 0
    return replace(table.where(rows), classes=classes[rows])


def _measured(table: Table, items: Sequence[Item], overlap: Overlap) -> Table:
    """The table with boxes in pixels, whose plain IoU is the overlap asked for."""
    sizes = np.array([(item.width, item.height) for item in items]).reshape(-1, 2)[table.picture]
    if overlap == "inclusive":
        return replace(table, boxes=inclusive_xyxy_to_cxcywh(boxes_to_corners(table.boxes, sizes)))
    return replace(table, boxes=table.boxes * np.tile(sizes, 2))


def _crowds(truths: TruthTable) -> TruthTable:
    """COCO takes whatever is difficult for a crowd."""
    return replace(truths, crowd=truths.difficult)


def _cell(value: object) -> str:
    """A value in the table; what is not defined is a dash."""
    if isinstance(value, float):
        return "-" if np.isnan(value) else f"{value:.3f}"
    return str(value)


def _short(number: float) -> str:
    """.5 for 0.5."""
    return f"{number:g}".removeprefix("0") or "0"

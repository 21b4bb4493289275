"""Measure a detector: ``python -m yolov2.evaluate --weights runs/NAME/best.safetensors``.

Or what another tool found: ``python -m yolov2.evaluate --data VOC2012 --detections results --method voc11``
reads the files of `yolov2.data.detections`, and measures overlap as Pascal VOC's development kit does.
"""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from reference.average_precision import (
    DetectionTable,
    MeanAveragePrecision,
    Method,
    TruthTable,
    inclusive_xyxy_to_cxcywh,
    match_detections,
    mean_average_precision,
    precision_recall,
)
from yolov2 import plots
from yolov2.checkpoint import training_data
from yolov2.cli import option, parse, run
from yolov2.data.dataset import Dataset, Item
from yolov2.data.detections import boxes_to_corners, read_detections, write_detections
from yolov2.data.sources import open_dataset
from yolov2.detector import Detector, Found, check_options
from yolov2.errors import Complaints, UserError, shortened
from yolov2.loading import load
from yolov2.names import VOC_NAMES, read_names
from yolov2.runs import newest_weights

Overlap = Literal["continuous", "inclusive"]
Table = TypeVar("Table", TruthTable, DetectionTable)


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate` and `compare`."""

    names: tuple[str, ...]  # the classes asked for
    precision: MeanAveragePrecision
    items: list[Item]  # pictures that can be read
    found: list[Found]  # what was found on them
    found_names: tuple[str, ...]  # all classes that could be, in the order of their numbers in `found`
    detections: DetectionTable  # what of it is of the classes asked for, numbered as `names`
    truths: TruthTable  # likewise
    seconds: float

    @property
    def map50(self) -> float:
        """Mean average precision over the classes that have truths."""
        return self.precision.mean

    def table(self) -> str:
        """Average precision per class as text."""
        width = max(5, *(len(name) for name in self.names))
        lines = [f"{'class':<{width}}  truths      AP"]
        for name, ap, count in zip(self.names, self.precision.per_class, self.precision.truths, strict=True):
            lines.append(f"{name:<{width}}  {count:>6}  {'     -' if np.isnan(ap) else f'{ap:6.3f}'}")
        total = self.precision.truths.sum()
        lines.append(f"{'mean':<{width}}  {total:>6}  {self.map50:6.3f}")
        return "\n".join(lines)

    def plot(self, out: Path) -> None:
        """Draw precision against recall at IoU .5, for every class that has truths."""
        found, curves, precision = self.detections, {}, {}
        for c in np.flatnonzero(self.precision.truths):
            wanted = self.truths.where(self.truths.classes == c)
            matches = match_detections(found.where(found.classes == c), wanted)
            curves[self.names[c]] = precision_recall(matches.hit, matches.positives)
            precision[self.names[c]] = float(self.precision.per_class[c])
        plots.precision_recall_curves(curves, precision, out)


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
    method: Method = "voc_all",
    threshold: float | Sequence[float] = 0.5,
    batch: int = 16,
    progress: bool = True,
    complaints: Complaints | None = None,
    classes: Sequence[str] | None = None,
    overlap: Overlap = "continuous",
) -> Evaluation:
    """Detect on every picture of a data set and compare with its truths.

    Parameters
    ----------
    detector : Detector
        What to measure.
    dataset : Dataset
        Pictures and truths; its class names must be among the detector's.
    conf, iou : float
        Darknet's thresholds for validation (SPEC 8.3).
    max_det : int
        At most so many detections a picture.
    method : {"voc_all", "voc11", "voc11_numpy", "coco101"}
        How the precision-recall curve is averaged.
    threshold : float or sequence of float
        Overlap that makes a detection right; several are averaged.
    batch : int
        Pictures at a time.
    progress : bool
        Show a bar when it takes more than two seconds.
    complaints : Complaints, optional
        Counts pictures that cannot be read and leaves them and their truths out. Without it the first one
        raises.
    classes, overlap
        As in `compare`.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If the detector does not know a class of the data or of `classes`, or no picture can be read.
    """
    _check_classes(classes, detector.names)  # before the work
    if not set(dataset.names) <= set(detector.names):
        raise UserError(
            f"the weights know {len(detector.names)} classes ({shortened(detector.names)}), the data "
            f"{len(dataset.names)} ({shortened(dataset.names)}); evaluate on data of the same classes"
        )
    start = time.perf_counter()
    kept: list[Item] = []

    def pictures() -> Iterator[Image.Image]:
        for i, item in enumerate(dataset.items):
            try:
                picture = dataset.picture(i)
            except UserError:
                if complaints is None:
                    raise
                complaints.add("unreadable pictures left out", item.path)
            else:
                kept.append(item)
                yield picture

    stream = detector.stream(pictures(), batch, conf=conf, iou=iou, max_det=max_det)
    bar = tqdm(stream, "evaluating", len(dataset), leave=False, unit="img", delay=2, disable=not progress)
    found = [f for _, f in bar]
    if not kept:
        raise UserError(f"none of the {len(dataset)} pictures can be read, e.g. {dataset.items[0].path}")
    seen = Dataset(dataset.names, kept)
    result = compare(seen, found, detector.names, method, threshold, classes, overlap)
    return replace(result, seconds=time.perf_counter() - start)


def compare(
    dataset: Dataset,
    found: list[Found],
    names: tuple[str, ...],
    method: Method = "voc_all",
    threshold: float | Sequence[float] = 0.5,
    classes: Sequence[str] | None = None,
    overlap: Overlap = "continuous",
) -> Evaluation:
    """Compare detections with the truths of a data set.

    Parameters
    ----------
    dataset : Dataset
        Pictures, which are not opened, and truths.
    found : list of Found
        One per picture.
    names : tuple of str
        What the class numbers of `found` mean. The data may have fewer classes, and in another order.
    method, threshold
        As in `evaluate`.
    classes : sequence of str, optional
        The classes to measure, in this order; by default all `names`. Those without truths have no part in
        the mean.
    overlap : {"continuous", "inclusive"}
        A box from l to r pixels is r - l wide or, as in Pascal VOC's development kit, r - l + 1, since in its
        files (see `yolov2.data.detections`) it is the pixels l + 1 to r + 1, both included.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If one of `classes` is not among `names`.
    """
    start = time.perf_counter()
    chosen = _check_classes(classes, names)
    detections = _renumbered(_measured(detection_table(found), dataset.items, overlap), names, chosen)
    truths = _renumbered(_measured(truth_table(dataset.items), dataset.items, overlap), dataset.names, chosen)
    precision = mean_average_precision(detections, truths, len(chosen), threshold, method)
    seconds = time.perf_counter() - start
    return Evaluation(chosen, precision, list(dataset.items), found, names, detections, truths, seconds)


def _check_classes(classes: Sequence[str] | None, names: tuple[str, ...]) -> tuple[str, ...]:
    """The classes to measure, each once."""
    unknown = [name for name in classes or () if name not in names]
    if unknown:
        raise UserError(f"--classes: no {shortened(unknown)} among {len(names)}: {shortened(names, 20)}")
    return names if classes is None else tuple(dict.fromkeys(classes))


def _renumbered(table: Table, names: tuple[str, ...], chosen: tuple[str, ...]) -> Table:
    """The rows whose class, an index of `names`, is among `chosen`; there it is an index of those."""
    number = {name: i for i, name in enumerate(chosen)}
    classes = np.array([number.get(name, -1) for name in names])[table.classes]
    rows = classes >= 0
    return replace(table.where(rows), classes=classes[rows])


def _measured(table: Table, items: Sequence[Item], overlap: Overlap) -> Table:
    """The table with boxes whose plain IoU is the overlap asked for."""
    if overlap == "continuous":
        return table
    sizes = np.array([(item.width, item.height) for item in items]).reshape(-1, 2)[table.picture]
    return replace(table, boxes=inclusive_xyxy_to_cxcywh(boxes_to_corners(table.boxes, sizes)))


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of ``python -m yolov2.evaluate``."""

    weights: Path | None = option(
        "checkpoint, or Darknet's .weights; none is the best one of the newest run", default=None
    )
    cfg: Path | None = option("network file of .weights; none is the one beside them", default=None)
    detections: Path | None = option(
        "in place of a network, a file of detections or a folder of Darknet's *_CLASS.txt", default=None
    )
    names: Path | None = option(
        "class names of --detections or .weights, one a line; none is VOC's twenty, or those beside them",
        default=None,
    )
    data: Path | None = option("data set; none is the one the checkpoint was trained on", default=None)
    split: str = option("which part of the data set", default="val")
    classes: tuple[str, ...] | None = option("measure only these; none is all", default=None)
    conf: float = option("detections must score above this", default=0.005)
    iou: float = option("NMS threshold", default=0.45)
    max_det: int = option("at most so many detections a picture", default=300)
    method: Method = option("how the curve is averaged", default="voc_all")
    overlap: Overlap | None = option(
        "inclusive counts a pixel more, as VOC does; none is inclusive with --detections", default=None
    )
    batch: int = option("pictures at a time", default=16)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    json: Path | None = option("write the numbers to this file", default=None)
    plot: Path | None = option("draw the precision-recall curves into this file", default=None)
    save_detections: Path | None = option("write VOC's file per class to this folder", default=None)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, self.batch)
        if self.detections and self.weights:
            raise ValueError("--detections takes the place of --weights; give one of them")
        if self.detections and not self.data:
            raise ValueError("--detections: on which pictures? give --data")
        if self.classes == ():
            raise ValueError("--classes: name one or more")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    what = "Average precision of a checkpoint or of detections in files."
    config = parse(EvaluateConfig, argv, "python -m yolov2.evaluate", what)
    overlap = config.overlap or ("inclusive" if config.detections else "continuous")
    folders = [path and path.parent for path in (config.json, config.plot)]
    for folder in filter(None, (*folders, config.save_detections)):
        folder.mkdir(parents=True, exist_ok=True)  # a mistake in the path must not cost a whole evaluation
    result = _of_file(config, overlap) if config.detections else _of_network(config, overlap)
    print(result.table())
    counted = int((result.precision.truths > 0).sum())
    print(f"mAP@.5 {result.map50:.4f} ({config.method}, {overlap} overlap, mean of {counted} classes)")
    if config.json:
        # JSON has no NaN: what has no truths is null
        mean, *per_class = (
            None if np.isnan(ap) else ap for ap in (result.map50, *result.precision.per_class.tolist())
        )
        numbers = {"map50": mean, "per_class": dict(zip(result.names, per_class, strict=True))}
        numbers |= {"method": config.method, "overlap": overlap}
        config.json.write_text(json.dumps(numbers, indent=1))
    if config.plot:
        result.plot(config.plot)
    if config.save_detections:
        where = config.save_detections, config.split
        write_detections(*where, result.items, result.found, result.found_names)


def _of_network(config: EvaluateConfig, overlap: Overlap) -> Evaluation:
    weights = config.weights or newest_weights()
    detector = load(weights, config.cfg, config.names, device=config.device)
    if not isinstance(detector, Detector):
        raise UserError(f"{weights}: a classifier finds no boxes; give a detector")
    if config.data is None and weights.suffix != ".safetensors":
        raise UserError(f"{weights}: which pictures? give --data")
    data = config.data or training_data(detector.config, weights)
    complaints = Complaints()
    dataset = open_dataset(data, config.split, detector.names, complaints)
    complaints.report()
    print(f"{weights} on {len(dataset)} pictures of {data or 'the built-in set'} ({config.split})")
    result = evaluate(
        detector,
        dataset,
        config.conf,
        config.iou,
        config.max_det,
        config.method,
        batch=config.batch,
        complaints=complaints,
        classes=config.classes,
        overlap=overlap,
    )
    complaints.report()
    print(f"{len(result.found) / result.seconds:.1f} pictures/s")
    return result


def _of_file(config: EvaluateConfig, overlap: Overlap) -> Evaluation:
    assert config.detections
    names = read_names(config.names) if config.names else VOC_NAMES
    _check_classes(config.classes, names)
    complaints = Complaints()
    dataset = open_dataset(config.data, config.split, names, complaints)
    found = read_detections(config.detections, dataset.items, names, complaints)
    complaints.report()
    print(f"{config.detections} on {len(dataset)} pictures of {config.data} ({config.split})")
    return compare(dataset, found, names, config.method, classes=config.classes, overlap=overlap)


if __name__ == "__main__":
    raise SystemExit(run(main))

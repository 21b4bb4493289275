"""Measure a detector: ``python -m yolov2.evaluate --weights runs/NAME/best.safetensors``."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from reference.average_precision import (
    DetectionTable,
    MeanAveragePrecision,
    Method,
    TruthTable,
    match_detections,
    mean_average_precision,
    precision_recall,
)
from yolov2 import plots
from yolov2.checkpoint import training_data
from yolov2.cli import option, parse, run
from yolov2.data.dataset import Dataset, Item
from yolov2.data.sources import open_dataset
from yolov2.detector import Detector, Found, check_options, pick_device
from yolov2.errors import Complaints, UserError, shortened
from yolov2.runs import newest_weights


@dataclass(frozen=True)
class Evaluation:
    """The outcome of `evaluate`."""

    names: tuple[str, ...]
    precision: MeanAveragePrecision
    found: list[Found]  # per picture that can be read
    truths: TruthTable  # of those pictures
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
        found, curves, precision = detection_table(self.found), {}, {}
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
) -> Evaluation:
    """Detect on every picture of a data set and compare with its truths.

    Parameters
    ----------
    detector : Detector
        What to measure.
    dataset : Dataset
        Pictures and truths; its class names must be the detector's.
    conf, iou : float
        Darknet's thresholds for validation (SPEC 8.3).
    max_det : int
        At most so many detections a picture.
    method : {"voc_all", "voc11", "coco101"}
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

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If the class names differ, or no picture can be read.
    """
    if dataset.names != detector.names:
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
    truths = truth_table(kept)
    precision = mean_average_precision(detection_table(found), truths, len(dataset.names), threshold, method)
    return Evaluation(dataset.names, precision, found, truths, time.perf_counter() - start)


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of ``python -m yolov2.evaluate``."""

    weights: Path | None = option("checkpoint; none is the best one of the newest run", default=None)
    data: Path | None = option("data set; none is the one the checkpoint was trained on", default=None)
    split: str = option("which part of the data set", default="val")
    conf: float = option("detections must score above this", default=0.005)
    iou: float = option("NMS threshold", default=0.45)
    max_det: int = option("at most so many detections a picture", default=300)
    method: Method = option("how the curve is averaged", default="voc_all")
    batch: int = option("pictures at a time", default=16)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    json: Path | None = option("write the numbers to this file", default=None)
    plot: Path | None = option("draw the precision-recall curves into this file", default=None)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, self.batch)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = parse(EvaluateConfig, argv, "python -m yolov2.evaluate", "Average precision of a checkpoint.")
    weights = config.weights or newest_weights()
    device = pick_device(config.device)
    detector = Detector.load(weights, device)
    data = config.data or training_data(detector.config, weights)
    complaints = Complaints()
    dataset = open_dataset(data, config.split, detector.names, complaints)
    complaints.report()
    for path in (config.json, config.plot):  # a mistake in the path must not cost a whole evaluation
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
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
    )
    complaints.report()
    print(result.table())
    print(f"{len(result.found) / result.seconds:.1f} pictures/s, {config.method}, IoU .5")
    if config.json:
        # JSON has no NaN: what has no truths is null
        mean, *per_class = (
            None if np.isnan(ap) else ap for ap in (result.map50, *result.precision.per_class.tolist())
        )
        numbers = {"map50": mean, "per_class": dict(zip(result.names, per_class, strict=True))}
        config.json.write_text(json.dumps(numbers, indent=1))
    if config.plot:
        result.plot(config.plot)


if __name__ == "__main__":
    raise SystemExit(run(main))

"""Measure a detector: ``python -m yolov2.evaluate --weights runs/NAME/best.safetensors``.

Or what another tool found: ``python -m yolov2.evaluate --data VOC2012 --detections results --method voc11``
reads the files of `yolov2.data.detections`, and measures overlap as Pascal VOC's development kit does.

The measuring itself is in `yolov2.evaluation`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from yolov2.checkpoint import training_data
from yolov2.cli import option, parse, run
from yolov2.confusion import Confusion, Pairs, confusion, pair_up
from yolov2.data.coco_results import read_coco_results, write_coco_results
from yolov2.data.dataset import Dataset
from yolov2.data.detections import read_detections, write_detections
from yolov2.data.sources import Format, open_dataset
from yolov2.detector import Detector, check_options
from yolov2.errors import Complaints, UserError
from yolov2.evaluation import (
    ClassResult,
    Evaluation,
    Metric,
    Overlap,
    Point,
    check_classes,
    compare,
    detect_all,
    detection_table,
    evaluate,
    merge_shards,
    settings_of,
    truth_table,
)
from yolov2.loading import load
from yolov2.names import VOC_NAMES, read_names
from yolov2.runs import newest_weights
from yolov2.worst import worst_pictures, worst_sheet

__all__ = [
    "ClassResult",
    "EvaluateConfig",
    "Evaluation",
    "Point",
    "compare",
    "detect_all",
    "detection_table",
    "evaluate",
    "main",
    "merge_shards",
    "settings_of",
    "truth_table",
]

FEW = 12  # classes whose confusion table is as wide as a terminal
IOU = 0.5  # of the confusion table


@dataclass(frozen=True)
class EvaluateConfig:
    """Flags of ``python -m yolov2.evaluate``."""

    weights: Path | None = option(
        "checkpoint, or Darknet's .weights; none is the best one of the newest run", default=None
    )
    cfg: Path | None = option("network file of .weights; none is the one beside them", default=None)
    detections: Path | None = option(
        "in place of a network, a file of detections (.json: COCO's) or a folder of Darknet's *_CLASS.txt",
        default=None,
    )
    names: Path | None = option(
        "class names of --detections or .weights, one a line; none is VOC's twenty, or those beside them",
        default=None,
    )
    data: Path | None = option("data set; none is the one the checkpoint was trained on", default=None)
    format: Format | None = option("format of the data; none is detected", default=None)
    split: str = option("which part of the data set", default="val")
    classes: tuple[str, ...] | None = option("measure only these; none is all", default=None)
    imgsz: tuple[int, ...] | None = option(
        "size of the network's input: one side, or height,width; none is the checkpoint's", default=None
    )
    conf: float = option("detections must score above this", default=0.005)
    iou: float = option("NMS threshold", default=0.45)
    max_det: int = option("at most so many detections a picture", default=300)
    method: Metric = option(
        "how the curve is averaged after VOC's matching; coco is COCO's own measure", default="voc_all"
    )
    overlap: Overlap | None = option(
        "inclusive counts a pixel more, as VOC does; none is inclusive with VOC's files of --detections",
        default=None,
    )
    batch: int = option("pictures at a time", default=16)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    out: Path | None = option("write all of the next five into this folder", default=None)
    json: Path | None = option("write the numbers to this file", default=None)
    plot: Path | None = option("draw the precision-recall curves into this file", default=None)
    confusion: Path | None = option("draw what was taken for what into this file", default=None)
    worst: Path | None = option("draw the 50 worst pictures into this file", default=None)
    sure: float = option("least score for --confusion and --worst", default=0.25)
    save_coco_results: Path | None = option("write COCO's results to this .json file", default=None)
    save_detections: Path | None = option("write VOC's file per class to this folder", default=None)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, self.batch)
        if self.detections and self.weights:
            raise ValueError("--detections takes the place of --weights; give one of them")
        if self.detections and not self.data:
            raise ValueError("--detections: on which pictures? give --data")
        if self.detections and self.imgsz:
            raise ValueError("--imgsz: --detections were found without asking for a size; leave one out")
        if self.imgsz is not None and (len(self.imgsz) not in (1, 2) or min(self.imgsz) < 1):
            raise ValueError("--imgsz: one side in pixels, or height,width")
        if self.classes == ():
            raise ValueError("--classes: name one or more")
        if not 0 <= self.sure <= 1:
            raise ValueError("--sure must be from 0 to 1")
        if self.method == "coco" and self.overlap == "inclusive":
            raise ValueError("--overlap: COCO's measure knows continuous only")

    @property
    def side(self) -> Any:
        """`imgsz` as `yolov2.load` takes it."""
        return self.imgsz[0] if self.imgsz is not None and len(self.imgsz) == 1 else self.imgsz

    def with_folder(self) -> "EvaluateConfig":
        """The flags that --out stands for, where they are not given themselves."""
        if self.out is None:
            return self
        files: dict[str, Any] = {
            "json": "metrics.json",
            "plot": "precision_recall.png",
            "confusion": "confusion.png",
            "worst": "worst.png",
            "save_coco_results": "coco_results.json",
        }
        files = {flag: getattr(self, flag) or self.out / name for flag, name in files.items()}
        return replace(self, **files)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    what = "Average precision of a checkpoint or of detections in files."
    config = parse(EvaluateConfig, argv, "python -m yolov2.evaluate", what).with_folder()
    if not config.detections and not config.weights:
        config = replace(config, weights=newest_weights())
    measure = _of_file(config) if config.detections else _of_network(config)
    files = (config.json, config.plot, config.confusion, config.worst, config.save_coco_results)
    for folder in (*(file and file.parent for file in files), config.save_detections):
        if folder:
            folder.mkdir(
                parents=True, exist_ok=True
            )  # a mistake in the path must not cost a whole evaluation
    result = measure()
    print(result.table())
    if result.coco:
        print(f"\n{result.coco_table()}\n")
    print(result.headline())
    pairs = pair_up(result.detections, result.truths, config.sure, IOU)
    confused = confusion(pairs, result.names, config.sure, IOU)
    if config.json:
        config.json.write_text(json.dumps(_numbers(config, result, confused), indent=1))
    if config.plot:
        result.plot(config.plot)
    if config.confusion:
        if len(result.names) <= FEW:
            print(f"\nscore > {config.sure:g}, IoU >= {IOU:g}, truths downwards\n{confused.table()}")
        confused.plot(config.confusion)
    if config.save_coco_results:
        pictures = Dataset(result.data_names, result.items)
        write_coco_results(config.save_coco_results, pictures, result.found, result.found_names)
    if config.save_detections:
        where = config.save_detections, config.split
        write_detections(*where, result.items, result.found, result.found_names)
    if config.worst:
        _draw_worst(config.worst, result, pairs)


def _draw_worst(path: Path, result: Evaluation, pairs: Pairs) -> None:
    worst = worst_pictures(pairs, len(result.items))
    if not worst:
        print(f"no mistake in any picture, so {path} is not drawn")
        return
    picture = worst_sheet(worst, pairs, result.items, result.names)
    try:
        picture.save(path)
    except ValueError as error:  # a suffix that is no format of pictures
        raise UserError(f"{path}: {error}") from None


def _numbers(config: EvaluateConfig, result: Evaluation, confused: Confusion) -> dict[str, Any]:
    """All that was measured, and with what, for --json."""
    source = config.detections or config.weights
    numbers = {
        "map50": result.map50,
        "per_class": dict(zip(result.names, result.precision.per_class.tolist(), strict=True)),
        "method": config.method,
        "overlap": result.overlap,
        "metric": result.headline(),
        "settings": result.settings and result.settings._asdict(),
        "source": source and str(source),
        "data": config.data and str(config.data),
        "split": config.split,
        "pictures": len(result.items),
        "classes": [row._asdict() | {"best": row.best and row.best._asdict()} for row in result.classes],
        "coco": result.coco and result.coco.summary() | {"per_class": result.coco.per_class().tolist()},
        "confusion": {
            "truths": [*confused.names, "background"],
            "predictions": [*confused.names, "missed"],
            "counts": confused.counts.tolist(),
            "conf": confused.conf,
            "iou": confused.iou,
        },
    }
    return _without_nan(numbers)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what has no truths is null."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _of_network(config: EvaluateConfig) -> Callable[[], Evaluation]:
    """Open network and data; what is returned runs the one on the other."""
    weights = config.weights
    assert weights
    detector = load(weights, config.cfg, config.names, device=config.device, imgsz=config.side)
    if not isinstance(detector, Detector):
        raise UserError(f"{weights}: a classifier finds no boxes; give a detector")
    if config.data is None and weights.suffix != ".safetensors":
        raise UserError(f"{weights}: which pictures? give --data")
    data, format = config.data, config.format
    if data is None:  # as it was trained on, read as it was then
        data = training_data(detector.config, weights)
        trained_as = detector.config.get("format")
        format = format or (trained_as if trained_as in get_args(Format) else None)
    check_classes(config.classes, detector.names)
    complaints = Complaints()
    dataset = open_dataset(data, config.split, detector.names, complaints, format)
    complaints.report()
    print(f"{weights} on {len(dataset)} pictures of {data or 'the built-in set'} ({config.split})")

    def measure() -> Evaluation:
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
            overlap=config.overlap or "continuous",
        )
        complaints.report()
        print(f"{len(result.found) / result.seconds:.1f} pictures/s")
        return result

    return measure


def _of_file(config: EvaluateConfig) -> Callable[[], Evaluation]:
    """Read detections and data; what is returned compares them."""
    assert config.detections
    names = read_names(config.names) if config.names else VOC_NAMES
    check_classes(config.classes, names)
    complaints = Complaints()
    dataset = open_dataset(config.data, config.split, names, complaints, config.format)
    of_coco = config.detections.suffix.lower() == ".json"
    read = read_coco_results if of_coco else read_detections
    found = read(config.detections, dataset.items, names, complaints)
    complaints.report()
    print(f"{config.detections} on {len(dataset)} pictures of {config.data} ({config.split})")
    usual: Overlap = "continuous" if of_coco or config.method == "coco" else "inclusive"
    overlap = config.overlap or usual
    return lambda: compare(dataset, found, names, config.method, classes=config.classes, overlap=overlap)


if __name__ == "__main__":
    raise SystemExit(run(main))

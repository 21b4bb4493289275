"""Measure a detector: ``python -m yolov2.evaluate --weights runs/NAME/best.safetensors``.

Or what another tool found: ``python -m yolov2.evaluate --data VOC2012 --detections results --method voc11``
reads the files of `yolov2.data.detections`, and measures overlap as Pascal VOC's development kit does.

A detector on a tree of words (YOLO9000) looks for the classes of the data, each by itself, at their nodes.
Shown pictures that have a class but no boxes, ``--classification FOLDER``, it is measured by depth: how far
down the tree is the surest detection of a picture right?

The measuring itself is in `yolov2.evaluation` and `yolov2.tree.evaluation`.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from reference.region import Region, TreeRule
from yolov2.checkpoint import training_data
from yolov2.cli import option, parse, run
from yolov2.confusion import Confusion, Pairs, confusion, pair_up
from yolov2.data.class_folders import ClassificationSet, open_classification
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
from yolov2.inference.engines import EngineName, Precision
from yolov2.inference.predictor import Predictor
from yolov2.loading import load
from yolov2.model import input_size
from yolov2.names import VOC_NAMES, read_names
from yolov2.report import node_lines
from yolov2.runs import newest_weights
from yolov2.tree.classes import class_nodes
from yolov2.tree.evaluation import best_detections
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
BOXES_ONLY = (
    *("detections", "data", "format", "map", "classes", "iou", "max_det", "method", "overlap", "plot"),
    *("confusion", "worst", "sure", "save_coco_results", "save_detections"),
)
CLASSES_ONLY = ("tree_thresh", "tree_rule")


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
        "names of the classes of --detections or .weights (on a tree: nodes), one a line; none is VOC's "
        "twenty, or those beside them",
        default=None,
    )
    data: Path | None = option("data set; none is the one the checkpoint was trained on", default=None)
    map: Path | None = option(
        "on a tree: node of every class of the data, a number a line as in Darknet's coco9k.map; none is "
        "the one trained with, and the names of the nodes",
        default=None,
    )
    classification: Path | None = option(
        "on a tree: measure on these pictures, which have a class and no boxes: folders called after nodes, "
        "or Darknet's .data",
        default=None,
    )
    tree_thresh: float = option(
        "--classification: go down the tree while the path is likelier than this", default=0.5
    )
    tree_rule: TreeRule = option(
        "--classification: how likely a path is: the product of the absolute probabilities, or of the "
        "conditional ones (paper)",
        default="darknet",
    )
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
    engine: EngineName | None = option(
        "what runs the network, as of yolov2.detect; none is the network as it was trained", default=None
    )
    precision: Precision = option("of the engine", default="auto")
    calibration: Path | None = option("of --precision int8: pictures like those to come", default=None)
    out: Path | None = option(
        "write all of the next five into this folder; of --classification hierarchy.json, pictures.csv and "
        "a sheet of the surest, pictures.png",
        default=None,
    )
    json: Path | None = option("write the numbers to this file", default=None)
    plot: Path | None = option("draw the precision-recall curves into this file", default=None)
    confusion: Path | None = option("draw what was taken for what into this file", default=None)
    worst: Path | None = option("draw the 50 worst pictures into this file", default=None)
    sure: float = option("least score for --confusion, --worst and --classification's count", default=0.25)
    save_coco_results: Path | None = option("write COCO's results to this .json file", default=None)
    save_detections: Path | None = option("write VOC's file per class to this folder", default=None)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, self.batch, self.tree_thresh)
        self._check_kind()
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

    def _check_kind(self) -> None:
        """Refuse flags about boxes with --classification, and those about a tree where none is descended."""
        if self.detections and self.map:
            raise ValueError("--map: --detections are of the classes of --names, not of a tree; leave it out")
        given = self.classification is not None
        why = "these pictures have no boxes" if given else "only with --classification"
        for flag in BOXES_ONLY if given else CLASSES_ONLY:
            if getattr(self, flag) != getattr(EvaluateConfig, flag):
                raise ValueError(f"--{flag.replace('_', '-')}: {why}; leave it out")
        if given and self.json is not None and self.json.suffix != ".json":
            raise ValueError(f"--json {self.json}: give it the ending .json")

    @property
    def side(self) -> Any:
        """`imgsz` as `yolov2.load` takes it."""
        return self.imgsz[0] if self.imgsz is not None and len(self.imgsz) == 1 else self.imgsz

    def with_folder(self) -> "EvaluateConfig":
        """The flags that --out stands for, where they are not given themselves."""
        if self.out is None:
            return self
        if self.classification is not None:
            return replace(self, json=self.json or self.out / "hierarchy.json")
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
    if config.classification:
        _by_depth(config)
        return
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


def _open_detector(config: EvaluateConfig) -> Detector:
    assert config.weights
    detector = load(config.weights, config.cfg, config.names, device=config.device, imgsz=config.side)
    if not isinstance(detector, Detector):
        raise UserError(f"{config.weights}: a classifier finds no boxes; give a detector")
    on_tree = isinstance(detector.head, Region) and detector.head.tree is not None
    for flag in ("map", "classification"):
        if getattr(config, flag) is not None and not on_tree:
            raise UserError(f"--{flag}: {config.weights} is no detector on a tree; leave it out")
    return detector


def _predictor(config: EvaluateConfig, detector: Detector) -> Predictor | None:
    """The detector under the engine that was asked for."""
    if config.engine is None:
        for flag in ("precision", "calibration"):
            if getattr(config, flag) != getattr(EvaluateConfig, flag):
                raise UserError(f"--{flag} is of an engine; add --engine auto")
        return None
    calibration = None if config.calibration is None else str(config.calibration)
    return Predictor(detector, config.engine, config.precision, calibration)


def _of_network(config: EvaluateConfig) -> Callable[[], Evaluation]:
    """Open network and data; what is returned runs the one on the other."""
    detector, weights = _open_detector(config), config.weights
    assert weights
    if config.data is None and weights.suffix != ".safetensors":
        raise UserError(f"{weights}: which pictures? give --data")
    data, format = config.data, config.format
    if data is None:  # as it was trained on, read as it was then
        data = training_data(detector.config, weights)
        trained_as = detector.config.get("format")
        format = format or (trained_as if trained_as in get_args(Format) else None)
    complaints = Complaints()
    if isinstance(detector.head, Region) and detector.head.tree is not None:
        own = config.data is None and "mapped" in detector.config
        names = tuple(detector.class_nodes) or None if own else None  # else the data say which there are
        dataset = open_dataset(data, config.split, names, complaints, format)
        detector, lines = _looking_for(dataset.names, detector, config, complaints)
        check_classes(config.classes, detector.names)
    else:
        check_classes(config.classes, detector.names)
        dataset = open_dataset(data, config.split, detector.names, complaints, format)
        lines = []
    complaints.report()
    predictor = _predictor(config, detector)
    what = f"{weights} on {len(dataset)} pictures of {data or 'the built-in set'} ({config.split})"
    print("\n".join([what, *lines]))

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
            predictor=predictor,
        )
        complaints.report()
        print(f"{len(result.found) / result.seconds:.1f} pictures/s")
        return result

    return measure


def _looking_for(
    names: tuple[str, ...], detector: Detector, config: EvaluateConfig, complaints: Complaints
) -> tuple[Detector, list[str]]:
    """The detector looking for the classes of the data at their nodes of its tree; which these are."""
    tree = detector.region.tree
    assert tree is not None
    where = config.data or "the data trained on"
    nodes = class_nodes(
        names, tree, detector.names, where, complaints, class_map=config.map, known=detector.class_nodes
    )
    return detector.for_classes(names, nodes), node_lines(names, nodes, tree, detector.names)


def _by_depth(config: EvaluateConfig) -> None:
    """The command on pictures that have a class and no boxes."""
    detector, data = _open_detector(config), config.classification
    complaints = Complaints()
    dataset = open_classification(data, config.split, detector.names, complaints, tree=detector.region.tree)
    assert data and isinstance(dataset, ClassificationSet)
    complaints.report()
    for folder in (config.json and config.json.parent, config.out):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    print(f"{config.weights} on {len(dataset)} pictures of {data} ({config.split})")
    start = time.perf_counter()
    best = best_detections(
        detector,
        dataset,
        config.conf,
        config.batch,
        config.tree_thresh,
        config.tree_rule,
        complaints=complaints,
        sure=config.sure,
    )
    seconds = time.perf_counter() - start
    complaints.report()
    width, height = input_size(detector.imgsz)
    print(f"{best.hierarchy.table()}\n\n{best.classes()}\n{best.among_all_classes()}")
    print(
        f"{best.hierarchy} by the {config.tree_rule} rule, {width}x{height} {detector.resize}, "
        f"conf {config.conf:g}; {len(best.scores) / seconds:.1f} pictures/s"
    )
    if config.json:
        best.hierarchy.save(config.json)
    if config.out:
        best.save(config.out / "pictures.csv")
        if page := best.sheet():
            page.save(config.out / "pictures.png")


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

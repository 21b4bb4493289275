"""Find objects in pictures: ``python -m yolov2.detect SOURCE...`` writes drawn pictures and a JSON file."""

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reference.region import Region, TreeRule
from yolov2.classifier import Classifier
from yolov2.cli import option, parse, run
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.inference.engines import EngineName, Precision
from yolov2.inference.predictor import Predictor
from yolov2.loading import load
from yolov2.model import check_options
from yolov2.results import Results
from yolov2.runs import new_run, newest_weights
from yolov2.sources import VIDEO_SUFFIXES, open_source


def to_records(results: Results) -> list[dict]:
    """Detections as JSON-able records; boxes are left, top, right, bottom in pixels, clipped.

    A classifier's records are the five best classes, without a box. On a tree a detection has its path, from
    the root to its class.
    """
    records = []
    for row in results.summary():
        record = {"class": row["name"], "score": round(row["confidence"], 4)}
        if "box" in row:
            record["box"] = [round(row["box"][side], 1) for side in ("x1", "y1", "x2", "y2")]
        if "path" in row:
            record["path"] = [
                {"class": node["name"], "probability": round(node["probability"], 4)} for node in row["path"]
            ]
        records.append(record)
    return records


class VideoFile:
    """A video of drawn frames, written as they come."""

    def __init__(self, path: Path, source: str):
        import cv2

        self.path, self._cv2 = path, cv2
        self._rate = 25.0
        if "://" in source or Path(source).is_file():  # a camera says nothing
            capture = cv2.VideoCapture(source)
            self._rate = capture.get(cv2.CAP_PROP_FPS) or self._rate
            capture.release()
        self._writer: Any = None

    def add(self, frame: np.ndarray) -> None:
        """Append a frame, uint8 (H, W, 3) RGB; the first one decides the size.

        Raises
        ------
        UserError
            If OpenCV cannot write such a file.
        """
        if self._writer is None:
            size = frame.shape[1], frame.shape[0]
            fourcc = self._cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = self._cv2.VideoWriter(str(self.path), fourcc, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(f"{self.path}: OpenCV cannot write it; use --no-draw")
        self._writer.write(self._cv2.cvtColor(frame, self._cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()


class Drawing:
    """Pictures and videos of what was found, in one folder; on a tree with the paths beside if so wished."""

    def __init__(self, folder: Path, paths: bool):
        self.folder, self.paths = folder, paths
        self._taken: set[str] = set()
        self._video: VideoFile | None = None
        self._source = ""  # of that video

    def add(self, results: Results) -> str:
        """Draw a picture, or the next frame of a video; returns the name of its file."""
        moving, drawn = _is_moving(results.path), results.plot(self.paths)
        if moving and self._video is not None and results.path == self._source:
            self._video.add(np.asarray(drawn))
            return self._video.path.name
        # pictures of equal names from several folders must not overwrite each other
        start = Path(results.path).stem
        stem = next(s for s in chain([start], (f"{start}-{n}" for n in count(2))) if s not in self._taken)
        self._taken.add(stem)
        if not moving:
            drawn.save(self.folder / f"{stem}.png")
            return f"{stem}.png"
        self.close()
        self._video, self._source = VideoFile(self.folder / f"{stem}.mp4", results.path), results.path
        self._video.add(np.asarray(drawn))
        return self._video.path.name

    def close(self) -> None:
        """Finish the video."""
        if self._video is not None:
            self._video.close()
        self._video = None


def _is_moving(path: str) -> bool:
    """Whether frames of that name are those of a video, stream or camera."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES or not Path(path).is_file()


@dataclass(frozen=True)
class DetectConfig:
    """Flags of ``python -m yolov2.detect``."""

    source: tuple[str, ...] = option(
        "pictures, folders, patterns, .txt lists, videos, streams, camera numbers", positional=True
    )
    weights: Path | None = option(
        "checkpoint, or Darknet's .weights; none is the best one of the newest run", default=None
    )
    cfg: Path | None = option("network file of .weights; none is the one beside them", default=None)
    names: Path | None = option("class names of .weights, one a line; none: beside them", default=None)
    conf: float = option("detections must score above this", default=0.25)
    iou: float = option("NMS threshold", default=0.45)
    max_det: int = option("at most so many detections a picture", default=100)
    imgsz: tuple[int, ...] | None = option(
        "input in pixels, one side or height,width; none is the network's", default=None
    )
    batch: int = option("pictures at a time", default=16)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    project: Path = option("results go into a new folder of this one", default=Path("runs"))
    name: str = option("name of that folder", default="detect")
    draw: bool = option("write the pictures with their boxes", default=True)
    save: bool = option("write anything at all; with --no-save only the terminal is told", default=True)
    engine: EngineName = option("what runs the network; auto is eager, see README", default="auto")
    precision: Precision = option("auto is float16 on CUDA GPUs, float32 elsewhere", default="auto")
    calibration: Path | None = option(
        "for int8: pictures like those to come, from which it learns the ranges", default=None
    )
    tree_thresh: float = option("go down a tree of classes while the path is likelier than this", default=0.5)
    tree_rule: TreeRule = option(
        "how likely a path is: the product of the absolute probabilities, or of the conditional ones (paper)",
        default="darknet",
    )
    paths: bool = option("on a tree: draw the paths and their probabilities beside", default=True)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, self.batch, self.tree_thresh)
        if self.imgsz is not None and len(self.imgsz) not in (1, 2):
            raise ValueError("--imgsz: one side, or height,width")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = parse(DetectConfig, argv, "python -m yolov2.detect", "Find objects in pictures.")
    complaints = Complaints()
    source = open_source(list(config.source), complaints=complaints)
    weights = config.weights or newest_weights()
    model = load(weights, config.cfg, config.names, device=config.device)
    imgsz: Any = config.imgsz if config.imgsz is None or len(config.imgsz) == 2 else config.imgsz[0]
    options: Any = {"conf": config.conf, "iou": config.iou, "max_det": config.max_det}
    options |= _tree_options(config, model, weights)
    calibration = None if config.calibration is None else str(config.calibration)
    predictor = Predictor(model, config.engine, config.precision, calibration)
    try:
        stream = iter(
            predictor.predict(source, imgsz=imgsz, batch=config.batch, stream=True, progress=False, **options)
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None
    start = time.perf_counter()
    first = next(stream)  # if there is none, a UserError says why, and no folder has been made
    folder = new_run(config.project, config.name) if config.save else None
    pictures, boxes = _write(config, weights, chain([first], stream), source.count, folder)
    seconds = time.perf_counter() - start
    complaints.report()
    what = "" if first.boxes is None else f"{boxes} objects in "
    where = f"; see {folder}" if folder else ""
    print(f"{what}{pictures} pictures, {pictures / seconds:.1f} pictures/s{where}")


def _tree_options(config: DetectConfig, model: Detector | Classifier, weights: Path) -> dict[str, Any]:
    """How a detector on a tree descends; none of another model.

    Raises
    ------
    UserError
        If the user says how, but there is no tree to descend.
    """
    if isinstance(model, Detector) and isinstance(model.head, Region) and model.head.tree is not None:
        return {"tree_threshold": config.tree_thresh, "tree_rule": config.tree_rule}
    for flag in ("tree_thresh", "tree_rule"):
        if getattr(config, flag) != getattr(DetectConfig, flag):
            raise UserError(f"--{flag.replace('_', '-')}: {weights} is no detector on a tree; leave it out")
    return {}


def _write(
    config: DetectConfig, weights: Path, stream: Iterable[Results], total: int | None, folder: Path | None
) -> tuple[int, int]:
    """Write results as they come, if there is a folder for them; returns the numbers of pictures and boxes.

    Of videos and cameras there is no end of frames: they get a line of JSON each instead of one file.
    """
    done: list[dict] = []
    pictures = boxes = 0
    with ExitStack() as files:
        lines = drawing = None
        if folder and total is None:
            lines = files.enter_context((folder / "detections.jsonl").open("w"))
        if folder and config.draw:
            drawing = files.enter_context(closing(Drawing(folder, config.paths)))
        told = total is not None and total <= 10  # a line for each, in place of a bar
        for results in tqdm(stream, "detecting", total, unit="img", delay=2, disable=told):
            records = to_records(results)
            height, width = results.orig_shape
            entry = {"picture": results.path, "width": width, "height": height, "detections": records}
            if drawing:
                entry["drawn"] = drawing.add(results)
            pictures, boxes = pictures + 1, boxes + len(records)
            if lines is not None:
                print(json.dumps(entry), file=lines)
            elif folder:
                done.append(entry)
            if told:
                found = ", ".join(f"{r['class']} {r['score']:.2f}" for r in records) or "nothing found"
                print(f"{results.path}: {found}")
    if folder and total is not None:
        report = {"weights": str(weights), "conf": config.conf, "iou": config.iou, "pictures": done}
        (folder / "detections.json").write_text(json.dumps(report, indent=1))
    return pictures, boxes


if __name__ == "__main__":
    raise SystemExit(run(main))

"""Find objects in pictures: ``python -m yolov2.detect PATH...`` writes drawn pictures and a JSON file."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from yolov2.cli import option, parse, run
from yolov2.data.dataset import BROKEN, open_upright
from yolov2.detector import Detector, Found, check_options, pick_device
from yolov2.draw import draw_detections
from yolov2.errors import Complaints, UserError
from yolov2.runs import new_run, newest_weights
from yolov2.sources import find_pictures


def to_records(found: Found, size: tuple[int, int], names: Sequence[str]) -> list[dict]:
    """Detections as JSON-able records; boxes are left, top, right, bottom in pixels, clipped."""
    width, height = size
    low, high = found.boxes[:, :2] - found.boxes[:, 2:] / 2, found.boxes[:, :2] + found.boxes[:, 2:] / 2
    corners = np.concatenate([low, high], 1).clip(0, 1) * np.array([width, height, width, height])
    return [
        {"class": names[c], "score": round(float(s), 4), "box": [round(float(v), 1) for v in box]}
        for c, s, box in zip(found.classes, found.scores, corners, strict=True)
    ]


@dataclass(frozen=True)
class DetectConfig:
    """Flags of ``python -m yolov2.detect``."""

    source: tuple[Path, ...] = option("pictures and folders", positional=True)
    weights: Path | None = option("checkpoint; none is the best one of the newest run", default=None)
    conf: float = option("detections must score above this", default=0.25)
    iou: float = option("NMS threshold", default=0.45)
    max_det: int = option("at most so many detections a picture", default=100)
    batch: int = option("pictures at a time", default=16)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    project: Path = option("results go into a new folder of this one", default=Path("runs"))
    name: str = option("name of that folder", default="detect")
    draw: bool = option("write the pictures with their boxes", default=True)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, self.batch)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = parse(DetectConfig, argv, "python -m yolov2.detect", "Find objects in pictures.")
    paths = find_pictures(config.source)
    weights = config.weights or newest_weights()
    detector = Detector.load(weights, pick_device(config.device))
    complaints = Complaints()
    opened: list[Path] = []

    def pictures() -> Iterator[Image.Image]:
        for path in paths:
            try:
                picture = open_upright(path)
            except BROKEN:
                complaints.add("pictures cannot be read and were left out", path)
            else:
                opened.append(path)
                yield picture

    folder = new_run(config.project, config.name)
    start = time.perf_counter()
    stream = detector.stream(
        pictures(), config.batch, conf=config.conf, iou=config.iou, max_det=config.max_det
    )
    results: list[dict] = []
    taken: set[str] = set()
    for picture, found in tqdm(stream, "detecting", len(paths), unit="img", delay=2):
        path = opened[len(results)]
        records = to_records(found, picture.size, detector.names)
        result = {
            "picture": str(path),
            "width": picture.width,
            "height": picture.height,
            "detections": records,
        }
        if config.draw:
            # pictures of equal names from several folders must not overwrite each other
            stems = chain([path.stem], (f"{path.stem}-{number}" for number in count(2)))
            stem = next(stem for stem in stems if stem not in taken)
            taken.add(stem)
            drawn = draw_detections(picture, found.boxes, detector.names, found.classes, found.scores)
            drawn.save(folder / f"{stem}.png")
            result["drawn"] = f"{stem}.png"
        results.append(result)
        if len(paths) <= 10:
            summary = ", ".join(f"{r['class']} {r['score']:.2f}" for r in records) or "nothing found"
            tqdm.write(f"{path}: {summary}")
    seconds = time.perf_counter() - start
    if not results:
        folder.rmdir()
        what = paths[0] if len(paths) == 1 else f"all {len(paths)} files, e.g. {paths[0]}"
        raise UserError(f"{what}: cannot be read as a picture")
    (folder / "detections.json").write_text(
        json.dumps(
            {"weights": str(weights), "conf": config.conf, "iou": config.iou, "pictures": results}, indent=1
        )
    )
    complaints.report()
    boxes = sum(len(r["detections"]) for r in results)
    print(
        f"{boxes} objects in {len(results)} pictures, {len(results) / seconds:.1f} pictures/s; see {folder}"
    )


if __name__ == "__main__":
    raise SystemExit(run(main))

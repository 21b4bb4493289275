"""Look a data set over before it is trained on: ``python -m yolov2.check DATA``.

Every picture of every split is decoded once. What is found is printed, and every problem is written to
``problems.csv``: level, kind, split, file, line, reason. The exit status is 1 if there are errors, 0 if there
are none or hints only, 2 if the data set cannot be opened at all.

Errors: whatever the reader leaves out or changes (empty boxes, boxes reaching outside, the same box twice,
unknown classes, blank lines, labels without pictures, ...); pictures that cannot be decoded, or have another
size than announced; the same picture twice in a split, or in two splits, by the bytes of its file or by its
pixels; class names that differ between splits or in nothing but spelling; anchors in pixels, not in cells.

Hints: pictures without boxes, or that look like one of an earlier split; classes that a split lacks; many
boxes that are small, or that share cell and anchor with another one.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from yolov2 import plots
from yolov2.checking.boxes import fit
from yolov2.checking.classes import class_problems
from yolov2.checking.mosaic import mosaic
from yolov2.checking.pictures import Fingerprint, fingerprints, lookalikes, repeated
from yolov2.checking.problems import Problem, complained, write_csv
from yolov2.checking.report import anchor_table, class_table, problem_list, split_table
from yolov2.cli import option, parse, run
from yolov2.data.class_folders import ClassificationSet, open_classification
from yolov2.data.dataset import Dataset, Item
from yolov2.data.sources import Format as SourceFormat
from yolov2.data.sources import detect_format, read_split, splits_of
from yolov2.errors import Complaints, UserError
from yolov2.letterbox import Mode
from yolov2.presets import PRESETS
from yolov2.recipes import find_recipe
from yolov2.runs import new_run
from yolov2.train_config import parse_anchors

STRIDE = 32  # pixels of a cell
ORDER = ("train", "trainval", "val", "test")  # a picture that is in two splits belongs to the first of them
CLASS_SPLITS = ("train", "test", "val")  # that class folders may have
ABOVE = " that are in train too"  # a reader's complaint of what is found here by content

Format = Literal["voc", "coco", "yolo", "darknet", "classes"]
Anchors = tuple[tuple[float, float], ...]
Split = Dataset | ClassificationSet


@dataclass(frozen=True)
class CheckConfig:
    """Flags of ``python -m yolov2.check``."""

    data: tuple[Path, ...] = option("the data set: its folder or file", positional=True)
    format: Format | None = option(
        "what it is; none is what it looks like, classes are class folders", default=None
    )
    split: tuple[str, ...] | None = option("splits to look at, e.g. train,val; none is all", default=None)
    model: str = option(f"whose anchors: {', '.join(PRESETS)}, or a .cfg file", default="yolov2-voc")
    anchors: str = option("other anchors as w,h,w,h,... in cells, or preset", default="preset")
    imgsz: int | None = option("side of the network's input in pixels; none is the model's", default=None)
    resize: Mode = option("how pictures meet the input: letterbox or stretch", default="letterbox")
    mosaic: int = option("pictures on the sheet, 0 for none", default=24)
    out: Path | None = option("folder for what is written; none is runs/check, -2, ...", default=None)
    workers: int | None = option("threads that decode; none is one per core", default=None)

    def __post_init__(self):
        if len(self.data) != 1:
            raise ValueError(f"{len(self.data)} data sets; give one")
        if self.imgsz is not None and not (STRIDE <= self.imgsz <= 4096 and self.imgsz % STRIDE == 0):
            raise ValueError(f"--imgsz {self.imgsz}: must be a multiple of {STRIDE} up to 4096")
        if not 0 <= self.mosaic <= 1000:
            raise ValueError(f"--mosaic {self.mosaic}: must be from 0 to 1000")
        if self.workers is not None and not 1 <= self.workers <= 256:
            raise ValueError(f"--workers {self.workers}: must be from 1 to 256")
        if self.anchors != "preset" and parse_anchors(self.anchors) is None:
            raise ValueError(f"--anchors {self.anchors}: give preset, or numbers w,h,w,h,... in cells")


def open_splits(
    data: Path, format: Format | None, wanted: Collection[str] | None
) -> tuple[dict[str, Split], list[Problem]]:
    """All splits of a data set, those of training first, and what their readers complain of.

    ``trainval`` is left out where its two halves are there.

    Raises
    ------
    UserError
        If the data or a wanted split cannot be opened.
    """
    try:
        format = format or detect_format(data)
    except UserError as error:
        try:  # the most general form of all: any folder of folders
            return _open_splits(data, "classes", wanted)
        except UserError:
            more = "; there are no class folders (CLASS/*.jpg) either" if data.is_dir() else ""
            raise UserError(f"{error}{more}") from None
    return _open_splits(data, format, wanted)


def _open_splits(
    data: Path, format: Format, wanted: Collection[str] | None
) -> tuple[dict[str, Split], list[Problem]]:
    complaints, problems = Complaints(), []
    opened: dict[str, Split] = {}
    listed = wanted or (CLASS_SPLITS if format == "classes" else _own_splits(data, format))
    for name in listed:
        try:
            split = _open(data, format, name, complaints)
        except UserError:
            if wanted or format != "classes" or name == "train":
                raise
            continue  # it was worth a try
        if not any(_paths(split) == _paths(other) for other in opened.values()):  # test in val's place
            opened[name] = split
        problems += [p for p in complained(complaints, name) if not p.kind.endswith(ABOVE)]
        complaints.clear()
    return opened, problems


def _open(data: Path, format: Format, name: str, complaints: Complaints) -> Split:
    if format != "classes":
        return read_split(data, name, None, complaints, format)
    split = open_classification(data, name, None, complaints)
    assert isinstance(split, ClassificationSet)
    return split


def _own_splits(data: Path, format: SourceFormat) -> list[str]:
    """The splits of a detection set, those of training first, without ``trainval`` where its halves are."""
    names = splits_of(data, format)
    halves = {"train", "val"} <= set(names)
    kept = [name for name in names if name != "trainval" or not halves]
    return sorted(kept, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def as_detection(classified: ClassificationSet, prints: Mapping[Path, Fingerprint]) -> Dataset:
    """Pictures with one class each as pictures with one box each, as large as they are."""
    whole, sure = np.array([[0.5, 0.5, 1, 1]], np.float32), np.zeros(1, bool)
    items = [
        Item(f"{path.parent.name}/{path.stem}", *prints[path].size, whole, label[None], sure, path)
        for path, label in zip(classified.paths, classified.labels, strict=True)
        if path in prints
    ]
    return Dataset(classified.names, items)


def picture_problems(
    splits: Mapping[str, Sequence[Path]], prints: Mapping[Path, Fingerprint | str]
) -> Iterator[Problem]:
    """Pictures that cannot be decoded, are there twice, or look alike."""
    for split, paths in splits.items():
        for path in paths:
            if isinstance(reason := prints[path], str):
                yield Problem("error", "pictures that cannot be decoded", split, str(path), "", reason)
    readable = {path: found for path, found in prints.items() if isinstance(found, Fingerprint)}
    yield from repeated(splits, readable)
    yield from lookalikes(splits, readable)


def announced(split: str, dataset: Dataset, prints: Mapping[Path, Fingerprint]) -> Iterator[Problem]:
    """Pictures whose header speaks of another size than what is decoded."""
    for item in dataset.items:
        assert item.path
        width, height = prints[item.path].size
        if (width, height) != (item.width, item.height):
            kind = "pictures of another size than announced"
            reason = f"{item.width}x{item.height}, decoded {width}x{height}"
            yield Problem("error", kind, split, str(item.path), "", reason)


def background(split: str, dataset: Dataset) -> Iterator[Problem]:
    """Pictures without boxes: meant so, or without the labels they should have?"""
    for item in dataset.items:
        if not len(item.boxes):
            yield Problem("hint", "pictures without boxes", split, str(item.path))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 if there is an error in the data."""
    description = "Look a data set over before it is trained on. Status 1: errors were found; 2: not opened."
    config = parse(CheckConfig, argv, "python -m yolov2.check", description)
    data = config.data[0]
    recipe = find_recipe(config.model)
    anchors: Anchors = parse_anchors(config.anchors) or recipe.region.anchors
    opened, problems = open_splits(data, config.format, config.split)

    places = {name: _paths(split) for name, split in opened.items()}
    prints = fingerprints([path for paths in places.values() for path in paths], config.workers)
    readable = {path: found for path, found in prints.items() if isinstance(found, Fingerprint)}
    problems += picture_problems(places, prints)
    boxed = any(isinstance(split, Dataset) for split in opened.values())
    splits: dict[str, Dataset] = {}
    for name, split in opened.items():
        if isinstance(split, ClassificationSet):
            splits[name] = as_detection(split, readable)
        else:
            splits[name] = replace(split, items=[item for item in split.items if item.path in readable])
            problems += announced(name, splits[name], readable)
            problems += background(name, splits[name])
    problems += class_problems(splits)

    out = config.out or new_run(Path("runs"), "check")
    out.mkdir(parents=True, exist_ok=True)
    lines = [*split_table(splits, boxed), "", *class_table(splits, "boxes" if boxed else "pictures")]
    if boxed:
        trained = next(iter(splits))
        found = fit(splits[trained], anchors, config.imgsz or recipe.imgsz, STRIDE, config.resize)
        whose = config.model if config.anchors == "preset" else "--anchors"
        lines += ["", *anchor_table(found, whose, trained, config.resize)]
        problems += found.problems()
        if len(found.wh):
            plots.box_sizes(found.wh * STRIDE, found.anchors * STRIDE, out / "boxes.png")
    print("\n".join([*lines, *problem_list(problems, data)]))
    write_csv(problems, out / "problems.csv")
    if config.mosaic and any(map(len, splits.values())):
        mosaic(splits, config.mosaic).save(out / "mosaic.png")
    errors = sum(problem.level == "error" for problem in problems)
    print(f"\nerrors: {errors}, hints: {len(problems) - errors}; all of them are in {out / 'problems.csv'}")
    return int(errors > 0)


def _paths(split: Split) -> list[Path]:
    if isinstance(split, ClassificationSet):
        return list(split.paths)
    return [item.path for item in split.items if item.path]


if __name__ == "__main__":
    raise SystemExit(run(main))

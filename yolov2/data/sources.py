"""The one place that turns ``--data`` into data sets, whatever their format."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from yolov2.data import coco, darknet, voc, yolo
from yolov2.data.classes import ClassIndex
from yolov2.data.dataset import Dataset, Item
from yolov2.data.files import is_folder, shown, split_name, unpacked
from yolov2.data.shapes import shapes
from yolov2.errors import Complaints, UserError

SHAPES_COUNT = {"train": 3000, "val": 300}

Format = Literal["voc", "coco", "yolo", "darknet"]


class _Reader(NamedTuple):
    """What a format can do; both raise UserError."""

    splits: Callable[[Path], Sequence[str]]
    read: Callable[[Path, str, tuple[str, ...] | None, Complaints], Dataset]


def detect_format(data: Path) -> Format:
    """The format of a data set, by what the folder or file holds.

    Where a folder holds several (VOC with label files made of it), the first of voc, coco, yolo and darknet
    counts.

    Raises
    ------
    UserError
        If there is no such file or folder, or nothing in it that a format begins with; it lists these.
    """
    return _formats(data)[0]


def splits_of(data: Path, format: Format | None = None) -> tuple[str, ...]:
    """Names of the splits that a data set itself has, e.g. ("train", "val").

    Raises
    ------
    UserError
        If there is no such data.
    """
    return tuple(_READERS[format or detect_format(data)].splits(data))


def read_split(
    data: Path,
    split: str,
    names: tuple[str, ...] | None = None,
    complaints: Complaints | None = None,
    format: Format | None = None,
) -> Dataset:
    """One of a data set's own splits, whole; arguments and errors as for `open_dataset`."""
    collected = Complaints() if complaints is None else complaints
    reader = _READERS[_chosen(data, format, collected)]
    dataset = reader.read(data, split_name(split), names, collected)
    if complaints is None:
        collected.report()
    return dataset


def open_dataset(
    data: Path | None,
    split: str,
    names: tuple[str, ...] | None = None,
    complaints: Complaints | None = None,
    format: Format | None = None,
) -> Dataset:
    """Open one split of a data set.

    Parameters
    ----------
    data : Path, optional
        A folder or file of one of the formats; None is the built-in set, drawn by the program.
    split : str
        "train", "val", "test". Where there is no val, test takes that place, and where there is neither,
        every tenth training picture is val and left out of train; either is announced on stderr.
    names : tuple of str, optional
        Class names in order, e.g. those of a network; None takes those of the data. The data's classes are
        renumbered by name, and every one that has a box must be among them.
    complaints : Complaints, optional
        Collects what is wrong with single files.
    format : {"voc", "coco", "yolo", "darknet"}, optional
        By default, `detect_format`.

    Returns
    -------
    Dataset

    Raises
    ------
    UserError
        If there is no such data or split, or it has other classes.
    """
    if data is not None:
        collected = Complaints() if complaints is None else complaints
        dataset = _open(data, split_name(split), names, collected, _chosen(data, format, collected))
        if complaints is None:
            collected.report()
        return dataset
    if split != "train" and split != "val":
        raise UserError(f"the built-in set has no split {split!r}; choose train or val")
    return shapes(split, SHAPES_COUNT[split])


def open_train_val(
    data: Path | None,
    names: tuple[str, ...] | None,
    complaints: Complaints,
    format: Format | None = None,
) -> tuple[Dataset, Dataset]:
    """The training pictures and those to evaluate on while training: splits train and val of `open_dataset`.

    Raises
    ------
    UserError
        As `open_dataset`.
    """
    if data is None:
        train = open_dataset(data, "train", names, complaints)
        return train, open_dataset(data, "val", train.names, complaints)
    format = _chosen(data, format, complaints)
    if _lacks_val(data, format):
        return _hold_out(data, names, complaints, format)
    train = _open(data, "train", names, complaints, format)
    val = _open(data, "val", train.names, complaints, format)
    if format != "voc":  # whose reader has said so
        known = {item.path for item in train.items}
        for item in val.items:
            if item.path in known:
                complaints.add("pictures of val that are in train too", shown(item.path))
    return train, val


def _formats(data: Path) -> list[Format]:
    """All formats that a file or folder holds."""
    suffix = data.suffix.lower()
    by_suffix: dict[str, Format] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".data": "darknet"}
    if suffix in by_suffix and not is_folder(data):
        return [by_suffix[suffix]]
    if not is_folder(data):
        raise UserError(f"{shown(data)}: no such folder; unpack the data set there or correct --data")
    found = [format for format in get_args(Format) if _holds(data, format)]
    if not found:
        raise UserError(
            f"{shown(data)}: no data set of a known format; looked for Pascal VOC (JPEGImages/ with "
            "Annotations/, or pictures with .xml), COCO (annotations/instances_*.json, or "
            "train/_annotations.coco.json), YOLO (data.yaml, images/ with labels/, or classes.txt) and "
            "Darknet (a .data file)"
        )
    return found


def _holds(data: Path, format: Format) -> bool:
    """Whether a folder begins as one of this format does."""
    match format:
        case "voc":
            return voc.holds_voc(data)
        case "coco":
            return coco.holds_coco(unpacked(data))
        case "yolo":
            return yolo.holds_yolo(unpacked(data))
        case "darknet":
            return bool(darknet.data_files(unpacked(data)))


def _chosen(data: Path, format: Format | None, complaints: Complaints) -> Format:
    """The format, detected where it is not given; that there are others is remarked."""
    if format is not None:
        return format
    first, *others = _formats(data)
    if others:
        complaints.note(f"{shown(data)}: read as {first}; it holds {' and '.join(others)} too, see --format")
    return first


def _open(
    data: Path, split: str, names: tuple[str, ...] | None, complaints: Complaints, format: Format
) -> Dataset:
    if split in ("train", "val") and _lacks_val(data, format):
        return _hold_out(data, names, complaints, format)[split == "val"]
    reader = _READERS[format]
    if split == "val" and "val" not in reader.splits(data):
        complaints.note(f"{data}: no val split, its test split takes that place")
        split = "test"
    return reader.read(data, split, names, complaints)


def _lacks_val(data: Path, format: Format) -> bool:
    """Whether there is nothing but training pictures."""
    return not {"val", "test"} & set(_READERS[format].splits(data))


def _hold_out(
    data: Path, names: tuple[str, ...] | None, complaints: Complaints, format: Format
) -> tuple[Dataset, Dataset]:
    """The training pictures without every tenth of them, and those."""
    everything = _READERS[format].read(data, "train", names, complaints)
    if len(everything) < 2:
        raise UserError(f"{data}: one picture cannot be split into train and val; add pictures")
    complaints.note(f"{data}: no val split, every tenth training picture is held out")
    kept = [item for i, item in enumerate(everything.items) if i % 10]
    return replace(everything, items=kept), replace(everything, items=everything.items[::10])


def renumbered(dataset: Dataset, names: Sequence[str], where: object, complaints: Complaints) -> Dataset:
    """The data set with the classes of `names`, in that order.

    Raises
    ------
    UserError
        If a class that has a box is not among them; it names `where`.
    """
    if dataset.names == tuple(names):
        return dataset
    index = ClassIndex(names, complaints.note)
    used = sorted({number for item in dataset.items for number in item.classes.tolist()})
    numbers = np.zeros(len(dataset.names), np.int64)
    for number in used:
        numbers[number] = index.number(dataset.names[number], where)

    def with_numbers(item: Item) -> Item:
        return replace(item, classes=numbers[item.classes])

    return Dataset(index.names, [with_numbers(item) for item in dataset.items])


def _reader(
    splits: Callable[[Path], Sequence[str]], read: Callable[[Path, str, Complaints], Dataset]
) -> _Reader:
    """The reader of a format that has an order of its classes: it is replaced by that from outside."""

    def read_renumbered(
        data: Path, split: str, names: tuple[str, ...] | None, complaints: Complaints
    ) -> Dataset:
        dataset = read(unpacked(data), split, complaints)
        return dataset if names is None else renumbered(dataset, names, data, complaints)

    return _Reader(lambda data: splits(unpacked(data)), read_renumbered)


_READERS: dict[Format, _Reader] = {
    "voc": _Reader(voc.splits_available, voc.read_voc),
    "coco": _reader(coco.coco_splits, coco.read_coco),
    "yolo": _reader(yolo.yolo_splits, yolo.read_yolo),
    "darknet": _reader(darknet.darknet_splits, darknet.read_darknet),
}

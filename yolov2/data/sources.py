"""The one place that turns ``--data`` into data sets."""

from dataclasses import replace
from pathlib import Path

from yolov2.data.dataset import Dataset
from yolov2.data.shapes import shapes
from yolov2.data.voc import read_voc, splits_available
from yolov2.errors import Complaints, UserError

SHAPES_COUNT = {"train": 3000, "val": 300}


def open_dataset(
    data: Path | None, split: str, names: tuple[str, ...] | None = None, complaints: Complaints | None = None
) -> Dataset:
    """Open one split of a data set.

    Parameters
    ----------
    data : Path, optional
        A folder in Pascal VOC's layout; None is the built-in set, drawn by the program.
    split : str
        "train", "val", "test". Where a folder has no val its test takes that place, and where it has neither,
        every tenth training picture is val and left out of train; either is announced on stderr.
    names : tuple of str, optional
        Class names in order; None takes those of the data.
    complaints : Complaints, optional
        Collects what is wrong with single files.

    Returns
    -------
    Dataset

    Raises
    ------
    UserError
        If there is no such data or split, or it has other classes.
    """
    if data is not None:
        collected = complaints or Complaints()
        dataset = _open_folder(data, split, names, collected)
        if complaints is None:
            collected.report()
        return dataset
    if split != "train" and split != "val":
        raise UserError(f"the built-in set has no split {split!r}; choose train or val")
    return shapes(split, SHAPES_COUNT[split])


def open_train_val(
    data: Path | None, names: tuple[str, ...] | None, complaints: Complaints
) -> tuple[Dataset, Dataset]:
    """The training pictures and those to evaluate on while training: splits train and val of `open_dataset`.

    Raises
    ------
    UserError
        As `open_dataset`.
    """
    if data is not None and _lacks_val(data):
        return _hold_out(data, names, complaints)
    train = open_dataset(data, "train", names, complaints)
    return train, open_dataset(data, "val", train.names, complaints)


def _open_folder(data: Path, split: str, names: tuple[str, ...] | None, complaints: Complaints) -> Dataset:
    if split in ("train", "val") and _lacks_val(data):
        return _hold_out(data, names, complaints)[split == "val"]
    if split == "val" and "val" not in splits_available(data):
        complaints.note(f"{data}: no val split, its test split takes that place")
        split = "test"
    return read_voc(data, split, names, complaints)


def _lacks_val(data: Path) -> bool:
    """Whether the folder has nothing but training pictures."""
    return not {"val", "test"} & set(splits_available(data))


def _hold_out(data: Path, names: tuple[str, ...] | None, complaints: Complaints) -> tuple[Dataset, Dataset]:
    """The training pictures without every tenth of them, and those."""
    everything = read_voc(data, "train", names, complaints)
    if len(everything) < 2:
        raise UserError(f"{data}: one picture cannot be split into train and val; add pictures")
    complaints.note(f"{data}: no val split, every tenth training picture is held out")
    kept = [item for i, item in enumerate(everything.items) if i % 10]
    return replace(everything, items=kept), replace(everything, items=everything.items[::10])

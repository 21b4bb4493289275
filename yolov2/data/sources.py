"""The one place that turns ``--data`` into data sets."""

from dataclasses import replace
from pathlib import Path

from yolov2.data.dataset import Dataset
from yolov2.data.shapes import shapes
from yolov2.data.voc import read_voc, splits_available
from yolov2.errors import Complaints, UserError

SHAPES_COUNT = {"train": 2000, "val": 300}


def open_dataset(
    data: Path | None, split: str, names: tuple[str, ...] | None = None, complaints: Complaints | None = None
) -> Dataset:
    """Open one split of a data set.

    Parameters
    ----------
    data : Path, optional
        A folder in Pascal VOC's layout; None is the built-in set, drawn by the program.
    split : str
        "train", "val", "test".
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
        return read_voc(data, split, names, complaints)
    if split != "train" and split != "val":
        raise UserError(f"the built-in set has no split {split!r}; choose train or val")
    return shapes(split, SHAPES_COUNT[split])


def open_train_val(
    data: Path | None, names: tuple[str, ...] | None, complaints: Complaints
) -> tuple[Dataset, Dataset]:
    """The training pictures and those to evaluate on while training.

    Where a folder has no val split its test split takes that place, and where it has neither, every tenth
    training picture is held out; either is announced on stderr.

    Raises
    ------
    UserError
        As `open_dataset`, or if one of the two would be empty.
    """
    if data is None:
        return open_dataset(None, "train"), open_dataset(None, "val")
    train = open_dataset(data, "train", names, complaints)
    splits = splits_available(data)
    for split in ("val", "test"):
        if split in splits:
            if split == "test":
                complaints.note(f"{data}: no val split, its test split is evaluated while training")
            return train, open_dataset(data, split, train.names, complaints)
    if len(train) < 2:
        raise UserError(f"{data}: one picture cannot be split into train and val; add pictures")
    complaints.note(f"{data}: no val split, every tenth training picture is held out")
    kept = [item for i, item in enumerate(train.items) if i % 10]
    return replace(train, items=kept), replace(train, items=train.items[::10])

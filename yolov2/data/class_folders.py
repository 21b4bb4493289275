"""Pictures with one class each, to train classifiers on: class folders, Darknet's lists, or crops of objects.

Accepted layouts::

    any/
        train/CLASS/*.jpg   val/CLASS/*.jpg       (or valid, test)
    any/
        CLASS/*.jpg                               every tenth picture of a class is val
    any.data                                      Darknet's: labels = FILE, train = FILE, valid = FILE

Classes are numbered in the order of their sorted names, in Darknet's form in that of its labels. There a
picture belongs to the class whose label is a part of its path (SPEC 18).

On a tree of words the classes are its nodes, and what is a class above (in Darknet's form a label) is a word
for one of them: its own name, as a wnid, or what people call it. It may be an inner node.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from reference.region import WordTree
from yolov2.data import darknet
from yolov2.data.classes import ClassIndex
from yolov2.data.dataset import BROKEN, Dataset, open_upright
from yolov2.data.files import (
    SPLITS,
    checked_names,
    is_folder,
    may_be_picture,
    pictures_in,
    shown,
    split_name,
    subfolders,
    unpacked,
)
from yolov2.data.sources import open_dataset
from yolov2.errors import Complaints, UserError
from yolov2.tree.nodes import nodes_of

DETECTION = {"jpegimages", "annotations", "imagesets", "images", "labels"}  # no names of classes


@dataclass(frozen=True)
class ClassificationSet:
    """Files of pictures, and the class of each.

    Parameters
    ----------
    names : tuple of str
        The classes, in order.
    paths : sequence of Path
        The N pictures; they are decoded when they are asked for.
    labels : ndarray, int64 (N,)
        Index of every picture's class.
    """

    names: tuple[str, ...]
    paths: Sequence[Path] = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def picture(self, index: int) -> Image.Image:
        """The RGB picture, upright.

        Raises
        ------
        UserError
            If the file is missing, truncated or no picture.
        """
        path = self.paths[index]
        try:
            if not may_be_picture(path):
                raise OSError("no regular file, too large, or PostScript")
            return open_upright(path)
        except BROKEN as error:
            raise UserError(f"{path}: cannot be read as a picture ({error}); replace or delete it") from error


@dataclass(frozen=True)
class ObjectCrops:
    """The objects of a detection set, each as a picture of its own, cut out when it is asked for.

    Parameters
    ----------
    names : tuple of str
        The classes, in order.
    dataset : Dataset
        Where the objects are.
    items : ndarray, int64 (N,)
        Index of every object's picture in `dataset`; equal ones are neighbours.
    corners : ndarray, int64 (N, 4)
        xmin, ymin, xmax, ymax of every crop in pixels.
    labels : ndarray, int64 (N,)
        Index of every object's class.
    """

    names: tuple[str, ...]
    dataset: Dataset
    items: np.ndarray = field(repr=False)
    corners: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Image.Image:
        """The RGB crop. Raises `UserError` if the picture it is cut from is broken."""
        xmin, ymin, xmax, ymax = self.corners[index].tolist()
        return self.dataset.picture(int(self.items[index])).crop((xmin, ymin, xmax, ymax))


def object_crops(dataset: Dataset, margin: float = 0.2, smallest: float = 16) -> ObjectCrops:
    """Cut the objects out of a detection set, so that who has no ImageNet can pre-train on them.

    Parameters
    ----------
    dataset : Dataset
        Its difficult boxes are passed over.
    margin : float
        What is added on every side, as a fraction of the box's width or height; the picture's edge ends it.
    smallest : float
        Boxes with a side below this many pixels are passed over.

    Raises
    ------
    UserError
        If no object is left.
    """
    items, corners, labels = [], [], []
    for index, item in enumerate(dataset.items):
        size = np.array([item.width, item.height])
        centre, wh = item.boxes[:, :2] * size, item.boxes[:, 2:] * size
        keep = ~item.difficult & (wh >= smallest).all(axis=1)
        reach = wh * (0.5 + margin)
        low = np.maximum(0, np.round(centre - reach))
        high = np.minimum(size, np.round(centre + reach))
        items += [index] * int(keep.sum())
        corners.append(np.hstack([low, high])[keep])
        labels.append(item.classes[keep])
    if not items:
        raise UserError(f"no object of {smallest:g} pixels or more in {len(dataset)} pictures to cut out")
    whole = np.concatenate(corners).astype(np.int64)
    classes = np.concatenate(labels).astype(np.int64)
    return ObjectCrops(dataset.names, dataset, np.array(items, np.int64), whole, classes)


def open_classification(
    data: Path | None,
    split: str,
    names: tuple[str, ...] | None = None,
    complaints: Complaints | None = None,
    crops: bool = False,
    tree: WordTree | None = None,
) -> ClassificationSet | ObjectCrops:
    """Open one split of a set of pictures with one class each.

    Parameters
    ----------
    data : Path, optional
        One of the layouts in the module's docstring, or with `crops` any detection set. None is the built-in
        set, whose objects are cut out.
    split : str
        "train", "val", "test". Where there is no val, test takes that place; where there is neither, every
        tenth picture of each class is val and left out of train. With `crops`, as `open_dataset` does.
    names : tuple of str, optional
        Class names in order; None takes those of the data. On a tree, what people call its nodes, and None
        is the tree's own names.
    complaints : Complaints, optional
        Collects what is wrong with single files.
    crops : bool
        `data` is a detection set: cut its objects out.
    tree : WordTree, optional
        The classes are its nodes.

    Raises
    ------
    UserError
        If there is no such data or split, or it has other classes.
    """
    collected = Complaints() if complaints is None else complaints
    own = names if tree is None else None
    result: ClassificationSet | ObjectCrops
    if crops or data is None:
        result = object_crops(open_dataset(data, split, own, collected))
    elif data.suffix == ".data":
        result = _open_lists(data, split_name(split), own, collected, by_label=tree is not None)
    else:
        result = _open_folders(data, split_name(split), own, collected)
    if tree is not None:
        called = tree.names if names is None else names
        nodes = nodes_of(result.names, tree, called, data or "the built-in set", collected)
        result = replace(result, names=called, labels=np.array(nodes, np.int64)[result.labels])
    if complaints is None:
        collected.report()
    return result


def _open_folders(
    data: Path, split: str, names: tuple[str, ...] | None, complaints: Complaints
) -> ClassificationSet:
    if not is_folder(data):
        raise UserError(f"{data}: no such folder; unpack the data set there or correct the path")
    parts = _class_folders(data)
    everything = sorted({name for folders in parts.values() for name in folders})
    index = ClassIndex(checked_names(everything, data) if names is None else names, complaints.note)
    if split == "train" and {"train", "val"} <= parts.keys():  # once, though both are opened
        for name in sorted(parts["val"].keys() - parts["train"].keys()):
            complaints.add("classes of val that train lacks", parts["val"][name])
    held_out = split in ("train", "val") and parts.keys() == {"train"}
    if held_out:
        complaints.note(f"{data}: no val split, every tenth picture of each class is held out")
    source = "train" if held_out else _replaced(split, parts.keys(), data, complaints)
    paths: list[Path] = []
    labels: list[int] = []
    for name, folder in parts[source].items():
        pictures = pictures_in(folder)
        if not pictures:
            complaints.add("class folders without pictures", folder)
        if held_out:
            pictures = _kept(pictures, split)
        paths += pictures
        labels += [index.number(name, folder)] * len(pictures)
    if not paths:
        raise UserError(f"{data}: split {split!r} has no picture")
    return ClassificationSet(index.names, paths, np.array(labels, np.int64))


def _class_folders(data: Path) -> dict[str, dict[str, Path]]:
    """Of every split the folders of its classes by name; a folder of nothing but classes is all "train"."""
    data = unpacked(data)
    inside = subfolders(data)
    splits = {split_name(f.name): subfolders(f) for f in inside if f.name.lower() in SPLITS}
    parts = {
        split: {folder.name: folder for folder in folders} for split, folders in splits.items() if folders
    }
    if not splits:
        parts = {"train": {folder.name: folder for folder in inside}} if inside else {}
    names = {name.lower() for folders in parts.values() for name in folders}
    if not parts or names & DETECTION:
        raise UserError(
            f"{data}: no class folders (CLASS/*.jpg, or train/CLASS/*.jpg and val/CLASS/*.jpg); "
            "the objects of a detection set are cut out with crops"
        )
    return parts


def _replaced(split: str, parts: Collection[str], data: Path, complaints: Complaints) -> str:
    """The split, or test where val is asked for and missing."""
    if split in parts:
        return split
    if split == "val" and "test" in parts:
        complaints.note(f"{data}: no val split, its test split takes that place")
        return "test"
    raise UserError(f"{data}: no split {split!r}, there is {', '.join(parts)}")


def _kept(pictures: list[Path], split: str) -> list[Path]:
    """Every tenth of a class for val, the rest for train, which also gets the only one."""
    if split == "val":
        return pictures[::10] if len(pictures) > 1 else []
    return [path for i, path in enumerate(pictures) if i % 10 or len(pictures) == 1]


def _open_lists(
    data: Path, split: str, names: tuple[str, ...] | None, complaints: Complaints, by_label: bool
) -> ClassificationSet:
    options = darknet.read_options(data)
    labels = darknet.read_name_list(darknet.option_file(data, options, "labels"))
    own = labels
    if options.get("names") and not by_label:  # a tree knows its labels, and "crane" is bird and machine
        own = darknet.read_name_list(darknet.option_file(data, options, "names"))[: len(labels)]
        if len(own) < len(labels):
            raise UserError(f"{data}: {len(own)} names for {len(labels)} labels")
    parts = [name for name, key in darknet.SPLIT_KEYS.items() if options.get(key)]
    held_out = split in ("train", "val") and parts == ["train"]
    source = "train" if held_out else _replaced(split, parts, data, complaints)
    listed = darknet.option_file(data, options, darknet.SPLIT_KEYS[source])
    by_class: list[list[Path]] = [[] for _ in labels]
    pictures = darknet.read_list(listed, darknet.roots_of(data), complaints)
    for path, text in tqdm(pictures.items(), f"reading {split}", unit="img", delay=2, leave=False):
        matches = [number for number, label in enumerate(labels) if label in text]
        if len(matches) == 1:
            by_class[matches[0]].append(path)
        else:
            what = "several labels" if matches else "none of the labels"
            complaints.add(f"pictures with {what} in their path left out", shown(path))
    if held_out:
        complaints.note(f"{data}: no val split, every tenth picture of each class is held out")
        by_class = [_kept(paths, split) for paths in by_class]
    index = ClassIndex(own if names is None else names, complaints.note)
    numbers = [index.number(own[i], data) for i, paths in enumerate(by_class) for _ in paths]
    if not numbers:
        raise UserError(
            f"{data}: split {split!r} has no picture whose path contains one of {len(labels)} labels"
        )
    return ClassificationSet(
        index.names, [path for paths in by_class for path in paths], np.array(numbers, np.int64)
    )

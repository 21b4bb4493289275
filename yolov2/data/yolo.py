"""Pictures with a label file each: a data.yaml as YOLOv5 and its successors read it, or folders alone.

Accepted layouts::

    any/data.yaml, or a folder with one .yaml that has `train` or `val` in it
        path: where the data are, from the yaml's folder; by default that folder itself
        train, val, test: a folder, a list of folders, or a .txt with one picture a line; from `path`
        names: [person, dog] or {0: person, 1: dog}      nc: 2
    any/
        images/train  images/val                  with labels/train, labels/val; "train2017" is "train"
        train/images  val/images                  with train/labels, val/labels
        images  labels                            no split
        *.jpg *.txt                               side by side, also in train/ and val/, with a classes.txt
        classes.txt, *.names, *.labels            the classes, one a line; by default, numbers

See `yolov2.data.labels` for rows and for which label file belongs to a picture.

All values of a yaml are taken as text (class "no" is no truth value), so that none builds anything; keys such
as `download`, which other tools execute, are not read. `path` may name any place, as it is there to do so.
What train, val and test name has to lie inside it. The lines of a .txt may name any picture, see
`yolov2.data.darknet`.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from yolov2.data.darknet import read_list, read_name_list
from yolov2.data.dataset import Dataset
from yolov2.data.files import (
    SPLITS,
    YAML_BYTES,
    checked_names,
    child,
    entries,
    is_folder,
    pictures_in,
    read_bytes,
    shown,
    split_name,
    subfolders,
)
from yolov2.data.labels import read_labelled, unnamed_classes
from yolov2.errors import Complaints, UserError
from yolov2.names import default_names

YEAR = re.compile(r"[-_]?(19|20)\d\d$")  # of COCO's own folders: train2017
NAME_FILE = re.compile(r"classes\.txt|.+\.(names|labels)", re.IGNORECASE)
Value = str | list | dict


def yolo_splits(data: Path) -> tuple[str, ...]:
    """Names of the splits, e.g. ("train", "val"). Raises `UserError` as `read_yolo`."""
    path = yaml_of(data)
    if path is None:
        return tuple(_folders(data))
    return tuple(_keys(read_yaml(path)))


def read_yolo(data: Path, split: str, complaints: Complaints) -> Dataset:
    """Read one split.

    Parameters
    ----------
    data : Path
        Any of the layouts in the module's docstring.
    split : str
        E.g. "train", "val".
    complaints : Complaints
        Where problems are counted.

    Raises
    ------
    UserError
        If the folder, the yaml, the split or every single picture is unusable.
    """
    path = yaml_of(data)
    if path is None:
        return _read_folders(data, split, complaints)
    content = read_yaml(path)
    keys = _keys(content)
    if split not in keys:
        raise UserError(f"{shown(path)}: no split {split!r}, there is {', '.join(keys) or 'none'}")
    names = _names(content, path)
    return read_labelled(_listed(content, keys[split], path, complaints), names, path, split, complaints)


def _read_folders(data: Path, split: str, complaints: Complaints) -> Dataset:
    folders = _folders(data)
    if split not in folders:
        raise UserError(f"{shown(data)}: no split {split!r}, there is {', '.join(map(shown, folders))}")
    pictures = {name: _below(places) for name, places in folders.items()}
    own = next((path for place in _name_places(data, folders) if (path := _name_file(place))), None)
    if own is not None:
        names = read_name_list(own)
    else:
        names = unnamed_classes((p for found in pictures.values() for p in found), data, complaints)
    return read_labelled(pictures[split], names, data, split, complaints)


def holds_yolo(data: Path) -> bool:
    """Whether a folder has one of the layouts, with a yaml or several, or without."""
    if any(_describes(path) for path in _yamls(data)):
        return True
    return bool(folders_of_splits(data))


def _yamls(data: Path) -> list[Path]:
    named = (entry for entry in entries(data) if entry.name.lower().endswith((".yaml", ".yml")))
    return [Path(entry.path) for entry in named if entry.is_file()]


def yaml_of(data: Path) -> Path | None:
    """The yaml that `data` is, or the only one that describes a data set in that folder; None if none does.

    Raises
    ------
    UserError
        If several do.
    """
    if data.suffix.lower() in (".yaml", ".yml"):
        return data
    found = [path for path in _yamls(data) if _describes(path)]
    if len(found) > 1:
        raise UserError(f"{shown(data)}: several data sets, name one: {', '.join(map(shown, found))}")
    return found[0] if found else None


def _describes(path: Path) -> bool:
    try:
        return bool(_keys(read_yaml(path)))
    except UserError:
        return "data" in path.name.lower()  # meant as one: let the reader say what is wrong


def read_yaml(path: Path) -> dict[str, Value]:
    """The keys of a yaml with their values as texts, lists and dicts of texts.

    Raises
    ------
    UserError
        If it cannot be read, or is no yaml with keys.
    """
    data = read_bytes(path, YAML_BYTES)
    try:
        # BaseLoader is the plainest of all: every scalar a str, no tags, no merged keys, so that aliases of
        # aliases stay as small as they were written.
        content = yaml.load(data, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise UserError(f"{shown(path)}{where}: not a yaml file ({shown(what)})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{shown(path)}: not a yaml of keys and values")
    return content


def _keys(content: dict[str, Value]) -> dict[str, str]:
    """Of every split the key that holds it; empty ones (``test:``) are none."""
    return {split_name(key): key for key in content if key.lower() in SPLITS and content[key]}


def _names(content: dict[str, Value], path: Path) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if count is not None and not (isinstance(count, str) and count.isdecimal() and 0 < len(count) < 6):
        raise UserError(f"{shown(path)}: nc is not a number of classes")
    if not names:
        if count is None or int(count) < 1:
            raise UserError(f"{shown(path)}: no names of classes")
        return default_names(int(count))
    if isinstance(names, dict):
        numbers = sorted(
            int(key) for key in names if isinstance(key, str) and re.fullmatch(r"[0-9]{1,8}", key)
        )
        if numbers != list(range(len(names))):
            raise UserError(f"{shown(path)}: the numbers of its names are not 0 to {len(names) - 1}")
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list):
        raise UserError(f"{shown(path)}: names is neither a list nor numbers with names")
    if count is not None and len(names) != int(count):
        raise UserError(f"{shown(path)}: {len(names)} names, but nc is {count}")
    return checked_names(names, path)


def _listed(content: dict[str, Value], key: str, path: Path, complaints: Complaints) -> list[Path]:
    """The pictures of a split of a yaml."""
    root = content.get("path") or "."
    values = content[key]
    values = values if isinstance(values, list) else [values]
    if not isinstance(root, str) or not all(isinstance(value, str) for value in values):
        raise UserError(f"{shown(path)}: path and {key} have to be paths, {key} perhaps a list of them")
    base = Path(os.path.abspath(path.parent / root))
    if not is_folder(base):
        raise UserError(f"{shown(path)}: path: {shown(base)} is no folder; correct it, or delete the line")
    found: dict[Path, None] = {}
    for value in values:
        place = _inside(base, value, f"{shown(path)}: {key}: {shown(value)}")
        if place.suffix.lower() == ".txt":
            pictures = list(read_list(place, [base], complaints))
        elif is_folder(place):
            pictures = pictures_in(place, deep=True)
        else:
            raise UserError(f"{shown(path)}: {key}: {shown(place)} is no folder and no .txt list")
        found |= dict.fromkeys(pictures)
    if not found:
        raise UserError(f"{shown(path)}: {key}: no pictures there")
    return list(found)


def _inside(base: Path, value: str, where: str) -> Path:
    """A path from `base`, which it must not leave.

    Some tools count the yaml itself as a step and write ../train/images for a folder beside it.
    """
    place = Path(os.path.normpath(base / value))
    if not place.is_relative_to(base):
        place = Path(os.path.normpath(base / re.sub(r"^(\.\./)+", "", value)))
        if not place.is_relative_to(base) or not is_folder(place):
            raise UserError(f"{where} leads out of {shown(base)}; let path: name the folder of all pictures")
    return place


def _folders(data: Path) -> dict[str, list[Path]]:
    """Of every split the folders of its pictures, where no yaml names them.

    Raises
    ------
    UserError
        If the folder has none of the layouts.
    """
    if not is_folder(data):
        raise UserError(f"{shown(data)}: no such folder; unpack the data set there or correct --data")
    found = folders_of_splits(data)
    if not found:
        raise UserError(
            f"{shown(data)}: no data.yaml, no images/ with labels/, no train/images, no pictures with .txt"
        )
    return found


def folders_of_splits(data: Path) -> dict[str, list[Path]]:
    """Of every split the folders of its pictures; empty if this is no layout without a yaml."""
    found: dict[str, list[Path]] = {}
    images, labels = child(data, "images"), child(data, "labels")
    if images and labels:
        for folder in subfolders(images):
            if child(labels, folder.name):
                found.setdefault(split_name(YEAR.sub("", folder.name)), []).append(folder)
        return found or {"train": [images]}
    for folder in subfolders(data):
        if folder.name.lower() in SPLITS:
            images = child(folder, "images")
            if images and child(folder, "labels"):
                found[split_name(folder.name)] = [images]
            elif (_name_file(folder) or _name_file(data)) and pictures_in(folder):
                found[split_name(folder.name)] = [folder]
    if not found and _name_file(data) and pictures_in(data):
        found = {"train": [data]}
    return found


def _below(folders: Iterable[Path]) -> list[Path]:
    return [picture for folder in folders for picture in pictures_in(folder, deep=True)]


def _name_places(data: Path, folders: dict[str, list[Path]]) -> Iterable[Path]:
    """Where the file with the classes may be: the set's folder, with the pictures, with the labels."""
    yield data
    yield from (place for name in ("labels", "images") if (place := child(data, name)))
    yield from (place for places in folders.values() for place in places)


def _name_file(folder: Path) -> Path | None:
    """The file of a folder with the names of classes."""
    names = [entry.name for entry in entries(folder) if entry.is_file()]
    return next((folder / name for name in names if NAME_FILE.fullmatch(name)), None)

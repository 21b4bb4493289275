"""COCO's json files, and what other tools write in that form.

Accepted layouts::

    any.json                                      as it is; its name may say "val"
    any/
        annotations/instances_train2017.json      instances_val2017.json; the year may be missing
        train/_annotations.coco.json              valid/..., test/..., as Roboflow writes them
        train.json  val.json                      or *.coco.json; a single .json in annotations/ has any name

Pictures lie in one of the usual folders: the json's, the set's, or there in images/, images/train2017/,
train2017/, images/train/, train/, JPEGImages/ or data/. A `file_name` that leaves the set's folder is
refused.

Classes are numbered from 0 in the order of their category ids, which may have gaps (COCO's 80 go from 1 to
90). Crowds (``iscrowd: 1``) become difficult: training leaves them out, evaluation neither rewards nor
punishes what is found there. The picture's own size counts, whatever the json says. `Item.id` is the image's
id in the json.
"""

import json
import os
import re
from pathlib import Path
from typing import Any

from tqdm import tqdm

from yolov2.data.boxes import Boxes, Corners
from yolov2.data.dataset import Dataset, Item
from yolov2.data.files import (
    JSON_BYTES,
    SPLITS,
    checked_names,
    child,
    entries,
    is_folder,
    is_regular,
    picture_size,
    read_bytes,
    shown,
    split_name,
    subfolders,
)
from yolov2.errors import Complaints, UserError

# The split in a file's name: instances_train2017, val, train_annotations.coco
SPLIT = re.compile(r"(?:.*[_-])?(train|val|valid|test|trainval)(?:[-_]?(?:19|20)\d\d)?", re.IGNORECASE)
ROBOFLOW = "_annotations.coco.json"
FOLDERS = ("annotations", "labels")  # beside the pictures' folders


def coco_splits(data: Path) -> tuple[str, ...]:
    """Names of the splits, e.g. ("train", "val"). Raises `UserError` as `coco_files`."""
    return tuple(coco_files(data))


def coco_files(data: Path) -> dict[str, Path]:
    """Of every split the json.

    Raises
    ------
    UserError
        If there is none, or one split has several.
    """
    if data.suffix.lower() == ".json":
        return {_split_of(data) or "train": data}
    if not is_folder(data):
        raise UserError(f"{shown(data)}: no such folder; unpack the data set there or correct --data")
    found = _jsons(data)
    if not found:
        raise UserError(f"{shown(data)}: no annotations/instances_*.json and no train/{ROBOFLOW}")
    if len(found) == 1 and not _split_of(found[0]):
        return {"train": found[0]}
    files: dict[str, Path] = {}
    for path in found:
        split = _split_of(path) or path.stem
        if split in files:
            raise UserError(
                f"{shown(data)}: {shown(files[split].name)} and {shown(path.name)} are both for {split}; "
                "name one of them"
            )
        files[split] = path
    return files


def holds_coco(data: Path) -> bool:
    """Whether a folder has one of the layouts."""
    return bool(_jsons(data))


def _jsons(data: Path) -> list[Path]:
    """The files of boxes in a folder; COCO's captions and keypoints are none."""
    split = [folder / ROBOFLOW for folder in subfolders(data) if folder.name.lower() in SPLITS]
    if split := [path for path in split if is_regular(path)]:
        return split
    folder = child(data, "annotations")
    inner = [Path(e.path) for e in entries(folder) if e.name.lower().endswith(".json")] if folder else []
    outer = [Path(e.path) for e in entries(data) if e.name.lower().endswith(".json")]
    for paths in (inner, outer):
        if instances := [path for path in paths if path.name.lower().startswith("instances")]:
            return instances
    named = [path for path in (*inner, *outer) if _split_of(path) or path.name.lower().endswith(".coco.json")]
    return named or (inner if len(inner) == 1 else [])


def _split_of(path: Path) -> str:
    """The split that a json's name, or for Roboflow's its folder's, speaks of; empty if it does not."""
    if path.name.lower() == ROBOFLOW:
        return split_name(path.parent.name) if path.parent.name.lower() in SPLITS else ""
    stem = re.sub(r"([._-](coco|annotations?))+$", "", path.stem, flags=re.IGNORECASE)
    match = SPLIT.fullmatch(stem)
    return split_name(match[1]) if match else ""


def read_coco(data: Path, split: str, complaints: Complaints) -> Dataset:
    """Read one split.

    Parameters
    ----------
    data : Path
        Any of the layouts in the module's docstring.
    split : str
        E.g. "train", "val".
    complaints : Complaints
        Where problems are counted; they name the annotation's id, as lines of a json mean little.

    Raises
    ------
    UserError
        If the folder, the json, the split or every single picture is unusable, or a file_name leads out.
    """
    files = coco_files(data)
    if split not in files:
        raise UserError(f"{shown(data)}: no split {split!r}, there is {', '.join(map(shown, files))}")
    path = files[split]
    content = _content(path)
    names, numbers = _categories(content, path)
    boxes_of = _annotations(content, path, complaints)
    places = _places(path, split)
    items, ids, missing = [], set(), []
    for image in tqdm(content["images"], f"reading {split}", unit="img", delay=2, leave=False):
        id, file_name = _text_id(image), image.get("file_name") if isinstance(image, dict) else None
        if id is None or not isinstance(file_name, str) or not file_name:
            complaints.add("images without id or file_name left out", f"{shown(path)} (image {shown(id)})")
        elif id in ids:
            complaints.add("repeated images left out", f"{shown(path)} (image {shown(id)})")
        elif (picture := places.find(file_name)) is None:
            missing.append(file_name)
            complaints.add("listed pictures without files left out", f"{shown(path)} ({shown(file_name)})")
        else:
            ids.add(id)
            item = _item(id, picture, image, boxes_of.pop(id, []), numbers, path, complaints)
            items += [item] if item else []
    if not items:
        where = (
            f"; looked for {shown(missing[0])} in {', '.join(map(shown, places.folders))}" if missing else ""
        )
        raise UserError(
            f"{shown(path)}: split {split!r} has no usable picture among {len(content['images'])}{where}"
        )
    known = {_text_id(image) for image in content["images"]}
    for id, annotations in boxes_of.items():
        if id not in known:
            for _ in annotations:
                complaints.add("boxes of images that are not listed", f"{shown(path)} (image {shown(id)})")
    return Dataset(names, items)


def _content(path: Path) -> dict[str, list]:
    """The three lists of a json; outlines of objects, most of its size, are forgotten while it is read."""

    def without_outlines(node: dict) -> dict:
        node.pop("segmentation", None)
        return node

    data = read_bytes(path, JSON_BYTES)
    try:
        content = json.loads(data, object_hook=without_outlines)
    except (ValueError, RecursionError) as error:
        where = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise UserError(f"{shown(path)}{where}: not a json file ({what})") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{shown(path)}: not in COCO's form, it has no list of {key!r}")
    return content


def _categories(content: dict[str, list], path: Path) -> tuple[tuple[str, ...], dict[int, int]]:
    """The names of the classes, and of every category id the class."""
    named: dict[int, object] = {}
    for category in content["categories"]:
        id = category.get("id") if isinstance(category, dict) else None
        if not isinstance(id, int) or isinstance(id, bool):
            raise UserError(f"{shown(path)}: a category without a whole number as its id")
        if id in named:
            raise UserError(f"{shown(path)}: two categories with the id {shown(id)}")
        named[id] = category.get("name")
    ids = sorted(named)
    return checked_names((named[id] for id in ids), path), {id: number for number, id in enumerate(ids)}


def _text_id(image: object) -> str | None:
    """The id of an image as a text: whole numbers and names are both in use."""
    id = image.get("id") if isinstance(image, dict) else None
    if isinstance(id, bool) or not isinstance(id, int | str):
        return None
    try:
        return str(id)
    except ValueError:  # a number of thousands of digits
        return None


def _annotations(
    content: dict[str, list], path: Path, complaints: Complaints
) -> dict[str, list[dict[str, Any]]]:
    """The annotations of every image by its id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for place, annotation in enumerate(content["annotations"]):
        id = _text_id({"id": annotation.get("image_id")}) if isinstance(annotation, dict) else None
        if id is None:
            complaints.add("annotations without an image_id dropped", f"{shown(path)} (number {place})")
        else:
            found.setdefault(id, []).append(annotation)
    return found


class _Places:
    """The folders where the pictures of a json may be; the one where the last was found is tried first."""

    def __init__(self, path: Path, root: Path, folders: list[Path]) -> None:
        self.path, self.root, self.folders = path, root, folders

    def find(self, file_name: str) -> Path | None:
        """The picture's file, or None. Raises `UserError` if it could lie outside the set only."""
        name = file_name.replace("\\", "/")
        inside = False
        for folder in self.folders:
            picture = Path(os.path.normpath(folder / name))
            if not picture.is_relative_to(self.root):
                continue
            inside = True
            if is_regular(picture):
                self.folders = [folder, *(other for other in self.folders if other != folder)]
                return picture
        if not inside:
            raise UserError(
                f"{shown(self.path)}: file_name {shown(file_name)} leads out of {shown(self.root)}; "
                "make it a path below that folder"
            )
        return None


def _places(path: Path, split: str) -> _Places:
    folder = Path(os.path.abspath(path)).parent
    root = folder.parent if folder.name.lower() in FOLDERS else folder
    year = re.search(r"[a-z]+[-_]?(19|20)\d\d$", path.stem, re.IGNORECASE)
    splits = [*([year[0]] if year else []), split, *(name for name in SPLITS if SPLITS[name] == split)]
    below = [part for name in dict.fromkeys(splits) for part in (f"images/{name}", name)]
    places = (folder, root, *(root / part for part in ("images", *below, "JPEGImages", "data")))
    return _Places(path, root, [place for place in dict.fromkeys(places) if is_folder(place)])


def _item(
    id: str,
    picture: Path,
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    numbers: dict[int, int],
    path: Path,
    complaints: Complaints,
) -> Item | None:
    """The item of an image, or None (and a complaint) if its picture cannot be read."""
    size = picture_size(picture)
    if size is None:
        complaints.add("unreadable pictures left out", shown(picture))
        return None
    told = image.get("width"), image.get("height")
    if told != (None, None) and told != size:
        complaints.add(
            "wrong width and height replaced by the picture's own", f"{shown(path)} (image {shown(id)})"
        )
    boxes = Boxes(*size, complaints)
    for annotation in annotations:
        where = f"{shown(path)} (image {shown(id)}, annotation {shown(_text_id(annotation))})"
        category = annotation.get("category_id")
        if not isinstance(category, int) or category not in numbers:
            complaints.add("annotations of unknown categories dropped", where)
            continue
        corners = _corners(annotation.get("bbox"))
        if corners is None:
            complaints.add("boxes without four numbers dropped", where)
            continue
        boxes.add(corners, numbers[category], annotation.get("iscrowd") == 1, where)
    return boxes.item(id, picture)


def _corners(bbox: object) -> Corners | None:
    """Corners of COCO's [x, y, width, height] in pixels; None if that is no box."""
    if not isinstance(bbox, list):
        return None
    try:
        x, y, width, height = (float(n) for n in bbox if isinstance(n, int | float))
    except (ValueError, OverflowError):  # something else in the list; a number beyond float64
        return None
    return x, y, x + width, y + height

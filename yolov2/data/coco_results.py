"""Detections in COCO's form: a json list of ``{"image_id", "category_id", "bbox", "score"}``.

``bbox`` is [x, y, width, height] in pixels, x and y of the left upper corner counted from 0, as in this
library. Results name pictures and classes by numbers only. Those are:

image_id      the items' own ids where all of them are whole numbers, as COCO's are; otherwise 1, 2, ... in
              the items' order.
category_id   COCO's own, from 1 to 90 with gaps, for its 80 classes, in either spelling ("aeroplane" is
              Darknet's, "airplane" COCO's); otherwise 1, 2, ... in the order of the class names.

Beside ``results.json`` lies ``results.truths.json``, the data set in COCO's form: it tells what the numbers
mean, and ``COCO("results.truths.json").loadRes("results.json")`` of pycocotools needs no more.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov2.data.dataset import Dataset, Item
from yolov2.data.files import JSON_BYTES, read_bytes, shown
from yolov2.detector import Found
from yolov2.errors import Complaints, UserError
from yolov2.names import COCO_NAMES

GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # categories that no picture of COCO has
RENAMED = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
}
GREATEST = 1 << 53  # greater whole numbers are not safe in every reader of json


def image_ids(items: Sequence[Item]) -> list[int]:
    """The ``image_id`` of every item, see the module's docstring."""
    own = [int(item.id) for item in items if item.id.isascii() and item.id.isdigit() and len(item.id) < 17]
    usable = len(set(own)) == len(items) and max(own, default=0) < GREATEST
    return own if usable else list(range(1, len(items) + 1))


def category_ids(names: Sequence[str]) -> list[int]:
    """The ``category_id`` of every class, see the module's docstring."""
    if [RENAMED.get(name, name) for name in names] == [RENAMED.get(name, name) for name in COCO_NAMES]:
        return [number for number in range(1, 91) if number not in GAPS]
    return list(range(1, len(names) + 1))


def truths_path(results: Path) -> Path:
    """Where the truths lie that belong to a file of results."""
    return results.with_suffix(".truths.json")


def write_coco_results(path: Path, dataset: Dataset, found: Sequence[Found], names: Sequence[str]) -> None:
    """Write detections and, beside them, the truths.

    Parameters
    ----------
    path : Path
        The file of results; its folder must be there.
    dataset : Dataset
        The pictures and their truths. Its classes are among `names`.
    found : sequence of Found
        One per item.
    names : sequence of str
        The classes, in the order of their numbers in `found`.
    """
    images, categories = image_ids(dataset.items), category_ids(names)
    rows = (
        {"image_id": image, "category_id": categories[c], "bbox": box, "score": float(f"{score:.9g}")}
        for image, item, f in zip(images, dataset.items, found, strict=True)
        for c, score, box in zip(f.classes.tolist(), f.scores.tolist(), _xywh(f.boxes, item), strict=True)
    )
    _write_list(path, rows)
    number = dict(zip(names, categories, strict=True))
    annotations: list[dict[str, Any]] = []
    for image, item in zip(images, dataset.items, strict=True):
        boxes = zip(item.classes.tolist(), item.difficult.tolist(), _xywh(item.boxes, item), strict=True)
        for c, difficult, box in boxes:
            # counted from 1: with 0 the program marks what has no partner
            row = {"id": len(annotations) + 1, "image_id": image, "category_id": number[dataset.names[c]]}
            annotations.append(row | {"bbox": box, "area": box[2] * box[3], "iscrowd": int(difficult)})
    truths = {
        "images": [
            {"id": image, "width": item.width, "height": item.height, "file_name": _file_name(item)}
            for image, item in zip(images, dataset.items, strict=True)
        ],
        "categories": [{"id": id, "name": name} for name, id in number.items()],
        "annotations": annotations,
    }
    truths_path(path).write_text(json.dumps(truths), encoding="utf-8")


def read_coco_results(
    path: Path, items: Sequence[Item], names: Sequence[str], complaints: Complaints
) -> list[Found]:
    """Read a file of results.

    Parameters
    ----------
    path : Path
        The file.
    items : sequence of Item
        The pictures that were looked at.
    names : sequence of str
        The classes, in the order of their numbers.
    complaints : Complaints
        Counts pictures that are not among `items`, whose detections are left out.

    Returns
    -------
    list of Found
        One per item; boxes and scores are float64, detections of equal score keep their order.

    Raises
    ------
    UserError
        If the file is no such list, an entry cannot be understood, or none is of these pictures.
    """
    try:
        content = json.loads(read_bytes(path, JSON_BYTES))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown(path)}: not a json file ({type(error).__name__})") from None
    if not isinstance(content, list):
        raise UserError(f"{shown(path)}: not a list of detections in COCO's form")
    rows = {id: i for i, id in enumerate(image_ids(items))}
    classes = {id: c for c, id in enumerate(category_ids(names))}
    numbers, strangers = [], set()
    for place, entry in enumerate(content):
        try:
            image, c = int(entry["image_id"]), classes[entry["category_id"]]
            x, y, w, h = map(float, entry["bbox"])
            values = float(entry["score"]), x, y, w, h
            if not np.isfinite(values).all() or w < 0 or h < 0:
                raise ValueError
        except (TypeError, KeyError, ValueError, OverflowError):
            raise UserError(
                f"{shown(path)}: entry {place} is {shown(json.dumps(entry)[:120])}; expected image_id, one "
                f"of the {len(names)} category_ids {min(classes)} to {max(classes)}, a bbox and a score"
            ) from None
        if image in rows:
            numbers.append((rows[image], c, *values))
        elif image not in strangers:
            strangers.add(image)
            complaints.add("pictures that the data does not have, their detections left out", image)
    if strangers and not numbers:
        raise UserError(
            f"{shown(path)}: detections on {len(strangers)} pictures, none of them among the {len(items)} of "
            f"the data, e.g. {min(strangers)}, where the data has {min(rows)}; correct --data or --split"
        )
    return _per_item(np.array(numbers, np.float64).reshape(-1, 7), items)


def _per_item(table: np.ndarray, items: Sequence[Item]) -> list[Found]:
    """Rows (item, class, score, x, y, w, h) as what was found on every item."""
    table = table[np.lexsort((-table[:, 2], table[:, 0]))]  # by picture, then surest first
    ends = np.searchsorted(table[:, 0], np.arange(1, len(items)))
    found = []
    for item, part in zip(items, np.split(table, ends), strict=True):
        size = np.array([item.width, item.height])
        boxes = np.concatenate([(part[:, 3:5] + part[:, 5:] / 2) / size, part[:, 5:] / size], axis=1)
        found.append(Found(boxes, part[:, 2], part[:, 1].astype(np.int64)))
    return found


def _xywh(boxes: np.ndarray, item: Item) -> list[list[float]]:
    size = np.array([item.width, item.height])
    pixels = boxes.astype(np.float64) * np.tile(size, 2)
    pixels[:, :2] -= pixels[:, 2:] / 2
    return pixels.round(4).tolist()


def _file_name(item: Item) -> str:
    return item.id if item.path is None else item.path.name


def _write_list(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """A json list, an entry a line."""
    with path.open("w", encoding="utf-8") as file:
        for place, row in enumerate(rows):
            file.write(("[\n" if place == 0 else ",\n") + json.dumps(row))
        file.write("\n]\n" if file.tell() else "[]\n")

"""Files of detections: those Darknet and Pascal VOC's development kit write and read.

Two forms are read, each also compressed (.xz, .gz)::

    FILE      id class score xmin ymin xmax ymax      class is the index of a name, counted from 0
    FOLDER    *_CLASS.txt, a file per class of        id score xmin ymin xmax ymax
              `darknet detector valid` and of the devkit, e.g. comp4_det_val_dog.txt

Corners are pixels of the picture, counted from 1, and both of them belong to the box. Darknet's labels, and
with them what a network learns, count from 0 (SPEC 15), so its files have 1 added to each corner (SPEC 8.3).
Here as well: where a box of this library reaches from l to r pixels, a file says l + 1 and r + 1, and for a
label read from official Pascal VOC these are its own xmin and xmax.
"""

import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from yolov2.data.dataset import Item
from yolov2.detector import Found
from yolov2.errors import Complaints, UserError

OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
DAMAGED = (lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile)


def boxes_to_corners(boxes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Fractions of the picture to corners in pixels, counted from 1, both inclusive.

    Parameters
    ----------
    boxes : (N, 4) float
        cxcywh.
    sizes : (N, 2) or (2,) int
        Width and height of the picture in pixels.

    Returns
    -------
    (N, 4) float64
        xmin, ymin, xmax, ymax.
    """
    centre, half = boxes[:, :2] * sizes, boxes[:, 2:] * sizes / 2
    return np.concatenate([centre - half, centre + half], axis=1) + 1


def corners_to_boxes(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The inverse of `boxes_to_corners`.

    Darknet clips corners on the way to its files, so a box beside the picture may have xmax < xmin; it ends
    where it begins.
    """
    low, high = corners[:, :2] - 1, corners[:, 2:] - 1
    high = np.maximum(low, high)
    return np.concatenate([(low + high) / 2 / sizes, (high - low) / sizes], axis=1)


def read_detections(
    path: Path, items: Sequence[Item], names: Sequence[str], complaints: Complaints
) -> list[Found]:
    """Read a file or a folder of detections, in the forms of the module's docstring.

    Parameters
    ----------
    path : Path
        A file of all classes, or a folder with a file per class.
    items : sequence of Item
        The pictures that were looked at. One without detections is nothing special.
    names : sequence of str
        The classes, in the order of their numbers.
    complaints : Complaints
        Counts pictures that are not among `items`, whose detections are left out, classes without a file, and
        files without a class.

    Returns
    -------
    list of Found
        One per item; boxes and scores are float64, detections of equal score keep their order.

    Raises
    ------
    UserError
        With file and number of a line that cannot be understood; if a file is damaged, a class has two, or
        none of the detections is of these pictures.
    """
    rows = {item.id: i for i, item in enumerate(items)}
    strangers: set[str] = set()
    numbers: list[tuple[float, ...]] = []  # row of items, class, score, four corners
    files: dict[Path, int | None] = {path: None}
    if path.is_dir():
        files = _class_files(path, names, complaints)
    for file, of_class in files.items():
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                continue
            try:
                id, *values = _parse(line, of_class, len(names))
            except ValueError as error:
                what = "id score" if of_class is not None else "id class score"
                raise UserError(
                    f"{file}, line {number}: {error}; expected '{what} xmin ymin xmax ymax', "
                    f"got {line.strip()[:80]!r}"
                ) from None
            if id in rows:
                numbers.append((rows[id], *values))
            elif id not in strangers:
                strangers.add(id)
                complaints.add("pictures that the data does not have, their detections left out", id)
    if strangers and not numbers:
        raise UserError(
            f"{path}: detections on {len(strangers)} pictures, none of them among the {len(items)} of the "
            f"data, e.g. {min(strangers)!r}, where the data has {items[0].id!r}; correct --data or --split"
        )
    table = np.array(numbers, np.float64).reshape(-1, 7)
    table = table[np.lexsort((-table[:, 2], table[:, 0]))]  # by picture, then surest first
    ends = np.searchsorted(table[:, 0], np.arange(1, len(items)))
    found = []
    for item, part in zip(items, np.split(table, ends), strict=True):
        boxes = corners_to_boxes(part[:, 3:], np.array([item.width, item.height]))
        found.append(Found(boxes, part[:, 2], part[:, 1].astype(np.int64)))
    return found


def write_detections(
    folder: Path, split: str, items: Sequence[Item], found: Sequence[Found], names: Sequence[str]
) -> None:
    """Write the development kit's files, ``comp4_det_SPLIT_CLASS.txt``, one for every class.

    Corners are not clipped to the picture, and scores have the nine digits that tell any two float32 apart:
    `read_detections` makes the same of these files.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    split : str
        As in the files' names.
    items : sequence of Item
        The pictures.
    found : sequence of Found
        One per item.
    names : sequence of str
        The classes, in the order of their numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[str]] = [[] for _ in names]
    for item, f in zip(items, found, strict=True):
        corners = boxes_to_corners(f.boxes, np.array([item.width, item.height]))
        for c, score, box in zip(f.classes.tolist(), f.scores.tolist(), corners.tolist(), strict=True):
            lines[c].append(f"{item.id} {score:.9g} {' '.join(f'{side:.6f}' for side in box)}\n")
    for name, text in zip(names, lines, strict=True):
        (folder / f"comp4_det_{split}_{name}.txt").write_text("".join(text), encoding="utf-8")


def _parse(line: str, of_class: int | None, classes: int) -> tuple:
    """(id, class, score, xmin, ymin, xmax, ymax); the class is `of_class`, or stands behind the id."""
    count = 6 if of_class is None else 5
    id, *fields = line.rsplit(maxsplit=count)  # from the right: an id may have spaces
    if len(fields) < count:
        raise ValueError(f"{len(fields) + 1} fields")
    if of_class is None:
        of_class = int(fields.pop(0))
        if not 0 <= of_class < classes:
            raise ValueError(f"class {of_class} where there are {classes}")
    values = [float(text) for text in fields]
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return id.strip(), of_class, *values


def _lines(path: Path) -> Iterator[str]:
    opener = OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            yield from file
    except DAMAGED as error:
        raise UserError(f"{path}: damaged ({error}); write or copy it again") from error


def _class_files(folder: Path, names: Sequence[str], complaints: Complaints) -> dict[Path, int | None]:
    """The class of every file in a folder of ``*_CLASS.txt``; the file of every class there is."""
    files: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        stem = path.name.removesuffix(path.suffix) if path.suffix.lower() in OPENERS else path.name
        if not stem.endswith(".txt") or stem.startswith("."):
            continue
        ends = [name for name in names if stem.endswith(f"_{name}.txt")]
        if not ends:
            complaints.add("files of detections of no known class passed over", path)
            continue
        c = names.index(max(ends, key=len))  # with classes bear and teddy_bear both end ..._teddy_bear.txt
        if c in files:
            raise UserError(f"{folder}: two files of class {names[c]!r}, {files[c].name} and {path.name}")
        files[c] = path
    if not files:
        raise UserError(f"{folder}: no files *_CLASS.txt, e.g. comp4_det_val_{names[0]}.txt")
    for c, name in enumerate(names):
        if c not in files:
            complaints.add("classes without a file of detections", name)
    return {path: c for c, path in files.items()}

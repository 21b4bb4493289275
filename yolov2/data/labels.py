"""Pictures whose boxes are in text files of their own, as Darknet reads them and many tools write them.

A row of a label file is ``class x y w h``: a number from 0, and the box's centre and size as fractions of the
picture. Rows of a class and three or more corners (polygons, turned boxes) stand for the box around them. A
picture without a label file shows background only.

The label file of ``.../images/some/a.jpg`` is ``.../labels/some/a.txt``: the last folder called images,
JPEGImages or raw becomes labels. Else it is what Darknet would look for (SPEC 15: the first "images",
"JPEGImages" and "raw" anywhere in the path), or ``a.txt`` beside the picture.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from yolov2.data.boxes import Boxes
from yolov2.data.dataset import Dataset
from yolov2.data.files import LABEL_BYTES, is_regular, picture_size, read_lines, shown
from yolov2.errors import Complaints, UserError
from yolov2.names import default_names

MOST_CLASSES = 100_000  # a number above is no class
PICTURE_FOLDERS = ("images", "JPEGImages", "raw")


def label_paths(picture: Path) -> Iterator[Path]:
    """Where the labels of a picture may be, the likeliest first."""
    parts = list(picture.parts[:-1])
    for place in reversed(range(len(parts))):
        if parts[place] in PICTURE_FOLDERS:
            yield Path(*parts[:place], "labels", *parts[place + 1 :], f"{picture.stem}.txt")
            break
    text = str(picture)
    for folder in PICTURE_FOLDERS:
        text = text.replace(folder, "labels", 1)
    yield Path(text).with_suffix(".txt")
    yield picture.with_suffix(".txt")


def label_path(picture: Path) -> Path | None:
    """The label file of a picture; None if there is none, or nothing is in it."""
    return next((path for path in label_paths(picture) if is_regular(path)), None)


def read_labelled(
    pictures: Sequence[Path], names: Sequence[str], place: Path, split: str, complaints: Complaints
) -> Dataset:
    """The data set of pictures with label files; what cannot be used is counted and left out.

    Parameters
    ----------
    pictures : sequence of Path
        Existing files, none twice.
    names : sequence of str
        The classes, in order.
    place : Path
        The file or folder that named the pictures, for messages.
    split : str
        For messages.
    complaints : Complaints
        Where problems are counted.

    Raises
    ------
    UserError
        If no picture can be read, or none has a label file.
    """
    items = []
    bare: list[Path] = []  # without a label file
    for picture, id in tqdm(
        list(zip(pictures, unique_ids(pictures), strict=True)),
        f"reading {split}",
        unit="img",
        delay=2,
        leave=False,
    ):
        size = picture_size(picture)
        if size is None:
            complaints.add("unreadable pictures left out", shown(picture))
            continue
        boxes = Boxes(*size, complaints)
        labels = label_path(picture)
        if labels is not None:
            try:
                lines = read_lines(labels, LABEL_BYTES)
            except UserError as error:
                complaints.add("pictures with unreadable labels left out", str(error))
                continue
            add_rows(boxes, lines, len(names), labels, complaints)
        elif not any(path.exists() for path in label_paths(picture)):
            bare.append(picture)
        items.append(boxes.item(id, picture))
    if not items:
        raise UserError(f"{shown(place)}: split {split!r} has no usable picture among {len(pictures)}")
    if len(bare) == len(items):
        example = next(label_paths(bare[0]))
        raise UserError(f"{shown(place)}: no picture of {split!r} has a label file, e.g. {shown(example)}")
    if bare:
        complaints.note(
            f"{shown(place)}: {len(bare)} of {len(items)} pictures of {split} have no label file "
            f"and count as background, e.g. {shown(bare[0])}"
        )
    return Dataset(tuple(names), items)


def add_rows(boxes: Boxes, lines: Sequence[str], classes: int, path: Path, complaints: Complaints) -> None:
    """Add the rows of a label file to a picture's boxes."""
    last = max((i for i, line in enumerate(lines) if line.strip()), default=-1)
    for number, line in enumerate(lines[: last + 1], start=1):
        where = f"{shown(path)}:{number}"
        fields = line.split()
        if not fields:
            complaints.add("blank lines in label files passed over", where)
        elif len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            complaints.add("rows without class x y w h dropped", where)
        elif (values := _floats(fields)) is None:
            complaints.add("rows of what is no number dropped", where)
        elif not (values[0].is_integer() and 0 <= values[0] < classes):
            complaints.add(f"rows of other classes than 0 to {classes - 1} dropped", where)
        else:
            _add_row(boxes, values, where, complaints)


def _add_row(boxes: Boxes, values: list[float], where: str, complaints: Complaints) -> None:
    if len(values) == 5:
        x, y, w, h = values[1:]
        left, top, right, bottom = x - w / 2, y - h / 2, x + w / 2, y + h / 2
    else:
        complaints.add("polygons replaced by the boxes around them", where)
        xs, ys = values[1::2], values[2::2]
        left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    corners = left * boxes.width, top * boxes.height, right * boxes.width, bottom * boxes.height
    boxes.add(corners, int(values[0]), False, where)


def _floats(fields: Iterable[str]) -> list[float] | None:
    try:
        return [float(field) for field in fields]
    except ValueError:
        return None


def unnamed_classes(pictures: Iterable[Path], place: Path, complaints: Complaints) -> tuple[str, ...]:
    """Names for classes that no file names: VOC's for 20, COCO's for 80, otherwise numbers, with a note.

    Raises
    ------
    UserError
        If no picture has a row to count classes by.
    """
    count = 0
    for picture in pictures:
        path = label_path(picture)
        try:
            lines = read_lines(path, LABEL_BYTES) if path else []
        except UserError:
            continue  # counted when the picture is read
        for line in lines:
            number = line.split(maxsplit=1)[:1]
            if number and number[0].isdecimal() and len(number[0]) < 9 and int(number[0]) < MOST_CLASSES:
                count = max(count, int(number[0]) + 1)
    if not count:
        raise UserError(f"{shown(place)}: no names of classes (data.yaml, classes.txt) and no labels")
    names = default_names(count)
    complaints.note(
        f"{shown(place)}: no data.yaml or classes.txt; its {count} classes are called "
        f"{names[0]} to {names[-1]}"
    )
    return names


def unique_ids(pictures: Sequence[Path]) -> list[str]:
    """Of every picture its path without suffix from the folder that all of them share: mostly the stem."""
    if not pictures:
        return []
    common = os.path.commonpath([path.parent for path in pictures])
    names = [path.relative_to(common).as_posix() for path in pictures]
    stems = [os.path.splitext(name)[0] for name in names]
    return stems if len(set(stems)) == len(stems) else names

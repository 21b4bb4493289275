"""Darknet's .data files: where the lists of pictures and the names are.

::

    classes = 80
    train = data/train.list      one picture a line
    valid = data/val.list
    names = data/coco.names      one class a line
    labels = ...                 of a classifier: the strings that paths of a class contain

The grammar is that of SPEC 19: "#" and ";" begin comments, the first of two equal keys counts, and keys of
other tools (backup, eval, map, ...) have no meaning here. Darknet is run in the folder where its relative
paths begin; here they may begin at the .data file's folder, at one of the three above it, or at the current
one, and those in a list also at the list's. A "data/" before them may be missing from the disk (CVAT).

By custom the paths in lists are absolute, so a list may name any place. From there only files that open as
pictures are read, and the label files that belong to them; nothing is ever written. The keys `backup` and
`results`, where Darknet writes, are not read. As names end up in checkpoints, which people publish, a file of
names has to be called like one, lest a stranger's .data have a private key taken for names.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from yolov2.data.dataset import Dataset
from yolov2.data.files import (
    LIST_BYTES,
    YAML_BYTES,
    checked_names,
    entries,
    is_folder,
    is_regular,
    read_lines,
    shown,
)
from yolov2.data.labels import read_labelled
from yolov2.errors import Complaints, UserError

NAME_SUFFIXES = (".names", ".labels", ".list", ".txt")
SPLIT_KEYS = {"train": "train", "val": "valid", "test": "test"}


def darknet_splits(data: Path) -> tuple[str, ...]:
    """Names of the splits, e.g. ("train", "val"). Raises `UserError` as `read_darknet`."""
    options = read_options(data_file(data))
    return tuple(split for split, key in SPLIT_KEYS.items() if options.get(key))


def read_darknet(data: Path, split: str, complaints: Complaints) -> Dataset:
    """Read one split of a detection set.

    Parameters
    ----------
    data : Path
        A .data file, or a folder with one in it.
    split : str
        "train", "val" or "test".
    complaints : Complaints
        Where problems are counted.

    Raises
    ------
    UserError
        If a file that it takes, the split or every single picture is unusable.
    """
    path = data_file(data)
    options = read_options(path)
    if not options.get(key := SPLIT_KEYS.get(split, split)):
        raise UserError(f"{shown(path)}: no split {shown(split)!r}, that is no line {shown(key)} = LIST")
    names = read_name_list(option_file(path, options, "names"))
    classes = options.get("classes", "")
    if classes and classes != str(len(names)):
        raise UserError(f"{shown(path)}: classes = {shown(classes)}, but there are {len(names)} names")
    pictures = read_list(option_file(path, options, key), roots_of(path), complaints)
    return read_labelled(list(pictures), names, path, split, complaints)


def data_files(folder: Path) -> list[Path]:
    """The .data files in a folder."""
    return [Path(e.path) for e in entries(folder) if e.name.lower().endswith(".data") and e.is_file()]


def data_file(data: Path) -> Path:
    """`data`, or the only .data file in that folder.

    Raises
    ------
    UserError
        If there is none, or are several.
    """
    if not is_folder(data):
        return data
    found = data_files(data)
    if len(found) != 1:
        what = f"several .data files, name one: {', '.join(map(shown, found))}" if found else "no .data file"
        raise UserError(f"{shown(data)}: {what}")
    return found[0]


def read_options(path: Path) -> dict[str, str]:
    """The keys and values of a .data file.

    Raises
    ------
    UserError
        If it cannot be read, or a line is neither a comment nor "key = value".
    """
    options: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, YAML_BYTES), start=1):
        line = line.strip()
        if not line or line[0] in "#;":
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key:
            raise UserError(f"{shown(path)}:{number}: not a line of the form key = value")
        options.setdefault(key, value)
    return options


def roots_of(path: Path) -> list[Path]:
    """The folders where the relative paths of a .data file may begin."""
    folder = Path(os.path.abspath(path)).parent
    return [folder, *list(folder.parents)[:3], Path.cwd()]


def option_file(path: Path, options: dict[str, str], key: str) -> Path:
    """The file that `key` of the .data file `path` names.

    Raises
    ------
    UserError
        If the key or the file is missing.
    """
    value = options.get(key, "")
    if not value:
        raise UserError(f"{shown(path)}: no line {key} = FILE")
    found = find(value, roots_of(path))
    if found is None:
        raise UserError(f"{shown(path)}: {key} = {shown(value)}: no such file, nor with nothing in it")
    return found


def read_name_list(path: Path) -> tuple[str, ...]:
    """The names of a file, one a line; empty lines at the end do not count. Raises `UserError`."""
    if path.resolve().suffix.lower() not in NAME_SUFFIXES:
        raise UserError(f"{shown(path)}: not called like a list of names, {' or '.join(NAME_SUFFIXES)}")
    lines = read_lines(path, YAML_BYTES)
    while lines and not lines[-1].strip():
        lines.pop()
    return checked_names(lines, path)


def read_list(path: Path, roots: Sequence[Path], complaints: Complaints) -> dict[Path, str]:
    """The pictures that a list names, and how; those that are missing or come twice are complaints.

    Raises
    ------
    UserError
        If the list cannot be read, or not one of its pictures is there.
    """
    roots = [path.parent, *roots]
    found: dict[Path, str] = {}
    lines = read_lines(path, LIST_BYTES)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        picture = find(line.strip(), roots)
        where = f"{shown(path)}:{number}"
        if picture is None:
            complaints.add("listed pictures without files left out", f"{where} ({shown(line.strip())})")
        elif picture in found:
            complaints.add("repeated names in a list dropped", where)
        else:
            found[picture] = line.strip()
    if not found:
        example = next((line.strip() for line in lines if line.strip()), None)
        what = (
            "names no picture"
            if example is None
            else f"no picture that it names is there, e.g. {shown(example)}"
        )
        raise UserError(f"{shown(path)}: {what}")
    return found


def find(name: str, roots: Sequence[Path]) -> Path | None:
    """The regular file that a path means, if it begins at one of `roots` or is absolute; normalised."""
    for spelled in dict.fromkeys((name, name.removeprefix("data/"))):
        for root in roots:
            path = Path(os.path.normpath(root / spelled))
            if is_regular(path):
                return path
    return None

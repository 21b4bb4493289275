"""Reading what a data set holds. A stranger may have made it, so every reader goes through here.

Only regular files are opened, because a FIFO would hang and a device has no end, and none above a size that
an honest file of its kind stays below. Links are followed: tools that keep pictures in a store (DVC,
git-annex) make them. Nothing is ever written.
"""

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from yolov2.data.pictures import BROKEN, upright_size
from yolov2.errors import UserError

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test", "trainval": "trainval"}

BESIDE = ("readme", "license", "__macosx")  # what may lie in a folder around a data set

LABEL_BYTES = 4 << 20  # the labels of one picture: ten thousand objects with their XML
YAML_BYTES = 1 << 18  # ten thousand names
LIST_BYTES = 1 << 28  # paths of millions of pictures
JSON_BYTES = 1 << 30  # the largest of COCO's own has 0.45 GB
PICTURE_BYTES = 1 << 28  # Pillow reads some formats whole before it looks at them

NO_PICTURE = (*BROKEN, MemoryError)  # of a WebP Pillow reserves the whole canvas before its size can be seen
POSTSCRIPT = (b"%!PS", b"\xc5\xd0\xd3\xc6")  # programs, which Pillow would have run by Ghostscript


def shown(value: object, most: int = 300) -> str:
    """A path or name, shortened, with escapes for the control characters that a terminal would obey."""
    text = _shortened(str(value), most)
    return text if text.isprintable() else _shortened(repr(text)[1:-1], most)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def is_regular(path: Path) -> bool:
    """Whether there is a regular file, or a link to one, that is not empty."""
    try:
        status = path.stat()
    except (OSError, ValueError):  # ValueError: a NUL or half a surrogate pair in the name
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def is_folder(path: Path) -> bool:
    """Whether there is a folder; unlike `Path.is_dir`, never raises."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises
    ------
    UserError
        If it is missing, larger, unreadable or no regular file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{shown(path)}: not a regular file")
        if status.st_size > most:
            raise UserError(
                f"{shown(path)}: {status.st_size / 2**20:,.1f} MiB, too much for a file of this kind "
                f"(at most {most / 2**20:g})"
            )
        with path.open("rb") as file:
            return file.read(status.st_size)  # no more, even if it grows: /proc has endless files of 0 bytes
    except OSError as error:
        raise UserError(f"{shown(path)}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise UserError(f"{shown(path)}: not the name of a file") from None


def read_lines(path: Path, most: int) -> list[str]:
    """The lines of a text file without their ends; what is not UTF-8 is replaced. Raises as `read_bytes`."""
    text = read_bytes(path, most).decode("utf-8-sig", errors="replace")
    # not str.splitlines, which also ends lines where no editor does, and would number them otherwise
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def may_be_picture(path: Path) -> bool:
    """Whether a file may be handed to Pillow: no device, no gigabytes, no program. Raises `OSError`."""
    if not is_regular(path) or path.stat().st_size > PICTURE_BYTES:
        return False
    with path.open("rb") as file:
        return file.read(4) not in POSTSCRIPT


def picture_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in pixels of the upright picture, by its header alone; None if it is no picture."""
    try:
        if not may_be_picture(path):
            return None
        width, height = upright_size(path)
    except NO_PICTURE:
        return None
    return (width, height) if width > 0 and height > 0 else None


def split_name(name: str) -> str:
    """The usual name of a split: "valid" is "val"; others stay as they are."""
    return SPLITS.get(name.lower(), name)


def entries(folder: Path) -> list[os.DirEntry]:
    """Files and folders in a folder, sorted by name, without hidden ones; none if it cannot be read."""
    try:
        with os.scandir(folder) as found:
            usual = (e for e in found if not e.name.startswith(".") and _is_usual(e))
            return sorted(usual, key=lambda entry: entry.name)
    except (OSError, ValueError):
        return []


def _is_usual(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir() or entry.is_file()
    except OSError:  # a link to itself
        return False


def child(folder: Path, name: str) -> Path | None:
    """The sub-folder of that name, in any mixture of cases."""
    return next(
        (Path(e.path) for e in entries(folder) if e.is_dir() and e.name.lower() == name.lower()), None
    )


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted."""
    return [Path(entry.path) for entry in entries(folder) if entry.is_dir()]


def unpacked(data: Path) -> Path:
    """The folder of a data set where an archive put others around it: the only thing in each of them."""
    for _ in range(3):
        found = [entry for entry in entries(data) if not entry.name.lower().startswith(BESIDE)]
        if len(found) != 1 or not found[0].is_dir() or found[0].name.lower() in SPLITS:
            break
        data = Path(found[0].path)
    return data


def pictures_in(folder: Path, deep: bool = False) -> list[Path]:
    """The files of a folder, or with `deep` also below it, that are called like pictures; sorted."""
    if deep:
        found = (Path(at, name) for at, _, names in os.walk(folder) for name in names if name[0] != ".")
    else:
        found = (Path(entry.path) for entry in entries(folder) if entry.is_file())
    return sorted(path for path in found if path.suffix.lower() in PICTURES)


def is_name(text: str) -> bool:
    """Whether a text can be the name of a class: one line that a terminal can print."""
    return 0 < len(text) <= 200 and text.isprintable()


def checked_names(names: Iterable[object], path: Path) -> tuple[str, ...]:
    """The class names that `path` gives, without spaces around them.

    Raises
    ------
    UserError
        If there are none, or one is no text, empty, or nothing that a terminal can print.
    """
    checked = []
    for number, name in enumerate(names):
        text = name.strip() if isinstance(name, str) else ""
        if not is_name(text):
            raise UserError(f"{shown(path)}: the name of class {number} is not one line of text")
        checked.append(text)
    if not checked:
        raise UserError(f"{shown(path)}: no class names")
    return tuple(checked)

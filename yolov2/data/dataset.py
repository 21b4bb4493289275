"""A data set: named classes and pictures with their boxes. Pictures stay on disk until they are asked for."""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose
from tqdm import tqdm

from yolov2.data.stb import decode_jpeg
from yolov2.errors import Complaints, UserError

# What Pillow raises on a broken picture: OSError (truncated, not a picture), SyntaxError (bad PNG chunk) ...
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# EXIF orientation 1 is upright already
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def open_upright(path: Path, small: bool = False) -> Image.Image:
    """The RGB picture of a file, turned as its EXIF orientation says: a phone writes what its sensor saw.

    Parameters
    ----------
    path : Path
        Opened by its content: a PNG that calls itself .jpg opens all the same. JPEGs are decoded as Darknet
        does if the environment says ``YOLOV2_DECODER=stb``, see `yolov2.data.stb`.
    small : bool
        Decode a JPEG at an eighth of its size. That too reads every byte, but is quicker.

    Raises
    ------
    OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError
        `BROKEN`: if the file is missing, truncated or no picture.
    """
    with Image.open(path) as file:
        if small:
            file.draft("RGB", (1, 1))
        turn = _turn(file)
        by_stb = os.environ.get("YOLOV2_DECODER") == "stb" and file.format in ("JPEG", "MPO") and not small
        picture = decode_jpeg(path) if by_stb else as_rgb(file)
    picture.info.clear()  # it is upright now: nobody shall turn it again
    return picture if turn is None else picture.transpose(turn)


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB. Pillow itself turns 16-bit grey white where it is brighter than 255."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    return picture.convert("RGB")


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of `open_upright`'s picture in pixels, by the file's header alone; raises `BROKEN`."""
    with Image.open(path) as file:
        swapped = _turn(file) in [TURNS[orientation] for orientation in (5, 6, 7, 8)]
        return file.size[::-1] if swapped else file.size


def _turn(file: Image.Image) -> Transpose | None:
    """What turns a picture that was opened but not yet decoded upright; None if nothing need be done."""
    if file.format == "TIFF":  # Pillow itself turns it
        return None
    try:
        # The base class's method: a PNG's own would decode the picture.
        return TURNS.get(Image.Image.getexif(file).get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, struct.error):  # a picture with damaged EXIF is still a picture
        return None


@dataclass(frozen=True)
class Item:
    """One picture and its boxes.

    Parameters
    ----------
    id : str
        Unique name within the data set, e.g. the file's stem.
    width, height : int
        Size of the upright picture, in pixels.
    boxes : ndarray, float32 (N, 4)
        cxcywh, fractions of the picture. N = 0 is a picture of nothing but background.
    classes : ndarray, int64 (N,)
        Index of every box's class.
    difficult : ndarray, bool (N,)
        Pascal VOC's flag: training leaves these boxes out, evaluation neither rewards nor punishes them.
    path : Path, optional
        The picture's file; None for one that is in no file, which has `pixels`.
    pixels : ndarray, uint8 (height, width, 3), optional
        RGB.
    """

    id: str
    width: int
    height: int
    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    path: Path | None = None
    pixels: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Dataset:
    """Class names and items; `picture` decodes an item's picture."""

    names: tuple[str, ...]
    items: Sequence[Item] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def picture(self, index: int) -> Image.Image:
        """The RGB picture of an item, upright.

        Raises
        ------
        UserError
            If the file is missing, truncated or no picture.
        """
        return open_picture(self.items[index])


def open_picture(item: Item, small: bool = False) -> Image.Image:
    """The RGB picture of `item`, upright; `small` as in `open_upright`.

    Raises
    ------
    UserError
        If the file is missing, truncated or no picture.
    """
    if item.pixels is not None:
        return Image.fromarray(item.pixels)
    assert item.path is not None, f"{item.id}: neither a path nor pixels"
    try:
        return open_upright(item.path, small)
    except BROKEN as error:
        raise UserError(
            f"{item.path}: cannot be read as a picture ({error}); replace the file or delete it"
        ) from error


@dataclass(frozen=True)
class CachedDataset(Dataset):
    """A data set that remembers its decoded pictures as long as they fit in `max_bytes`."""

    max_bytes: int = 0
    _pixels: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def picture(self, index: int) -> Image.Image:
        """The RGB picture of an item, upright."""
        # Once full, nothing is thrown out: an epoch visits every picture once, so an evicting cache that is
        # too small would never hit, while this one hits as often as it is large.
        if index in self._pixels:
            return Image.fromarray(self._pixels[index])
        item = self.items[index]
        picture = open_picture(item)
        if item.pixels is None and self.bytes + 3 * picture.width * picture.height <= self.max_bytes:
            self._pixels[index] = np.asarray(picture)
        return picture

    @property
    def bytes(self) -> int:
        """Bytes held by the remembered pictures."""
        # Summed anew each time: a few hundred additions are nothing beside decoding a picture, and there is
        # no counter that threads could spoil.
        return sum(p.nbytes for p in list(self._pixels.values()))


def cached(dataset: Dataset, max_bytes: int) -> CachedDataset:
    """The same data set with its decoded pictures kept in memory, for many epochs over few pictures.

    Parameters
    ----------
    dataset : Dataset
        What to remember.
    max_bytes : int
        Memory for pictures; those beyond it are decoded every time.
    """
    return CachedDataset(dataset.names, dataset.items, max_bytes)


def verify(dataset: Dataset, complaints: Complaints) -> Dataset:
    """Decode every picture once; the data set without those that cannot be read, each a complaint.

    Raises
    ------
    UserError
        If no picture is left.
    """
    good = []
    for item in tqdm(dataset.items, desc="checking pictures", unit="", delay=2, leave=False):
        try:
            open_picture(item, small=True)
        except UserError:
            complaints.add("unreadable pictures left out", item.path)
        else:
            good.append(item)
    if not good:
        raise UserError(f"none of the {len(dataset)} pictures can be read, e.g. {dataset.items[0].path}")
    return replace(dataset, items=good)

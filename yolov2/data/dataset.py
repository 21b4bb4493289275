"""A data set: named classes and pictures with their boxes. Pictures stay on disk until they are asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from yolov2.errors import Complaints, UserError

# What Pillow raises on a broken picture: OSError (truncated, not a picture), SyntaxError (bad PNG chunk) ...
BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Item:
    """One picture and its boxes.

    Parameters
    ----------
    id : str
        Unique name within the data set, e.g. the file's stem.
    width, height : int
        Size of the picture, in pixels.
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
        """The RGB picture of an item.

        Raises
        ------
        UserError
            If the file is missing, truncated or no picture.
        """
        return open_picture(self.items[index])


def open_picture(item: Item, at_least: tuple[int, int] | None = None) -> Image.Image:
    """The RGB picture of `item`; a JPEG larger than `at_least` (width, height) may come at 1/2, 1/4 or 1/8.

    Raises
    ------
    UserError
        If the file is missing, truncated or no picture.
    """
    if item.pixels is not None:
        return Image.fromarray(item.pixels)
    assert item.path is not None, f"{item.id}: neither a path nor pixels"
    try:
        # By content: a PNG that calls itself .jpg opens all the same.
        with Image.open(item.path) as picture:
            if at_least is not None:
                picture.draft("RGB", at_least)
            return picture.convert("RGB")
    except BROKEN as error:
        raise UserError(
            f"{item.path}: cannot be read as a picture ({error}); replace the file or delete it"
        ) from error


@dataclass(frozen=True)
class CachedDataset(Dataset):
    """A data set that remembers its pictures, shrunk, as long as they fit in `max_bytes`."""

    max_bytes: int = 0
    long_side: int = 0
    _pixels: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    def picture(self, index: int) -> Image.Image:
        """The RGB picture of an item, its longer side at most `long_side` pixels."""
        # Once full, nothing is thrown out: an epoch visits every picture once, so an evicting cache that is
        # too small would never hit, while this one hits as often as it is large.
        if index in self._pixels:
            return Image.fromarray(self._pixels[index])
        item = self.items[index]
        factor = min(1.0, self.long_side / max(item.width, item.height))
        size = max(1, round(item.width * factor)), max(1, round(item.height * factor))
        picture = open_picture(item, at_least=size)
        if factor < 1:
            picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        if item.pixels is None and self.bytes + 3 * size[0] * size[1] <= self.max_bytes:
            self._pixels[index] = np.asarray(picture)
        return picture

    @property
    def bytes(self) -> int:
        """Bytes held by the remembered pictures."""
        # Summed anew each time: a few hundred additions are nothing beside decoding a picture, and there is
        # no counter that threads could spoil.
        return sum(p.nbytes for p in list(self._pixels.values()))


def cached(dataset: Dataset, max_bytes: int, imgsz: int) -> CachedDataset:
    """The same data set with its decoded pictures kept in memory, for many epochs over few pictures.

    Parameters
    ----------
    dataset : Dataset
        What to remember.
    max_bytes : int
        Memory for pictures; those beyond it are decoded every time.
    imgsz : int
        Side of the largest network input, in pixels. Pictures are shrunk to 1.5 times that before they are
        remembered, which leaves room for the jitter of augmentation.
    """
    return CachedDataset(dataset.names, dataset.items, max_bytes, imgsz * 3 // 2)


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
            open_picture(item, at_least=(1, 1))  # reads every byte, but makes a small picture of a JPEG
        except UserError:
            complaints.add("unreadable pictures left out", item.path)
        else:
            good.append(item)
    if not good:
        raise UserError(f"none of the {len(dataset)} pictures can be read, e.g. {dataset.items[0].path}")
    return replace(dataset, items=good)

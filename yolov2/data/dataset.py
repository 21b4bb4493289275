"""A data set: named classes and pictures with their boxes. Pictures stay on disk until they are asked for."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from yolov2.data.pictures import BROKEN, TURNS, as_rgb, open_upright, read_pixels, upright_size
from yolov2.errors import Complaints, UserError

__all__ = [
    "BROKEN",
    "TURNS",
    "CachedDataset",
    "Dataset",
    "Item",
    "as_rgb",
    "cached",
    "open_picture",
    "open_upright",
    "upright_size",
    "verify",
]


Read = TypeVar("Read")


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
    """Class names and items; `pixels` and `picture` decode an item's picture."""

    names: tuple[str, ...]
    items: Sequence[Item] = field(repr=False)

    def __len__(self) -> int:
        return len(self.items)

    def pixels(self, index: int) -> np.ndarray:
        """The picture of an item, upright: RGB, uint8 (H, W, 3), not to be written to.

        Raises
        ------
        UserError
            If the file is missing, truncated or no picture.
        """
        item = self.items[index]
        return _reading(item, read_pixels) if item.pixels is None else item.pixels

    def picture(self, index: int) -> Image.Image:
        """The same as a picture of Pillow's."""
        return Image.fromarray(self.pixels(index))


def open_picture(item: Item, small: bool = False) -> Image.Image:
    """The RGB picture of `item`, upright; `small` as in `open_upright`.

    Raises
    ------
    UserError
        If the file is missing, truncated or no picture.
    """
    if item.pixels is not None:
        return Image.fromarray(item.pixels)
    return _reading(item, lambda path: open_upright(path, small))


def _reading(item: Item, read: Callable[[Path], Read]) -> Read:
    """What `read` makes of an item's file; what goes wrong there names the file."""
    assert item.path is not None, f"{item.id}: neither a path nor pixels"
    try:
        return read(item.path)
    except BROKEN as error:
        raise UserError(
            f"{item.path}: cannot be read as a picture ({error}); replace the file or delete it"
        ) from error


class _Memory:
    """Pictures of a `CachedDataset`, for any number of threads."""

    def __init__(self) -> None:
        self.pixels: dict[int, np.ndarray] = {}
        self.bytes = 0
        self.lock = threading.Lock()

    def add(self, index: int, pixels: np.ndarray, most: int) -> None:
        # Once full, nothing is thrown out: an epoch visits every picture once, so an evicting cache that is
        # too small would never hit, while this one hits as often as it is large.
        with self.lock:
            if index not in self.pixels and self.bytes + pixels.nbytes <= most:
                self.pixels[index] = pixels
                self.bytes += pixels.nbytes


@dataclass(frozen=True)
class CachedDataset(Dataset):
    """A data set that remembers its decoded pictures as long as they fit in `max_bytes`."""

    max_bytes: int = 0
    _memory: _Memory = field(default_factory=_Memory, repr=False, compare=False)

    def pixels(self, index: int) -> np.ndarray:
        """See `Dataset.pixels`."""
        pixels = self._memory.pixels.get(index)
        if pixels is None:
            pixels = super().pixels(index)
            if self.items[index].pixels is None:
                self._memory.add(index, pixels, self.max_bytes)
        return pixels

    @property
    def bytes(self) -> int:
        """Bytes held by the remembered pictures."""
        return self._memory.bytes


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

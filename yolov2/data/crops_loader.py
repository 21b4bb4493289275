"""Batches of labelled pictures for training and measuring classifiers (SPEC 18)."""

from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from yolov2.crops import CropAugment, centre_example, crop_example
from yolov2.data.epoch import Share, ahead, network_input, shares
from yolov2.errors import Complaints, UserError


class Labelled(Protocol):
    """Pictures with a class each, as `yolov2.data.class_folders.open_classification` gives them."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes."""

    @property
    def labels(self) -> np.ndarray:
        """Class of every picture, int64 (N,)."""

    def __len__(self) -> int: ...

    def picture(self, index: int) -> Image.Image:
        """An RGB picture, upright; raises UserError where it cannot be read."""


class LabelBatch(NamedTuple):
    """Pictures of one size with their classes.

    Attributes
    ----------
    images : Tensor, uint8 or float32 (B, 3, size, size)
        Channels last in memory. Bytes are what `to` turns into the network's input, values in [0, 1].
    labels : Tensor, int64 (B,)
        Class of every picture.
    indices : Tensor, int64 (B,)
        Which pictures of the data set these are.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> "LabelBatch":
        """The batch on a device, pictures as float32 in [0, 1]; from pinned memory nobody waits for it."""
        labels = self.labels.to(device, non_blocking=device.type == "cuda")
        return LabelBatch(network_input(self.images, device), labels, self.indices)

    def split(self, parts: int) -> list["LabelBatch"]:
        """So many batches, the first the largest by at most one picture; fewer if there are fewer."""
        parts = max(1, min(parts, len(self.images)))
        return [LabelBatch(*some) for some in zip(*(x.tensor_split(parts) for x in self), strict=True)]


class Kept:
    """Labelled pictures that are kept decoded as long as they fit into `most` bytes.

    Nothing is thrown out: an epoch visits every picture once, so that a cache which is too small would never
    hit if it did.
    """

    def __init__(self, dataset: Labelled, most: int):
        self.dataset, self.most = dataset, most
        self.names, self.labels = dataset.names, dataset.labels
        self._pixels: dict[int, np.ndarray] = {}
        self._bytes = 0
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self.dataset)

    def pixels(self, index: int) -> np.ndarray:
        """The picture as uint8 (H, W, 3), not to be written to."""
        pixels = self._pixels.get(index)
        if pixels is None:
            pixels = np.asarray(self.dataset.picture(index))
            with self._lock:
                if index not in self._pixels and self._bytes + pixels.nbytes <= self.most:
                    self._pixels[index] = pixels
                    self._bytes += pixels.nbytes
        return pixels

    def picture(self, index: int) -> Image.Image:
        """See `Labelled`."""
        return Image.fromarray(self.pixels(index))


def label_batches(
    dataset: Labelled,
    batch: int,
    size: int,
    options: CropAugment | None = None,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    workers: int = 0,
    complaints: Complaints | None = None,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
) -> Iterator[LabelBatch]:
    """One epoch over labelled pictures; the twin of `yolov2.data.loader.batches`.

    Parameters
    ----------
    dataset : Labelled
        What to visit.
    batch : int
        Pictures per batch, of all processes together. A picture that cannot be read makes its batch one
        smaller.
    size : int
        Side of the network's input in pixels.
    options : CropAugment, optional
        Random crops; None takes the middle of every picture, as validation does.
    seed, epoch : int
        Together with a picture's index these decide all chance, whatever the number of workers.
    shuffle : bool
        Visit the pictures in random order, every one once. (Darknet draws with replacement.)
    drop_last : bool
        Leave out a last batch that is not full.
    workers : int
        Threads making batches ahead of the caller; 0 makes each when it is asked for.
    complaints : Complaints, optional
        Counts pictures that cannot be read. Without it the first one raises.
    start : int
        Batches of the epoch to leave out, because they were done before an interruption.
    rank, world : int
        Which of how many processes this is. Each gets its contiguous share of every batch, of which some may
        be empty.
    pin : bool
        Put batches into pinned memory, from where they reach a GPU in passing.

    Yields
    ------
    LabelBatch
        In the order of the epoch.

    Raises
    ------
    UserError
        If a picture cannot be read and no `complaints` are given.
    """

    def make(part: Share) -> LabelBatch:
        crops, indices = [], []
        for index in part[1]:
            try:
                pixels = dataset.pixels(index) if isinstance(dataset, Kept) else dataset.picture(index)
            except UserError as error:
                if complaints is None:
                    raise
                complaints.add("unreadable pictures left out", str(error).partition(": ")[0])
                continue
            if options is None:
                crops.append(centre_example(np.asarray(pixels), size))
            else:
                rng = np.random.default_rng([seed, epoch, index])
                crops.append(crop_example(np.asarray(pixels), size, options, rng))
            indices.append(index)
        images = torch.empty(len(crops), size, size, 3, dtype=torch.uint8, pin_memory=pin)
        for image, crop in zip(images, crops, strict=True):
            image.copy_(torch.from_numpy(crop))
        labels = torch.from_numpy(dataset.labels[indices].astype(np.int64))
        return LabelBatch(images.permute(0, 3, 1, 2), labels, torch.tensor(indices, dtype=torch.int64))

    place = {"seed": seed, "epoch": epoch, "start": start, "rank": rank, "world": world}
    parts = shares(len(dataset), batch, shuffle=shuffle, drop_last=drop_last, **place)
    yield from (made for made in ahead(make, parts, workers) if world > 1 or len(made.images))

"""Batches for training: pictures and padded truths, made ahead in threads where that helps."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from yolov2.augment import Augment, augment
from yolov2.data.dataset import Dataset
from yolov2.data.epoch import Share, ahead, network_input, shares
from yolov2.errors import Complaints, UserError
from yolov2.letterbox import Letterbox, Mode

Size = int | tuple[int, int]
Sample = tuple[np.ndarray | Tensor, np.ndarray, np.ndarray, int]  # picture, boxes, classes, index
Wanted = TypeVar("Wanted")


class Batch(NamedTuple):
    """Pictures of one size with their truths.

    Attributes
    ----------
    images : Tensor, uint8 or float32 (B, 3, height, width)
        Channels last in memory. Bytes are what `to` turns into the network's input, values in [0, 1].
    truth : Tensor, float32 (B, T, 5)
        Rows x y w h class in fractions of the input; T >= 1; a row with x = 0 ends the list (SPEC 2).
    indices : Tensor, int64 (B,)
        Which items of the data set these are.
    """

    images: Tensor
    truth: Tensor
    indices: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device, pictures as float32 in [0, 1]; from pinned memory nobody waits for it."""
        truth = self.truth.to(device, non_blocking=device.type == "cuda")
        return Batch(network_input(self.images, device), truth, self.indices)

    def split(self, parts: int) -> list["Batch"]:
        """So many batches, the first the largest by at most one picture; fewer if there are fewer pictures.

        They share this one's memory. No pictures make one empty batch.
        """
        parts = max(1, min(parts, len(self.images)))
        return [Batch(*some) for some in zip(*(x.tensor_split(parts) for x in self), strict=True)]


def batches(
    dataset: Dataset,
    batch: int,
    size: Size | Callable[[int], Size],
    options: Augment | None = None,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    workers: int = 0,
    complaints: Complaints | None = None,
    resize: Mode = "letterbox",
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
) -> Iterator[Batch]:
    """One epoch over a data set.

    Parameters
    ----------
    dataset : Dataset
        Difficult boxes are left out of the truths (SPEC 15).
    batch : int
        Pictures per batch, of all processes together. A picture that cannot be read makes its batch one
        smaller.
    size : int, (width, height), or a function of the batch's number in this epoch
        Network input in pixels; a function changes it on the way, as multi-scale training does (SPEC 16).
    options : Augment, optional
        Random changes; None letterboxes, exactly as detection does, so to floats.
    seed, epoch : int
        Together with a picture's index these decide all chance, whatever the number of workers.
    shuffle : bool
        Visit the items in random order, every one once. (Darknet draws with replacement.)
    drop_last : bool
        Leave out a last batch that is not full.
    workers : int
        Threads making batches ahead of the caller. A picture at 416 pixels takes 2 ms with OpenCV and
        simplejpeg, of which the interpreter's lock is held for .2, so up to ten threads add up. 0 makes each
        batch when it is asked for, which is best where the caller's own work keeps every core busy already.
    complaints : Complaints, optional
        Counts pictures that cannot be read. Without it the first one raises.
    resize : {"letterbox", "stretch"}
        How pictures meet the input without augmentation (which keeps their aspect but for its jitter).
    start : int
        Batches of the epoch to leave out, because they were done before an interruption.
    rank, world : int
        Which of how many processes this is. Each gets its contiguous share of every batch; shares differ by
        one picture at most. A share of none is an empty batch, so that all keep step.
    pin : bool
        Put batches into pinned memory, from where they reach a GPU in passing; needs one.

    Yields
    ------
    Batch
        In the order of the epoch.

    Raises
    ------
    ValueError
        If `batch` is not positive, `workers` or `start` negative, or `rank` not below `world`.
    UserError
        If a picture cannot be read and no `complaints` are given.
    """

    def make(part: Share) -> Batch:
        number, share = part
        wanted = size(number) if callable(size) else size
        shape = (wanted, wanted) if isinstance(wanted, int) else wanted

        def sample(index: int, shape: tuple[int, int]) -> Sample:
            return detection_sample(dataset, index, shape, options, [seed, epoch, index], resize)

        return assemble(share, shape, sample, complaints, pin)

    place = {"seed": seed, "epoch": epoch, "start": start, "rank": rank, "world": world}
    parts = shares(len(dataset), batch, shuffle=shuffle, drop_last=drop_last, **place)
    yield from (made for made in ahead(make, parts, workers) if world > 1 or len(made.images))


def assemble(
    wanted: Sequence[Wanted],
    size: tuple[int, int],
    sample: Callable[[Wanted, tuple[int, int]], Sample],
    complaints: Complaints | None,
    pin: bool = False,
) -> Batch:
    """A batch of the samples of what is `wanted`, without those that cannot be read.

    Raises
    ------
    UserError
        If one cannot be read and no `complaints` are given.
    """
    samples = []
    for one in wanted:
        try:
            samples.append(sample(one, size))
        except UserError as error:
            if complaints is None:
                raise
            complaints.add("unreadable pictures skipped", str(error).partition(": ")[0])
    return collate(samples, size, pin)


def collate(samples: Sequence[Sample], size: tuple[int, int], pin: bool = False) -> Batch:
    """Stack (picture, boxes, classes, index) samples, in pinned memory if `pin`.

    Pictures are uint8 (height, width, 3) arrays or float32 (3, height, width) tensors; truths are padded
    with zeros to the longest list.
    """
    width, height = size
    as_floats = bool(samples) and isinstance(samples[0][0], Tensor)
    dtype = torch.float32 if as_floats else torch.uint8
    images = torch.empty(len(samples), height, width, 3, dtype=dtype, pin_memory=pin)
    truth = torch.zeros(
        len(samples), max([1, *(len(boxes) for _, boxes, _, _ in samples)]), 5, pin_memory=pin
    )
    for image, rows, (picture, boxes, classes, _) in zip(images, truth, samples, strict=True):
        image.copy_(picture.permute(1, 2, 0) if isinstance(picture, Tensor) else torch.from_numpy(picture))
        rows[: len(boxes), :4] = torch.from_numpy(boxes)
        rows[: len(boxes), 4] = torch.from_numpy(classes)
    indices = torch.tensor([index for _, _, _, index in samples], dtype=torch.int64)
    return Batch(images.permute(0, 3, 1, 2), truth, indices)


def detection_sample(
    dataset: Dataset,
    index: int,
    size: tuple[int, int],
    options: Augment | None,
    seed: list[int],
    mode: Mode,
) -> Sample:
    """An item as it is, or with options changed by the chance of that `seed`."""
    item = dataset.items[index]
    pixels = dataset.pixels(index)
    boxes, classes = item.boxes[~item.difficult], item.classes[~item.difficult]
    if options is not None:
        return *augment(pixels, boxes, classes, size, options, np.random.default_rng(seed)), index
    letterbox = Letterbox(item.width, item.height, *size, mode)
    return letterbox.picture(pixels), letterbox.boxes(boxes), classes, index

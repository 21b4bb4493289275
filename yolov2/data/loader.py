"""Batches for training: pictures and padded truths, made ahead in threads where that helps."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from yolov2.augment import Augment, augment
from yolov2.data.dataset import Dataset
from yolov2.errors import Complaints, UserError
from yolov2.letterbox import Letterbox, Mode

Size = int | tuple[int, int]


class Batch(NamedTuple):
    """Pictures of one size with their truths.

    Attributes
    ----------
    images : Tensor, float32 (B, 3, height, width)
        Values in [0, 1].
    truth : Tensor, float32 (B, T, 5)
        Rows x y w h class in fractions of the input; T >= 1; a row with x = 0 ends the list (SPEC 2).
    indices : Tensor, int64 (B,)
        Which items of the data set these are.
    """

    images: Tensor
    truth: Tensor
    indices: Tensor


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
) -> Iterator[Batch]:
    """One epoch over a data set.

    Parameters
    ----------
    dataset : Dataset
        Difficult boxes are left out of the truths (SPEC 15).
    batch : int
        Pictures per batch. A picture that cannot be read makes its batch one smaller.
    size : int, (width, height), or a function of the batch's number in this epoch
        Network input in pixels; a function changes it on the way, as multi-scale training does (SPEC 16).
    options : Augment, optional
        Random changes; None letterboxes.
    seed, epoch : int
        Together with a picture's index these decide all chance, whatever the number of workers.
    shuffle : bool
        Visit the items in random order, every one once. (Darknet draws with replacement.)
    drop_last : bool
        Leave out a last batch that is not full.
    workers : int
        Threads making batches ahead of the caller; Pillow and torch let go of the interpreter's lock where
        it counts. 0 makes each when it is asked for, which is faster where the caller's own work already
        keeps every core busy (two cores, nano at 160: 3.9 ms a picture against 4.8 with one thread).
    complaints : Complaints, optional
        Counts pictures that cannot be read. Without it the first one raises.
    resize : {"letterbox", "stretch"}
        How pictures meet the input without augmentation (which keeps their aspect but for its jitter).
    start : int
        Batches of the epoch to leave out, because they were done before an interruption.

    Yields
    ------
    Batch
        In the order of the epoch.

    Raises
    ------
    ValueError
        If `batch` is not positive, or `workers` or `start` negative.
    UserError
        If a picture cannot be read and no `complaints` are given.
    """
    if batch < 1 or min(workers, start) < 0:
        raise ValueError(f"batch {batch} must be positive, workers {workers} and start {start} not negative")
    order = np.arange(len(dataset))
    if shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    groups = [order[i : i + batch] for i in range(0, len(order), batch)]
    if drop_last and groups and len(groups[-1]) < batch:
        groups.pop()

    def make(number: int) -> Batch | None:
        wanted = size(number) if callable(size) else size
        shape = (wanted, wanted) if isinstance(wanted, int) else wanted
        samples = []
        for index in groups[number].tolist():
            try:
                samples.append(
                    (*_sample(dataset, index, shape, options, [seed, epoch, index], resize), index)
                )
            except UserError:
                if complaints is None:
                    raise
                complaints.add("unreadable pictures skipped", dataset.items[index].path)
        return collate(samples) if samples else None

    if workers == 0:
        yield from filter(None, map(make, range(start, len(groups))))
        return
    # One torch thread per worker (the setting is the thread's own): the caller's network has the others, and
    # OpenMP teams that wait for a busy core make a picture ten times as slow.
    pool = ThreadPoolExecutor(workers, "batches", initializer=torch.set_num_threads, initargs=(1,))
    pending: deque[Future[Batch | None]] = deque()
    try:
        for number in range(start, len(groups) + workers):
            if number < len(groups):
                pending.append(pool.submit(make, number))
            if number >= start + workers and (made := pending.popleft().result()) is not None:
                yield made
    finally:
        # Also reached by Ctrl-C and by a caller that stops early: what has not begun never will.
        pool.shutdown(wait=False, cancel_futures=True)


def collate(samples: list[tuple[Tensor, np.ndarray, np.ndarray, int]]) -> Batch:
    """Stack (picture, boxes, classes, index) samples; truths are padded with zeros to the longest list."""
    longest = max(1, *(len(boxes) for _, boxes, _, _ in samples))
    truth = torch.zeros(len(samples), longest, 5)
    for row, (_, boxes, classes, _) in zip(truth, samples, strict=True):
        row[: len(boxes), :4] = torch.from_numpy(boxes)
        row[: len(boxes), 4] = torch.from_numpy(classes)
    images = torch.stack([picture for picture, _, _, _ in samples])
    return Batch(images, truth, torch.tensor([index for _, _, _, index in samples]))


def _sample(
    dataset: Dataset,
    index: int,
    size: tuple[int, int],
    options: Augment | None,
    seed: list[int],
    mode: Mode,
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    item = dataset.items[index]
    picture = dataset.picture(index)
    boxes, classes = item.boxes[~item.difficult], item.classes[~item.difficult]
    if options is not None:
        return augment(picture, boxes, classes, size, options, np.random.default_rng(seed))
    letterbox = Letterbox(item.width, item.height, *size, mode)
    return letterbox.picture(picture), letterbox.boxes(boxes), classes

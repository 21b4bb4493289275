"""What all loaders of pictures share: who gets which of them when, and threads that work ahead."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Job = TypeVar("Job")
Made = TypeVar("Made")
Share = tuple[int, list[int]]  # number of the batch in the epoch, indices of the pictures


def shares(
    pictures: int,
    batch: int,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> list[Share]:
    """This process's pictures of every batch of an epoch.

    Parameters
    ----------
    pictures : int
        Of the data set.
    batch : int
        Pictures per batch, of all processes together.
    seed, epoch : int
        Decide the order.
    shuffle : bool
        Visit the pictures in random order, every one once. (Darknet draws with replacement.)
    drop_last : bool
        Leave out a last batch that is not full. Of one with fewer pictures than processes some have none.
    start : int
        Batches to leave out, because they were done before an interruption.
    rank, world : int
        Which of how many processes this is. Shares are contiguous and differ by one picture at most.

    Raises
    ------
    ValueError
        If `batch` is not positive, `start` negative, or `rank` not below `world`.
    """
    if batch < 1 or start < 0 or not 0 <= rank < world:
        raise ValueError(f"batch {batch}, start {start} or rank {rank} of {world} has no meaning")
    order = np.arange(pictures)
    if shuffle:
        order = np.random.default_rng([seed, epoch]).permutation(order)
    groups = [order[i : i + batch] for i in range(0, pictures, batch)]
    if drop_last and groups and len(groups[-1]) < batch:
        groups.pop()
    mine = [g[len(g) * rank // world : len(g) * (rank + 1) // world].tolist() for g in groups]
    return list(enumerate(mine))[start:]


def ahead(make: Callable[[Job], Made], jobs: Sequence[Job], workers: int) -> Iterator[Made]:
    """``map(make, jobs)``, so many results ahead of who asks for them in as many threads.

    Parameters
    ----------
    make : callable
        Threads are enough where it lets go of the interpreter's lock: decoding, OpenCV and Pillow do.
    jobs : sequence
        What to make, in this order.
    workers : int
        Threads; 0 makes each result when it is asked for, which is best where the caller's own work already
        keeps every core busy.

    Raises
    ------
    ValueError
        If `workers` is negative.
    """
    if workers < 0:
        raise ValueError(f"workers {workers} must not be negative")
    if workers == 0:
        yield from map(make, jobs)
        return
    # One torch thread per worker (the setting is the thread's own): the caller's network has the others, and
    # OpenMP teams that wait for a busy core make a picture ten times as slow.
    pool = ThreadPoolExecutor(workers, "batches", initializer=torch.set_num_threads, initargs=(1,))
    pending: deque[Future[Made]] = deque()
    try:
        for job in jobs:
            pending.append(pool.submit(make, job))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Also reached by Ctrl-C and by a caller that stops early: what has not begun never will.
        pool.shutdown(wait=False, cancel_futures=True)


def network_input(images: Tensor, device: torch.device) -> Tensor:
    """Pictures (B, 3, H, W) on a device, channels last: bytes become float32 in [0, 1], floats stay.

    A GPU gets bytes, a quarter of what floats would be; from pinned memory nobody waits for them.
    """
    images = images.to(device, non_blocking=device.type == "cuda")
    if images.dtype == torch.uint8:
        images = images.to(torch.float32).div_(255)
    return images.contiguous(memory_format=torch.channels_last)

"""A data set whose decoded pictures stay on a device, where training batches are made of them.

Decoding takes most of the time that a training picture takes a CPU (a few milliseconds); on a GPU that makes
its own it is done once. Chance stays on the host: a plan is a tenth of a millisecond a picture.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from fast.augment import Placed, augment
from reference.augment import Draws
from yolov2.augment import Augment, Plan, integers, plan
from yolov2.data.dataset import Dataset
from yolov2.data.epoch import shares
from yolov2.data.loader import Batch, Size
from yolov2.errors import Complaints, UserError


@dataclass(frozen=True)
class DeviceDataset(Dataset):
    """A data set with its pictures on a device; made by `on_device`.

    Parameters
    ----------
    buffer : Tensor, uint8 (N,)
        The pixels R G B of picture after picture, row after row.
    starts : list of (int or None)
        Where each item's picture begins; None for one that could not be read.
    """

    buffer: Tensor = field(repr=False, compare=False)
    starts: list[int | None] = field(repr=False, compare=False)


def on_device(
    dataset: Dataset,
    device: torch.device,
    max_bytes: int | None = None,
    *,
    workers: int = 0,
    complaints: Complaints | None = None,
) -> DeviceDataset:
    """Decode all pictures of a data set and keep them on a device.

    Parameters
    ----------
    dataset : Dataset
        Three bytes a pixel have to fit: 2.8 GB for the 5,011 pictures of VOC 2007's trainval.
    device : torch.device
        Where to.
    max_bytes : int, optional
        How much they may take. None is half of what is free on a GPU: training needs the rest.
    workers : int
        Threads that decode; 0 is one.
    complaints : Complaints, optional
        Counts pictures that cannot be read, which no batch will have. Without it the first one raises.

    Raises
    ------
    UserError
        If they do not fit, which is known before the first is decoded, or one cannot be read.
    """
    sizes = [item.width * item.height * 3 for item in dataset.items]
    if max_bytes is None and device.type == "cuda":
        max_bytes = torch.cuda.mem_get_info(device)[0] // 2
    if max_bytes is not None and sum(sizes) > max_bytes:
        raise UserError(
            f"--cache device: {len(dataset)} decoded pictures take {sum(sizes) / 1e9:.3g} GB, "
            f"{max_bytes / 1e9:.3g} GB are left for them on {device}; use --cache memory"
        )
    buffer = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    starts = [0, *np.cumsum(sizes).tolist()]

    def load(index: int) -> int | None:
        item = dataset.items[index]
        try:
            pixels = dataset.pixels(index)
            if pixels.shape != (item.height, item.width, 3):
                was, found = f"{item.width}x{item.height}", f"{pixels.shape[1]}x{pixels.shape[0]}"
                raise UserError(f"{item.path}: was {was} pixels, is {found}; start again")
        except UserError:
            if complaints is None:
                raise
            complaints.add("unreadable pictures skipped", item.path)
            return None
        # a copy of its own, for torch likes no array that must not be written to
        buffer[starts[index] : starts[index + 1]].copy_(torch.from_numpy(pixels.flatten()))
        return starts[index]

    with ThreadPoolExecutor(max(1, workers), "decoding") as pool:
        loaded = pool.map(load, range(len(dataset)))
        about = {"desc": "decoding pictures", "total": len(dataset), "unit": "", "delay": 2, "leave": False}
        found = list(tqdm(loaded, **about))
    return DeviceDataset(dataset.names, dataset.items, buffer, found)


def device_batches(
    dataset: DeviceDataset,
    batch: int,
    size: Size | Callable[[int], Size],
    options: Augment,
    *,
    seed: int = 0,
    epoch: int = 0,
    shuffle: bool = False,
    drop_last: bool = False,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Batch]:
    """One epoch over a data set, as `yolov2.data.loader.batches` goes over it, made where the pictures are.

    Parameters
    ----------
    dataset : DeviceDataset
        Difficult boxes are left out of the truths (SPEC 15).
    batch, size, seed, epoch, shuffle, drop_last, start, rank, world
        As there: the same give the same batches, but for the rounding of pictures to bytes.
    options : Augment
        Random changes, of the form "place".
    dtype : torch.dtype
        Of the pictures: float32, float16 or bfloat16.

    Yields
    ------
    Batch
        On the device, pictures in [0, 1]. Nothing waits for a GPU.

    Raises
    ------
    ValueError
        If `batch` is not positive, `start` negative, or `rank` not below `world`.
    UserError
        If the options ask for another form.
    """
    if options.form != "place":
        raise UserError(
            f"--cache device: pictures of the form {options.form} are made by --cache memory only"
        )
    place = {"seed": seed, "epoch": epoch, "start": start, "rank": rank, "world": world}
    for number, share in shares(len(dataset), batch, shuffle=shuffle, drop_last=drop_last, **place):
        wanted = size(number) if callable(size) else size
        shape = (wanted, wanted) if isinstance(wanted, int) else wanted
        share = [index for index in share if dataset.starts[index] is not None]
        if share or world > 1:
            plans = [_plan(dataset, index, shape, options, [seed, epoch, index]) for index in share]
            yield _carry_out(dataset, share, plans, shape, dtype)


def _plan(
    dataset: DeviceDataset, index: int, size: tuple[int, int], options: Augment, seed: list[int]
) -> Plan:
    """What `yolov2.data.loader` would do with this item."""
    item = dataset.items[index]
    labels = np.concatenate([item.classes[:, None], item.boxes], 1)[~item.difficult].astype(np.float32)
    draws = Draws(integers(np.random.default_rng(seed)))
    return plan(draws, (item.width, item.height), size, labels, options)


def _carry_out(
    dataset: DeviceDataset, share: list[int], plans: list[Plan], size: tuple[int, int], dtype: torch.dtype
) -> Batch:
    rows = [
        Placed(
            start=dataset.starts[index] or 0,
            rows=dataset.items[index].height,
            columns=dataset.items[index].width,
            width=p.width,
            height=p.height,
            x=p.x,
            y=p.y,
            mirror=p.mirror,
            flip_vertical=p.flip_vertical,
            transpose=p.transpose,
        )
        for index, p in zip(share, plans, strict=True)
    ]
    table = torch.tensor(rows, dtype=torch.int64).view(-1, len(Placed._fields))
    colour = torch.tensor([(p.hue, p.saturation, p.exposure) for p in plans]).view(-1, 3)
    truths = [*(torch.from_numpy(p.truth) for p in plans), torch.zeros(1, 5)]  # at least one row each
    truth = pad_sequence(truths, batch_first=True)[:-1]
    if dataset.buffer.is_cuda:  # from pinned memory nobody waits for a copy
        table, colour, truth = table.pin_memory(), colour.pin_memory(), truth.pin_memory()
    table, colour, truth = (x.to(dataset.buffer.device, non_blocking=True) for x in (table, colour, truth))
    images = augment(dataset.buffer, table, colour, *size, dtype, channels_last=True)
    return Batch(images, truth, torch.tensor(share, dtype=torch.int64))

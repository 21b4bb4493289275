"""The least time that a network can take: its work, counted from the layer list, and what a machine can do.

A layer computes FLOPs and moves bytes, and a machine does so many of each a second at most. The slower of the
two is the floor: nothing that runs layer by layer is quicker. A program may beat it where it keeps maps in
the cache or fuses layers, and where a convolution needs fewer multiplications (Winograd).
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from reference.layers import (
    Cost,
    Crop,
    Dropout,
    Layer,
    Route,
    Shape,
    Shortcut,
    absolute_route,
    head_index,
)
from yolov2.summary import summary
from yolov2.weights import parameter_shapes

#: sides of the matrices and bytes of the copies that `measured_roof` times: too large for any cache
MATRIX = {"cpu": 2048, "cuda": 8192}
COPY = {"cpu": 1 << 28, "cuda": 1 << 30}
REPEATS = 5


class Roof(NamedTuple):
    """What a machine does in a second at most."""

    flops: float  # two for every multiply-add
    bytes: float  # read and written


class Work(NamedTuple):
    """What is to be done."""

    flops: int  # two for every multiply-add
    bytes: int  # read and written

    def seconds(self, roof: Roof) -> float:
        """The floor: the longer of computing and moving, which go on at the same time."""
        return max(self.flops / roof.flops, self.bytes / roof.bytes)


def layer_work(
    layers: Sequence[Layer], shape: Shape, batch: int = 1, bytes_per_value: float = 4
) -> list[Work]:
    """Work of every layer at inference, batch norm folded and activations done in the same pass.

    Parameters
    ----------
    layers : sequence of Layer
        The network.
    shape : (channels, height, width)
        Of the input, in pixels.
    batch : int
        Pictures at a time; weights are read once for all of them.
    bytes_per_value : float
        Of weights and maps: 4 for float32, 2 for float16 and bfloat16, 1 for int8.

    Returns
    -------
    list of Work
        FLOPs are those of `yolov2.summary`, where pools and the like have none. Bytes are the layer's
        weights and biases, its input and its output. What needs nothing done has no bytes: the head, of
        which a network gives the raw input, a loss, dropout, and a route from one layer.

    Raises
    ------
    ValueError
        If a layer does not fit its input; the message names the layer.
    """
    layers = list(layers)
    rows = summary(layers, shape)
    maps = [row.output for row in rows]
    head = head_index(layers)
    found = []
    for index, (row, arrays) in enumerate(zip(rows, parameter_shapes(layers, shape), strict=True)):
        layer, out = row.layer, math.prod(row.output)
        # scales and statistics of a convolution vanish into its weights and biases
        weights = sum(math.prod(size) for name, size in arrays.items() if name in ("weights", "biases"))
        if index == head or isinstance(layer, Cost | Dropout):
            values = 0
        elif isinstance(layer, Route | Shortcut):
            read = [math.prod(maps[source]) for source in absolute_route(layer, index)]
            if isinstance(layer, Shortcut):
                read.append(out)
            values = sum(read) + out if len(read) > 1 else 0
        elif isinstance(layer, Crop):
            values = 2 * out
        else:
            values = math.prod(maps[index - 1] if index else shape) + out
        found.append(Work(batch * row.flops, round((batch * values + weights) * bytes_per_value)))
    return found


def work_of(layers: Sequence[Layer], shape: Shape, batch: int = 1, bytes_per_value: float = 4) -> Work:
    """Work of a whole network; parameters and errors as of `layer_work`.

    Examples
    --------
    >>> work_of(NETWORKS["yolov2-voc"].build(), (3, 416, 416)).seconds(Roof(100e9, 10e9))
    0.29360334848
    """
    return total(layer_work(layers, shape, batch, bytes_per_value))


def total(works: Sequence[Work]) -> Work:
    """The sum of several pieces of work."""
    return Work(sum(work.flops for work in works), sum(work.bytes for work in works))


def measured_roof(device: torch.device, dtype: torch.dtype = torch.float32) -> Roof:
    """What this machine reaches: a large product of matrices and a large copy, each the best of several.

    Parameters
    ----------
    device : torch.device
        A CPU, with the threads that torch has now, or a CUDA GPU.
    dtype : torch.dtype
        Of the matrices. On GPUs float32 is computed as convolutions are, that is in TF32 if cuDNN may.

    Returns
    -------
    Roof
    """
    kind = "cuda" if device.type == "cuda" else "cpu"
    side, size = MATRIX[kind], COPY[kind]
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        a, b = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        product = torch.empty_like(a)
        flops = 2 * side**3 / min(timed(lambda: torch.mm(a, b, out=product), device, REPEATS))
        source = torch.ones(size, dtype=torch.uint8, device=device)
        copy = torch.empty_like(source)
        return Roof(flops, 2 * size / min(timed(lambda: copy.copy_(source), device, REPEATS)))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def timed(call: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Seconds of `repeats` calls, after one that is not counted; on a CUDA GPU until it is done there."""
    seconds = []
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]

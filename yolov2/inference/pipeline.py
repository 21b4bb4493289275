"""From the bytes of a batch to its results without a word from the host: one CUDA graph per batch and size.

    pinned bytes --upload stream--> buffer --graph: letterbox, network, detections--> rows --> pinned rows

There are two buffers with a graph each, so that a batch is uploaded while the one before is computed. The
host waits once a batch, for the rows.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast._launch import CAPTURING
from fast.letterbox import Packed

#: so often everything runs before it is captured: kernels get compiled and algorithms chosen
WARM_UPS = 3
SLOTS = 2


class Pending(NamedTuple):
    """Results that are being computed, and copied to the host if so wished."""

    results: Tensor
    done: Any  # torch.cuda.Event; None on a CPU

    def wait(self) -> Tensor:
        """The results, when they have arrived."""
        if self.done is not None:
            self.done.synchronize()
        return self.results


class Pipeline:
    """One function of packed pictures, captured for one number of them and one size of input.

    Parameters
    ----------
    run : callable
        From `Packed` on the device to a tensor there; the same operations every time.
    pictures, width, height : int
        The shape that it is captured for; sizes in pixels.
    capacity : int
        Bytes of the longest buffer that fits.
    device : torch.device
        On a CPU nothing is captured; `run` is called.
    download : bool
        Whether results go to the host; otherwise they are copied on the device.
    """

    def __init__(
        self,
        run: Callable[[Packed], Tensor],
        pictures: int,
        width: int,
        height: int,
        capacity: int,
        device: torch.device,
        download: bool = True,
    ):
        self.capacity = capacity
        self._lock = threading.Lock()
        self._cuda = device.type == "cuda"
        self._run = run
        if self._cuda:
            self._upload, self._compute = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._slots: list[_Slot] = []
        self._turn = 0
        self._shape = pictures, width, height
        self._device, self._download = device, download

    def submit(self, packed: Packed) -> Pending:
        """Begin with a batch; any thread may.

        Parameters
        ----------
        packed : Packed
            On the host, of the shape of this pipeline; the copy overlaps with other work if it is pinned.

        Returns
        -------
        Pending
            Its `wait` returns the results, in memory of their own.
        """
        with self._lock, torch.inference_mode():
            while len(self._slots) < SLOTS:
                self._slots.append(self._slot(packed))
            if self._cuda:
                self._run = _captured  # what it refers to may go: the graphs have it all
            slot = self._slots[self._turn % len(self._slots)]
            self._turn += 1
            length = len(packed.buffer)
            if not self._cuda:
                slot.packed.buffer[:length].copy_(packed.buffer)
                return Pending(self._run(slot.packed).clone(), None)
            with torch.cuda.stream(self._upload):
                self._upload.wait_event(slot.free)  # its last batch has been computed
                slot.packed.buffer[:length].copy_(packed.buffer, non_blocking=True)
            self._compute.wait_stream(self._upload)
            with torch.cuda.stream(self._compute):
                slot.graph.replay()
                results = torch.empty_like(
                    slot.results, device="cpu" if self._download else None, pin_memory=self._download
                )
                results.copy_(slot.results, non_blocking=True)
                slot.free.record()
                done = torch.cuda.Event()
                done.record()
            return Pending(results, done)

    def drain(self) -> None:
        """Wait until nothing of this pipeline runs, before its graphs and their memory are let go."""
        with self._lock:
            if self._cuda:
                self._compute.synchronize()

    def _slot(self, example: Packed) -> "_Slot":
        buffer = torch.zeros(self.capacity, dtype=torch.uint8, device=self._device)
        buffer[: len(example.buffer)].copy_(example.buffer)
        packed = Packed(buffer, *self._shape)
        if not self._cuda:
            return _Slot(packed)
        for stream in (self._upload, self._compute):
            buffer.record_stream(stream)
        self._compute.wait_stream(torch.cuda.current_stream(self._device))
        with CAPTURING, torch.cuda.stream(self._compute), exact_algorithms():
            for _ in range(WARM_UPS):
                self._run(packed)
            self._compute.synchronize()
            graph = torch.cuda.CUDAGraph()
            # other threads may go on asking for memory meanwhile, but for nothing that waits for the GPU
            with torch.cuda.graph(graph, stream=self._compute, capture_error_mode="thread_local"):
                results = self._run(packed)
        free = torch.cuda.Event()
        free.record(self._compute)
        return _Slot(packed, graph, results, free)


def _captured(_: Packed) -> Tensor:
    raise AssertionError("everything is captured")


@contextmanager
def exact_algorithms() -> Iterator[None]:
    """cuDNN tries its algorithms, and float32 is float32: TF32 would round the inputs to ten bits."""
    cudnn: Any = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.conv.fp32_precision
    cudnn.benchmark, cudnn.conv.fp32_precision = True, "ieee"
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.conv.fp32_precision = before


class _Slot(NamedTuple):
    """A buffer, and the graph that reads it and writes `results`."""

    packed: Packed
    graph: Any = None
    results: Any = None
    free: Any = None  # an event: the graph is through with the buffer


def capacity_for(length: int) -> int:
    """Room for `length` bytes and a little more, one of few sizes: growing means capturing again."""
    return max(1 << 20, 1 << (length - 1).bit_length())


def on_device(device: torch.device) -> Any:
    """`torch.cuda.device`, or nothing on a CPU."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()

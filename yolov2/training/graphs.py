"""Updates as CUDA graphs: what Python launches kernel by kernel once is launched as a whole from then on.

An update of yolov2-voc is some 240 operators of torch, 370 with a moving average, and each is a kernel or
several. A GPU that is done with one before Python has launched the next waits for Python; of a graph it is
given all at once. A graph reads and writes where it did when it was captured, so there is one for every shape
of a batch, with tensors of its own that every batch of that shape is copied into. What changes from update to
update (learning rate, weight in the moving average) lies in tensors too; momentum and decay do not change.
"""

from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fast._launch import CAPTURING

WARM_UP = 3  # updates of a shape before it is captured: kernels are compiled and libraries started by then
ROWS = 64  # lists of truths are filled up to multiples of this
MOST_ROWS = 256  # longer ones may be beyond the loss's kernels, and torch would have to look at them

Replay = Callable[[], Tensor]


class Step(Protocol):
    """All that a device does for an update; see `yolov2.training.loop.Trainer`."""

    def __call__(
        self, batch: Any, pictures: int, seen: int, rate: float | Tensor, share: float | Tensor
    ) -> Tensor: ...


class Graphs:
    """Makes updates, those of a shape that was met before from a graph; called as the step itself.

    Parameters
    ----------
    step : callable
        What an update is. It waits for nothing and copies nothing from the host, returns the terms of the
        loss, and takes numbers or 0-dimensional tensors as `rate` and `share`.
    device : torch.device
        A CUDA GPU.
    steady : int
        Pictures after which `step` does not depend on `seen` any more. Before that nothing is captured.
    """

    def __init__(self, step: Step, device: torch.device, steady: int):
        self.step, self.device, self.steady = step, device, steady
        self.rate, self.share = torch.zeros(2, device=device).unbind()
        self.met: Counter[tuple[torch.Size, ...]] = Counter()
        self.captured: dict[tuple[torch.Size, ...], tuple[Any, Replay]] = {}

    def __call__(
        self, batch: Any, pictures: int, seen: int, rate: float | Tensor, share: float | Tensor
    ) -> Tensor:
        """Make one update. What is returned lasts until the next."""
        self.rate.fill_(rate)
        self.share.fill_(share)
        # still of its own type, which knows how it is cut into pieces
        batch = _with_room(batch._replace(**batch.to(self.device)._asdict()))
        shapes = tuple(x.shape for x in batch)

        def run(batch: Any) -> Tensor:
            return self.step(batch, pictures, seen, self.rate, self.share)

        if shapes not in self.captured:
            steady = seen >= self.steady and all(x.ndim != 3 or x.shape[1] <= MOST_ROWS for x in batch)
            if not steady or self.met[shapes] < WARM_UP:
                self.met[shapes] += steady
                return self.aside(lambda: run(batch))
            own = type(batch)(*(x.clone() for x in batch))
            self.captured[shapes] = own, self.capture(lambda: run(own))
        own, replay = self.captured[shapes]
        for to, values in zip(own, batch, strict=True):
            if to.device.type == self.device.type:  # what is left on the host the step does not need
                to.copy_(values)
        return replay()

    def aside(self, run: Replay) -> Tensor:
        """Run it where it will be captured: autograd and cuBLAS remember streams."""
        here = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            values = run()
        here.wait_stream(self._stream)
        return values

    def capture(self, run: Replay) -> Replay:
        """What repeats `run`, which is not run."""
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the loader's threads go on asking for pinned memory
        whole = torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local")
        with CAPTURING, whole:
            values = run()

        def replay() -> Tensor:
            graph.replay()
            return values

        return replay

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)

    @cached_property
    def _pool(self) -> Any:
        """Memory of all graphs: no two run at the same time, nothing in it outlives an update."""
        return torch.cuda.graph_pool_handle()


def _with_room(batch: Any) -> Any:
    """Lists of truths (B, T, 5) filled up with zeros, for T is another in every batch; x = 0 ends a list."""
    lists = {name: x for name, x in batch._asdict().items() if x.ndim == 3}
    return batch._replace(**{name: F.pad(x, (0, 0, 0, -x.shape[1] % ROWS)) for name, x in lists.items()})

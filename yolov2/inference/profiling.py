"""Where the time of one batch goes: the steps of a predictor, one after the other, under a clock each."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from fast.letterbox import Packed as PackedPictures
from fast.letterbox import letterbox_packed
from reference.layers import head_index
from yolov2.errors import UserError
from yolov2.inference.engines import Engine, Packed
from yolov2.inference.pipeline import SLOTS, WARM_UPS, exact_algorithms, on_device
from yolov2.inference.roofline import Roof, Work, layer_work, measured_roof, total
from yolov2.network import Network
from yolov2.summary import Row, describe, summary

if TYPE_CHECKING:
    from yolov2.inference.predictor import Predictor
    from yolov2.model import Picture

#: cycles a second of a GPU's clock at most; a pause of so many lasts a second or longer
CLOCK = 2e9
LONGEST = 0.1  # seconds of such a pause


class Step(NamedTuple):
    """A line of the table."""

    name: str
    seconds: float  # median of the passes, or the sum of such
    work: Work | None = None  # of the steps of the network


class Profile(NamedTuple):
    """Where the time of a batch went."""

    steps: list[Step]  # one after the other
    network: Step  # those of the network together
    whole: Step  # the same pictures as `Predictor` itself takes them, not looked into
    roof: Roof


class _Watch:
    """Takes the times of named steps: by the host's clock, or by events in the GPU's queue."""

    def __init__(self, device: torch.device):
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[str, Any, Any]] = []

    @contextmanager
    def step(self, name: str, host: bool = False) -> Iterator[None]:
        with record_function(name):
            start = self._now(host)
            yield
            self._marks.append((name, start, self._now(host)))

    def seconds(self) -> dict[str, float]:
        """Of every step, in order; those on the GPU must be over."""
        return {
            name: start.elapsed_time(end) / 1000 if hasattr(start, "elapsed_time") else end - start
            for name, start, end in self._marks
        }

    def _now(self, host: bool) -> Any:
        if host or not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class _Batch:
    """Some pictures, and a predictor that takes them step by step or at once."""

    def __init__(self, predictor: "Predictor", pictures: Sequence["Picture"], names: Sequence[str]):
        from yolov2.model import Options

        self.predictor, self.pictures, self.names = predictor, pictures, names
        self.device, self.size, self.options = predictor.device, predictor._size(None), Options()
        self._cuda, self._packs = self.device.type == "cuda", isinstance(self._prepared(), PackedPictures)
        self.pause = 0.0  # seconds for which the GPU waits, so that all it has to do is in its queue

    @torch.inference_mode()
    def step_by_step(self) -> dict[str, float]:
        """Seconds of every step; the layers of an engine that has them are steps of their own."""
        watch, model = _Watch(self.device), self.predictor.model
        rows = model.has_rows(self.size)
        with watch.step("pack" if self._packs else "letterbox", host=True):
            images = self._prepared()
        if self._cuda:
            torch.cuda.synchronize(self.device)
            torch.cuda._sleep(int(CLOCK * self.pause))
        start = time.perf_counter()
        if self._packs:
            with watch.step("upload"):
                images = images.to(self.device)
            with watch.step("letterbox"):
                images = letterbox_packed(images, self.predictor.dtype, channels_last=True)
        else:
            images = images.to(self.device)
        with self._network(watch):
            outputs = self.predictor.run(images)
        if rows:
            with watch.step("detect"):
                outputs = model._rows(outputs, self.options)
        if self._cuda:
            with watch.step("download"):
                host = torch.empty(outputs.shape, dtype=outputs.dtype, pin_memory=True)
                outputs = host.copy_(outputs, non_blocking=True)
            self.pause = min(LONGEST, 1.5 * (time.perf_counter() - start))
            torch.cuda.synchronize(self.device)
        # where a tree is descended there are no rows, and all of detection is on the host
        with watch.step("results" if rows else "detect", host=True):
            if rows:
                model._read_rows(outputs.numpy(), self.pictures, self.size)
            else:
                model._interpret(outputs.float(), self.pictures, self.size, self.options)
        return watch.seconds()

    def at_once(self) -> Callable[[], Any]:
        """What does all that as it is done when nobody looks: on a GPU from packed bytes to rows."""
        if not self._packs:
            return lambda: self.predictor(self.pictures)
        packed = self._prepared()
        return lambda: self.predictor._submit(packed, self.options).wait()

    def _prepared(self) -> Any:
        return self.predictor._prepare(self.pictures, self.size, self.options).images

    def _network(self, watch: _Watch) -> AbstractContextManager[None]:
        network = visible_network(self.predictor.run)
        return watch.step("network") if network is None else _watched(network, watch, self.names)


def visible_network(engine: Engine) -> Network | None:
    """The layers that an engine runs, one by one; None if it does not show them."""
    if isinstance(engine, Packed):
        engine = engine._network
    return engine if isinstance(engine, Network) else None


def profile(
    predictor: "Predictor",
    pictures: Sequence["Picture"],
    repeats: int = 10,
    layers: bool = False,
    bytes_per_value: float | None = None,
    read: Callable[[], Any] | None = None,
    trace: Path | None = None,
) -> Profile:
    """Take the time of every step from pictures to results.

    Parameters
    ----------
    predictor : Predictor
        On a CPU or a CUDA GPU, with its engine; nothing else may use it meanwhile.
    pictures : sequence of PIL.Image.Image or ndarray, uint8 (H, W, 3)
        One batch.
    repeats : int
        Passes, after some that are not counted.
    layers : bool
        A step for every layer, in place of one for consecutive layers whose outputs are of one size.
    bytes_per_value : float, optional
        Of weights and maps, for the roofline; by default those of the predictor's dtype.
    read : callable, optional
        Reads the pictures, as a first step.
    trace : Path, optional
        Where to write a trace of one more pass, for chrome://tracing or https://ui.perfetto.dev.

    Returns
    -------
    Profile
        On a GPU the layers are started one by one, from a queue that is full: their times are those of the
        GPU alone. `whole` is the captured graph.

    Raises
    ------
    UserError
        If the trace cannot be written.
    """
    model, device = predictor.model, predictor.device
    width, height = predictor._size(None)
    records, shape = list(model.network.layers), (3, height, width)
    rows = summary(records, shape)[: head_index(records)]
    works = layer_work(records, shape, len(pictures), bytes_per_value or predictor.dtype.itemsize)
    batch = _Batch(predictor, pictures, [layer_name(row, index) for index, row in enumerate(rows)])
    roof = measured_roof(device, predictor.dtype)

    passes: list[dict[str, float]] = []
    cuda = device.type == "cuda"
    tuned = exact_algorithms() if cuda else nullcontext()
    with on_device(device), tuned:
        at_once = batch.at_once()
        for _ in range(SLOTS):
            at_once()
        for _ in range(WARM_UPS):
            batch.step_by_step()
        for _ in range(repeats):
            watch = _Watch(device)
            if read is not None:
                with watch.step("read", host=True):
                    read()
            inside = batch.step_by_step()
            with watch.step("whole", host=True):
                at_once()
            passes.append(watch.seconds() | inside)
        if trace is not None:
            _write_trace(trace, batch, at_once)

    def seconds(names: Sequence[str]) -> float:
        return median(sum(one[name] for name in names) for one in passes)

    if visible_network(predictor.run) is None:
        groups = [Group("network", ["network"], total(works))]
    else:
        groups = _groups(rows, works, batch.names, layers)
    first = {group.names[0]: group for group in groups}
    of_network = [name for group in groups for name in group.names]
    steps = []
    for name in passes[0]:
        if name in first:
            steps.append(Step(first[name].name, seconds(first[name].names), first[name].work))
        elif name not in of_network and name != "whole":
            steps.append(Step(name, seconds([name])))
    network = Step("network", sum(step.seconds for step in steps if step.work), total(works))
    return Profile(
        steps, network, Step("one CUDA graph" if cuda else "in one call", seconds(["whole"])), roof
    )


class Group(NamedTuple):
    """Steps that become one line."""

    name: str
    names: list[str]
    work: Work


def _groups(rows: Sequence[Row], works: Sequence[Work], names: Sequence[str], each: bool) -> list[Group]:
    """The layers one by one, or those that follow each other and whose outputs are of one size."""
    if each:
        return [Group(name, [name], work) for name, work in zip(names, works, strict=False)]
    groups = []
    for (height, width), same in groupby(range(len(rows)), lambda index: rows[index].output[1:]):
        indices = list(same)
        one, last = indices[0], indices[-1]
        name = f"layer {one}" if one == last else f"layers {one}-{last}"
        work = total([works[index] for index in indices])
        groups.append(Group(f"{name}, {width}x{height}", [names[index] for index in indices], work))
    return groups


def layer_name(row: Row, index: int) -> str:
    """A layer as the table and the trace call it, e.g. ``2 conv 64 3x3/1 BN leaky, 208x208x64``."""
    kind, detail, output = describe(row, index)
    return " ".join(filter(None, (str(index), kind, detail))) + f", {output}"


@contextmanager
def _watched(network: Network, watch: _Watch, names: Sequence[str]) -> Iterator[None]:
    """Meanwhile every layer with a name is a step."""
    plain = network._layer

    def layer(index: int, x: Tensor, earlier: dict[int, Tensor]) -> Tensor:
        with watch.step(names[index]) if index < len(names) else nullcontext():
            return plain(index, x, earlier)

    network._layer = layer  # type: ignore[method-assign]
    try:
        yield
    finally:
        del network._layer


def _write_trace(path: Path, batch: _Batch, at_once: Callable[[], Any]) -> None:
    with torch.profiler.profile() as trace:
        batch.pause = 0
        batch.step_by_step()
        with record_function("at once"):
            at_once()
    try:
        trace.export_chrome_trace(str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"--trace {path}: cannot be written ({error})") from None
    if not path.is_file():  # the profiler only logs what it cannot write
        raise UserError(f"--trace {path}: cannot be written")

"""Pictures a second while training: eager, compiled, as a CUDA graph; and how busy the loader keeps each.

    python -m benchmarks.training --model yolov2-voc --batch 64 --precision bfloat16 --cache device
    python -m benchmarks.training --data data/VOC2012 --workers 8 --updates 100 --json training.json
    python -m benchmarks.training --ways eager,compile --device cpu

Every way to run an update first makes the same few from the same weights, and what they learnt is compared.
Then each is timed twice: on one batch that lies on the device, in turns with the others, which is what the
network can do, and on those that the loader brings. The ratio is the share of the time in which the network
works. Forward and backward are three times the forward pass's multiplications; their share of what a product
of large matrices reaches on this machine is the last column.
"""

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count, islice, pairwise, product, repeat
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from benchmarks.timing import environment
from yolov2.cli import option, parse, run
from yolov2.errors import UserError
from yolov2.inference.roofline import Roof, measured_roof
from yolov2.summary import summary, total_flops
from yolov2.train import DetectionTask, prepare
from yolov2.train_config import TrainConfig
from yolov2.training.distributed import Processes, processes
from yolov2.training.graphs import WARM_UP
from yolov2.training.loop import HALVES, Trainer

Way = Literal["eager", "compile", "cuda-graph", "compile+cuda-graph"]
LEARN = WARM_UP + 2  # updates before losses are compared
CLOSE = 0.05  # share of the loss by which ways may differ then, in half precision too
ROUNDS = 3  # of taking turns


@dataclass(frozen=True)
class BenchmarkConfig(TrainConfig):
    """Flags of ``python -m benchmarks.training``: those of `yolov2.train`, and how long."""

    ways: tuple[Way, ...] | None = option(
        "ways to run an update; none is all on a GPU, eager on a CPU", default=None
    )
    updates: int = option("updates to time, after as many as it takes to warm up", default=60)
    warm_up: int = option("updates before the clock runs: more than --workers", default=16)
    json: Path | None = option("write the numbers to this file", default=None)


class Contender:
    """One way to train, at work on a copy of a trainer's model.

    Parameters
    ----------
    way : Way
        How updates are run.
    base : Trainer
        What it is a copy of; has made no update.
    task : DetectionTask
        Has the data, which all ways share.
    """

    def __init__(self, way: Way, base: Trainer, task: DetectionTask):
        self.way, self.device = way, base.processes.device
        self.note = ""  # why there are no numbers
        self.loss = self.fed = self.memory = float("nan")
        self.alone: list[float] = []  # seconds an update
        before = self._memory("memory_allocated")
        flags = {"compile": "compile" in way, "cuda_graph": "cuda-graph" in way}
        own = replace(base.config, **flags), copy.deepcopy(base.model)
        same = base.plan, base.schedule, base.sizes, base.folder, base.processes
        self.trainer = Trainer(*own, task, *same)
        self.trainer.bar = _Silent()
        # behind the updates in which the loss still changes
        self.trainer.progress = self.trainer.progress._replace(seen=task.steady)
        self.trainer.network.train()
        self.weights = self._memory("memory_allocated") - before

    def seconds(self, batches: Iterable[Any]) -> list[float]:
        """Of updates, from end to end; a GPU is waited for when all are on their way."""
        ends = [self._now()]
        for batch in batches:
            self.trainer._update(batch)
            ends.append(self._now())
        self.trainer._settle(0)
        if self.device.type != "cuda":
            return [b - a for a, b in pairwise(ends)]
        torch.cuda.synchronize(self.device)
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(ends)]

    def learn(self, batch: Any) -> None:
        """A few updates on one batch, the last two from a graph where there is one; the loss of the last."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        before = self._memory("memory_allocated")
        self.seconds(repeat(batch, LEARN - 1))
        summed = self.trainer.progress.parts[0]
        self.seconds([batch])
        self.loss = self.trainer.progress.parts[0] - summed
        self.memory = (self._memory("max_memory_allocated") - before + self.weights) / 2**30

    def race(self, batch: Any, updates: int) -> None:
        """Updates on a batch that is there."""
        self.alone += self.seconds(repeat(batch, updates))

    def feed(self, loaded: Iterator[Any], warm_up: int, updates: int) -> None:
        """Updates on what the loader brings; their mean, for it may bring many at once."""
        self.seconds(islice(loaded, warm_up))
        self.fed = statistics.mean(self.seconds(islice(loaded, updates)))

    def attempt(self, work: Callable[..., None], *args: Any) -> None:
        """Work, or note what is wrong; a capture that fails leaves its own stream behind."""
        here = torch.cuda.current_stream(self.device) if self.device.type == "cuda" else None
        try:
            if not self.note:
                work(*args)
        except RuntimeError as error:
            self.note = str(error).strip().splitlines()[0][:90]
            torch.cuda.set_stream(here)

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _memory(self, what: str) -> int:
        return getattr(torch.cuda, what)(self.device) if self.device.type == "cuda" else 0


class _Silent:
    """A progress bar that shows nothing."""

    def update(self, pictures: int) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool) -> None: ...


def measure(config: BenchmarkConfig, together: Processes) -> list[dict[str, Any]]:
    """A row for every way; rates are pictures per second of all processes.

    Raises
    ------
    UserError
        If a way needs another device, and as `yolov2.train.prepare`.
    """
    gpu = together.device.type == "cuda"
    ways = config.ways or (get_args(Way) if gpu else ("eager",))
    if not gpu and any("graph" in way for way in ways):
        raise UserError(f"--ways {','.join(ways)}: graphs need a CUDA GPU, this is {together.device}")
    with tempfile.TemporaryDirectory() as folder:
        plain = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
        plain |= {"project": Path(folder), "epochs": 10**4, "compile": False, "cuda_graph": False}
        base, task = prepare(TrainConfig(**plain), together)
        contenders = [Contender(way, base, task) for way in ways]
        loaded = (batch for epoch in count() for batch in task.batches(epoch, 0))
        first = next(loaded).to(together.device)
        for contender in contenders:
            contender.attempt(contender.learn, first)
        for contender in contenders:
            off = abs(contender.loss / contenders[0].loss - 1)
            if not contender.note and not off <= CLOSE:
                contender.note = f"learns something else: its loss is off by {off:.1%}"
        for _, contender in product(range(ROUNDS), contenders):
            contender.attempt(contender.race, first, -(-config.updates // ROUNDS))
        for contender in contenders:
            contender.attempt(contender.feed, loaded, config.warm_up, config.updates)
    roof = measured_roof(together.device, HALVES[config.precision] or torch.float32)
    layers, side = base.network.layers, base.sizes.largest
    flops = 3 * total_flops(summary(layers, (3, side, side)))
    roof = Roof(roof.flops * together.world, roof.bytes * together.world)
    return [_row(c, base, flops, roof) for c in contenders]


def _row(contender: Contender, base: Trainer, flops: int, roof: Roof) -> dict[str, Any]:
    """What is saved of one way; `flops` are of a picture."""
    config, pictures = base.config, base.plan.per_update
    row: dict[str, Any] = {
        "work": "training",
        "model": getattr(config, "model", ""),
        "imgsz": base.sizes.largest,
        "pictures per update": pictures,
        "precision": config.precision,
        "cache": config.cache,
        "contender": contender.way,
    }
    if contender.note:
        return row | {"note": contender.note}
    alone = statistics.median(contender.alone)
    return row | {
        "alone": round(pictures / alone, 2),
        "with the loader": round(pictures / contender.fed, 2),
        "busy": round(alone / contender.fed, 4),
        "of roof": round(flops * pictures / alone / roof.flops, 4),
        "GiB": round(contender.memory, 2),
        "loss": round(contender.loss, 4),
        "updates": len(contender.alone),
    }


def table(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The rows for people."""
    about = rows[0]
    yield (
        f"{about['model']} at {about['imgsz']} pixels, {about['pictures per update']} pictures an update, "
        f"{about['precision']}, pictures in {about['cache']}; pictures a second:"
    )
    yield f"{'':20}{'alone':>10}{'with the loader':>18}{'busy':>8}{'of roof':>9}{'GiB':>7}"
    for row in rows:
        if "note" in row:
            yield f"{row['contender']:20}  {row['note']}"
            continue
        yield (
            f"{row['contender']:20}{row['alone']:10.5g}{row['with the loader']:18.5g}{row['busy']:8.1%}"
            f"{row['of roof']:9.1%}{row['GiB']:7.3g}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the numbers; 1 where a way did not work."""
    config = parse(BenchmarkConfig, argv, "python -m benchmarks.training", "How fast training is.")
    with processes(config.device) as together:
        # one size: a new one every ten updates would be compared with itself
        rows = measure(replace(config, multi_scale=config.multi_scale or (0, 0)), together)
    if together.first:
        print("\n".join(table(rows)))
        if config.json:
            config.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")
    return int(any("note" in row for row in rows))


if __name__ == "__main__":
    raise SystemExit(run(main))

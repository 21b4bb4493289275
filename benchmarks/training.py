"""Pictures a second while training, and how busy the loader keeps the network.

    python -m benchmarks.training --model yolov2-voc --batch 64 --precision bfloat16 --cache device
    python -m benchmarks.training --data data/VOC2012 --workers 8 --updates 100 --json training.json

The same updates are timed twice: on one batch that lies on the device, which is what the network can do, and
on those that the loader brings. Their ratio is the share of the time in which the network works.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any

import torch

from yolov2.cli import option, parse, run
from yolov2.train import prepare
from yolov2.train_config import TrainConfig
from yolov2.training.distributed import Processes, processes
from yolov2.training.loop import Trainer


@dataclass(frozen=True)
class BenchmarkConfig(TrainConfig):
    """Flags of ``python -m benchmarks.training``: those of `yolov2.train`, and how long."""

    updates: int = option("updates to time, after as many as it takes to warm up", default=60)
    warm_up: int = option("updates before the clock runs", default=10)
    json: Path | None = option("write the numbers to this file", default=None)


def seconds_per_update(trainer: Trainer, batches: Iterable[Any], warm_up: int, updates: int) -> float:
    """Median over updates; on a GPU over the time between their ends."""
    cuda = trainer.processes.device.type == "cuda"
    times = []
    trainer.network.train()
    for batch in islice(batches, warm_up + updates):
        trainer._update(batch)
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    return statistics.median(b - a for a, b in zip(times[warm_up - 1 :], times[warm_up:], strict=False))


def measure(config: BenchmarkConfig, together: Processes) -> dict[str, Any]:
    """Both rates, in pictures per second of all processes."""
    with tempfile.TemporaryDirectory() as folder:
        plain = {f.name: getattr(config, f.name) for f in fields(TrainConfig)}
        trainer, task = prepare(TrainConfig(**plain | {"project": Path(folder), "epochs": 10**4}), together)
        trainer.bar = _Silent()
        pictures = trainer.plan.per_update
        loaded = (batch for epoch in count() for batch in task.batches(epoch, 0))
        first = next(loaded)
        alone = seconds_per_update(trainer, repeat(first.to(together.device)), config.warm_up, config.updates)
        fed = seconds_per_update(trainer, loaded, config.warm_up, config.updates)
    return {
        "model": config.model,
        "imgsz": trainer.sizes.largest,
        "pictures per update": pictures,
        "precision": config.precision,
        "cache": config.cache,
        "device": torch.cuda.get_device_name() if together.device.type == "cuda" else "cpu",
        "network alone, pictures/s": round(pictures / alone, 2),
        "with the loader, pictures/s": round(pictures / fed, 2),
        "busy": round(alone / fed, 4),
        "memory, GiB": round(torch.cuda.max_memory_allocated() / 2**30, 2)
        if together.device.type == "cuda"
        else None,
    }


class _Silent:
    """A progress bar that shows nothing."""

    def update(self, pictures: int) -> None: ...

    def set_postfix_str(self, text: str, refresh: bool) -> None: ...


def main(argv: Sequence[str] | None = None) -> None:
    """Print the numbers."""
    config = parse(BenchmarkConfig, argv, "python -m benchmarks.training", "How fast training is.")
    with processes(config.device) as together:
        # one size: a new one every ten updates would be compared with itself
        numbers = measure(replace(config, multi_scale=config.multi_scale or (0, 0)), together)
    if together.first:
        print("\n".join(f"{name:28} {value}" for name, value in numbers.items()))
        if config.json:
            config.json.write_text(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    raise SystemExit(run(main))

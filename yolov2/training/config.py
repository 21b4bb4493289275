"""The flags that every training command has."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args, get_type_hints

import torch

from yolov2.cli import option

Precision = Literal["float32", "bfloat16", "float16"]
Cache = Literal["none", "memory", "device"]
Limit = tuple[Callable[[float], bool], str]
COUNT: Limit = (lambda n: 1 <= n <= 10**6, "from 1 to 1000000")
FRACTION: Limit = (lambda x: 0 <= x <= 1, "from 0 to 1")
FACTOR: Limit = (lambda x: 0.1 <= x <= 10, "from 0.1 to 10")
# by flag: which numbers have a meaning, and that in words; NaN passes no comparison
LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("epochs", "batch", "nominal_batch", "eval_every"), COUNT),
    **dict.fromkeys(("hue", "flip", "assumed_iou"), FRACTION),
    **dict.fromkeys(
        ("object_scale", "noobject_scale", "class_scale", "coord_scale"),
        (lambda x: 0 <= x <= 1000, "from 0 to 1000"),
    ),
    **dict.fromkeys(("saturation", "exposure"), FACTOR),
    "decay": (lambda x: 0 <= x <= 10, "from 0 to 10"),
    "lr": (lambda x: 0 < x < 10, "between 0 and 10"),
    "momentum": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "burn_in": (lambda n: 0 <= n <= 10**9, "from 0 to 1000000000"),
    "bn_momentum": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "milestones": (lambda x: 0 < x < 1, "between 0 and 1"),
    "drop": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "jitter": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "zoom": (lambda x: 0.1 <= x <= 4, "from 0.1 to 4"),
    "ratio": (lambda x: 0.001 <= x <= 1000, "from 0.001 to 1000"),
    "clip": (lambda x: 0 < x < 10**9, "above 0"),
    "ema": (lambda x: 0 < x < 1, "between 0 and 1"),
    "save_every": (lambda x: 0 <= x < 10**6, "from 0"),
    "seed": (lambda n: 0 <= n < 2**63, "from 0 to 2^63 - 1"),
    "workers": (lambda n: 0 <= n <= 256, "from 0 to 256"),
}


@dataclass(frozen=True)
class LoopConfig:
    """Flags of `yolov2.training.loop`, the same for all commands that train."""

    epochs: int | None = option("times over the data", default=None)
    batch: int | None = option(
        "pictures at a time, per process; only memory and batch norm feel it; none is what fits", default=None
    )
    nominal_batch: int | None = option(
        "pictures per update, over all processes and sub-batches; none is the model's", default=None
    )
    lr: float | None = option("learning rate for a nominal batch; none is the model's", default=None)
    momentum: float = option("momentum", default=0.9)
    decay: float = option("weight decay, on convolution weights only", default=0.0005)
    burn_in: int | None = option("updates of rising rate; none is 1000 or a tenth of all", default=None)
    bn_momentum: float = option("share of a batch in the rolling batch-norm statistics", default=0.01)
    clip: float | None = option("largest norm of the gradient; none does not clip", default=None)
    ema: float | None = option(
        "decay of a moving average of the weights, evaluated in their place, e.g. 0.999", default=None
    )
    precision: Precision = option("of activations: halves need a GPU made for them", default="float32")
    compile: bool = option("torch.compile the network", default=False)
    cuda_graph: bool = option(
        "launch whole updates as CUDA graphs, one for every size of the input; one GPU", default=False
    )
    channels_last: bool = option("keep channels together in memory", default=True)
    sync_bn: bool = option("batch-norm statistics over all processes", default=False)
    cache: Cache = option(
        "keep decoded pictures: in memory as far as they fit, or all on the device and augment there",
        default="memory",
    )
    eval_every: int | None = option("epochs between evaluations; none is a twentieth of all", default=None)
    save_every: float = option("minutes between checkpoints within an epoch", default=10.0)
    seed: int = option("seed of weights, order and augmentation", default=0)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    workers: int | None = option("threads that make batches; none is 0 (CPU) or 8 (GPU)", default=None)
    project: Path = option("runs are kept in this folder", default=Path("runs"))
    name: str = option("name of the run", default="train")
    resume: Path | None = option("go on with this run (its folder or last.safetensors)", default=None)

    #: flags that may change when a run is resumed; everything else goes on as it was begun
    RESUMABLE: ClassVar[tuple[str, ...]] = (
        "resume",
        "data",
        "epochs",
        "device",
        "workers",
        "cache",
        "save_every",
    )
    #: fields that hold a path, for `from_plain`
    PATHS: ClassVar[tuple[str, ...]] = ("data", "weights", "cfg", "resume", "project", "evaluate")

    def __post_init__(self):
        self.check(LIMITS)
        for name, kind in (("precision", Precision), ("cache", Cache)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"--{name} {getattr(self, name)}: choose one of {', '.join(get_args(kind))}")

    def check(self, limits: dict[str, Limit]) -> None:
        """Complain about numbers without a meaning.

        Raises
        ------
        ValueError
            With the name of the flag.
        """
        for name, (fits, words) in limits.items():
            value = getattr(self, name, None)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not fits(number):
                    raise ValueError(f"--{name.replace('_', '-')} {number}: must be {words}")

    def changed(self) -> list[str]:
        """Flags that --resume would leave without effect, as they are typed."""
        return [
            f"--{f.name.replace('_', '-')}"
            for f in fields(self)
            if f.name not in self.RESUMABLE and getattr(self, f.name) != f.default
        ]

    def to_plain(self) -> dict[str, Any]:
        """The configuration as JSON-able values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_plain`; settings that this version does not know are left out."""
        values: dict[str, Any] = {}
        for name in get_type_hints(cls):
            if name in plain:
                value = plain[name]
                if name in cls.PATHS and value is not None:
                    value = Path(value)
                values[name] = tuple(value) if isinstance(value, list) else value
        return cls(**values)


def default_workers(device: torch.device) -> int:
    """Threads that make batches where nobody says how many: on a CPU they would take from the network."""
    return 0 if device.type == "cpu" else 8

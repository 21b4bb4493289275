"""The flags of ``python -m yolov2.train``."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from yolov2.augment import Augment
from yolov2.cli import option
from yolov2.letterbox import Mode
from yolov2.presets import PRESETS
from yolov2.recipes import find_recipe

Limit = tuple[Callable[[float], bool], str]
_COUNT: Limit = (lambda n: 1 <= n <= 10**6, "from 1 to 1000000")
_FRACTION: Limit = (lambda x: 0 <= x <= 1, "from 0 to 1")
_FACTOR: Limit = (lambda x: 0.1 <= x <= 10, "from 0.1 to 10")
# by flag: which numbers have a meaning, and that in words; NaN passes no comparison
LIMITS: dict[str, Limit] = {
    **dict.fromkeys(("epochs", "batch", "eval_every"), _COUNT),
    **dict.fromkeys(("decay", "hue", "flip"), _FRACTION),
    **dict.fromkeys(("saturation", "exposure"), _FACTOR),
    "lr": (lambda x: 0 < x < 10, "between 0 and 10"),
    "momentum": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "burn_in": (lambda n: 0 <= n <= 10**9, "from 0 to 1000000000"),
    "milestones": (lambda x: 0 < x < 1, "between 0 and 1"),
    "drop": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "bn_momentum": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "jitter": (lambda x: 0 <= x < 1, "from 0 to below 1"),
    "zoom": (lambda x: 0.1 <= x <= 4, "from 0.1 to 4"),
    "seed": (lambda n: 0 <= n < 2**63, "from 0 to 2^63 - 1"),
    "workers": (lambda n: 0 <= n <= 256, "from 0 to 256"),
}


@dataclass(frozen=True)
class TrainConfig:
    """Flags of ``python -m yolov2.train``."""

    model: str = option(f"which network: {', '.join(PRESETS)}, or a .cfg file", default="nano")
    data: Path | None = option("folder in Pascal VOC layout; none is the built-in set", default=None)
    epochs: int | None = option("times over the data; none is 8 (built-in) or 100 (folder)", default=None)
    batch: int = option("pictures per update", default=8)
    imgsz: int | None = option("side of the input in pixels; none is 160 (built-in) or 416", default=None)
    anchors: str = option("auto (k-means on the data), preset, or w,h,w,h,... in cells", default="auto")
    weights: Path | None = option(
        "start from this checkpoint or Darknet's .weights instead of random weights", default=None
    )
    cfg: Path | None = option("network file of those .weights; none is the one beside them", default=None)
    resume: Path | None = option("go on with this run (its folder or last.safetensors)", default=None)
    lr: float | None = option("learning rate; none is 0.01 for nano, 0.001 for the others", default=None)
    momentum: float = option("momentum", default=0.9)
    decay: float = option("weight decay, on convolution weights only", default=0.0005)
    burn_in: int | None = option("updates of rising rate; none is 1000 or a tenth of all", default=None)
    milestones: tuple[float, ...] = option(
        "shares of training after which the rate drops", default=(0.7, 0.9)
    )
    drop: float = option("factor of each drop", default=0.1)
    bn_momentum: float = option("share of a batch in the rolling batch-norm statistics", default=0.01)
    jitter: float | None = option(
        "augmentation: aspect and place, as a fraction of the picture; none is the model's, 0.1 (built-in)",
        default=None,
    )
    hue: float | None = option("augmentation: hue shift; none is 0.1, 0 (built-in)", default=None)
    saturation: float | None = option("augmentation: factor; none is 1.5, 1 (built-in)", default=None)
    exposure: float | None = option("augmentation: factor; none is 1.5, 1 (built-in)", default=None)
    zoom: tuple[float, float] = option("augmentation: range of zoom", default=(1.0, 1.0))
    flip: float = option("augmentation: probability of a mirrored picture", default=0.5)
    any_way_up: bool = option(
        "augmentation: also upside down and turned (cells, aerial views)", default=False
    )
    resize: Mode = option("how pictures meet the input: letterbox or stretch", default="letterbox")
    eval_every: int | None = option("epochs between evaluations; none is a twentieth of all", default=None)
    seed: int = option("seed of weights, order and augmentation", default=0)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    workers: int | None = option("threads that make batches; none is 0 (CPU) or 4 (GPU)", default=None)
    project: Path = option("runs are kept in this folder", default=Path("runs"))
    name: str = option("name of the run", default="train")

    def __post_init__(self):
        if self.model not in PRESETS and not self.model.endswith(".cfg"):
            raise ValueError(f"--model {self.model}: choose one of {', '.join(PRESETS)}, or a .cfg file")
        if self.cfg is not None and self.weights is None:
            raise ValueError("--cfg: is of --weights; the network to train is --model")
        if self.resize not in get_args(Mode):
            raise ValueError(f"--resize {self.resize}: choose one of {', '.join(get_args(Mode))}")
        for name, (fits, words) in LIMITS.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                if number is not None and not fits(number):
                    raise ValueError(f"--{name.replace('_', '-')} {number}: must be {words}")
        if self.imgsz is not None and not (64 <= self.imgsz <= 4096 and self.imgsz % 32 == 0):
            near = min(max(64, (self.imgsz + 16) // 32 * 32), 4096)
            raise ValueError(f"--imgsz {self.imgsz}: must be a multiple of 32 from 64 to 4096, e.g. {near}")
        for name in ("milestones", "zoom"):
            if list(getattr(self, name)) != sorted(getattr(self, name)):
                raise ValueError(f"--{name}: the smaller number comes first")
        if len(self.zoom) != 2:
            raise ValueError("--zoom: needs two numbers")
        parse_anchors(self.anchors)
        self.augment  # noqa: B018 (complains about its own settings)

    def resolved(self, device: torch.device) -> "TrainConfig":
        """The same configuration with every "none" replaced by what it stands for."""
        builtin = self.data is None
        missing = None in (self.imgsz, self.lr, self.jitter)  # a run that is resumed knows them
        preset = find_recipe(self.model) if missing else PRESETS["nano"]
        # the built-in pictures vary by themselves; colour and heavy jitter would only slow learning down
        meaning: dict[str, Any] = {
            "epochs": 8 if builtin else 100,
            "imgsz": 160 if builtin else preset.imgsz,
            "lr": preset.lr,
            "jitter": 0.1 if builtin else preset.jitter,
            "hue": 0.0 if builtin else 0.1,
            "saturation": 1.0 if builtin else 1.5,
            "exposure": 1.0 if builtin else 1.5,
            # on a CPU a second thread would take from the network what it brings
            "workers": 0 if device.type == "cpu" else 4,
        }
        none = {name: value for name, value in meaning.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **none)

    @property
    def augment(self) -> Augment:
        """The augmentation these flags describe."""
        turned = 0.5 if self.any_way_up else 0.0
        settings = {
            name: getattr(self, name)
            for name in ("jitter", "hue", "saturation", "exposure", "flip")
            if getattr(self, name) is not None
        }
        return Augment(**settings, scale=self.zoom, flip_vertical=turned, transpose=turned)

    def to_plain(self) -> dict[str, Any]:
        """The configuration as JSON-able values."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "TrainConfig":
        """The inverse of `to_plain`; settings that this version does not know are left out."""
        values: dict[str, Any] = {}
        for f in dataclasses.fields(cls):
            if f.name in plain:
                value = plain[f.name]
                is_path = f.name in ("data", "weights", "cfg", "resume", "project")
                values[f.name] = Path(value) if is_path and value is not None else value
                if isinstance(value, list):
                    values[f.name] = tuple(value)
        return cls(**values)


def parse_anchors(text: str) -> tuple[tuple[float, float], ...] | None:
    """Anchors written as "w,h,w,h,..." in cells; None for "auto" and "preset".

    Raises
    ------
    ValueError
        If they are not pairs of numbers, or too small or large for any box.
    """
    if text in ("auto", "preset"):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--anchors {text}: give auto, preset, or numbers w,h,w,h,...") from None
    if len(numbers) % 2 or not all(0.001 <= n <= 1000 for n in numbers):
        raise ValueError(f"--anchors {text}: needs pairs of numbers from 0.001 to 1000, in cells")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))

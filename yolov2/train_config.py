"""The flags of ``python -m yolov2.train``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from yolov2.augment import Augment
from yolov2.cli import option
from yolov2.letterbox import Mode
from yolov2.presets import PRESETS


@dataclass(frozen=True)
class TrainConfig:
    """Flags of ``python -m yolov2.train``."""

    model: str = option(f"which network: {', '.join(PRESETS)}", default="nano")
    data: Path | None = option("folder in Pascal VOC layout; none is the built-in set", default=None)
    epochs: int | None = option("times over the data; none is 8 (built-in) or 100 (folder)", default=None)
    batch: int = option("pictures per update", default=8)
    imgsz: int | None = option("side of the input in pixels; none is 160 (built-in) or 416", default=None)
    anchors: str = option("auto (k-means on the data), preset, or w,h,w,h,... in cells", default="auto")
    weights: Path | None = option("start from this checkpoint instead of random weights", default=None)
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
        if self.model not in PRESETS:
            raise ValueError(f"--model {self.model}: choose one of {', '.join(PRESETS)}")
        for name in ("epochs", "batch", "eval_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1")
        if self.imgsz is not None and (self.imgsz < 64 or self.imgsz % 32):
            near = max(64, round(self.imgsz / 32) * 32)
            raise ValueError(
                f"--imgsz {self.imgsz}: the input must be a multiple of 32 from 64 on, e.g. {near}"
            )
        if self.lr is not None and not 0 < self.lr < 10:
            raise ValueError(f"--lr {self.lr:g}: must lie between 0 and 10")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"--momentum {self.momentum:g}: must be in [0, 1)")
        if not 0 < self.drop <= 1:
            raise ValueError(f"--drop {self.drop:g}: must be in (0, 1]")
        for name in ("decay", "burn_in", "seed", "workers"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"--{name.replace('_', '-')} must not be negative")
        if not all(0 < m < 1 for m in self.milestones) or list(self.milestones) != sorted(self.milestones):
            raise ValueError("--milestones must rise between 0 and 1")
        if not 0 < self.bn_momentum <= 1:
            raise ValueError("--bn-momentum must be in (0, 1]")
        parse_anchors(self.anchors)
        self.augment  # noqa: B018 (complains about its own settings)

    def resolved(self, device: torch.device) -> "TrainConfig":
        """The same configuration with every "none" replaced by what it stands for."""
        preset, builtin = PRESETS[self.model], self.data is None
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
        missing = {name: value for name, value in meaning.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

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
                is_path = f.name in ("data", "weights", "resume", "project")
                values[f.name] = Path(value) if is_path and value is not None else value
                if isinstance(value, list):
                    values[f.name] = tuple(value)
        return cls(**values)


def parse_anchors(text: str) -> tuple[tuple[float, float], ...] | None:
    """Anchors written as "w,h,w,h,..." in cells; None for "auto" and "preset".

    Raises
    ------
    ValueError
        If they are not pairs of positive numbers.
    """
    if text in ("auto", "preset"):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--anchors {text}: give auto, preset, or numbers w,h,w,h,...") from None
    if len(numbers) % 2 or not all(0 < n < float("inf") for n in numbers):
        raise ValueError(f"--anchors {text}: needs pairs of positive numbers, in cells")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))

"""The flags of ``python -m yolov2.train``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from reference.layers import Grid
from reference.region import Location
from yolov2.augment import Augment, Form
from yolov2.cli import option
from yolov2.data.sources import Format
from yolov2.errors import UserError
from yolov2.letterbox import Mode
from yolov2.presets import PRESETS
from yolov2.recipes import find_recipe
from yolov2.training.config import LoopConfig, default_workers

SIDE = 64, 4096  # limits of an input's side in pixels
# fields of a Region
LOSS = ("object_scale", "noobject_scale", "class_scale", "coord_scale", "assumed_iou", "location")


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """Flags of ``python -m yolov2.train``."""

    model: str = option(f"which network: {', '.join(PRESETS)}, or a .cfg file", default="nano")
    data: Path | None = option(
        "data set: Pascal VOC, COCO json, YOLO txt or data.yaml, Darknet .data; none is the built-in one",
        default=None,
    )
    format: Format | None = option("of the data; none is what they look like", default=None)
    classification: Path | None = option(
        "train on these pictures too, which have a class and no boxes: folders called after nodes of the "
        "tree, or Darknet's .data",
        default=None,
    )
    ratio: float = option("of them to one picture with boxes, in every batch", default=4.0)
    tree: Path | None = option(
        "classes are the nodes of this tree, a 'name parent' a line as in Darknet's 9k.tree", default=None
    )
    names: Path | None = option(
        "what people call the nodes of the tree, a name a line; none is the .names beside it", default=None
    )
    map: Path | None = option(
        "node of every class of --data, a number a line as in Darknet's coco9k.map; none goes by their names",
        default=None,
    )
    imgsz: int | None = option(
        "side of the input in pixels; none is 160 (built-in) or the model's", default=None
    )
    multi_scale: tuple[int, int] | None = option(
        "range of the input's side, a new one every 10 updates; 0,0 is one size, none is the model's range "
        "if --imgsz lies in it",
        default=None,
    )
    anchors: str = option(
        "auto (k-means by IoU on the data, as many as the model has), how many, sse:5 (by squared error), "
        "hand (nine picked by hand, Faster R-CNN's), preset, or w,h,w,h,... in cells",
        default="auto",
    )
    weights: Path | None = option(
        "start from this checkpoint or Darknet's .weights instead of random weights", default=None
    )
    cfg: Path | None = option("network file of those .weights; none is the one beside them", default=None)
    object_scale: float | None = option(
        "loss: weight of the objectness of predictions that answer for a box; none is the model's",
        default=None,
    )
    noobject_scale: float | None = option(
        "loss: weight of the objectness of all others; none is the model's", default=None
    )
    class_scale: float | None = option("loss: weight of the classes; none is the model's", default=None)
    coord_scale: float | None = option("loss: weight of place and size; none is the model's", default=None)
    assumed_iou: float | None = option(
        "loss: of --classification, what the objectness of the prediction that answers for a class is pulled "
        "up to: .3 in the paper; none is the model's, 0, which leaves it alone",
        default=None,
    )
    location: Location | None = option(
        "where t_x and t_y place a box: cell is within its cell, anchor so many anchors from the anchor's "
        "centre, without a limit; none is the model's, cell",
        default=None,
    )
    milestones: tuple[float, ...] | None = option(
        "shares of training after which the rate drops; none is the model's", default=None
    )
    drop: float = option("factor of each drop", default=0.1)
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
    resize: Mode | None = option(
        "how pictures meet the input: letterbox, or stretch, which trains on crops as Darknet did in 2016; "
        "none is the model's, stretch for YOLOv1",
        default=None,
    )
    batch_norm: bool = option(
        "with --no-batch-norm convolutions have biases instead, dropout of .5 comes before the head as in "
        "YOLOv1, and --lr none is a tenth of the model's",
        default=True,
    )
    passthrough: bool = option(
        "with --no-passthrough a model that has one goes without: the finer map beside the last",
        default=True,
    )

    PATHS = (*LoopConfig.PATHS, "classification", "tree", "names", "map")
    RESUMABLE = (*LoopConfig.RESUMABLE, "classification")

    def __post_init__(self):
        super().__post_init__()
        if self.model not in PRESETS and not self.model.endswith(".cfg"):
            raise ValueError(f"--model {self.model}: choose one of {', '.join(PRESETS)}, or a .cfg file")
        if self.cfg is not None and self.weights is None:
            raise ValueError("--cfg: is of --weights; the network to train is --model")
        if self.resize is not None and self.resize not in get_args(Mode):
            raise ValueError(f"--resize {self.resize}: choose one of {', '.join(get_args(Mode))}")
        if self.imgsz is not None:
            check_side("--imgsz", self.imgsz)
        for side in self.multi_scale or ():
            if self.multi_scale != (0, 0):
                check_side("--multi-scale", side)
        for name in ("milestones", "zoom", "multi_scale"):
            value = getattr(self, name)
            if value is not None and list(value) != sorted(value):
                raise ValueError(f"--{name.replace('_', '-')}: the smaller number comes first")
        for name in ("multi_scale", "zoom"):
            if getattr(self, name) is not None and len(getattr(self, name)) != 2:
                raise ValueError(f"--{name.replace('_', '-')}: needs two numbers")
        if self.resize == "stretch" and self.zoom != (1, 1):
            raise ValueError(
                "--zoom: only with --resize letterbox; stretched pictures are cropped by --jitter"
            )
        if self.resize == "stretch" and self.cache == "device":
            raise ValueError("--cache device: makes no crops; use --cache memory with --resize stretch")
        if self.classification is not None and self.cache == "device":
            raise ValueError("--cache device: is for pictures with boxes; use --cache memory")
        parse_anchors(self.anchors)
        self.augment  # noqa: B018 (complains about its own settings)

    def resolved(self, device: torch.device) -> "TrainConfig":
        """The same configuration with every "none" that has a meaning of its own replaced by that.

        Raises
        ------
        UserError
            If there is no such model, or a flag does not go with what it trains by.
        """
        builtin = self.data is None
        known = ("imgsz", "lr", "jitter", "nominal_batch", "milestones", "multi_scale", "resize")
        # a run that is resumed knows them, and its .cfg may be gone
        missing = any(getattr(self, name) is None for name in known)
        preset = find_recipe(self.model) if missing else PRESETS["nano"]
        nominal = self.nominal_batch or preset.nominal_batch
        imgsz = self.imgsz or (160 if builtin else preset.imgsz)
        scales = preset.multi_scale or (0, 0)
        # the built-in pictures vary by themselves; colour and heavy jitter would only slow learning down
        meaning: dict[str, Any] = {
            "epochs": 8 if builtin else 100,
            "imgsz": imgsz,
            "nominal_batch": nominal,
            # an update on fewer pictures has a noisier gradient and takes a smaller step; without batch norm
            # `nano` and `yolov1-nano` diverge within ten updates of .01
            "lr": preset.lr * nominal / preset.nominal_batch * (1 if self.batch_norm else 0.1),
            "milestones": preset.milestones,
            "multi_scale": scales if not builtin and scales[0] <= imgsz <= scales[1] else (0, 0),
            "jitter": 0.1 if builtin else preset.jitter,
            "hue": 0.0 if builtin else 0.1,
            "saturation": 1.0 if builtin else 1.5,
            "exposure": 1.0 if builtin else 1.5,
            "resize": "stretch" if isinstance(preset.head, Grid) else "letterbox",
            "workers": default_workers(device),
        }
        none = {name: value for name, value in meaning.items() if getattr(self, name) is None}
        try:
            return dataclasses.replace(self, **none)
        except ValueError as error:  # the model's way to resize and a flag do not go together
            raise UserError(str(error)) from None

    @property
    def loss(self) -> dict[str, Any]:
        """Settings of the head and its loss that replace the model's."""
        return {name: getattr(self, name) for name in LOSS if getattr(self, name) is not None}

    @property
    def augment(self) -> Augment:
        """The augmentation these flags describe."""
        turned = 0.5 if self.any_way_up else 0.0
        settings = {
            name: getattr(self, name)
            for name in ("jitter", "hue", "saturation", "exposure", "flip")
            if getattr(self, name) is not None
        }
        # trained as it will be used: what is stretched by detection is stretched here
        form: Form = "crop" if self.resize == "stretch" else "place"
        return Augment(**settings, scale=self.zoom, flip_vertical=turned, transpose=turned, form=form)


def check_side(flag: str, side: int) -> None:
    """Complain about an input that no network of stride 32 has.

    Raises
    ------
    ValueError
        Naming the flag and a side that will do.
    """
    low, high = SIDE
    if not (low <= side <= high and side % 32 == 0):
        near = min(max(low, (side + 16) // 32 * 32), high)
        raise ValueError(f"{flag} {side}: must be a multiple of 32 from {low} to {high}, e.g. {near}")


def parse_anchors(text: str) -> tuple[tuple[float, float], ...] | None:
    """Anchors written as "w,h,w,h,..." in cells; None for a name, or a number of them, see `TrainConfig`.

    Raises
    ------
    ValueError
        If they are not pairs of numbers, or too small or large for any box.
    """
    number = text.removeprefix("sse:")
    if text in ("auto", "hand", "preset") or (number.isdecimal() and 1 <= int(number) <= 100):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--anchors {text}: give auto, a count, sse:5, hand, preset, or numbers w,h,w,h,..."
        ) from None
    if len(numbers) % 2 or not all(0.001 <= n <= 1000 for n in numbers):
        raise ValueError(f"--anchors {text}: needs pairs of numbers from 0.001 to 1000, in cells")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))

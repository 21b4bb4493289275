"""The sections of a Darknet cfg file: their grammar, their keys and the records they stand for (SPEC 19)."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from reference.layers import (
    Activation,
    AvgPool,
    BatchNorm,
    Connected,
    Conv,
    Cost,
    CostKind,
    Crop,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    ReorgOrder,
    Route,
    Shape,
    Shortcut,
    Softmax,
    Upsample,
)
from reference.region import BoxWeight, ClassLoss, Location, Region, WordTree
from reference.schedule import Policy, Schedule
from reference.wordtree import read_tree

#: what a file may ask for; more is refused before any of it is allocated
MAX_BYTES = 1 << 22  # of the file itself, and of a tree or map that it names
MAX_LINES = 100_000
MAX_ITEMS = 10_000  # of a list
MAX_ANCHORS = 1_000
MAX_CLASSES = 1_000_000
INTEGERS = range(-(2**31), 2**31)  # Darknet's numbers are int and float
MAX_FLOAT = 3.4e38


@dataclass(frozen=True)
class Net:
    """Options of the [net] section; the defaults are Darknet's.

    `width`, `height`, `min_crop` and `max_crop` are in pixels, `angle` in degrees. A batch of `batch`
    pictures is trained in `subdivisions` parts. `hue`, `saturation`, `exposure`, `angle` and `aspect` set
    how far pictures are distorted while training (SPEC 15, 18).
    """

    width: int = 0
    height: int = 0
    channels: int = 0
    batch: int = 1
    subdivisions: int = 1
    momentum: float = 0.9
    decay: float = 0.0001
    schedule: Schedule = Schedule()  # noqa: RUF009  (frozen)
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    angle: float = 0.0
    aspect: float = 1.0
    min_crop: int = 0
    max_crop: int = 0

    @property
    def input_shape(self) -> Shape:
        """(channels, height, width), in pixels."""
        return self.channels, self.height, self.width


@dataclass(frozen=True)
class HeadTraining:
    """What a [region] or [detection] section says about training pictures (SPEC 15, 16).

    Parameters
    ----------
    jitter : float
        Largest change of a picture's width and height, as a fraction of them.
    multi_scale : bool
        Train at changing input sizes (key `random` of [region]).
    max_truths : int
        Truths used per picture (key `max`).
    """

    jitter: float = 0.2
    multi_scale: bool = False
    max_truths: int = 30


class CfgError(ValueError):
    """A mistake in a cfg file; the message begins with its line."""


class Section:
    """One [section]: its options, read by name, the first occurrence of a key winning."""

    def __init__(self, name: str, line: int):
        self.name = name
        self.line = line
        self.folders = [Path(".")]
        self.options: dict[str, tuple[str, int]] = {}  # key: (value, line)
        self.unread: set[str] = set()

    def error(self, message: object, line: int | None = None) -> "CfgError":
        return CfgError(f"line {line or self.line}, [{shown(self.name)}]: {message}")

    def read(self, reader: Callable[["Section"], Any]) -> Any:
        """Let `reader` make something of the options; its complaints get their place in the file."""
        try:
            return reader(self)
        except CfgError:
            raise
        except ValueError as problem:
            raise self.error(problem) from None

    def has(self, key: str) -> bool:
        return bool(self.text(key, ""))

    def text(self, key: str, default: str) -> str:
        self.unread.discard(key)
        return self.options[key][0] if key in self.options else default

    def file(self, key: str) -> str:
        """The text of the file that a key names."""
        name = self.text(key, "")
        for path in [folder / name for folder in self.folders]:
            if os.path.isfile(path):  # and not path.is_file, which raises if the name is too long
                return text_of(path)
        looked = ", ".join(dict.fromkeys(str(folder.absolute()) for folder in self.folders))
        raise ValueError(f"{key}: there is no file {shown(name)} in {looked}")

    def numbers(self, key: str) -> tuple[float, ...]:
        found = self._leading(key, r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")
        for number in found:
            if abs(float(number)) > MAX_FLOAT:
                raise ValueError(f"{key}: {shown(number)} is too large a number")
        return tuple(map(float, found))

    def integers(self, key: str) -> tuple[int, ...]:
        found = self._leading(key, r"[+-]?[0-9]+")
        for number in found:
            if len(number) > 18 or int(number) not in INTEGERS:
                raise ValueError(f"{key}: {shown(number)} is too large a number")
        return tuple(map(int, found))

    def number(self, key: str, default: float) -> float:
        return self.numbers(key)[0] if self.has(key) else default

    def integer(self, key: str, default: int) -> int:
        return self.integers(key)[0] if self.has(key) else default

    def positive(self, key: str, default: int, most: int = INTEGERS[-1]) -> int:
        if (value := self.integer(key, default)) < 1:
            raise ValueError(f"{key}: {value} is not positive")
        if value > most:
            raise ValueError(f"{key}: {value} is more than {most}, the most that is supported")
        return value

    def natural(self, key: str, default: int) -> int:
        if (value := self.integer(key, default)) < 0:
            raise ValueError(f"{key}: {value} is negative")
        return value

    def choice(self, key: str, kinds: Any, default: str) -> Any:
        if (name := self.text(key, default)) not in get_args(kinds):
            raise ValueError(f"{key}: '{shown(name)}' is not one of {', '.join(get_args(kinds))}")
        return name

    def flag(self, key: str, default: bool = False) -> bool:
        return self.integer(key, default) != 0

    def demand(self, key: str, only: int, default: int) -> None:
        """Refuse a value that would mean something else than what this library does."""
        if self.integer(key, default) != only:
            raise ValueError(f"{key}: only {only} is supported, not {self.integer(key, default)}")

    def activation(self, default: str = "logistic") -> Any:
        return self.choice("activation", Activation, default)

    def refuse_loading_keys(self) -> None:
        """Refuse the keys that change what a weights file holds of a layer."""
        for key in ("dontload", "dontsave", "dontloadscales", "numload"):
            self.demand(key, 0, default=0)

    def _leading(self, key: str, number: str) -> list[str]:
        """The leading number of every item of a comma-separated list, all that atoi and atof look at."""
        if not self.has(key):
            return []
        value, line = self.options[key]
        if value.count(",") >= MAX_ITEMS:
            raise self.error(f"{key}: {value.count(',') + 1:,} numbers; at most {MAX_ITEMS:,}", line)
        found = [re.match(number, item, re.IGNORECASE) for item in value.split(",")]
        if None in found:
            raise self.error(f"{key}={shown(value)} is not made of numbers", line)
        return [match.group() for match in found if match]


def shown(text: str) -> str:
    """A piece of a file in a message: not too long, and nothing that a terminal obeys."""
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if text.isprintable() else repr(text)[1:-1]


def text_of(path: Path) -> str:
    """The text of a file that people write."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes")
    if b"\0" in data:
        raise ValueError(f"{path} is not a text file")
    return data.decode("utf-8-sig", errors="replace")  # comments are in any encoding


def split(text: str) -> list[Section]:
    """Cut a file into its sections, at least one."""
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.replace(" ", "").replace("\t", "")
        if number > MAX_LINES:
            raise CfgError(f"line {number}: at most {MAX_LINES:,} lines are supported")
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            if line[-1] != "]":
                raise CfgError(f"line {number}: '{shown(raw)}' is not a [section]")
            sections.append(Section(line[1:-1], number))
            continue
        key, equals, value = line.partition("=")
        if not (equals and key and sections):
            raise CfgError(f"line {number}: '{shown(raw)}' is not a [section], nor key=value inside one")
        sections[-1].options.setdefault(key, (value, number))
        sections[-1].unread.add(key)
    if not sections:
        raise CfgError("line 1: there is no [net] section")
    return sections


def read_net(o: Section) -> Net:
    """The [net] section."""
    width = o.natural("width", 0)
    schedule = Schedule(
        learning_rate=o.number("learning_rate", 0.001),
        policy=o.choice("policy", Policy, "constant"),
        burn_in=o.integer("burn_in", 0),
        power=o.number("power", 4.0),
        steps=o.integers("steps"),
        scales=o.numbers("scales"),
        step=o.integer("step", 1),
        scale=o.number("scale", 1.0),
        gamma=o.number("gamma", 1.0),
        max_batches=o.integer("max_batches", 0),
    )
    return Net(
        width=width,
        height=o.natural("height", 0),
        channels=o.natural("channels", 0),
        batch=o.positive("batch", 1),
        subdivisions=o.positive("subdivisions", 1),
        momentum=o.number("momentum", 0.9),
        decay=o.number("decay", 0.0001),
        schedule=schedule,
        hue=o.number("hue", 0.0),
        saturation=o.number("saturation", 1.0),
        exposure=o.number("exposure", 1.0),
        angle=o.number("angle", 0.0),
        aspect=o.number("aspect", 1.0),
        min_crop=o.integer("min_crop", width),
        max_crop=o.integer("max_crop", 2 * width),
    )


def _convolutional(o: Section) -> Conv:
    size = o.positive("size", 1)
    padding = o.natural("padding", 0)
    return Conv(
        filters=o.positive("filters", 1),
        size=size,
        stride=o.positive("stride", 1),
        pad=size // 2 if o.flag("pad") else padding,
        batch_norm=o.flag("batch_normalize"),
        activation=o.activation(),
        groups=o.positive("groups", 1),
        flipped=o.flag("flipped"),
    )


def _connected(o: Section) -> Connected:
    return Connected(o.positive("output", 1), o.activation(), o.flag("batch_normalize"))


def _local(o: Section) -> Local:
    return Local(
        o.positive("filters", 1),
        o.positive("size", 1),
        o.positive("stride", 1),
        o.natural("pad", 0),
        o.activation(),
    )


def _maxpool(o: Section) -> MaxPool:
    stride = o.positive("stride", 1)
    size = o.positive("size", stride)
    return MaxPool(size, stride, o.natural("padding", size - 1))


def _route(o: Section) -> Route:
    if not (layers := o.integers("layers")):
        raise ValueError("layers: a route must name at least one")
    return Route(layers)


def _reorg(o: Section) -> Reorg:
    o.demand("flatten", 0, default=0)
    o.demand("extra", 0, default=0)
    order = o.choice("order", ReorgOrder, "darknet")  # not Darknet's key: it knows no other order
    return Reorg(o.positive("stride", 1), o.flag("reverse"), order)


def _shortcut(o: Section) -> Shortcut:
    if not o.has("from"):
        raise ValueError("from: a shortcut must name a layer")
    scales = o.number("alpha", 1.0), o.number("beta", 1.0)
    return Shortcut(o.integer("from", 0), o.activation("linear"), *scales)


def _crop(o: Section) -> Crop:
    o.demand("shift", 0, default=0)
    return Crop(
        height=o.positive("crop_height", 1),
        width=o.positive("crop_width", 1),
        flip=o.flag("flip"),
        angle=o.number("angle", 0.0),
        saturation=o.number("saturation", 1.0),
        exposure=o.number("exposure", 1.0),
        adjust=not o.flag("noadjust"),
    )


def _cost(o: Section) -> Cost:
    return Cost(o.choice("type", CostKind, "sse"), o.number("scale", 1.0))


def _dropout(o: Section) -> Dropout:
    if not 0 <= (probability := o.number("probability", 0.5)) <= 1:
        raise ValueError(f"probability: {probability} is not from 0 to 1")
    return Dropout(probability)


def _softmax(o: Section) -> Softmax:
    o.demand("groups", 1, default=1)
    o.demand("temperature", 1, default=1)
    return Softmax(_tree(o))


def _tree(o: Section) -> WordTree | None:
    if not o.has("tree"):
        return None
    lines = o.file("tree").splitlines()
    try:
        return read_tree(lines)
    except ValueError as problem:
        raise ValueError(f"tree: {problem}") from None


def _region(o: Section) -> Region:
    o.demand("coords", 4, default=4)
    for key in ("absolute", "log", "sqrt", "classfix"):  # Darknet reads them too, to no effect
        o.text(key, "")
    num = o.positive("num", 1, MAX_ANCHORS)
    anchors = o.numbers("anchors") or (0.5,) * (2 * num)
    if len(anchors) != 2 * num:
        raise ValueError(f"anchors: {len(anchors)} numbers for num={num} pairs of width, height")
    tree = _tree(o)
    softmax = o.flag("softmax")
    return Region(
        anchors=tuple(zip(anchors[::2], anchors[1::2], strict=True)),
        classes=o.positive("classes", 20, MAX_CLASSES),
        class_activation="tree" if tree else "softmax" if softmax else "logistic",
        tree=tree,
        background=o.flag("background"),
        object_scale=o.number("object_scale", 1.0),
        noobject_scale=o.number("noobject_scale", 1.0),
        class_scale=o.number("class_scale", 1.0),
        coord_scale=o.number("coord_scale", 1.0),
        ignore_threshold=o.number("thresh", 0.5),
        rescore=o.flag("rescore"),
        bias_match=o.flag("bias_match"),
        class_map=_class_map(o) if o.has("map") else None,
        # keys of this library, for losses and places that Darknet does not have
        class_loss=o.choice("class_loss", ClassLoss, "cross_entropy"),
        box_weight=o.choice("box_weight", BoxWeight, "2-wh"),
        location=o.choice("location", Location, "cell"),
        assumed_iou=o.number("assumed_iou", 0.0),
        prior_scale=o.number("prior_scale", 0.01),
        prior_images=o.natural("prior_images", 12800),
    )


def _class_map(o: Section) -> tuple[int, ...]:
    nodes = o.file("map").split()
    for entry, node in enumerate(nodes):
        if not re.fullmatch(r"-?[0-9]{1,9}", node):
            raise ValueError(f"map: entry {entry}, '{shown(node)}', is not the number of a class")
    return tuple(map(int, nodes))


def _detection(o: Section) -> Grid:
    o.demand("coords", 4, default=1)
    o.demand("random", 0, default=0)  # not multi-scale as in [region] but a random responsible box (SPEC 11)
    return Grid(
        side=o.positive("side", 7),
        boxes=o.positive("num", 1),
        classes=o.positive("classes", 1, MAX_CLASSES),
        sqrt=o.flag("sqrt"),
        softmax=o.flag("softmax"),
        rescore=o.flag("rescore"),
        forced=o.flag("forced"),
        object_scale=o.number("object_scale", 1.0),
        noobject_scale=o.number("noobject_scale", 1.0),
        class_scale=o.number("class_scale", 1.0),
        coord_scale=o.number("coord_scale", 1.0),
    )


def read_head_training(o: Section) -> HeadTraining:
    """What a [region] or [detection] section says about training pictures."""
    return HeadTraining(o.number("jitter", 0.2), o.flag("random"), o.positive("max", 30))


READERS: dict[str, Callable[[Section], Layer]] = {
    "convolutional": _convolutional,
    "conv": _convolutional,
    "connected": _connected,
    "conn": _connected,
    "local": _local,
    "maxpool": _maxpool,
    "max": _maxpool,
    "avgpool": lambda o: AvgPool(),
    "avg": lambda o: AvgPool(),
    "route": _route,
    "reorg": _reorg,
    "softmax": _softmax,
    "soft": _softmax,
    "shortcut": _shortcut,
    "upsample": lambda o: Upsample(o.positive("stride", 2), o.number("scale", 1.0)),
    "batchnorm": lambda o: BatchNorm(),
    "crop": _crop,
    "dropout": _dropout,
    "region": _region,
    "detection": _detection,
    "cost": _cost,
}

"""Darknet's network files (.cfg): text -> settings and the plain list of layer records (SPEC 19)."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from reference.layers import (
    Activation,
    AvgPool,
    Connected,
    Conv,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shape,
    Softmax,
)
from reference.region import Region
from reference.schedule import Policy, Schedule
from reference.wordtree import read_tree


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


@dataclass(frozen=True)
class Config:
    """A parsed cfg file."""

    net: Net
    layers: list[Layer]
    head_training: HeadTraining


def read_cfg(source: str | Path, root: str | Path = ".") -> Config:
    """Read a network file.

    Parameters
    ----------
    source : str or Path
        A file; or its text, if it is a str of more than one line.
    root : str or Path
        Folder that the file's own paths (`tree`, `map`) are relative to.

    Returns
    -------
    Config

    Raises
    ------
    CfgError
        A ValueError, if the text is malformed, names a type of layer that is not supported, or gives a
        layer settings that make no sense. The message names the line and the section.

    Warns
    -----
    UserWarning
        For every key that nothing here reads.
    """
    text = source if isinstance(source, str) and "\n" in source else Path(source).read_text()
    net, *sections = _split(text)
    if net.name not in ("net", "network"):
        raise CfgError(f"line {net.line}: the first section must be [net], not [{net.name}]")

    settings = net.read(_net)
    layers, head_training = [], HeadTraining()
    for section in sections:
        section.root = Path(root)
        if section.name == "cost":  # the loss of a softmax goes without saying
            section.unread.clear()
            if section is not sections[-1]:
                raise section.error("only supported as the last section")
            continue
        if section.name not in READERS:
            raise section.error(f"unknown layer type; known are {', '.join(READERS)}, cost")
        layers.append(section.read(READERS[section.name]))
        if section.name in ("region", "detection"):
            head_training = section.read(_head_training)
    for section in (net, *sections):
        section.warn_unread()
    return Config(settings, layers, head_training)


class CfgError(ValueError):
    """A mistake in a cfg file; the message begins with its line."""


class Section:
    """One [section]: its options, read by name, the first occurrence of a key winning."""

    def __init__(self, name: str, line: int):
        self.name = name
        self.line = line
        self.root = Path(".")
        self.options: dict[str, tuple[str, int]] = {}  # key: (value, line)
        self.unread: set[str] = set()

    def error(self, message: object, line: int | None = None) -> "CfgError":
        return CfgError(f"line {line or self.line}, [{self.name}]: {message}")

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

    def numbers(self, key: str) -> tuple[float, ...]:
        return tuple(float(v) for v in self._leading(key, r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?"))

    def integers(self, key: str) -> tuple[int, ...]:
        return tuple(int(v) for v in self._leading(key, r"[+-]?\d+"))

    def number(self, key: str, default: float) -> float:
        return self.numbers(key)[0] if self.has(key) else default

    def integer(self, key: str, default: int) -> int:
        return self.integers(key)[0] if self.has(key) else default

    def positive(self, key: str, default: int) -> int:
        if (value := self.integer(key, default)) < 1:
            raise ValueError(f"{key}: {value} is not positive")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        return self.integer(key, default) != 0

    def demand(self, key: str, only: int, default: int) -> None:
        """Refuse a value that would mean something else than what this library does."""
        if self.integer(key, default) != only:
            raise ValueError(f"{key}: only {only} is supported, not {self.integer(key, default)}")

    def activation(self) -> Any:
        name = self.text("activation", "logistic")
        if name not in get_args(Activation):
            raise ValueError(f"activation: {name!r} is not one of {', '.join(get_args(Activation))}")
        return name

    def warn_unread(self) -> None:
        for key in sorted(self.unread):
            warnings.warn(f"line {self.options[key][1]}, [{self.name}]: {key} is not used", stacklevel=3)

    def _leading(self, key: str, number: str) -> list[str]:
        """The leading number of every item of a comma-separated list, all that atoi and atof look at."""
        if not self.has(key):
            return []
        found = [re.match(number, item, re.IGNORECASE) for item in self.text(key, "").split(",")]
        if None in found:
            value, line = self.options[key]
            raise self.error(f"{key}={value} is not made of numbers", line)
        return [match.group() for match in found if match]


def _split(text: str) -> list[Section]:
    """Cut a file into its sections, at least one."""
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.replace(" ", "").replace("\t", "")
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            if line[-1] != "]":
                raise CfgError(f"line {number}: {raw!r} is not a [section]")
            sections.append(Section(line[1:-1], number))
            continue
        key, equals, value = line.partition("=")
        if not (equals and key and sections):
            raise CfgError(f"line {number}: {raw!r} is not a [section], nor key=value inside one")
        sections[-1].options.setdefault(key, (value, number))
        sections[-1].unread.add(key)
    if not sections:
        raise CfgError("line 1: there is no [net] section")
    return sections


def _net(o: Section) -> Net:
    width = o.integer("width", 0)
    schedule = Schedule(
        learning_rate=o.number("learning_rate", 0.001),
        policy=cast(Policy, o.text("policy", "constant")),  # Schedule checks it
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
        height=o.integer("height", 0),
        channels=o.integer("channels", 0),
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
    padding = o.integer("padding", 0)
    pad = size // 2 if o.flag("pad") else padding
    o.demand("flipped", 0, default=0)
    return Conv(
        filters=o.positive("filters", 1),
        size=size,
        stride=o.positive("stride", 1),
        pad=None if pad == size // 2 else pad,
        batch_norm=o.flag("batch_normalize"),
        activation=o.activation(),
        groups=o.positive("groups", 1),
    )


def _connected(o: Section) -> Connected:
    return Connected(o.positive("output", 1), o.activation(), o.flag("batch_normalize"))


def _local(o: Section) -> Local:
    return Local(
        o.positive("filters", 1),
        o.positive("size", 1),
        o.positive("stride", 1),
        o.integer("pad", 0),
        o.activation(),
    )


def _maxpool(o: Section) -> MaxPool:
    stride = o.positive("stride", 1)
    size = o.positive("size", stride)
    padding = o.integer("padding", size - 1)
    return MaxPool(size, stride, None if padding == size - 1 else padding)


def _route(o: Section) -> Route:
    if not (layers := o.integers("layers")):
        raise ValueError("layers: a route must name at least one")
    return Route(layers)


def _reorg(o: Section) -> Reorg:
    o.demand("flatten", 0, default=0)
    o.demand("extra", 0, default=0)
    return Reorg(o.positive("stride", 1), o.flag("reverse"))


def _softmax(o: Section) -> Softmax:
    o.demand("groups", 1, default=1)
    o.demand("temperature", 1, default=1)
    return Softmax(read_tree(o.root / o.text("tree", "")) if o.has("tree") else None)


def _region(o: Section) -> Region:
    o.demand("coords", 4, default=4)
    for key in ("absolute", "log", "sqrt", "classfix"):  # Darknet reads them too, to no effect
        o.text(key, "")
    num = o.positive("num", 1)
    anchors = o.numbers("anchors") or (0.5,) * (2 * num)
    if len(anchors) != 2 * num:
        raise ValueError(f"anchors: {len(anchors)} numbers for num={num} pairs of width, height")
    tree = read_tree(o.root / o.text("tree", "")) if o.has("tree") else None
    softmax = o.flag("softmax")
    class_map = (o.root / o.text("map", "")).read_text().split() if o.has("map") else None
    return Region(
        anchors=tuple(zip(anchors[::2], anchors[1::2], strict=True)),
        classes=o.positive("classes", 20),
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
        class_map=None if class_map is None else tuple(int(node) for node in class_map),
    )


def _detection(o: Section) -> Grid:
    o.demand("coords", 4, default=1)
    o.demand("random", 0, default=0)  # not multi-scale as in [region] but a random responsible box (SPEC 11)
    return Grid(
        side=o.positive("side", 7),
        boxes=o.positive("num", 1),
        classes=o.positive("classes", 1),
        sqrt=o.flag("sqrt"),
        softmax=o.flag("softmax"),
        rescore=o.flag("rescore"),
        forced=o.flag("forced"),
        object_scale=o.number("object_scale", 1.0),
        noobject_scale=o.number("noobject_scale", 1.0),
        class_scale=o.number("class_scale", 1.0),
        coord_scale=o.number("coord_scale", 1.0),
    )


def _head_training(o: Section) -> HeadTraining:
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
    "dropout": lambda o: Dropout(o.number("probability", 0.5)),
    "region": _region,
    "detection": _detection,
}

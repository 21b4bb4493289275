"""Layer records: a network is one plain list of these (SPEC 10). Pure data, shared by every wing.

`yolov2.presets` writes the published networks in this form, `yolov2.cfg` reads it from Darknet text,
`yolov2.network` turns it into an ``nn.Module`` and `reference.network` runs it in NumPy.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from reference.region import Region, WordTree

Activation = Literal["linear", "leaky", "relu", "logistic"]
ReorgOrder = Literal["darknet", "space_to_depth"]
CostKind = Literal["sse", "masked", "L1", "smooth", "seg"]


@dataclass(frozen=True)
class Conv:
    """Convolution, then batch norm or bias, then activation. `pad` is in pixels on every side.

    `flipped` says nothing about the mathematics: a weights file then holds the matrix of weights transposed.
    """

    filters: int
    size: int = 3
    stride: int = 1
    pad: int | None = None  # None: size // 2, what Darknet's pad=1 means
    batch_norm: bool = True
    activation: Activation = "leaky"
    groups: int = 1
    flipped: bool = False

    def __post_init__(self):
        if self.pad == self.size // 2:  # one record for one meaning
            object.__setattr__(self, "pad", None)

    @property
    def padding(self) -> int:
        return self.size // 2 if self.pad is None else self.pad


@dataclass(frozen=True)
class MaxPool:
    """Max pool; `padding` is the TOTAL padding of a side pair, Darknet's default being size - 1."""

    size: int = 2
    stride: int = 2
    padding: int | None = None

    def __post_init__(self):
        if self.padding == self.size - 1:
            object.__setattr__(self, "padding", None)

    @property
    def total_padding(self) -> int:
        return self.size - 1 if self.padding is None else self.padding


@dataclass(frozen=True)
class AvgPool:
    """Mean over the whole map, per channel."""


@dataclass(frozen=True)
class Route:
    """Concatenate earlier outputs along channels; indices < 0 count back from this layer."""

    layers: tuple[int, ...]


@dataclass(frozen=True)
class Reorg:
    """Trade resolution for channels, in Darknet's scattered order or the textbook one (SPEC 9)."""

    stride: int = 2
    reverse: bool = False
    order: ReorgOrder = "darknet"

    def __post_init__(self):
        if self.order not in get_args(ReorgOrder):
            raise ValueError(f"order: {self.order!r} is not one of {', '.join(get_args(ReorgOrder))}")


@dataclass(frozen=True)
class Upsample:
    """Every pixel becomes a block of stride x stride, times `scale`."""

    stride: int = 2
    scale: float = 1.0


@dataclass(frozen=True)
class Shortcut:
    """``alpha`` times the previous output plus ``beta`` times that of an earlier `layer` of equal shape."""

    layer: int  # < 0 counts back from this layer
    activation: Activation = "linear"
    alpha: float = 1.0
    beta: float = 1.0


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm that is a layer of its own: scales, but no biases, in a weights file."""


@dataclass(frozen=True)
class Crop:
    """The middle of the picture; 2 x - 1 of it if `adjust` says so (Darknet's classifiers of 2014).

    While training Darknet crops anywhere, mirrors and distorts, by the other settings (`angle` in degrees);
    here `yolov2.augment` is there for that, and the layer crops the middle.
    """

    height: int
    width: int
    flip: bool = False
    angle: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0
    adjust: bool = True


@dataclass(frozen=True)
class Cost:
    """The loss of a classifier. Its output is its input."""

    kind: CostKind = "sse"
    scale: float = 1.0


@dataclass(frozen=True)
class Softmax:
    """Softmax over all inputs, or one per sibling group of `tree`."""

    tree: WordTree | None = None


@dataclass(frozen=True)
class Connected:
    """Fully connected layer."""

    outputs: int
    activation: Activation = "linear"
    batch_norm: bool = False


@dataclass(frozen=True)
class Local:
    """Convolution whose weights differ at every place (YOLOv1). `pad` is the border in pixels."""

    filters: int
    size: int = 3
    stride: int = 1
    pad: int = 1
    activation: Activation = "leaky"


@dataclass(frozen=True)
class Dropout:
    """Drop inputs while training; the identity otherwise."""

    probability: float = 0.5


@dataclass(frozen=True)
class Grid:
    """Settings of YOLOv1's detection layer (SPEC 11). Defaults are those of yolov1.cfg.

    Parameters
    ----------
    side : int
        The picture is divided into side x side cells.
    boxes : int
        Boxes predicted by every cell.
    classes : int
        Number of classes.
    sqrt : bool
        Sizes are predicted as square roots.
    softmax : bool
        Softmax over the classes of a cell; otherwise class outputs are used as they are.
    rescore : bool
        The confidence target is the IoU instead of 1.
    forced : bool
        The responsible box is chosen by the truth's size instead of by overlap.
    object_scale, noobject_scale, class_scale, coord_scale : float
        Weights of the loss terms.

    Raises
    ------
    ValueError
        If a count is not positive, or `forced` has only one box to choose from.
    """

    side: int = 7
    boxes: int = 3
    classes: int = 20
    sqrt: bool = True
    softmax: bool = False
    rescore: bool = True
    forced: bool = False
    object_scale: float = 1.0
    noobject_scale: float = 0.5
    class_scale: float = 1.0
    coord_scale: float = 5.0

    def __post_init__(self):
        if min(self.side, self.boxes, self.classes) < 1:
            raise ValueError("side, boxes and classes must be at least 1")
        if self.forced and self.boxes < 2:
            raise ValueError("forced: gives small truths to box 1, which needs boxes >= 2")

    @property
    def outputs(self) -> int:
        return self.side**2 * (self.classes + 5 * self.boxes)


Head = Region | Grid | Softmax
Layer = (
    Conv
    | Connected
    | Local
    | BatchNorm
    | MaxPool
    | AvgPool
    | Upsample
    | Reorg
    | Route
    | Shortcut
    | Crop
    | Dropout
    | Head
    | Cost
)
Shape = tuple[int, int, int]


def absolute_route(route: Route | Shortcut, index: int) -> tuple[int, ...]:
    """Indices of the layers that the route or shortcut at position `index` reads, all >= 0."""
    layers = route.layers if isinstance(route, Route) else (route.layer,)
    return tuple(i if i >= 0 else index + i for i in layers)


def head_index(layers: list[Layer]) -> int | None:
    """Index of the record that gives a network's outputs their meaning; None if it ends without one."""
    last = len(layers) - 1
    while last >= 0 and isinstance(layers[last], Cost):
        last -= 1
    return last if last >= 0 and isinstance(layers[last], Region | Grid | Softmax) else None


def output_shapes(layers: list[Layer], shape: Shape) -> list[Shape]:
    """Shape of every layer's output.

    Parameters
    ----------
    layers : list of Layer
        The network.
    shape : (channels, height, width)
        The input picture, in pixels.

    Returns
    -------
    list of (channels, height, width)
        One per layer; flat outputs are (n, 1, 1).

    Raises
    ------
    ValueError
        If a layer does not fit its input; the message names the layer's index.
    """
    shapes: list[Shape] = []
    for layer in layers:
        shapes.append(output_shape(layer, shapes, shape))
    return shapes


def output_shape(layer: Layer, earlier: list[Shape], shape: Shape) -> Shape:
    """Shape of the output of the layer that follows those of shapes `earlier`.

    Parameters
    ----------
    layer : Layer
        At position ``len(earlier)`` of its network.
    earlier : list of (channels, height, width)
        Output shapes of the layers in front of it.
    shape : (channels, height, width)
        The input picture, in pixels.

    Returns
    -------
    (channels, height, width)

    Raises
    ------
    ValueError
        If the layer does not fit; the message names its index.
    """
    index = len(earlier)
    c, h, w = earlier[-1] if earlier else shape
    where = f"layer {index} ({type(layer).__name__}) on {w}x{h}x{c}"
    for name in ("size", "stride", "groups", "filters"):
        if getattr(layer, name, 1) < 1:
            raise ValueError(f"{where}: {name} {getattr(layer, name)} is not positive")
    match layer:
        case Conv():
            if c % layer.groups or layer.filters % layer.groups:
                raise ValueError(f"{where}: {layer.groups} groups divide neither channels nor filters evenly")
            out = [(n + 2 * layer.padding - layer.size) // layer.stride + 1 for n in (h, w)]
            c, h, w = layer.filters, *out
        case MaxPool():
            h, w = ((n + layer.total_padding - layer.size) // layer.stride + 1 for n in (h, w))
        case AvgPool():
            h, w = 1, 1
        case Upsample():
            h, w = h * layer.stride, w * layer.stride
        case Crop():
            if layer.height > h or layer.width > w:
                raise ValueError(f"{where}: cannot crop {layer.width}x{layer.height}")
            h, w = layer.height, layer.width
        case Route() | Shortcut():
            sources = absolute_route(layer, index)
            if outside := [s for s in sources if not 0 <= s < index]:
                kind = type(layer).__name__.lower()
                raise ValueError(f"{where}: {kind} to layer {outside[0]} leaves the network")
            if isinstance(layer, Shortcut):
                if earlier[sources[0]] != (c, h, w):
                    other = earlier[sources[0]]
                    raise ValueError(f"{where}: layer {sources[0]} is {other[2]}x{other[1]}x{other[0]}")
            else:
                if len(sizes := dict.fromkeys(f"{earlier[s][2]}x{earlier[s][1]}" for s in sources)) > 1:
                    raise ValueError(f"{where}: routed maps differ in size: {', '.join([*sizes][:9])}")
                c, h, w = sum(earlier[s][0] for s in sources), *earlier[sources[0]][1:]
        case Reorg():
            s = layer.stride
            if layer.reverse:
                if c % (s * s):
                    raise ValueError(f"{where}: {c} channels are not divisible by {s * s}")
                c, h, w = c // (s * s), h * s, w * s
            else:
                if h % s or w % s or (layer.order == "darknet" and c % (s * s)):
                    raise ValueError(f"{where}: not divisible by stride {s} (channels by {s * s})")
                c, h, w = c * s * s, h // s, w // s
        case Connected():
            c, h, w = layer.outputs, 1, 1
        case Local():
            if layer.pad and layer.size != 2 * layer.pad + 1:  # where Darknet's own formula holds
                raise ValueError(f"{where}: size {layer.size} needs pad 0 or {layer.size / 2 - 0.5:g}")
            h, w = ((n - (1 if layer.pad else layer.size)) // layer.stride + 1 for n in (h, w))
            c = layer.filters
        case Region():
            if c != layer.channels:
                raise ValueError(
                    f"{where}: needs {layer.channels} channels = {len(layer.anchors)} anchors "
                    f"x (5 + {layer.classes} classes), got {c}"
                )
        case Grid():
            if c * h * w != layer.outputs:
                raise ValueError(f"{where}: needs {layer.outputs} inputs, got {c * h * w}")
        case Softmax():
            if layer.tree is not None and c * h * w != len(layer.tree.parents):
                nodes = len(layer.tree.parents)
                raise ValueError(f"{where}: the tree has {nodes} nodes, got {c * h * w} inputs")
    if min(c, h, w) < 1:
        raise ValueError(f"{where}: the picture is too small, the output would be {w}x{h}x{c}")
    return c, h, w

"""What each layer record is in the operators of ONNX (SPEC 10).

Nothing is traced: the meaning of the records is said once more here, and proven against `reference.network`
in two engines. A record becomes a few nodes named after it, ``layer12_conv``.

============== ========================================================================================
record         nodes
============== ========================================================================================
Conv           Conv with its batch norm folded in, then LeakyRelu, Relu or Sigmoid
Connected      Flatten, Gemm with its batch norm folded in, Reshape to (B, outputs, 1, 1)
Local          Conv that lists the windows, MatMul of one matrix a place, Add
BatchNorm      Mul, Add
MaxPool        MaxPool with uneven pads
AvgPool        GlobalAveragePool
Upsample       Resize (nearest), Mul
Shortcut       Mul, Mul, Add (multiplying by 1 is left out)
Crop           Slice, Mul, Sub
Route          Concat, or nothing for a single layer
Reorg          SpaceToDepth, DepthToSpace, or Reshape and Transpose in Darknet's order
Softmax        Softmax over the flattened map; with a tree a Gather before and after
Dropout, Cost  nothing
Region, Grid   nothing, or all of `yolov2.onnx_detect`
============== ========================================================================================
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from reference.batchnorm import Form
from reference.layers import (
    AvgPool,
    BatchNorm,
    Connected,
    Conv,
    Cost,
    Crop,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shape,
    Shortcut,
    Softmax,
    Upsample,
    absolute_route,
)
from reference.region import Region, WordTree
from yolov2.errors import UserError

ACTIVATIONS = {"leaky": ("LeakyRelu", {"alpha": 0.1}), "relu": ("Relu", {}), "logistic": ("Sigmoid", {})}
INPUT = "images"

Arrays = Mapping[str, np.ndarray]


class Graph:
    """Nodes and constants in the making. A tensor is known by its name, that of the node it comes from.

    Raises
    ------
    UserError
        If the package onnx is not installed.
    """

    def __init__(self) -> None:
        self.onnx = _import_onnx()
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def node(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node with one output."""
        return self.split(op, inputs, name, (), **attributes)[0]

    def split(
        self, op: str, inputs: Sequence[str], name: str, parts: Sequence[str], **attributes: Any
    ) -> list[str]:
        """Append a node with an output ``name_part`` for each of `parts`."""
        outputs = [f"{name}_{part}" for part in parts] or [name]
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), outputs, name, **attributes))
        return outputs

    def floats(self, values: Any, name: str) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(values, np.float32), name)

    def ints(self, values: Any, name: str) -> str:
        """An int64 constant."""
        return self._constant(np.asarray(values, np.int64), name)

    def reshape(self, x: str, shape: Sequence[int], name: str) -> str:
        """`x` in another shape: 0 is the dimension that `x` has at the same place, -1 what is left."""
        return self.node("Reshape", [x, self.ints(shape, f"{name}_shape")], name)

    def rename(self, old: str, new: str) -> str:
        """Give the output of a node another name."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]
        return new

    def _constant(self, values: np.ndarray, name: str) -> str:
        self.constants[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name


def write_layers(
    graph: Graph,
    layers: Sequence[Layer],
    parameters: Sequence[Arrays],
    shapes: Sequence[Shape],
    form: Form,
    dynamic_size: bool,
) -> tuple[str, bool]:
    """Write layers that are not a head.

    Parameters
    ----------
    graph : Graph
        Written to. Its input is the tensor `INPUT`.
    layers : sequence of Layer
        The network.
    parameters : sequence of mapping to ndarray
        One per layer, as for `reference.network.forward`, all there and of the right shapes.
    shapes : sequence of (channels, height, width)
        That of the input and those of all outputs.
    form : {"darknet", "cudnn"}
        Form of batch norm.
    dynamic_size : bool
        The height and width of the input are open.

    Returns
    -------
    x : str
        The last output.
    changing : bool
        Whether its height and width hang on those of the input.

    Raises
    ------
    ValueError
        If a layer cannot be in the place it is at or cannot have an input of changing size.
    """
    x, changing = INPUT, dynamic_size
    tensors: list[str] = []
    sizes: list[bool] = []  # whether height and width of an output change
    for index, layer in enumerate(layers):
        sources = absolute_route(layer, index) if isinstance(layer, Route | Shortcut) else ()
        around = _Around(shapes[index], shapes[index + 1], changing, [tensors[s] for s in sources], form)
        kind = type(layer).__name__
        try:
            x = _write(graph, x, layer, parameters[index], around, f"layer{index}_{kind.lower()}")
        except ValueError as error:
            raise ValueError(f"layer {index} ({kind}): {error}") from None
        if isinstance(layer, Route):
            changing = any(sizes[s] for s in sources)
        elif isinstance(layer, Connected | Local | AvgPool | Crop):
            changing = False
        tensors.append(x)
        sizes.append(changing)
    return x, changing


class _Around(NamedTuple):
    """What a layer finds around it."""

    shape: Shape  # of its input
    out: Shape
    changing: bool  # whether height and width of its input are open
    sources: list[str]  # outputs of the earlier layers that it reads
    form: Form


def _write(graph: Graph, x: str, layer: Layer, p: Arrays, around: _Around, name: str) -> str:
    """Nodes of a layer on `x`; a ValueError says what is wrong, but not where."""
    shape, out, changing, sources, form = around
    if changing and isinstance(layer, Connected | Local):
        raise ValueError("needs an input of fixed size")
    match layer:
        case Conv():
            return _activate(graph, _conv(graph, x, layer, p, form, name), layer.activation)
        case Connected():
            return _activate(graph, _connected(graph, x, layer, p, form, name), layer.activation)
        case Local():
            return _activate(graph, _local(graph, x, layer, p, shape[0], out, name), layer.activation)
        case BatchNorm():
            scale, shift = (v[:, None, None] for v in _scale_and_shift(p, form))
            x = graph.node("Mul", [x, graph.floats(scale, f"{name}_scales")], f"{name}_scaled")
            return graph.node("Add", [x, graph.floats(shift, f"{name}_shifts")], name)
        case MaxPool():
            return _max_pool(graph, x, layer, name)
        case AvgPool():
            return graph.node("GlobalAveragePool", [x], name)
        case Upsample():
            return _upsample(graph, x, layer, name)
        case Shortcut():
            x = _times(graph, x, layer.alpha, f"{name}_alpha")
            y = _times(graph, sources[0], layer.beta, f"{name}_beta")
            return _activate(graph, graph.node("Add", [x, y], name), layer.activation)
        case Crop():
            return _crop(graph, x, layer, None if changing else shape, name)
        case Route():
            return sources[0] if len(sources) == 1 else graph.node("Concat", sources, name, axis=1)
        case Reorg():
            return _reorg(graph, x, layer, shape, changing, name)
        case Softmax():
            flat = write_softmax(graph, x, layer.tree, f"{name}_flat")
            if not changing:
                return graph.reshape(flat, [0, *out], name)
            return graph.node("Reshape", [flat, graph.node("Shape", [x], f"{name}_shape")], name)
        case Dropout() | Cost():
            return x
        case Region() | Grid():
            raise ValueError("only supported as the last one")
    raise ValueError("cannot be written as ONNX")


def _activate(graph: Graph, x: str, activation: str) -> str:
    if activation == "linear":
        return x
    op, attributes = ACTIVATIONS[activation]
    return graph.node(op, [x], f"{x}_{activation}", **attributes)


def _scale_and_shift(p: Arrays, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Batch norm as x * scale + shift, float64 (C,)."""
    variance = p["rolling_variance"].astype(np.float64)
    deviation = np.sqrt(variance) + 1e-6 if form == "darknet" else np.sqrt(variance + 1e-5)
    scale = p["scales"] / deviation
    return scale, p.get("biases", 0.0) - p["rolling_mean"] * scale


def _folded(p: Arrays, has_norm: bool, form: Form) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N, ...) and biases (N,) of a layer with its batch norm in them."""
    weights, biases = p["weights"], p["biases"]
    if has_norm:
        scale, biases = _scale_and_shift(p, form)
        weights = weights * scale.reshape(-1, *[1] * (weights.ndim - 1))
    return weights, biases


def _conv(graph: Graph, x: str, layer: Conv, p: Arrays, form: Form, name: str) -> str:
    weights, biases = _folded(p, layer.batch_norm, form)
    pad = layer.padding
    if layer.size == 1 and pad:  # OpenCV 5.0 reads outside the map if such a convolution pads by itself
        x = graph.node("Pad", [x, graph.ints([0, 0, pad, pad] * 2, f"{name}_pads")], f"{name}_padded")
        pad = 0
    return graph.node(
        "Conv",
        [x, graph.floats(weights, f"{name}_weights"), graph.floats(biases, f"{name}_biases")],
        name,
        kernel_shape=[layer.size] * 2,
        strides=[layer.stride] * 2,
        pads=[pad] * 4,
        group=layer.groups,
    )


def _connected(graph: Graph, x: str, layer: Connected, p: Arrays, form: Form, name: str) -> str:
    weights, biases = _folded(p, layer.batch_norm, form)
    flat = graph.node("Flatten", [x], f"{name}_flat", axis=1)
    constants = graph.floats(weights, f"{name}_weights"), graph.floats(biases, f"{name}_biases")
    product = graph.node("Gemm", [flat, *constants], f"{name}_product", transB=1)
    return graph.reshape(product, [0, layer.outputs, 1, 1], name)


def _local(graph: Graph, x: str, layer: Local, p: Arrays, channels: int, out: Shape, name: str) -> str:
    k = layer.size
    # ONNX cannot list windows before opset 18, but a kernel per channel and place in it, of one 1, does:
    # (B, C, H, W) to (B, C k k, OH, OW)
    pick = np.tile(np.eye(k * k).reshape(-1, 1, k, k), (channels, 1, 1, 1))
    windows = graph.node(
        "Conv",
        [x, graph.floats(pick, f"{name}_pick")],
        f"{name}_windows",
        kernel_shape=[k, k],
        strides=[layer.stride] * 2,
        pads=[layer.pad] * 4,
        group=channels,
    )
    columns = graph.reshape(windows, [0, channels * k * k, out[1] * out[2]], f"{name}_columns")  # (B, K, P)
    columns = graph.node("Transpose", [columns], f"{name}_places", perm=[2, 1, 0])  # (P, K, B)
    weights = graph.floats(p["weights"], f"{name}_weights")  # (P, N, K)
    product = graph.node("MatMul", [weights, columns], f"{name}_product")  # (P, N, B)
    product = graph.node("Transpose", [product], f"{name}_pictures", perm=[2, 1, 0])  # (B, N, P)
    product = graph.reshape(product, [0, *out], f"{name}_map")
    return graph.node("Add", [product, graph.floats(p["biases"], f"{name}_biases")], name)


def _max_pool(graph: Graph, x: str, layer: MaxPool, name: str) -> str:
    total = layer.total_padding
    if not 0 <= total < layer.size:  # as in `reference.pool`: some window might see nothing
        raise ValueError(f"padding {total} is not in 0..{layer.size - 1}")
    low, high = total // 2, total - total // 2
    shape, strides = [layer.size] * 2, [layer.stride] * 2
    return graph.node("MaxPool", [x], name, kernel_shape=shape, strides=strides, pads=[low, low, high, high])


def _times(graph: Graph, x: str, factor: float, name: str) -> str:
    return x if factor == 1 else graph.node("Mul", [x, graph.floats(factor, f"{name}_factor")], name)


def _upsample(graph: Graph, x: str, layer: Upsample, name: str) -> str:
    region_of_interest = graph.floats([], f"{name}_roi")  # unused in this mode
    scales = graph.floats([1, 1, layer.stride, layer.stride], f"{name}_scales")
    modes = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    x = graph.node("Resize", [x, region_of_interest, scales], name, mode="nearest", **modes)
    return _times(graph, x, layer.scale, f"{name}_times")


def _crop(graph: Graph, x: str, layer: Crop, shape: Shape | None, name: str) -> str:
    """`shape` is that of the input; None if it changes."""
    size = graph.ints([layer.height, layer.width], f"{name}_size")
    if shape is not None:
        top, left = (shape[1] - layer.height) // 2, (shape[2] - layer.width) // 2
        start = graph.ints([top, left], f"{name}_start")
        end = graph.ints([top + layer.height, left + layer.width], f"{name}_end")
    else:
        sides = graph.node("Shape", [x], f"{name}_shape")
        sides = graph.node("Gather", [sides, graph.ints([2, 3], f"{name}_sides")], f"{name}_picture")
        margin = graph.node("Sub", [sides, size], f"{name}_margin")
        start = graph.node("Div", [margin, graph.ints(2, f"{name}_two")], f"{name}_start")
        end = graph.node("Add", [start, size], f"{name}_end")
    x = graph.node("Slice", [x, start, end, graph.ints([2, 3], f"{name}_axes")], name)
    if layer.adjust:
        x = _times(graph, x, 2, f"{name}_twice")
        x = graph.node("Sub", [x, graph.floats(1, f"{name}_one")], f"{name}_adjusted")
    return x


def _reorg(graph: Graph, x: str, layer: Reorg, shape: Shape, changing: bool, name: str) -> str:
    s, (c, h, w) = layer.stride, shape
    if layer.reverse:
        return graph.node("DepthToSpace", [x], name, blocksize=s, mode="DCR")
    if layer.order == "space_to_depth":
        return graph.node("SpaceToDepth", [x], name, blocksize=s)
    # Darknet reads the memory (C, H, W) as (C / s^2, H s, W s), takes space to depth of that, which is
    # (C, H, W), and reads its memory as (C s^2, H / s, W / s) (SPEC 9). Below, w is W / s. In a new shape
    # 0 keeps a size where it stands and -1 leaves one open, so any H and W will do: H stands at 2, w at 6.
    # Sizes that are known are said: of two Reshapes in a row OpenCV 5.0 drops one, and what 0 refers to.
    d = c // (s * s)
    rows, part = (0, -1) if changing else (h, w // s)
    x = graph.reshape(x, [0, d, rows, s, s, part, s], f"{name}_blocks")  # (B, d, H, oy, s, w, ox)
    x = graph.node("Transpose", [x], f"{name}_moved", perm=[0, 3, 6, 1, 2, 4, 5])  # (B, oy, ox, d, H, s, w)
    if not changing:
        return graph.reshape(x, [0, c * s * s, h // s, w // s], name)
    x = graph.reshape(x, [0, c * s * s, 1, 1, 1, -1, 0], f"{name}_maps")
    return graph.node("Squeeze", [x, graph.ints([2, 3, 4], f"{name}_ones")], name)


def write_softmax(graph: Graph, x: str, tree: WordTree | None, name: str) -> str:
    """Write the probabilities (B, n) of a map of n values; on a tree they are those given the parent."""
    flat = graph.node("Flatten", [x], f"{name}_scores", axis=1)
    if tree is None:
        return graph.node("Softmax", [flat], name, axis=1)
    # the sibling groups as rows of one table, short ones filled up with a score of -infinity
    groups, longest, nodes = len(tree.group_sizes), max(tree.group_sizes), len(tree.parents)
    table = np.full((groups, longest), nodes)
    for row, start, size in zip(table, tree.group_offsets, tree.group_sizes, strict=True):
        row[:size] = np.arange(start, start + size)
    pads = graph.ints([0, 0, 0, 1], f"{name}_pads")
    flat = graph.node("Pad", [flat, pads, graph.floats(-np.inf, f"{name}_never")], f"{name}_filled")
    rows = graph.node("Gather", [flat, graph.ints(table, f"{name}_table")], f"{name}_groups", axis=1)
    rows = graph.node("Softmax", [rows], f"{name}_siblings", axis=2)
    rows = graph.reshape(rows, [0, groups * longest], f"{name}_cells")
    cells = graph.ints(np.flatnonzero(table.ravel() < nodes), f"{name}_nodes")
    return graph.node("Gather", [rows, cells], name, axis=1)


def _import_onnx() -> ModuleType:
    try:
        import onnx
    except ImportError:
        raise UserError('ONNX needs the package onnx: pip install "yolov2[onnx]"') from None
    return onnx

"""A network and its parameters as an ONNX model, written node by node."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from math import prod
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from reference.batchnorm import Form
from reference.layers import Grid, Layer, Reorg, Shape, Softmax, head_index, output_shapes
from reference.region import Region
from yolov2.onnx_detect import grid_candidates, region_candidates, suppress
from yolov2.onnx_layers import INPUT, Graph, write_layers, write_softmax
from yolov2.weights import parameter_shapes

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 13  # the first in which Softmax works along one axis and not on a flattened rest
IR_VERSION = 7  # the one that came with it

Parameters = Sequence[Mapping[str, np.ndarray]]


def to_onnx(
    layers: Sequence[Layer],
    parameters: Parameters,
    input_shape: Shape,
    *,
    names: Sequence[str],
    batch_norm: Form = "darknet",
    dynamic_batch: bool = True,
    dynamic_size: bool = False,
    detections: bool = False,
    conf: float = 0.25,
    iou: float = 0.45,
    max_det: int = 100,
    resize: str = "letterbox",
    metadata: Mapping[str, str] | None = None,
) -> "ModelProto":
    """Write a network as an ONNX model of opset 13.

    Parameters
    ----------
    layers : sequence of Layer
        The network.
    parameters : sequence of mapping to ndarray
        One per layer, as for `reference.network.forward`; rounded to float32.
    input_shape : (channels, height, width)
        Of the input picture, in pixels.
    names : sequence of str
        Class names for the metadata, as many as the head has classes; empty if unknown.
    batch_norm : {"darknet", "cudnn"}
        Where its epsilon goes, see `reference.batchnorm`. It is folded into the layer in float64.
    dynamic_batch : bool
        Any number of pictures at a time, otherwise one.
    dynamic_size : bool
        Any height and width that the network can take, otherwise those of `input_shape`.
    detections : bool
        Decode and suppress in the graph; the network has to end in a `Region` without a tree, or a `Grid`.
    conf, iou, max_det
        As for `fast.detect.detect`; used with `detections`.
    resize : str
        How pictures are brought to the input's size, for the metadata: "letterbox" or "stretch".
    metadata : mapping of str to str, optional
        More entries for the metadata, or other values for the usual ones.

    Returns
    -------
    onnx.ModelProto
        Checked, with the shape of every tensor. Its input is "images", float32 (B, C, H, W). Its output is
        "output", float32: the raw map (B, A*(5+C), H, W) in front of a `Region`, the raw vector
        (B, outputs) in front of a `Grid`, the probabilities (B, n) of a `Softmax`, or the last map of a
        network that has no head. With `detections` there are four, those of `fast.detect.Detections`:
        "boxes" (B, max_det, 4) float32 cxcywh as fractions of the input, "scores" (B, max_det) float32,
        "classes" (B, max_det) int64 and "count" (B,) int64; rows past the count are zero boxes of score 0
        and class -1. Where a network has no layers left to write, the output is a copy of the input.

    Raises
    ------
    UserError
        If the package onnx is not installed.
    ValueError
        If a layer does not fit its input, lacks parameters, cannot be in the place it is at or cannot have
        an input of changing size; if the names are not as many as the classes; if an option has no meaning.

    Notes
    -----
    `iou` is compared with overlaps as the engine rounds them: one that is equal to it in exact arithmetic
    may fall on either side.
    """
    layers = list(layers)
    if batch_norm not in get_args(Form):
        raise ValueError(f"batch_norm: {batch_norm!r} is not one of {', '.join(get_args(Form))}")
    graph = Graph()
    head = head_index(layers)
    body = layers if head is None else layers[:head]
    shapes = output_shapes(layers, input_shape)
    arrays = _checked_parameters(layers, parameters, input_shape)
    record = None if head is None else layers[head]
    _check_names(names, record, shapes)
    if detections:
        _check_detections(record, max_det)

    shapes = [input_shape, *shapes]
    shape = shapes[len(body)]
    x, changing = write_layers(graph, body, arrays[: len(body)], shapes, batch_norm, dynamic_size)
    batch = "batch" if dynamic_batch else 1
    sides = ("output_height", "output_width") if changing else shape[1:]
    if isinstance(record, Grid):
        x = graph.node("Flatten", [x], f"layer{head}_flat", axis=1)
        dims = [batch, record.outputs]
    elif isinstance(record, Softmax):
        x = write_softmax(graph, x, record.tree, f"layer{head}_softmax")
        dims = [batch, "outputs" if changing else prod(shape)]
    else:
        dims = [batch, shape[0], *sides]

    facts = _facts(layers, input_shape, names, batch_norm, dynamic_size, resize)
    if detections:
        if isinstance(record, Grid):
            boxes, scores = grid_candidates(graph, x, record)
        else:
            assert isinstance(record, Region)
            boxes, scores = region_candidates(graph, x, record, None if changing else shape[1:])
        outputs = suppress(graph, boxes, scores, record.classes, batch, conf, iou, max_det)
        facts |= {"conf": str(conf), "iou": str(iou), "max_det": str(max_det)}
    else:
        if x == INPUT:
            x = graph.node("Identity", [x], "nothing")
        tensor = graph.onnx.TensorProto.FLOAT
        outputs = [graph.onnx.helper.make_tensor_value_info(graph.rename(x, "output"), tensor, dims)]
    size = ("height", "width") if dynamic_size else input_shape[1:]
    return _model(graph, [batch, input_shape[0], *size], outputs, facts | dict(metadata or {}))


def _checked_parameters(
    layers: list[Layer], parameters: Parameters, input_shape: Shape
) -> list[dict[str, np.ndarray]]:
    """The arrays that the layers need, in the shapes that they need."""
    wanted = parameter_shapes(layers, input_shape)
    if len(parameters) != len(layers):
        raise ValueError(f"parameters of {len(parameters)} layers for a network of {len(layers)}")
    found: list[dict[str, np.ndarray]] = []
    for index, (shapes, given) in enumerate(zip(wanted, parameters, strict=True)):
        for name, shape in shapes.items():
            if name not in given or np.size(given[name]) != prod(shape):
                what = f"{np.size(given[name])} {name}" if name in given else f"no {name}"
                raise ValueError(f"layer {index} ({type(layers[index]).__name__}): {what}, needs {shape}")
        found.append({name: np.asarray(given[name]).reshape(shape) for name, shape in shapes.items()})
    return found


def _check_names(names: Sequence[str], head: Layer | None, shapes: list[Shape]) -> None:
    if not names or head is None:
        return
    classes = head.classes if isinstance(head, Region | Grid) else prod(shapes[-1])
    if len(names) != classes:
        raise ValueError(f"names: {len(names)} for {classes} classes")


def _check_detections(head: Layer | None, max_det: int) -> None:
    if not isinstance(head, Region | Grid):
        raise ValueError("detections: the network does not end in a Region or a Grid; export without")
    if isinstance(head, Region) and head.tree is not None:
        raise ValueError("detections: not supported on a tree of classes; export without")
    if max_det < 1:
        raise ValueError(f"max_det: {max_det} is not a positive number")


def _facts(
    layers: list[Layer],
    input_shape: Shape,
    names: Sequence[str],
    form: Form,
    dynamic_size: bool,
    resize: str,
) -> dict[str, str]:
    """What a user of the file has to know, for its metadata."""
    c, h, w = input_shape
    facts = {
        "names": json.dumps(list(names)),
        "input_size": f"{w}x{h}" + (" or any other" if dynamic_size else ""),
        "input_format": {3: "RGB, 0..1", 1: "grey, 0..1"}.get(c, f"{c} channels"),
        "resize": resize,
        "batch_norm": f"{form}, folded",
    }
    if anchors := [layer.anchors for layer in layers if isinstance(layer, Region)]:
        facts["anchors"] = json.dumps(anchors[-1])
        facts["location"] = next(layer.location for layer in reversed(layers) if isinstance(layer, Region))
    if orders := [layer.order for layer in layers if isinstance(layer, Reorg)]:
        facts["reorg_order"] = ", ".join(dict.fromkeys(orders))
    return facts


def _model(graph: Graph, dims: list[Any], outputs: list[Any], facts: dict[str, str]) -> "ModelProto":
    """The finished, checked model."""
    onnx = graph.onnx
    helper = onnx.helper
    images = helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, dims)
    doc = (
        f'Input "{INPUT}": float32 (batch, channels, height, width), {facts["input_format"]}, '
        f"brought to {facts['input_size']} by {facts['resize']}. See the metadata for the rest."
    )
    constants = list(graph.constants.values())
    model = helper.make_model(
        helper.make_graph(graph.nodes, "yolov2", [images], outputs, constants, doc_string=doc),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="yolov2",
        producer_version=_version(),
        doc_string=doc,
    )
    helper.set_model_props(model, facts)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def _version() -> str:
    try:
        return version("yolov2")
    except PackageNotFoundError:  # run from a folder of sources
        return "unknown"

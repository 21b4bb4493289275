"""Detection as nodes of an ONNX graph: what `fast.detect` and `fast.grid` compute (SPEC 8, 11).

Shapes: B pictures, A anchors, C classes, P = H * W cells, N boxes a picture. Tensors are known by name.
"""

from typing import Any

import numpy as np

from reference.layers import Grid
from reference.region import Region
from yolov2.onnx_layers import Graph


def region_candidates(
    graph: Graph, pred: str, region: Region, size: tuple[int, int] | None
) -> tuple[str, str]:
    """Decode a raw head.

    Parameters
    ----------
    graph : Graph
        Written to.
    pred : str
        Raw predictions (B, A*(5+C), H, W).
    region : Region
        Settings of the head, without a tree.
    size : (H, W), optional
        In cells; None to read them off `pred` in the graph.

    Returns
    -------
    boxes : str
        (B, A*H*W, 4) cxcywh, fractions of the input.
    scores : str
        (B, A*H*W, C), not thresholded.
    """
    A, C = len(region.anchors), region.classes
    head = graph.reshape(pred, [0, A, 5 + C, -1], "decode_head")  # (B, A, 5+C, P)
    sizes = [2, 2, 1 + C] if region.background else [2, 2, 1, C]
    parts = (
        ["xy", "wh", "objectness_and_classes"] if region.background else ["xy", "wh", "objectness", "classes"]
    )
    inputs = [head, graph.ints(sizes, "decode_sizes")]
    xy, wh, *rest = graph.split("Split", inputs, "decode_raw", parts, axis=2)
    if region.background:  # one softmax with "nothing here" in front, which is then left out (SPEC 1.2)
        joint = graph.node("Softmax", rest, "decode_joint", axis=2)
        one, end, axis = (
            graph.ints([v], f"decode_{n}") for v, n in ((1, "one"), (1 + C, "end"), (2, "axis"))
        )
        scores = graph.node("Slice", [joint, one, end, axis], "decode_scores")
    else:
        objectness = graph.node("Sigmoid", rest[:1], "decode_objectness")
        if region.class_activation == "softmax":
            probabilities = graph.node("Softmax", rest[1:], "decode_classes", axis=2)
        else:
            probabilities = graph.node("Sigmoid", rest[1:], "decode_classes")
        scores = graph.node("Mul", [objectness, probabilities], "decode_scores")

    cell, grid = _cells(graph, pred, size)  # (2, P), (2, 1)
    anchors = graph.floats(np.array(region.anchors)[:, :, None], "decode_anchors")  # (A, 2, 1)
    if region.location == "cell":
        place = graph.node("Sigmoid", [xy], "decode_place")
    else:
        offset = graph.node("Mul", [xy, anchors], "decode_offset")
        place = graph.node("Add", [offset, graph.floats(0.5, "decode_middle")], "decode_place")
    place = graph.node("Add", [cell, place], "decode_place_in_grid")
    extent = graph.node("Mul", [anchors, graph.node("Exp", [wh], "decode_factor")], "decode_extent_in_grid")
    centre = graph.node("Div", [place, grid], "decode_centre")
    extent = graph.node("Div", [extent, grid], "decode_extent")
    boxes = graph.node("Concat", [centre, extent], "decode_boxes", axis=2)
    return _rows(graph, boxes, 4, "boxes"), _rows(graph, scores, C, "scores")


def _cells(graph: Graph, pred: str, size: tuple[int, int] | None) -> tuple[str, str]:
    """Column and row of every cell, float (2, P), and how many there are of each, float (2, 1)."""
    if size is not None:
        H, W = size
        row, col = np.divmod(np.arange(H * W), W)
        return graph.floats([col, row], "decode_cells"), graph.floats([[W], [H]], "decode_grid")
    shape = graph.node("Shape", [pred], "decode_shape")
    sides = graph.node("Gather", [shape, graph.ints([3, 2], "decode_sides")], "decode_width_height")
    total = graph.node("ReduceProd", [sides], "decode_total", axes=[0], keepdims=0)
    zero, one = graph.ints(0, "decode_first"), graph.ints(1, "decode_step")
    places = graph.node("Range", [zero, total, one], "decode_places")  # (P,)
    sides = graph.reshape(sides, [2, 1], "decode_modulus")  # W, H
    width = graph.node("Gather", [sides, graph.ints([0], "decode_only_width")], "decode_width", axis=0)
    steps = graph.node("Concat", [graph.ints([[1]], "decode_ones"), width], "decode_divisor", axis=0)
    # column = place / 1 mod W, row = place / W mod H
    cells = graph.node("Mod", [graph.node("Div", [places, steps], "decode_counted"), sides], "decode_cell")
    to = graph.onnx.TensorProto.FLOAT
    return graph.node("Cast", [cells], "decode_cells", to=to), graph.node(
        "Cast", [sides], "decode_grid", to=to
    )


def _rows(graph: Graph, x: str, columns: int, name: str) -> str:
    """(B, A, columns, P) as (B, A*P, columns)."""
    x = graph.node("Transpose", [x], f"decode_{name}_last", perm=[0, 1, 3, 2])
    return graph.reshape(x, [0, -1, columns], f"decode_{name}_rows")


def grid_candidates(graph: Graph, flat: str, grid: Grid) -> tuple[str, str]:
    """Decode the output of YOLOv1.

    Parameters
    ----------
    graph : Graph
        Written to.
    flat : str
        Raw output (B, outputs), in front of the layer.
    grid : Grid
        Settings. S = side^2 cells of n boxes.

    Returns
    -------
    boxes : str
        (B, S*n, 4) cxcywh, fractions of the input.
    scores : str
        (B, S*n, C), not thresholded.
    """
    S, n, C = grid.side**2, grid.boxes, grid.classes
    lengths = graph.ints([S * C, S * n, S * n * 4], "decode_lengths")
    parts = ["classes", "confidence", "boxes"]
    classes, confidence, boxes = graph.split("Split", [flat, lengths], "decode_raw", parts, axis=1)
    classes = graph.reshape(classes, [0, S, 1, C], "decode_classes")
    if grid.softmax:
        classes = graph.node("Softmax", [classes], "decode_probabilities", axis=3)
    confidence = graph.reshape(confidence, [0, S, n, 1], "decode_confidence")
    scores = graph.node("Mul", [confidence, classes], "decode_scores")

    boxes = graph.reshape(boxes, [0, S, n, 4], "decode_boxes_by_cell")
    halves = [boxes, graph.ints([2, 2], "decode_halves")]
    place, extent = graph.split("Split", halves, "decode", ["place", "extent"], axis=3)
    row, col = np.divmod(np.arange(S), grid.side)
    cells = graph.floats(np.stack([col, row], -1)[:, None], "decode_cells")  # (S, 1, 2)
    place = graph.node("Add", [place, cells], "decode_place_in_grid")
    centre = graph.node("Div", [place, graph.floats(grid.side, "decode_side")], "decode_centre")
    if grid.sqrt:
        extent = graph.node("Mul", [extent, extent], "decode_squared")
    boxes = graph.node("Concat", [centre, extent], "decode_boxes", axis=3)
    return (
        graph.reshape(boxes, [0, S * n, 4], "decode_boxes_rows"),
        graph.reshape(scores, [0, S * n, C], "decode_scores_rows"),
    )


def suppress(
    graph: Graph,
    boxes: str,
    scores: str,
    classes: int,
    batch: str | int,
    conf: float,
    iou: float,
    max_det: int,
) -> list[Any]:
    """Threshold, suppress class by class and keep the best (SPEC 8.2).

    Parameters
    ----------
    graph : Graph
        Written to.
    boxes, scores : str
        (B, N, 4) cxcywh and (B, N, C).
    classes : int
        C.
    batch : str or int
        Size of the batch, or its name.
    conf, iou, max_det
        As for `fast.detect.detect`.

    Returns
    -------
    list of onnx.ValueInfoProto
        "boxes" (B, max_det, 4) float32, "scores" (B, max_det) float32, "classes" (B, max_det) int64 and
        "count" (B,) int64, as in `fast.detect.Detections`.
    """
    node, floats, ints, onnx = graph.node, graph.floats, graph.ints, graph.onnx
    nothing, zero = floats(0, "nms_nothing"), ints(0, "nms_zero")
    # NaN is above nothing. Zeros are nobody's: whether an engine's NMS compares with > or >= does not matter.
    above = node("Greater", [scores, floats(max(conf, 0.0), "nms_conf")], "nms_above")
    scores = node("Where", [above, scores, nothing], "nms_strong")
    # an empty box that scores nothing in front, for what is not found, and enough of them behind that there
    # are max_det places however small the head
    pads = ints([0, 1, 0, 0, max_det // classes, 0], "nms_pads")
    boxes = node("Pad", [boxes, pads], "nms_boxes")  # (B, N', 4)
    scores = node("Pad", [scores, pads], "nms_scores")  # (B, N', C)
    by_class = node("Transpose", [scores], "nms_by_class", perm=[0, 2, 1])
    # more than max_det of one class can never be among the best max_det of all
    most = ints([max_det], "nms_max_det")
    options = [most, floats([iou], "nms_iou"), floats([0], "nms_threshold")]
    kept = node("NonMaxSuppression", [boxes, by_class, *options], "nms_kept", center_point_box=1)

    # (K, 3) of picture, class, box, in no useful order: their scores go back to where they came from. There
    # equal ones are in the order of box, then class, and TopK prefers the first of equals.
    kept = node("Gather", [kept, ints([0, 2, 1], "nms_order")], "nms_places", axis=1)
    # OpenCV 5.0 divides by K: never let it be 0
    kept = node("Concat", [kept, ints([[0, 0, 0]], "nms_somebody")], "nms_at_least_one", axis=0)
    survivors = node("GatherND", [scores, kept], "nms_survivors")
    shape = node("Shape", [scores], "nms_shape")
    default = onnx.helper.make_tensor(
        "nms_default", onnx.TensorProto.FLOAT, [1], [0.0]
    )  # OpenCV needs it said
    empty = node("ConstantOfShape", [shape], "nms_empty", value=default)
    left = node("ScatterND", [empty, kept, survivors], "nms_left")  # (B, N', C)
    left = graph.reshape(left, [0, -1], "nms_flat")
    score, place = graph.split("TopK", [left, most], "nms_best", ["scores", "places"], axis=1)
    graph.rename(score, "scores")

    valid = node("Greater", ["scores", nothing], "nms_valid")
    place = node("Where", [valid, place, zero], "nms_valid_places")
    many = ints(classes, "nms_classes")
    label = node("Mod", [place, many], "nms_label")
    node("Where", [valid, label, ints(-1, "nms_no_class")], "classes")
    row = node("Unsqueeze", [node("Div", [place, many], "nms_box"), ints([2], "nms_last")], "nms_row")
    node("GatherND", [boxes, row], "boxes", batch_dims=1)
    ones = node("Cast", [valid], "nms_ones", to=onnx.TensorProto.INT64)
    node("ReduceSum", [ones, ints([1], "nms_rows")], "count", keepdims=0)

    info, real, whole = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    return [
        info("boxes", real, [batch, max_det, 4]),
        info("scores", real, [batch, max_det]),
        info("classes", whole, [batch, max_det]),
        info("count", whole, [batch]),
    ]

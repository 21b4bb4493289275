"""Raw head to boxes, objectness and class probabilities, dense or thresholded (SPEC 1, 8)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast._launch import DTYPES, anchor_tensor, operator, region_of, use_triton
from fast.wordtree import absolute_probability, branches, descend, descend_scores, tree_softmax
from reference.region import Region, TreeRule


class Decoded(NamedTuple):
    """Dense predictions. B images, A anchors, C classes, H x W cells."""

    boxes: Tensor  # (B, A, H, W, 4) x, y, w, h as fractions of the input
    objectness: Tensor  # (B, A, H, W)
    class_probs: Tensor  # (B, A, H, W, C)


class Candidates(NamedTuple):
    """Predictions above a threshold, in the order of their locations; rows past `count` are empty.

    Empty rows are zero boxes of score 0, class -1 and location -1.
    """

    boxes: Tensor  # (B, capacity, 4) x, y, w, h as fractions of the input
    scores: Tensor  # (B, capacity)
    classes: Tensor  # (B, capacity) int64
    locations: Tensor  # (B, capacity) int64, anchor*H*W + row*W + col
    count: Tensor  # type: ignore[assignment]  # (B,) int64, how many there are; hides tuple.count


def split_head(pred: Tensor, region: Region) -> Tensor:
    """View the raw head (B, A*(5+C), H, W) as (B, A, 5+C, H, W).

    Raises
    ------
    ValueError
        If the channels do not fit the region's anchors and classes.
    """
    if pred.ndim != 4 or pred.shape[1] != region.channels:
        raise ValueError(
            f"pred: shape {tuple(pred.shape)}, needs (B, {region.channels}, H, W) for "
            f"{len(region.anchors)} anchors and {region.classes} classes"
        )
    return pred.unflatten(1, (len(region.anchors), 5 + region.classes))


def decode_boxes(head: Tensor, region: Region) -> Tensor:
    """Boxes (B, A, H, W, 4) of a split head (B, A, 5+C, H, W), as fractions of the input (SPEC 1.3)."""
    *_, H, W = head.shape
    col = torch.arange(W, dtype=head.dtype, device=head.device)
    row = torch.arange(H, dtype=head.dtype, device=head.device)[:, None]
    a_w, a_h = anchor_tensor(region.settings, head.device, head.dtype)[:, :, None, None].unbind(1)
    t_x, t_y, t_w, t_h = head[:, :, :4].unbind(2)
    if region.location == "cell":
        p_x, p_y = t_x.sigmoid(), t_y.sigmoid()
    else:
        p_x, p_y = 0.5 + t_x * a_w, 0.5 + t_y * a_h
    x, y, w, h = (col + p_x) / W, (row + p_y) / H, a_w * t_w.exp() / W, a_h * t_h.exp() / H
    return torch.stack([x, y, w, h], -1)


def class_probabilities(scores: Tensor, region: Region, dim: int = -1) -> Tensor:
    """Class probabilities of raw scores (SPEC 1.1); conditional ones on a tree. Not for ``background``."""
    if region.class_activation == "softmax":
        return scores.softmax(dim)
    if region.class_activation == "logistic":
        return scores.sigmoid()
    assert region.tree is not None
    return tree_softmax(scores, region.tree, dim)


def activate_region(pred: Tensor, region: Region) -> Tensor:
    """Output of the region layer in the layout of its input: sizes stay raw, all else is activated.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions.
    region : Region
        Settings of the head.

    Returns
    -------
    Tensor (B, A*(5+C), H, W)
        p_x, p_y (or t_x, t_y, as ``region.location`` has it), t_w, t_h, p_o and class probabilities of every
        anchor (SPEC 1.1); conditional ones on a tree.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    head = split_head(pred, region)
    xy, wh, objectness, classes = head.split([2, 2, 1, region.classes], dim=2)
    if region.background:
        rest = [head[:, :, 4:].softmax(2)]
    else:
        rest = [objectness.sigmoid(), class_probabilities(classes, region, dim=2)]
    place = xy.sigmoid() if region.location == "cell" else xy
    return torch.cat([place, wh, *rest], 2).flatten(1, 2)


def decode(pred: Tensor, region: Region) -> Decoded:
    """Turn the raw output of a network into boxes and probabilities.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions, any floating dtype and strides.
    region : Region
        Settings of the head.

    Returns
    -------
    Decoded
        boxes as fractions of the input, objectness and class probabilities (conditional on a tree); float64
        for float64, otherwise float32. With ``region.background`` objectness is the probability of "nothing
        here". NaN and infinite logits give what the formulas give: NaN, or sizes that are infinite.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.

    Notes
    -----
    Where a gradient is needed the torch code runs, on a GPU too.
    """
    head = split_head(pred, region)
    if torch.is_grad_enabled() and pred.requires_grad:
        boxes, objectness, probs = _decode_torch(head, region)
    else:
        boxes, objectness, probs = _decode(pred, region.settings)
    if region.tree is not None:
        probs = tree_softmax(_computed(head)[:, :, 5:], region.tree, 2).movedim(2, -1)
    return Decoded(boxes, objectness, probs)


def _computed(x: Tensor) -> Tensor:
    """In the precision that is computed in: half precision holds no box to a pixel."""
    return x if x.dtype == torch.float64 else x.float()


def _decode_torch(head: Tensor, region: Region) -> tuple[Tensor, Tensor, Tensor]:
    """What `decode` returns for a split head, but on a tree no classes."""
    head = _computed(head)
    if region.background:
        joint = head[:, :, 4:].softmax(2)
        objectness, probs = joint[:, :, 0], joint[:, :, 1:]
    else:
        objectness = head[:, :, 4].sigmoid()
        probs = head[:, :, :0] if region.tree else class_probabilities(head[:, :, 5:], region, dim=2)
    return decode_boxes(head, region), objectness, probs.movedim(2, -1)


@operator("yolov2::decode")
def _decode(pred: Tensor, settings: str) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes, objectness and, except on a tree, class probabilities."""
    region = region_of(settings)
    if use_triton(pred) and pred.dtype in DTYPES:
        from fast.kernels.decode import decode as kernel

        return kernel(pred, region)
    boxes, objectness, probs = (
        x.clone(memory_format=torch.contiguous_format)
        for x in _decode_torch(split_head(pred, region), region)
    )
    return boxes, objectness, probs


@_decode.register_fake
def _(pred, settings):
    region = region_of(settings)
    B, _, H, W = pred.shape
    A, C = len(region.anchors), 0 if region.tree is not None else region.classes
    dtype = torch.float64 if pred.dtype == torch.float64 else torch.float32
    return tuple(
        pred.new_empty(shape, dtype=dtype) for shape in ((B, A, H, W, 4), (B, A, H, W), (B, A, H, W, C))
    )


def class_scores(
    decoded: Decoded,
    region: Region,
    conf: float,
    tree_threshold: float = 0.5,
    detection_map: tuple[int, ...] | None = None,
    tree_rule: TreeRule = "darknet",
) -> Tensor:
    """Scores (B, A*H*W, C) of every class of every box, 0 where not above `conf` (strictly).

    C is the number of classes, of nodes of a tree, or the length of `detection_map`. Dense as it is, this is
    no way to thousands of classes: see `decode_candidates` and `node_scores`.
    """
    p_o = decoded.objectness.flatten(1)[..., None]  # (B, N, 1)
    probs = decoded.class_probs.flatten(1, 3)  # (B, N, C)
    if region.background:
        p_o = torch.ones_like(p_o)
    if region.tree is None:
        scores = p_o * probs
    else:
        absolute = absolute_probability(probs, region.tree)
        if detection_map is not None:
            nodes = torch.tensor(detection_map, dtype=torch.int64, device=absolute.device)
            scores = p_o * absolute.index_select(-1, nodes)
        else:
            # Darknet descends on absolute values, so depth counts twice (SPEC 8); the score is p_o
            node = descend(absolute if tree_rule == "darknet" else probs, region.tree, tree_threshold)
            scores = torch.zeros_like(absolute).scatter_(2, node[..., None], p_o)
    return scores.where(scores > conf, 0)


def node_scores(pred: Tensor, region: Region, nodes: tuple[int, ...]) -> Tensor:
    """Objectness * absolute probability of some nodes of a tree, for every box (SPEC 8's detection map).

    Only groups of siblings on the way to these nodes are computed: for COCO's 80 classes, a sixth of the 9k
    tree.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions.
    region : Region
        Settings of a head on a tree.
    nodes : tuple of int
        M nodes.

    Returns
    -------
    Tensor (B, A*H*W, M)
        float64 for float64, otherwise float32.
    """
    assert region.tree is not None
    head = split_head(pred, region)
    branch, members, places = branches(region.tree.structure, nodes, pred.device)
    conditional = tree_softmax(_computed(head[:, :, 5:].index_select(2, members)), branch, 2)
    chosen = absolute_probability(conditional, branch, 2).index_select(2, places)
    return (_computed(head[:, :, 4:5]).sigmoid() * chosen).movedim(2, -1).flatten(1, 3)


def _best_classes(
    pred: Tensor, region: Region, conf: float, tree_threshold: float, tree_rule: TreeRule
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, N, 4), best scores above `conf` or 0, and their classes, both (B, N), of all N slots.

    On a tree no class exceeds the objectness, so slots that are not above `conf` are never read further; to
    know which these are, a GPU is waited for.
    """
    if region.tree is None:
        decoded = decode(pred, region)
        return decoded.boxes.flatten(1, 3), *class_scores(decoded, region, conf).max(2)
    head = _computed(split_head(pred, region)[:, :, :5])
    boxes, p_o = decode_boxes(head, region), head[:, :, 4].sigmoid()
    alive = (p_o > conf).nonzero(as_tuple=True)
    scores = split_head(pred, region).movedim(2, -1)[..., 5:]
    label = torch.zeros_like(p_o, dtype=torch.int64)
    label[alive] = descend_scores(scores, alive, region.tree, tree_threshold, tree_rule)
    return boxes.flatten(1, 3), p_o.where(p_o > conf, 0).flatten(1), label.flatten(1)


def decode_candidates(
    pred: Tensor,
    region: Region,
    conf: float,
    capacity: int,
    tree_threshold: float = 0.5,
    tree_rule: TreeRule = "darknet",
) -> Candidates:
    """Decode the predictions whose best class scores above a threshold, and only those.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions, any floating dtype and strides.
    region : Region
        Settings of the head.
    conf : float
        Scores must be above this, strictly; not negative.
    capacity : int
        Rows of the result. If an image has more candidates the last ones are missing, and `count` tells.
    tree_threshold : float
        How sure the descent of a tree must be to go one level deeper.
    tree_rule : {"darknet", "paper"}
        Descend on absolute probabilities, so that depth counts twice (SPEC 8), or on conditional ones.

    Returns
    -------
    Candidates
        One row per prediction: its best class, of equal ones the first. On a tree the class is the node that
        the descent reaches, and the score is the objectness. Nothing waits for the device. A score of NaN is
        above nothing; a NaN or infinite box of a finite score is a candidate.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    split_head(pred, region)
    options = (conf, capacity, tree_threshold, tree_rule)
    return Candidates(*_decode_candidates(pred, region.settings, *options))


@operator("yolov2::decode_candidates")
def _decode_candidates(
    pred: Tensor, settings: str, conf: float, capacity: int, tree_threshold: float, tree_rule: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rule: Any = tree_rule  # an operator takes no Literal
    region = region_of(settings)
    if use_triton(pred) and pred.dtype in DTYPES:
        from fast.kernels.decode import decode_candidates as kernel

        return kernel(pred, region, conf, capacity, tree_threshold, rule)
    box, best, label = _best_classes(pred, region, conf, tree_threshold, rule)
    keep = best > 0
    row = keep.cumsum(1) - 1
    row = torch.where(keep & (row < capacity), row, capacity)  # one row too many takes what is left over
    B = pred.shape[0]

    def compact(values: Tensor, empty: float) -> Tensor:
        rows = values.new_full((B, capacity + 1, *values.shape[2:]), empty)
        index = row.view(*row.shape, *[1] * (values.ndim - 2)).expand_as(values)
        return rows.scatter_(1, index, values)[:, :capacity].contiguous()

    location = torch.arange(best.shape[1], device=pred.device).expand(B, -1)
    return compact(box, 0), compact(best, 0), compact(label, -1), compact(location, -1), keep.sum(1)


@_decode_candidates.register_fake
def _(pred, settings, conf, capacity, tree_threshold, tree_rule):
    B = pred.shape[0]
    dtype = torch.float64 if pred.dtype == torch.float64 else torch.float32
    return (
        pred.new_empty((B, capacity, 4), dtype=dtype),
        pred.new_empty((B, capacity), dtype=dtype),
        pred.new_empty((B, capacity), dtype=torch.int64),
        pred.new_empty((B, capacity), dtype=torch.int64),
        pred.new_empty((B,), dtype=torch.int64),
    )

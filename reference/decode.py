"""Raw head to boxes, objectness and class probabilities (SPEC 1).

Below, a head is seen "by slot": (B, A, H, W, 5+C), one row t_x, t_y, t_w, t_h, t_o, scores for each of the A
anchors of each cell.
"""

from typing import NamedTuple

import numpy as np

from reference.activation import logistic, softmax
from reference.region import Region, TreeRule
from reference.wordtree import absolute_probability, descend, tree_softmax


class Decoded(NamedTuple):
    """Dense predictions. B images, A anchors, C classes, H x W cells."""

    boxes: np.ndarray  # (B, A, H, W, 4) x, y, w, h as fractions of the input
    objectness: np.ndarray  # (B, A, H, W)
    class_probs: np.ndarray  # (B, A, H, W, C)


class Candidates(NamedTuple):
    """Predictions above a threshold, in the order of their locations; rows past `count` are empty.

    Empty rows are zero boxes of score 0, class -1 and location -1.
    """

    boxes: np.ndarray  # (B, capacity, 4) x, y, w, h as fractions of the input
    scores: np.ndarray  # (B, capacity)
    classes: np.ndarray  # (B, capacity) int64
    locations: np.ndarray  # (B, capacity) int64, anchor*H*W + row*W + col
    count: np.ndarray  # type: ignore[assignment]  # (B,) int64, how many there are; hides tuple.count


def by_slot(head: np.ndarray, region: Region) -> np.ndarray:
    """View a head (B, A*(5+C), H, W) as (B, A, H, W, 5+C) (SPEC 1).

    Raises
    ------
    ValueError
        If the channels do not fit the region's anchors and classes.
    """
    if head.ndim != 4 or head.shape[1] != region.channels:
        raise ValueError(
            f"pred: shape {head.shape}, needs (B, {region.channels}, H, W) for "
            f"{len(region.anchors)} anchors and {region.classes} classes"
        )
    B, _, H, W = head.shape
    return np.moveaxis(head.reshape(B, len(region.anchors), 5 + region.classes, H, W), 2, -1)


def activate_region(pred: np.ndarray, region: Region) -> np.ndarray:
    """Output of the region layer in the layout of its input: sizes stay raw, all else is activated.

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    region : Region
        Settings of the head.

    Returns
    -------
    ndarray (B, A*(5+C), H, W)
        p_x, p_y (with ``location="anchor"`` t_x, t_y), t_w, t_h, p_o and class probabilities of every anchor
        (SPEC 1.1); the probabilities are conditional, P(node | parent), on a tree. With ``region.background``
        p_o shares the classes' softmax and means "nothing here" (SPEC 1.2).

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    raw = by_slot(pred, region)
    out = raw.copy()
    if region.location == "cell":
        out[..., :2] = logistic(raw[..., :2])
    if region.background:
        out[..., 4:] = softmax(raw[..., 4:])
    else:
        out[..., 4] = logistic(raw[..., 4])
        if region.tree is not None:
            out[..., 5:] = tree_softmax(raw[..., 5:], region.tree, axis=-1)
        elif region.class_activation == "softmax":
            out[..., 5:] = softmax(raw[..., 5:])
        else:
            out[..., 5:] = logistic(raw[..., 5:])
    return np.moveaxis(out, -1, 2).reshape(pred.shape)


def decode_activated(output: np.ndarray, region: Region) -> Decoded:
    """Read what `activate_region` returned, (B, A*(5+C), H, W), as boxes and probabilities (SPEC 1.3).

    Raises
    ------
    ValueError
        As `by_slot`.
    """
    slots = by_slot(output, region)
    _, _, H, W, _ = slots.shape
    col = np.arange(W, dtype=slots.dtype)
    row = np.arange(H, dtype=slots.dtype)[:, None]
    a_w, a_h = np.array(region.anchors, dtype=slots.dtype).T[..., None, None]  # (A, 1, 1) each, in cells
    p_x, p_y, t_w, t_h = np.moveaxis(slots[..., :4], -1, 0)
    if region.location == "anchor":  # these are t_x, t_y: anchors from the middle of the cell
        p_x, p_y = 0.5 + p_x * a_w, 0.5 + p_y * a_h
    with np.errstate(over="ignore"):  # a size too large for the dtype is infinite, as in C
        # C's exp returns a double, so sizes are rounded to float32 once, at the end
        width, height = (
            (np.exp(t, dtype=np.float64) * a / n).astype(slots.dtype)
            for t, a, n in ((t_w, a_w, W), (t_h, a_h, H))
        )
    boxes = np.stack([(col + p_x) / W, (row + p_y) / H, width, height], axis=-1)
    return Decoded(boxes, slots[..., 4], slots[..., 5:])


def decode(pred: np.ndarray, region: Region) -> Decoded:
    """Turn the raw output of a network into boxes and probabilities (SPEC 1).

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    region : Region
        Settings of the head.

    Returns
    -------
    Decoded
        boxes as fractions of the input, objectness and class probabilities (conditional on a tree). With
        ``region.background`` objectness is the probability of "nothing here".

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    return decode_activated(activate_region(pred, region), region)


def class_scores(
    decoded: Decoded,
    region: Region,
    conf: float,
    tree_threshold: float = 0.5,
    detection_map: tuple[int, ...] | None = None,
    tree_rule: TreeRule = "darknet",
) -> np.ndarray:
    """Score of every class of every box (SPEC 8).

    Parameters
    ----------
    decoded : Decoded
        Dense predictions.
    region : Region
        Settings of the head.
    conf : float
        Scores not above this (strictly) become 0.
    tree_threshold : float
        How sure the descent of a tree must be of every node on its way.
    detection_map : tuple of int, optional
        On a tree: score these nodes, whatever the descent would reach.
    tree_rule : {"darknet", "paper"}
        Descend on absolute probabilities, so that depth counts twice (SPEC 8), or on conditional ones.

    Returns
    -------
    ndarray (B, A*H*W, C)
        Objectness times class probability. On a tree, without a map, each box has one class: the node that
        the descent reaches, with the objectness as its score. C is the length of `detection_map` if given.

    Raises
    ------
    ValueError
        If the descent's `tree_threshold` is negative.
    """
    probs = decoded.class_probs.reshape(len(decoded.boxes), -1, region.classes)
    p_o = decoded.objectness.reshape(*probs.shape[:2], 1)
    if region.tree is None:
        scores = probs if region.background else p_o * probs
    else:
        absolute = absolute_probability(probs, region.tree)
        if detection_map is not None:
            scores = p_o * absolute[..., list(detection_map)]
        else:
            scores, values = np.zeros_like(absolute), absolute if tree_rule == "darknet" else probs
            for image, box in np.ndindex(*probs.shape[:2]):
                node = descend(values[image, box], region.tree, tree_threshold)
                scores[image, box, node] = p_o[image, box, 0]
    return np.where(scores > conf, scores, np.zeros_like(scores))


def decode_candidates(
    pred: np.ndarray,
    region: Region,
    conf: float,
    capacity: int,
    tree_threshold: float = 0.5,
    tree_rule: TreeRule = "darknet",
) -> Candidates:
    """Decode the predictions whose best class scores above a threshold, and only those.

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    region : Region
        Settings of the head.
    conf : float
        Scores must be above this, strictly.
    capacity : int
        Rows of the result. If an image has more candidates the last ones are missing, and `count` tells.
    tree_threshold, tree_rule
        As for `class_scores`.

    Returns
    -------
    Candidates
        One row per prediction: its best class, of equal ones the first. On a tree the class is the node that
        the descent reaches, and the score is the objectness.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    B = len(pred)
    decoded = decode(pred, region)
    scores = class_scores(decoded, region, conf, tree_threshold, None, tree_rule)
    boxes = decoded.boxes.reshape(B, -1, 4)
    found = Candidates(
        np.zeros((B, capacity, 4), pred.dtype),
        np.zeros((B, capacity), pred.dtype),
        np.full((B, capacity), -1, np.int64),
        np.full((B, capacity), -1, np.int64),
        np.count_nonzero(scores.max(axis=2), axis=1),
    )
    for image in range(B):
        location = np.flatnonzero(scores[image].max(axis=1))[:capacity]
        n = len(location)
        found.boxes[image, :n] = boxes[image, location]
        found.scores[image, :n] = scores[image, location].max(axis=1)
        found.classes[image, :n] = scores[image, location].argmax(axis=1)
        found.locations[image, :n] = location
    return found


def encode(box: np.ndarray, slot: tuple[int, int, int], shape: tuple[int, int], region: Region) -> np.ndarray:
    """The first four outputs of the layer with which a slot decodes to `box`: the inverse of SPEC 1.3.

    Parameters
    ----------
    box : ndarray (4,)
        x, y, w, h as fractions of the input; not empty, as an empty size has no logarithm.
    slot : (anchor, row, col)
        Which anchor of which cell.
    shape : (H, W)
        Rows and columns of the grid.
    region : Region
        Settings of the head.

    Returns
    -------
    ndarray (4,)
        Place in the cell, in cells, or offset from its middle, in anchors, as ``region.location`` has it; and
        logarithm of the size in anchors.

    Raises
    ------
    IndexError
        If the region has no such anchor.
    """
    anchor, row, col = slot
    grid = np.array(shape[::-1], dtype=box.dtype)
    place = box[:2] * grid - np.array([col, row], dtype=box.dtype)
    prior = np.array(region.anchors[anchor], dtype=box.dtype)
    if region.location == "anchor":
        place = (place - 0.5) / prior
    size = np.log(box[2:] * grid / prior)
    return np.concatenate([place, size])

"""Raw head to final detections: decode, threshold, suppress (SPEC 8)."""

from typing import NamedTuple

import numpy as np

from reference.decode import Decoded, activate_region, decode, decode_activated
from reference.image import Size
from reference.letterbox import undo_letterbox
from reference.nms import nms
from reference.region import Region
from reference.wordtree import absolute_probability, descend


class Detections(NamedTuple):
    """Best first; rows past `count` are zero boxes of class -1."""

    boxes: np.ndarray  # (B, max_det, 4) x, y, w, h as fractions of the input
    scores: np.ndarray  # (B, max_det)
    classes: np.ndarray  # (B, max_det) int64
    count: np.ndarray  # type: ignore[assignment]  # (B,) int64; hides tuple.count


class DenseDetections(NamedTuple):
    """Darknet's list of all predictions of an image, row = anchor*H*W + row*W + col."""

    boxes: np.ndarray  # (B, A*H*W, 4) x, y, w, h in the picture
    objectness: np.ndarray  # (B, A*H*W) 0 where not above the threshold
    probs: np.ndarray  # (B, A*H*W, C) scores, 0 where not above the threshold


def class_scores(
    decoded: Decoded,
    region: Region,
    conf: float,
    tree_threshold: float = 0.5,
    detection_map: tuple[int, ...] | None = None,
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
            scores = np.zeros_like(absolute)
            for image, box in np.ndindex(*probs.shape[:2]):
                # Darknet descends on absolute values, so depth counts twice (SPEC 8)
                node = descend(absolute[image, box], region.tree, tree_threshold)
                scores[image, box, node] = p_o[image, box, 0]
    return np.where(scores > conf, scores, np.zeros_like(scores))


def detect(
    pred: np.ndarray,
    region: Region,
    conf: float = 0.25,
    iou: float = 0.45,
    max_det: int = 100,
    multi_label: bool = True,
    class_agnostic: bool = False,
    tree_threshold: float = 0.5,
    detection_map: tuple[int, ...] | None = None,
) -> Detections:
    """Detections of every image, best first (SPEC 8).

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    region : Region
        Settings of the head.
    conf : float
        Scores must be above this, strictly.
    iou : float
        A box is dropped if it overlaps a better one by more than this, strictly.
    max_det : int
        Keep so many of an image's detections.
    multi_label : bool
        Every class of a box that is above `conf` is a detection (Darknet); otherwise its best class alone.
    class_agnostic : bool
        Suppress across classes; otherwise (Darknet) classes do not interact.
    tree_threshold, detection_map
        As for `class_scores`.

    Returns
    -------
    Detections
        Equal scores are ordered by location anchor*H*W + row*W + col, then by class, here and within NMS.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    B = len(pred)
    decoded = decode(pred, region)
    scores = class_scores(decoded, region, conf, tree_threshold, detection_map)
    if not multi_label:
        best = scores.argmax(axis=2, keepdims=True)
        scores = np.where(np.arange(scores.shape[2]) == best, scores, np.zeros_like(scores))
    found = Detections(
        np.zeros((B, max_det, 4), pred.dtype),
        np.zeros((B, max_det), pred.dtype),
        np.full((B, max_det), -1, np.int64),
        np.zeros(B, np.int64),
    )
    for image, boxes in enumerate(decoded.boxes.reshape(B, -1, 4)):
        location, label = np.nonzero(scores[image])  # by location, then by class
        score = scores[image, location, label]
        group = np.zeros_like(label) if class_agnostic else label
        keep = np.concatenate(
            [_nms_of(group == g, boxes[location], score, iou) for g in np.unique(group)]
            or [np.zeros(0, np.int64)]
        )
        keep.sort()
        keep = keep[np.argsort(-score[keep], kind="stable")][:max_det]
        n = len(keep)
        found.boxes[image, :n] = boxes[location[keep]]
        found.scores[image, :n] = score[keep]
        found.classes[image, :n] = label[keep]
        found.count[image] = n
    return found


def _nms_of(members: np.ndarray, boxes: np.ndarray, scores: np.ndarray, iou: float) -> np.ndarray:
    """NMS among the rows where `members` is true; kept rows."""
    rows = np.flatnonzero(members)
    return rows[nms(boxes[rows], scores[rows], iou)]


def region_detections(
    pred: np.ndarray,
    region: Region,
    threshold: float,
    picture: Size,
    network: Size,
    relative: bool = True,
    tree_threshold: float = 0.5,
    detection_map: tuple[int, ...] | None = None,
    flip_test: bool = False,
) -> DenseDetections:
    """All predictions as Darknet lists them before NMS, boxes placed in the picture (SPEC 8, 8.1).

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    region : Region
        Settings of the head.
    threshold : float
        Objectness and scores not above this (strictly) become 0.
    picture, network : (width, height)
        Sizes in pixels of the picture and of the network's input, into which it was letterboxed.
    relative : bool
        Boxes as fractions of the picture; otherwise in pixels.
    tree_threshold, detection_map
        As for `class_scores`.
    flip_test : bool
        `pred` holds one picture and its mirror image, see `average_flip`.

    Returns
    -------
    DenseDetections

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region, `flip_test` finds other than two images, the
        descent's `tree_threshold` is negative, or the picture is so elongated that its letterbox is empty.
    """
    output = activate_region(pred, region)
    decoded = decode_activated(average_flip(output, region) if flip_test else output, region)
    B = len(decoded.boxes)
    p_o = np.ones_like(decoded.objectness) if region.background else decoded.objectness
    return DenseDetections(
        undo_letterbox(decoded.boxes.reshape(B, -1, 4), picture, network, relative),
        np.where(p_o > threshold, p_o, np.zeros_like(p_o)).reshape(B, -1),
        class_scores(decoded, region, threshold, tree_threshold, detection_map),
    )


def average_flip(output: np.ndarray, region: Region) -> np.ndarray:
    """Mean of an activated head and that of the mirrored picture, (2, A*(5+C), H, W) to (1, ...), SPEC 8.

    As Darknet computes it, and wrong as it does: the negated channels are the first A of the whole tensor,
    where an old layout kept p_x, and -p_x is not the mirror of a place in a cell, 1 - p_x, either.

    Raises
    ------
    ValueError
        If `output` does not hold two images.
    """
    if len(output) != 2:
        raise ValueError(f"pred: a picture and its mirror image are needed, got {len(output)}")
    A, W = len(region.anchors), output.shape[3]
    mirrored = output[1, :, :, ::-1].copy()
    swapped = np.arange(W) != W - 1 - np.arange(W)  # the middle column of an odd number stays as it is
    mirrored[:A, :, swapped] *= -1
    return (output[:1] + mirrored) / 2

"""Raw head to final detections: decode, threshold, suppress (SPEC 8)."""

from typing import NamedTuple

import numpy as np

from reference.decode import activate_region, class_scores, decode, decode_activated
from reference.image import Size
from reference.letterbox import undo_letterbox
from reference.nms import multi_label_nms
from reference.region import Region, TreeRule


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
    tree_rule: TreeRule = "darknet",
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
    tree_threshold, detection_map, tree_rule
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
    scores = class_scores(decoded, region, conf, tree_threshold, detection_map, tree_rule)
    if not multi_label:
        best = scores.argmax(axis=2, keepdims=True)
        scores = np.where(np.arange(scores.shape[2]) == best, scores, np.zeros_like(scores))
    boxes = decoded.boxes.reshape(B, -1, 4)
    kept = multi_label_nms(boxes, scores, iou, max_det, 0.0, class_agnostic)
    rows = np.take_along_axis(boxes, np.maximum(kept.index, 0)[..., None], axis=1)
    rows = np.where((kept.index >= 0)[..., None], rows, np.zeros_like(rows))
    return Detections(rows, kept.scores, kept.classes, kept.count)


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
    tree_rule: TreeRule = "darknet",
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
    tree_threshold, detection_map, tree_rule
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
        class_scores(decoded, region, threshold, tree_threshold, detection_map, tree_rule),
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

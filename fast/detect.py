"""Raw head to final detections: decode, threshold, suppress (SPEC 8)."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fast._launch import DTYPES, operator, region_of, use_triton
from fast.decode import class_scores, decode, decode_boxes, decode_candidates, node_scores, split_head
from fast.nms import batched_nms, multi_label_nms
from reference.region import Region, TreeRule

#: below this, boxes have so many classes to offer that asking all of them at once is quicker
MANY_LABELS = 0.1


class Detections(NamedTuple):
    """Best first; rows past `count` are zero boxes of class -1."""

    boxes: Tensor  # (B, max_det, 4) x, y, w, h as fractions of the input
    scores: Tensor  # (B, max_det)
    classes: Tensor  # (B, max_det) int64
    count: Tensor  # type: ignore[assignment]  # (B,) int64; hides tuple.count


def detect(
    pred: Tensor,
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
    """Find the objects in a batch of raw predictions.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions, any floating dtype and strides.
    region : Region
        Settings of the head.
    conf : float
        A class of a box counts if objectness * class probability exceeds this (strictly). Not negative.
    iou : float
        NMS threshold: overlap above it (strictly) suppresses.
    max_det : int
        The best that many detections of an image are returned.
    multi_label : bool
        Every class of a box above `conf` is a detection, as in Darknet; otherwise only its best class.
    class_agnostic : bool
        Boxes suppress each other across classes.
    tree_threshold : float
        How sure the descent of a tree must be to go one level deeper.
    detection_map : tuple of int, optional
        Tree nodes to score directly instead of descending (e.g. inet9k.map).
    tree_rule : {"darknet", "paper"}
        Descend on absolute probabilities, so that depth counts twice (SPEC 8), or on conditional ones.

    Returns
    -------
    Detections
        Sorted by score; equal scores by location a*H*W + row*W + col, then class. float64 for float64,
        otherwise float32. A score of NaN is no detection; a box of NaN or infinite size with a finite score
        is one, and overlaps nothing.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.

    Notes
    -----
    Heads of up to 2,048 boxes are one launch; larger ones, evaluation (many classes of a box above `conf`)
    and a `detection_map` are decoded first and suppressed afterwards, with the same result. Nothing waits for
    the GPU, except what the kernels leave to torch: more than 8,192 boxes an image, every class of a box
    suppressed across classes beyond one launch, and float64.
    """
    split_head(pred, region)
    nodes = None if detection_map is None else list(detection_map)
    return Detections(
        *_detect(
            pred.detach(),
            region.settings,
            conf,
            iou,
            max_det,
            multi_label,
            class_agnostic,
            tree_threshold,
            nodes,
            tree_rule,
        )
    )


@operator("yolov2::detect")
def _detect(
    pred: Tensor,
    settings: str,
    conf: float,
    iou: float,
    max_det: int,
    multi_label: bool,
    class_agnostic: bool,
    tree_threshold: float,
    detection_map: list[int] | None,
    tree_rule: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rule: Any = tree_rule
    region, conf = region_of(settings), max(conf, 0.0)
    if region.tree is not None and detection_map is None:
        multi_label = False  # the descent gives every box one class
    many = multi_label and not class_agnostic and conf < MANY_LABELS
    if use_triton(pred) and pred.dtype in DTYPES and not many and detection_map is None:
        from fast.kernels import detect as kernels

        if kernels.fits(pred, region, max_det):
            options = (conf, iou, max_det, multi_label, class_agnostic, tree_threshold, rule)
            return kernels.detect(pred, region, *options)

    if multi_label:
        boxes, scores = _scored(pred, region, conf, detection_map)
        index, label, score, count = multi_label_nms(boxes, scores, iou, max_det, conf, class_agnostic)
    else:
        if region.tree is not None and detection_map is None:
            slots = len(region.anchors) * pred.shape[2] * pred.shape[3]
            boxes, score, label, *_ = decode_candidates(pred, region, conf, slots, tree_threshold, rule)
        else:
            boxes, scores = _scored(pred, region, conf, detection_map)
            score, label = scores.max(2)
        index, count = batched_nms(boxes, score, iou, max_det, None if class_agnostic else label, conf)
        score = score.gather(1, index.clamp(min=0)).where(index >= 0, 0)
        label = label.gather(1, index.clamp(min=0)).where(index >= 0, -1)
    found = boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    return found.where(index[..., None] >= 0, 0), score, label, count


@_detect.register_fake
def _(pred, settings, conf, iou, max_det, *options):
    B, dtype = pred.shape[0], torch.float64 if pred.dtype == torch.float64 else torch.float32
    return (
        pred.new_empty((B, max_det, 4), dtype=dtype),
        pred.new_empty((B, max_det), dtype=dtype),
        pred.new_empty((B, max_det), dtype=torch.int64),
        pred.new_empty((B,), dtype=torch.int64),
    )


def _scored(
    pred: Tensor, region: Region, conf: float, detection_map: list[int] | None
) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4) and scores (B, N, C) of every class or mapped node, 0 where not above `conf`."""
    if detection_map is not None:
        scores = node_scores(pred, region, tuple(detection_map))
        boxes = decode_boxes(split_head(pred, region)[:, :, :4].to(scores.dtype), region).flatten(1, 3)
        return boxes, scores.where(scores > conf, 0)
    if use_triton(pred) and pred.dtype in DTYPES and region.tree is None:
        from fast.kernels.decode import decode as kernel

        boxes, _, scores = kernel(pred, region, conf, scores=True)
        return boxes.flatten(1, 3), scores.flatten(1, 3)
    decoded = decode(pred, region)
    return decoded.boxes.flatten(1, 3), class_scores(decoded, region, conf)

"""Raw head to final detections: decode, threshold, NMS (SPEC 8)."""

from typing import NamedTuple

import torch
from torch import Tensor

from fast.boxes import box_iou
from fast.decode import Decoded, decode
from fast.nms import greedy_keep
from fast.wordtree import absolute_probability, descend
from reference.region import Region


class Detections(NamedTuple):
    """Best first; rows past `count` are zero boxes of class -1."""

    boxes: Tensor  # (B, max_det, 4) x, y, w, h as fractions of the input
    scores: Tensor  # (B, max_det)
    classes: Tensor  # (B, max_det) int64
    count: Tensor  # type: ignore[assignment]  # (B,) int64; hides tuple.count


def candidate_scores(
    decoded: Decoded,
    region: Region,
    conf: float,
    tree_threshold: float = 0.5,
    detection_map: tuple[int, ...] | None = None,
) -> Tensor:
    """Scores (B, A*H*W, C) of every class of every box, 0 where not above `conf` (strictly).

    C is the number of classes, of nodes of a tree, or the length of `detection_map`.
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
            scores = p_o * absolute[..., list(detection_map)]
        else:
            # Darknet descends on absolute values, so depth counts twice (SPEC 8); the score is p_o
            node = descend(absolute, region.tree, tree_threshold)
            scores = torch.zeros_like(absolute).scatter_(2, node[..., None], p_o)
    return scores.where(scores > conf, 0)


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
) -> Detections:
    """Find the objects in a batch of raw predictions.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions.
    region : Region
        Settings of the head.
    conf : float
        A class of a box counts if objectness * class probability exceeds this (strictly).
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

    Returns
    -------
    Detections
        Sorted by score; equal scores by location a*H*W + row*W + col, then class.
    """
    decoded = decode(pred, region)
    scores = candidate_scores(decoded, region, conf, tree_threshold, detection_map)
    boxes = decoded.boxes.flatten(1, 3)
    if not multi_label:
        best, label = scores.max(2, keepdim=True)
        scores = torch.zeros_like(scores).scatter_(2, label, best)
    B = len(boxes)
    found = Detections(
        boxes.new_zeros(B, max_det, 4),
        boxes.new_zeros(B, max_det),
        torch.full((B, max_det), -1, device=pred.device),
        torch.zeros(B, dtype=torch.int64, device=pred.device),
    )
    for image in range(B):
        location, label = scores[image].nonzero(as_tuple=True)
        score = scores[image, location, label]
        keep = _suppress(
            boxes[image], location, torch.zeros_like(label) if class_agnostic else label, score, iou
        )
        keep = keep[:max_det]
        n = len(keep)
        found.boxes[image, :n] = boxes[image, location[keep]]
        found.scores[image, :n] = score[keep]
        found.classes[image, :n] = label[keep]
        found.count[image] = n
    return found


def _suppress(boxes: Tensor, location: Tensor, group: Tensor, score: Tensor, iou: float) -> Tensor:
    """Candidates (indices) that survive NMS within their group, best first.

    All classes of a box share its place, so the overlaps are computed once per image and every group only
    reads its part of them.
    """
    used, row = location.unique(return_inverse=True)
    overlap = box_iou(boxes[used], boxes[used]) > iou
    order = score.argsort(descending=True, stable=True)
    kept = torch.zeros(len(order), dtype=torch.bool, device=boxes.device)  # by rank
    for g in group.unique().tolist():
        ranks = (group[order] == g).nonzero()[:, 0]
        rows = row[order[ranks]]
        kept[ranks] = greedy_keep(overlap[rows][:, rows])
    return order[kept]

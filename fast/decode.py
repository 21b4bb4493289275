"""Raw head to boxes, objectness and class probabilities (SPEC 1)."""

from typing import NamedTuple

import torch
from torch import Tensor

from fast.wordtree import tree_softmax
from reference.region import Region


class Decoded(NamedTuple):
    """Dense predictions. B images, A anchors, C classes, H x W cells."""

    boxes: Tensor  # (B, A, H, W, 4) x, y, w, h as fractions of the input
    objectness: Tensor  # (B, A, H, W)
    class_probs: Tensor  # (B, A, H, W, C)


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
    B, A, _, H, W = head.shape
    col = torch.arange(W, dtype=head.dtype, device=head.device)
    row = torch.arange(H, dtype=head.dtype, device=head.device)[:, None]
    anchors = torch.tensor(region.anchors, dtype=head.dtype, device=head.device)[:, :, None, None]
    boxes = head.new_empty(B, A, H, W, 4)
    boxes[..., 0] = (col + head[:, :, 0].sigmoid()) / W
    boxes[..., 1] = (row + head[:, :, 1].sigmoid()) / H
    boxes[..., 2] = anchors[:, 0] * head[:, :, 2].exp() / W
    boxes[..., 3] = anchors[:, 1] * head[:, :, 3].exp() / H
    return boxes


def class_probabilities(scores: Tensor, region: Region, dim: int = -1) -> Tensor:
    """Class probabilities of raw scores (SPEC 1.1); conditional ones on a tree. Not for ``background``."""
    if region.class_activation == "softmax":
        return scores.softmax(dim)
    if region.class_activation == "logistic":
        return scores.sigmoid()
    assert region.tree is not None
    return tree_softmax(scores, region.tree, dim)


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
        boxes as fractions of the input, objectness and class probabilities (conditional on a tree). With
        ``region.background`` objectness is the probability of "nothing here".

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region.
    """
    head = split_head(pred, region)
    if region.background:
        joint = head[:, :, 4:].softmax(2)
        objectness, probs = joint[:, :, 0], joint[:, :, 1:]
    else:
        objectness = head[:, :, 4].sigmoid()
        probs = class_probabilities(head[:, :, 5:], region, dim=2)
    return Decoded(decode_boxes(head, region), objectness, probs.movedim(2, -1))

"""Which prediction answers for which truth (SPEC 2, 3.2 and 6).

A truth is a row x, y, w, h, class of an image's list, its label the class that the head knows it by.
B images, T rows, A anchors, C classes, H x W cells; boxes are fractions of the input.
"""

from typing import NamedTuple

import numpy as np

from reference.boxes import box_iou_broadcast
from reference.decode import Decoded, decode
from reference.region import Region

CLASS_ONLY = 100_000  # a centre beyond this marks an image that has a class but no boxes (SPEC 6)

Slot = tuple[int, int, int, int]  # image, anchor, row, col


class Assignment(NamedTuple):
    """What every prediction has to do with the truths of its image."""

    # the name hides tuple.index, which nobody needs here
    index: np.ndarray  # type: ignore[assignment]  # (B, A, H, W) int32, row of the responsible truth, -1 for none
    ignore: np.ndarray  # (B, A, H, W) bool, best IoU with any truth exceeds the ignore threshold


class Match(NamedTuple):
    """A truth and the slot that answers for it."""

    slot: Slot
    row: int  # row of the truth in its image's list
    label: int  # class of the head, after `region.class_map`
    class_only: bool  # a truth without a box


def truth_list(truth: np.ndarray) -> np.ndarray:
    """Rows of one image (T, 5) before the first with x == 0. Only x is tested (SPEC 2)."""
    ends = np.flatnonzero(truth[:, 0] == 0)
    return truth[: ends[0]] if len(ends) else truth


def class_only_row(truths: np.ndarray, region: Region) -> int | None:
    """First row of an image's list (T, 5) that makes it classification-only (SPEC 6), or None."""
    if region.tree is None:
        return None
    rows = np.flatnonzero((truths[:, 0] > CLASS_ONLY) & (truths[:, 1] > CLASS_ONLY))
    return int(rows[0]) if len(rows) else None


def best_anchor(wh: np.ndarray, shapes: np.ndarray) -> int:
    """The shape (A, 2) that overlaps `wh` (2,) most, both centred at the origin; the first wins a tie.

    Widths and heights in one unit, whichever (SPEC 3.2 C.2).
    """
    centred = np.pad(np.vstack([wh, shapes]), ((0, 0), (2, 0)))  # (1+A, 4), x = y = 0
    return int(np.argmax(np.fmax(box_iou_broadcast(centred[0], centred[1:]), 0)))


def responsible_slot(truth: np.ndarray, boxes: np.ndarray, region: Region) -> tuple[int, int, int]:
    """Anchor, row and col that answer for a truth (SPEC 3.2 C).

    Parameters
    ----------
    truth : ndarray (5,)
        x, y, w, h, class; fractions of the input, the centre in [0, 1).
    boxes : ndarray (A, H, W, 4)
        Decoded predictions of the image. Their sizes matter only without ``region.bias_match``.
    region : Region
        Settings of the head.

    Returns
    -------
    (anchor, row, col) : int
    """
    _, H, W, _ = boxes.shape
    grid = np.array([W, H], dtype=boxes.dtype)
    col, row = (truth[:2] * grid).astype(int)
    shapes = (
        np.array(region.anchors, dtype=boxes.dtype) / grid if region.bias_match else boxes[:, row, col, 2:]
    )
    return best_anchor(truth[2:4], shapes), int(row), int(col)


def most_believed_slot(
    objectness: np.ndarray, class_probs: np.ndarray, label: int, region: Region
) -> tuple[int, int, int]:
    """Where an image without boxes learns its label: the largest p_o P(label) (SPEC 6).

    Parameters
    ----------
    objectness : ndarray (A, H, W)
        Of one image.
    class_probs : ndarray (A, H, W, C)
        Conditional probabilities of the tree's nodes.
    label : int
        A node of the tree.
    region : Region
        Settings of a head with a tree.

    Returns
    -------
    (anchor, row, col) : int
        The first of equals.
    """
    assert region.tree is not None
    belief = objectness * class_probs[..., region.tree.path(label)].prod(axis=-1)  # (A, H, W)
    anchor, row, col = np.unravel_index(belief.argmax(), belief.shape)
    return int(anchor), int(row), int(col)


def match_truths(decoded: Decoded, truth: np.ndarray, region: Region) -> list[Match]:
    """Every truth with its slot, image by image, in list order.

    Parameters
    ----------
    decoded : Decoded
        Dense predictions.
    truth : ndarray (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list.
    region : Region
        Settings of the head.

    Returns
    -------
    list of Match
        Several truths may land on one slot; Darknet lets the later one overwrite the earlier. An image with
        a classification-only truth has that one match and no other.

    Raises
    ------
    ValueError
        If a truth's class is not one of the head's, its centre lies outside the picture or its box is empty
        (Darknet's loader produces none of these, its layer would write out of bounds or divide by zero).
    """
    matches = []
    for image, rows in enumerate(truth.astype(decoded.boxes.dtype)):
        truths = truth_list(rows)
        only = class_only_row(truths, region)
        if only is not None:
            label = _label(truths[only], None, region, f"image {image}, row {only}")
            slot = most_believed_slot(decoded.objectness[image], decoded.class_probs[image], label, region)
            matches.append(Match((image, *slot), only, label, class_only=True))
            continue
        for row, one in enumerate(truths):
            where = f"image {image}, row {row}"
            label = _label(one, region.class_map, region, where)
            x, y, w, h = one[:4]
            if not (0 < x < 1 and 0 <= y < 1 and w > 0 and h > 0):
                raise ValueError(f"truth: {where}: box ({x}, {y}, {w}, {h}) is empty or centred outside")
            slot = responsible_slot(one, decoded.boxes[image], region)
            matches.append(Match((image, *slot), row, label, class_only=False))
    return matches


def _label(truth: np.ndarray, class_map: tuple[int, ...] | None, region: Region, where: str) -> int:
    """Class of a truth for the head, through the map if there is one."""
    given = int(truth[4])
    known = region.classes if class_map is None else len(class_map)
    if not 0 <= given < known:
        raise ValueError(f"truth: {where}: class {truth[4]:g} is not one of {known} (head: {region.classes})")
    return given if class_map is None else class_map[given]


def assign_matches(matches: list[Match], boxes: np.ndarray, truth: np.ndarray, region: Region) -> Assignment:
    """The assignment that follows from `match_truths`; `boxes` (B, A, H, W, 4) are decoded (SPEC 3.2)."""
    best = np.zeros(boxes.shape[:-1], dtype=boxes.dtype)
    index = np.full(boxes.shape[:-1], -1, dtype=np.int32)
    for match in matches:
        if not match.class_only:
            image = match.slot[0]
            iou = box_iou_broadcast(boxes[image], truth[image, match.row, :4].astype(boxes.dtype))
            best[image] = np.fmax(best[image], iou)  # fmax: NaN never is the best
            index[match.slot] = match.row
    return Assignment(index, best > region.ignore_threshold)


def assign_targets(pred: np.ndarray, truth: np.ndarray, region: Region) -> Assignment:
    """Responsible truth and ignore mask of every prediction (SPEC 3.2).

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    truth : ndarray (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list.
    region : Region
        Settings of the head.

    Returns
    -------
    Assignment
        The last of several truths owns a shared slot. `ignore` is a property of the prediction alone: a
        responsible slot may carry it and is trained all the same. A classification-only image of a tree has
        neither.

    Raises
    ------
    ValueError
        If the channels of `pred` do not fit the region, and as `match_truths`.
    """
    decoded = decode(pred, region)
    return assign_matches(match_truths(decoded, truth, region), decoded.boxes, truth, region)

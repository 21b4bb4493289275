"""Which prediction answers for which label (SPEC 2, 3.2 and 6)."""

from typing import NamedTuple

import numpy as np

from reference.boxes import box_iou_broadcast
from reference.decode import activate_region, decode_activated
from reference.region import Region

CLASS_ONLY = 100_000  # a centre beyond this marks an image that has a class but no boxes (SPEC 6)

Slot = tuple[int, int, int, int]  # image, anchor, row, col


class Assignment(NamedTuple):
    """What every prediction has to do with the labels of its image."""

    # the name hides tuple.index, which nobody needs here
    index: np.ndarray  # type: ignore[assignment]  # (B, A, H, W) int32, row of the responsible label, -1 for none
    ignore: np.ndarray  # (B, A, H, W) bool, best IoU with any label exceeds the ignore threshold


class Match(NamedTuple):
    """A label and the slot that answers for it."""

    slot: Slot
    row: int  # row of the label in its image's list
    category: int  # class of the head, after `region.class_map`
    class_only: bool  # a label without a box


def label_list(truth: np.ndarray) -> np.ndarray:
    """The labels (L, 5) of one image (T, 5): rows before the first with x == 0. Only x is tested (SPEC 2)."""
    ends = np.flatnonzero(truth[:, 0] == 0)
    return truth[: ends[0]] if len(ends) else truth


def class_only_row(labels: np.ndarray, region: Region) -> int | None:
    """First row that turns the image into a classification-only one (SPEC 6), None if there is none."""
    if region.tree is None:
        return None
    rows = np.flatnonzero((labels[:, 0] > CLASS_ONLY) & (labels[:, 1] > CLASS_ONLY))
    return int(rows[0]) if len(rows) else None


def best_anchor(wh: np.ndarray, shapes: np.ndarray) -> int:
    """The shape (A, 2) that overlaps `wh` (2,) most, both centred at the origin; the first wins a tie."""
    centred = np.pad(np.vstack([wh, shapes]), ((0, 0), (2, 0)))  # (1+A, 4), x = y = 0
    return int(np.argmax(np.fmax(box_iou_broadcast(centred[0], centred[1:]), 0)))


def responsible_slot(label: np.ndarray, boxes: np.ndarray, region: Region) -> tuple[int, int, int]:
    """Anchor, row and col that answer for a label (SPEC 3.2 C).

    Parameters
    ----------
    label : ndarray (5,)
        x, y, w, h, class; fractions of the input.
    boxes : ndarray (A, H, W, 4)
        Decoded predictions of the image. Their sizes matter only without ``region.bias_match``.
    region : Region
        Settings of the head.
    """
    _, H, W, _ = boxes.shape
    grid = np.array([W, H], dtype=boxes.dtype)
    col, row = (label[:2] * grid).astype(int)
    shapes = (
        np.array(region.anchors, dtype=boxes.dtype) / grid if region.bias_match else boxes[:, row, col, 2:]
    )
    return best_anchor(label[2:4], shapes), int(row), int(col)


def most_believed_slot(output: np.ndarray, category: int, region: Region) -> tuple[int, int, int]:
    """Anchor, row and col with the largest p_o P(category): where an image without boxes learns (SPEC 6)."""
    assert region.tree is not None
    path = [5 + node for node in region.tree.path(category)]
    slots = output.reshape(len(region.anchors), 5 + region.classes, *output.shape[1:])
    belief = slots[:, 4] * slots[:, path].prod(axis=1)  # (A, H, W)
    anchor, row, col = np.unravel_index(belief.argmax(), belief.shape)
    return int(anchor), int(row), int(col)


def match_truths(pred: np.ndarray, truth: np.ndarray, region: Region) -> list[Match]:
    """Every label with its slot, image by image, in list order.

    Several labels may land on one slot; Darknet lets the later one overwrite the earlier. An image with a
    classification-only label has that one match and no other.

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    truth : ndarray (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list.
    region : Region
        Settings of the head.

    Raises
    ------
    ValueError
        If a label's class is not one of the head's, its centre lies outside the picture or its box is empty
        (Darknet's loader produces none of these, its layer would write out of bounds or divide by zero).
    """
    output = activate_region(pred, region)
    boxes = decode_activated(output, region).boxes
    matches = []
    for image, rows in enumerate(truth.astype(pred.dtype)):
        labels = label_list(rows)
        only = class_only_row(labels, region)
        if only is not None:
            category = _category(labels[only], None, region, f"image {image}, row {only}")
            slot = most_believed_slot(output[image], category, region)
            matches.append(Match((image, *slot), only, category, class_only=True))
            continue
        for row, label in enumerate(labels):
            where = f"image {image}, row {row}"
            category = _category(label, region.class_map, region, where)
            x, y, w, h = label[:4]
            if not (0 < x < 1 and 0 <= y < 1 and w > 0 and h > 0):
                raise ValueError(f"truth: {where}: box ({x}, {y}, {w}, {h}) is empty or centred outside")
            slot = responsible_slot(label, boxes[image], region)
            matches.append(Match((image, *slot), row, category, class_only=False))
    return matches


def _category(label: np.ndarray, class_map: tuple[int, ...] | None, region: Region, where: str) -> int:
    """Class of a label for the head, through the map if there is one."""
    category = int(label[4])
    known = region.classes if class_map is None else len(class_map)
    if 0 <= category < known:
        category = category if class_map is None else class_map[category]
        if 0 <= category < region.classes:
            return category
    raise ValueError(f"truth: {where}: class {label[4]:g} is not one of {known} (head: {region.classes})")


def assign_targets(pred: np.ndarray, truth: np.ndarray, region: Region) -> Assignment:
    """Responsible label and ignore mask of every prediction.

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
        The last of several labels owns a shared slot. `ignore` is a property of the prediction alone: a
        responsible slot may carry it and is trained all the same. A classification-only image of a tree has
        neither.

    Raises
    ------
    ValueError
        As `match_truths`.
    """
    boxes = decode_activated(activate_region(pred, region), region).boxes
    best = np.zeros(boxes.shape[:-1], dtype=boxes.dtype)
    index = np.full(boxes.shape[:-1], -1, dtype=np.int32)
    for match in match_truths(pred, truth, region):
        if not match.class_only:
            image = match.slot[0]
            iou = box_iou_broadcast(boxes[image], truth[image, match.row, :4].astype(boxes.dtype))
            best[image] = np.fmax(best[image], iou)  # fmax: NaN never is the best
            index[match.slot] = match.row
    return Assignment(index, best > region.ignore_threshold)

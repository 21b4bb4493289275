"""YOLOv1's detection layer: a flat vector of classes, confidences and boxes for side x side cells (SPEC 11).

The layer's whole loss is one weighted squared error, 1/2 sum w (target - output)^2. So the work is to write
down `target` and w, and loss, gradient and Darknet's delta follow in a line each.

Shapes: B pictures, S = side^2 cells in row-major order, n boxes per cell, C classes. Wherever a vector
(B, outputs) is taken, one of another length is a ValueError, see `split_grid`. Results have its dtype.
"""

from typing import NamedTuple

import numpy as np

from reference.activation import softmax
from reference.boxes import box_iou_broadcast, box_rmse
from reference.layers import Grid

SMALLEST = 0.005  # truths narrower or lower than this fraction of the picture are dropped
FARTHEST = 20.0  # a box farther from the truth than this is never responsible


class GridParts(NamedTuple):
    """The three parts of the flat vector; views of it, so writing to a part writes to the vector."""

    classes: np.ndarray
    """(B, S, C)"""
    confidence: np.ndarray
    """(B, S, n)"""
    boxes: np.ndarray
    """(B, S, n, 4): centre inside the cell in cells, then size as a fraction of the picture or its root"""


class GridStatistics(NamedTuple):
    """What Darknet prints while training; nan where there is no truth."""

    iou: float
    """of responsible boxes with their truths"""
    true_class: float
    """probability of the true class in cells with a truth"""
    all_classes: float
    """of any class in those cells"""
    responsible_confidence: float
    """confidence of responsible boxes"""
    any_confidence: float
    """of all boxes"""
    truths: int
    """how many"""


class GridLoss(NamedTuple):
    """Terms of the loss, each summed over the batch."""

    total: np.floating
    xy: np.floating
    wh: np.floating
    objectness: np.floating
    """confidence of responsible boxes"""
    noobject: np.floating
    """confidence of all others"""
    classification: np.floating


def split_grid(flat: np.ndarray, grid: Grid) -> GridParts:
    """Views of the classes, confidences and boxes inside the (B, outputs) vectors.

    Raises
    ------
    ValueError
        If `flat` is not (B, grid.outputs).
    """
    if flat.ndim != 2 or flat.shape[1] != grid.outputs:
        raise ValueError(f"a (B, {grid.outputs}) array is needed, got {flat.shape}")
    B, S, n, C = len(flat), grid.side**2, grid.boxes, grid.classes
    return GridParts(
        flat[:, : S * C].reshape(B, S, C),
        flat[:, S * C : S * (C + n)].reshape(B, S, n),
        flat[:, S * (C + n) :].reshape(B, S, n, 4),
    )


def activate_grid(raw: np.ndarray, grid: Grid) -> np.ndarray:
    """What the layer puts out: its input, with a softmax over each cell's classes if ``grid.softmax``.

    Parameters
    ----------
    raw : (B, outputs) float
        The layer's input.
    grid : Grid
        Settings.

    Returns
    -------
    (B, outputs) float
    """
    output = raw.copy()
    if grid.softmax:
        classes = split_grid(output, grid).classes
        classes[:] = softmax(classes)
    return output


def decode_grid(output: np.ndarray, grid: Grid) -> np.ndarray:
    """Boxes of an output vector (SPEC 11).

    Parameters
    ----------
    output : (B, outputs) float
        The layer's output.
    grid : Grid
        Settings.

    Returns
    -------
    (B, S, n, 4) float
        cx, cy, w, h as fractions of the network's input.
    """
    boxes = split_grid(output, grid).boxes.copy()
    row, col = np.divmod(np.arange(grid.side**2), grid.side)
    boxes[..., :2] += np.stack([col, row], axis=-1)[:, None]
    boxes[..., :2] /= grid.side
    if grid.sqrt:
        boxes[..., 2:] **= 2
    return boxes


def detect_grid(
    output: np.ndarray, grid: Grid, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates for NMS, cell by cell and box by box within the cell (SPEC 11).

    Parameters
    ----------
    output : (B, outputs) float
        The layer's output.
    grid : Grid
        Settings.
    threshold : float
        Scores up to this become zero.

    Returns
    -------
    boxes : (B, S*n, 4) float
        cx, cy, w, h as fractions of the network's input. YOLOv1 stretches its pictures, so these are
        fractions of the picture too.
    confidence : (B, S*n) float
        Not thresholded.
    scores : (B, S*n, C) float
        Confidence times class probability, or zero.
    """
    classes, confidence, _ = split_grid(output, grid)
    scores = confidence[..., None] * classes[:, :, None]
    scores = np.where(scores > threshold, scores, 0)
    B, N = len(output), grid.side**2 * grid.boxes
    boxes = decode_grid(output, grid).reshape(B, N, 4)
    return boxes, confidence.reshape(B, N), scores.reshape(B, N, grid.classes)


def grid_truth(boxes: np.ndarray, classes: np.ndarray, grid: Grid) -> np.ndarray:
    """Boxes of one picture -> one truth per cell; the first box in a cell wins (SPEC 11).

    Parameters
    ----------
    boxes : (T, 4) float
        cx, cy, w, h as fractions of the picture, centres in [0, 1).
    classes : (T,) int
        Class of each box.
    grid : Grid
        Settings.

    Returns
    -------
    (S, 1 + C + 4) float
        1 if the cell has a truth; one-hot class; centre inside the cell in cells; size as a fraction of
        the picture. All zero otherwise.

    Raises
    ------
    ValueError
        If a box that is large enough is centred outside, or its class is not one of the grid's. (What lies
        outside after augmentation has been clipped to no size and is dropped before.)
    """
    truth = np.zeros((grid.side**2, 1 + grid.classes + 4), boxes.dtype)
    for t, ((x, y, w, h), c) in enumerate(zip(boxes, classes, strict=True)):
        if w < SMALLEST or h < SMALLEST:
            continue
        if not (0 <= x < 1 and 0 <= y < 1):
            raise ValueError(f"truth: row {t}: box ({x}, {y}, {w}, {h}) is centred outside")
        if not 0 <= c < grid.classes:
            raise ValueError(f"truth: row {t}: class {c} is not one of {grid.classes}")
        col, row = int(x * grid.side), int(y * grid.side)
        cell = truth[row * grid.side + col]
        if cell[0]:
            continue
        cell[0] = cell[1 + int(c)] = 1
        cell[-4:] = x * grid.side - col, y * grid.side - row, w, h
    return truth


def assign_grid(output: np.ndarray, truth: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Which box of each cell is responsible for the cell's truth (SPEC 11).

    The one with the largest IoU; while no IoU is above zero, the one whose (x, y, w, h) is nearest. The
    first wins a tie. ``grid.forced`` looks at the truth alone: box 1 for small ones, box 0 for large ones.

    Parameters
    ----------
    output : (B, outputs) float
        The layer's output.
    truth : (B, S, 1 + C + 4) float
        See `grid_truth`.
    grid : Grid
        Settings.

    Returns
    -------
    responsible : (B, S) int
        Box 0..n-1, or -1: the cell has no truth, or every box is absurdly far from it.
    iou : (B, S) float
        IoU of the responsible box with the truth, 0 where there is none.
    """
    B, S = truth.shape[:2]
    # Centres stay relative to the cell: both boxes are in the same one, so their overlap does not change.
    unit = np.array([grid.side, grid.side, 1, 1], output.dtype)
    truths = truth[..., -4:] / unit
    boxes = split_grid(output, grid).boxes / unit
    if grid.sqrt:
        boxes[..., 2:] **= 2
    responsible, ious = np.full((B, S), -1), np.zeros((B, S), output.dtype)
    for b, cell in np.argwhere(truth[..., 0] > 0):
        candidates, target = boxes[b, cell], truths[b, cell]
        iou, distance = box_iou_broadcast(candidates, target), box_rmse(candidates, target)
        if grid.forced:
            k = int(target[2] * target[3] < 0.1)
        elif (iou > 0).any():
            k = int(np.nanargmax(iou))
        elif distance.min() < FARTHEST:
            k = int(np.argmin(distance))
        else:
            continue
        responsible[b, cell], ious[b, cell] = k, iou[k]
    return responsible, ious


def grid_targets(output: np.ndarray, truth: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """What every output should be, and how much it matters; Darknet's delta is weight * (target - output).

    Parameters
    ----------
    output : (B, outputs) float
        The layer's output.
    truth : (B, S, 1 + C + 4) float
        See `grid_truth`.
    grid : Grid
        Settings.

    Returns
    -------
    target : (B, outputs) float
    weight : (B, outputs) float
        Zero where the output is left alone.
    """
    target, weight = np.zeros_like(output), np.zeros_like(output)
    t, w = split_grid(target, grid), split_grid(weight, grid)
    responsible, iou = assign_grid(output, truth, grid)

    w.confidence[:] = grid.noobject_scale  # every box should say "nothing", unless it is responsible
    has_truth = truth[..., 0] > 0
    t.classes[has_truth] = truth[has_truth, 1:-4]
    w.classes[has_truth] = grid.class_scale

    b, cell = np.nonzero(responsible >= 0)
    k = responsible[b, cell]
    t.confidence[b, cell, k] = iou[b, cell] if grid.rescore else 1
    w.confidence[b, cell, k] = grid.object_scale
    t.boxes[b, cell, k] = truth[b, cell, -4:]
    if grid.sqrt:
        t.boxes[b, cell, k, 2:] = np.sqrt(truth[b, cell, -2:])
    w.boxes[b, cell, k] = grid.coord_scale
    return target, weight


def grid_loss(output: np.ndarray, truth: np.ndarray, grid: Grid) -> GridLoss:
    """Half the weighted squared error, summed over the batch (SPEC 11; paper 1, eq. 3).

    Parameters
    ----------
    output : (B, outputs) float
        The layer's output.
    truth : (B, S, 1 + C + 4) float
        See `grid_truth`.
    grid : Grid
        Settings.

    Returns
    -------
    GridLoss
    """
    target, weight = grid_targets(output, truth, grid)
    classes, confidence, boxes = split_grid(weight * (target - output) ** 2 / 2, grid)
    responsible = assign_grid(output, truth, grid)[0][..., None] == np.arange(grid.boxes)
    terms = (
        boxes[..., :2].sum(),
        boxes[..., 2:].sum(),
        confidence[responsible].sum(),
        confidence[~responsible].sum(),
        classes.sum(),
    )
    return GridLoss(sum(terms), *terms)


def grid_loss_grad(output: np.ndarray, truth: np.ndarray, grid: Grid) -> np.ndarray:
    """Gradient of `grid_loss`'s total by `output`, the assignment and its IoU held constant.

    Darknet hands its negative, ``delta``, to the previous layer unchanged even when ``grid.softmax``.

    Parameters
    ----------
    output, truth, grid
        See `grid_loss`.

    Returns
    -------
    (B, outputs) float
    """
    target, weight = grid_targets(output, truth, grid)
    return weight * (output - target)


def grid_statistics(output: np.ndarray, truth: np.ndarray, grid: Grid) -> GridStatistics:
    """The averages that Darknet prints for a batch.

    Parameters
    ----------
    output, truth, grid
        See `grid_loss`.

    Returns
    -------
    GridStatistics
    """
    classes, confidence, _ = split_grid(output, grid)
    responsible, iou = assign_grid(output, truth, grid)
    has_truth = truth[..., 0] > 0
    count = int(has_truth.sum())
    b, cell = np.nonzero(responsible >= 0)

    def per_truth(values):
        return float(values.sum() / count) if count else float("nan")

    return GridStatistics(
        per_truth(iou),
        per_truth(classes[has_truth] * truth[has_truth, 1:-4]),
        per_truth(classes[has_truth]) / grid.classes,
        per_truth(confidence[b, cell, responsible[b, cell]]),
        float(confidence.mean()),
        count,
    )

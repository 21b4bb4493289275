"""YOLOv1's detection layer (SPEC 11): decode, detection, and the loss without a loop over pictures or cells.

The loss is a weighted squared error. Which outputs a term is about is found by comparisons and `where` alone,
so nothing waits for a GPU, and what autograd makes of it is the closed form, weight * (output - target).

Shapes: B pictures, S = side^2 cells in row-major order, n boxes per cell, C classes. Wherever a vector
(B, outputs) is taken, one of another length is a ValueError, see `split_grid`. Results have its dtype and
device, and a gradient.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast.boxes import box_iou_broadcast
from reference.layers import Grid

SMALLEST = 0.005  # truths narrower or lower than this fraction of the picture are dropped
FARTHEST = 20.0  # a box farther from the truth than this is never responsible


class GridParts(NamedTuple):
    """The three parts of the flat vector; views of it."""

    classes: Tensor  # (B, S, C)
    confidence: Tensor  # (B, S, n)
    boxes: (
        Tensor  # (B, S, n, 4): centre inside the cell in cells, size as a fraction of the picture or its root
    )


class GridLoss(NamedTuple):
    """Terms of the loss, each summed over the batch; 0-dimensional tensors."""

    total: Tensor
    xy: Tensor
    wh: Tensor
    objectness: Tensor  # confidence of responsible boxes
    noobject: Tensor  # confidence of all others
    classification: Tensor


def split_grid(flat: Tensor, grid: Grid) -> GridParts:
    """Views of the classes, confidences and boxes inside the vectors.

    Parameters
    ----------
    flat : Tensor (B, outputs)
        The layer's input or output, of any strides.
    grid : Grid
        Settings.

    Returns
    -------
    GridParts

    Raises
    ------
    ValueError
        If `flat` is not (B, grid.outputs).
    """
    if flat.ndim != 2 or flat.shape[1] != grid.outputs:
        raise ValueError(f"a (B, {grid.outputs}) tensor is needed, got {tuple(flat.shape)}")
    S, n, C = grid.side**2, grid.boxes, grid.classes
    classes, confidence, boxes = flat.split([S * C, S * n, S * n * 4], dim=1)
    return GridParts(
        classes.unflatten(1, (S, C)),
        confidence.unflatten(1, (S, n)),
        boxes.unflatten(1, (S, n, 4)),
    )


def activate_grid(raw: Tensor, grid: Grid) -> Tensor:
    """What the layer puts out: its input, with a softmax over each cell's classes if ``grid.softmax``.

    Parameters
    ----------
    raw : Tensor (B, outputs)
        The layer's input.
    grid : Grid
        Settings.

    Returns
    -------
    Tensor (B, outputs)
        `raw` itself where there is no softmax.
    """
    classes, confidence, boxes = split_grid(raw, grid)
    if not grid.softmax:
        return raw
    return torch.cat([part.flatten(1) for part in (classes.softmax(-1), confidence, boxes)], 1)


def decode_grid(output: Tensor, grid: Grid) -> Tensor:
    """Boxes of an output vector.

    Parameters
    ----------
    output : Tensor (B, outputs)
        The layer's output.
    grid : Grid
        Settings.

    Returns
    -------
    Tensor (B, S, n, 4)
        cx, cy, w, h as fractions of the network's input.
    """
    boxes = split_grid(output, grid).boxes
    cell = torch.arange(grid.side**2, device=output.device)
    corner = torch.stack([cell % grid.side, cell // grid.side], -1).to(output.dtype)
    sizes = boxes[..., 2:]
    return torch.cat([(boxes[..., :2] + corner[:, None]) / grid.side, sizes**2 if grid.sqrt else sizes], -1)


def detect_grid(output: Tensor, grid: Grid, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates for NMS, cell by cell and box by box within the cell.

    Parameters
    ----------
    output : Tensor (B, outputs)
        The layer's output.
    grid : Grid
        Settings.
    threshold : float
        Scores up to this become zero.

    Returns
    -------
    boxes : Tensor (B, S*n, 4)
        cx, cy, w, h as fractions of the network's input.
    confidence : Tensor (B, S*n)
        Not thresholded.
    scores : Tensor (B, S*n, C)
        Confidence times class probability, or zero.
    """
    classes, confidence, _ = split_grid(output, grid)
    scores = confidence[..., None] * classes[:, :, None]
    scores = scores.where(scores > threshold, 0)
    return decode_grid(output, grid).flatten(1, 2), confidence.flatten(1), scores.flatten(1, 2)


def grid_truth(boxes: Tensor, classes: Tensor, grid: Grid) -> Tensor:
    """Boxes of every picture -> one truth per cell; the first box in a cell wins.

    Parameters
    ----------
    boxes : Tensor (B, T, 4) float
        cx, cy, w, h as fractions of the picture, centres in [0, 1). Rows that fill a list up have no size.
    classes : Tensor (B, T) int
        Class of each box.
    grid : Grid
        Settings.

    Returns
    -------
    Tensor (B, S, 1 + C + 4)
        1 if the cell has a truth; one-hot class; centre inside the cell in cells; size as a fraction of the
        picture. All zero otherwise.

    Raises
    ------
    ValueError
        On the CPU, if a box that is large enough is centred outside, or its class is not one of the grid's.
        A GPU would have to be waited for: there such a row counts for nothing.
    """
    large = ~(boxes[..., 2:] < SMALLEST).any(-1)
    inside = ((boxes[..., :2] >= 0) & (boxes[..., :2] < 1)).all(-1)
    known = (classes >= 0) & (classes < grid.classes)
    wrong = large & ~(inside & known)
    if boxes.device.type == "cpu" and wrong.any():
        image, t = divmod(int(wrong.flatten().int().argmax()), boxes.shape[1])
        raise ValueError(
            f"truth: image {image}, row {t}: box {boxes[image, t].tolist()} is centred outside, or its class "
            f"{int(classes[image, t])} is not one of {grid.classes}"
        )
    B, T, _ = boxes.shape
    # an empty row behind the list is the first of every cell that has no other
    valid = F.pad(large & ~wrong, (0, 1))
    boxes, classes = F.pad(boxes, (0, 0, 0, 1)), F.pad(classes, (0, 1))
    place = (boxes[..., :2] * grid.side).where(valid[..., None], 0)
    col, row = place.long().unbind(-1)
    rows = torch.arange(T + 1, device=boxes.device).where(valid, T)
    first = torch.full((B, grid.side**2), T, device=boxes.device)
    first.scatter_reduce_(1, row * grid.side + col, rows, "amin")

    found = (first < T)[..., None]
    hot = found & (classes.gather(1, first)[..., None] == torch.arange(grid.classes, device=boxes.device))
    inner = torch.cat([place - place.trunc(), boxes[..., 2:]], -1)
    inner = inner.gather(1, first[..., None].expand(-1, -1, 4))
    return torch.cat([found.to(inner.dtype), hot.to(inner.dtype), inner], -1)


@torch.no_grad()
def assign_grid(output: Tensor, truth: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Which box of each cell is responsible for the cell's truth.

    The one with the largest IoU; while no IoU is above zero, the one whose (x, y, w, h) is nearest. The
    first wins a tie. ``grid.forced`` looks at the truth alone: box 1 for small ones, box 0 for large ones.

    Parameters
    ----------
    output : Tensor (B, outputs)
        The layer's output.
    truth : Tensor (B, S, 1 + C + 4)
        See `grid_truth`.
    grid : Grid
        Settings.

    Returns
    -------
    responsible : Tensor (B, S) int64
        Box 0..n-1, or -1: the cell has no truth, or every box is absurdly far from it.
    iou : Tensor (B, S)
        IoU of the responsible box with the truth, 0 where there is none. No gradient.
    """
    # Centres stay relative to the cell: both boxes are in the same one, so their overlap does not change.
    unit = output.new_ones(4)
    unit[:2] = grid.side
    target, boxes = truth[..., None, -4:] / unit, split_grid(output, grid).boxes / unit  # (B, S, 1 or n, 4)
    if grid.sqrt:
        boxes = torch.cat([boxes[..., :2], boxes[..., 2:] ** 2], -1)
    iou = box_iou_broadcast(boxes, target)  # (B, S, n)
    assigned = truth[..., 0] > 0
    if grid.forced:
        box = (target[..., 0, 2] * target[..., 0, 3] < 0.1).long()
    else:
        distance = (boxes - target).square().sum(-1).sqrt()
        overlaps = (iou > 0).any(-1)
        largest = iou.where(~iou.isnan(), -torch.inf).argmax(-1)
        box = torch.where(overlaps, largest, distance.argmin(-1))
        assigned = assigned & (overlaps | (distance.amin(-1) < FARTHEST))
    overlap = iou.gather(-1, box[..., None])[..., 0]
    return box.where(assigned, -1), overlap.where(assigned, 0)


def grid_loss(output: Tensor, truth: Tensor, grid: Grid) -> GridLoss:
    """Half the weighted squared error, summed over the batch (paper 1, eq. 3).

    Parameters
    ----------
    output : Tensor (B, outputs)
        The layer's output. float16 and bfloat16 are computed in float32.
    truth : Tensor (B, S, 1 + C + 4)
        See `grid_truth`.
    grid : Grid
        Settings.

    Returns
    -------
    GridLoss
        SUMS over the batch, each with its gradient; the assignment and its IoU are constants. Darknet hands
        the gradient by the output on to the layer's input even when ``grid.softmax``, see `trained_grid`.
    """
    if output.dtype in (torch.float16, torch.bfloat16):
        output = output.float()
    truth = truth.to(output.dtype)
    responsible, iou = assign_grid(output, truth, grid)
    mine = responsible[..., None] == torch.arange(grid.boxes, device=output.device)  # (B, S, n)
    classes, confidence, boxes = split_grid(output, grid)

    wanted = truth[..., None, -4:]
    if grid.sqrt:
        wanted = torch.cat([wanted[..., :2], wanted[..., 2:].sqrt()], -1)
    off = (boxes - wanted).where(mine[..., None], 0).square()
    xy, wh = (grid.coord_scale / 2 * part.sum() for part in (off[..., :2], off[..., 2:]))

    aim = iou[..., None] if grid.rescore else 1.0
    objectness = grid.object_scale / 2 * (confidence - aim).where(mine, 0).square().sum()
    noobject = grid.noobject_scale / 2 * confidence.where(~mine, 0).square().sum()
    off = (classes - truth[..., 1:-4]).where(truth[..., :1] > 0, 0)
    classification = grid.class_scale / 2 * off.square().sum()
    return GridLoss(
        xy + wh + objectness + noobject + classification, xy, wh, objectness, noobject, classification
    )


def trained_grid(raw: Tensor, grid: Grid) -> Tensor:
    """`activate_grid` for training: what comes back to it is handed on unchanged, as Darknet does.

    Parameters
    ----------
    raw : Tensor (B, outputs)
        The layer's input.
    grid : Grid
        Settings.

    Returns
    -------
    Tensor (B, outputs)
        Its gradient by `raw` is 1, a softmax or not.
    """
    output = activate_grid(raw, grid)
    return output.detach() + (raw - raw.detach()) if grid.softmax else output

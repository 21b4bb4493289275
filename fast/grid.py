"""YOLOv1's detection layer, inference (SPEC 11).

Shapes: B pictures, S = side^2 cells in row-major order, n boxes per cell, C classes. Wherever a vector
(B, outputs) is taken, one of another length is a ValueError, see `split_grid`. Results have its dtype and
device, and a gradient.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reference.layers import Grid


class GridParts(NamedTuple):
    """The three parts of the flat vector; views of it."""

    classes: Tensor  # (B, S, C)
    confidence: Tensor  # (B, S, n)
    boxes: (
        Tensor  # (B, S, n, 4): centre inside the cell in cells, size as a fraction of the picture or its root
    )


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

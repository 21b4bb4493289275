"""YOLOv1's detection layer, inference (SPEC 11)."""

from typing import NamedTuple

import torch
from torch import Tensor

from reference.layers import Grid


class GridParts(NamedTuple):
    """Views of a flat output: S = side^2 cells in row-major order, n boxes a cell."""

    classes: Tensor  # (B, S, C)
    confidence: Tensor  # (B, S, n)
    boxes: Tensor  # (B, S, n, 4) x, y inside the cell, w, h (or their roots) of the picture


def split_grid(flat: Tensor, grid: Grid) -> GridParts:
    """The parts of an output (B, outputs), as views.

    Raises
    ------
    ValueError
        If it has not the grid's number of outputs.
    """
    if flat.ndim != 2 or flat.shape[1] != grid.outputs:
        raise ValueError(f"output: shape {tuple(flat.shape)}, needs (B, {grid.outputs})")
    cells, n, C = grid.side**2, grid.boxes, grid.classes
    classes, confidence, boxes = flat.split([cells * C, cells * n, cells * n * 4], dim=1)
    return GridParts(
        classes.unflatten(1, (cells, C)),
        confidence.unflatten(1, (cells, n)),
        boxes.unflatten(1, (cells, n, 4)),
    )


def activate_grid(raw: Tensor, grid: Grid) -> Tensor:
    """What the layer puts out: its input (B, outputs), with a softmax over each cell's classes if it says so.

    Raises
    ------
    ValueError
        If `raw` has not the grid's number of outputs.
    """
    classes, confidence, boxes = split_grid(raw, grid)
    if not grid.softmax:
        return raw
    return torch.cat([part.flatten(1) for part in (classes.softmax(-1), confidence, boxes)], 1)


def decode_grid(output: Tensor, grid: Grid) -> Tensor:
    """Boxes (B, S, n, 4) cxcywh of an activated output (B, outputs), as fractions of the network's input."""
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
        cxcywh, fractions of the network's input.
    confidence : Tensor (B, S*n)
        Not thresholded.
    scores : Tensor (B, S*n, C)
        Confidence times class probability, or zero.

    Raises
    ------
    ValueError
        If `output` has not the grid's number of outputs.
    """
    classes, confidence, _ = split_grid(output, grid)
    scores = confidence[..., None] * classes[:, :, None]
    scores = scores.where(scores > threshold, 0)
    return decode_grid(output, grid).flatten(1, 2), confidence.flatten(1), scores.flatten(1, 2)

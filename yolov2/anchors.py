"""Find the anchors of a data set: ``python -m yolov2.anchors --data FOLDER --k 5``.

A box is measured in cells of the output grid, after its picture was brought to the size of the network's
input: ``letterbox`` scales width and height by the same factor, ``stretch`` each by its own.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np

from reference.kmeans import iou_kmeans, recall_at, sse_kmeans
from yolov2 import plots
from yolov2.cli import option, parse, run
from yolov2.data.dataset import Dataset
from yolov2.data.sources import Format, read_split
from yolov2.errors import UserError

METHODS = {"iou": iou_kmeans, "sse": sse_kmeans}
#: Faster R-CNN's nine, picked by hand: roots of their areas in pixels of its input, width to height, and that
#: input's shorter side
SCALES, RATIOS, SHORTER = (128, 256, 512), (0.5, 1.0, 2.0), 600
NPZ_SPLITS = {"train": (0,), "val": (1,), "test": (2,), "trainval": (0, 1)}


def hand_made() -> np.ndarray:
    """Faster R-CNN's anchors: float64 (9, 2), width and height in pixels of its input."""
    return np.array([(scale * ratio**0.5, scale / ratio**0.5) for scale in SCALES for ratio in RATIOS])


@dataclass(frozen=True)
class AnchorsConfig:
    """Flags of ``python -m yolov2.anchors``."""

    data: Path = option("data set of any format, or an .npz of boxes (see read_boxes)")
    format: Format | None = option("of --data; by default what its files show", default=None)
    split: str = option("pictures to use: train, val, trainval, ...", default="train")
    k: str = option("number of anchors; a range such as 1-9 prints the mean IoU of each", default="5")
    method: Literal["iou", "sse"] = option(
        "distance: 1 - IoU, or squared error of width and height", default="iou"
    )
    resize: Literal["letterbox", "stretch"] = option(
        "how pictures become square: keep the aspect ratio, or not", default="letterbox"
    )
    imgsz: int = option("side of the network's input in pixels", default=416)
    stride: int = option("side of a cell in pixels", default=32)
    seed: int = option("seed of the random starts", default=0)
    restarts: int = option("random starts, the best is kept", default=5)
    plot: Path | None = option("write a picture: the anchors, or mean IoU against k", default=None)

    def __post_init__(self):
        if self.stride < 1 or self.imgsz < 1 or self.imgsz % self.stride:
            raise ValueError(f"imgsz: {self.imgsz} pixels are not a whole number of cells of {self.stride}")
        if self.restarts < 1:
            raise ValueError(f"restarts: {self.restarts} is not a positive number")
        if not self.ks:
            raise ValueError(f"k: {self.k!r} is neither a positive number nor a range such as 1-9")

    @property
    def ks(self) -> range:
        """The numbers of anchors asked for; empty where `k` has no meaning."""
        match = re.fullmatch(r"([1-9][0-9]*)(?:-([0-9]+))?", self.k)
        return range(int(match[1]), int(match[2] or match[1]) + 1) if match else range(0)


def box_cells(
    fractions: np.ndarray, sizes: np.ndarray, grid: float, resize: Literal["letterbox", "stretch"]
) -> np.ndarray:
    """Box sizes in cells of the grid.

    Parameters
    ----------
    fractions : (N, 2) float
        Width and height of every box as a fraction of its picture.
    sizes : (N, 2) float
        Width and height of that picture in pixels.
    grid : float
        Cells along a side of the square input, e.g. 13.
    resize : {"letterbox", "stretch"}
        Letterbox fills the longer side; a side is not rounded to whole pixels as a real letterbox does.

    Returns
    -------
    (N, 2) float64
        In cells.
    """
    if resize == "stretch":
        return fractions * grid
    return fractions * sizes / sizes.max(axis=1, keepdims=True) * grid


def read_boxes(data: Path, split: str, format: Format | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Shapes of all boxes that are not difficult.

    Parameters
    ----------
    data : Path
        A data set of any `yolov2.data.sources.Format`, or an .npz with ``image`` (P, 4): year, split (0
        train, 1 val, 2 test), width, height in pixels; ``box_image`` (N,) the row of `image`; ``box_xyxy``
        (N, 4) in pixels; ``difficult`` (N,).
    split : str
        Name of the split.
    format : {"voc", "coco", "yolo", "darknet"}, optional
        Of a data set; by default what its files show.

    Returns
    -------
    fractions : (N, 2) float64
        Width and height of every box as a fraction of its picture.
    sizes : (N, 2) float64
        Width and height of that picture in pixels.

    Raises
    ------
    UserError
        If the data cannot be read, or have no box.
    """
    if data.suffix == ".npz":
        fractions, sizes = _read_npz(data, split)
    else:
        fractions, sizes = box_shapes(read_split(data, split, format=format))
    if not len(fractions):
        raise UserError(f"{data}: no boxes in split {split}")
    return fractions, sizes


def box_shapes(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Shapes of a data set's boxes that are not difficult, as `read_boxes` returns them; maybe none."""
    items = dataset.items
    keep = [~np.asarray(item.difficult, bool) for item in items]
    boxes = [item.boxes[k, 2:] for item, k in zip(items, keep, strict=True)]
    sizes = np.array([(item.width, item.height) for item in items], float).reshape(-1, 2)
    return np.concatenate([np.zeros((0, 2)), *boxes]), np.repeat(sizes, [k.sum() for k in keep], axis=0)


def _read_npz(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    if split not in NPZ_SPLITS:
        raise UserError(f"{path}: split {split} is not one of {', '.join(NPZ_SPLITS)}")
    try:
        with np.load(path) as archive:
            image, box_image, xyxy, difficult = (
                archive[name] for name in ("image", "box_image", "box_xyxy", "difficult")
            )
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: not an .npz of boxes: {error}") from error
    image = image[box_image]
    keep = np.isin(image[:, 1], NPZ_SPLITS[split]) & (difficult == 0)
    sizes = image[keep, 2:].astype(np.float64)
    corners = xyxy[keep].astype(np.float64)
    return (corners[:, 2:] - corners[:, :2]) / sizes, sizes


def main(argv: Sequence[str] | None = None) -> None:
    """Print anchors, or mean IoU for a range of k."""
    config = parse(
        AnchorsConfig,
        argv,
        "python -m yolov2.anchors",
        "Find anchors by k-means over the shapes of the boxes.",
    )
    fractions, sizes = read_boxes(config.data, config.split, config.format)
    wh = box_cells(fractions, sizes, config.imgsz / config.stride, config.resize)
    print(
        f"{len(wh)} boxes of {config.data.name} ({config.split}), {config.resize} to {config.imgsz} pixels, "
        f"cells of {config.stride}"
    )
    try:
        if len(config.ks) == 1:
            _print_anchors(wh, config)
        else:
            _print_table(wh, config)
    except ValueError as error:
        raise UserError(f"{config.data}: {error}") from error


def _print_anchors(wh: np.ndarray, config: AnchorsConfig) -> None:
    anchors, mean_iou = METHODS[config.method](wh, config.ks[0], config.seed, restarts=config.restarts)
    print(f"mean IoU      {mean_iou:.4f}")
    print(f"recall at .5  {recall_at(wh, anchors):.4f}")
    # Width,height pairs as Darknet's cfg files write them: ready to be pasted into [region].
    print("anchors =", ", ".join(f"{w:.6g},{h:.6g}" for w, h in anchors))
    if config.plot:
        plots.anchor_shapes(wh, anchors, config.plot)


def _print_table(wh: np.ndarray, config: AnchorsConfig) -> None:
    curves: dict[str, list[float]] = {method: [] for method in METHODS}
    print("mean IoU by k-means with the distance\n  k  1 - IoU  squared error")
    for k in config.ks:
        for method, kmeans in METHODS.items():
            curves[method].append(kmeans(wh, k, config.seed, restarts=config.restarts)[1])
        print(f"{k:>3}  {curves['iou'][-1]:>7.4f}  {curves['sse'][-1]:>13.4f}", flush=True)
    if config.plot:
        plots.anchor_curve(list(config.ks), curves["iou"], curves["sse"], config.plot)


if __name__ == "__main__":
    raise SystemExit(run(main))

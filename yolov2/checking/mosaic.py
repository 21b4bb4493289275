"""A sheet of pictures with their boxes: does what is written fit what is to be seen?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from yolov2.data.dataset import Dataset, Item, open_picture
from yolov2.data.files import shown
from yolov2.draw import draw_detections, sheet

TILE = 320  # pixels of a side
COLUMNS = 6
ZOOM = 10  # a small box is shown with so many times its own size around it
FINE = 12  # pixels of a tile below which a box needs this


@dataclass(frozen=True)
class Pick:
    """A picture that is shown, and why; `box` is the index of the one that is shown enlarged."""

    split: str
    item: Item
    why: str = ""
    box: int | None = None


def choose(splits: Mapping[str, Dataset], count: int) -> list[Pick]:
    """A sixth with the most boxes, a sixth with the smallest ones, the others spread over all splits.

    Parameters
    ----------
    splits : mapping of name to Dataset
        Of pictures that can be read.
    count : int
        At most so many pictures.
    """
    all_items = [(split, item) for split, dataset in splits.items() for item in dataset.items]
    picks: dict[int, Pick] = {}

    def take(order: Sequence[int], most: int, why: str) -> None:
        for index in order:
            if most and index not in picks:
                split, item = all_items[index]
                box = int(_sides(item).argmin()) if why == "smallest" else None
                picks[index] = Pick(split, item, why, box)
                most -= 1

    boxes = np.array([len(item.boxes) for _, item in all_items])
    smallest = np.array([_sides(item).min(initial=np.inf) for _, item in all_items])
    special = min(count // 6, int((boxes > 0).sum()) // 2)
    take(np.argsort(-boxes, kind="stable").tolist(), special, "most boxes")
    take(np.argsort(smallest, kind="stable").tolist(), special, "smallest")
    rest = [i for i in range(len(all_items)) if i not in picks]
    wanted = min(count - len(picks), len(rest))
    spread = np.linspace(0, len(rest) - 1, wanted).round().astype(int).tolist()
    take([rest[i] for i in spread], wanted, "")
    return list(picks.values())


def _sides(item: Item) -> np.ndarray:
    """The larger side of every box, as a fraction of the picture's."""
    wh = item.boxes[:, 2:] * (item.width, item.height)
    return wh.max(axis=1, initial=0) / max(item.width, item.height)


def mosaic(splits: Mapping[str, Dataset], count: int) -> Image.Image:
    """The sheet of `choose`'s pictures. Raises `UserError` if one cannot be read.

    Difficult boxes have a question mark behind their class.
    """
    tiles, captions = [], []
    for pick in choose(splits, count):
        names = splits[pick.split].names
        tiles.append(_tile(pick, names))
        boxes = len(pick.item.boxes)
        remark = f", {pick.why}" if pick.why else ""
        name = shown(f"{pick.split}/{pick.item.id}")
        captions.append(f"{name}: {boxes} box{'es' * (boxes != 1)}{remark}")
    return sheet(tiles, COLUMNS, captions, TILE)


def _tile(pick: Pick, names: Sequence[str]) -> Image.Image:
    item, picture = pick.item, open_picture(pick.item)
    wh, boxes = np.array([item.width, item.height]), item.boxes.astype(np.float64)
    if pick.box is not None and _sides(item)[pick.box] * TILE < FINE:  # nobody would see it
        # a window of the picture's shape
        window = wh * min(1, max(ZOOM * _sides(item)[pick.box], 32 / wh.max()))
        low = np.clip(boxes[pick.box, :2] * wh - window / 2, 0, wh - window).round()
        picture = picture.crop((*low.astype(int).tolist(), *(low + window).round().astype(int).tolist()))
        boxes = np.column_stack([boxes[:, :2] * wh - low, boxes[:, 2:] * wh]) / np.tile(picture.size, 2)
    scale = TILE / max(picture.size)
    tile = picture.resize([max(1, round(n * scale)) for n in picture.size], Image.Resampling.LANCZOS)
    seen = (np.abs(boxes[:, :2] - 0.5) < 0.5 + boxes[:, 2:] / 2).all(axis=1)
    doubted = [*names, *(f"{name}?" for name in names)]
    classes = item.classes + len(names) * item.difficult
    return draw_detections(tile, boxes[seen], doubted, classes[seen])

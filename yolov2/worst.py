"""The pictures on which a detector does worst, drawn on one sheet.

A picture is as bad as its F1 is low, 2 right / (truths + detections), by the pairs of `yolov2.confusion`:
what is right has a truth of its own class. Of equal F1 the picture with more mistakes comes first, then the
one whose wrong detections are surer. Pictures without a mistake are no bad ones, however few there are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from yolov2.confusion import Pairs
from yolov2.data.dataset import Item, open_picture
from yolov2.draw import PALETTE, Colour, draw_detections, sheet

RED, BLUE, GREEN = 0, 1, 2  # places in the palette: wrong, missed, right
BAND = 34  # height of the line above the sheet, in pixels


@dataclass(frozen=True)
class BadPicture:
    """One picture and its mistakes."""

    picture: int  # row of the items
    f1: float
    missed: int  # truths that no detection takes
    confused: int  # truths taken for another class
    false: int  # detections of nothing

    @property
    def caption(self) -> str:
        """The mistakes in words."""
        words = {"missed": self.missed, "confused": self.confused, "false": self.false}
        return ", ".join(f"{count} {word}" for word, count in words.items() if count)


def worst_pictures(pairs: Pairs, pictures: int, count: int = 50) -> list[BadPicture]:
    """The worst pictures, worst first.

    Parameters
    ----------
    pairs : Pairs
        Of `yolov2.confusion.pair_up`.
    pictures : int
        Number of pictures.
    count : int
        At most so many.
    """
    found, truths = pairs.detections, pairs.truths
    right = _right(pairs)

    def per_picture(picture: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        return np.bincount(picture, weights, pictures)

    hits = per_picture(found.picture[right])
    false = per_picture(found.picture[pairs.truth < 0])
    confused = per_picture(found.picture[~right & (pairs.truth >= 0)])
    missed = per_picture(truths.picture) - hits - confused
    sure = per_picture(found.picture[~right], found.scores[~right].astype(np.float64))
    mistakes = missed + confused + false
    f1 = 2 * hits / np.maximum(per_picture(truths.picture) + per_picture(found.picture), 1)
    order = [i for i in np.lexsort((-sure, -mistakes, f1)).tolist() if mistakes[i]][:count]
    columns = (x[order].tolist() for x in (f1, missed, confused, false))
    return [BadPicture(*row) for row in zip(order, *columns, strict=True)]


def worst_sheet(
    worst: Sequence[BadPicture], pairs: Pairs, items: Sequence[Item], names: Sequence[str], columns: int = 5
) -> Image.Image:
    """A sheet of the worst pictures: right detections green, wrong ones red, missed truths blue.

    Parameters
    ----------
    worst : sequence of BadPicture
        At least one.
    pairs : Pairs
        What they were found in.
    items : sequence of Item
        All pictures; those on the sheet are opened. The pairs' boxes are in their pixels.
    names : sequence of str
        Names of the classes.
    columns : int
        Pictures in a row.

    Returns
    -------
    PIL.Image.Image, mode RGB
    """
    tiles = [_drawn(items[bad.picture], bad.picture, pairs, names) for bad in worst]
    captions = [f"{items[bad.picture].id}: {bad.caption}" for bad in worst]
    legend = (("right", GREEN), ("wrong: what was found, score, what it is", RED), ("missed", BLUE))
    return with_legend(sheet(tiles, columns, captions), [(word, PALETTE[place]) for word, place in legend])


def with_legend(page: Image.Image, legend: Sequence[tuple[str, Colour]]) -> Image.Image:
    """A page below a line that says what the colours on it mean; wider if the words need it."""
    font = ImageFont.load_default(18)
    lengths = [round(font.getlength(word)) for word, _ in legend]
    width = max(page.width, 10 + sum(lengths) + 52 * len(legend))
    whole = Image.new("RGB", (width, page.height + BAND), "white")
    whole.paste(page, (0, BAND))
    pen, x = ImageDraw.Draw(whole), 10
    for (word, colour), length in zip(legend, lengths, strict=True):
        pen.rectangle((x, 11, x + 15, 26), fill=colour)
        pen.text((x + 22, 8), word, "black", font)
        x += 52 + length
    return whole


def _right(pairs: Pairs) -> np.ndarray:
    """Which detections take a truth of their own class: (D,) bool."""
    return (pairs.truth >= 0) & (np.append(pairs.truths.classes, -1)[pairs.truth] == pairs.detections.classes)


def _drawn(item: Item, picture: int, pairs: Pairs, names: Sequence[str]) -> Image.Image:
    found, truths = pairs.detections, pairs.truths
    here, right = found.picture == picture, _right(pairs)
    hits, wrong = np.flatnonzero(here & right), np.flatnonzero(here & ~right)
    missed = np.setdiff1d(np.flatnonzero(truths.picture == picture), pairs.truth)
    labels = [""] * len(hits)  # a picture full of objects is no place for the names of all
    labels += [names[c] for c in truths.classes[missed]]
    for i in wrong:
        what = "" if pairs.truth[i] < 0 else f", is {names[truths.classes[pairs.truth[i]]]}"
        labels.append(f"{names[found.classes[i]]} {found.scores[i]:.2f}{what}")
    boxes = np.concatenate([found.boxes[hits], truths.boxes[missed], found.boxes[wrong]])
    colours = np.repeat([GREEN, BLUE, RED], [len(hits), len(missed), len(wrong)])
    # every box is a class of its own, with the label as its name and the colour of its kind
    classes = np.arange(len(boxes)) * len(PALETTE) + colours
    every = [label for label in labels for _ in PALETTE]
    return draw_detections(open_picture(item), boxes / ([item.width, item.height] * 2), every, classes)

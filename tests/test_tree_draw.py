"""The panel of paths: what it says is in the picture's own colours, in it, and of one size for all frames."""

import numpy as np
import pytest
from PIL import Image

from yolov2.draw import PALETTE, draw_detections
from yolov2.tree.draw import draw_paths

GREY = Image.new("RGB", (320, 330), (90, 90, 90))
DOG = [(0, "animal", 1.0), (2, "dog", 0.5)]
CAR = [(1, "thing", 0.75), (5, "car", 0.25)]


def panel(picture, paths, scores):
    drawn = draw_paths(picture, paths, scores)
    assert drawn.mode == "RGB" and drawn.crop((0, 0, *picture.size)) == picture
    return np.asarray(drawn)[:, picture.width :]


def bars(pixels, colour):
    """Lengths of the runs of a colour from the top, once for every block of equal rows."""
    lengths = (pixels == colour).all(2).sum(1)
    changes = np.flatnonzero(np.diff(lengths, prepend=0))
    return [int(n) for n in lengths[changes] if n]


def titles(pixels):
    """Numbers of the palette's colours that titles have, from the top."""
    column = pixels[:, 11 // 2 + 1].tolist()  # left of all words
    return [
        PALETTE.index(tuple(c))
        for c, above in zip(column, [None, *column], strict=False)
        if c != above and tuple(c) in PALETTE
    ]


def test_bars_are_as_long_as_the_probabilities():
    path = [(0, "", 1.0), (1, "", 0.5), (2, "", 0.25), (3, "", 0.0)]  # no names: nothing but bars and numbers
    pixels = panel(GREY, [path], [0.9])
    numbers = bars(pixels, PALETTE[3])[-4:]
    assert numbers == [45, 23, 12, 1]  # 4 letters' heights of 11 pixels, and the first pixel


def test_every_detection_has_its_title_the_best_first():
    assert titles(panel(GREY, [DOG, CAR], [0.5, 0.9])) == [5, 2]
    assert titles(panel(GREY, [CAR, DOG, CAR], [0.5, 0.9, 0.2])) == [2, 5, 5]
    assert titles(panel(GREY, [[*DOG, (22, "poodle", 0.1)]], [0.5])) == [2]  # as the box in the picture
    boxes = draw_detections(GREY, np.full((1, 4), 0.5), ["poodle"] * 23, np.array([22]))
    assert (np.asarray(boxes) == PALETTE[2]).all(2).any()


def test_as_many_as_fit():
    many = titles(panel(GREY, [DOG] * 40, [0.5] * 40))
    assert len(titles(panel(GREY.resize((320, 660)), [DOG] * 40, [0.5] * 40))) >= 2 * len(many) >= 8
    # the last line tells of the rest: it differs by their number only
    pages = [panel(GREY, [DOG] * n, [0.5] * n).astype(int) for n in (40, 50)]
    rows = np.flatnonzero((pages[0] != pages[1]).any((1, 2)))
    last = np.flatnonzero((pages[0] != 255).any((1, 2)))[-1]
    assert len(rows) and last - 12 <= rows.min() <= rows.max() <= last


def test_no_room_is_wasted():
    """The last of them all needs no line below it about others."""
    fits = next(n for n in range(40, 0, -1) if len(titles(panel(GREY, [DOG] * n, [0.5] * n))) == n)
    pixels = panel(GREY, [DOG] * fits, [0.5] * fits)
    starts = np.flatnonzero(
        (pixels[:, 6] == PALETTE[2]).all(1) & (pixels[:, 6] != np.roll(pixels[:, 6], 1, 0)).any(1)
    )
    below = len(pixels) - np.flatnonzero((pixels != 255).any((1, 2)))[-1]
    assert fits >= 4 and below < np.diff(starts).min()


@pytest.mark.parametrize("size", [(1, 1), (160, 120), (416, 416), (1280, 720), (300, 900), (900, 100)])
def test_one_size_whatever_is_found(size):
    picture = Image.new("RGB", size, (90, 90, 90))
    long = [(n, "a name that is much longer than the panel " * 3, 0.9**n) for n in range(60)]
    cases = ([], [DOG], [long], [long] * 3, [DOG] * 100)
    pages = [draw_paths(picture, paths, [0.9] * len(paths)) for paths in cases]
    assert len({page.size for page in pages}) == 1 and pages[0].height >= size[1]
    assert len({page.tobytes() for page in pages}) == len(pages)
    for page in pages:  # nothing reaches the edges
        pixels = np.asarray(page)[:, size[0] :]
        assert (pixels[:, :3] == 255).all() and (pixels[:, -3:] == 255).all() and (pixels[:4] == 255).all()
        assert (pixels[-1] == 255).all()

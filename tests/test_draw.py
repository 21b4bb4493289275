"""Drawing: boxes where they belong, tags inside the picture, sheets of any length."""

import numpy as np
import pytest
from PIL import Image

from yolov2.draw import PALETTE, draw_detections, sheet

GREY = Image.new("RGB", (200, 100), (90, 90, 90))


def changed(drawn, picture=GREY):
    return (np.asarray(drawn) != np.asarray(picture)).any(2)


def test_box_lies_where_it_belongs_and_the_picture_is_left_alone():
    before = GREY.copy()
    drawn = draw_detections(GREY, np.array([[0.5, 0.6, 0.4, 0.6]]), ["cat"], np.array([0]))
    assert before == GREY and drawn.size == GREY.size
    assert drawn.getpixel((60, 80)) == PALETTE[0]  # left edge .5 - .2 = .3 of 199, rounded
    assert drawn.getpixel((139, 80)) == PALETTE[0]
    assert drawn.getpixel((100, 60)) == (90, 90, 90)


@pytest.mark.parametrize("box", [(0, 0, 0.3, 0.3), (1, 1, 0.3, 0.3), (0.5, 0.5, 3, 3), (1, 0.02, 0.01, 0.01)])
def test_tags_stay_inside(box):
    drawn = draw_detections(GREY, np.array([box]), ["a long class name"], np.array([0]), np.array([0.5]))
    # The whole tag is there: as many pixels of it as in the middle of the picture.
    middle = draw_detections(
        GREY, np.array([(0.3, 0.5, 0.01, 0.01)]), ["a long class name"], np.array([0]), np.array([0.5])
    )
    white = [(np.asarray(p) > 200).all(2).sum() for p in (drawn, middle)]
    assert white[0] == white[1] > 50


@pytest.mark.parametrize("number", range(len(PALETTE)))
def test_words_are_readable_on_every_colour(number):
    page = Image.new("RGB", (1000, 1000), (90, 90, 90))
    drawn = draw_detections(page, np.array([[0.5, 0.5, 0.9, 0.5]]), ["word"] * 40, np.array([number + 20]))
    text = np.asarray(drawn).reshape(-1, 3)
    black, white = ((text == ink).all(1).any() for ink in (0, 255))
    assert black != white
    ink = 0 if black else 255
    luminance = PALETTE[number] @ np.array([0.299, 0.587, 0.114])
    assert abs(ink - luminance) > 90


def test_no_boxes_and_other_modes():
    assert not changed(draw_detections(GREY, np.zeros((0, 4)), [], np.zeros(0))).any()
    assert draw_detections(Image.new("L", (9, 9)), np.zeros((0, 4)), [], np.zeros(0)).mode == "RGB"
    tiny = Image.new("RGB", (1, 1))
    assert draw_detections(tiny, np.ones((1, 4)), ["a"], np.zeros(1)).size == (1, 1)


def test_the_best_is_on_top():
    boxes = np.array([[0.5, 0.5, 0.5, 0.5]] * 2)
    drawn = draw_detections(GREY, boxes, ["a", "b"], np.array([0, 1]), np.array([0.9, 0.2]))
    assert drawn.getpixel((50, 60)) == PALETTE[0]


@pytest.mark.parametrize("count, columns", [(1, 4), (5, 2), (6, 3)])
def test_sheet(count, columns):
    tiles = [GREY, Image.new("RGB", (50, 100), "red")] * 3
    page = sheet(
        tiles[:count], columns, captions=["a caption that is much too long for it" * 3] * count, side=64
    )
    wide = min(columns, count)
    assert page.width == wide * (64 + 8) + 8
    assert (np.asarray(page) == (90, 90, 90)).all(2).sum() >= 64 * 32


@pytest.mark.parametrize("arguments", [([], 2), ([GREY], 0), ([GREY], 1, ["a", "b"])])
def test_impossible_sheets_are_refused(arguments):
    with pytest.raises(ValueError):
        sheet(*arguments)

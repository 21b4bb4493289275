"""What was taken for what, and the pictures where most went wrong."""

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from tests.test_average_precision import NOWHERE, A, B, C, detection_table, truth_table
from tests.test_coco_metric import FOUND as SOME_FOUND
from tests.test_coco_metric import NEAR_A
from tests.test_coco_metric import TRUTHS as SOME_TRUTHS
from yolov2.confusion import confusion, pair_up
from yolov2.data.dataset import Item
from yolov2.draw import PALETTE
from yolov2.worst import BLUE, GREEN, RED, worst_pictures, worst_sheet

NAMES = ("cat", "dog")
TRUTHS = truth_table((1, B, 1, True), (0, A, 0), (0, B, 1), (0, C, 1), (1, A, 0))
FOUND = detection_table(
    (0, A, 0.9, 0),  # a cat
    (0, A, 0.8, 1),  # the cat again, as a dog: the truth is taken
    (0, B, 0.7, 0),  # a dog taken for a cat
    (0, NOWHERE, 0.6, 1),
    (0, C, 0.25, 1),  # not sure enough: missed
    (1, B, 0.5, 0),  # difficult: does not count
    (2, A, 0.5, 0),  # a picture without truths
)


def test_by_hand():
    pairs = pair_up(FOUND, TRUTHS)
    assert pairs.truth.tolist() == [0, -1, 1, -1, -1]
    table = confusion(pairs, NAMES, 0.25, 0.5)
    assert table.counts.tolist() == [[1, 0, 1], [1, 0, 1], [1, 2, 0]]
    assert table.table().splitlines() == [
        "truth       cat  dog  missed",
        "cat           1    0       1",
        "dog           1    0       1",
        "background    1    2",
    ]


def test_the_surest_chooses_first():
    """Although the other one is nearer, and right."""
    found = detection_table((0, NEAR_A, 0.9, 1), (0, A, 0.8, 0))
    assert pair_up(found, truth_table((0, A, 0))).truth.tolist() == [0, -1]


@given(SOME_TRUTHS, SOME_FOUND)
def test_everything_is_counted_once(truths, found):
    pairs = pair_up(found, truths, conf=0.3)
    counts = confusion(pairs, NAMES, 0.3, 0.5).counts
    ordinary = truths.where(~truths.difficult)
    np.testing.assert_array_equal(counts[:-1].sum(axis=1), np.bincount(ordinary.classes, minlength=2))
    sure = found.where(found.scores > 0.3)
    assert (counts[:, :-1].sum(axis=0) <= np.bincount(sure.classes, minlength=2)).all()
    if not truths.difficult.any():
        assert counts[:, :-1].sum() == len(sure.scores)
    # whatever happens to a picture is a mistake in one of three ways, or right
    bad = worst_pictures(pairs, 3)
    mistakes = sum(p.missed + p.confused + p.false for p in bad)
    assert mistakes == counts.sum() - np.trace(counts)
    assert [p.f1 for p in bad] == sorted(p.f1 for p in bad)


def test_figure(tmp_path):
    pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: no confusion table is drawn")
    table = confusion(pair_up(FOUND, TRUTHS), NAMES, 0.25, 0.5)
    table.plot(tmp_path / "new" / "confusion.png")
    with Image.open(tmp_path / "new" / "confusion.png") as figure:
        pixels = np.asarray(figure.convert("RGB")).reshape(-1, 3)
    assert len(np.unique(pixels, axis=0)) > 20  # shares of 0, 1/2, 1/3, 2/3


class TestWorst:
    def test_order_and_captions_by_hand(self):
        pairs = pair_up(FOUND, TRUTHS)
        bad = worst_pictures(pairs, 4)
        # picture 3 is empty, and so right; 1 and 2 have no hit and one mistake each, 2 is wrong with .5
        assert [(p.picture, p.f1, p.caption) for p in bad] == [
            (2, 0, "1 false"),
            (1, 0, "1 missed"),
            (0, 2 / 7, "1 missed, 1 confused, 2 false"),
        ]
        assert [p.picture for p in worst_pictures(pairs, 4, count=1)] == [2]
        assert worst_pictures(pair_up(detection_table((1, A, 0.9)), truth_table((1, A))), 2) == []

    def test_colours(self):
        """Right, missed and wrong boxes are where they belong, each in its colour."""
        none = np.zeros(0, int)
        pixels = np.zeros((100, 100, 3), np.uint8)
        item = Item("p", 100, 100, none.reshape(-1, 4), none, none, pixels=pixels)
        places = ((25, 30, 30, 20), (75, 30, 30, 20), (50, 75, 30, 20))
        found = detection_table((0, places[0], 0.9, 0), (0, places[1], 0.8, 0))
        pairs = pair_up(found, truth_table((0, places[0], 0), (0, places[2], 1)))
        page = np.asarray(worst_sheet(worst_pictures(pairs, 1), pairs, [item], NAMES))
        tile = page[-(320 + 30) : -30, 8:328]  # enlarged 3.2 times, a caption and a gap below
        for (x, y, w, _), colour in zip(places, (GREEN, RED, BLUE), strict=True):
            edge = tile[round(3.2 * y), round(3.2 * (x + w / 2)) - 5 : round(3.2 * (x + w / 2)) + 5]
            assert np.abs(edge - np.array(PALETTE[colour])).sum(axis=1).min() < 60, colour

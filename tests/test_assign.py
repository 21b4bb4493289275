"""Who answers for which truth: cells, anchors, ties, masks and list ends by hand, then properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from reference.assign import assign_targets, match_truths, truth_list
from reference.decode import decode
from reference.region import Region
from tests.strategies import TREE, cases

ONE = Region(anchors=((1.0, 1.0),), classes=2)
TWO = Region(anchors=((1.0, 1.0), (2.0, 2.0)), classes=2)


def zeros(region, h, w):
    """Raw zeros: every anchor in the middle of its cell, objectness 1/2, classes equal."""
    return np.zeros((1, region.channels, h, w))


def owners(region, pred, *truths):
    """{(anchor, row, col): row of the truth} of one image."""
    index = assign_targets(pred, np.array([truths]).reshape(1, -1, 5), region).index[0]
    assert index.dtype == np.int32
    return {slot: int(index[slot]) for slot in zip(*map(list, np.nonzero(index >= 0)), strict=True)}


def test_cell_by_hand():
    # 2 rows, 4 columns: x = .8 is in column 3 (3.2), y = .3 in row 0 (.6)
    assert owners(ONE, zeros(ONE, 2, 4), (0.8, 0.3, 0.25, 0.5, 0)) == {(0, 0, 3): 0}


def test_centre_on_a_border_belongs_to_the_next_cell():
    # x = 1/4 of 4 columns is exactly 1, y = 1/2 of 2 rows exactly 1
    assert owners(ONE, zeros(ONE, 2, 4), (0.25, 0.5, 0.25, 0.5, 0)) == {(0, 1, 1): 0}


def test_anchor_by_shape():
    # half of a 4 x 4 grid is 2 x 2 cells, anchor 1 exactly; a quarter is anchor 0 exactly
    assert owners(TWO, zeros(TWO, 4, 4), (0.1, 0.1, 0.5, 0.5, 0)) == {(1, 0, 0): 0}
    assert owners(TWO, zeros(TWO, 4, 4), (0.1, 0.1, 0.25, 0.25, 0)) == {(0, 0, 0): 0}


def test_width_and_height_of_an_anchor():
    # a box 2 cells wide and 1 high, on a grid that is not square
    region = replace(TWO, anchors=((1.0, 2.0), (2.0, 1.0)))
    assert owners(region, zeros(region, 2, 4), (0.1, 0.1, 2 / 4, 1 / 2, 0)) == {(1, 0, 0): 0}


def test_first_anchor_wins_a_tie():
    # 1 x 1 overlaps 1 x 2 and 2 x 1 by 1/2 each
    region = replace(TWO, anchors=((1.0, 2.0), (2.0, 1.0)))
    assert owners(region, zeros(region, 4, 4), (0.1, 0.1, 0.25, 0.25, 0)) == {(0, 0, 0): 0}


def test_shapes_of_predictions_choose_without_bias_match():
    # predictions twice as large as their anchors: 2 x 2 and 4 x 4 cells; the truth is 2 x 2
    region = replace(TWO, bias_match=False)
    pred = zeros(region, 4, 4)
    pred[0, [2, 3, 9, 10]] = np.log(2)
    truth = (0.1, 0.1, 0.5, 0.5, 0)
    assert owners(region, pred, truth) == {(0, 0, 0): 0}
    assert owners(TWO, pred, truth) == {(1, 0, 0): 0}


def test_truths_of_one_cell_coexist_on_different_anchors():
    small, large = (0.1, 0.1, 0.25, 0.25, 0), (0.1, 0.1, 0.5, 0.5, 1)
    assert owners(TWO, zeros(TWO, 4, 4), small, large) == {(0, 0, 0): 0, (1, 0, 0): 1}


def test_last_truth_wins_a_slot():
    truth = (0.1, 0.1, 0.25, 0.25, 0)
    assert owners(TWO, zeros(TWO, 4, 4), truth, truth, truth) == {(0, 0, 0): 2}


def test_list_ends_at_the_first_x_of_zero():
    truth, end = (0.1, 0.1, 0.25, 0.25, 0), (0, 0.9, 0.9, 0.9, 1)
    assert owners(TWO, zeros(TWO, 4, 4), truth, end, truth) == {(0, 0, 0): 0}
    assert owners(TWO, zeros(TWO, 4, 4), (0.1, 0, 0.25, 0.25, 0)) == {(0, 0, 0): 0}  # y = 0 is a place


def test_ignored_only_above_the_threshold():
    # the prediction is the whole picture, the truth its left half: IoU exactly 1/2
    truth = np.array([[[0.25, 0.5, 0.5, 1, 0]]])
    for threshold, ignored in [(0.49, True), (0.5, False), (0.51, False)]:
        region = replace(ONE, ignore_threshold=threshold)
        assert assign_targets(zeros(region, 1, 1), truth, region).ignore.item() is ignored


def test_best_of_all_truths_decides_about_ignoring():
    # a good truth first, a bad one after it
    truth = np.array([[[0.5, 0.5, 1, 1, 0], [0.5, 0.5, 0.1, 0.1, 0]]])
    assert assign_targets(zeros(ONE, 1, 1), truth, ONE).ignore.all()
    assert assign_targets(zeros(ONE, 1, 1), truth[:, ::-1], ONE).ignore.all()


def test_classification_only_image():
    # pug (node 9, up over dog 3 to animal 0) on two cells; the second believes more: objectness 3/4 for 1/2
    region = Region(
        anchors=((1.0, 1.0),), classes=10, class_activation="tree", tree=TREE, class_map=(0,) * 10
    )
    pred = zeros(region, 1, 2)
    pred[0, 4, 0, 1] = np.log(3)
    truth = np.array([[[0.2, 0.2, 0.1, 0.1, 1], [999999, 999999, 0, 0, 9]]])
    (match,) = match_truths(decode(pred, region), truth, region)
    assert match == ((0, 0, 0, 1), 1, 9, True)  # the class is a node already, the map is not for it
    # half as likely a pug among dogs: 3/4 * 1/4 < 1/2 * 1/2
    pred[0, 5 + 8, 0, 1] = np.log(3)
    assert match_truths(decode(pred, region), truth, region)[0].slot == (0, 0, 0, 0)
    assignment = assign_targets(pred, truth, region)
    assert (assignment.index == -1).all() and not assignment.ignore.any()


def test_class_map():
    region = replace(ONE, class_map=(1, 1, 0))
    (match,) = match_truths(decode(zeros(region, 1, 1), region), np.array([[[0.5, 0.5, 1, 1, 2]]]), region)
    assert match.label == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ((0.5, 0.5, 1, 1, 2), "image 0, row 1: class 2 is not one of 2"),
        ((0.5, 0.5, 1, 1, -1), "image 0, row 1: class -1"),
        ((1.0, 0.5, 1, 1, 0), "image 0, row 1: box .* is empty or centred outside"),
        ((0.5, 1.0, 1, 1, 0), "image 0, row 1: box"),
        ((0.5, 0.5, 0, 1, 0), "image 0, row 1: box"),
        ((999999, 999999, 0, 0, 0), "image 0, row 1: box"),  # means nothing without a tree
    ],
)
def test_truths_without_meaning_are_refused(wrong, message):
    truth = np.array([[(0.5, 0.5, 1, 1, 0), wrong]], float)
    with pytest.raises(ValueError, match=message):
        assign_targets(zeros(ONE, 1, 1), truth, ONE)


def test_class_beyond_the_map_is_refused():
    with pytest.raises(ValueError, match="image 0, row 0: class 1 is not one of 1"):
        assign_targets(zeros(ONE, 1, 1), np.array([[[0.5, 0.5, 1, 1, 1]]]), replace(ONE, class_map=(0,)))


@pytest.mark.parametrize("truth", [np.zeros((1, 0, 5)), np.zeros((1, 3, 5))])
def test_no_truths(truth):
    assignment = assign_targets(zeros(TWO, 1, 1), truth, TWO)
    assert (assignment.index == -1).all() and not assignment.ignore.any()


@settings(deadline=None)
@given(cases())
def test_owner_is_the_last_truth_that_chose_the_slot(case):
    index = assign_targets(case.pred, case.truth, case.region).index
    matches = match_truths(decode(case.pred, case.region), case.truth, case.region)
    last = {m.slot: m.row for m in matches if not m.class_only}
    assert {slot: index[slot] for slot in last} == last
    assert (index >= 0).sum() == len(last)


@settings(deadline=None)
@given(cases())
def test_truths_sit_in_their_cells(case):
    _, H, W = case.pred.shape[1:]
    for match in match_truths(decode(case.pred, case.region), case.truth, case.region):
        if not match.class_only:
            image, _, row, col = match.slot
            x, y = case.truth[image, match.row, :2]
            assert col <= x * W < col + 1 and row <= y * H < row + 1


@settings(deadline=None)
@given(cases(class_activation="softmax"))
def test_mask_does_not_care_about_the_order_of_truths(case):
    mask = assign_targets(case.pred, case.truth, case.region).ignore
    reverse = np.zeros_like(case.truth)
    for image, rows in enumerate(case.truth):
        truths = truth_list(rows)
        reverse[image, : len(truths)] = truths[::-1]
    np.testing.assert_array_equal(mask, assign_targets(case.pred, reverse, case.region).ignore)


@settings(deadline=None)
@given(cases(class_activation="logistic"))
def test_images_are_independent(case):
    assignment = assign_targets(case.pred, case.truth, case.region)
    for image in range(len(case.pred)):
        one = slice(image, image + 1)
        alone = assign_targets(case.pred[one], case.truth[one], case.region)
        np.testing.assert_array_equal(assignment.index[one], alone.index)
        np.testing.assert_array_equal(assignment.ignore[one], alone.ignore)


@settings(deadline=None)
@given(cases(class_activation="softmax", location="cell"))  # others may be centred outside the picture
def test_perfect_predictions_are_ignored(case):
    """A truth that is a decoded box makes that prediction, and its like, exempt."""
    boxes = decode(case.pred, case.region).boxes
    truth = np.zeros((len(boxes), 1, 5), np.float32)
    truth[:, 0, :4] = boxes[:, -1, -1, -1]
    ignore = assign_targets(case.pred, truth, case.region).ignore
    assert ignore[:, -1, -1, -1].all()

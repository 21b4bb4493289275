"""Suppression: thresholds, ties and Darknet's reordering by hand, then properties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.boxes import box_iou
from reference.nms import nms, nms_objectness, nms_per_class

#: the whole unit square, its left half (IoU 1/2 with it), and its right half
WHOLE, LEFT, RIGHT = (0.5, 0.5, 1, 1), (0.25, 0.5, 0.5, 1), (0.75, 0.5, 0.5, 1)


def keep(boxes, scores, threshold):
    return nms(np.array(boxes, float).reshape(-1, 4), np.array(scores, float), threshold).tolist()


def test_best_first():
    assert keep([LEFT, WHOLE, RIGHT], [0.6, 0.5, 0.7], 0.4) == [2, 0]
    assert keep([LEFT, WHOLE, RIGHT], [0.6, 0.8, 0.7], 0.4) == [1]


def test_threshold_itself_survives():
    assert keep([WHOLE, LEFT], [0.9, 0.8], 0.5) == [0, 1]
    assert keep([WHOLE, LEFT], [0.9, 0.8], 0.49) == [0]


def test_suppressed_boxes_do_not_suppress():
    # a chain: 0 drops 1, so 1 cannot drop 2, which overlaps 0 by 1/3 only
    boxes = [(0, 0, 3, 1), (0.75, 0, 3, 1), (1.5, 0, 3, 1)]  # neighbours: 2.25 / 3.75 = .6
    assert keep(boxes, [3, 2, 1], 0.5) == [0, 2]


def test_lower_index_wins_a_tie():
    assert keep([LEFT, LEFT, RIGHT, RIGHT], [0.5, 0.5, 0.5, 0.5], 0.5) == [0, 2]
    # many equal scores: an unstable sort would show
    assert keep([WHOLE] * 50, [0.5] * 50, 0.5) == [0]
    assert keep([(i, 0, 1, 1) for i in range(50)], [0.5] * 50, 0.5) == list(range(50))


def test_empty_boxes_do_not_suppress():
    # 0/0 = NaN is not above any threshold
    assert keep([(0, 0, 0, 0), (0, 0, 0, 0)], [2, 1], 0.5) == [0, 1]


def test_no_boxes():
    found = nms(np.zeros((0, 4)), np.zeros(0), 0.5)
    assert found.shape == (0,) and found.dtype == np.int64


def test_per_class_by_hand():
    # class 0: row 0 (.9) drops row 1 (.8); class 1: row 1 (.7) drops row 0 (.6)
    boxes, objectness = np.array([WHOLE, WHOLE]), np.ones(2)
    probs = np.array([[0.9, 0.6], [0.8, 0.7]])
    got = nms_per_class(boxes, objectness, probs, 0.5)
    assert got.order.tolist() == [1, 0]  # as class 1, the last, left it
    np.testing.assert_array_equal(got.probs, [[0, 0.7], [0.9, 0]])
    np.testing.assert_array_equal(got.objectness, [1, 1])


def test_per_class_starts_from_the_order_of_the_class_before():
    # class 0 sorts 0, 1 to 1, 0; in class 1 they tie, and now row 1 comes first and wins
    boxes, probs = np.array([WHOLE, WHOLE]), np.array([[0.1, 0.5], [0.2, 0.5]])
    got = nms_per_class(boxes, np.ones(2), probs, 0.5)
    assert got.order.tolist() == [1, 0]
    np.testing.assert_array_equal(got.probs, [[0.2, 0.5], [0, 0]])


def test_rows_without_objectness_are_swapped_to_the_back():
    # i = 0 meets 0 and swaps with the last: 4, 1, 2, 3, 0; then row 2 with 3: 4, 1, 3, 2, 0
    objectness = np.array([0, 0.1, 0, 0.3, 0.2])
    boxes = np.array([(i, 0, 1, 1) for i in range(5)], float)
    got = nms_per_class(boxes, objectness, np.zeros((5, 1)), 0.5)
    assert got.order.tolist() == [4, 1, 3, 2, 0]
    assert nms_objectness(boxes, objectness, np.zeros((5, 1)), 0.5).order.tolist() == [3, 4, 1, 2, 0]


def test_objectness_form_drops_all_classes():
    boxes, objectness = np.array([LEFT, LEFT, RIGHT]), np.array([0.5, 0.6, 0.4])
    probs = np.array([[0.9, 0.1], [0.2, 0.3], [0.4, 0.4]])
    got = nms_objectness(boxes, objectness, probs, 0.5)
    assert got.order.tolist() == [1, 0, 2]
    np.testing.assert_array_equal(got.objectness, [0.6, 0, 0.4])
    np.testing.assert_array_equal(got.probs, [[0.2, 0.3], [0, 0], [0.4, 0.4]])


@pytest.mark.parametrize("form", [nms_per_class, nms_objectness])
def test_darknets_forms_of_nothing(form):
    got = form(np.zeros((0, 4)), np.zeros(0), np.zeros((0, 3)), 0.5)
    assert got.probs.shape == (0, 3) and got.order.shape == (0,)


@st.composite
def scored_boxes(draw):
    """Up to 12 boxes on a 1/8 grid with distinct scores, and a threshold."""
    coordinates = st.tuples(*[st.integers(0, 8)] * 2, *[st.integers(1, 8)] * 2)
    boxes = np.array(draw(st.lists(coordinates, max_size=12)), float).reshape(-1, 4) / 8
    scores = np.array(draw(st.permutations(range(len(boxes)))), float)
    return boxes, scores, draw(st.sampled_from([0.25, 0.45, 0.5]))


@settings(deadline=None)
@given(scored_boxes())
def test_kept_and_dropped(drawn):
    """What is kept is sorted and apart; what is dropped overlaps something better that is kept."""
    boxes, scores, threshold = drawn
    kept = nms(boxes, scores, threshold)
    assert (np.diff(scores[kept]) < 0).all()
    overlaps = box_iou(boxes, boxes[kept]) > threshold
    np.testing.assert_array_equal(overlaps[kept], np.eye(len(kept), dtype=bool))
    better = scores[kept] > scores[:, None]
    for dropped in set(range(len(boxes))) - set(kept.tolist()):
        assert (overlaps & better)[dropped].any()


@settings(deadline=None)
@given(scored_boxes())
def test_idempotent(drawn):
    boxes, scores, threshold = drawn
    kept = nms(boxes, scores, threshold)
    assert nms(boxes[kept], scores[kept], threshold).tolist() == list(range(len(kept)))


@settings(deadline=None)
@given(scored_boxes(), st.randoms())
def test_order_of_the_input_does_not_matter(drawn, random):
    boxes, scores, threshold = drawn
    shuffle = np.array(random.sample(range(len(boxes)), len(boxes)), int)
    kept = nms(boxes, scores, threshold)
    np.testing.assert_array_equal(shuffle[nms(boxes[shuffle], scores[shuffle], threshold)], kept)


@settings(deadline=None)
@given(scored_boxes())
def test_darknets_forms_keep_the_same_boxes(drawn):
    """One class, all objects: both forms are plain NMS with the suppressed rows left in place."""
    boxes, scores, threshold = drawn
    scores = scores + 1
    kept = nms(boxes, scores, threshold)
    per_class = nms_per_class(boxes, np.ones(len(boxes)), scores[:, None], threshold)
    whole = nms_objectness(boxes, scores, np.ones((len(boxes), 1)), threshold)
    np.testing.assert_array_equal(per_class.order[per_class.probs[:, 0] > 0], kept)
    np.testing.assert_array_equal(whole.order[whole.objectness > 0], kept)

"""Detections: thresholds, classes, ties, trees and the flip test by hand, then properties."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.boxes import box_iou
from reference.decode import activate_region, decode
from reference.detect import average_flip, class_scores, detect, region_detections
from reference.region import Region
from tests.strategies import TREE, cases

ONE = Region(anchors=((1.0, 1.0),), classes=2)
WORDS = Region(anchors=((1.0, 1.0),), classes=10, class_activation="tree", tree=TREE)


def zeros(region, h=1, w=1):
    """Raw zeros: every box is its cell, objectness 1/2, classes equal."""
    return np.zeros((1, region.channels, h, w))


def listed(found, image=0):
    """[(x of the centre, score, class)] of one image."""
    n = found.count[image]
    rows = zip(found.boxes[image, :n, 0], found.scores[image, :n], found.classes[image, :n], strict=True)
    return [(float(x), pytest.approx(float(s)), int(c)) for x, s, c in rows]


def test_one_box_by_hand():
    # objectness 3/4; classes 1 : 3; scores 3/16 (below) and 9/16
    pred = zeros(ONE)
    pred[0, 4:, 0, 0] = np.log([3, 1, 3])
    found = detect(pred, ONE, max_det=3)
    assert listed(found) == [(0.5, 9 / 16, 1)]
    np.testing.assert_allclose(found.boxes[0], [[0.5, 0.5, 1, 1], [0] * 4, [0] * 4])
    np.testing.assert_allclose(found.scores[0], [9 / 16, 0, 0])
    assert found.classes[0].tolist() == [1, -1, -1] and found.count.tolist() == [1]


def test_threshold_is_strict():
    # score 1/2 * 1/2
    assert detect(zeros(ONE), ONE, conf=0.25).count[0] == 0
    assert detect(zeros(ONE), ONE, conf=0.2499).count[0] == 2


def test_equal_scores_by_location_then_class():
    found = detect(zeros(ONE, 1, 2), ONE, conf=0.1)
    assert listed(found) == [(0.25, 0.25, 0), (0.25, 0.25, 1), (0.75, 0.25, 0), (0.75, 0.25, 1)]


def test_anchors_are_the_slowest_part_of_a_location():
    region = replace(ONE, anchors=((0.5, 0.5), (1.0, 1.0)), classes=1)
    found = detect(zeros(region, 1, 2), region, conf=0.1, iou=0.9)
    assert found.boxes[0, :4, [0, 2]].T.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.5], [0.75, 0.5]]


def test_best_class_only():
    assert listed(detect(zeros(ONE), ONE, conf=0.1, multi_label=False)) == [(0.5, 0.25, 0)]


def test_classes_do_not_suppress_each_other():
    assert detect(zeros(ONE), ONE, conf=0.1, iou=0.5).count[0] == 2
    assert listed(detect(zeros(ONE), ONE, conf=0.1, iou=0.5, class_agnostic=True)) == [(0.5, 0.25, 0)]


def test_first_location_wins_a_tie_in_suppression():
    # two like anchors
    region = replace(ONE, anchors=((1.0, 1.0), (1.0, 1.0)), classes=1)
    pred = zeros(region)
    pred[0, 8] = np.log(2)  # the second is twice as wide, half as high: IoU 1/3
    pred[0, 9] = -np.log(2)
    found = detect(pred, region, iou=0.1)
    np.testing.assert_allclose(found.boxes[0, : found.count[0]], [[0.5, 0.5, 1, 1]])


def test_max_det_keeps_the_best():
    pred = zeros(ONE, 1, 3)
    pred[0, 4, 0] = 0, 2, 1
    got = [x for x, _, _ in listed(detect(pred, ONE, conf=0.1, max_det=2, multi_label=False))]
    assert got == pytest.approx([1.5 / 3, 2.5 / 3])
    assert detect(pred, ONE, max_det=0).boxes.shape == (1, 0, 4)


def test_background_replaces_objectness():
    # of nothing, class 0, class 1: 2 : 1 : 5
    region = replace(ONE, background=True)
    pred = zeros(region)
    pred[0, 4:, 0, 0] = np.log([2, 1, 5])
    assert listed(detect(pred, region, conf=0.1)) == [(0.5, 5 / 8, 1), (0.5, 1 / 8, 0)]


def test_tree_descends_on_absolute_probabilities():
    # animal .9 of the roots, dog .8 of the animals, so dog .72 in all. Darknet multiplies absolute values:
    # .9, then .9 * .72 = .648, then at best .648 * .72
    pred = zeros(WORDS)
    pred[0, 4] = np.log(3)
    pred[0, 5] = np.log(18)  # 18 : 1 : 1
    pred[0, 5 + 3] = np.log(4)  # 4 : 1
    pred[0, 5 + 9] = 50  # surely a pug: .72 in all, .648 * .72 = .46656
    for threshold, node in [(0.95, 0), (0.7, 0), (0.64, 3), (0.5, 3), (0.46, 9)]:
        assert listed(detect(pred, WORDS, tree_threshold=threshold)) == [(0.5, 0.75, node)]


def test_detection_map_scores_the_named_nodes():
    # objectness 1/2 times the absolute probabilities of dog 1/6, plant 1/3
    found = detect(zeros(WORDS), WORDS, conf=0.01, detection_map=(3, 2))
    assert listed(found) == [(0.5, 1 / 6, 1), (0.5, 1 / 12, 0)]


def test_nothing_found():
    found = detect(zeros(ONE, 2, 2) - 10, ONE)
    assert found.count.tolist() == [0] and (found.classes == -1).all() and not found.boxes.any()


def test_darknets_list_by_hand():
    # a 200 x 100 picture in a 100 x 100 network fills rows 25 to 75: the box of the whole network is twice
    # as high as the picture
    dense = region_detections(zeros(ONE), ONE, 0.3, picture=(200, 100), network=(100, 100))
    np.testing.assert_allclose(dense.boxes, [[[0.5, 0.5, 1, 2]]])
    assert dense.objectness == 0.5 and not dense.probs.any()  # 1/4 is not above .3
    pixels = region_detections(zeros(ONE), ONE, 0.5, picture=(200, 100), network=(100, 100), relative=False)
    np.testing.assert_allclose(pixels.boxes, [[[100, 50, 200, 200]]])
    assert pixels.objectness == 0


def test_flip_average_by_hand():
    # one anchor: its first channel is negated in the mirror image, except for a middle column
    output = np.zeros((2, ONE.channels, 1, 3))
    output[0, :2], output[1, :2] = [1, 2, 3], [10, 20, 30]
    mean = average_flip(output, ONE)
    np.testing.assert_allclose(mean[0, 0], [[(1 - 30) / 2, (2 + 20) / 2, (3 - 10) / 2]])
    np.testing.assert_allclose(mean[0, 1], [[(1 + 30) / 2, (2 + 20) / 2, (3 + 10) / 2]])


@settings(deadline=None)
@given(cases(), st.booleans(), st.booleans())
def test_detections_are_what_they_claim(case, multi_label, class_agnostic):
    """Above the threshold, best first, apart, padded; every box is one that was decoded."""
    pred, region = case.pred, case.region
    found = detect(pred, region, 0.1, 0.45, 20, multi_label, class_agnostic)
    decoded = decode(pred, region).boxes.reshape(len(pred), -1, 4)
    scores = class_scores(decode(pred, region), region, 0.1)
    for image, n in enumerate(found.count):
        score, category, boxes = found.scores[image], found.classes[image], found.boxes[image]
        assert (score[:n] > np.float32(0.1)).all() and (np.diff(score[:n]) <= 0).all()
        assert not boxes[n:].any() and not score[n:].any() and (category[n:] == -1).all()
        for i in range(n):
            same = (decoded[image] == boxes[i]).all(axis=1)
            assert score[i] in scores[image, same, category[i]]
        rival = np.ones((n, n), bool) if class_agnostic else category[:n, None] == category[None, :n]
        overlap = box_iou(boxes[:n], boxes[:n]) > np.float32(0.45)
        assert not (overlap & rival & ~np.eye(n, dtype=bool)).any()


@settings(deadline=None)
@given(cases())
def test_higher_threshold_finds_a_part(case):
    pred, region = case.pred, case.region
    low, high = detect(pred, region, 0.05, max_det=1000), detect(pred, region, 0.3, max_det=1000)
    for image in range(len(pred)):
        n = high.count[image]
        kept = low.scores[image] > np.float32(0.3)
        np.testing.assert_array_equal(low.scores[image, kept], high.scores[image, :n])
        np.testing.assert_array_equal(low.boxes[image, kept], high.boxes[image, :n])


@settings(deadline=None, max_examples=50)
@given(cases())
def test_images_are_independent(case):
    found = detect(case.pred, case.region, 0.1)
    for image in range(len(case.pred)):
        alone = detect(case.pred[[image]], case.region, 0.1)
        for together, single in zip(found, alone, strict=True):
            np.testing.assert_array_equal(together[[image]], single)


@settings(deadline=None, max_examples=50)
@given(cases(class_activation="logistic"))
def test_flip_of_a_symmetric_picture(case):
    """Channels past the first A are the mean of themselves mirrored, so symmetric."""
    output = activate_region(case.pred[:1], case.region)
    mean = average_flip(np.concatenate([output, output]), case.region)
    A = len(case.region.anchors)
    np.testing.assert_array_equal(mean[0, A:], mean[0, A:, :, ::-1])

"""reference.average_precision: hand-computed cases, the devkit's rules one by one, properties."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.average_precision import (
    CHUNK,
    DetectionTable,
    TruthTable,
    average_precision,
    best_truths,
    inclusive_xyxy_to_cxcywh,
    match_detections,
    mean_average_precision,
    overlapping_pairs,
    precision_recall,
)
from reference.boxes import box_iou

METHODS = ["voc11", "voc11_numpy", "voc_all", "coco101"]


def truth_table(*rows):
    """Rows (picture, box, class = 0, difficult = False)."""
    rows = [(*row, *(0, False)[len(row) - 2 :]) for row in rows]
    picture, boxes, classes, difficult = zip(*rows, strict=True) if rows else ((), (), (), ())
    return TruthTable(
        np.array(picture, int),
        np.array(boxes, float).reshape(-1, 4),
        np.array(classes, int),
        np.array(difficult, bool),
    )


def detection_table(*rows):
    """Rows (picture, box, score, class = 0)."""
    rows = [(*row, *(0,)[len(row) - 3 :]) for row in rows]
    picture, boxes, scores, classes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return DetectionTable(
        np.array(picture, int),
        np.array(boxes, float).reshape(-1, 4),
        np.array(classes, int),
        np.array(scores, float),
    )


A, B, C = (10, 10, 4, 4), (20, 10, 4, 4), (30, 10, 4, 4)
NOWHERE = (90, 90, 2, 2)


def test_curve_of_three_truths_by_hand():
    # hit, miss, hit, miss, miss, hit of 3 truths
    recall, precision = precision_recall(np.array([1, 0, 1, 0, 0, 1], bool), 3)
    np.testing.assert_array_equal(recall, [1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 1])
    np.testing.assert_array_equal(precision, [1, 1 / 2, 2 / 3, 2 / 4, 2 / 5, 3 / 6])
    # Interpolated: 1 up to recall 1/3, 2/3 up to 2/3, 1/2 up to 1.
    # r = 0 .1 .2 .3 | .4 .5 .6 | .7 .8 .9 1: 4 of 1, 3 of 2/3, 4 of 1/2 = 8 over 11
    assert average_precision(recall, precision, "voc11") == pytest.approx(8 / 11)
    # 1/3 * (1 + 2/3 + 1/2) = 13/18
    assert average_precision(recall, precision, "voc_all") == pytest.approx(13 / 18)
    # r = 0..33 | 34..66 | 67..100 hundredths: 34 + 33 * 2/3 + 34 / 2 = 73 over 101
    assert average_precision(recall, precision, "coco101") == pytest.approx(73 / 101)


def test_curve_that_never_reaches_full_recall_by_hand():
    # One of two found, at once: precision 1 up to recall .5, then nothing.
    curve = precision_recall(np.array([True, False]), 2)
    assert average_precision(*curve, "voc11") == pytest.approx(6 / 11)  # 0 .1 .2 .3 .4 .5
    assert average_precision(*curve, "voc_all") == pytest.approx(1 / 2)
    assert average_precision(*curve, "coco101") == pytest.approx(51 / 101)


@pytest.mark.parametrize("method", METHODS)
def test_later_precision_counts_for_earlier_recall_by_hand(method):
    # miss, hit, hit of 2: precision 0, 1/2, 2/3; the best at any recall >= r is 2/3 for every r
    assert average_precision(*precision_recall(np.array([0, 1, 1], bool), 2), method) == pytest.approx(2 / 3)


def test_recall_on_a_grid_point_reaches_it():
    """3 of 10 is recall .3, although .1 + .1 + .1 is not; a grid built by adding would lose a point."""
    for found in range(11):
        recall, precision = precision_recall(np.arange(10) < found, 10)
        assert average_precision(recall, precision, "voc11") == pytest.approx((found + (found > 0)) / 11)
        # numpy.arange's .3, .6 and .7 are a little more than 3/10, 6/10 and 7/10
        reached = found + (found > 0) - (found in (3, 6, 7))
        assert average_precision(recall, precision, "voc11_numpy") == pytest.approx(reached / 11)


@pytest.mark.parametrize("method", METHODS)
def test_no_detections(method):
    recall, precision = precision_recall(np.zeros(0, bool), 3)
    assert average_precision(recall, precision, method) == 0


def test_matching_by_hand():
    shifted = (11, 10, 4, 4)  # shares 3*4 of 16 + 16 - 12 with A: IoU .6
    matches = match_detections(
        detection_table(
            (0, shifted, 0.8), (0, A, 0.9), (1, A, 0.95), (1, NOWHERE, 0.3), (0, B, 0.1), (2, C, 0.7)
        ),
        truth_table((0, A), (0, B), (1, A), (1, C)),
    )
    # surest first: A in picture 1, A in picture 0, a second box on A, picture 2 has no truth, nowhere, B
    np.testing.assert_array_equal(matches.scores, [0.95, 0.9, 0.8, 0.7, 0.3, 0.1])
    np.testing.assert_array_equal(matches.hit, [True, True, False, False, False, True])
    assert matches.positives == 4


def test_overlap_of_exactly_the_threshold_counts():
    half = (10, 10, 2, 4)  # half of A: IoU 8/16
    detections, truths = detection_table((0, half, 0.5)), truth_table((0, A))
    assert best_truths(detections, truths)[1] == 0.5
    assert match_detections(detections, truths, 0.5).hit.all()
    assert not match_detections(detections, truths, np.nextafter(0.5, 1)).hit.any()


def test_pixels_of_the_development_kit_by_hand():
    corners = np.array([(1, 1, 2, 2), (5, 7, 5, 7), (1, 1, 10, 10), (6, 1, 15, 10)])
    boxes = inclusive_xyxy_to_cxcywh(corners)
    np.testing.assert_array_equal(boxes[:2], [(1, 1, 2, 2), (4.5, 6.5, 1, 1)])  # a pixel is one wide
    # columns 1..10 and 6..15 share five of fifteen; 1 to 10 and 6 to 15 as lengths share 4 * 9 of 126
    assert box_iou(boxes[2:3], boxes[3:]) == pytest.approx(1 / 3)
    shifted = np.array([(1.25, 3, 2.75, 4.5), (101.25, 53, 102.75, 54.5)])
    first, second = inclusive_xyxy_to_cxcywh(shifted)
    np.testing.assert_array_equal(second - first, [100, 50, 0, 0])


def test_the_pixel_more_decides_by_hand():
    """Columns 1..3 and 2..4 of three rows share two of four, which is enough; lengths of 2 share 1 of 3."""
    truth, found = inclusive_xyxy_to_cxcywh(np.array([(1, 1, 3, 3), (2, 1, 4, 3)]))
    assert match_detections(detection_table((0, found, 0.9)), truth_table((0, truth))).hit.all()
    truth, found = (2, 2, 2, 2), (3, 2, 2, 2)
    assert not match_detections(detection_table((0, found, 0.9)), truth_table((0, truth))).hit.any()


def test_second_box_on_a_truth_does_not_take_the_next_one():
    """VOC's rule: it speaks for the truth it overlaps most and is wrong, though another is free and near."""
    near = (11, 10, 4, 4)  # IoU .6 with A = (10, 10, 4, 4)
    truths = truth_table((0, A), (0, near))
    matches = match_detections(detection_table((0, A, 0.9), (0, A, 0.8)), truths)
    np.testing.assert_array_equal(matches.hit, [True, False])


def test_difficult_truths_are_neither_found_nor_missed():
    truths = truth_table((0, A, 0, True), (0, B))
    matches = match_detections(
        detection_table((0, A, 0.9), (0, A, 0.8), (0, B, 0.7), (0, NOWHERE, 0.6)), truths
    )
    np.testing.assert_array_equal(matches.scores, [0.7, 0.6])
    np.testing.assert_array_equal(matches.hit, [True, False])
    assert matches.positives == 1


def test_crowds_leave_out_what_finds_nothing_else():
    """By the share of the detection that lies in the crowd, and only if it is of no truth."""
    rows = truth_table((0, (10, 10, 20, 20), 0, True), (0, A))
    crowd = TruthTable(*list(vars(rows).values())[:4], crowd=rows.difficult)
    inside, half, out = (16, 16, 4, 4), (20, 16, 4, 4), (21, 16, 4, 4)
    detections = detection_table((0, A, 0.9), (0, A, 0.8), (0, inside, 0.7), (0, half, 0.6), (0, out, 0.5))
    matches = match_detections(detections, crowd)
    np.testing.assert_array_equal(matches.scores, [0.9, 0.8, 0.5])
    np.testing.assert_array_equal(matches.hit, [True, False, False])
    assert matches.positives == 1
    assert len(match_detections(detections, rows).hit) == 5  # as a difficult truth it is far from all of them
    result = mean_average_precision(detections, crowd, 1, method="voc_all")
    assert result.mean == 1 and result.truths.tolist() == [1]


def test_pairs_are_those_that_overlap():
    """Each detection with its own picture's truths, whatever the order of the rows and however many."""
    draw = np.random.default_rng(0)
    truths = truth_table(*((p, box) for p, box in zip([2, 0, 2, 0], (A, B, B, A), strict=True)))
    D = CHUNK + 100
    some = np.array([A, B, C, NOWHERE], float)[draw.integers(0, 4, D)]
    detections = DetectionTable(draw.integers(0, 4, D), some, np.zeros(D, int), np.ones(D))
    detection, truth, overlap = overlapping_pairs(detections, truths)
    want = [
        (d, t)
        for d, (p, box) in enumerate(zip(detections.picture.tolist(), some.tolist(), strict=True))
        for t in np.flatnonzero((truths.picture == p) & (truths.boxes == box).all(axis=1))
    ]
    assert list(zip(detection.tolist(), truth.tolist(), strict=True)) == want and (overlap == 1).all()
    best, iou = best_truths(detections, truths)
    assert set(zip(iou.tolist(), (best >= 0).tolist(), strict=True)) == {(1.0, True), (0.0, False)}
    flat = detection_table((0, (10, 10, 0, 0), 1))
    assert len(overlapping_pairs(flat, truth_table((0, (10, 10, 0, 0))))[0]) == 0  # 0/0 is no overlap


def test_equal_scores_keep_their_order():
    truths = truth_table((0, A))
    better, worse = (0, A, 0.5), (0, (11, 10, 4, 4), 0.5)
    np.testing.assert_array_equal(match_detections(detection_table(worse, better), truths).hit, [True, False])
    np.testing.assert_array_equal(match_detections(detection_table(better, worse), truths).hit, [True, False])
    # Enough of them that an unstable sort would show: of the .5s, A comes after 60 that are nowhere.
    crowd = [(0, NOWHERE, score) for score in [0.5, 0.25] * 60] + [(0, A, 0.5)] * 60
    np.testing.assert_array_equal(np.flatnonzero(match_detections(detection_table(*crowd), truths).hit), [60])


def test_mean_over_classes_by_hand():
    truths = truth_table((0, A, 0), (0, B, 0), (1, A, 1), (1, B, 2, True))
    detections = detection_table(
        (0, A, 0.9, 0), (0, NOWHERE, 0.8, 0), (0, B, 0.7, 0), (1, A, 0.9, 3), (1, A, 0.2, 1), (1, B, 0.9, 2)
    )
    result = mean_average_precision(detections, truths, classes=4, method="voc_all")
    # class 0: precision 1 to recall 1/2, 2/3 to 1 = 5/6; class 1: 1; 2 has only a difficult truth, 3 none
    np.testing.assert_allclose(result.per_class, [5 / 6, 1, np.nan, np.nan])
    np.testing.assert_array_equal(result.truths, [2, 1, 0, 0])
    assert result.mean == pytest.approx(11 / 12)


def test_several_thresholds_are_averaged():
    detections, truths = detection_table((0, (11, 10, 4, 4), 0.9)), truth_table((0, A))  # IoU 12/20
    thresholds = np.arange(50, 100, 5) / 100  # right at .5 .55 .6, wrong at the other seven
    result = mean_average_precision(detections, truths, 1, thresholds, "coco101")
    assert result.mean == pytest.approx(3 / 10)


def test_nothing_at_all():
    result = mean_average_precision(detection_table(), truth_table(), classes=2)
    assert np.isnan(result.mean) and np.isnan(result.per_class).all()
    result = mean_average_precision(detection_table(), truth_table((0, A)), classes=2)
    np.testing.assert_array_equal(result.per_class, [0, np.nan])
    assert result.mean == 0


def test_refuses():
    with pytest.raises(ValueError, match="no truth"):
        precision_recall(np.zeros(1, bool), 0)
    with pytest.raises(ValueError, match="'voc12' is not one of"):
        average_precision(np.ones(1), np.ones(1), "voc12")
    with pytest.raises(ValueError, match="differ in length"):
        TruthTable(np.zeros(2, int), np.zeros((1, 4)), np.zeros(2, int), np.zeros(2, bool))
    with pytest.raises(ValueError, match="crowd"):
        TruthTable(np.zeros(1, int), np.ones((1, 4)), np.zeros(1, int), np.zeros(1, bool), np.ones(1, bool))
    with pytest.raises(ValueError, match="no order"):
        detection_table((0, A, float("nan")))
    with pytest.raises(ValueError, match="class 2 where there are 2"):
        mean_average_precision(detection_table(), truth_table((0, A, 2)), classes=2)


ROUNDING = 1e-14  # of a sum of 41 terms no larger than 1
hits = st.lists(st.booleans(), max_size=40)


@pytest.mark.parametrize("method", METHODS)
@given(hit=hits, missed=st.integers(0, 5))
def test_properties_of_the_number(method, hit, missed):
    hit = np.array(hit, bool)
    positives = int(hit.sum()) + missed
    if positives == 0:
        return
    ap = average_precision(*precision_recall(hit, positives), method)
    assert 0 <= ap <= 1 + ROUNDING
    assert (ap == 0) == (not hit.any())
    longer = average_precision(*precision_recall(np.append(hit, False), positives), method)
    assert abs(longer - ap) <= ROUNDING, "a miss at the end costs nothing"
    surest = average_precision(*precision_recall(np.sort(hit)[::-1], positives), method)
    assert surest >= ap - ROUNDING, "no order is better than right before wrong"
    if missed == 0:
        assert surest == pytest.approx(1)
    integral = average_precision(*precision_recall(hit, positives), "voc_all")
    # p(r) does not increase, so its mean over 0, 1/n, ..., 1 is off by at most one of n + 1 terms
    assert (
        abs(ap - integral)
        <= {"voc11": 1 / 11, "voc11_numpy": 1 / 11, "voc_all": 0, "coco101": 1 / 101}[method] + ROUNDING
    )


pixels = st.tuples(*[st.integers(1, 9)] * 4).map(
    lambda c: (min(c[::2]), min(c[1::2]), max(c[::2]), max(c[1::2]))
)


@given(pixels, pixels)
def test_overlap_in_pixels_is_that_of_sets_of_pixels(a, b):
    def inside(box):
        return {(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)}

    iou = box_iou(*(inclusive_xyxy_to_cxcywh(np.array([box])) for box in (a, b)))
    assert iou[0, 0] == len(inside(a) & inside(b)) / len(inside(a) | inside(b))


coordinates = st.integers(0, 24).map(float)
boxes = st.tuples(coordinates, coordinates, st.integers(1, 12).map(float), st.integers(1, 12).map(float))
truth_rows = st.lists(st.tuples(st.integers(0, 3), boxes, st.integers(0, 2), st.booleans()), max_size=8)


@given(
    truth_rows, st.lists(st.tuples(st.integers(0, 3), boxes, st.integers(0, 2)), max_size=12), st.randoms()
)
def test_properties_of_the_matching(rows, found, random):
    truths = truth_table(*rows)
    detections = detection_table(*((p, b, 1 - i / 64, c) for i, (p, b, c) in enumerate(found)))
    matches = match_detections(detections, truths, 0.5)
    assert matches.hit.sum() <= matches.positives
    assert len(matches.hit) <= len(found)
    # With scores that differ, neither the order of detections nor that of pictures matters.
    order = np.array(random.sample(range(len(found)), len(found)), int)
    again = match_detections(detections.where(order), truths, 0.5)
    np.testing.assert_array_equal(again.hit, matches.hit)
    # The truths themselves, as detections, are perfect.
    perfect = DetectionTable(truths.picture, truths.boxes, truths.classes, np.ones(len(rows)))
    unique = len({(p, b, c) for p, b, c, _ in rows}) == len(rows)
    result = mean_average_precision(perfect, truths, 3, method="voc_all")
    if unique and result.truths.any():
        assert result.mean == pytest.approx(1)

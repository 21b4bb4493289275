"""reference.kmeans: hand-computed cases, properties, and the paper's numbers on VOC's real boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reference.kmeans import (
    _lloyd,
    _squared_distance,
    iou_kmeans,
    mean_best_iou,
    recall_at,
    shape_iou,
    sse_kmeans,
)
from tests.golden import DATA

METHODS = [iou_kmeans, sse_kmeans]
# Sizes on a 1/64 grid of cells, so that equal shapes are exactly equal.
shapes = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 30), st.just(2)),
    elements=st.integers(1, 13 * 64).map(lambda n: n / 64),
)


def test_shape_iou_by_hand():
    wh = np.array([[2.0, 3.0], [4.0, 1.0]])
    anchors = np.array([[2.0, 3.0], [1.0, 1.0], [4.0, 2.0]])
    # (2,3) with (4,2): shared 2*2 = 4 of 6 + 8 - 4 = 10. (4,1) with (2,3): shared 2*1 = 2 of 4 + 6 - 2 = 8.
    expected = [[1, 1 / 6, 4 / 10], [2 / 8, 1 / 4, 4 / 8]]
    np.testing.assert_allclose(shape_iou(wh, anchors), expected, rtol=1e-15)
    assert mean_best_iou(wh, anchors) == pytest.approx((1 + 1 / 2) / 2)
    assert recall_at(wh, anchors, 0.5) == 1.0, "exactly .5 is recalled"
    assert recall_at(wh, anchors, 0.51) == 0.5


def test_one_anchor_by_hand():
    wh = np.array([[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]])
    # Median (2,2): IoU 1/4, 1, 4/16. Mean (7/3,7/3): areas 1, 4, 16 against 49/9.
    anchors, mean_iou = iou_kmeans(wh, 1)
    np.testing.assert_array_equal(anchors, [[2.0, 2.0]])
    assert mean_iou == pytest.approx((1 / 4 + 1 + 1 / 4) / 3)
    anchors, mean_iou = sse_kmeans(wh, 1)
    np.testing.assert_allclose(anchors, [[7 / 3, 7 / 3]])
    assert mean_iou == pytest.approx((9 / 49 + 36 / 49 + 49 / 144) / 3)


def test_the_two_distances_disagree():
    """Two small shapes of little overlap, two large ones alike in shape: only the IoU parts the small."""
    wh = np.array([[0.5, 2.0], [2.0, 0.5], [8.0, 8.0], [11.0, 11.0]])
    iou_anchors, iou_mean = iou_kmeans(wh, 3)
    sse_anchors, sse_mean = sse_kmeans(wh, 3)
    np.testing.assert_allclose(iou_anchors, [[0.5, 2], [2, 0.5], [9.5, 9.5]])
    np.testing.assert_allclose(sse_anchors, [[1.25, 1.25], [8, 8], [11, 11]])
    # 1, 1, 64/90.25, 90.25/121 against twice 0.625/(1 + 1.5625 - 0.625), 1, 1
    assert iou_mean == pytest.approx((2 + 64 / 90.25 + 90.25 / 121) / 4)
    assert sse_mean == pytest.approx((2 * 0.625 / 1.9375 + 2) / 4)


def test_anchor_that_loses_its_boxes_is_moved_to_the_worst_served():
    wh = np.array([[1.0, 1.0], [2.0, 2.0], [9.0, 9.0]])
    start = np.array([[1.0, 1.0], [50.0, 50.0], [60.0, 60.0]])  # the last two are nobody's nearest
    moved = _lloyd(wh, start, 1, _squared_distance, lambda members: members.mean(axis=0))
    np.testing.assert_array_equal(moved[:, 0], [4, 9, 2], "the mean of all three, then the farthest from 1")
    settled = _lloyd(wh, start, 10, _squared_distance, lambda members: members.mean(axis=0))
    assert sorted(settled[:, 0]) == [1, 2, 9]


@pytest.mark.parametrize("kmeans", METHODS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_is_kept(kmeans, dtype):
    anchors, mean_iou = kmeans(np.array([[1, 2], [2, 1], [5, 5]], dtype), 2)
    assert anchors.dtype == dtype
    assert isinstance(mean_iou, float)


@pytest.mark.parametrize("kmeans", METHODS)
@pytest.mark.parametrize(
    "wh, k, message",
    [
        ([[1, 1], [1, 1], [2, 2]], 3, "3 anchors from 2 different boxes"),
        ([[1, 1]], 0, "0 anchors"),
        (np.zeros((0, 2)), 1, "1 anchors from 0 different boxes"),
        ([[1, 0], [1, 1]], 1, "positive"),
        ([[1, -1], [1, 1]], 1, "positive"),
        ([[1, np.nan], [1, 1]], 1, "positive"),
        ([[1, np.inf], [1, 1]], 1, "finite"),
        ([[1, 1, 1]], 1, "not \\(N, 2\\)"),
        ([1, 1], 1, "not \\(N, 2\\)"),
    ],
)
def test_refuses(kmeans, wh, k, message):
    with pytest.raises(ValueError, match=message):
        kmeans(np.asarray(wh, float), k)


@pytest.mark.parametrize("kmeans", METHODS)
@settings(max_examples=50, deadline=None)
@given(wh=shapes, data=st.data())
def test_properties(kmeans, wh, data):
    distinct = len(np.unique(wh, axis=0))
    k = data.draw(st.integers(1, distinct))
    anchors, mean_iou = kmeans(wh, k, seed=3, iterations=20, restarts=2)
    assert anchors.shape == (k, 2)
    assert (np.diff(anchors.prod(axis=1)) >= 0).all(), "sorted by area"
    assert (anchors >= wh.min(axis=0) - 1e-9).all() and (anchors <= wh.max(axis=0) + 1e-9).all()
    assert mean_iou == mean_best_iou(wh, anchors)
    assert 0 < mean_iou <= 1
    np.testing.assert_array_equal(kmeans(wh, k, seed=3, iterations=20, restarts=2)[0], anchors)
    # Powers of two scale without rounding, and neither distance cares for the unit.
    scaled, scaled_iou = kmeans(wh * 32, k, seed=3, iterations=20, restarts=2)
    np.testing.assert_array_equal(scaled, anchors * 32)
    assert scaled_iou == mean_iou


@pytest.mark.parametrize("kmeans", METHODS)
@settings(max_examples=30, deadline=None)
@given(wh=shapes)
def test_as_many_anchors_as_shapes_fit_perfectly(kmeans, wh):
    distinct = np.unique(wh, axis=0)
    anchors, mean_iou = kmeans(wh, len(distinct), restarts=1)
    np.testing.assert_array_equal(np.unique(anchors, axis=0), distinct)
    assert mean_iou == 1.0


@given(wh=shapes, anchors=shapes)
def test_shape_iou_is_symmetric_and_at_most_one(wh, anchors):
    iou = shape_iou(wh, anchors)
    np.testing.assert_array_equal(iou, shape_iou(anchors, wh).T)
    assert ((iou > 0) & (iou <= 1)).all()
    assert ((iou == 1) == (wh[:, None] == anchors).all(axis=-1)).all()


BOXES = DATA / "voc0712_boxes.npz"


@pytest.mark.skipif(not BOXES.exists(), reason=f"VOC's boxes are absent: {BOXES}")
def test_paper_numbers_on_voc():
    """Paper 2, table 1: 61.0 and 67.2 for 5 and 9 clusters, 58.7 for 5 by squared error."""
    from yolov2.anchors import box_cells, read_boxes

    wh = box_cells(*read_boxes(BOXES, "trainval"), grid=13, resize="letterbox")
    assert wh.shape == (40058, 2)
    _, iou5 = iou_kmeans(wh, 5, restarts=3)
    _, iou9 = iou_kmeans(wh, 9, restarts=2)
    _, sse5 = sse_kmeans(wh, 5, restarts=1)
    assert iou5 >= 0.612
    assert iou9 >= 0.680
    assert sse5 == pytest.approx(0.587, abs=0.005)

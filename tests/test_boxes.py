"""Overlap of boxes: small numbers by hand, and what must hold for any boxes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.boxes import (
    box_cxcywh_to_xyxy,
    box_intersection,
    box_iou,
    box_iou_broadcast,
    box_rmse,
    box_union,
    box_xyxy_to_cxcywh,
)

#: boxes on a 1/64 grid, where sums and products are exact
BOX = st.tuples(*[st.integers(-128, 128)] * 2, *[st.integers(1, 128)] * 2).map(lambda b: np.array(b) / 64)


def test_formats_by_hand():
    cxcywh, xyxy = np.array([[3.0, 5, 2, 4]]), np.array([[2.0, 3, 4, 7]])
    np.testing.assert_array_equal(box_cxcywh_to_xyxy(cxcywh), xyxy)
    np.testing.assert_array_equal(box_xyxy_to_cxcywh(xyxy), cxcywh)


def test_overlap_by_hand():
    # [-1, 1] x [-1, 1] and [0, 2] x [0, 4] share 1 x 1; together 4 + 8 - 1
    a, b = np.array([0.0, 0, 2, 2]), np.array([1.0, 2, 2, 4])
    assert box_intersection(a, b) == 1
    assert box_union(a, b) == 11
    assert box_iou_broadcast(a, b) == 1 / 11


def test_apart_in_both_directions_is_not_an_overlap():
    # both overlaps are -1; their product would be +1
    assert box_intersection(np.array([0.0, 0, 1, 1]), np.array([2.0, 2, 1, 1])) == 0


def test_touching_boxes_do_not_overlap():
    assert box_iou_broadcast(np.array([0.0, 0, 2, 2]), np.array([2.0, 0, 2, 2])) == 0


def test_boxes_without_area():
    point, unit = np.array([0.0, 0, 0, 0]), np.array([0.0, 0, 1, 1])
    assert np.isnan(box_iou_broadcast(point, point))  # 0/0, no epsilon hides it
    assert box_iou_broadcast(point, unit) == 0


def test_rmse_by_hand():
    assert box_rmse(np.array([1.0, 2, 3, 4]), np.array([1.0, 5, 3, 8])) == 5  # sqrt(3^2 + 4^2), no mean


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_iou_matrix(n, m):
    a, b = np.ones((n, 4), np.float32), np.ones((m, 4), np.float32)
    iou = box_iou(a, b)
    assert iou.shape == (n, m) and iou.dtype == np.float32
    assert (iou == 1).all()


def test_rows_are_a_and_columns_are_b():
    unit, half = np.array([0.0, 0, 1, 1]), np.array([0.0, 0, 1, 0.5])
    np.testing.assert_array_equal(box_iou(np.stack([unit, half]), unit[None]), [[1], [0.5]])


@given(BOX, BOX)
def test_iou_is_a_symmetric_share(a, b):
    iou = box_iou_broadcast(a, b)
    assert 0 <= iou <= 1
    assert iou == box_iou_broadcast(b, a)
    assert (iou == 1) == (a == b).all()


@given(BOX, BOX, st.integers(-64, 64), st.integers(-64, 64), st.integers(-3, 3))
def test_iou_ignores_place_and_unit(a, b, dx, dy, power):
    iou = box_iou_broadcast(a, b)
    shift = np.array([dx, dy, 0, 0]) / 64
    assert box_iou_broadcast(a + shift, b + shift) == iou
    assert box_iou_broadcast(a * 2.0**power, b * 2.0**power) == iou


@given(BOX)
def test_formats_round_trip(box):
    np.testing.assert_array_equal(box_xyxy_to_cxcywh(box_cxcywh_to_xyxy(box)), box)

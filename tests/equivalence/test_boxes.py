"""Box arithmetic of torch against the oracle, exact on a grid."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.boxes
import reference.boxes

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


@DTYPES
@given(
    rows=st.lists(st.tuples(*[st.integers(-8, 64)] * 2, *[st.integers(0, 64)] * 2), min_size=1, max_size=8)
)
def test_box_iou(dtype, rows):
    boxes = np.array(rows, dtype) / 64
    got = fast.boxes.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes))
    np.testing.assert_array_equal(got.numpy(), reference.boxes.box_iou(boxes, boxes))
    corners = reference.boxes.box_cxcywh_to_xyxy(boxes)
    np.testing.assert_array_equal(fast.boxes.box_cxcywh_to_xyxy(torch.from_numpy(boxes)).numpy(), corners)
    np.testing.assert_array_equal(
        fast.boxes.box_xyxy_to_cxcywh(torch.from_numpy(corners)).numpy(),
        reference.boxes.box_xyxy_to_cxcywh(corners),
    )

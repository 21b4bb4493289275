"""The torch twins against the oracle: same names, same arguments, same numbers.

Real numbers: the oracle in the same dtype is at most `TOLERANCE` away, relative to the largest value.
Indices, masks, counts and the kept boxes of NMS are equal.
"""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import fast.assign
import fast.boxes
import fast.decode
import fast.detect
import fast.loss
import fast.nms
import reference.assign
import reference.boxes
import reference.decode
import reference.detect
import reference.loss
import reference.nms
from reference.region import Region
from tests.strategies import cases, predictions, regions, well_posed

# sums of a few thousand terms in either dtype, with room for the two libraries' exp and log
TOLERANCE = {np.float32: 1e-5, np.float64: 1e-12}
DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def close(got: torch.Tensor, want: np.ndarray, dtype) -> None:
    """Within the tolerance, relative to the largest expected value; NaN and inf at the same places."""
    want = np.asarray(want)
    assert got.dtype == torch.from_numpy(want.reshape(-1)).dtype
    assert tuple(got.shape) == want.shape
    finite = np.abs(want[np.isfinite(want)])
    scale = max(1.0, finite.max(initial=0.0))
    np.testing.assert_allclose(
        got.detach().numpy(), want, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale
    )


@DTYPES
@settings(max_examples=200)
@given(case=cases())
def test_region_loss_and_gradient(dtype, case):
    assume(well_posed(case))
    pred, truth = case.pred.astype(dtype), case.truth.astype(dtype)
    want = reference.loss.region_loss(pred, truth, case.region, case.seen)
    want_grad = reference.loss.region_loss_grad(pred, truth, case.region, case.seen)
    leaf = torch.from_numpy(pred).requires_grad_()
    got = fast.loss.region_loss(leaf, torch.from_numpy(truth), case.region, case.seen)
    got.total.backward()
    for name, value in want._asdict().items():
        close(getattr(got, name), value, dtype)
    close(leaf.grad, want_grad, dtype)


@DTYPES
@settings(max_examples=200)
@given(case=cases())
def test_assignment(dtype, case):
    assume(well_posed(case))
    pred, truth = case.pred.astype(dtype), case.truth.astype(dtype)
    want = reference.assign.assign_targets(pred, truth, case.region)
    got = fast.assign.assign_targets(torch.from_numpy(pred), torch.from_numpy(truth), case.region)
    np.testing.assert_array_equal(got.index.numpy(), want.index)
    np.testing.assert_array_equal(got.ignore.numpy(), want.ignore)
    assert got.index.dtype == torch.int32


@DTYPES
@settings(max_examples=100)
@given(data=st.data(), region=regions())
def test_decode(dtype, data, region):
    pred = data.draw(predictions(region, 2, 3, 2)).astype(dtype)
    want = reference.decode.decode(pred, region)
    got = fast.decode.decode(torch.from_numpy(pred), region)
    for name, value in want._asdict().items():
        close(getattr(got, name), value, dtype)


@settings(max_examples=200)
@given(
    case=cases(max_truths=0),
    conf=st.sampled_from([0.0, 0.005, 0.1, 0.25]),
    # not 1: a decoded box overlaps itself by 1 up to rounding, and `test_nms` has that case on a grid
    iou=st.sampled_from([0.0, 0.3, 0.45, 0.95]),
    max_det=st.sampled_from([1, 3, 200]),
    multi_label=st.booleans(),
    class_agnostic=st.booleans(),
    map_nodes=st.none() | st.just((3, 0, 9)),
)
def test_detect(case, conf, iou, max_det, multi_label, class_agnostic, map_nodes):
    # float64: two libraries round exp differently, and in float32 equal scores would often come apart
    pred = case.pred.astype(np.float64)
    options = (conf, iou, max_det, multi_label, class_agnostic, 0.5)
    nodes = map_nodes if case.region.tree is not None else None
    decoded = reference.decode.decode(pred, case.region)
    scores = np.unique(reference.detect.class_scores(decoded, case.region, conf, 0.5, nodes))
    assume((np.diff(scores) > 1e-12).all())  # equal or clearly apart: no order that rounding decides
    want = reference.detect.detect(pred, case.region, *options, nodes)
    got = fast.detect.detect(torch.from_numpy(pred), case.region, *options, nodes)
    np.testing.assert_array_equal(got.count.numpy(), want.count)
    np.testing.assert_array_equal(got.classes.numpy(), want.classes)
    close(got.boxes, want.boxes, np.float64)
    close(got.scores, want.scores, np.float64)


@settings(max_examples=200)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, 64)] * 4, st.integers(0, 8)), max_size=40),
    threshold=st.sampled_from([0.0, 0.25, 0.45, 0.5, 1.0]),
)
def test_nms(rows, threshold):
    table = np.array(rows, np.float32).reshape(-1, 5)
    boxes, scores = table[:, :4] / 64, table[:, 4] / 8
    want = reference.nms.nms(boxes, scores, threshold)
    got = fast.nms.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    np.testing.assert_array_equal(got.numpy(), want)


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loss_is_computed_in_float32(dtype):
    region = Region(((1.0, 1.0), (2.0, 1.0)), 3)
    pred = torch.randn(1, region.channels, 2, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    truth = torch.tensor([[[0.3, 0.6, 0.2, 0.4, 1.0]]])
    half, full = pred.clone().requires_grad_(), pred.float().requires_grad_()
    fast.loss.region_loss(half, truth, region, 1).total.backward()
    fast.loss.region_loss(full, truth, region, 1).total.backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, full.grad.to(dtype), rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_does_not_matter(layout):
    region = Region(((1.0, 1.0), (2.0, 1.0)), 3)
    pred = torch.randn(2, region.channels, 3, 2, generator=torch.Generator().manual_seed(1))
    truth = torch.tensor([[[0.3, 0.6, 0.2, 0.4, 1.0]], [[0.0] * 5]])
    got = fast.loss.region_loss(pred.to(memory_format=layout), truth, region, 1)
    want = fast.loss.region_loss(pred, truth, region, 1)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "row",
    [
        (0.5, 0.5, 0.2, 0.2, 3),  # there is no class 3
        (0.5, 0.5, 0.2, 0.2, -1),
        (1.0, 0.5, 0.2, 0.2, 0),  # centred on the border: belongs to no cell
        (0.5, -0.1, 0.2, 0.2, 0),
        (0.5, 0.5, 0.0, 0.2, 0),  # empty
    ],
)
@pytest.mark.parametrize("wing", [reference, fast])
def test_impossible_truths_are_refused(wing, row):
    region = Region(((1.0, 1.0),), 3)
    pred = np.zeros((1, region.channels, 2, 2), np.float32)
    truth = np.array([[(0.1, 0.1, 0.1, 0.1, 0), row]], np.float32)
    if wing is fast:
        pred, truth = torch.from_numpy(pred), torch.from_numpy(truth)
    with pytest.raises(ValueError, match="image 0, row 1"):
        wing.loss.region_loss(pred, truth, region, 1)


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match="needs"):
        fast.decode.decode(torch.zeros(1, 7, 2, 2), Region(((1.0, 1.0),), 3))

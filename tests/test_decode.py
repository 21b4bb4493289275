"""Raw head to boxes and probabilities: slots by hand, and encode(decode(x)) = x."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.decode import activate_region, by_slot, decode, encode
from reference.region import Region
from tests.strategies import TREE, predictions, regions

TWO = Region(anchors=((1.0, 2.0), (3.0, 4.0)), classes=3)


def test_box_by_hand():
    # anchor 1 (3 x 4 cells) in row 1, column 2 of a grid of 2 rows and 3 columns
    pred = np.zeros((1, 16, 2, 3))
    pred[0, 8:12, 1, 2] = np.log([3, 1 / 3, 2, 0.5])  # sigma(ln 3) = 3/4, sigma(-ln 3) = 1/4
    boxes = decode(pred, TWO).boxes
    want = [(2 + 3 / 4) / 3, (1 + 1 / 4) / 2, 3 * 2 / 3, 4 * 0.5 / 2]
    np.testing.assert_allclose(boxes[0, 1, 1, 2], want, rtol=1e-12)
    # anchor 0 (1 x 2 cells) of the first cell, raw zeros: the anchor, in the middle of the cell
    np.testing.assert_allclose(boxes[0, 0, 0, 0], [0.5 / 3, 0.5 / 2, 1 / 3, 2 / 2], rtol=1e-12)


def test_offsets_from_the_anchor_by_hand():
    # 1/4 of the anchor's 3 cells right of the middle of column 2, 4 cells above that of row 1: outside
    region = replace(TWO, location="anchor")
    pred = np.zeros((1, 16, 2, 3))
    pred[0, 8:10, 1, 2] = 1 / 4, -1
    np.testing.assert_allclose(
        decode(pred, region).boxes[0, 1, 1, 2], [(2.5 + 3 / 4) / 3, (1.5 - 4) / 2, 3 / 3, 4 / 2], rtol=1e-12
    )
    # raw zeros are the anchor in the middle of its cell for both, and the layer puts nothing out but t_x
    np.testing.assert_array_equal(decode(0 * pred, region).boxes, decode(0 * pred, TWO).boxes)
    np.testing.assert_array_equal(by_slot(activate_region(pred, region), region)[0, 1, 1, 2, :2], [1 / 4, -1])


def test_anchor_owns_a_block_of_channels():
    pred = np.arange(16, dtype=float).reshape(1, 16, 1, 1)
    slots = by_slot(pred, TWO)
    assert slots.shape == (1, 2, 1, 1, 8)
    np.testing.assert_array_equal(slots[0, 1, 0, 0], np.arange(8, 16))


def test_softmax_by_hand():
    # scores ln 1, ln 2, ln 5 of anchor 1; those of anchor 0 must not matter
    pred = np.zeros((1, 16, 1, 1))
    pred[0, 12:, 0, 0] = np.log([3, 1, 2, 5])
    decoded = decode(pred, TWO)
    assert decoded.objectness[0, 1, 0, 0] == pytest.approx(0.75)
    np.testing.assert_allclose(decoded.class_probs[0, 1, 0, 0], [1 / 8, 2 / 8, 5 / 8])
    np.testing.assert_allclose(decoded.class_probs[0, 0, 0, 0], [1 / 3] * 3)


def test_logistic_classes_by_hand():
    region = Region(anchors=((1.0, 1.0),), classes=2, class_activation="logistic")
    pred = np.log([1, 1, 1, 1, 1, 3, 1 / 3]).reshape(1, 7, 1, 1)
    np.testing.assert_allclose(decode(pred, region).class_probs[0, 0, 0, 0], [0.75, 0.25])


def test_tree_by_hand():
    # every group of siblings sums to one; scores are equal but for terrier (ln 3) against pug (0)
    region = Region(anchors=((1.0, 1.0),), classes=10, class_activation="tree", tree=TREE)
    pred = np.zeros((1, 15, 1, 1))
    pred[0, 5 + 8] = np.log(3)
    want = [1 / 3] * 3 + [1 / 2] * 2 + [1 / 3] * 3 + [3 / 4, 1 / 4]
    np.testing.assert_allclose(decode(pred, region).class_probs[0, 0, 0, 0], want)


def test_background_by_hand():
    # objectness is one more class: 4 : 1 : 3 of 8
    region = Region(anchors=((1.0, 1.0),), classes=2, background=True)
    decoded = decode(np.log([1.0, 1, 1, 1, 4, 1, 3]).reshape(1, 7, 1, 1), region)
    assert decoded.objectness[0, 0, 0, 0] == pytest.approx(1 / 2)
    np.testing.assert_allclose(decoded.class_probs[0, 0, 0, 0], [1 / 8, 3 / 8])


def test_sizes_stay_raw_in_the_layer_output():
    pred = np.full((1, 16, 1, 1), 2.0)
    output = by_slot(activate_region(pred, TWO), TWO)
    assert (output[..., 2:4] == 2).all()
    assert output[..., [0, 1, 4]] == pytest.approx(1 / (1 + np.exp(-2)))


def test_saturation_is_silent():
    pred = np.full((1, 16, 1, 1), 1000, np.float32)
    decoded = decode(pred, TWO)
    assert np.isinf(decoded.boxes[..., 2:]).all() and (decoded.objectness == 1).all()
    decoded = decode(-pred, TWO)
    assert (decoded.boxes[..., 2:] == 0).all() and (decoded.objectness == 0).all()
    np.testing.assert_allclose(decoded.class_probs, 1 / 3, rtol=1e-6)


def test_no_images():
    assert decode(np.zeros((0, 16, 2, 2)), TWO).boxes.shape == (0, 2, 2, 2, 4)


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match="needs \\(B, 16, H, W\\) for 2 anchors and 3 classes"):
        decode(np.zeros((1, 15, 2, 2)), TWO)


@st.composite
def heads(draw):
    region = draw(regions())
    return region, draw(predictions(region, 2, draw(st.integers(1, 4)), draw(st.integers(1, 4))))


@settings(deadline=None, max_examples=50)
@given(heads())
def test_encode_inverts_decode(head):
    region, pred = head
    pred = pred.astype(np.float64)
    output, boxes = by_slot(activate_region(pred, region), region), decode(pred, region).boxes
    for image, *slot in np.ndindex(*boxes.shape[:4]):
        got = encode(boxes[image, *slot], tuple(slot), boxes.shape[2:4], region)
        np.testing.assert_allclose(got, output[image, *slot][:4], atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(heads())
def test_equal_cells_predict_equal_boxes_one_cell_apart(head):
    region, pred = head
    pred = np.broadcast_to(pred[:, :, :1, :1], pred.shape).astype(np.float64)
    boxes = decode(pred, region).boxes
    B, A, H, W, _ = boxes.shape
    np.testing.assert_allclose(
        np.diff(boxes, axis=3), np.tile([1 / W, 0, 0, 0], (B, A, H, W - 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(
        np.diff(boxes, axis=2), np.tile([0, 1 / H, 0, 0], (B, A, H - 1, W, 1)), atol=1e-12
    )


@settings(deadline=None, max_examples=50)
@given(heads())
def test_probabilities_are_probabilities(head):
    region, pred = head
    decoded = decode(pred, region)
    assert all(array.dtype == np.float32 for array in decoded)
    assert ((decoded.class_probs >= 0) & (decoded.class_probs <= 1)).all()
    total = decoded.class_probs.sum(axis=-1)
    if region.background:
        np.testing.assert_allclose(total + decoded.objectness, 1, rtol=1e-5)
    elif region.class_activation == "softmax":
        np.testing.assert_allclose(total, 1, rtol=1e-5)
    elif region.class_activation == "tree":
        np.testing.assert_allclose(total, len(TREE.group_sizes), rtol=1e-5)

"""Training pictures: draws and label geometry by hand, pipelines on draws that leave the picture alone."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from reference.augment import (
    RANDOM_MAX,
    Draws,
    classification_example,
    correct_boxes,
    detection_example,
    shuffle,
    truth_rows,
)
from reference.image import flip

PLAIN = {"hue": 0.0, "saturation": 1.0, "exposure": 1.0}  # no change of colour
corners = arrays(float, (6, 2, 2), elements=st.floats(0, 1)).map(lambda c: np.sort(c, axis=1))


def picture(width, height, seed=0):
    return np.random.default_rng(seed).random((3, height, width))


def as_boxes(corners):
    low, high = corners[:, 0], corners[:, 1]
    return np.concatenate([(low + high) / 2, high - low], axis=1)


def test_draws_by_hand():
    draws = Draws([0, RANDOM_MAX, 0, 17, 7, 8])
    assert draws.uniform(2, 4) == 2
    assert draws.uniform(2, 4) == 4
    assert draws.uniform(4, 2) == 2  # bounds are swapped
    assert draws.integer(5) == 2
    assert draws.parity() and not draws.parity()
    with pytest.raises(StopIteration):
        draws.integer(1)


def test_factor_is_the_value_when_odd_its_reciprocal_when_even():
    assert Draws([RANDOM_MAX, 1]).factor(2) == 2
    assert Draws([RANDOM_MAX, 2]).factor(2) == 0.5
    assert Draws([0, 1]).factor(0.75) == 0.75  # U(.75, 1)


@given(st.integers(0, 2**31 - 1), st.floats(-10, 10), st.floats(-10, 10))
def test_uniform_stays_between_its_bounds(r, a, b):
    low, high = sorted((np.float32(a), np.float32(b)))
    value = Draws([r]).uniform(a, b)
    assert value.dtype == np.float32
    assert low - 1e-6 * abs(low) - 1e-6 <= value <= high + 1e-6 * abs(high) + 1e-6


def test_same_seed_same_draws():
    first, second = (Draws.from_generator(np.random.default_rng(3)) for _ in range(2))
    values = [first.integer(2**31) for _ in range(50)]
    assert values == [second.integer(2**31) for _ in range(50)] and len(set(values)) > 40


def test_shuffle_by_hand():
    # [0 1 2] -> 0<->1 -> [1 0 2] -> 1<->1 -> [1 0 2] -> 2<->1 -> [1 2 0]
    np.testing.assert_array_equal(shuffle(np.arange(3), Draws([1, 4, 7])), [1, 2, 0])


def test_correct_boxes_by_hand():
    boxes = np.array([[0.5, 0.5, 0.2, 0.4], [0.1, 0.5, 0.2, 0.2], [0, 0, 0, 0]])
    # half as wide, moved right by .25: corners .4, .6 -> .45, .55 and 0, .2 -> .25, .35
    got = correct_boxes(boxes, (0.5, 1), (0.25, 0), mirror=False)
    np.testing.assert_allclose(got[:2], [[0.5, 0.5, 0.1, 0.4], [0.3, 0.5, 0.1, 0.2]])
    assert (got[2] == 999999).all()
    # mirrored: .25, .35 -> .65, .75
    np.testing.assert_allclose(
        correct_boxes(boxes, (0.5, 1), (0.25, 0), mirror=True)[1], [0.7, 0.5, 0.1, 0.2]
    )
    # a crop: x -> 2x - .5: 0, .2 -> -.5, -.1, both cut to 0; .4, .6 -> .3, .7
    got = correct_boxes(boxes, (2, 1), (-0.5, 0), mirror=False)
    np.testing.assert_allclose(got[:2], [[0.5, 0.5, 0.4, 0.4], [0, 0.5, 0, 0.2]], atol=1e-12)


@given(corners)
def test_mirror_twice_is_identity(corners):
    boxes = as_boxes(0.01 + 0.98 * corners)  # never centred at (0, 0), which means "no box"
    once = correct_boxes(boxes, (1, 1), (0, 0), mirror=True)
    np.testing.assert_allclose(once, np.abs([1, 0, 0, 0] - boxes), atol=1e-12)
    np.testing.assert_allclose(correct_boxes(once, (1, 1), (0, 0), mirror=True), boxes, atol=1e-12)


@given(corners, st.floats(0.1, 3), st.floats(-1, 1), st.booleans())
def test_corrected_boxes_lie_in_the_picture(corners, scale, shift, mirror):
    got = correct_boxes(as_boxes(corners), (scale, scale), (shift, shift), mirror)
    got = got[got[:, 0] < 999999]
    assert (got[:, 2:] >= -1e-12).all()
    assert (got[:, :2] - got[:, 2:] / 2 >= -1e-12).all() and (got[:, :2] + got[:, 2:] / 2 <= 1 + 1e-12).all()


def test_rows_are_kept_before_small_ones_are_dropped():
    labels = np.array(
        [
            [3, 0.5, 0.5, 0.2, 0.2],
            [4, 0.5, 0.5, 0.0005, 0.2],  # too narrow
            [5, 0, 0, 0, 0],  # classification only: 999999 is not narrow
            [6, 0.5, 0.5, 0.2, 0.2],  # beyond the limit of three
        ]
    )
    truth = truth_rows(labels, max_labels=3)
    np.testing.assert_allclose(truth, [[0.5, 0.5, 0.2, 0.2, 3], [999999] * 4 + [5], [0] * 5])
    np.testing.assert_array_equal(truth_rows(np.zeros((0, 5)), max_labels=2), np.zeros((2, 5)))


def test_detection_example_that_only_mirrors():
    source, labels = picture(8, 8), np.array([[1, 0.25, 0.5, 0.2, 0.4]])
    for parity, want, x in ((0, source, 0.25), (1, flip(source), 0.75)):
        draws = Draws([0] * 9 + [parity, 0])
        got, truth = detection_example(source, labels, draws, 8, 8, jitter=0, max_labels=2, **PLAIN)
        np.testing.assert_allclose(got, want, atol=1e-12)
        np.testing.assert_allclose(truth, [[x, 0.5, 0.2, 0.4, 1], [0] * 5])


def test_detection_example_of_a_wide_picture():
    # 8x4 in 8x8, aspect 2: placed 8x4, with the largest dy = U(0, 8 - 4) = 4, in the lower half
    source, labels = picture(8, 4), np.array([[1, 0.5, 0.5, 1, 1]])
    draws = Draws([0, 0, 0, RANDOM_MAX, 0, 0, 1, 0, 1, 0, 0])
    got, truth = detection_example(source, labels, draws, 8, 8, jitter=0, max_labels=1, **PLAIN)
    np.testing.assert_allclose(got[:, :4], 0.5)
    np.testing.assert_allclose(got[:, 4:], source, atol=1e-12)
    np.testing.assert_allclose(truth, [[0.5, 0.75, 1, 0.5, 1]])


def test_classification_example_that_only_mirrors():
    source = picture(8, 8)
    for centre, skipped in ((False, 6), (True, 0)):
        draws = Draws([0] * skipped + [1] + [0] * 5)
        got = classification_example(source, draws, 8, 8, 8, angle=0, aspect=1, centre=centre, **PLAIN)
        np.testing.assert_allclose(got, flip(source), atol=1e-12)
        with pytest.raises(StopIteration):
            draws.integer(1)


def test_classification_example_stretched_into_a_corner():
    # aspect 2 on 16x8: min(8, 16 * 2) = 8, scale 8/8 = 1; reach (16/2 - 4)/2 = 2 and (8 - 4)/2 = 2
    # with dx = 2, dy = -2: columns (x - 2 + 2) * 2 + 8 = 8, 10, 12, 14 and rows (y - 2 - 2) + 4 = 0, 1, 2, 3
    source = picture(16, 8)
    draws = Draws([RANDOM_MAX, 1, 0, 0, RANDOM_MAX, 0, 0, 0, 0, 1, 0, 1])
    got = classification_example(source, draws, 4, 8, 8, angle=0, aspect=2, **PLAIN)
    np.testing.assert_allclose(got, source[:, :4, 8::2], atol=1e-12)


@given(st.integers(0, 1000), st.integers(4, 24), st.integers(4, 24))
def test_examples_are_pictures(seed, width, height):
    draws = Draws.from_generator(np.random.default_rng(seed))
    labels = np.array([[0, 0.5, 0.5, 0.5, 0.5], [1, 0.2, 0.7, 0.1, 0.2]], np.float32)
    source = picture(width, height, seed).astype(np.float32)
    got, truth = detection_example(source, labels, draws, 32, 16)
    assert got.shape == (3, 16, 32) and got.dtype == truth.dtype == np.float32 and truth.shape == (30, 5)
    crop = classification_example(source, draws, 16, 12, 20)
    assert crop.shape == (3, 16, 16) and crop.dtype == np.float32
    for x in (got, crop):
        assert x.min() >= 0 and x.max() <= 1

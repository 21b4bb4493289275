"""Pictures: cases worked out by hand, and properties that need no second implementation."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

from reference import image as im


def grey(*rows):
    """A float64 picture with the same numbers in all three channels."""
    return np.repeat(np.array(rows, float)[None], 3, axis=0)


def sizes(low=1, high=12):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def pictures(draw, dtype=np.float64):
    width, height = draw(sizes())
    pixels = draw(arrays(np.uint8, (height, width, 3)))
    return im.load_normalise(pixels, dtype)


def test_load_normalise():
    picture = im.load_normalise(np.array([[[0, 51, 255], [255, 0, 102]]], np.uint8))
    assert picture.shape == (3, 1, 2) and picture.dtype == np.float32 and picture.flags.c_contiguous
    np.testing.assert_allclose(picture[:, 0], [[0, 1], [0.2, 0], [1, 0.4]], atol=1e-7)


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), np.uint8)]
)
def test_load_normalise_refuses(pixels):
    with pytest.raises(ValueError, match="uint8"):
        im.load_normalise(pixels)


def test_resize_by_hand():
    # 3 columns from 2: positions 0, 1/2, 1; 3 rows from 2 alike
    np.testing.assert_array_equal(
        im.resize(grey([0, 1], [2, 3]), 3, 3), grey([0, 0.5, 1], [1, 1.5, 2], [2, 2.5, 3])
    )
    # 3 from 5: step 4/2, so every second; a single pixel is the last one
    np.testing.assert_array_equal(im.resize(grey([0, 1, 2, 3, 4]), 3, 1), grey([0, 2, 4]))
    np.testing.assert_array_equal(im.resize(grey([0, 1, 2]), 1, 1), grey([2]))
    np.testing.assert_array_equal(im.resize(grey([7]), 2, 2), grey([7, 7], [7, 7]))


@given(pictures(), sizes(1, 20))
def test_resize_keeps_the_range_and_corners(picture, size):
    got = im.resize(picture, *size)
    assert got.shape == (3, size[1], size[0])
    assert picture.min() - 1e-12 <= got.min() and got.max() <= picture.max() + 1e-12
    np.testing.assert_array_equal(got[:, -1, -1], picture[:, -1, -1])
    if min(size) > 1:
        np.testing.assert_array_equal(got[:, 0, 0], picture[:, 0, 0])
    np.testing.assert_array_equal(im.resize(picture, *picture.shape[:0:-1]), picture)


def test_place_by_hand():
    canvas = np.full((3, 2, 6), 0.5)
    # 2 columns drawn as 4 sample at 0, .5, 1, 1.5; the last one is half outside and darkens to half
    got = im.place(grey([0.8, 0.4]), 4, 1, 1, 1, canvas)
    np.testing.assert_allclose(got, grey([0.5] * 6, [0.5, 0.8, 0.6, 0.4, 0.2, 0.5]))
    # two columns further left only the samples at 1 and 1.5 fall on the canvas
    got = im.place(grey([0.8, 0.4]), 4, 1, -2, 0, canvas)
    np.testing.assert_allclose(got, grey([0.4, 0.2, 0.5, 0.5, 0.5, 0.5], [0.5] * 6))
    np.testing.assert_array_equal(im.place(grey([1]), 3, 3, 9, 9, canvas), canvas)


def test_crops_by_hand():
    picture = grey([0, 1, 2, 3], [4, 5, 6, 7])
    np.testing.assert_array_equal(im.crop(picture, -1, 1, 3, 2), grey([4, 4, 5], [4, 4, 5]))
    np.testing.assert_array_equal(im.centre_crop(picture, 2, 2), grey([1, 2], [5, 6]))
    # a window of 2x2 shifted by one column from the middle (columns 1, 2): columns 2, 3
    got = im.rotate_crop(picture, 0, 1, 2, 2, 1, 0, 1)
    np.testing.assert_array_equal(got, grey([2, 3], [6, 7]))
    # twice as large: columns 2 + (x - 2)/2 = 1, 1.5, 2, 2.5, row 1 + (y - 1)/2 = .5 between both rows
    got = im.rotate_crop(picture, 0, 2, 4, 1, 0, -0.5, 1)
    np.testing.assert_allclose(got, grey([1, 1.5, 2, 2.5]) + 4 * (1 + (0 - 0.5 - 0.5) / 2))


def test_quarter_turn_by_hand():
    # cos 0, sin 1: pixel (x, y) samples column 2 - (y - 1) = 3 - y of row (x - 1) + 1 = x
    picture = grey([0, 1, 2, 3], [4, 5, 6, 7])
    got = im.rotate_crop(picture, np.pi / 2, 1, 2, 2, 0, 0, 1)
    np.testing.assert_allclose(got, grey([3, 7], [2, 6]), atol=1e-9)


@given(pictures())
def test_half_a_turn_mirrors_both_ways(picture):
    _, h, w = picture.shape
    got = im.rotate_crop(picture, np.pi, 1, w, h, 0, 0, 1)
    # pixel 0 samples at column w, outside; pixel x > 0 at column w - x
    np.testing.assert_allclose(got[:, 1:, 1:], picture[:, :0:-1, :0:-1], atol=1e-9)


@given(pictures())
def test_identities(picture):
    _, h, w = picture.shape
    np.testing.assert_array_equal(im.flip(im.flip(picture)), picture)
    np.testing.assert_array_equal(im.crop(picture, 0, 0, w, h), picture)
    np.testing.assert_array_equal(im.rotate_crop(picture, 0, 1, w, h, 0, 0, 1), picture)
    np.testing.assert_array_equal(im.place(picture, w, h, 0, 0, np.zeros_like(picture)), picture)
    np.testing.assert_allclose(im.distort(picture, 0, 1, 1), picture, atol=1e-12)


def test_flip_by_hand():
    np.testing.assert_array_equal(im.flip(grey([1, 2, 3])), grey([3, 2, 1]))


def test_hsv_by_hand():
    rgb = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0.5], [0.5, 0.25, 0.25], [0.3, 0.3, 0.3], [0, 0, 0]]
    )
    hsv = [
        [0, 1, 1],
        [2 / 6, 1, 1],
        [4 / 6, 1, 1],
        [5.5 / 6, 1, 1],  # (0 - .5) / 1 is negative: + 6
        [0, 0.5, 0.5],  # (.5 - .25) / .5
        [0, 0, 0.3],
        [0, 0, 0],
    ]
    np.testing.assert_allclose(im.rgb_to_hsv(rgb.T[:, None])[:, 0].T, hsv)


@given(pictures())
def test_hsv_round_trip(picture):
    hsv = im.rgb_to_hsv(picture)
    assert (hsv >= 0).all() and (hsv <= 1).all()
    np.testing.assert_allclose(im.hsv_to_rgb(hsv), picture, atol=1e-12)


def test_distort_by_hand():
    red, salmon = np.array([1.0, 0, 0]), np.array([0.5, 0.25, 0.25])
    pixel = np.stack([red, salmon], axis=1)[:, None]
    turned = im.distort(pixel, 1 / 3, 1, 1)[:, 0]
    np.testing.assert_allclose(turned, [[0, 0.25], [1, 0.5], [0, 0.25]], atol=1e-12)
    np.testing.assert_allclose(im.distort(pixel, -2 / 3, 1, 1)[:, 0], turned, atol=1e-12)  # wrapped
    # saturation .5 * .5 = .25, value .5 * 3 = 1.5: other channels 1.5 * .75 = 1.125; all clipped to 1
    np.testing.assert_allclose(im.distort(pixel, 0, 0.5, 3)[:, 0], [[1, 1], [1, 1], [1, 1]])
    np.testing.assert_allclose(im.distort(pixel, 0, 0.5, 1)[:, 0], [[1, 0.5], [0.5, 0.375], [0.5, 0.375]])


@given(st.sampled_from([np.float32, np.float64]).flatmap(pictures))
def test_dtype_is_kept(picture):
    results = [
        im.resize(picture, 5, 4),
        im.place(picture, 5, 4, 0, 0, np.zeros((3, 4, 4), picture.dtype)),
        im.crop(picture, 0, 0, 3, 3),
        im.centre_crop(picture, 3, 3),
        im.rotate_crop(picture, 0.1, 0.9, 4, 4, 0.5, 0.5, 1.1),
        im.distort(picture, 0.05, 1.2, 0.8),
    ]
    assert {r.dtype for r in results} == {picture.dtype}

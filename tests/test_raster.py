"""Warping and recolouring in 8 bits are the oracle's, in both ways of computing them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from reference import image as im
from tests.golden import GOLDEN, cases
from tests.pictures import backend, levels, photograph  # noqa: F401 (a fixture)
from yolov2 import raster
from yolov2.raster import recolour, warp

MANY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@MANY
@given(
    st.integers(0, 999),
    st.integers(1, 40),
    st.integers(1, 40),
    st.lists(st.floats(-2, 2), min_size=4, max_size=4),
    st.tuples(st.floats(-50, 50), st.floats(-50, 50)),
    st.sampled_from(["black", "edge"]),
)
def test_warp_samples_where_the_map_says(backend, seed, width, height, turn, shift, border):  # noqa: F811
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    matrix = np.column_stack([np.reshape(turn, (2, 2)), shift])
    x, y = (a * np.arange(17) + b * np.arange(11)[:, None] + c for a, b, c in matrix)
    image = im.load_normalise(pixels, np.float64)
    if border == "edge":
        x, y = x.clip(0, width - 1), y.clip(0, height - 1)
    assert levels(warp(pixels, matrix, 17, 11, border), im._sample(image, x, y)).max() < 1.01


def test_a_picture_too_long_for_opencv_is_warped_all_the_same():
    pixels = np.zeros((1, 40000, 3), np.uint8)
    pixels[:, 39999] = 200
    assert warp(pixels, np.array([[1.0, 0, 39999], [0, 1, 0]]), 2, 1).tolist() == [[[200] * 3, [0] * 3]]
    assert warp(pixels, np.eye(3)[:2], 0, 5).shape == (5, 0, 3)


@MANY
@given(st.integers(0, 999), st.floats(-1, 1), st.floats(0.4, 2), st.floats(0.4, 2))
def test_recolour_is_distort(backend, seed, hue, saturation, exposure):  # noqa: F811
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    pixels[0] = pixels[0, :, :1]  # greys
    pixels[1] = rng.choice(np.uint8([0, 255]), (16, 3))  # full colours, where two channels are equal
    image = im.load_normalise(pixels, np.float64)
    error = levels(recolour(pixels, hue, saturation, exposure), im.distort(image, hue, saturation, exposure))
    # half a level when the hue is turned, grown by what multiplies it, and half a level in the end
    turned = im.rgb_to_hsv(image)[0] + hue
    magenta = (turned == 1) | ((turned < 0) & (turned + 1 == 1))  # Darknet's slip
    assert error[~magenta].max() < 0.51 * saturation * exposure + 0.51


def test_colours_of_photographs(backend):  # noqa: F811
    """The numbers in the docstring."""
    rng, errors = np.random.default_rng(0), []
    for seed in range(5):
        pixels = photograph(120, 100, seed)
        change = rng.uniform(-0.1, 0.1), *(rng.uniform(1, 1.5, 2) ** rng.choice([-1, 1], 2))
        errors.append(levels(recolour(pixels, *change), im.distort(im.load_normalise(pixels), *change)))
    assert np.mean(errors) < 0.3 and np.max(errors) < 1.7


def test_no_change_of_colour_changes_nothing(backend):  # noqa: F811
    pixels = photograph(20, 20)
    np.testing.assert_array_equal(recolour(pixels, 0.0, 1.0, 1.0), pixels)
    np.testing.assert_array_equal(recolour(pixels, 1.0, 1.0, 1.0), pixels)  # all the way around
    assert recolour(pixels[:0], 0.1, 1.2, 1.0).shape == (0, 20, 3)


@pytest.mark.skipif(raster.opencv() is None, reason="NOT CHECKED WITH OpenCV: it is not installed")
@given(st.integers(0, 999), st.floats(-1, 1), st.floats(0.4, 2), st.floats(0.4, 2))
@settings(max_examples=20, deadline=None)
def test_numpy_colours_as_opencv_does(seed, hue, saturation, exposure):
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    by_opencv = recolour(pixels, hue, saturation, exposure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(raster, "opencv", lambda: None)
        by_numpy = recolour(pixels, hue, saturation, exposure)
    assert np.abs(by_numpy.astype(int) - by_opencv).max() <= 1 and np.mean(by_numpy != by_opencv) < 0.1


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent")
@pytest.mark.parametrize("name", ["small_a", "small_b"])
def test_recolour_is_darknets(backend, name):  # noqa: F811
    case = next(c for c in cases() if c.file == f"image/{name}.npz")
    pixels = (case["input"].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    want = im.distort(im.load_normalise(pixels), *case.config["distort_hue_sat_exp"])
    assert np.abs(want - case["distort"]).max() < 0.02  # the golden picture is not made of bytes
    assert levels(recolour(pixels, *case.config["distort_hue_sat_exp"]), want).max() < 2

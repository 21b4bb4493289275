"""Convolution, local and connected layers: by hand, against their definition, and gradients."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.activation import activate, activate_grad, cross_entropy, softmax
from reference.conv import connected, conv2d, conv2d_grad, local


@st.composite
def convolutions(draw):
    """Input, weights and (stride, pad, groups); small integers, so that sums are exact in float64."""
    groups = draw(st.integers(1, 2))
    c, n = (groups * draw(st.integers(1, 2)) for _ in range(2))
    size, stride = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    h, w = (draw(st.integers(size, 5)) for _ in range(2))
    pad = draw(st.integers(0, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.integers(-4, 5, (2, c, h, w)).astype(np.float64)
    weights = rng.integers(-4, 5, (n, c // groups, size, size)).astype(np.float64)
    return x, weights, (stride, pad, groups)


def test_by_hand():
    x = np.arange(9.0).reshape(1, 1, 3, 3)  # 0 1 2 / 3 4 5 / 6 7 8
    weights = np.array([[[[1.0, 0], [0, 10]]]])  # not mirrored: cross-correlation
    # 0 + 40, 1 + 50 / 3 + 70, 4 + 80
    np.testing.assert_array_equal(conv2d(x, weights)[0, 0], [[40, 51], [73, 84]])
    # stride 2 with a border of zeros: windows at (-1,-1), (-1,1), (1,-1), (1,1)
    np.testing.assert_array_equal(conv2d(x, weights, stride=2, pad=1)[0, 0], [[0, 20], [60, 84]])


def test_groups_see_their_own_channels_only():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 4, 1, 1)
    weights = np.ones((2, 2, 1, 1))
    np.testing.assert_array_equal(conv2d(x, weights, groups=2).ravel(), [1 + 2, 3 + 4])


@given(convolutions())
@settings(deadline=None)
def test_conv_is_its_definition(case):
    x, weights, (stride, pad, groups) = case
    got = conv2d(x, weights, stride, pad, groups)
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    n, per_group, size, _ = weights.shape
    for b, k, oy, ox in np.ndindex(got.shape):
        first = k // (n // groups) * per_group
        y0, x0 = oy * stride, ox * stride
        window = padded[b, first : first + per_group, y0 : y0 + size, x0 : x0 + size]
        assert got[b, k, oy, ox] == (window * weights[k]).sum()


@given(convolutions(), st.integers(0, 2**32))
@settings(deadline=None)
def test_gradients_are_central_differences(case, seed):
    """The layer is linear in input and in weights, so a difference of step 1 is exact."""
    x, weights, geometry = case
    rng = np.random.default_rng(seed)
    dout = rng.integers(-4, 5, conv2d(x, weights, *geometry).shape).astype(np.float64)
    dx, dweights = conv2d_grad(dout, x, weights, *geometry)
    for array, gradient in ((x, dx), (weights, dweights)):
        at = tuple(rng.integers(array.shape))
        center = array[at]
        sides = []
        for array[at] in (center - 1, center + 1):
            sides.append((dout * conv2d(x, weights, *geometry)).sum())
        array[at] = center
        assert gradient[at] == (sides[1] - sides[0]) / 2


@given(convolutions())
@settings(deadline=None)
def test_local_with_the_same_kernels_everywhere_is_a_convolution(case):
    x, weights, (stride, pad, _) = case
    weights = np.repeat(weights, x.shape[1] // weights.shape[1], axis=1)
    want = conv2d(x, weights, stride, pad)
    n, places = want.shape[1], want[0, 0].size
    everywhere = np.broadcast_to(weights.reshape(n, -1), (places, n, weights[0].size))
    np.testing.assert_array_equal(local(x, everywhere, weights.shape[-1], stride, pad), want)


def test_local_by_hand():
    x = np.array([[[[1.0, 2], [3, 4]]]])
    weights = np.array([1.0, 10, 100, 1000]).reshape(4, 1, 1)  # places in row-major order
    np.testing.assert_array_equal(local(x, weights, size=1).ravel(), [1, 20, 300, 4000])


def test_connected_by_hand():
    x = np.array([1.0, 2, 3, 4]).reshape(1, 2, 1, 2)
    weights = np.array([[1.0, 0, 0, 1], [1, 1, 1, 1]])
    got = connected(x, weights)
    assert got.shape == (1, 2, 1, 1)
    np.testing.assert_array_equal(got.ravel(), [5, 10])


def test_mismatches_are_refused():
    with pytest.raises(ValueError, match="3 channels for kernels of 1 x 2"):
        conv2d(np.zeros((1, 3, 4, 4)), np.zeros((1, 2, 1, 1)))
    with pytest.raises(ValueError, match="3 banks of kernels for 4 places"):
        local(np.zeros((1, 1, 2, 2)), np.zeros((3, 1, 1)), size=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_stays(dtype):
    x, weights = np.ones((1, 2, 4, 4), dtype), np.ones((2, 2, 3, 3), dtype)
    y = conv2d(x, weights, pad=1)
    gradients = conv2d_grad(y, x, weights, pad=1)
    for name in ("linear", "leaky", "relu", "logistic"):
        assert activate(y, name).dtype == activate_grad(y, name).dtype == dtype
    assert {a.dtype for a in (y, *gradients, softmax(y))} == {np.dtype(dtype)}


@pytest.mark.parametrize("name", ["linear", "leaky", "relu", "logistic"])
def test_derivatives_from_the_output(name):
    x = np.array([-3.0, -0.5, 0.25, 4.0])
    difference = (activate(x + 1e-6, name) - activate(x - 1e-6, name)) / 2e-6
    np.testing.assert_allclose(activate_grad(activate(x, name), name), difference, atol=1e-8)


def test_activations_by_hand():
    x = np.array([-1000.0, -2, 0, 3, 1000])
    np.testing.assert_array_equal(activate(x, "leaky"), [-100, -0.2, 0, 3, 1000])
    np.testing.assert_array_equal(activate(x, "relu"), [0, 0, 0, 3, 1000])
    np.testing.assert_allclose(activate(x, "logistic"), [0, 1 / (1 + np.e**2), 0.5, 1 / (1 + np.e**-3), 1])
    assert activate_grad(np.zeros(1), "leaky") == 0.1  # the slope at 0 is the left one
    with pytest.raises(ValueError, match="'mish' is not one of linear, leaky"):
        activate(x, "mish")


def test_softmax_and_cross_entropy_by_hand():
    p = softmax(np.log([[1.0, 2, 5]]) + 1000)  # huge scores do not overflow
    np.testing.assert_allclose(p, [[1 / 8, 2 / 8, 5 / 8]])
    cost, delta = cross_entropy(p, np.array([[0.0, 1, 0]]))
    assert cost == pytest.approx(np.log(4))
    np.testing.assert_allclose(delta, [[-1 / 8, 6 / 8, -5 / 8]])
    cost, delta = cross_entropy(p, np.array([[1.0, -1234, -1234]]))  # the last two are ignored
    assert cost == pytest.approx(np.log(8))
    np.testing.assert_allclose(delta, [[7 / 8, 0, 0]])

"""Batch normalisation: four values by hand, what it must do to any batch, and its gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.batchnorm import batch_norm, batch_norm_grad, batch_norm_train

ONE, ZERO = np.ones(1), np.zeros(1)


def test_by_hand():
    x = np.array([1.0, 2, 3, 6]).reshape(2, 1, 1, 2)
    # mean 3; squares 4 + 1 + 0 + 9 = 14, so the variance is 14/3 (Bessel) or 14/4
    norm = batch_norm_train(x, 2 * ONE, 5 * ONE, 10 * ONE, ZERO)
    assert (norm.mean, norm.variance) == (3, pytest.approx(14 / 3))
    want = 2 * np.array([-2, -1, 0, 3]) / ((14 / 3) ** 0.5 + 1e-6) + 5
    np.testing.assert_allclose(norm.output.ravel(), want, rtol=1e-14)
    assert norm.rolling_mean == pytest.approx(0.99 * 10 + 0.01 * 3)
    assert norm.rolling_variance == pytest.approx(0.01 * 14 / 3)

    cudnn = batch_norm_train(x, ONE, ZERO, ZERO, ZERO, "cudnn")
    assert cudnn.variance == pytest.approx(14 / 4)  # biased to divide by, unbiased to remember
    assert cudnn.rolling_variance == pytest.approx(0.01 * 14 / 3)
    np.testing.assert_allclose(cudnn.output.ravel(), np.array([-2, -1, 0, 3]) / (3.5 + 1e-5) ** 0.5)


def test_the_epsilon_shows_where_the_variance_is_tiny():
    x = np.full((1, 1, 1, 1), 1e-3)
    variance = np.array([1e-6])
    assert batch_norm(x, ONE, ZERO, ZERO, variance).item() == pytest.approx(1e-3 / (1e-3 + 1e-6))
    assert batch_norm(x, ONE, ZERO, ZERO, variance, "cudnn").item() == pytest.approx(1e-3 / 1.1e-5**0.5)


def test_gradient_by_hand():
    x = np.array([-1.0, 1]).reshape(2, 1, 1, 1)  # mean 0, unbiased variance 2
    dout = np.array([1.0, 0]).reshape(2, 1, 1, 1)
    dx, dscales, dbiases = batch_norm_grad(dout, x, ONE, ZERO, np.array([2.0]))
    assert dbiases == 1
    assert dscales == pytest.approx(-1 / (2**0.5 + 1e-6))
    r = 2.00001**0.5  # dmean = -1/r, dvariance = 1/(2 r^3); dx = d/r + (2 dvariance x + dmean) / 2
    np.testing.assert_allclose(
        dx.ravel(), [1 / r - 1 / (2 * r**3) - 1 / (2 * r), 1 / (2 * r**3) - 1 / (2 * r)]
    )


batches = st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).normal(2, 3, (3, 2, 2, 3)))


@given(batches, st.sampled_from(["darknet", "cudnn"]))
@settings(deadline=None, max_examples=30)
def test_output_has_mean_bias_and_deviation_scale(x, form):
    scales, biases = np.array([2.0, 0.5]), np.array([-1.0, 4])
    output = batch_norm_train(x, scales, biases, np.zeros(2), np.zeros(2), form).output
    np.testing.assert_allclose(output.mean(axis=(0, 2, 3)), biases, atol=1e-12)
    deviation = output.std(axis=(0, 2, 3), ddof=1 if form == "darknet" else 0)
    np.testing.assert_allclose(deviation, scales, rtol=1e-3)


@given(batches, st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_cudnn_gradient_is_a_central_difference(x, seed):
    rng = np.random.default_rng(seed)
    scales, biases, dout = rng.normal(1, 1, 2), rng.normal(0, 1, 2), rng.normal(0, 1, x.shape)

    def loss(x, scales, biases):
        return (dout * batch_norm_train(x, scales, biases, np.zeros(2), np.zeros(2), "cudnn").output).sum()

    norm = batch_norm_train(x, scales, biases, np.zeros(2), np.zeros(2), "cudnn")
    gradients = batch_norm_grad(dout, x, scales, norm.mean, norm.variance, "cudnn")
    for which, gradient in enumerate(gradients):
        arguments = [x, scales, biases]
        step = np.zeros(arguments[which].shape)
        at = tuple(rng.integers(step.shape))
        step[at] = 1e-5
        arguments[which] = arguments[which] + step
        above = loss(*arguments)
        arguments[which] = arguments[which] - 2 * step
        assert gradient[at] == pytest.approx((above - loss(*arguments)) / 2e-5, abs=1e-6)


@given(batches)
@settings(deadline=None, max_examples=30)
def test_darknet_gradient_is_nearly_right(x):
    """It differs from the exact one by N against N - 1 only, and sends nothing back for a constant."""
    norm = batch_norm_train(x, np.ones(2), np.zeros(2), np.zeros(2), np.zeros(2))
    dx, _, _ = batch_norm_grad(np.ones_like(x), x, np.ones(2), norm.mean, norm.variance)
    np.testing.assert_allclose(dx, 0, atol=1e-12)


def test_one_value_per_channel_has_no_variance():
    with pytest.raises(ValueError, match="more than one value"):
        batch_norm_train(np.zeros((1, 2, 1, 1)), np.ones(2), np.zeros(2), np.zeros(2), np.zeros(2))


def test_unknown_form_is_refused():
    x = np.zeros((2, 1, 1, 1))
    for function in (batch_norm, batch_norm_train):
        with pytest.raises(ValueError, match="'torch' is not one of darknet, cudnn"):
            function(x, ONE, ZERO, ZERO, ONE, "torch")
    with pytest.raises(ValueError, match="'torch'"):
        batch_norm_grad(x, x, ONE, ZERO, ONE, "torch")


@pytest.mark.parametrize("form", ["darknet", "cudnn"])
def test_float32_stays_float32(form):
    x, two = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1), np.ones(2, np.float32)
    norm = batch_norm_train(x, two, two, two, two, form)
    gradients = batch_norm_grad(x, x, two, norm.mean, norm.variance, form)
    assert {a.dtype for a in (*norm, *gradients)} == {np.dtype(np.float32)}

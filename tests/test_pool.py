"""Max and average pooling: windows by hand, and where gradients go."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.pool import average_pool, max_pool, max_pool_grad, max_pool_winners

X = np.array([[[[1.0, 5, 2], [4, 3, 9], [-7, -8, -6]]]])


def test_stride_2_keeps_the_odd_row_and_column():
    # 1 5 | 2
    # 4 3 | 9    the last window holds -6 alone: outside is smaller than everything, not 0
    # ----+---
    # -7-8|-6
    np.testing.assert_array_equal(max_pool(X, 2, 2)[0, 0], [[5, 9], [-7, -6]])


def test_stride_1_keeps_the_size():
    np.testing.assert_array_equal(max_pool(X, 2, 1)[0, 0], [[5, 9, 9], [4, 9, 9], [-7, -6, -6]])


def test_without_padding():
    np.testing.assert_array_equal(max_pool(X, 2, 2, padding=0)[0, 0], [[5]])
    np.testing.assert_array_equal(max_pool(X, 2, 1, padding=0)[0, 0], [[5, 9], [4, 9]])


def test_size_3_is_centred():
    # total padding 2, so windows start at -1: rows 0-1 and 1-2, columns likewise
    np.testing.assert_array_equal(max_pool(X, 3, 2)[0, 0], [[5, 9], [4, 9]])


def test_the_first_of_equals_wins():
    x = np.ones((1, 2, 2, 2))
    np.testing.assert_array_equal(max_pool_winners(x).ravel(), [0, 4])
    np.testing.assert_array_equal(max_pool_grad(np.full((1, 2, 1, 1), 3.0), x)[0, 0], [[3, 0], [0, 0]])


def test_gradients_of_overlapping_windows_add_up():
    # stride 1: the 9 wins four windows, the 5, 4, -7 one each, the -6 two
    got = max_pool_grad(np.ones((1, 1, 3, 3)), X, 2, 1)[0, 0]
    np.testing.assert_array_equal(got, [[0, 1, 0], [1, 0, 4], [1, 0, 2]])


@st.composite
def pools(draw):
    size, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, size - 1) | st.none())
    h, w = (draw(st.integers(size, 7)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.integers(-3, 4, (2, 2, h, w)).astype(np.float32), (size, stride, padding)


@given(pools())
@settings(deadline=None)
def test_gradients_are_kept_in_sum_and_go_to_winners_only(case):
    x, window = case
    output = max_pool(x, *window)
    dout = np.arange(1, output.size + 1, dtype=np.float32).reshape(output.shape)
    dx = max_pool_grad(dout, x, *window)
    assert dx.dtype == np.float32
    np.testing.assert_array_equal(dx.sum(axis=(2, 3)), dout.sum(axis=(2, 3)))
    losers = np.setdiff1d(np.arange(x.size), max_pool_winners(x, *window))
    assert not dx.ravel()[losers].any()


@given(pools())
@settings(deadline=None)
def test_pool_is_its_definition(case):
    x, (size, stride, padding) = case
    total = size - 1 if padding is None else padding
    got = max_pool(x, size, stride, padding)
    assert got.shape[2:] == tuple((n + total - size) // stride + 1 for n in x.shape[2:])
    for b, c, oy, ox in np.ndindex(got.shape):
        y0, x0 = (o * stride - total // 2 for o in (oy, ox))
        window = x[b, c, max(y0, 0) : y0 + size, max(x0, 0) : x0 + size]
        assert got[b, c, oy, ox] == window.max()


def test_windows_that_see_nothing_are_refused():
    with pytest.raises(ValueError, match=r"padding 2 is not in 0\.\.1"):
        max_pool(X, 2, 2, padding=2)


def test_average_pool():
    got = average_pool(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2))
    assert (got.shape, got.dtype) == ((1, 2, 1, 1), np.float32)
    np.testing.assert_array_equal(got.ravel(), [1.5, 5.5])

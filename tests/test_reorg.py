"""Reorg: the flat index formula of SPEC 9, loops and all, and that nothing gets lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.reorg import reorg, reorg_grad

ORDERS = st.sampled_from(["darknet", "space_to_depth"])


def by_flat_index(x, s, reverse):
    """Darknet's layer for one picture (C, H, W), as its formula is written."""
    c, h, w = x.shape
    d = c // (s * s)
    out = np.empty(x.size)
    for k, j, i in np.ndindex(c, h, w):
        c2, o = k % d, k // d
        a = i + w * (j + h * k)
        e = (i * s + o % s) + w * s * ((j * s + o // s) + h * s * c2)
        if reverse:
            out[e] = x.flat[a]
        else:
            out[a] = x.flat[e]
    return out.reshape((d, h * s, w * s) if reverse else (c * s * s, h // s, w // s))


@st.composite
def pictures(draw):
    """A picture of different values whose channels, height and width divide as needed, and the stride."""
    s, b = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    c, h, w = (draw(st.integers(1, 3)) for _ in range(3))
    shape = (b, c * s * s, h * s, w * s)
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape), s


@given(pictures(), st.booleans())
@settings(deadline=None)
def test_darknet_order_is_the_flat_index_formula(case, reverse):
    x, s = case
    got = reorg(x, s, "darknet", reverse)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got, np.stack([by_flat_index(picture, s, reverse) for picture in x]))


@given(pictures())
@settings(deadline=None)
def test_space_to_depth_is_its_definition(case):
    x, s = case
    got = reorg(x, s, "space_to_depth")
    for oy, ox in np.ndindex(s, s):
        first = (oy * s + ox) * x.shape[1]
        np.testing.assert_array_equal(got[:, first : first + x.shape[1]], x[:, :, oy::s, ox::s])


@given(pictures(), ORDERS, st.booleans())
@settings(deadline=None)
def test_every_value_is_kept_and_the_gradient_undoes_it(case, order, reverse):
    x, s = case
    got = reorg(x, s, order, reverse)
    assert np.unique(got).size == x.size
    np.testing.assert_array_equal(reorg_grad(got, s, order, reverse), x)


@given(pictures())
@settings(deadline=None)
def test_reverse_inverts_space_to_depth(case):
    x, s = case
    np.testing.assert_array_equal(reorg(reorg(x, s, "space_to_depth"), s, reverse=True), x)


def test_by_hand():
    # four channels of 2x2; Darknet reads the same memory as one channel of 4x4:
    #  0  1  2  3
    #  4  5  6  7       and takes its pixels (0,0), (0,1), (1,0), (1,1) of every block apart. The four
    #  8  9 10 11       planes that this gives are then read as sixteen channels of 1x1.
    # 12 13 14 15
    x = np.arange(16).reshape(1, 4, 2, 2)
    want = [0, 2, 8, 10, 1, 3, 9, 11, 4, 6, 12, 14, 5, 7, 13, 15]
    assert reorg(x).shape == (1, 16, 1, 1)
    np.testing.assert_array_equal(reorg(x).ravel(), want)
    # the textbook: upper left pixels of all channels, upper right ones, ...
    want = [0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15]
    np.testing.assert_array_equal(reorg(x, order="space_to_depth").ravel(), want)


def test_darknet_reverse_does_not_undo_darknet():
    x = np.arange(16).reshape(1, 4, 2, 2)
    assert (reorg(reorg(x), reverse=True) != x).any()


@pytest.mark.parametrize(
    ("shape", "order", "reverse"),
    [
        ((1, 4, 3, 2), "space_to_depth", False),
        ((1, 4, 2, 3), "darknet", False),
        ((1, 3, 2, 2), "darknet", False),
        ((1, 3, 2, 2), "space_to_depth", True),
    ],
)
def test_shapes_that_do_not_divide_are_refused(shape, order, reverse):
    with pytest.raises(ValueError, match="divisible"):
        reorg(np.zeros(shape), 2, order, reverse)


def test_unknown_orders_are_refused():
    with pytest.raises(ValueError, match="'pixel_unshuffle' is not one of"):
        reorg(np.zeros((1, 4, 2, 2)), 2, "pixel_unshuffle")

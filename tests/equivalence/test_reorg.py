"""Reorg: every order and direction, both layouts, every dtype; a permutation is exact."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fast.reorg
import reference.reorg
from tests.backends import LAYOUTS, each_backend, equivalence


def check(backend, shape, stride, order, reverse, layout, dtype):
    B, C, H, W = shape
    shape = (B, C * stride**2, H * stride, W * stride)
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) % 256  # exact in every dtype
    want = reference.reorg.reorg(x, stride, order, reverse)
    got = fast.reorg.reorg(backend.tensor(x, layout).to(dtype), stride, order, reverse)
    np.testing.assert_array_equal(got.float().cpu().numpy(), want)
    back = fast.reorg.reorg_grad(got, stride, order, reverse)
    np.testing.assert_array_equal(back.float().cpu().numpy(), x)
    assert got.dtype == back.dtype == dtype


@equivalence(
    examples=300,
    shape=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    stride=st.integers(1, 3),
    order=st.sampled_from(["darknet", "space_to_depth"]),
    reverse=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_reorg(backend, **case):
    check(backend, **case)


DTYPES = ["bool", "uint16", "int64", "float64", "float8_e4m3fn", "complex64", "complex128"]


@each_backend
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_dtype(backend, dtype):
    """Triton knows no complex numbers, and some GPUs no numbers of 8 bits."""
    x = torch.arange(2 * 4 * 4 * 2).reshape(2, 4, 4, 2).to(getattr(torch, dtype))
    want = reference.reorg.reorg(x.to(torch.complex128).numpy(), 2, "darknet", False)
    with backend:
        got = fast.reorg.reorg(x.to(backend.device), 2)
    assert got.dtype == x.dtype
    np.testing.assert_array_equal(got.to(torch.complex128).cpu().numpy(), want)

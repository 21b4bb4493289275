"""Stem: pictures of any size, odd ones too, and any number of filters; also as an operator of torch."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fast.stem
import reference.stem
from tests.backends import LAYOUTS, each_backend, each_kernel_backend, equivalence
from tests.equivalence import close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def random(batch, height, width, filters, seed=0, dtype=torch.float32):
    """Pictures, weights and bias, as numbers that the dtype has."""
    rng = np.random.default_rng(seed)
    shapes = (batch, 3, height, width), (filters, 3, 3, 3), (filters,)
    return [torch.from_numpy(rng.normal(size=s)).to(dtype) for s in shapes]


def check(backend, given, layout=torch.channels_last):
    got = fast.stem.stem(*(backend.tensor(t, layout if t.ndim == 4 else LAYOUTS[0]) for t in given))
    oracle, twin = (
        reference.stem.stem(*(t.to(dtype).numpy() for t in given)) for dtype in (torch.float64, torch.float32)
    )
    # 28 terms are added in another order; halves are rounded once, what leaky makes small by torch once more
    scale = reference.stem.stem(*(t.abs().double().numpy() for t in given)).max(initial=0)
    k, scale = (2, scale) if given[0].dtype == torch.float32 else (1, 0)
    close(got, oracle, twin, k, scale)
    assert got.dtype == given[0].dtype and got.is_contiguous(memory_format=torch.channels_last)


@equivalence(
    examples=300,
    # a tile has 16 outputs side by side and 2 or 4 below each other
    shape=st.tuples(st.integers(1, 2), st.integers(1, 10), st.integers(1, 36)),
    filters=st.sampled_from([1, 3, 8, 16, 32, 40]),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
def test_stem(backend, shape, filters, layout, dtype, seed):
    if backend.name == "triton-interpret" and dtype == torch.bfloat16:
        dtype = torch.float16  # the interpreter multiplies the bits of bfloat16 as if they were integers
    check(backend, random(*shape, filters, seed, dtype), layout)


@each_kernel_backend
@pytest.mark.parametrize("size", [(40, 18), (41, 19)])
def test_many_programs_meet_without_a_seam(backend, size, monkeypatch):
    """Strips of two tiles beside and below each other, the last ones not full, and blocks of filters."""
    import fast.kernels.stem as kernel

    for name, value in {"COLUMNS": 8, "BYTES": 64, "FILTERS": 8, "PROGRAMS": 15}.items():
        monkeypatch.setattr(kernel, name, value)
    with backend:
        check(backend, random(1, *size, 20, dtype=torch.float16))


@each_backend
def test_no_picture(backend):
    with backend:
        got = fast.stem.stem(*(backend.tensor(t) for t in random(0, 5, 6, 3)))
    assert got.shape == (0, 3, 3, 3)


@each_backend
def test_nan_is_neither_lost_nor_spread(backend):
    """A NaN is seen by every window that it lies in, and by none that is more than one output away."""
    x, weights, bias = random(1, 12, 40, 4)
    x[0, 1, 5, 17] = np.nan
    with backend:
        got = fast.stem.stem(backend.tensor(x), backend.tensor(weights), backend.tensor(bias))
    lost = got.isnan()[0].all(0).cpu()
    seen, may = torch.zeros(6, 20, dtype=bool), torch.zeros(6, 20, dtype=bool)
    seen[2:4, 8:10] = True  # convolutions of rows 4 to 6 and columns 16 to 18
    may[1:5, 7:11] = True
    assert (lost | ~seen).all() and (may | ~lost).all()
    assert got.isnan().any(1).cpu().equal(lost[None])


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_it_is_an_operator(backend, dtype):
    with backend:
        given = [backend.tensor(t) for t in random(2, 5, 6, 3, dtype=dtype)]
        torch.library.opcheck(fast.stem._stem.op, tuple(given))


@each_backend
def test_it_compiles_and_exports_in_one_piece(backend):
    class First(torch.nn.Module):
        def __init__(self, weights, bias):
            super().__init__()
            self.register_buffer("weights", weights)
            self.register_buffer("bias", bias)

        def forward(self, x):
            return 2 * fast.stem.stem(x, self.weights, self.bias)

    torch._dynamo.reset()
    with backend, torch.no_grad():
        x, *parameters = (backend.tensor(t) for t in random(3, 7, 6, 4))
        module = First(*parameters)
        sizes = {0: torch.export.Dim("batch", min=1), 2: torch.export.Dim("height", min=3)}
        exported = torch.export.export(module, (x,), dynamic_shapes=(sizes,)).module()
        compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="aot_eager")
        for pictures in (x, x[:2, :, :4].contiguous()):
            for function in (exported, compiled):
                torch.testing.assert_close(function(pictures), module(pictures), rtol=0, atol=0)

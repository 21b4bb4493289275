"""Decode, dense and thresholded: every activation, dtype and layout, tuned branches included."""

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

import fast.decode
import reference.decode
from reference.region import Region
from tests.backends import LAYOUTS, each_backend, equivalence, kernels_only
from tests.equivalence import close, equal
from tests.strategies import predictions, regions

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
K = 8  # exp, the sum of a softmax and two divisions


@pytest.fixture(params=["tuned", kernels_only("small")])
def tiles(request, monkeypatch):
    """Tiles as tuned, and so small that tiny heads take several programs and passes over their classes."""
    if request.param == "small":
        import fast.kernels.decode as kernels

        monkeypatch.setattr(kernels, "CELLS", 2)
        monkeypatch.setattr(kernels, "CLASSES", 2)
        monkeypatch.setattr(kernels, "SLOTS", 4)
        monkeypatch.setattr(kernels, "UNROLL", 2)


def check_decode(backend, pred, region, layout=LAYOUTS[0], dtype=torch.float32):
    head = backend.tensor(pred, layout).to(dtype)
    exact = head.double().cpu().numpy()  # what the rounded logits mean
    in_precision = exact if dtype == torch.float64 else exact.astype(np.float32)
    want, twin = reference.decode.decode(exact, region), reference.decode.decode(in_precision, region)
    got = fast.decode.decode(head, region)
    for name in want._fields:
        close(getattr(got, name), getattr(want, name), getattr(twin, name), K)
        assert getattr(got, name).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.usefixtures("tiles")
@equivalence(
    examples=100,
    data=st.data(),
    region=regions(),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
)
def test_decode(backend, data, region, layout, dtype, h, w):
    check_decode(backend, data.draw(predictions(region, 2, h, w)), region, layout, dtype)


@each_backend
@pytest.mark.parametrize("activation", ["softmax", "background", "logistic"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 100.0, -100.0])
@pytest.mark.parametrize("channel", [0, 2, 4, 6])
@pytest.mark.usefixtures("tiles")
def test_extreme_logits(backend, activation, value, channel):
    """Saturated, infinite and NaN logits give what the formulas give, and nothing beside their slot."""
    background = activation == "background"
    region = Region(((1.0, 2.0),), 3, "softmax" if background else activation, background=background)
    pred = np.random.default_rng(0).normal(size=(1, 8, 2, 2)).astype(np.float32)
    pred[0, channel, 0, 1] = value
    with backend, np.errstate(all="ignore"):
        check_decode(backend, pred, region)


@each_backend
@pytest.mark.usefixtures("tiles")
def test_all_classes_impossible(backend):
    """A softmax of -inf only is NaN, as in NumPy; one finite score takes it all, wherever it stands."""
    region = Region(((1.0, 2.0),), 5)
    pred = np.full((1, 10, 1, 3), -np.inf, np.float32)
    pred[0, :5] = 0
    pred[0, 5, 0, 1] = pred[0, 9, 0, 2] = 1
    with backend, np.errstate(all="ignore"):
        check_decode(backend, pred, region)


@each_backend
def test_views_and_empty_batches(backend):
    """Heads that are neither NCHW nor channels_last, and no images at all."""
    region = Region(((1.0, 2.0), (2.0, 1.0)), 2)
    pred = np.random.default_rng(1).normal(size=(2, 14, 4, 6)).astype(np.float32)
    with backend:
        wide = backend.tensor(pred)
        for view in (wide[:, :, :, ::2], wide[:, :, ::2], wide.transpose(2, 3), wide[::2], wide[:0]):
            got = fast.decode.decode(view, region)
            want = reference.decode.decode(view.cpu().numpy(), region)
            for name in want._fields:
                close(getattr(got, name), getattr(want, name), getattr(want, name), K)


def clearly_decided(scores: np.ndarray, conf: float) -> bool:
    """No choice of (slots, classes) hangs on rounding: not the threshold, nor which class of a slot is best.

    Equal scores of one slot are equal on every backend only if they come from equal logits, so they must
    either be identical in float64 or clearly apart.
    """
    ordered = np.sort(scores, axis=-1)
    gaps = np.diff(ordered, axis=-1)[..., -1:]
    return bool((np.abs(scores - conf) > 1e-5).all() and ((gaps == 0) | (gaps > 1e-5)).all())


@pytest.mark.usefixtures("tiles")
@equivalence(
    examples=100,
    data=st.data(),
    region=regions(),
    layout=st.sampled_from(LAYOUTS),
    conf=st.sampled_from([0.0, 0.1, 0.25, 0.6]),
    capacity=st.sampled_from([1, 5, 40]),
    rule=st.sampled_from(["darknet", "paper"]),
    h=st.integers(1, 3),
    w=st.integers(1, 3),
)
def test_candidates(backend, data, region, layout, conf, capacity, rule, h, w):
    pred = data.draw(predictions(region, 2, h, w))
    exact = pred.astype(np.float64)
    decoded = reference.decode.decode(exact, region)
    options = (0.37, rule)
    sure = reference.decode.class_scores(decoded, region, -1.0, 0.37, None, rule)
    assume(clearly_decided(sure, conf))
    want = reference.decode.decode_candidates(exact, region, conf, capacity, *options)
    twin = reference.decode.decode_candidates(pred, region, conf, capacity, *options)
    got = fast.decode.decode_candidates(backend.tensor(pred, layout), region, conf, capacity, *options)
    for name in ("count", "classes", "locations"):
        equal(getattr(got, name), getattr(want, name))
    for name in ("boxes", "scores"):
        close(getattr(got, name), getattr(want, name), getattr(twin, name), K)


@each_backend
def test_nan_scores_are_no_candidates(backend):
    region = Region(((1.0, 2.0),), 2)
    pred = np.full((1, 7, 1, 4), 3, np.float32)
    pred[0, 4, 0, 0] = pred[0, 5, 0, 1] = np.nan  # objectness, a class
    pred[0, 2, 0, 2] = np.nan  # a width only
    with backend:
        got = fast.decode.decode_candidates(backend.tensor(pred), region, 0.1, 4)
        assert got.count.tolist() == [2]
        assert got.locations.tolist() == [[2, 3, -1, -1]]
        assert got.boxes[0, 0].isnan().tolist() == [False, False, True, False]


OPERATORS = [
    (fast.decode._decode, ()),
    (fast.decode._decode_candidates, (0.2, 3, 0.5, "paper")),
]


@each_backend
@pytest.mark.parametrize(("operator", "rest"), OPERATORS, ids=["decode", "candidates"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
def test_operators_are_well_formed(backend, operator, rest, layout):
    region = Region(((1.0, 2.0), (2.0, 1.0)), 2)
    pred = torch.randn(1, 14, 2, 3, generator=torch.Generator().manual_seed(0))
    with backend:
        torch.library.opcheck(operator.op, (backend.tensor(pred, layout), region.settings, *rest))


def test_decode_has_a_gradient():
    region = Region(((1.0, 2.0), (2.0, 1.0)), 2)
    pred = torch.randn(1, 14, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: tuple(fast.decode.decode(p, region)), (pred,))

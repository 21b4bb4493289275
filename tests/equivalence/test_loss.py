"""The region loss, its gradient and the assignment: every setting of a region on every backend."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

import fast.assign
import fast.loss
import reference.assign
import reference.loss
from reference.region import Region, WordTree
from tests.backends import LAYOUTS, each_backend, each_kernel_backend, equivalence, kernels_only
from tests.equivalence import close, equal
from tests.strategies import TREE, cases, well_posed

K = 16  # a logarithm of a sum of exponentials, times scales, summed over the batch
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
TERMS = fast.loss.RegionLoss._fields


@pytest.fixture(params=["tuned", kernels_only("small")])
def tiles(request, monkeypatch):
    """Tiles as tuned, and so small that tiny heads, lists and class sets take several of them."""
    if request.param == "small":
        import fast.kernels.loss as kernels

        monkeypatch.setattr(kernels, "CELLS", 2)
        monkeypatch.setattr(kernels, "CLASSES", 2)
        monkeypatch.setattr(kernels, "TRUTHS", 2)
        monkeypatch.setattr(kernels, "ROWS", 2)


@pytest.fixture(params=["kernel", kernels_only("torch")])
def list_length(request, monkeypatch):
    """Lists that the kernels compare at once, and longer ones, which go to torch."""
    if request.param == "torch":
        import fast.kernels.loss as kernels

        monkeypatch.setattr(kernels, "MAX_TRUTHS", 0)


def weights_of(pred: np.ndarray, truth: np.ndarray, region: Region, upstream: np.ndarray) -> np.ndarray:
    """What flows into each entry of the gradient if (8,) `upstream` flows into the terms."""
    total, xy, wh, objectness, noobject, prior, classification, _ = upstream
    index = reference.assign.assign_targets(pred, truth, region).index
    B, _, H, W = pred.shape
    flow = np.empty((B, len(region.anchors), 5 + region.classes, H, W))
    for channel, own, other in ((0, xy, prior), (1, xy, prior), (2, wh, prior), (3, wh, prior)):
        flow[:, :, channel] = np.where(index >= 0, own, other)
    flow[:, :, 4] = np.where(index >= 0, objectness, noobject)
    flow[:, :, 5:] = classification
    return (total + flow).reshape(pred.shape)


def check(backend, pred, truth, region, seen, layout=LAYOUTS[0], dtype=torch.float32, upstream=(1, *[0] * 7)):
    """Loss, gradient and assignment of logits that are exact in `dtype`."""
    leaf = backend.tensor(torch.from_numpy(pred), layout).to(dtype).requires_grad_()
    exact = leaf.detach().double().cpu().numpy()
    twin = exact.astype(np.float32) if dtype != torch.float64 else exact
    upstream = np.array(upstream, np.float64)
    given = backend.tensor(truth.astype(np.float32))
    got = fast.loss.region_loss(leaf, given, region, seen)
    sum(u * term for u, term in zip(upstream.tolist(), got, strict=True)).backward()

    with np.errstate(all="ignore"):
        want, near = (reference.loss.region_loss(p, truth, region, seen) for p in (exact, twin))
        scale = max(1.0, float(np.nan_to_num(abs(want.total), posinf=1)))
        for name in TERMS:
            one, other = getattr(want, name), getattr(near, name)
            # squares of differences that are summed beside each other: roundings are those of the largest
            got_term, one, other = (
                np.atleast_1d(v) / scale for v in (getattr(got, name).tolist(), one, other)
            )
            close(torch.from_numpy(got_term).to(getattr(got, name).dtype), one, other, K, scale=1.0)
            assert getattr(got, name).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        flow = weights_of(exact, truth, region, upstream)
        grad, near = (reference.loss.region_loss_grad(p, truth, region, seen) * flow for p in (exact, twin))
        close(leaf.grad, grad, near, K, scale=1.0)  # differences of probabilities and targets
        assert leaf.grad.dtype == dtype

        assignment = fast.assign.assign_targets(leaf.detach(), given, region)
        want = reference.assign.assign_targets(exact, truth, region)
        equal(assignment.index, want.index)
        equal(assignment.ignore, want.ignore)


@pytest.mark.usefixtures("tiles")
@equivalence(
    examples=200,
    case=cases(),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    upstream=st.just((1, 0, 0, 0, 0, 0, 0, 0)) | st.tuples(*[st.sampled_from([0.0, 0.25, 2.0])] * 8),
)
def test_loss_gradient_and_assignment(backend, case, layout, dtype, upstream):
    rounded = torch.from_numpy(case.pred).to(dtype).float().numpy()
    case = case._replace(pred=rounded)
    assume(well_posed(case))
    check(backend, case.pred, case.truth, case.region, case.seen, layout, dtype, upstream)


SETTINGS = {
    "softmax": {},
    "background": {"background": True},
    "logistic": {"class_activation": "logistic"},
    "tree": {"class_activation": "tree", "tree": TREE, "classes": len(TREE.parents)},
}


def region_of(activation: str, **settings) -> Region:
    given = {"anchors": ((1.0, 1.0), (2.0, 1.0)), "classes": 3} | SETTINGS[activation] | settings
    return Region(**given)


def random_head(region: Region, B=1, H=3, W=2, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(B, region.channels, H, W)).astype(np.float32)


@each_backend
@pytest.mark.parametrize("activation", SETTINGS)
@pytest.mark.parametrize("squared", [False, True], ids=["cross entropy", "squared error"])
@pytest.mark.usefixtures("tiles", "list_length")
class TestTruths:
    """Lists that are short, long, crowded or on an edge."""

    def settings(self, activation, squared):
        return region_of(activation, class_loss="squared_error" if squared else "cross_entropy")

    def test_none(self, backend, activation, squared):
        region = self.settings(activation, squared)
        with backend:
            for rows in (0, 3):
                check(backend, random_head(region), np.zeros((1, rows, 5)), region, 1)

    def test_many_in_one_cell(self, backend, activation, squared):
        """Five truths share a slot: the last one owns it, labels collect or overrule as activations say."""
        region = self.settings(activation, squared)
        truth = np.zeros((1, 7, 5))
        for row, label in enumerate((0, 2, 1, 2, 0)):
            truth[0, row] = (0.3, 0.6, 0.25, 0.25, label)
        with backend:
            check(backend, random_head(region, seed=3), truth, region, 1)

    def test_on_borders(self, backend, activation, squared):
        """Centres on the borders of cells and of the picture belong to the cell right and below of them."""
        region = self.settings(activation, squared)
        truth = np.array([[[0.5, 1 / 3, 0.5, 0.5, 1], [1e-6, 0, 0.25, 0.25, 0], [0.999, 0.999, 1, 1, 2]]])
        with backend:
            check(backend, random_head(region, seed=4), truth, region, 500_000)

    def test_one_cell(self, backend, activation, squared):
        region = self.settings(activation, squared)
        truth = np.array([[[0.5, 0.5, 0.9, 0.4, 1], [0.25, 0.25, 0.4, 0.5, 2]]])
        with backend:
            check(backend, random_head(region, H=1, W=1, seed=5), truth, region, 1)


@each_backend
@pytest.mark.parametrize("activation", SETTINGS)
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 80.0, -80.0])
@pytest.mark.parametrize("channel", [0, 2, 4, 5, 6])
@pytest.mark.parametrize("owned", [True, False])
def test_extreme_logits(backend, activation, value, channel, owned):
    """Saturated, infinite and NaN logits act on the terms they enter, and on their own slot's gradient only.

    In a responsible slot and elsewhere; with boxes that are NaN the slot overlaps nothing.
    """
    region = region_of(activation, anchors=((1.0, 1.0),))
    pred = random_head(region, H=2, W=2, seed=6)
    pred[0, channel, 1, 1 if owned else 0] = value
    truth = np.array([[[0.75, 0.75, 0.5, 0.5, 0]]])
    with backend:
        check(backend, pred, truth, region, 1)


@each_backend
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 80.0])
@pytest.mark.parametrize("owned", [True, False])
def test_extreme_offsets(backend, value, owned):
    """The same where no sigmoid holds a box: it may be infinitely far away, and pulled back as hard."""
    region = region_of("softmax", anchors=((1.0, 1.0),), location="anchor")
    pred = random_head(region, H=2, W=2, seed=6)
    pred[0, 0, 1, 1 if owned else 0] = value
    with backend:
        check(backend, pred, np.array([[[0.75, 0.75, 0.5, 0.5, 0]]]), region, 1)


@each_backend
@pytest.mark.usefixtures("tiles", "list_length")
def test_classification_only_image_beside_one_with_boxes(backend):
    region = region_of("tree", class_map=(3, 8, 1))
    truth = np.zeros((3, 3, 5))
    truth[0, 0] = (0.3, 0.6, 0.25, 0.25, 1)
    truth[1, 0] = (0.3, 0.3, 0.25, 0.25, 2)
    truth[1, 1] = (999999, 999999, 0, 0, 9)
    truth[2, 0] = (999999, 999999, 0, 0, 5)
    with backend:
        check(backend, random_head(region, B=3, seed=7), truth, region, 1)


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_assumed_iou(backend, dtype):
    """What the answer for a whole image is pulled up to is no float32 in a loss of float64."""
    region = region_of("tree", assumed_iou=0.3)
    truth = np.array([[[999999, 999999, 0, 0, 9]]])
    with backend:
        check(backend, random_head(region, seed=7) - 2, truth, region, 1, dtype=dtype)


@each_backend
@pytest.mark.usefixtures("tiles")
def test_wide_groups(backend):
    """A group of more members than a tile has, on the path of two truths of one slot."""
    tree = WordTree(("",) * 45, (*[-1] * 3, *[0] * 40, 5, 5))
    region = region_of("tree", tree=tree, classes=45)
    truth = np.array([[[0.3, 0.6, 0.25, 0.25, 44], [0.3, 0.6, 0.25, 0.25, 17]]])
    with backend:
        check(backend, random_head(region, seed=8), truth, region, 1)


@each_kernel_backend
@pytest.mark.parametrize("activation", SETTINGS)
def test_impossible_truths_count_for_nothing(backend, activation):
    """Where raising would mean to wait for the device."""
    region = region_of(activation)
    wrong = [(0.5, 0.5, 0.2, 0.2, 99), (0.5, 0.5, 0.2, 0.2, -1), (1, 0.5, 0.2, 0.2, 0), (0.5, 0.5, 0, 0.2, 0)]
    nan = float("nan")
    wrong += [(0.5, -0.1, 0.2, 0.2, 0), (nan, 0.5, 0.2, 0.2, 0), (0.5, 0.5, nan, 0.2, 0)]
    # a GPU converts NaN to class 0 and what is too large to the largest integer
    wrong += [(0.5, 0.5, 0.2, 0.2, c) for c in (nan, float("inf"), -float("inf"), 1e10)]
    good = (0.3, 0.6, 0.25, 0.25, 1)
    pred = torch.from_numpy(random_head(region, seed=9))
    with backend:
        mixed = backend.tensor(torch.tensor([[wrong[0], good, *wrong[1:]]]))
        alone = backend.tensor(torch.tensor([[good]]))
        got = fast.loss.region_loss(backend.tensor(pred), mixed, region, 1)
        want = fast.loss.region_loss(backend.tensor(pred), alone, region, 1)
    assert torch.equal(torch.stack(got), torch.stack(want))


@each_backend
@pytest.mark.parametrize("activation", SETTINGS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
def test_operators_are_well_formed(backend, activation, layout):
    region = region_of(activation)
    truth = torch.tensor([[[0.3, 0.6, 0.25, 0.25, 1.0]]])
    with backend:
        pred = backend.tensor(torch.from_numpy(random_head(region)), layout).requires_grad_()
        torch.library.opcheck(fast.loss._region_loss.op, (pred, backend.tensor(truth), region.settings, True))
        torch.library.opcheck(
            fast.assign._assign_targets.op, (pred.detach(), backend.tensor(truth), region.settings)
        )


@each_backend
def test_the_same_input_gives_the_same_bits(backend):
    region = dataclasses.replace(region_of("softmax"), classes=5)
    pred = torch.from_numpy(random_head(region, B=2, seed=10))
    truth = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0)) * 0.9 + 0.05
    truth[..., 4] = 1
    runs = []
    with backend:
        for _ in range(2):
            leaf = backend.tensor(pred).requires_grad_()
            loss = fast.loss.region_loss(leaf, backend.tensor(truth), region, 1)
            loss.total.backward()
            runs.append((torch.stack(loss), leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@each_backend
def test_views_and_empty_batches(backend):
    region = region_of("softmax")
    pred = torch.from_numpy(
        np.random.default_rng(1).normal(size=(2, region.channels, 4, 6)).astype(np.float32)
    )
    truth = np.array([[[0.3, 0.6, 0.25, 0.25, 1.0]]] * 2)
    with backend:
        wide = backend.tensor(pred)
        for view in (wide[:, :, :, ::2], wide[:, :, ::2], wide.transpose(2, 3), wide[::2]):
            leaf = view.detach().requires_grad_()
            given = backend.tensor(truth[: len(view)].astype(np.float32))
            fast.loss.region_loss(leaf, given, region, 1).total.backward()
            want = reference.loss.region_loss_grad(view.cpu().numpy(), truth[: len(view)], region, 1)
            close(leaf.grad, want, want, K)
        none = fast.loss.region_loss(wide[:0], backend.tensor(truth[:0].astype(np.float32)), region, 1)
        assert torch.stack(none).tolist() == [0.0] * 8


@pytest.mark.parametrize(
    "row",
    [
        (0.5, 0.5, 0.2, 0.2, 3),  # there is no class 3
        (0.5, 0.5, 0.2, 0.2, -1),
        (1.0, 0.5, 0.2, 0.2, 0),  # centred on the border: belongs to no cell
        (0.5, -0.1, 0.2, 0.2, 0),
        (0.5, 0.5, 0.0, 0.2, 0),  # empty
    ],
)
@pytest.mark.parametrize("wing", [reference, fast])
def test_impossible_truths_are_refused(wing, row):
    region = Region(((1.0, 1.0),), 3)
    pred = np.zeros((1, region.channels, 2, 2), np.float32)
    truth = np.array([[(0.1, 0.1, 0.1, 0.1, 0), row]], np.float32)
    if wing is fast:
        pred, truth = torch.from_numpy(pred), torch.from_numpy(truth)
    with pytest.raises(ValueError, match="image 0, row 1"):
        wing.loss.region_loss(pred, truth, region, 1)


def test_wrong_channels_are_refused():
    with pytest.raises(ValueError, match="needs"):
        fast.decode.decode(torch.zeros(1, 7, 2, 2), Region(((1.0, 1.0),), 3))


@each_backend
def test_backward_pass_writes_no_zeros(backend):
    """Nothing as large as the head besides the gradient itself."""
    region = region_of("softmax")
    with backend:
        pred = backend.tensor(torch.from_numpy(random_head(region, seed=3))).requires_grad_()
        loss = fast.loss.region_loss(pred, backend.tensor(torch.zeros(len(pred), 1, 5)), region, 1)
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, record_shapes=True) as profile:
            loss.total.backward()
    shapes = [event.input_shapes[:1] for event in profile.events() if event.name == "aten::zero_"]
    assert [list(pred.shape)] not in shapes


@each_backend
def test_backward_pass_of_one_column(backend):
    """The stride of a dimension of size 1 may be anything."""
    g = torch.Generator().manual_seed(0)
    values, slots = torch.randn(1, 8, 3, 1, generator=g), torch.tensor([-1, 0, 2], dtype=torch.int32)
    dterms = torch.randn(8, generator=g)
    want = fast.loss._scaled(values, slots.view(1, 1, 3, 1), dterms, torch.float32, 3)
    with backend:
        grad = backend.tensor(values).as_strided((1, 8, 3, 1), (24, 3, 1, 5))
        slots = backend.tensor(slots).view(1, 1, 3, 1)
        got = fast.loss._scaled(grad, slots, backend.tensor(dterms), torch.float32, 3)
    torch.testing.assert_close(got.cpu(), want)

"""YOLOv1's detection layer: one cell by hand, the gradient against differences, torch against NumPy."""

import re
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import fast.grid
from reference.grid import (
    activate_grid,
    assign_grid,
    decode_grid,
    detect_grid,
    grid_loss,
    grid_loss_grad,
    grid_statistics,
    grid_targets,
    grid_truth,
    split_grid,
)
from reference.layers import Grid
from tests.equivalence import close, equal
from tests.golden import GOLDEN
from tests.golden import cases as golden_cases
from tests.golden.grid import golden_grid
from tests.test_step import NothingWaits

CASES = [case for case in golden_cases() if case.group == "yolov1_train"]

ONE = Grid(side=1, boxes=2, classes=2)
# one cell: classes .3, .6; confidences .2, .7; boxes .4^2 x .5^2 at (.2, .3) and 1 x .5^2 at the centre
OUTPUT = np.array([[0.3, 0.6, 0.2, 0.7, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 1, 0.5]])
# the truth is of class 1, .25 x .25 at the centre
TRUTH = np.array([[[1, 0, 1, 0.5, 0.5, 0.25, 0.25]]])
EMPTY = np.zeros((1, 1, 7))


@st.composite
def cases(draw, **settings):
    """A grid, an output and truths in about half of its cells; numbers generic, so without ties."""
    grid = Grid(
        side=draw(st.integers(1, 3)),
        boxes=draw(st.integers(2, 3)),
        classes=draw(st.integers(1, 3)),
        sqrt=draw(st.booleans()),
        rescore=draw(st.booleans()),
        forced=draw(st.booleans()),
        **settings,
    )
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    B, T = draw(st.integers(1, 2)), draw(st.integers(0, 4))
    truth = [
        grid_truth(
            np.hstack([rng.random((T, 2)), 0.1 + 0.5 * rng.random((T, 2))]),
            rng.integers(grid.classes, size=T),
            grid,
        )
        for _ in range(B)
    ]
    return grid, rng.random((B, grid.outputs)), np.stack(truth)


def test_decode_by_hand():
    # cell 1 of a 2x2 grid is row 0, column 1: x = (1 + .5) / 2, y = (0 + .25) / 2
    grid = Grid(side=2, boxes=1, classes=1)
    output = np.zeros((1, grid.outputs))
    split_grid(output, grid).boxes[0, 1, 0] = [0.5, 0.25, 0.5, 0.1]
    np.testing.assert_allclose(decode_grid(output, grid)[0, 1, 0], [0.75, 0.125, 0.25, 0.01])
    linear = replace(grid, sqrt=False)
    np.testing.assert_allclose(decode_grid(output, linear)[0, 1, 0], [0.75, 0.125, 0.5, 0.1])


def test_detect_by_hand():
    boxes, confidence, scores = detect_grid(OUTPUT, ONE, 0.2)
    np.testing.assert_allclose(boxes, [[[0.2, 0.3, 0.16, 0.25], [0.5, 0.5, 1, 0.25]]])
    np.testing.assert_allclose(confidence, [[0.2, 0.7]])
    # .2 * (.3, .6) = .06, .12; .7 * (.3, .6) = .21, .42
    np.testing.assert_allclose(scores, [[[0, 0], [0.21, 0.42]]])


def test_grid_truth_by_hand():
    grid = Grid(side=2, boxes=1, classes=2)
    boxes = np.array([[0.75, 0.25, 0.2, 0.3], [0.6, 0.1, 0.5, 0.5], [0.1, 0.9, 0.004, 0.5]])
    truth = grid_truth(boxes, np.array([1, 0, 0]), grid)
    want = np.zeros((4, 7))
    want[1] = [1, 0, 1, 0.5, 0.5, 0.2, 0.3]  # .75 * 2 = 1 + .5, .25 * 2 = 0 + .5
    np.testing.assert_allclose(truth, want)  # the second is in the same cell, the third too narrow


@pytest.mark.parametrize(
    ("box", "label", "message"),
    [
        ((1.0, 0.5, 0.1, 0.1), 0, "row 1: box .* is centred outside"),
        ((-0.2, 0.5, 0.1, 0.1), 0, "row 1: box"),
        ((0.5, 1.0, 0.1, 0.1), 0, "row 1: box"),
        ((0.5, -0.2, 0.1, 0.1), 0, "row 1: box"),
        ((float("nan"), 0.5, 0.1, 0.1), 0, "row 1: box"),
        ((0.5, 0.5, 0.1, 0.1), 2, "row 1: class 2 is not one of 2"),
        ((0.5, 0.5, 0.1, 0.1), -1, "row 1: class -1 is not one of 2"),
    ],
)
def test_truths_without_meaning_are_refused(box, label, message):
    boxes = np.array([(0.5, 0.5, 0.2, 0.2), box])
    with pytest.raises(ValueError, match=message):
        grid_truth(boxes, np.array([0, label]), Grid(side=2, boxes=1, classes=2))


def test_a_box_clipped_away_at_the_far_edge_is_dropped():
    grid = Grid(side=2, boxes=1, classes=2)
    assert not grid_truth(np.array([[1.0, 0.5, 0, 0.3]]), np.array([0]), grid).any()


def test_assignment_by_hand():
    # Box 0 spans .12 to .28 in x and misses the truth's .375 to .625. Box 1 covers it: IoU .25^2 / .25
    responsible, iou = assign_grid(OUTPUT, TRUTH, ONE)
    assert responsible.tolist() == [[1]] and iou.tolist() == [[0.25]]
    # With a small box in each corner no IoU is above 0, and the nearer one counts.
    far = OUTPUT.copy()
    split_grid(far, ONE).boxes[:] = [[0.1, 0.1, 0.1, 0.1], [0.8, 0.9, 0.1, 0.1]]
    responsible, iou = assign_grid(far, TRUTH, ONE)
    assert responsible.tolist() == [[1]] and iou.tolist() == [[0]]
    split_grid(far, ONE).boxes[:] = [0.5, 0.5, 0.5, 0.5]  # equal: the first
    assert assign_grid(far, TRUTH, ONE)[0].tolist() == [[0]]
    split_grid(far, ONE).boxes[:] = [30, 30, 0, 0]  # absurd: neither
    assert assign_grid(far, TRUTH, ONE)[0].tolist() == [[-1]]
    assert assign_grid(OUTPUT, EMPTY, ONE)[0].tolist() == [[-1]]


def test_forced_assignment_looks_at_the_truth_alone():
    forced = replace(ONE, forced=True)
    assert assign_grid(OUTPUT, TRUTH, forced)[0].tolist() == [[1]]  # .25 * .25 < .1: small
    large = TRUTH.copy()
    large[..., -2:] = 0.5  # .25
    assert assign_grid(OUTPUT, large, forced)[0].tolist() == [[0]]


def test_gradient_and_loss_by_hand():
    grad = split_grid(grid_loss_grad(OUTPUT, TRUTH, ONE), ONE)
    np.testing.assert_allclose(grad.classes, [[[0.3, 0.6 - 1]]])
    # box 0: .5 * .2; box 1 is responsible: 1 * (.7 - IoU .25)
    np.testing.assert_allclose(grad.confidence, [[[0.1, 0.45]]])
    # 5 * (1 - sqrt .25), 5 * (.5 - sqrt .25)
    np.testing.assert_allclose(grad.boxes, [[[[0, 0, 0, 0], [0, 0, 2.5, 0]]]])
    # 1/2 (.3^2 + .4^2 + .5 * .2^2 + .45^2 + 5 * .5^2) = 1/2 (.09 + .16 + .02 + .2025 + 1.25)
    loss = grid_loss(OUTPUT, TRUTH, ONE)
    np.testing.assert_allclose(loss.total, 0.86125)
    # 5/2 * 0 for the centre, 5/2 * .5^2, 1/2 * .45^2, .5/2 * .2^2, 1/2 (.3^2 + .4^2)
    np.testing.assert_allclose(loss[1:], [0, 0.625, 0.10125, 0.01, 0.125])
    plain = split_grid(grid_loss_grad(OUTPUT, TRUTH, replace(ONE, rescore=False, sqrt=False)), ONE)
    np.testing.assert_allclose(plain.confidence[0, 0, 1], 0.7 - 1)
    np.testing.assert_allclose(plain.boxes[0, 0, 1, 2:], [5 * 0.75, 5 * 0.25])


def test_without_truths_only_confidence_is_punished():
    grad = split_grid(grid_loss_grad(OUTPUT, EMPTY, ONE), ONE)
    np.testing.assert_allclose(grad.confidence, [[[0.1, 0.35]]])
    assert not grad.classes.any() and not grad.boxes.any()


def test_statistics_by_hand():
    got = grid_statistics(OUTPUT, TRUTH, ONE)
    np.testing.assert_allclose(got, [0.25, 0.6, 0.45, 0.7, 0.45, 1])
    assert np.isnan(grid_statistics(OUTPUT, EMPTY, ONE).iou)


def test_softmax_only_touches_classes():
    grid = replace(ONE, softmax=True)
    raw = OUTPUT.copy()
    raw[0, :2] = 0, np.log(3)
    np.testing.assert_allclose(activate_grid(raw, grid)[0, :2], [0.25, 0.75])
    np.testing.assert_array_equal(activate_grid(raw, grid)[0, 2:], OUTPUT[0, 2:])
    np.testing.assert_array_equal(activate_grid(raw, ONE), raw)


def test_wrong_length_is_refused():
    with pytest.raises(ValueError, match="12"):
        split_grid(np.zeros((1, 13)), ONE)


@given(cases())
@settings(deadline=None)
def test_gradient_is_the_central_difference_of_the_loss(case):
    grid, output, truth = case
    target, weight = grid_targets(output, truth, grid)  # held: the assignment and its IoU are constants
    step = 1e-4

    def loss(x):
        return (weight * (target - x) ** 2).sum() / 2

    got = grid_loss_grad(output, truth, grid)
    np.testing.assert_allclose(loss(output), grid_loss(output, truth, grid).total)
    for i in np.ndindex(output.shape):
        d = np.zeros_like(output)
        d[i] = step
        difference = (loss(output + d) - loss(output - d)) / (2 * step)
        np.testing.assert_allclose(got[i], difference, atol=1e-8)


@given(cases())
def test_every_truth_has_one_responsible_box_and_its_target_is_reached(case):
    grid, output, truth = case
    responsible, iou = assign_grid(output, truth, grid)
    np.testing.assert_array_equal(responsible >= 0, truth[..., 0] > 0)
    assert ((iou >= 0) & (iou <= 1)).all()
    # an output that equals its targets has, with the same assignment, no error left
    target, weight = grid_targets(output, truth, grid)
    assert (weight >= 0).all() and not (target[weight == 0]).any()
    b, cell = np.nonzero(responsible >= 0)
    boxes = decode_grid(target, grid)[b, cell, responsible[b, cell]]
    side = np.array([cell % grid.side, cell // grid.side]).T
    np.testing.assert_allclose(boxes[:, :2], (truth[b, cell, -4:-2] + side) / grid.side)
    np.testing.assert_allclose(boxes[:, 2:], truth[b, cell, -2:])


@given(cases())
def test_pictures_are_independent(case):
    grid, output, truth = case
    rows = [grid_loss_grad(o[None], t[None], grid)[0] for o, t in zip(output, truth, strict=True)]
    np.testing.assert_array_equal(grid_loss_grad(output, truth, grid), rows)


def test_dtype_is_kept():
    for dtype in (np.float32, np.float64):
        output, truth = OUTPUT.astype(dtype), TRUTH.astype(dtype)
        results = (
            grid_loss_grad(output, truth, ONE),
            decode_grid(output, ONE),
            *grid_loss(output, truth, ONE),
            *detect_grid(output, ONE, 0.2),
        )
        assert {r.dtype for r in results} == {np.dtype(dtype)}


@st.composite
def vectors(draw):
    """Settings, and vectors (B, outputs) float64 for them, also of no picture; in quarters, so that products
    of two may be the threshold itself.
    """
    grid = Grid(
        side=draw(st.integers(1, 4)),
        boxes=draw(st.integers(1, 3)),
        classes=draw(st.integers(1, 4)),
        sqrt=draw(st.booleans()),
        softmax=draw(st.booleans()),
    )
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([0.0, 1.0, 30.0]))  # all equal, mild, saturated
    values = spread * rng.normal(size=(draw(st.integers(0, 3)), grid.outputs))
    return grid, np.round(4 * values) / 4


def strided(array, dtype):
    """A tensor with these values, every second column of a wider one: what a slice of a batch looks like."""
    wide = torch.full((array.shape[0], 2 * array.shape[1]), torch.nan, dtype=dtype)
    wide[:, ::2] = torch.from_numpy(array)
    return wide[:, ::2]


@st.composite
def trainings(draw):
    """Settings, outputs, and label lists (B, T, 5) x y w h class, on grids where overlaps and distances tie.

    Labels share cells, are too small, or fill their list up.
    """
    grid = Grid(
        side=draw(st.sampled_from([1, 2, 4])),  # so that quotients by it are exact
        boxes=draw(st.integers(2, 3)),
        classes=draw(st.integers(1, 3)),
        object_scale=draw(st.sampled_from([1.0, 3.0])),
        **{flag: draw(st.booleans()) for flag in ("sqrt", "rescore", "forced")},
    )
    row = st.tuples(
        *2 * [st.integers(0, 63)],
        *2 * [st.sampled_from([0, 0.25, 1, 16, 64])],
        st.integers(0, grid.classes - 1),
    )
    B, T = draw(st.integers(0, 2)), draw(st.integers(0, 5))
    labels = draw(st.lists(st.lists(row, min_size=T, max_size=T), min_size=B, max_size=B))
    truth = np.array(labels, float).reshape(B, T, 5) / (64, 64, 64, 64, 1)
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    spread = draw(st.sampled_from([0, 2, 100]))  # all equal, in reach of the cell, absurdly far
    return grid, rng.integers(-spread, spread + 1, (B, grid.outputs)) / 4, truth


class TestTorch:
    """`fast.grid`, which has no kernels of its own."""

    @given(trainings(), st.sampled_from([torch.float32, torch.float64]))
    def test_truths_and_assignment_equal_the_oracle_bit_for_bit(self, case, dtype):
        grid, output, labels = case
        output, labels = strided(output, dtype), torch.from_numpy(labels).to(dtype)
        truth = fast.grid.grid_truth(labels[..., :4], labels[..., 4].long(), grid)
        want = np.zeros((len(labels), grid.side**2, 5 + grid.classes), truth.numpy().dtype)
        for rows, row in zip(want, labels.numpy(), strict=True):
            rows[:] = grid_truth(row[:, :4], row[:, 4].astype(int), grid)
        assert truth.dtype == dtype
        equal(truth, want)
        for got, wanted in zip(
            fast.grid.assign_grid(output, truth, grid),
            assign_grid(output.numpy(), want, grid),
            strict=True,
        ):
            equal(got, wanted)

    @given(trainings(), st.sampled_from([torch.float32, torch.float64]))
    def test_loss_equals_the_oracle_and_its_gradient_is_the_closed_form(self, case, dtype):
        grid, values, labels = case
        output = strided(values, dtype).requires_grad_()
        labels = torch.from_numpy(labels).to(dtype)
        truth = fast.grid.grid_truth(labels[..., :4], labels[..., 4].long(), grid)
        loss = fast.grid.grid_loss(output, truth, grid)
        loss.total.backward()
        exact = [array.double().numpy() for array in (output.detach(), truth)]
        twin = grid_loss(output.detach().numpy(), truth.numpy(), grid)
        for got, want, ours in zip(loss, grid_loss(*exact, grid), twin, strict=True):
            assert got.dtype == dtype
            close(got, want, ours, k=4)  # a sum in another order
        equal(output.grad, grid_loss_grad(output.detach().numpy(), truth.numpy(), grid))

    @pytest.mark.skipif(not CASES, reason=f"GOLDEN NUMBERS ABSENT: {GOLDEN} does not exist")
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    def test_gradient_by_the_layers_input_is_that_of_darknet(self, case):
        grid = golden_grid(case.config)
        raw = torch.from_numpy(case["input"]).clone().requires_grad_()
        truth = torch.from_numpy(case["truth"])
        fast.grid.grid_loss(fast.grid.trained_grid(raw, grid), truth, grid).total.backward()
        np.testing.assert_allclose(-raw.grad, case["delta"], atol=1e-6)

    @given(trainings())
    def test_terms_have_their_own_gradients(self, case):
        """Each output belongs to one term: weights of terms act on it alone."""
        grid, values, labels = case
        labels = torch.from_numpy(labels)
        truth = fast.grid.grid_truth(labels[..., :4], labels[..., 4].long(), grid)
        grads = []
        for term in range(6):
            output = torch.from_numpy(values).requires_grad_()
            (grad,) = torch.autograd.grad(fast.grid.grid_loss(output, truth, grid)[term], output)
            grads.append(grad)
        assert ((torch.stack(grads[1:]) != 0).sum(0) <= 1).all()
        equal(grads[0], sum(grads[1:]).numpy())

    def test_halves_are_computed_in_float32(self):
        output, truth = torch.from_numpy(OUTPUT), torch.from_numpy(TRUTH)
        loss = fast.grid.grid_loss(output.half(), truth, ONE)
        assert loss.total.dtype == torch.float32
        assert loss.total == fast.grid.grid_loss(output.half().float(), truth.float(), ONE).total

    @pytest.mark.parametrize(("sqrt", "forced"), [(True, False), (False, True)])
    def test_nothing_waits_for_a_gpu(self, sqrt, forced):
        grid = Grid(3, 2, 4, sqrt=sqrt, forced=forced, softmax=True)
        raw = torch.zeros(2, grid.outputs, device="meta", requires_grad=True)
        boxes, labels = (
            torch.zeros(2, 5, 4, device="meta"),
            torch.zeros(2, 5, device="meta", dtype=torch.long),
        )
        with NothingWaits():
            truth = fast.grid.grid_truth(boxes, labels, grid)
            loss = fast.grid.grid_loss(fast.grid.trained_grid(raw, grid), truth, grid)
            loss.total.backward()
        assert truth.shape == (2, 9, 9) and raw.grad.shape == raw.shape

    def test_impossible_truths(self):
        """They are named on a CPU; on a GPU, which "meta" stands for, nothing is looked at."""
        good = [0.5, 0.5, 0.25, 0.25]
        for box, label in [([1.0, 0.5, 0.1, 0.1], 0), ([0.5, -0.2, 0.1, 0.1], 0), (good, 2), (good, -1)]:
            boxes, labels = torch.tensor([[good, box]]), torch.tensor([[0, label]])
            with pytest.raises(ValueError, match="image 0, row 1"):
                fast.grid.grid_truth(boxes, labels, ONE)
            fast.grid.grid_truth(boxes.to("meta"), labels.to("meta"), ONE)

    def test_training_hands_the_gradient_on_past_a_softmax(self):
        """As Darknet does; the loss is that of the activated output."""
        grid = replace(ONE, softmax=True)
        raw = torch.from_numpy(OUTPUT).clone().requires_grad_()
        truth = torch.from_numpy(TRUTH)
        output = fast.grid.trained_grid(raw, grid)
        equal(output, fast.grid.activate_grid(raw, grid).detach().numpy())
        fast.grid.grid_loss(output, truth, grid).total.backward()
        equal(raw.grad, grid_loss_grad(output.detach().numpy(), TRUTH, grid))

    @given(vectors(), st.sampled_from([torch.float32, torch.float64]))
    def test_activation_equals_the_oracle(self, case, dtype):
        grid, values = case
        raw = strided(values, dtype)
        exact = raw.double().numpy()
        got = fast.grid.activate_grid(raw, grid)
        assert got.dtype == dtype
        twin = activate_grid(raw.numpy(), grid)
        close(got, activate_grid(exact, grid), twin, k=8)  # exp, a sum of few, a division
        if not grid.softmax:
            equal(got, raw.numpy())

    @given(
        vectors(),
        st.sampled_from([torch.float32, torch.float64]),
        st.sampled_from([-1.0, 0.0, 0.125, 0.5]),
    )
    def test_the_rest_equals_the_oracle_bit_for_bit(self, case, dtype, threshold):
        """Sums, products and quotients are rounded the same everywhere, so no tolerance is needed."""
        grid, values = case
        output = strided(values, dtype)
        for got, want in zip(
            fast.grid.split_grid(output, grid), split_grid(output.numpy(), grid), strict=True
        ):
            equal(got, want)
        equal(fast.grid.decode_grid(output, grid), decode_grid(output.numpy(), grid))
        found = fast.grid.detect_grid(output, grid, threshold)
        for got, want in zip(found, detect_grid(output.numpy(), grid, threshold), strict=True):
            assert got.dtype == dtype and got.shape == want.shape
            equal(got, want)

    def test_nan_is_no_detection(self):
        output = torch.from_numpy(OUTPUT).clone()
        output[0, 3] = torch.nan  # the confidence of box 1
        _, confidence, scores = fast.grid.detect_grid(output, ONE, 0.05)
        assert confidence[0].isnan().tolist() == [False, True]
        np.testing.assert_allclose(scores, [[[0.06, 0.12], [0, 0]]])

    def test_parts_are_views(self):
        output = torch.zeros(2, ONE.outputs)
        fast.grid.split_grid(output, ONE).boxes[1, 0, 1] = torch.arange(1.0, 5)
        assert output.sum(1).tolist() == [0, 10]
        assert output[1, -4:].tolist() == [1, 2, 3, 4]

    def test_gradient(self):
        grid = Grid(side=2, boxes=2, classes=2, softmax=True)
        raw = torch.rand(1, grid.outputs, dtype=torch.float64, requires_grad=True)

        def detect(x):
            return fast.grid.detect_grid(fast.grid.activate_grid(x, grid), grid, -1.0)

        assert torch.autograd.gradcheck(detect, (raw,))

    @pytest.mark.parametrize("shape", [(1, 13), (1, 11), (12,), (1, 12, 1), (3, 2, 2)])
    def test_other_shapes_are_refused(self, shape):
        wrong = torch.zeros(shape)
        for function in (fast.grid.split_grid, fast.grid.activate_grid, fast.grid.decode_grid):
            with pytest.raises(ValueError, match=r"\(B, 12\).*" + re.escape(str(shape))):
                function(wrong, ONE)
        with pytest.raises(ValueError, match=r"\(B, 12\)"):
            fast.grid.detect_grid(wrong, ONE, 0.1)

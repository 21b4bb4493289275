"""The loss by hand, term by term, and its gradient against central differences."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reference.decode import by_slot
from reference.loss import (
    loss_against,
    region_delta,
    region_loss,
    region_loss_grad,
    region_statistics,
    region_targets,
)
from reference.region import Region
from tests.strategies import TREE, cases

ONE = Region(anchors=((1.0, 1.0),), classes=2, rescore=False)
LATE = ONE.prior_images  # the first count at which the prior is silent
LOGISTIC = Region(anchors=((1.0, 1.0),), classes=3, class_activation="logistic")
WORDS = Region(anchors=((1.0, 1.0),), classes=10, class_activation="tree", tree=TREE)
#: upper right quarter of the only cell, class 1
QUARTER = (0.75, 0.25, 0.5, 0.5, 1)
NOTHING = np.zeros((1, 0, 5))


def zeros(region, h=1, w=1):
    """Raw zeros: p = 1/2 for places and objectness, sizes are the anchors, classes are equal."""
    return np.zeros((1, region.channels, h, w))


def truths(*rows):
    """Truth of one image."""
    return np.array([rows], float)


def loss(region, truth, pred=None, seen=LATE):
    return region_loss(zeros(region) if pred is None else pred, truth, region, seen)


def grad(region, truth, pred=None, seen=LATE):
    """Gradient of the first slot, (5+C,)."""
    pred = zeros(region) if pred is None else pred
    return by_slot(region_loss_grad(pred, truth, region, seen), region)[0, 0, 0, 0]


def test_one_truth_by_hand():
    # weight 2 - 1/4; places (1/2 - 3/4)^2 + (1/2 - 1/4)^2; sizes twice (0 - ln 1/2)^2
    got = loss(ONE, truths(QUARTER))
    assert got.xy == pytest.approx(1.75 * (1 / 16 + 1 / 16) / 2)
    assert got.wh == pytest.approx(1.75 * (2 * np.log(2) ** 2) / 2)
    assert got.objectness == pytest.approx(5 * (1 / 2) ** 2 / 2)
    assert got.classification == pytest.approx(np.log(2))
    assert got.noobject == 0 and got.prior == 0
    assert got.total == pytest.approx(sum(got[1:7]))


def test_gradient_of_one_truth_by_hand():
    # sigma' = 1/4 for places and objectness, none for sizes; classes p - y
    want = [1.75 * -0.25 / 4, 1.75 * 0.25 / 4, 1.75 * np.log(2), 1.75 * np.log(2), 5 * -0.5 / 4, 0.5, -0.5]
    np.testing.assert_allclose(grad(ONE, truths(QUARTER)), want)


def test_delta_of_one_truth_by_hand():
    # Darknet's delta: downhill, before sigma'
    want = [1.75 * 0.25, -1.75 * 0.25, -1.75 * np.log(2), -1.75 * np.log(2), 5 * 0.5, -0.5, 0.5]
    delta = by_slot(region_delta(zeros(ONE), truths(QUARTER), ONE, LATE), ONE)
    np.testing.assert_allclose(delta[0, 0, 0, 0], want)


def test_place_is_measured_from_the_cell():
    # x = .75 of two columns is 1.5: cell 1, half way; p_x = 1/2 is right
    got = loss(ONE, truths((0.75, 0.5, 0.5, 1, 0)), zeros(ONE, 1, 2))
    assert got.xy == 0 and got.wh == 0


def test_size_is_measured_in_anchors():
    # a truth of 2 x 1 cells on an anchor of 1 x 2 (grid 2 rows, 4 columns): ln 2 too wide, ln 2 too low
    region = replace(ONE, anchors=((1.0, 2.0),), box_weight="none")
    pred = zeros(region, 2, 4)
    truth = truths((1 / 8, 1 / 4, 2 / 4, 1 / 2, 0))
    assert loss(region, truth, pred).wh == pytest.approx(np.log(2) ** 2)
    np.testing.assert_allclose(grad(region, truth, pred)[2:4], [-np.log(2), np.log(2)])


def test_rescore_asks_for_the_overlap():
    # the truth is a quarter of the prediction
    region = replace(ONE, rescore=True)
    assert loss(region, truths(QUARTER)).objectness == pytest.approx(5 * (1 / 4) ** 2 / 2)
    assert grad(region, truths(QUARTER))[4] == pytest.approx(5 * (1 / 2 - 1 / 4) / 4)


def test_box_weight_none():
    region = replace(ONE, box_weight="none", coord_scale=3)
    assert loss(region, truths(QUARTER)).xy == pytest.approx(3 / 8 / 2)


def test_scales_enter_once():
    region = replace(ONE, object_scale=3, noobject_scale=0.5, class_scale=7)
    got = loss(region, truths(QUARTER), zeros(region, 1, 2))
    assert got.objectness == pytest.approx(3 / 4 / 2)
    assert got.noobject == pytest.approx(0.5 / 4 / 2)
    assert got.classification == pytest.approx(7 * np.log(2))


def test_nothing_there():
    got = loss(ONE, NOTHING)
    assert got.noobject == pytest.approx((1 / 2) ** 2 / 2)
    assert got.total == got.noobject
    np.testing.assert_allclose(grad(ONE, NOTHING), [0, 0, 0, 0, 0.5 / 4, 0, 0])


def test_good_predictions_are_not_punished():
    # two like anchors on the truth: the first is responsible, the second ignored; a third misses it
    region = replace(ONE, anchors=((1.0, 1.0), (1.0, 1.0), (0.5, 0.5)))
    got = loss(region, truths((0.5, 0.5, 1, 1, 0)))
    assert got.objectness > 0  # responsible, although its overlap is above the threshold as well
    assert got.noobject == pytest.approx(1 / 8)


def test_punished_at_the_threshold():
    # like anchors, the truth their left half: IoU exactly 1/2; the first is responsible
    region = replace(ONE, anchors=((1.0, 1.0), (1.0, 1.0)), ignore_threshold=0.5)
    assert loss(region, truths((0.25, 0.5, 0.5, 1, 0))).noobject == pytest.approx(1 / 8)


def test_prior_pulls_to_the_anchor_by_hand():
    # p_x = 3/4, p_y = 1/2, t_w = 2, t_h = 1
    pred = zeros(ONE)
    pred[0, :4, 0, 0] = np.log(3), 0, 2, 1
    assert loss(ONE, NOTHING, pred, LATE - 1).prior == pytest.approx(0.01 * (1 / 16 + 0 + 4 + 1) / 2)
    want = [0.01 * 0.25 * 3 / 16, 0, 0.02, 0.01]
    np.testing.assert_allclose(grad(ONE, NOTHING, pred, LATE - 1)[:4], want)


def test_offsets_from_the_anchor_by_hand():
    # a quarter of a cell right of and above the middle: 1/8 and -1/16 of an anchor of 2 x 4; no sigma'
    region = replace(ONE, anchors=((2.0, 4.0),), location="anchor")
    pred = zeros(region)
    pred[0, 0] = 1
    off = np.array([1 - 1 / 8, 1 / 16])
    assert loss(region, truths(QUARTER), pred).xy == pytest.approx(1.75 * (off**2).sum() / 2)
    np.testing.assert_allclose(grad(region, truths(QUARTER), pred)[:2], 1.75 * off)
    delta = by_slot(region_delta(pred, truths(QUARTER), region, LATE), region)
    np.testing.assert_allclose(delta[0, 0, 0, 0, :2], -1.75 * off)


def test_prior_on_offsets_by_hand():
    # t_x = 3 anchors, t_y = -1/2, t_w = 2, t_h = 1: pulled to 0, all alike
    region = replace(ONE, location="anchor")
    pred = zeros(region)
    pred[0, :4, 0, 0] = raw = np.array([3, -1 / 2, 2, 1])
    assert loss(region, NOTHING, pred, LATE - 1).prior == pytest.approx(0.01 * (raw**2).sum() / 2)
    np.testing.assert_allclose(grad(region, NOTHING, pred, LATE - 1)[:4], 0.01 * raw)


def test_prior_ends_at_12800():
    pred = np.ones_like(zeros(ONE))
    assert loss(ONE, NOTHING, pred, 12799).prior > 0
    assert loss(ONE, NOTHING, pred, 12800).prior == 0


def test_responsible_slots_have_no_prior():
    assert loss(ONE, truths(QUARTER), seen=0).prior == 0


def test_last_truth_overwrites_the_slot():
    other = (0.5, 0.5, 1, 1, 0)
    both, alone = loss(ONE, truths(QUARTER, other)), loss(ONE, truths(other))
    assert both == alone


def test_squared_error_by_hand():
    # p = (1/4, 3/4) for class 0: e = p - y = (-3/4, 3/4), half its square 9/16; through the softmax
    # p_j (e_j - sum e p), sum e p = -3/16 + 9/16 = 3/8
    region = replace(ONE, class_loss="squared_error")
    pred = zeros(region)
    pred[0, 6] = np.log(3)
    truth = truths((0.5, 0.5, 1, 1, 0))
    assert loss(region, truth, pred).classification == pytest.approx(9 / 16)
    np.testing.assert_allclose(grad(region, truth, pred)[5:], [-9 / 32, 9 / 32])


def test_logistic_truths_add_up():
    # classes 0 and 2 of three on one slot: three binary cross entropies of ln 2
    truth = truths((0.5, 0.5, 1, 1, 0), (0.5, 0.5, 1, 1, 2))
    assert loss(LOGISTIC, truth).classification == pytest.approx(3 * np.log(2))
    np.testing.assert_allclose(grad(LOGISTIC, truth)[5:], [-0.5, 0.5, -0.5])


def test_cross_entropy_does_not_saturate():
    pred = zeros(ONE)
    pred[0, 5] = 2000
    assert loss(ONE, truths(QUARTER), pred).classification == pytest.approx(2000)


def test_tree_path_by_hand():
    # pug among two dogs, dog among two animals, animal among three roots; vehicles learn nothing
    truth = truths((0.5, 0.5, 1, 1, 9))
    assert loss(WORDS, truth).classification == pytest.approx(2 * np.log(2) + np.log(3))
    want = [-2 / 3, 1 / 3, 1 / 3, -1 / 2, 1 / 2, 0, 0, 0, 1 / 2, -1 / 2]
    np.testing.assert_allclose(grad(WORDS, truth)[5:], want, atol=1e-15)


def test_second_truth_of_a_tree_keeps_other_groups():
    # then car: among three vehicles, and vehicle instead of animal among the roots; dogs keep the pug
    truth = truths((0.5, 0.5, 1, 1, 9), (0.5, 0.5, 1, 1, 5))
    assert loss(WORDS, truth).classification == pytest.approx(2 * np.log(2) + 2 * np.log(3))
    want = [1 / 3, -2 / 3, 1 / 3, -1 / 2, 1 / 2, -2 / 3, 1 / 3, 1 / 3, 1 / 2, -1 / 2]
    np.testing.assert_allclose(grad(WORDS, truth)[5:], want, atol=1e-15)


def test_tree_squared_error_by_hand():
    # a plant, so only the roots count: p = (1/4, 1/4, 1/2), e = (1/4, 1/4, -1/2), sum e p = -1/8
    region = replace(WORDS, class_loss="squared_error")
    pred = zeros(region)
    pred[0, 5 + 2] = np.log(2)
    truth = truths((0.5, 0.5, 1, 1, 2))
    assert loss(region, truth, pred).classification == pytest.approx((1 / 16 + 1 / 16 + 1 / 4) / 2)
    np.testing.assert_allclose(grad(region, truth, pred)[5:], [3 / 32, 3 / 32, -6 / 32] + [0] * 7, atol=1e-15)


def test_classification_only_image_by_hand():
    # three cells, the middle one believes most: it learns the class, the others that nothing is there;
    # no prior although early, no coordinates, no other truth
    pred = zeros(WORDS, 1, 3)
    pred[0, 2:4], pred[0, 4, 0, 1] = 1, 1
    truth = truths((0.2, 0.2, 0.1, 0.1, 3), (999999, 999999, 0, 0, 2))
    got = loss(WORDS, truth, pred, seen=1)
    assert got.classification == pytest.approx(np.log(3))
    assert got.noobject == pytest.approx(2 * (1 / 4) / 2)
    assert got.total == pytest.approx(got.classification + got.noobject)
    slots = by_slot(region_loss_grad(pred, truth, WORDS, 1), WORDS)[0, 0, 0]
    np.testing.assert_allclose(slots[1], [0] * 5 + [1 / 3, 1 / 3, -2 / 3] + [0] * 7, atol=1e-15)


def test_background_gradient_is_darknets():
    # p = 1/3 each of background and two classes; 5 (1/3 - 0) without a derivative, classes p - y
    region = replace(ONE, background=True)
    np.testing.assert_allclose(grad(region, truths(QUARTER))[4:], [5 / 3, 1 / 3, -2 / 3])
    # nothing there: the background should be 1
    np.testing.assert_allclose(grad(region, NOTHING)[4:], [1 / 3 - 1, 0, 0])


def test_statistics_by_hand():
    # overlaps 1/4 and 1; p = 1/2 of three cells' objectness, mean over all
    got = region_statistics(zeros(ONE), truths(QUARTER, (0.5, 0.5, 1, 1, 0)), ONE)
    assert got == (0.625, 0.5, 0.5, 0.5, 0.5, 2)
    nothing = region_statistics(zeros(ONE), NOTHING, ONE)
    assert nothing.truths == 0 and nothing.noobject == 0.5 and np.isnan(nothing.iou)


def test_truth_without_a_class_is_named():
    with pytest.raises(ValueError, match="image 0, row 1: class 7"):
        loss(ONE, truths(QUARTER, (0.5, 0.5, 1, 1, 7)))


def _float64(case):
    return case.pred.astype(np.float64), case.truth, case.region


@settings(deadline=None)
@given(cases(background=False), st.integers(0, 2**32 - 1))
def test_gradient_is_the_slope(case, seed):
    """Along any direction, with assignment, mask and IoU targets held."""
    pred, truth, region = _float64(case)
    targets = region_targets(pred, truth, region, case.seen)
    direction = np.random.default_rng(seed).normal(size=pred.shape)
    step = 1e-5 * direction
    up, down = loss_against(pred + step, targets, region), loss_against(pred - step, targets, region)
    slope = (up.total - down.total) / 2e-5
    want = (region_loss_grad(pred, truth, region, case.seen) * direction).sum()
    np.testing.assert_allclose(slope, want, rtol=1e-6, atol=1e-6 * (1 + up.total))


@settings(deadline=None)
@given(cases())
def test_terms_are_positive_and_add_up(case):
    got = region_loss(*case)
    assert all(term >= 0 for term in got)
    assert got.total == pytest.approx(sum(got[1:7]), rel=1e-5)
    assert got.labelled <= got.classification and (got.labelled == 0 or case.region.tree is not None)
    assert got.total.dtype == np.float32


@settings(deadline=None)
@given(cases())
def test_images_add_up(case):
    pred, truth, region = _float64(case)
    alone = [region_loss(pred[[b]], truth[[b]], region, case.seen) for b in range(len(pred))]
    np.testing.assert_allclose(region_loss(pred, truth, region, case.seen), np.sum(alone, axis=0), rtol=1e-12)


@settings(deadline=None)
@given(cases(background=False))
def test_delta_is_the_gradient_before_the_sigmoid(case):
    """Signs agree everywhere, and Darknet's printed cost is zero exactly where the gradient is."""
    assume(case.region.class_loss == "cross_entropy")
    pred, truth, region = _float64(case)
    delta = region_delta(pred, truth, region, case.seen)
    grad = region_loss_grad(pred, truth, region, case.seen)
    np.testing.assert_array_equal(np.sign(delta), -np.sign(grad))


@settings(deadline=None)
@given(cases(class_loss="cross_entropy"))
def test_class_gradient_of_a_softmax_sums_to_zero(case):
    pred, truth, region = _float64(case)
    assume(region.class_activation != "logistic" and not region.background)
    grad = by_slot(region_loss_grad(pred, truth, region, case.seen), region)
    np.testing.assert_allclose(grad[..., 5:].sum(axis=-1), 0, atol=1e-12)


def test_assumed_iou_by_hand():
    """The answer of a picture without boxes is pulled up to .3, and left alone above it (paper 2, sec. 4)."""
    region = replace(WORDS, assumed_iou=0.3)
    truth = np.array([[[999999, 999999, 0, 0, 3]]], np.float32)
    pred = np.full((1, region.channels, 1, 2), -2, np.float32)
    pred[0, 4] = [[-1, -0.9]]  # the second believes more
    p = 1 / (1 + np.exp([1.0, 0.9]))
    below = region_loss(pred, truth, region, 20000)
    assert below.noobject == pytest.approx(
        (p[0] ** 2 + region.object_scale * (0.3 - p[1]) ** 2) / 2, rel=1e-5
    )
    assert p[1] < 0.3
    pred[0, 4, 0, 1] = 2
    above = region_loss(pred, truth, region, 20000)
    assert above.noobject == pytest.approx(p[0] ** 2 / 2, rel=1e-5)

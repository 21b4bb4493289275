"""Raw head to detections: the one-launch kernel, its fall-backs and the torch code agree with the oracle."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st

import fast.detect
import reference.decode
import reference.detect
from reference.boxes import box_iou
from reference.region import Region
from tests.backends import LAYOUTS, each_backend, equivalence, kernels_only
from tests.equivalence import close, equal
from tests.strategies import TREE, cases

K = 8
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.fixture(
    params=["one launch", *map(kernels_only, ("evaluation", "too many boxes", "too many for all"))]
)
def branch(request, monkeypatch):
    """Every way from a head to detections, whatever the threshold and the size would choose."""
    if request.param == "one launch":
        return
    import fast.kernels.detect as detect_kernels
    import fast.kernels.nms as nms_kernels

    many_labels = {"one launch": 0.0, "evaluation": 1.0}.get(request.param, 0.0)
    monkeypatch.setattr(fast.detect, "MANY_LABELS", many_labels)
    if request.param.startswith("too many"):
        monkeypatch.setattr(detect_kernels, "MAX_BOXES", 0)
    if request.param == "too many for all":
        monkeypatch.setattr(nms_kernels, "MAX_BOXES", 0)
        monkeypatch.setattr(nms_kernels, "MAX_MASKED", 0)


def clearly_decided(
    pred: np.ndarray, region: Region, conf: float, iou: float, tree: float, nodes, rule="darknet"
) -> bool:
    """Whether float32 must come to the conclusions of float64.

    No score is near the threshold or nearly equal to another, except where it comes from the same logits; no
    overlap is near the threshold, and no node of a descent is entered or chosen by a hair.
    """
    decoded = reference.decode.decode(pred, region)
    boxes = decoded.boxes.reshape(len(pred), -1, 4)
    for sign in (-1, 1):  # the same tree nodes if every threshold moves a little
        for near in (tree * (1 + 1e-4 * sign),):
            a = reference.decode.class_scores(decoded, region, conf, tree, nodes, rule)
            b = reference.decode.class_scores(decoded, region, conf, near, nodes, rule)
            if not np.array_equal(a > 0, b > 0):
                return False
    scores = reference.decode.class_scores(decoded, region, -1.0, tree, nodes, rule)
    if (np.abs(scores - conf) < 1e-5).any():
        return False
    slots = np.moveaxis(pred.reshape(len(pred), len(region.anchors), -1, *pred.shape[2:]), 2, -1)
    rows = slots.reshape(len(pred), boxes.shape[1], -1)[..., 4:]
    for image in range(len(pred)):
        overlap = box_iou(boxes[image], boxes[image])
        if (np.abs(overlap[~np.eye(len(overlap), dtype=bool)] - iou) < 1e-5).any():
            return False
        location, label = np.nonzero(scores[image] > conf)
        value = scores[image, location, label]
        order = np.argsort(-value)
        for one, other in pairwise(order):
            if value[one] - value[other] < 1e-5:
                same = np.array_equal(rows[image, location[one]], rows[image, location[other]])
                in_box = location[one] == location[other]
                logits = rows[image, location[one]]
                equal_labels = in_box and (
                    nodes is None and logits[1 + label[one]] == logits[1 + label[other]]
                )
                if not (equal_labels or (same and label[one] == label[other])):
                    return False
    return True


@pytest.mark.usefixtures("branch")
@equivalence(
    examples=150,
    case=cases(max_truths=0),
    layout=st.sampled_from(LAYOUTS),
    conf=st.sampled_from([0.0, 0.005, 0.1, 0.25]),
    # not 1: a decoded box overlaps itself by 1 up to rounding, and `test_nms` has that case on a grid
    iou=st.sampled_from([0.0, 0.3, 0.45, 0.95]),
    max_det=st.sampled_from([1, 3, 100]),
    multi_label=st.booleans(),
    class_agnostic=st.booleans(),
    map_nodes=st.none() | st.just((3, 0, 9)),
    rule=st.sampled_from(["darknet", "paper"]),
)
def test_detect(backend, case, layout, conf, iou, max_det, multi_label, class_agnostic, map_nodes, rule):
    nodes = map_nodes if case.region.tree is not None else None
    exact = case.pred.astype(np.float64)
    assume(clearly_decided(exact, case.region, conf, iou, 0.37, nodes, rule))
    options = (conf, iou, max_det, multi_label, class_agnostic, 0.37, nodes, rule)
    want = reference.detect.detect(exact, case.region, *options)
    twin = reference.detect.detect(case.pred, case.region, *options)
    got = fast.detect.detect(backend.tensor(case.pred, layout), case.region, *options)
    equal(got.count, want.count)
    equal(got.classes, want.classes)
    close(got.boxes, want.boxes, twin.boxes, K)
    close(got.scores, want.scores, twin.scores, K)


def busy_head(region: Region, dtype: torch.dtype, seed: int = 0) -> np.ndarray:
    """A head (2, channels, 3, 4) whose values are exact in `dtype`, many of them above any threshold."""
    rng = np.random.default_rng(seed)
    pred = rng.normal(size=(2, region.channels, 3, 4)) * 2
    return torch.from_numpy(pred).to(dtype).double().numpy()


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ["softmax", "background", "logistic", "tree"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])
def test_dtypes_and_layouts(backend, dtype, activation, layout):
    """Half precision is read as it is and computed in float32."""
    tree = TREE if activation == "tree" else None
    region = Region(
        ((1.0, 2.0), (3.0, 1.5)), len(TREE.parents) if tree else 4,
        "softmax" if activation == "background" else activation, tree, activation == "background",
    )  # fmt: skip
    pred = busy_head(region, dtype)
    assert clearly_decided(pred, region, 0.2, 0.45, 0.5, None)
    want = reference.detect.detect(pred, region, 0.2)
    twin = reference.detect.detect(pred.astype(np.float32), region, 0.2)
    with backend:
        got = fast.detect.detect(backend.tensor(pred.astype(np.float32), layout).to(dtype), region, 0.2)
    assert want.count.min() > 2
    equal(got.count, want.count)
    equal(got.classes, want.classes)
    close(got.boxes, want.boxes, twin.boxes, K)
    close(got.scores, want.scores, twin.scores, K)


@each_backend
@pytest.mark.usefixtures("branch")
def test_boxes_without_meaning(backend):
    """NaN and infinite boxes of a finite score are detections and overlap nothing; NaN scores are none."""
    region = Region(((1.0, 1.0),), 2, "logistic")
    pred = np.full((1, 7, 1, 5), 4, np.float32)
    pred[0, :4] = 0
    pred[0, 2, 0, :] = 3  # wide boxes, which all overlap
    pred[0, 0, 0, 0] = np.nan
    pred[0, 2, 0, 1] = np.inf
    pred[0, 4, 0, 2] = np.nan
    pred[0, 5, 0, 3] = np.nan
    pred[0, 4, 0, 4] = 9
    with backend, np.errstate(all="ignore"):
        want = reference.detect.detect(pred, region, 0.3, 0.2)
        got = fast.detect.detect(backend.tensor(pred), region, 0.3, 0.2)
    equal(got.count, want.count)
    equal(got.classes, want.classes)
    np.testing.assert_allclose(got.boxes.cpu().numpy(), want.boxes, rtol=1e-6)


@each_backend
def test_a_grid_too_large_for_one_launch(backend):
    """21 x 21 x 5 = 2205 boxes."""
    from benchmarks.inputs import VOC, trained_head

    region = dataclasses.replace(VOC, classes=3)
    head = trained_head(1, region, grid=21, objects=3)
    want = reference.detect.detect(head.double().numpy(), region, 0.25, max_det=20)
    with backend:
        got = fast.detect.detect(backend.tensor(head), region, 0.25, max_det=20)
    assert 3 <= int(got.count) <= 20
    equal(got.count, want.count)
    equal(got.classes, want.classes)
    np.testing.assert_allclose(got.boxes.cpu().numpy(), want.boxes, rtol=1e-4, atol=1e-6)


@each_backend
@pytest.mark.parametrize("conf", [0.25, 0.005])
def test_operator_is_well_formed(backend, conf):
    region = Region(((1.0, 2.0), (2.0, 1.0)), 2)
    pred = torch.randn(1, 14, 2, 3, generator=torch.Generator().manual_seed(0))
    with backend:
        arguments = (backend.tensor(pred), region.settings, conf, 0.45, 5, True, False, 0.5, None, "darknet")
        torch.library.opcheck(fast.detect._detect.op, arguments)


@each_backend
def test_no_images(backend):
    region = Region(((1.0, 2.0),), 2)
    with backend:
        got = fast.detect.detect(backend.tensor(torch.zeros(0, 7, 2, 2)), region)
    assert got.boxes.shape == (0, 100, 4) and got.count.shape == (0,)


@each_backend
@pytest.mark.usefixtures("branch")
@pytest.mark.parametrize("multi_label", [True, False])
def test_threshold_is_strict(backend, multi_label):
    """Logits of 0 score .5 * .5, which is not above .25; of two equal classes the first one comes first."""
    region = Region(((1.0, 1.0),), 2, "logistic")
    with backend:
        zero = backend.tensor(torch.zeros(1, 7, 2, 2))
        assert int(fast.detect.detect(zero, region, 0.25, multi_label=multi_label).count) == 0
        found = fast.detect.detect(zero, region, 0.2499, multi_label=multi_label)
    expected = [0, 1] * 4 if multi_label else [0] * 4
    assert found.classes[0, : int(found.count)].tolist() == expected


@each_backend
def test_a_later_label_is_asked_for_too(backend):
    """The second class of a box was out of sight when a better box of it was kept: it is suppressed."""
    region = Region(((8.0, 8.0),), 2, "logistic")
    pred = torch.full((1, 7, 1, 2), 4.0)
    pred[0, :4] = 0  # two boxes that nearly coincide
    pred[0, 5:, 0, 0] = torch.tensor([3.0, 2.0])
    pred[0, 5:, 0, 1] = torch.tensor([1.0, 3.0])
    want = reference.detect.detect(pred.numpy(), region, 0.3)
    with backend:
        got = fast.detect.detect(backend.tensor(pred), region, 0.3)
    assert want.classes[0, :3].tolist() == [0, 1, -1]
    np.testing.assert_allclose(got.scores.cpu().numpy(), want.scores, rtol=1e-5)
    equal(got.classes, want.classes)
    equal(got.count, want.count)

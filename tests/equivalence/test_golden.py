"""Numbers of the original C implementation, straight from every backend: no oracle between."""

import numpy as np
import pytest
import torch

import fast.decode
import fast.detect
import fast.grid
import fast.loss
import fast.nms
import fast.reorg
from reference.letterbox import undo_letterbox
from tests.backends import BACKENDS
from tests.golden import GOLDEN, cases, compare
from tests.golden.grid import golden_grid
from tests.golden.region import golden_region

CASES = cases()
pytestmark = pytest.mark.skipif(not CASES, reason=f"GOLDEN NUMBERS ABSENT: {GOLDEN} does not exist")


def each(group: str, wanted=lambda case: True):
    """Every (backend, case) of a group; the nodes of the 9k tree would take the interpreter minutes."""
    pairs = [
        pytest.param(backend, case, id=f"{case.name}-{backend.name}")
        for case in CASES
        if case.group == group and wanted(case)
        for backend in BACKENDS
        if not (backend.name == "triton-interpret" and "9k" in case.name)
    ]
    return pytest.mark.parametrize(("backend", "case"), pairs)


def within(quantity: str, got: torch.Tensor | np.ndarray, want: np.ndarray, **tolerance: float) -> None:
    if isinstance(got, torch.Tensor):
        got = got.detach().cpu().numpy()
    c = compare(quantity, got, want, **tolerance)
    assert c.share <= 1, f"{c.quantity}: off by {c.error:.3g}, allowed {c.tolerance}"


@each("region_train", lambda case: "grad" in case)
def test_gradient_of_the_region_layer(backend, case):
    region = golden_region(case)
    with backend:
        leaf = backend.tensor(case["input"]).requires_grad_()
        truth = backend.tensor(case["truth"])
        fast.loss.region_loss(leaf, truth, region, case.config["seen"]).total.backward()
        within("gradient", -leaf.grad, case["grad"], atol=2e-6)


@each("region_train", lambda case: case.config["batch"] == 1 or "grad" in case)
def test_output_of_the_region_layer(backend, case):
    """Objectness and classes are what the layer's output holds as they are."""
    region = golden_region(case)
    with backend:
        decoded = fast.decode.decode(backend.tensor(case["input"]), region)
    shape = (len(case["input"]), len(region.anchors), 5 + region.classes, *case["input"].shape[2:])
    output = case["output"].reshape(shape)
    within("objectness", decoded.objectness, output[:, :, 4], atol=1e-6)
    within("classes", decoded.class_probs.movedim(-1, 2), output[:, :, 5:], atol=1e-6)


@each("region_detect", lambda case: case.config["batch"] == 1)
def test_scores_of_the_region_layer(backend, case):
    region, c = golden_region(case), case.config
    nodes = tuple(case["det_map"].tolist()) if "det_map" in case else None
    with backend:
        decoded = fast.decode.decode(backend.tensor(case["input"]), region)
        scores = fast.decode.class_scores(decoded, region, c["thresh"], c["tree_thresh"], nodes)[0].cpu()
    sizes = (c["image_w"], c["image_h"]), (c["net_w"], c["net_h"])
    boxes = undo_letterbox(decoded.boxes[0].flatten(0, 2).cpu().numpy(), *sizes, bool(c["relative"]))
    # float32 until the letterbox is undone: a place near its margin is a difference of numbers of size 1
    unit = 1 if c["relative"] else np.tile(sizes[0], 2)
    within("boxes", boxes / unit, case["boxes"] / unit, rtol=1e-5, atol=1e-5)
    if "probs_rows" in case:
        rows, columns = scores.nonzero(as_tuple=True)
        within("rows of scores", rows, case["probs_rows"])
        within("classes of scores", columns, case["probs_cols"])
        within("scores", scores[rows, columns], case["probs_vals"], atol=1e-6)
    else:
        within("scores", scores, case["probs"], atol=1e-6)


@each("region_detect", lambda case: case.config["batch"] == 1 and case.config["nms"] == "per class (sort)")
def test_detections_of_the_region_layer(backend, case):
    """The set that Darknet keeps: every (location, class) with a score that is left after its suppression.

    Darknet suppresses after it has undone the letterbox, which changes no overlap.
    """
    region, c = golden_region(case), case.config
    rows, classes = np.nonzero(case["nms_probs"])
    most = 1024 if c["thresh"] > 0.1 else 20_000  # more than one launch holds
    options = (c["thresh"], c["nms_thresh"], most, True, False, c["tree_thresh"])
    with backend:
        found = fast.detect.detect(backend.tensor(case["input"]), region, *options)
        if region.tree is None:
            boxes, scores = fast.detect._scored(backend.tensor(case["input"]), region, c["thresh"], None)
        else:  # densely, to see which box has which class
            decoded = fast.decode.decode(backend.tensor(case["input"]), region)
            boxes = decoded.boxes.flatten(1, 3)
            scores = fast.decode.class_scores(decoded, region, c["thresh"], c["tree_thresh"])
        kept = fast.nms.multi_label_nms(boxes, scores, c["nms_thresh"], most, c["thresh"])
    n = int(kept.count)
    assert n == len(rows) == int(found.count) < most
    want = np.zeros_like(case["nms_probs"])
    want[case["nms_index"]] = case["nms_probs"]  # by location
    got = np.zeros_like(want)
    got[kept.index[0, :n].cpu(), kept.classes[0, :n].cpu()] = kept.scores[0, :n].cpu()
    within("scores after NMS", got, want, atol=1e-6)
    within("detected classes", np.sort(found.classes[0, :n].cpu()), np.sort(classes))
    within("detected scores", found.scores[0, :n], np.sort(want[want > 0])[::-1], atol=1e-6)


@each("nms", lambda case: case.config["kind"] == "per class (sort)")
def test_suppression(backend, case):
    """Of equal scores Darknet takes first what the class before left in front; others by location."""
    alive = case["objectness"] != 0
    scores = np.where(alive[:, None], case["probs"], 0).astype(np.float32)
    rows, classes = np.nonzero(case["out_probs"])
    want = {(int(case["out_index"][r]), int(k)) for r, k in zip(rows, classes, strict=True)}
    with backend:
        boxes = backend.tensor(case["boxes"][None])
        kept = fast.nms.multi_label_nms(boxes, backend.tensor(scores[None]), case.config["thresh"], 1024)
    n = int(kept.count)
    got = set(zip(kept.index[0, :n].tolist(), kept.classes[0, :n].tolist(), strict=True))
    if "tie" not in case.name:
        assert got == want
    assert len(got) == len(want)


@each("reorg")
def test_reorg(backend, case):
    c = case.config
    with backend:
        options = {"stride": c["stride"], "reverse": bool(c["reverse"])}
        within("output", fast.reorg.reorg(backend.tensor(case["input"]), **options), case["output"])
        within("input delta", fast.reorg.reorg_grad(backend.tensor(case["dout"]), **options), case["din"])


@each("yolov1_train")
def test_output_of_the_grid_layer(backend, case):
    with backend:
        output = fast.grid.activate_grid(backend.tensor(case["input"]), golden_grid(case.config))
    within("output", output, case["output"], atol=1e-6)


@each("yolov1_detect")
def test_candidates_of_the_grid_layer(backend, case):
    """`input` plays the part of the layer's output here: no softmax comes in between."""
    c = case.config
    with backend:
        output = backend.tensor(case["input"][None])
        boxes, confidence, scores = fast.grid.detect_grid(output, golden_grid(c), c["thresh"])
    within("boxes", boxes[0].cpu() * torch.tensor([c["image_w"], c["image_h"]] * 2), case["boxes"], rtol=1e-5)
    within("objectness", confidence[0], case["objectness"])
    within("scores", scores[0], case["probs"], atol=1e-6)

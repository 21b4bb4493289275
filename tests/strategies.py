"""Hypothesis strategies for everything around the region layer, shared by all suites.

Coordinates lie on a 1/64 grid and raw predictions on a 1/8 grid, so that borders of cells, ties of overlap
and equal scores are common instead of improbable.
"""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from reference.loss import region_targets
from reference.region import Region, WordTree

#: three roots, two of them with children, one of those with children again
TREE = WordTree(
    names=("animal", "vehicle", "plant", "dog", "cat", "car", "bus", "tram", "terrier", "pug"),
    parents=(-1, -1, -1, 0, 0, 1, 1, 1, 3, 3),
)

#: sizes in cells; drawing one twice makes anchors tie
ANCHORS = ((0.5, 0.5), (1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (3.25, 1.5), (0.75, 4.0))


class RegionCase(NamedTuple):
    """Arguments of the loss, the assignment and, all but truth and seen, of detection."""

    pred: np.ndarray  # (B, A*(5+C), H, W) float32
    truth: np.ndarray  # (B, T, 5) float32
    region: Region
    seen: int


@st.composite
def trees(draw) -> WordTree:
    """Any forest: up to six groups below the roots, each of a node that came before and had no children."""
    parents = [-1] * draw(st.integers(1, 5))
    childless = list(range(len(parents)))
    for _ in range(draw(st.integers(0, 6))):
        parent = childless.pop(draw(st.integers(0, len(childless) - 1)))
        size = draw(st.integers(1, 5))
        childless += range(len(parents), len(parents) + size)
        parents += [parent] * size
    return WordTree(tuple(f"n{n}" for n in range(len(parents))), tuple(parents))


@st.composite
def regions(draw, **fixed) -> Region:
    """Settings of a head; keyword arguments are kept as given."""
    activation = fixed.get("class_activation") or draw(st.sampled_from(["softmax", "logistic", "tree"]))
    tree = TREE if activation == "tree" else None
    classes = len(TREE.parents) if tree else draw(st.integers(1, 5))
    labels = st.lists(st.integers(0, classes - 1), min_size=1, max_size=6).map(tuple)
    scale = st.sampled_from([0.5, 1.0, 5.0])
    drawn = {
        "anchors": draw(st.lists(st.sampled_from(ANCHORS), min_size=1, max_size=3).map(tuple)),
        "classes": classes,
        "class_activation": activation,
        "tree": tree,
        "background": activation == "softmax" and draw(st.sampled_from([False, False, True])),
        "object_scale": draw(scale),
        "noobject_scale": draw(scale),
        "class_scale": draw(scale),
        "coord_scale": draw(scale),
        "ignore_threshold": draw(st.sampled_from([0.25, 0.5, 0.6])),
        "rescore": draw(st.booleans()),
        "bias_match": draw(st.booleans()),
        "class_loss": draw(st.sampled_from(["cross_entropy", "squared_error"])),
        "box_weight": draw(st.sampled_from(["2-wh", "none"])),
        "assumed_iou": draw(st.sampled_from([0.0, 0.3, 0.9])),
        "class_map": draw(st.none() | labels),
        "location": draw(st.sampled_from(["cell", "anchor"])),
    }
    return Region(**{**drawn, **fixed})


@st.composite
def predictions(draw, region: Region, batch: int, h: int, w: int) -> np.ndarray:
    """Raw heads (batch, A*(5+C), h, w) float32: all zero, mild, or reaching into saturation."""
    spread = draw(st.sampled_from([0.0, 1.0, 6.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.normal(scale=spread, size=(batch, region.channels, h, w)).clip(-2 * spread, 2 * spread)
    return (np.round(values * 8) / 8).astype(np.float32)


@st.composite
def truths(draw, batch: int, max_truths: int, classes: int) -> np.ndarray:
    """Label lists (batch, T, 5) float32 of 0..max_truths rows; T is any size that holds them, also 0.

    Rows often share a centre, so that they compete for a slot, and rubbish may follow the end of a list.
    """
    row = st.tuples(
        st.integers(1, 63),
        st.integers(0, 63),
        st.integers(1, 64),
        st.integers(1, 64),
        st.integers(0, classes - 1),
    )
    lists = draw(st.lists(st.lists(row, max_size=max_truths), min_size=batch, max_size=batch))
    rows = max(map(len, lists)) + draw(st.integers(0, 2))
    truth = np.zeros((batch, rows, 5), np.float32)
    for image, labels in enumerate(lists):
        for t, label in enumerate(labels):
            truth[image, t] = np.array(label) / (64, 64, 64, 64, 1)
            if t and draw(st.booleans()):
                truth[image, t, :2] = truth[image, t - 1, :2]
        if draw(st.booleans()):
            truth[image, len(labels) + 1 :] = (0.5, 0.5, 0.25, 0.25, 0)
    return truth


@st.composite
def cases(draw, max_truths: int = 5, **fixed) -> RegionCase:
    """A whole case; keyword arguments are settings of the region.

    Some truths are hit by their predictions, so that high overlaps (ignoring, rescoring) occur. On a tree
    some images are classification-only.
    """
    region = draw(regions(**fixed))
    batch, h, w = draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pred = draw(predictions(region, batch, h, w))
    truth = draw(truths(batch, max_truths, len(region.class_map or range(region.classes))))
    for image, t in np.ndindex(*truth.shape[:2]):
        if truth[image, t, 0] and draw(st.booleans()):
            _aim(pred[image], truth[image, t], region)
    if region.tree is not None and truth.shape[1]:
        for image in range(batch):
            if draw(st.sampled_from([False, False, True])):
                t = draw(st.integers(0, min(1, truth.shape[1] - 1)))
                truth[image, t] = (999999, 999999, 0, 0, draw(st.integers(0, region.classes - 1)))
    seen = draw(st.sampled_from([1, region.prior_images - 1, region.prior_images, 500_000]))
    return RegionCase(pred, truth, region, seen)


def well_posed(case: RegionCase) -> bool:
    """No choice of the assignment hangs on how a library rounds exp.

    Anchors or overlaps may tie exactly, and do, because equal raw values decode equally everywhere. But two
    different sums of logits can be equal too (exp(-2) exp(-4) and exp(-3) exp(-3)), and there rounding
    decides. Moving every value a little, equal values equally and zero not at all, tells the two apart.
    """
    pred = case.pred.astype(np.float64)
    wave = np.sin(1000 * pred)
    nudge = 1e-5 * np.sign(wave) * (0.5 + 0.5 * np.abs(wave))
    weights = [
        region_targets(moved, case.truth.astype(np.float64), case.region, case.seen).weight
        for moved in (pred - nudge, pred, pred + nudge)
    ]
    return all(np.array_equal(weights[1], other) for other in weights)


def _aim(pred: np.ndarray, label: np.ndarray, region: Region):
    """Let every anchor of the label's cell predict about its box, to a 1/8 in raw values."""
    _, h, w = pred.shape
    x, y, size = label[0] * w, label[1] * h, label[2:4] * (w, h)
    place, anchors = np.array([x % 1, y % 1]).clip(0.02, 0.98), np.array(region.anchors)
    raw = pred.reshape(len(anchors), -1, h, w)[:, :4, int(y), int(x)]
    by_location = {"cell": np.log(place / (1 - place)), "anchor": (place - 0.5) / anchors}
    raw[:, :2] = np.round(8 * by_location[region.location]) / 8
    raw[:, 2:] = np.round(8 * np.log(size / anchors)) / 8

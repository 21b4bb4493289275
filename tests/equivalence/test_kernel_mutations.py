"""Usual mistakes, put into copies of the kernels one at a time: a named equivalence test must notice each.

The interpreter runs the changed copies, so these are the tests of the tests of the kernels.
"""

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import fast.kernels
from fast import _launch
from tests.backends import KERNELS
from tests.equivalence import test_decode, test_detect, test_loss, test_nms, test_reorg
from tests.strategies import TREE

BACKENDS = [b for b in KERNELS if b.name == "triton-interpret"]
pytestmark = pytest.mark.skipif(not BACKENDS, reason="needs Triton's interpreter: TRITON_INTERPRET=1")

REORG = {"shape": (1, 1, 2, 3), "stride": 2, "layout": torch.contiguous_format, "dtype": torch.float32}
DETECT = {"dtype": torch.float32, "layout": torch.contiguous_format}
TIES = np.array([(32, 32, 32, 32, 8, 0), (32, 32, 32, 16, 8, 1), (32, 32, 16, 32, 8, 0), (8, 8, 8, 8, 8, 0)])


def nms(backend, threshold):
    """Equal scores, and overlaps of exactly a half."""
    boxes, scores, classes = (a[None] for a in test_nms.table(TIES))
    for by_class in (None, classes):
        want = test_nms.reference.nms.batched_nms(boxes, scores, threshold, 4, by_class)
        given = None if by_class is None else backend.tensor(by_class)
        with backend:
            got = test_nms.fast.nms.batched_nms(
                backend.tensor(boxes), backend.tensor(scores), threshold, 4, given
            )
        assert got.index.tolist() == want.index.tolist()


def masked(backend, threshold):
    """The same through the bit mask."""
    boxes, scores, _ = (a[None] for a in test_nms.table(TIES))
    scores = np.stack([scores, scores], -1)
    want = test_nms.reference.nms.multi_label_nms(boxes, scores, threshold, 8)
    with backend:
        got = test_nms.fast.nms.multi_label_nms(backend.tensor(boxes), backend.tensor(scores), threshold, 8)
    assert got.index.tolist() == want.index.tolist()
    assert got.classes.tolist() == want.classes.tolist()


def decode(backend, activation="softmax", **settings):
    region = test_loss.region_of(activation, **settings)
    with backend:
        test_decode.check_decode(backend, test_loss.random_head(region, H=2, W=3), region)


def reorg(backend):
    with backend:
        test_reorg.check(backend, order="darknet", reverse=False, **REORG)


CROWD = np.array(
    [
        [
            [0.3, 0.6, 0.25, 0.25, 1],
            [0.3, 0.6, 0.5, 0.25, 2],
            [0.3, 0.6, 0.25, 0.25, 0],
            [0.7, 0.1, 0.9, 0.9, 1],
        ]
    ]
)


def loss(backend, activation="softmax", truth=CROWD, **settings):
    """A crowded slot, a large truth and, as the prior acts, a say for every slot."""
    region = test_loss.region_of(activation, **settings)
    with backend:
        test_loss.check(backend, test_loss.random_head(region, H=3, W=2, seed=11), truth, region, 1)


def class_only(backend):
    test_loss.test_classification_only_image_beside_one_with_boxes(backend)


MUTATIONS = [
    ("cell offset dropped", "decode", "(col + p_x) / W", "p_x / W", decode),
    ("width for height", "decode", "(row + p_y) / H", "(row + p_y) / W", decode),
    (
        "offset in cells",
        "decode",
        "0.5 + t_x * anchor_w",
        "0.5 + t_x",
        lambda b: decode(b, location="anchor"),
    ),
    ("anchor forgotten", "decode", "anchor_w * tl.exp(t_w)", "tl.exp(t_w)", decode),
    (
        "background left out of the sum",
        "decode",
        "total += exp_below(t_o, top)",
        "total += 0",
        lambda b: decode(b, "background"),
    ),
    (
        ">= at the score threshold",
        "decode",
        "after & (score > conf)",
        "after & (score >= conf)",
        lambda b: test_detect.test_threshold_is_strict(b, True),
    ),
    (
        "last of equal classes",
        "decode",
        "counts & (score > best)",
        "counts & (score >= best)",
        lambda b: test_detect.test_threshold_is_strict(b, False),
    ),
    (
        "descent on conditionals",
        "decode",
        "absolute *= 1.0 / total",
        "absolute = 1.0 / total",
        lambda b: test_detect.test_dtypes_and_layouts(b, activation="tree", **DETECT),
    ),
    (
        "classes suppress each other",
        "detect",
        "drop &= label == its_label",
        "drop = drop",
        test_detect.test_a_later_label_is_asked_for_too,
    ),
    (
        "a second label is not asked",
        "detect",
        "suppressed = tl.max(over.to(tl.int32))",
        "suppressed = 0",
        test_detect.test_a_later_label_is_asked_for_too,
    ),
    (
        "later labels lost",
        "detect",
        "if tl.max(again.to(tl.int32)) > 0:",
        "if tl.max(again.to(tl.int32)) > 1:",
        lambda b: test_detect.test_threshold_is_strict(b, True),
    ),
    (
        ">= at the overlap",
        "nms",
        "tl.load(one + 3)) > threshold",
        "tl.load(one + 3)) >= threshold",
        lambda b: nms(b, 0.5),
    ),
    (
        "equal scores backwards",
        "nms",
        "(last - place).to(tl.int64)",
        "place.to(tl.int64)",
        lambda b: nms(b, 0.45),
    ),
    (
        "class forgotten",
        "nms",
        "drop &= label == tl.load(classes + image * N + i)",
        "drop = drop",
        lambda b: nms(b, 0.45),
    ),
    (
        ">= in the mask",
        "nms",
        "over = (overlap > threshold)",
        "over = (overlap >= threshold)",
        lambda b: masked(b, 0.5),
    ),
    (
        "bits of the wrong box",
        "nms",
        "((word >> (n % 32)) & 1)",
        "((word >> ((n + 1) % 32)) & 1)",
        lambda b: masked(b, 0.45),
    ),
    (
        "first truth wins",
        "loss",
        "last = tl.max(tl.where(hit, t[None, :], -1), 1)",
        "last = tl.max(tl.where(hit, 0, -1), 1)",
        loss,
    ),
    (
        "last anchor of equals",
        "loss",
        "tl.where(overlap > best, k, anchor)",
        "tl.where(overlap >= best, k, anchor)",
        lambda b: loss(b, anchors=((1.0, 1.0), (1.0, 1.0))),
    ),
    ("no mask", "loss", "& (excused == 0)", "& (excused >= 0)", lambda b: loss(b, ignore_threshold=0.05)),
    ("no derivative of the sigmoid", "loss", "scale * off_x * p_x * (1 - p_x)", "scale * off_x", loss),
    (
        "derivative of a sigmoid that is not there",
        "loss",
        "grad_x, grad_y = scale * off_x, scale * off_y",
        "grad_x, grad_y = scale * off_x * t_x * (1 - t_x), scale * off_y",
        lambda b: loss(b, location="anchor"),
    ),
    (
        "target offset in cells",
        "loss",
        "(target_x - 0.5) / anchor_w",
        "target_x - 0.5",
        lambda b: loss(b, location="anchor"),
    ),
    (
        "offsets pulled to a half",
        "loss",
        "t_y - tl.where(owner, target_y, 0.0)",
        "t_y - tl.where(owner, target_y, 0.5)",
        lambda b: loss(b, location="anchor"),
    ),
    ("box weight forgotten", "loss", "(1 + wh_weight * (1 - bw * bh))", "1.0", loss),
    (
        "IoU target forgotten",
        "loss",
        "tl.where(rescore != 0, overlap_own, 1.0)",
        "1.0 + 0 * overlap_own",
        loss,
    ),
    (
        "prior on responsible slots",
        "loss",
        "scale = tl.where(owner, weight, pull)",
        "scale = tl.where(owner, weight + pull, pull)",
        loss,
    ),
    (
        "label not mapped",
        "loss",
        "label = tl.load(class_map + label, owner, other=0)",
        "label = label",
        lambda b: loss(b, class_map=(2, 0, 1)),
    ),
    (
        "squared error without its softmax",
        "loss",
        "off = p * (off - along[:, None])",
        "off = p * off",
        lambda b: loss(b, class_loss="squared_error"),
    ),
    (
        "one label of a crowded slot",
        "loss",
        "named = rival[None, :]",
        "named = (t == mine)[None, :]",
        lambda b: loss(b, "logistic"),
    ),
    (
        "an earlier truth keeps its groups",
        "loss",
        "rival & (t > mine), label",
        "rival & (t < mine), label",
        lambda b: loss(b, "tree"),
    ),
    (
        "classification-only images have a prior",
        "loss",
        "prior_scale * (1 - class_only)",
        "prior_scale",
        class_only,
    ),
    (
        "the answer is punished",
        "loss",
        "answers = inside & (a * (H * W) + cell == answer)",
        "answers = inside & (cell < 0 * answer)",
        class_only,
    ),
    (
        "belief without objectness",
        "loss",
        "belief = sigmoid(tl.load",
        "belief = 0.5 + 0 * sigmoid(tl.load",
        class_only,
    ),
    (
        "blocks transposed",
        "reorg",
        "y * S + place // S, x_ * S + place % S",
        "y * S + place % S, x_ * S + place // S",
        reorg,
    ),
]


@contextmanager
def kernels_with(module: str, old: str, new: str, folder: Path):
    """`fast.kernels` with a changed copy of one of its files, and fresh copies of those that import it."""
    path = Path(fast.kernels.__path__[0]) / f"{module}.py"
    source = path.read_text()
    assert source.count(old) >= 1, f"{path.name} does not hold: {old}"
    (folder / path.name).write_text(source.replace(old, new))
    prefix = "fast.kernels."
    true = {name: m for name, m in sys.modules.items() if name.startswith(prefix)}
    for name in true:
        del sys.modules[name]
        vars(fast.kernels).pop(name.removeprefix(prefix), None)
    fast.kernels.__path__.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        yield
    finally:
        fast.kernels.__path__.remove(str(folder))
        for name in [n for n in sys.modules if n.startswith(prefix)]:
            del sys.modules[name]
            vars(fast.kernels).pop(name.removeprefix(prefix), None)
        sys.modules.update(true)
        for name, kept in true.items():
            setattr(fast.kernels, name.removeprefix(prefix), kept)
        importlib.invalidate_caches()


@pytest.mark.parametrize(
    ("module", "old", "new", "check"), [m[1:] for m in MUTATIONS], ids=[m[0] for m in MUTATIONS]
)
def test_mistake_is_noticed(module, old, new, check, tmp_path):
    with kernels_with(module, old, new, tmp_path), pytest.raises(AssertionError):
        check(BACKENDS[0])


@pytest.mark.parametrize(("name", "check"), [(m[0], m[4]) for m in MUTATIONS], ids=[m[0] for m in MUTATIONS])
def test_copy_without_a_mistake_passes(name, check, tmp_path):
    """It is the mistake that fails, not the copying."""
    with kernels_with("boxes", "def iou", "def iou", tmp_path):
        check(BACKENDS[0])


def test_the_true_kernels_are_back():
    assert sys.modules.get("fast.kernels.boxes") is None or "iou" in vars(sys.modules["fast.kernels.boxes"])
    assert not _launch.use_triton(torch.zeros(1))
    assert len(TREE.parents) == 10  # the tree that the cases above were written for

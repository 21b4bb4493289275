"""Suppression of one list, of batches of lists and of many classes of one box: kept rows are equal."""

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fast.nms
import reference.nms
from tests.backends import each_backend, equivalence, kernels_only
from tests.equivalence import equal

#: boxes on a 1/64 grid, where overlaps are exact, with few different scores and classes
ROW = st.tuples(*[st.integers(0, 64)] * 4, st.integers(0, 8), st.integers(0, 2))
THRESHOLD = st.sampled_from([0.0, 0.25, 0.45, 0.5, 1.0])


@pytest.fixture(params=["tuned", kernels_only("masked"), kernels_only("torch")])
def branch(request, monkeypatch):
    """Registers of one program; the bit mask, in small tiles; too many boxes for either."""
    if request.param == "tuned":
        return
    import fast.kernels.nms as kernels

    if request.param != "tuned":
        monkeypatch.setattr(kernels, "MAX_BOXES", 3)
        monkeypatch.setattr(kernels, "ROWS", 4)
        monkeypatch.setattr(kernels, "COLUMNS", 32)
    if request.param == "torch":
        monkeypatch.setattr(kernels, "MAX_MASKED", 3)


def table(rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes (N, 4), scores (N,) and classes (N,)."""
    array = np.array(rows, np.float32).reshape(-1, 6)
    return array[:, :4] / 64, array[:, 4] / 8, array[:, 5].astype(np.int64)


@pytest.mark.usefixtures("branch")
@equivalence(examples=200, rows=st.lists(ROW, max_size=40), threshold=THRESHOLD)
def test_nms(backend, rows, threshold):
    boxes, scores, _ = table(rows)
    scores = scores - 0.5  # also negative ones, which still are scores
    want = reference.nms.nms(boxes, scores, threshold)
    equal(fast.nms.nms(backend.tensor(boxes), backend.tensor(scores), threshold), want)


@pytest.mark.usefixtures("branch")
@equivalence(
    examples=200,
    images=st.lists(st.lists(ROW, min_size=6, max_size=6), min_size=1, max_size=3),
    threshold=THRESHOLD,
    max_det=st.sampled_from([1, 3, 8]),
    conf=st.sampled_from([0.0, 0.25]),
    by_class=st.booleans(),
)
def test_batched_nms(backend, images, threshold, max_det, conf, by_class):
    boxes, scores, classes = (np.stack(a) for a in zip(*map(table, images), strict=True))
    want = reference.nms.batched_nms(boxes, scores, threshold, max_det, classes if by_class else None, conf)
    got = fast.nms.batched_nms(
        backend.tensor(boxes), backend.tensor(scores), threshold, max_det,
        backend.tensor(classes) if by_class else None, conf,
    )  # fmt: skip
    equal(got.index, want.index)
    equal(got.count, want.count)


@pytest.mark.usefixtures("branch")
@equivalence(
    examples=200,
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 2), st.integers(1, 6), st.integers(1, 4)),
    threshold=THRESHOLD,
    max_det=st.sampled_from([1, 4, 30]),
    conf=st.sampled_from([0.0, 0.25]),
    class_agnostic=st.booleans(),
)
def test_multi_label_nms(backend, seed, sizes, threshold, max_det, conf, class_agnostic):
    B, N, C = sizes
    rng = np.random.default_rng(seed)
    boxes = (rng.integers(0, 65, (B, N, 4)) / 64).astype(np.float32)
    scores = (rng.integers(0, 9, (B, N, C)) / 8).astype(np.float32)
    want = reference.nms.multi_label_nms(boxes, scores, threshold, max_det, conf, class_agnostic)
    got = fast.nms.multi_label_nms(
        backend.tensor(boxes), backend.tensor(scores), threshold, max_det, conf, class_agnostic
    )
    for name in want._fields:
        equal(getattr(got, name), getattr(want, name))


@each_backend
@pytest.mark.usefixtures("branch")
def test_nan_and_empty(backend):
    """A NaN score takes no part, a NaN box overlaps nothing, and no boxes are a normal case."""
    nan = float("nan")
    boxes = torch.tensor(
        [[[0.5, 0.5, 1, 1], [0.5, 0.5, 1, 1], [0.5, nan, 1, 1], [0.5, 0.5, nan, 1], [0.5, 0.5, 1, 1]]]
    )
    scores = torch.tensor([[0.9, nan, 0.8, 0.7, 0.6]])
    with backend:
        got = fast.nms.batched_nms(backend.tensor(boxes), backend.tensor(scores), 0.5, 5)
        assert got.index.tolist() == [[0, 2, 3, -1, -1]] and got.count.tolist() == [3]
        pairs = fast.nms.multi_label_nms(backend.tensor(boxes), backend.tensor(scores[..., None]), 0.5, 5)
        assert pairs.index.tolist() == [[0, 2, 3, -1, -1]] and pairs.count.tolist() == [3]
        none = backend.tensor(torch.zeros(2, 0, 4))
        got = fast.nms.batched_nms(none, backend.tensor(torch.zeros(2, 0)), 0.5, 3)
        assert got.index.tolist() == [[-1] * 3] * 2 and got.count.tolist() == [0, 0]
        pairs = fast.nms.multi_label_nms(none, backend.tensor(torch.zeros(2, 0, 3)), 0.5, 3)
        assert pairs.index.tolist() == [[-1] * 3] * 2 and pairs.count.tolist() == [0, 0]


@each_backend
@pytest.mark.usefixtures("branch")
def test_views(backend):
    """Arguments with strides of their own: classes transposed or one for all, columns of a wider table."""
    rng = np.random.default_rng(0)
    rows = torch.from_numpy((rng.integers(16, 33, (2, 4, 6)) / 32).astype(np.float32))
    labels = torch.tensor([[0, 1], [0, 0], [1, 1], [0, 2]])
    with backend:
        rows, labels = backend.tensor(rows), backend.tensor(labels)
        for classes in (labels.t(), labels[:1, :1].expand(2, 4)):
            boxes, scores = rows[..., :4], rows[..., 5]
            want = reference.nms.batched_nms(
                boxes.cpu().numpy(), scores.cpu().numpy(), 0.1, 4, classes.cpu().numpy()
            )
            got = fast.nms.batched_nms(boxes, scores, 0.1, 4, classes)
            equal(got.index, want.index)
            equal(got.count, want.count)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 64, 65, 130])
def test_bits_of_any_number_of_boxes(n):
    """Bytes of eight boxes, parts of 64: the last ones are not lost."""
    rng = np.random.default_rng(n)
    boxes = (rng.integers(0, 65, (n, 4)) / 64).astype(np.float32)
    overlap = reference.boxes.box_iou(boxes, boxes) > 0.25
    rows = fast.nms._packed_overlap(torch.from_numpy(boxes), 0.25)
    assert [[row >> j & 1 for j in range(n)] for row in rows] == overlap.astype(int).tolist()


@each_backend
@pytest.mark.parametrize("by_class", [False, True])
def test_operators_are_well_formed(backend, by_class):
    g = torch.Generator().manual_seed(0)
    boxes, scores = torch.rand(2, 5, 4, generator=g), torch.rand(2, 5, 3, generator=g)
    with backend:
        boxes, one, all = backend.tensor(boxes), backend.tensor(scores[..., 0]), backend.tensor(scores)
        classes = backend.tensor(torch.zeros(2, 5, dtype=torch.int64)) if by_class else None
        torch.library.opcheck(fast.nms._batched_nms.op, (boxes, one, 0.5, 4, classes, 0.1))
        torch.library.opcheck(fast.nms._multi_label_nms.op, (boxes, all, 0.5, 4, 0.1, by_class))


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="need"):
        fast.nms.batched_nms(torch.zeros(1, 3, 4), torch.zeros(1, 2), 0.5, 3)
    with pytest.raises(ValueError, match="classes"):
        fast.nms.batched_nms(torch.zeros(1, 3, 4), torch.zeros(1, 3), 0.5, 3, torch.zeros(3))
    with pytest.raises(ValueError, match="need"):
        fast.nms.multi_label_nms(torch.zeros(1, 3, 4), torch.zeros(1, 3), 0.5, 3)

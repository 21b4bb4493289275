"""Batches of pictures with boxes and pictures with a class: who comes when, interrupted or shared."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from yolov2.augment import Augment
from yolov2.data.crops_loader import Kept
from yolov2.data.dataset import Dataset, Item
from yolov2.data.joint import CLASS_ONLY, JointBatch, Portions, joint_batches, portions
from yolov2.errors import Complaints, UserError

SHARES = Portions(2, 3)


class Labels:
    """Pictures of one grey each, with a class."""

    names = ("a", "b", "c", "d")

    def __init__(self, count, broken=()):
        self.labels, self.broken = np.arange(count) % 4, broken

    def __len__(self):
        return len(self.labels)

    def picture(self, index):
        if index in self.broken:
            raise UserError(f"{index}.png: cannot be read")
        return Image.new("RGB", (20 + index, 30), (index, index, index))


def boxed(count):
    """Pictures with a box each."""
    box, none = np.array([[0.5, 0.5, 0.4, 0.4]], np.float32), np.zeros(1, bool)
    items = [
        Item(str(i), 24, 20, box, np.array([i % 2]), none, pixels=np.full((20, 24, 3), 100 + i, np.uint8))
        for i in range(count)
    ]
    return Dataset(("x", "y"), items)


def epochs(detection=5, labels=7, shares=SHARES, epochs=1, complaints=None, broken=(), **options):
    """The batches of some epochs, one after the other."""
    given = Kept(Labels(labels, broken), 1 << 20)
    per_epoch = shares.batches(detection, labels)
    made = []
    for epoch in range(epochs):
        made += joint_batches(
            boxed(detection),
            given,
            shares,
            lambda number: 32,
            Augment(jitter=0.1),
            **{"seed": 3, "epoch": epoch, "per_epoch": per_epoch, "complaints": complaints} | options,
        )
    return made


def same(first, second):
    """Whether two lists of batches are equal."""
    assert len(first) == len(second)
    return all(
        torch.equal(x, y) for a, b in zip(first, second, strict=True) for x, y in zip(a, b, strict=True)
    )


@given(st.integers(2, 200), st.floats(0.001, 1000))
def test_portions(batch, ratio):
    boxes, classes = portions(batch, ratio)
    assert boxes + classes == batch and min(boxes, classes) >= 1
    if min(boxes, classes) > 1:  # as near as whole pictures come
        assert abs(classes - batch * ratio / (1 + ratio)) <= 0.5 + 1e-9


def test_the_papers_portions():
    assert portions(64, 4) == (13, 51)
    with pytest.raises(ValueError, match="no room"):
        portions(1, 4)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_all_pictures_before_any_comes_again(detection, labels, boxes, classes):
    shares = Portions(boxes, classes)
    made = epochs(detection, labels, shares, epochs=3)
    assert len(made) == 3 * shares.batches(detection, labels)
    order = torch.cat([batch.indices for batch in made])
    for count, mine in ((detection, order[order < detection]), (labels, order[order >= detection])):
        rounds = [Counter(some.tolist()) for some in mine.split(count)]
        assert all(set(one.values()) == {1} for one in rounds)
        assert all(len(one) == count for one in rounds[:-1])
    for batch in made:
        assert (batch.indices < detection).tolist() == [True] * boxes + [False] * classes


def test_rows():
    for batch in epochs():
        for row, index in zip(batch.truth, batch.indices.tolist(), strict=True):
            if index < 5:
                assert 0 < row[0, 0] < 1 and row[0, 4] == index % 2
            else:
                assert row[0].tolist() == [CLASS_ONLY, CLASS_ONLY, 0, 0, (index - 5) % 4]
            assert not row[1:].any()


def test_batches_depend_on_their_number_alone():
    whole = epochs(epochs=2)
    second = epochs(epochs=2)[3:]
    assert same(whole[3:], second)
    assert same(epochs(start=1), whole[1:3]) and same(epochs(workers=3), whole[:3])
    assert not same(epochs(seed=4), whole[:3])


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_batches_of_one(world):
    ranks = [epochs(rank=rank, world=world) for rank in range(world)]
    for number, batch in enumerate(epochs()):
        parts = [share[number] for share in ranks]
        images, indices = (torch.cat([getattr(p, name) for p in parts]) for name in ("images", "indices"))
        at = [indices.tolist().index(i) for i in batch.indices.tolist()]
        assert len(indices) == len(batch.indices) and torch.equal(images[at], batch.images)


def test_pieces_have_their_share_of_both():
    batch = epochs(shares=Portions(4, 8), detection=9, labels=9)[0]
    assert isinstance(batch, JointBatch)
    pieces = batch.split(4)
    assert [(piece.indices < 9).tolist() for piece in pieces] == [[True, False, False]] * 4
    assert sorted(torch.cat([p.indices for p in pieces]).tolist()) == sorted(batch.indices.tolist())


def test_pictures_that_cannot_be_read_are_skipped():
    complaints = Complaints()
    made = epochs(broken=(2,), complaints=complaints)
    assert 5 + 2 not in torch.cat([batch.indices for batch in made])
    assert min(len(batch.images) for batch in made) == 4
    with pytest.raises(UserError, match=r"2\.png"):
        epochs(broken=(2,))

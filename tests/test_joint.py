"""Pictures with boxes and pictures with a class in one batch: who comes when, and what is learnt of each."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reference.loss import region_loss as oracle
from reference.region import Region
from tests.models import feeding
from tests.strategies import TREE
from yolov2.augment import Augment
from yolov2.data.crops_loader import Kept
from yolov2.data.dataset import Dataset, Item
from yolov2.data.joint import CLASS_ONLY, JointBatch, Portions, joint_batches, portions
from yolov2.data.loader import Batch
from yolov2.errors import Complaints, UserError
from yolov2.network import Network
from yolov2.train import DetectionTask, Joint
from yolov2.train_config import TrainConfig
from yolov2.training.distributed import Processes
from yolov2.training.loop import Plan
from yolov2.training.sizes import Sizes

DOG, TRAM = 3, 7  # nodes of TREE
SKIPPED = "unreadable pictures skipped"
SHARES = Portions(2, 3)
REGION = Region(((1.0, 1.0), (3.0, 2.0)), len(TREE.parents), "tree", TREE, class_map=(TRAM, DOG))


def boxed(count: int) -> Dataset:
    """Noisy pictures of 32 pixels, with a box of class 0 and, every other one, another of class 1."""
    rng = np.random.default_rng(0)
    boxes = np.array([[0.4, 0.5, 0.5, 0.5], [0.6, 0.4, 0.3, 0.5]], np.float32)
    items = [
        Item(
            f"{i}",
            *(32, 32),
            boxes[: 1 + i % 2],
            np.arange(1 + i % 2),
            np.zeros(1 + i % 2, bool),
            pixels=rng.integers(0, 256, (32, 32, 3), np.uint8),
        )
        for i in range(count)
    ]
    return Dataset(("tram", "dog"), items)


class Labels:
    """Noisy pictures, each of the node of its number; those that are `broken` cannot be read."""

    names = TREE.names

    def __init__(self, count: int, broken: tuple[int, ...] = ()):
        self.labels, self.broken = np.arange(count) % len(TREE.parents), broken

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, index: int) -> Image.Image:
        if index in self.broken:
            raise UserError(f"{index}.png: cannot be read")
        return Image.fromarray(np.random.default_rng([1, index]).integers(0, 256, (40, 30, 3), np.uint8))


def joined(detection=6, classification=5, shares=SHARES, size=lambda number: 32, **options):
    """The batches of an epoch, from so many pictures of either kind."""
    what = boxed(detection), Kept(Labels(classification), 1 << 30), shares, size, Augment()
    return list(joint_batches(*what, **{"seed": 0, "epoch": 0, "per_epoch": 4} | options))


class TestPortions:
    @given(st.integers(2, 300), st.floats(0.001, 1000))
    def test_as_near_the_ratio_as_whole_pictures_are(self, batch, ratio):
        boxes, classes = portions(batch, ratio)
        assert boxes + classes == batch and min(boxes, classes) >= 1
        wanted = batch * ratio / (1 + ratio)
        assert abs(classes - wanted) <= 0.5 or min(boxes, classes) == 1

    def test_the_papers(self):
        """Four without boxes to one with, at its batch of 64."""
        assert portions(64, 4) == (13, 51)

    @given(st.builds(Portions, st.integers(1, 9), st.integers(1, 9)), st.integers(1, 99), st.integers(1, 99))
    def test_an_epoch_lasts_until_all_were_seen(self, shares, detection, classification):
        batches = shares.batches(detection, classification)
        seen, before = (np.multiply(n, shares) >= (detection, classification) for n in (batches, batches - 1))
        assert seen.all() and not before.all()

    def test_no_room(self):
        with pytest.raises(ValueError, match="room"):
            portions(1, 4.0)


SETS = {
    "detection": st.integers(1, 6),
    "classification": st.integers(1, 6),
    "shares": st.builds(Portions, st.integers(1, 4), st.integers(1, 4)),
    "seed": st.integers(0, 99),
}


class TestSampler:
    @given(st.fixed_dictionaries(SETS | {"per_epoch": st.integers(1, 4)}))
    def test_each_set_is_gone_through_before_a_picture_comes_again(self, options):
        batches = [batch for epoch in range(3) for batch in joined(**options, epoch=epoch)]
        boxes, (of_boxes, of_classes) = options["detection"], options["shares"]
        for batch in batches:
            assert (batch.indices < boxes).tolist() == [True] * of_boxes + [False] * of_classes
        order = torch.cat([batch.indices for batch in batches])
        for mine, pictures in ((order < boxes, boxes), (order >= boxes, options["classification"])):
            for turn in order[mine].split(pictures):
                assert len(turn.unique()) == len(turn)

    @given(
        st.fixed_dictionaries(SETS | {"epoch": st.integers(0, 5)}),
        st.fixed_dictionaries({"start": st.integers(0, 3), "workers": st.integers(0, 3)}),
        st.integers(1, 5),
    )
    def test_batches_depend_on_their_number_alone(self, options, how, world):
        """Not on what went before, on threads, or on how many processes share them: pixel for pixel."""
        whole = joined(**options)[how["start"] :]
        ranks = [joined(**options, **how, rank=rank, world=world) for rank in range(world)]
        for batch, *parts in zip(whole, *ranks, strict=True):
            with_boxes = [int((part.indices < options["detection"]).sum()) for part in parts]
            for counts in (with_boxes, [len(part.indices) for part in parts]):
                assert max(counts) - min(counts) <= 1
            for rank, part in enumerate(parts):
                images, truth, indices = (x[rank::world] for x in batch)
                assert torch.equal(part.images, images) and torch.equal(part.indices, indices)
                rows = part.truth.shape[1]  # as many as the longest list needs
                assert torch.equal(part.truth, truth[:, :rows]) and not truth[:, rows:].any()

    def test_processes_are_pieces(self):
        """So both see batch norm alike; and both kinds are in every piece."""
        shares = Portions(3, 4)
        (batch,) = joined(per_epoch=1, shares=shares)
        parts = [joined(per_epoch=1, shares=shares, rank=rank, world=3)[0] for rank in range(3)]
        for piece, part in zip(batch.split(3), parts, strict=True):
            assert torch.equal(piece.images, part.images) and torch.equal(piece.indices, part.indices)
            assert (piece.indices < 6).sum() == 1
        assert len(batch.split(99)) == 7
        nothing = JointBatch(*(x[:0] for x in batch))
        assert [len(piece.images) for piece in nothing.split(4)] == [0]

    def test_another_seed_another_order_another_round_another_picture(self):
        first, second = (joined(20, 20, seed=seed)[0].indices for seed in (0, 1))
        for kind in (slice(2), slice(2, None)):
            assert not torch.equal(first[kind], second[kind])
        some, others = joined(1, 1, Portions(1, 1), per_epoch=2)
        assert torch.equal(some.indices, others.indices)
        assert not any(torch.equal(a, b) for a, b in zip(some.images, others.images, strict=True))

    def test_rows_and_sizes(self):
        batches = joined(classification=12, size=lambda number: 32 * (1 + number), per_epoch=2)
        assert [batch.images.shape for batch in batches] == [(5, 3, 32, 32), (5, 3, 64, 64)]
        for batch in batches:
            assert batch.images.dtype == torch.uint8
            for truth, index in zip(batch.truth[2:], batch.indices[2:], strict=True):
                assert truth[0].tolist() == [CLASS_ONLY, CLASS_ONLY, 0, 0, (int(index) - 6) % 10]
                assert not truth[1:].any()
            assert (batch.truth[:2, 0, 2:4] > 0).all() and (batch.truth[:2, :, 4] < 2).all()

    def test_unreadable_pictures_are_left_out_and_counted(self, tmp_path):
        detection, classification = boxed(2), Kept(Labels(3, broken=(1,)), 0)
        detection.items[0] = replace(detection.items[0], pixels=None, path=tmp_path / "a.png")
        what = detection, classification, Portions(2, 3), lambda number: 32, Augment()
        how = {"seed": 0, "epoch": 0, "per_epoch": 2}
        complaints = Complaints()
        for batch in joint_batches(*what, **how, complaints=complaints, workers=1):
            assert sorted(batch.indices.tolist()) == [1, 2, 4] and batch.truth[0, 0, 2] > 0
        left_out = sorted(str(name).rpartition("/")[2] for _, name in complaints)
        assert left_out == ["1.png", "1.png", "a.png", "a.png"] and complaints.counts.keys() == {SKIPPED}
        with pytest.raises(UserError, match=r"\.png"):
            list(joint_batches(*what, **how))


class TestLoss:
    @pytest.fixture
    def batch(self):
        """Eight pictures with boxes, then twelve without: of every node one, and of two of them two."""
        return joined(8, 12, Portions(8, 12), per_epoch=1)[0]

    @pytest.fixture
    def outputs(self):
        return torch.randn(20, REGION.channels, 2, 3, generator=torch.Generator().manual_seed(0))

    def task(self, region=REGION, joint=True):
        config = TrainConfig(imgsz=64).resolved(torch.device("cpu"))
        pictures = Joint(Kept(Labels(12), 0), Portions(8, 12)) if joint else None
        sets = boxed(8), boxed(2)
        return DetectionTask(config, region, *sets, Plan(20, 20, 1), Sizes(32, 32, 1), Processes(), pictures)

    def test_it_is_that_of_either_kind_by_itself(self, batch, outputs):
        task = self.task()
        loss = dict(zip(task.parts, task.loss(outputs, batch, 20), strict=True))
        boxes, classes = (
            oracle(outputs[part].double().numpy(), batch.truth[part].double().numpy(), REGION, 20)
            for part in (slice(8), slice(8, None))
        )
        wanted = dict(zip(task.parts, np.add(boxes, classes), strict=True))
        assert {name: value.item() for name, value in loss.items()} == pytest.approx(wanted, rel=1e-5)
        assert loss["labelled"].item() == pytest.approx(classes.classification, rel=1e-5)
        assert loss["labelled"] > 0 == boxes.labelled and classes.xy == classes.wh == classes.prior == 0
        alone = self.task(joint=False)
        assert "labelled" not in alone.parts and len(alone.loss(outputs, batch, 20)) == len(alone.parts)

    def test_classes_of_boxes_are_mapped_and_nodes_are_not(self, batch, outputs):
        mapped = batch.truth.clone()
        mapped[:8, :, 4] = torch.tensor(REGION.class_map)[mapped[:8, :, 4].long()].float()
        assert not torch.equal(mapped, batch.truth)
        plain = self.task(replace(REGION, class_map=None))
        again = plain.loss(outputs, batch._replace(truth=mapped), 20)
        assert torch.equal(self.task().loss(outputs, batch, 20), again)

    @pytest.mark.parametrize("node", range(len(TREE.parents)), ids=TREE.names.__getitem__)
    def test_a_label_teaches_its_path_and_no_more(self, batch, node):
        """Neither what kind of dog it is, nor what the other animals look like, nor where it is."""
        torch.manual_seed(0)
        network = Network([feeding(REGION.channels), REGION], (3, 2, 3))
        truth = torch.tensor([[[CLASS_ONLY, CLASS_ONLY, 0, 0, node]]])
        outputs = network(torch.rand(1, 3, 2, 3))
        self.task().loss(outputs, Batch(outputs, truth, torch.zeros(1)), 1)[0].backward()
        weight = next(p for p in network.parameters() if p.ndim == 4)
        taught = weight.grad.view(2, 15, 3).any(2).any(0).tolist()
        groups = {TREE.group_of[step] for step in TREE.path(node)}
        assert taught == [False] * 4 + [True] + [group in groups for group in TREE.group_of]

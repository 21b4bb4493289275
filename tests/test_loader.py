"""Batches: the same for any number of workers, shared out among processes, in bytes until they are used."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from yolov2.augment import Augment
from yolov2.data.dataset import Dataset, Item, cached, open_upright
from yolov2.data.loader import Batch, batches
from yolov2.data.shapes import shapes
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.presets import PRESETS


@pytest.fixture(scope="module")
def data():
    return shapes("train", 10, size=64)


def same(some, others):
    for a, b in zip(some, others, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_batches_are_the_same_for_every_number_of_workers(data, workers):
    options = {"seed": 3, "epoch": 2, "shuffle": True}

    def size(number):  # multi-scale
        return 32 * (number + 1)

    alone = list(batches(data, 4, size, Augment(), **options))
    assert [b.images.shape for b in alone] == [(4, 3, 32, 32), (4, 3, 64, 64), (2, 3, 96, 96)]
    same(alone, batches(data, 4, size, Augment(), workers=workers, **options))
    other = next(batches(data, 4, 64, Augment(), seed=3, epoch=3, shuffle=True))
    assert not torch.equal(other.indices, alone[0].indices)
    assert sorted(i for b in alone for i in b.indices.tolist()) == list(range(10))


@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("drop_last", [False, True])
def test_processes_share_every_batch(data, world, drop_last):
    options = {"seed": 5, "epoch": 1, "shuffle": True, "drop_last": drop_last}
    alone = list(batches(data, 4, 64, Augment(), **options))
    shares = [list(batches(data, 4, 64, Augment(), rank=r, world=world, **options)) for r in range(world)]
    for whole, *parts in zip(alone, *shares, strict=True):
        counts = [len(part.images) for part in parts]
        assert max(counts) - min(counts) <= 1 and sum(counts) == len(whole.images)  # the last has but two
        assert torch.equal(torch.cat([p.images for p in parts]), whole.images)
        assert torch.equal(torch.cat([p.indices for p in parts]), whole.indices)
        for part in parts:
            assert part.images.shape[1:] == whole.images.shape[1:] and part.truth.shape[1] >= 1
    with pytest.raises(ValueError, match="rank"):
        next(batches(data, 4, 64, rank=2, world=2))


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("workers", [0, 3])
def test_an_epoch_goes_on_where_it_was_interrupted(data, start, workers):
    options = {"seed": 1, "shuffle": True, "workers": workers}
    whole = list(batches(data, 4, 64, Augment(), **options))
    same(whole[start:], batches(data, 4, 64, Augment(), start=start, **options))


def test_bytes_become_the_networks_input(data):
    (kept,) = batches(data, 10, (96, 64), Augment())
    assert kept.images.dtype == torch.uint8 and kept.images.shape == (10, 3, 64, 96)
    assert kept.images.is_contiguous(memory_format=torch.channels_last)
    (plain,) = batches(data, 10, (96, 64))
    for batch in (kept, plain):
        moved = batch.to(torch.device("cpu"))
        assert moved.images.dtype == torch.float32
        assert moved.images.is_contiguous(memory_format=torch.channels_last)
        assert moved.images.min() >= 0 and 0.9 < moved.images.max() <= 1
    assert torch.equal(kept.to(torch.device("cpu")).images, kept.images / 255)
    assert torch.equal(plain.to(torch.device("cpu")).images, plain.images)


def test_a_batch_in_parts(data):
    (batch,) = batches(data, 10, 64, Augment())
    parts = batch.split(3)
    assert [len(p.images) for p in parts] == [4, 3, 3]
    assert all(torch.equal(torch.cat(x), y) for x, y in zip(zip(*parts, strict=True), batch, strict=True))
    assert parts[1].images.data_ptr() == batch.images[4:].data_ptr()  # no copy
    assert len(batch.split(99)) == 10
    empty = Batch(*(x[:0] for x in batch))
    assert [len(p.images) for p in empty.split(4)] == [0]
    assert empty.to(torch.device("cpu")).images.shape == (0, 3, 64, 64)


def test_truths_are_padded_with_zeros(data):
    (batch,) = batches(data, 10, 96)
    assert batch.images.shape == (10, 3, 96, 96)
    assert batch.truth.shape == (10, max(len(i.boxes) for i in data.items), 5)
    for row, item in zip(batch.truth, data.items, strict=True):
        n = len(item.boxes)
        np.testing.assert_allclose(row[:n, :4], item.boxes, atol=1e-6)
        assert row[:n, 4].tolist() == item.classes.tolist() and not row[n:].any()


def test_difficult_boxes_and_emptiness():
    boxes = np.full((2, 4), 0.5, np.float32)
    flags = np.array([True, False])
    pixels = np.zeros((32, 32, 3), np.uint8)
    some = Item("a", 32, 32, boxes, np.array([7, 8]), flags, pixels=pixels)
    none = Item("b", 32, 32, boxes[:0], np.zeros(0, np.int64), flags[:0], pixels=pixels)
    names = tuple("abcdefghi")
    (batch,) = batches(Dataset(names, [some, none]), 2, 32)
    assert batch.truth[:, :, 4].tolist() == [[8], [0]]
    (batch,) = batches(Dataset(names, [none]), 2, 32, Augment())
    assert batch.truth.shape == (1, 1, 5) and not batch.truth.any()
    assert list(batches(Dataset(names, []), 2, 32)) == []


def test_size_may_change_on_the_way_and_the_last_batch_may_go(data):
    sizes = [b.images.shape[2] for b in batches(data, 4, lambda n: 32 * (n + 1), drop_last=True)]
    assert sizes == [32, 64]


def test_unreadable_pictures_are_skipped_or_raise(data, tmp_path):
    one = data.items[0]
    missing = Item("x", 9, 9, one.boxes, one.classes, one.difficult, tmp_path / "x.jpg")
    broken = Dataset(data.names, [one, missing])
    with pytest.raises(UserError, match=r"x\.jpg"):
        list(batches(broken, 2, 32))
    complaints = Complaints()
    (batch,) = batches(broken, 2, 32, complaints=complaints)
    assert batch.indices.tolist() == [0] and sum(complaints.counts.values()) == 1
    assert [b.indices.tolist() for b in batches(broken, 1, 32, complaints=Complaints())] == [[0]]
    # several processes go through the same number of batches
    rest = batches(broken, 2, 32, complaints=Complaints(), rank=1, world=2)
    assert [b.indices.tolist() for b in rest] == [[]]


def test_stopping_early_leaves_no_thread_working(data):
    stream = batches(data, 1, 64, Augment(), workers=2)
    next(stream)
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("batches"):
            thread.join(5)
            assert not thread.is_alive()


def test_the_callers_torch_threads_are_left_alone(data):
    before = torch.get_num_threads()
    list(batches(data, 4, 32))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("size", [(1333, 1000), (250, 700), (150, 100)])
@pytest.mark.parametrize("mode", ["letterbox", "stretch"])
def test_training_sees_what_detection_sees(tmp_path, size, mode):
    path = tmp_path / "large.jpg"
    Image.effect_noise(size, 90).convert("RGB").save(path)
    item = Item("large", *size, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), path)
    data = Dataset(("a",), [item])
    remembered = cached(data, 1 << 30)
    remembered.picture(0)
    assert remembered.bytes > 0
    (training,) = batches(remembered, 1, 96, resize=mode)

    preset, seen = PRESETS["nano"], []
    detector = Detector.build(preset.build(preset.region), tuple("abcdefghijklmnopqrst"), 96, mode)
    detector.network.register_forward_pre_hook(lambda network, arguments: seen.append(arguments[0].clone()))
    detector([open_upright(path)])
    assert torch.equal(seen[0], training.images)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT CHECKED: pinned memory needs a GPU")
def test_pinned_batches(data):
    (batch,) = batches(data, 10, 64, Augment(), pin=True)
    assert batch.images.is_pinned() and batch.truth.is_pinned()
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    (plain,) = batches(data, 10, 64, Augment())
    assert torch.equal(batch.to(torch.device("cuda")).images.cpu(), plain.images)

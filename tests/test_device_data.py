"""Batches made where the decoded pictures lie: the loader's batches, but for the rounding to bytes."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.pictures import photograph
from yolov2.augment import Augment
from yolov2.data.dataset import Dataset, Item
from yolov2.data.device import device_batches, on_device
from yolov2.data.loader import batches
from yolov2.data.shapes import shapes
from yolov2.errors import Complaints, UserError

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TURNED = Augment(scale=(0.5, 2.0), flip_vertical=0.5, transpose=0.5)


@pytest.fixture(scope="module")
def data():
    """Photographs of many sizes; some boxes are difficult, one picture has none."""
    rng, items = np.random.default_rng(0), []
    for i in range(9):
        width, height = rng.integers(20, 90, 2).tolist()
        low, high = np.sort(rng.random((2, i, 2)), axis=0)
        boxes = np.concatenate([(low + high) / 2, high - low], 1).astype(np.float32)
        difficult = np.arange(i) % 4 == 1
        pixels = photograph(width, height, i)
        items.append(Item(str(i), width, height, boxes, np.arange(i), difficult, pixels=pixels))
    return Dataset(tuple("abcdefghi"), items)


def same(some, others):
    for a, b in zip(some, (other.to(torch.device("cpu")) for other in others), strict=True):
        assert torch.equal(a.truth.cpu(), b.truth) and torch.equal(a.indices, b.indices)
        assert a.images.shape == b.images.shape and a.images.dtype == torch.float32
        assert a.images.is_contiguous(memory_format=torch.channels_last)
        # the loader rounds samples and colours to bytes, and the latter multiply what the former lost
        levels = 255 * (a.images.cpu() - b.images).abs()
        assert not levels.numel() or (levels.mean() < 1 and levels.quantile(0.999) < 4)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 10),
    st.sampled_from([Augment(), TURNED]),
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 3),
            "epoch": st.integers(0, 3),
            "shuffle": st.booleans(),
            "drop_last": st.booleans(),
            "start": st.integers(0, 2),
        }
    ),
    st.sampled_from([(0, 1), (0, 2), (1, 2), (2, 3)]),
)
def test_the_loaders_batches(data, batch, options, settings, share):
    held = on_device(data, DEVICE)
    how = {**settings, "rank": share[0], "world": share[1]}

    def size(number):  # multi-scale, and wider than high
        return 32 * (2 + number % 3) if number % 2 else (96, 64)

    same(
        device_batches(held, batch, size, options, **how),
        batches(data, batch, size, options, **how),
    )


def test_built_in_pictures_and_halves():
    data = shapes("train", 4, size=64)
    held = on_device(data, DEVICE, workers=3)
    same(device_batches(held, 4, 64, Augment()), batches(data, 4, 64, Augment()))
    (half,) = device_batches(held, 4, 64, Augment(), dtype=torch.float16)
    assert half.images.dtype == torch.float16 and half.images.device.type == DEVICE.type
    moved = half.to(DEVICE)
    assert moved.images.data_ptr() == half.images.data_ptr()  # it is there already
    assert [len(part.images) for part in moved.split(3)] == [2, 1, 1]


def test_too_many_pictures_are_refused_before_one_is_decoded(data):
    needed = sum(i.width * i.height * 3 for i in data.items)
    assert on_device(data, DEVICE, needed).buffer.numel() == needed
    unreadable = Dataset(data.names, [Item("x", 9, 9, *[np.zeros((0, 4))] * 3), *data.items])
    with pytest.raises(UserError, match=r"10 decoded pictures take .* GB.*--cache memory"):
        on_device(unreadable, DEVICE, needed)


def test_unreadable_and_changed_pictures(data, tmp_path):
    one = data.items[3]
    for name, size in (("missing", None), ("changed", (30, 20))):
        path = tmp_path / f"{name}.png"
        if size:
            Image.new("RGB", size).save(path)
        other = Item(name, 20, 30, one.boxes, one.classes, one.difficult, path)
        broken = Dataset(data.names, [one, other, one])
        with pytest.raises(UserError, match=rf"{name}\.png"):
            on_device(broken, DEVICE)
        complaints = Complaints()
        held = on_device(broken, DEVICE, complaints=complaints)
        assert [n for _, n in complaints] == [str(path)]
        (batch,) = device_batches(held, 3, 64, Augment())
        assert batch.indices.tolist() == [0, 2]
        whole = next(batches(Dataset(data.names, [one, one, one]), 3, 64, Augment())).to(torch.device("cpu"))
        same([batch], [whole._replace(**{k: getattr(whole, k)[[0, 2]] for k in whole._fields})])
        assert [b.indices.tolist() for b in device_batches(held, 1, 64, Augment())] == [[0], [2]]
        rest = device_batches(held, 3, 64, Augment(), rank=1, world=3)  # keeps step with other processes
        assert [b.images.shape for b in rest] == [(0, 3, 64, 64)]


def test_other_forms_and_nonsense_are_refused(data):
    held = on_device(data, DEVICE)
    with pytest.raises(UserError, match=r"--cache device.*crop"):
        next(device_batches(held, 2, 64, Augment(form="crop")))
    for wrong in ({"batch": 0}, {"batch": 2, "start": -1}, {"batch": 2, "rank": 2, "world": 2}):
        with pytest.raises(ValueError):
            next(device_batches(held, size=64, options=Augment(), **wrong))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT CHECKED: that nothing waits needs a GPU")
def test_nothing_waits(data):
    held = on_device(data, DEVICE)
    want = [b.images.clone() for b in device_batches(held, 4, 64, TURNED)]  # also compiles
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = list(device_batches(held, 4, 64, TURNED))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(a, b.images) for a, b in zip(want, got, strict=True))

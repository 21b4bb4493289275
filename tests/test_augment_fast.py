"""Training augmentation and batches: boxes stay on their objects, colours are Darknet's."""

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.golden import GOLDEN, cases
from yolov2.augment import Augment, augment, distort, place
from yolov2.data.dataset import Dataset, Item, cached, open_upright
from yolov2.data.loader import batches
from yolov2.data.shapes import shapes
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.presets import PRESETS

STILL = Augment(jitter=0, hue=0, saturation=1, exposure=1, flip=0)
GOLDEN_ONLY = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent"
)


def painted(w, h, box):
    """A black picture with a white rectangle, and the rectangle as a box."""
    x0, y0, x1, y1 = box
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    boxes = np.array([[(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h]], np.float32)
    return pixels, boxes


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(120, 80), (70, 110), (96, 96)]),
    st.sampled_from([(128, 128), (96, 160), (160, 96)]),
    st.sampled_from([(1.0, 1.0), (0.25, 2.0)]),
)
def test_boxes_stay_on_their_objects(seed, picture, net, scale):
    pixels, boxes = painted(*picture, (20, 24, 56, 60))
    options = Augment(hue=0, saturation=1, exposure=1, flip_vertical=0.5, transpose=0.5, scale=scale)
    image, boxes, classes = augment(pixels, boxes, np.array([3]), net, options, np.random.default_rng(seed))
    assert image.shape == (3, net[1], net[0]) and image.dtype == torch.float32
    assert image.min() >= 0 and image.max() <= 1 + 1e-6  # the weights of four pixels sum to 1, rounded
    ys, xs = torch.nonzero(image[0] > 0.75, as_tuple=True)
    if not len(boxes):  # zoomed in beside it
        assert len(xs) <= max(net)
        return
    assert classes.tolist() == [3]
    x, y, w, h = boxes[0] * [*net, *net]
    if len(xs) == 0:  # a sliver at the edge
        assert min(w, h) < 3
        return
    slack = 2 * max(scale[1], 1) + 1  # truncated sizes and offsets, and the blur of enlarging
    np.testing.assert_allclose([xs.min(), xs.max() + 1], [x - w / 2, x + w / 2], atol=slack)
    np.testing.assert_allclose([ys.min(), ys.max() + 1], [y - h / 2, y + h / 2], atol=slack)


def test_nothing_random_is_the_letterbox_at_a_random_place():
    pixels, boxes = painted(200, 100, (50, 20, 150, 40))
    image, got, _ = augment(pixels, boxes, np.array([0]), (400, 400), STILL, np.random.default_rng(0))
    # aspect 2: 400x200 somewhere in the 200 free rows; widths stay, heights are halved
    np.testing.assert_allclose(got[0, [0, 2, 3]], [0.5, 0.5, 0.1], atol=1e-6)
    assert (image == 0.5).all(0).all(1).sum() == 200


def test_place_by_hand():
    # a picture shrunk to a half and moved by .6: (.5 .5 1 1) would reach from .6 to 1.1 and is cut at 1
    got = place(np.array([[0.5, 0.5, 1, 1], [0.1, 0.1, 0.2, 0.2]]), (0.5, 1.0), (0.6, 0.0))
    np.testing.assert_allclose(got, [[0.8, 0.5, 0.4, 1], [0.65, 0.1, 0.1, 0.2]])


def test_boxes_out_of_sight_are_dropped_and_the_list_is_cut():
    pixels, _ = painted(64, 64, (0, 0, 1, 1))
    boxes = np.tile(np.float32([0.5, 0.5, 0.1, 0.1]), (50, 1))
    boxes[:5, 2] = 0.0005
    rng = np.random.default_rng(0)
    kept = [len(augment(pixels, boxes, np.arange(50), (64, 64), STILL, rng)[1]) for _ in range(20)]
    assert max(kept) <= 30 and min(kept) >= 25  # first cut to 30, then up to 5 dropped
    no_boxes = augment(pixels, boxes[:0], np.zeros(0, np.int64), (64, 64), Augment(), rng)
    assert no_boxes[1].shape == (0, 4) and no_boxes[2].shape == (0,)


@given(st.floats(-0.5, 0.5), st.floats(0.5, 1.5), st.floats(0.5, 1.5), st.integers(0, 100))
def test_distort_is_what_colorsys_computes(hue, saturation, exposure, seed):
    rgb = np.random.default_rng(seed).uniform(0, 1, (3, 1, 6))
    rgb[:, 0, 0], rgb[:, 0, 1] = 0, 0.4  # black and grey have no hue
    want = []
    for pixel in rgb[:, 0].T:
        h, s, v = colorsys.rgb_to_hsv(*pixel)
        # colorsys takes any numbers for s and v; the result is cut to [0, 1] at the end (SPEC 14)
        want.append(np.clip(colorsys.hsv_to_rgb((h + hue) % 1, s * saturation, v * exposure), 0, 1))
    got = distort(torch.from_numpy(rgb), hue, saturation, exposure)[:, 0].T
    np.testing.assert_allclose(got, want, atol=1e-9)


@pytest.mark.parametrize("wrong", [{"jitter": 1}, {"saturation": 0}, {"scale": (0, 1)}, {"scale": (2, 1)}])
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError):
        Augment(**wrong)


@GOLDEN_ONLY
@pytest.mark.parametrize("name", ["small_a", "small_b"])
def test_distort_equals_darknets(name):
    case = next(c for c in cases() if c.file == f"image/{name}.npz")
    got = distort(torch.from_numpy(case["input"]), *case.config["distort_hue_sat_exp"])
    np.testing.assert_allclose(got, case["distort"], atol=1e-5)


@GOLDEN_ONLY
@pytest.mark.parametrize("name", ["place", "place_flip", "crop_v1_flip"])
def test_boxes_equal_darknets(name):
    case = next(c for c in cases() if c.file == f"correct_boxes/{name}.npz")
    s = case.config
    got = place(case["boxes"], (s["sx"], s["sy"]), (-s["dx"], -s["dy"]))  # Darknet subtracts the offset
    if s["flip"]:
        got = got * [-1, 1, 1, 1] + [1, 0, 0, 0]
    marked = (case["out"] == 999999).all(1)  # a row of zeros: a label without a box, which we do not have
    np.testing.assert_allclose(got[~marked], case["out"][~marked], atol=1e-6)


# ---------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def data():
    return shapes("train", 10, size=64)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_for_every_number_of_workers(data, workers):
    options = {"seed": 3, "epoch": 2, "shuffle": True}
    alone = list(batches(data, 4, 64, Augment(), **options))
    several = list(batches(data, 4, 64, Augment(), workers=workers, **options))
    assert [len(b.images) for b in alone] == [4, 4, 2]
    for a, b in zip(alone, several, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    other = next(batches(data, 4, 64, Augment(), seed=3, epoch=3, shuffle=True))
    assert not torch.equal(other.indices, alone[0].indices)
    assert sorted(i for b in alone for i in b.indices.tolist()) == list(range(10))


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


@pytest.mark.parametrize("start", [0, 1, 2, 3])
@pytest.mark.parametrize("workers", [0, 3])
def test_an_epoch_goes_on_where_it_was_interrupted(data, start, workers):
    options = {"seed": 1, "shuffle": True, "workers": workers}
    whole = list(batches(data, 4, 64, Augment(), **options))
    rest = list(batches(data, 4, 64, Augment(), start=start, **options))
    assert len(rest) == 3 - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_unreadable_pictures_are_skipped_or_raise(data, tmp_path):
    missing = Item(
        "x", 9, 9, data.items[0].boxes, data.items[0].classes, data.items[0].difficult, tmp_path / "x.jpg"
    )
    broken = Dataset(data.names, [data.items[0], missing])
    with pytest.raises(UserError, match=r"x\.jpg"):
        list(batches(broken, 2, 32))
    complaints = Complaints()
    (batch,) = batches(broken, 2, 32, complaints=complaints)
    assert batch.indices.tolist() == [0] and sum(complaints.counts.values()) == 1
    assert [b.indices.tolist() for b in batches(broken, 1, 32, complaints=Complaints())] == [[0]]


def test_stopping_early_leaves_no_thread_working(data):
    import threading

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


def test_cache_remembers_and_respects_its_limit(tmp_path):
    items = []
    for n in range(3):
        path = tmp_path / f"{n}.jpg"
        Image.effect_noise((200, 100), 40).convert("RGB").save(path)
        items.append(Item(str(n), 200, 100, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), path))
    data = cached(Dataset(("a",), items), max_bytes=2 * 200 * 100 * 3)
    first = [np.asarray(data.picture(i)) for i in range(3)]
    assert data.bytes == 2 * 200 * 100 * 3  # two of three fit
    for i in range(2):
        items[i].path.unlink()
        np.testing.assert_array_equal(np.asarray(data.picture(i)), first[i])


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

"""The built-in shapes: reproducible one by one, no picture in both splits, boxes tight, shapes in sight."""

import numpy as np
import pytest
from PIL import Image

from yolov2.data import shapes as module
from yolov2.data.shapes import (
    LARGEST,
    MOST_OBJECTS,
    NAMES,
    SIZE,
    SMALLEST,
    SPLITS,
    VISIBLE,
    _masks,
    _textures,
    draw,
    shapes,
)


@pytest.fixture(scope="module")
def train():
    return shapes("train", 60)


def test_every_picture_depends_on_its_number_alone(train):
    again = shapes("train", 3)
    for a, b in zip(again.items, train.items, strict=False):
        np.testing.assert_array_equal(a.pixels, b.pixels)
        np.testing.assert_array_equal(a.boxes, b.boxes)
    assert [item.id for item in again.items] == ["train-00000", "train-00001", "train-00002"]


def test_splits_and_seeds_share_no_picture(train):
    every = [*train.items, *shapes("val", 60).items, *shapes("train", 5, seed=1).items]
    assert len({item.pixels.tobytes() for item in every}) == 125


def test_layout(train):
    assert train.names == NAMES and len(train) == 60
    for item in train.items:
        assert item.path is None and item.pixels.shape == (SIZE, SIZE, 3) and item.pixels.dtype == np.uint8
        assert 1 <= len(item.boxes) == len(item.classes) == len(item.difficult) <= MOST_OBJECTS
        assert item.boxes.dtype == np.float32 and item.classes.dtype == np.int64
    assert {c for item in train.items for c in item.classes.tolist()} == set(range(len(NAMES)))
    assert train.picture(0).size == (SIZE, SIZE)


@pytest.mark.parametrize("index", range(8))
def test_boxes_are_tight_around_the_pixels_in_sight(train, index):
    item = train.items[index]
    rng = np.random.default_rng([0, SPLITS["train"], index])
    picture, owner, classes = draw(rng, _textures(0, "train", SIZE))
    np.testing.assert_array_equal(np.asarray(picture), item.pixels)
    assert classes == item.classes.tolist()
    low, high = (item.boxes[:, :2] + s * item.boxes[:, 2:] / 2 for s in (-1, 1))
    for number, corners in enumerate(np.concatenate([low, high], 1) * SIZE, start=1):
        ys, xs = np.nonzero(np.asarray(owner) == number)
        want = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
        np.testing.assert_allclose(corners, want, atol=1e-3)


def test_shapes_differ_from_what_surrounds_them(train):
    # Not a proof that a human sees every one, but a shape of its background's colour would fail it.
    for item in train.items[:20]:
        x, y, w, h = (item.boxes * SIZE).T
        for cx, cy, bw, bh in zip(x, y, w, h, strict=True):
            rows = slice(int(cy - bh / 2), int(cy + bh / 2) + 1)
            columns = slice(int(cx - bw / 2), int(cx + bw / 2) + 1)
            assert item.pixels[rows, columns].reshape(-1, 3).std(0).max() > 8


@pytest.mark.parametrize("name", NAMES)
def test_masks_hold_the_whole_shape(name):
    rng = np.random.default_rng(0)
    for _ in range(20):
        body, inner = _masks(rng, name, SIZE)
        pixels = np.asarray(body)
        assert not (pixels[0].any() or pixels[-1].any() or pixels[:, 0].any() or pixels[:, -1].any())
        # the border adds at most a tenth, the room for smooth edges a few pixels
        assert SMALLEST * SIZE < max(body.size) < 1.1 * LARGEST * SIZE + 4
        if inner is not None:
            assert inner.size == body.size and (np.asarray(inner) <= pixels).all()


def test_at_least_the_stated_share_stays_in_sight(monkeypatch):
    areas, paint = [], module._paint

    def measured(rng, picture, textures, body, inner, place):
        areas.append(np.count_nonzero(body.convert("1", dither=Image.Dither.NONE)))
        paint(rng, picture, textures, body, inner, place)

    monkeypatch.setattr(module, "_paint", measured)
    shares = []
    for index in range(40):
        areas.clear()
        _, owner, classes = draw(np.random.default_rng(index), _textures(0, "train", SIZE))
        seen = np.bincount(np.asarray(owner).ravel(), minlength=MOST_OBJECTS + 1)[1 : len(classes) + 1]
        shares += (seen / areas).tolist()
    assert 0.5 < VISIBLE <= min(shares) < max(shares) == 1  # some are covered, none too much


@pytest.mark.parametrize("size", [32, 96, 320])
def test_other_sizes(size):
    item = shapes("val", 1, size=size).items[0]
    assert item.pixels.shape == (size, size, 3) and (item.boxes[:, 2:] > 0).all()


@pytest.mark.parametrize("arguments", [("test", 1), ("train", 0), ("train", 1, 0, 16)])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        shapes(*arguments)

"""Training pictures of the product: the plan is the oracle's, draw for draw, and the picture nearly so."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference.augment import Draws, cropped_example, detection_example
from reference.image import load_normalise
from tests.golden import GOLDEN, cases
from tests.pictures import backend, levels, photograph  # noqa: F401 (a fixture)
from yolov2.augment import Augment, augment, plan, render

STILL = Augment(jitter=0, hue=0, saturation=1, exposure=1, flip=0)
MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOLDEN_CASES = [c for c in cases() if c.group == "augment" and c.config["kind"] == "detection"]


def draws(seed):
    return Draws.from_generator(np.random.default_rng(seed))


def labelled(seed, count):
    """Labels (N, 5) float32: class x y w h."""
    rng = np.random.default_rng(seed)
    low, high = np.sort(rng.random((2, count, 2)), axis=0)
    rows = [np.arange(count)[:, None], (low + high) / 2, high - low]
    return np.concatenate(rows, 1).astype(np.float32)


def padded(truth, rows):
    return np.concatenate([truth, np.zeros((rows - len(truth), 5), np.float32)])


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent")
def test_darknets_training_pictures(backend):  # noqa: F811
    assert len(GOLDEN_CASES) == 4
    for case in GOLDEN_CASES:
        c, log = case.config, iter(case["draws"])
        next(log)  # the loader's choice of the picture
        names = ("jitter", "hue", "saturation", "exposure")
        options = Augment(**{name: c[name] for name in names}, max_labels=c["num_boxes"])
        pixels, size = case["image_u8"], (c["net_w"], c["net_h"])
        decided = plan(Draws(log), pixels.shape[1::-1], size, case["labels"].astype(np.float32), options)
        assert not list(log)
        np.testing.assert_allclose(padded(decided.truth, c["num_boxes"]), case["truth"], atol=1e-6)
        error = levels(render(pixels, decided, size), case["output"])
        assert error.max() < 4 and error.mean() < (0.6 if backend == "opencv" else 1)


@MANY
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([(32, 32), (64, 32), (32, 64), (33, 47)]),
    st.sampled_from([(0.3, 0.1, 1.5, 1.5), (0.2, 0.1, 0.75, 0.75), (0, 0, 1, 1), (0.45, 1, 2, 2)]),
    st.sampled_from(["place", "crop"]),
)
def test_as_the_oracle_does_it(backend, seed, picture, net, ranges, form):  # noqa: F811
    pixels, labels = photograph(*picture, seed), labelled(seed, seed % 40)
    options = Augment(*ranges, max_labels=30, form=form)
    decided = plan(draws(seed), picture, net, labels, options)
    oracle = detection_example if form == "place" else cropped_example
    names = ("jitter", "hue", "saturation", "exposure")
    image = load_normalise(pixels)
    want, truth = oracle(image, labels, draws(seed), *net, **dict(zip(names, ranges, strict=True)))
    np.testing.assert_array_equal(padded(decided.truth, 30), truth)
    error = levels(render(pixels, decided, net), want)
    # What sampling lost, thrice where a hue is turned, half a level for that, grown by the factors, and half
    # a level in the end. One pixel in a thousand may be one that Darknet turns magenta.
    lost, s = (0.51 if backend == "opencv" else 1.01), decided.saturation
    grown = decided.exposure * (abs(1 - s) * lost + s * (3 * lost + 0.5))
    assert np.quantile(error, 0.999) < grown + 0.51


def test_no_label_is_lost_unless_asked_for():
    labels = np.tile(np.float32([0, 0.5, 0.5, 0.1, 0.1]), (300, 1))
    labels[:, 0] = range(300)
    truth = plan(draws(0), (64, 64), (64, 64), labels, STILL).truth
    assert sorted(truth[:, 4]) == list(range(300))  # 30 of them in Darknet
    labels[:5, 3] = 0.0005
    options = Augment(jitter=0, max_labels=250)
    kept = [len(plan(draws(seed), (64, 64), (64, 64), labels, options).truth) for seed in range(20)]
    assert max(kept) <= 250 and min(kept) >= 245 and min(kept) < 250  # first cut, then up to 5 dropped
    assert plan(draws(0), (64, 64), (64, 64), labels[:0], STILL).truth.shape == (0, 5)


def painted(w, h, box):
    """A black picture with a white rectangle, and the rectangle as a box."""
    x0, y0, x1, y1 = box
    pixels = np.zeros((h, w, 3), np.uint8)
    pixels[y0:y1, x0:x1] = 255
    boxes = np.array([[(x0 + x1) / 2 / w, (y0 + y1) / 2 / h, (x1 - x0) / w, (y1 - y0) / h]], np.float32)
    return pixels, boxes


@MANY
@given(
    st.integers(0, 10**6),
    st.sampled_from([(120, 80), (70, 110), (96, 96)]),
    st.sampled_from([(128, 128), (96, 160), (160, 96)]),
    st.sampled_from([{}, {"scale": (0.25, 2.0)}, {"form": "crop"}]),
)
def test_boxes_stay_on_their_objects(backend, seed, picture, net, form):  # noqa: F811
    pixels, boxes = painted(*picture, (20, 24, 56, 60))
    options = Augment(hue=0, saturation=1, exposure=1, flip_vertical=0.5, transpose=0.5, **form)
    image, boxes, classes = augment(pixels, boxes, np.array([3]), net, options, np.random.default_rng(seed))
    assert image.shape == (net[1], net[0], 3) and image.dtype == np.uint8
    ys, xs = np.nonzero(image[..., 0] > 190)
    if not len(boxes):  # zoomed in beside it
        assert len(xs) <= max(net)
        return
    assert classes.tolist() == [3]
    x, y, w, h = boxes[0] * [*net, *net]
    if len(xs) == 0:  # a sliver at the edge
        assert min(w, h) < 3
        return
    slack = 7 if form else 3  # truncated sizes and offsets, half a pixel, and the blur of enlarging
    np.testing.assert_allclose([xs.min(), xs.max() + 1], [x - w / 2, x + w / 2], atol=slack)
    np.testing.assert_allclose([ys.min(), ys.max() + 1], [y - h / 2, y + h / 2], atol=slack)


def test_all_eight_symmetries_are_drawn(backend):  # noqa: F811
    pixels = photograph(48, 48)
    turned = Augment(0, 0, 1, 1, flip_vertical=0.5, transpose=0.5)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        image = augment(pixels, np.zeros((0, 4)), np.zeros(0, int), (48, 48), turned, rng)[0]
        for number in range(8):
            want = pixels if number < 4 else pixels.transpose(1, 0, 2)
            if np.array_equal(image, np.rot90(want, number)):
                seen.add(number)
    assert seen == set(range(8))


def test_options_that_darknet_lacks_leave_its_draws_alone():
    labels = labelled(0, 4)
    plain = plan(draws(5), (50, 40), (32, 32), labels, Augment())
    turned = plan(draws(5), (50, 40), (32, 32), labels, Augment(flip_vertical=1, transpose=1))
    assert turned.transpose and turned.flip_vertical
    for field in ("hue", "saturation", "exposure", "mirror", "order"):
        assert getattr(plain, field) == getattr(turned, field)
    flips = [plan(draws(n), (9, 9), (9, 9), labels, Augment(flip=0.9)).mirror for n in range(200)]
    assert 160 < sum(flips) < 200
    assert not any(plan(draws(n), (9, 9), (9, 9), labels, Augment(flip=0)).mirror for n in range(50))


def test_a_class_without_a_box_stays_one():
    """SPEC 6: 999999 in all four fields, whichever way up."""
    row = np.float32([[7, 0, 0, 0, 0]])
    options = Augment(flip=1, flip_vertical=1, transpose=1)
    truth = plan(draws(0), (50, 40), (32, 32), row, options).truth
    assert truth.tolist() == [[999999] * 4 + [7]]


def test_the_canvas_is_exposed_too(backend):  # noqa: F811
    pixels = np.zeros((20, 40, 3), np.uint8)
    decided = plan(draws(1), (40, 20), (40, 40), labelled(0, 0), Augment(jitter=0))
    image = render(pixels, decided, (40, 40))
    grey = round(127.5 * decided.exposure)
    assert sorted(np.unique(image)) == [0, grey] and (image == grey).all(2).all(1).sum() == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": 1},
        {"saturation": 0},
        {"scale": (0, 1)},
        {"scale": (2, 1)},
        {"hue": 2},
        {"form": "stretch"},
        {"form": "crop", "jitter": 0.5},
        {"form": "crop", "scale": (0.5, 1)},
        {"max_labels": -1},
    ],
    ids=str,
)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError):
        Augment(**wrong)


def test_the_crop_of_2016_by_hand():
    """Margins of the oracle's crop: 2 columns cut off on the left, 1 row added at the top."""
    source = np.random.default_rng(0).random((3, 5, 8))
    labels = np.array([[1, 0.5, 0.5, 0.25, 0.2]])
    most = 2**31 - 1
    integers = [most, most // 2, 0, most // 2, 1, 0, 0, 1, 0, 1, 0]
    still = {"hue": 0, "saturation": 1, "exposure": 1}
    # jitter .25: up to int(2) columns and int(1.25) rows; most/2 is in the middle, a margin of 0
    got, truth = cropped_example(source, labels, Draws(integers), 6, 6, jitter=0.25, max_labels=1, **still)
    want = np.concatenate([source[:, :1], source], 1)[:, :, :1:-1]  # its first row twice; mirrored
    np.testing.assert_allclose(got, want, atol=1e-12)
    # columns 3..5 of 8 are 1..3 of 6, mirrored 3..5; rows 2..3 of 5 are 3..4 of 6
    np.testing.assert_allclose(truth, [[4 / 6, 3.5 / 6, 2 / 6, 1 / 6, 1]], atol=1e-7)

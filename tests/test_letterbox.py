"""The letterbox, in the oracle and in the product: by hand, boxes there and back, pixels as Darknet's."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reference.letterbox import letterbox, letterbox_size, undo_letterbox
from tests.golden import GOLDEN, cases
from yolov2.letterbox import Letterbox

SIDES = st.integers(1, 2000)


def test_canvas_by_hand():
    # 2x1 pixels in 5x4: new size 5x2 (1 * 5 / 2 = 2.5, down), rows (4 - 2) / 2 = 1 and 2
    got = letterbox(np.array([0.0, 1]).reshape(1, 1, 2).repeat(3, axis=0), 5, 4)
    ramp, half = [0, 0.25, 0.5, 0.75, 1], [0.5] * 5
    np.testing.assert_array_equal(got, [[half, ramp, ramp, half]] * 3)


def test_a_line_has_no_letterbox():
    with pytest.raises(ValueError, match="1000x1"):
        letterbox_size((1000, 1), (416, 416))


def test_undo_by_hand():
    # 200x100 in 4x4 pixels: 4x2 inside, so the full picture is a box of (1, 1/2) at the centre
    box = np.array([[0.5, 0.5, 1, 0.5]])
    np.testing.assert_array_equal(undo_letterbox(box, (200, 100), (4, 4)), [[0.5, 0.5, 1, 1]])
    pixels = undo_letterbox(box, (200, 100), (4, 4), relative=False)
    np.testing.assert_array_equal(pixels, [[100, 50, 200, 100]])


def test_margin_of_boxes_by_hand():
    # 2x2 pixels of 3x2: half a pixel is left on either side, so the first column's left edge is at 1/6
    got = undo_letterbox(np.array([[1 / 6, 0, 1 / 3, 1]]), (8, 8), (3, 2))
    np.testing.assert_allclose(got, [[0, 0, 0.5, 1]], atol=1e-12)


SIZES = st.tuples(st.integers(40, 1000), st.integers(40, 1000))
NETWORKS = st.tuples(st.integers(32, 640), st.integers(32, 640))


@given(SIZES, NETWORKS, arrays(float, (5, 4), elements=st.floats(0, 1)), st.booleans())
def test_undo_letterbox_inverts(picture, network, boxes, relative):
    inner = np.array(letterbox_size(picture, network)) / network
    seen = np.concatenate([(1 - inner) / 2 + boxes[:, :2] * inner, boxes[:, 2:] * inner], axis=1)
    unit = np.ones(4) if relative else np.tile(picture, 2)
    got = undo_letterbox(seen, picture, network, relative)
    np.testing.assert_allclose(got / unit, boxes, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_oracle_keeps_the_dtype(dtype):
    assert letterbox(np.zeros((3, 4, 5), dtype), 32, 32).dtype == dtype
    assert undo_letterbox(np.zeros((2, 4), dtype), (30, 20), (32, 32)).dtype == dtype


@pytest.mark.parametrize(
    "picture, net, new",
    [
        ((768, 576), (416, 416), (416, 312)),  # 576*416/768 = 312
        ((500, 375), (416, 416), (416, 312)),
        ((375, 500), (416, 416), (312, 416)),
        ((100, 33), (416, 416), (416, 137)),  # 33*416/100 = 137.28
        ((416, 416), (416, 416), (416, 416)),
        ((30, 22), (64, 48), (64, 46)),  # 64/30 < 48/22: 22*64/30 = 46.93
        ((100, 300), (416, 416), (138, 416)),  # 100*416/300 = 138.67, down
        ((500, 375), (160, 96), (128, 96)),  # 160/500 > 96/375: the height decides
        ((1000, 1), (416, 416), (416, 1)),
    ],
)
def test_sizes_by_hand(picture, net, new):
    assert Letterbox(*picture, *net).new_size == new
    if min(picture) > 1:  # the oracle refuses a line
        assert letterbox_size(picture, net) == new
    assert Letterbox(*picture, *net, "stretch").new_size == net


def test_boxes_by_hand():
    box = Letterbox(200, 100, 400, 400)  # the picture becomes 400x200, 100 pixels of grey above and below
    got = box.boxes(np.array([[0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5]]))
    np.testing.assert_allclose(got, [[0.5, 0.5, 1, 0.5], [0, 0.25, 0.5, 0.25]])


@given(SIDES, SIDES, st.integers(32, 608), st.integers(32, 608), st.sampled_from(["letterbox", "stretch"]))
def test_undo_inverts(w, h, net_w, net_h, mode):
    boxes = np.random.default_rng(0).uniform(0, 1, (5, 4))
    box = Letterbox(w, h, net_w, net_h, mode)
    np.testing.assert_allclose(box.undo(box.boxes(boxes)), boxes, atol=1e-9)
    as_tensor = box.undo(torch.from_numpy(boxes))
    np.testing.assert_array_equal(as_tensor.numpy(), box.undo(boxes))


@given(SIDES, SIDES)
def test_the_picture_fits_and_touches_two_sides(w, h):
    new_w, new_h = Letterbox(w, h, 416, 320).new_size
    assert 1 <= new_w <= 416 and 1 <= new_h <= 320 and (new_w == 416 or new_h == 320)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_and_emptiness_are_kept(dtype):
    box = Letterbox(20, 10, 64, 64)
    assert box.undo(np.zeros((0, 4), dtype)).dtype == dtype
    assert box.boxes(torch.zeros(2, 3, 4)).shape == (2, 3, 4)


def test_picture_lies_where_its_boxes_say():
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[20:40, 50:150] = 255
    box = Letterbox(200, 100, 416, 416)
    image = box.picture(pixels)
    assert image.shape == (3, 416, 416) and image.dtype == torch.float32 and image.is_contiguous()
    assert (image[:, :104] == 0.5).all() and (image[:, 312:] == 0.5).all()  # (416 - 208)/2 = 104
    ys, xs = torch.nonzero(image[0] > 0.6, as_tuple=True)
    x, y, w, h = box.boxes(np.array([0.5, 0.3, 0.5, 0.2])) * 416
    np.testing.assert_allclose([xs.min(), xs.max() + 1], [x - w / 2, x + w / 2], atol=2)
    np.testing.assert_allclose([ys.min(), ys.max() + 1], [y - h / 2, y + h / 2], atol=2)


@pytest.mark.parametrize("arguments", [(0, 10, 32, 32), (10, 10, 32, 0), (10, 10, 32, 32, "crop")])
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError):
        Letterbox(*arguments)


def test_pictures_of_another_kind_or_size_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        Letterbox(4, 4, 32, 32).picture(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="5x4, announced as 4x5"):
        Letterbox(4, 5, 32, 32).picture(np.zeros((4, 5, 3), np.uint8))


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent")
@pytest.mark.parametrize("width, height", [(104, 104), (160, 96), (96, 160)])
def test_pixels_equal_darknets(width, height):
    case = next(c for c in cases() if c.file == "image/dog.npz")
    key = f"letterbox_{width}" if width == height else f"letterbox_{width}x{height}"
    image = Letterbox(768, 576, width, height).picture(case["image_u8"])
    np.testing.assert_allclose(image, case[key], atol=1e-5)

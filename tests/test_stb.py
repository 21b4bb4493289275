"""JPEGs decoded as Darknet does: from the file of a picture to Darknet's own detections, without a gap."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import yolov2
from tests.golden import DATA, GOLDEN
from yolov2.data import stb
from yolov2.data.dataset import open_upright
from yolov2.errors import UserError
from yolov2.letterbox import network_input

raylib = pytest.importorskip(
    "raylib", reason="NO PROOF FROM PICTURE FILES: it needs raylib, whose decoder is stb_image"
)
LITE, PICTURES = DATA / "yolo-lite", DATA / "darknet" / "data"
real = pytest.mark.skipif(not LITE.is_dir(), reason=f"TRAINED NETWORK ABSENT: {LITE} does not exist")


@pytest.fixture(autouse=True)
def decoder(monkeypatch):
    monkeypatch.setenv("YOLOV2_DECODER", "stb")


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"GOLDEN NUMBERS ABSENT: {GOLDEN} does not exist")
def test_the_bytes_are_those_of_darknet(monkeypatch):
    with np.load(GOLDEN / "image" / "dog.npz") as golden:
        want = golden["image_u8"]
    np.testing.assert_array_equal(open_upright(PICTURES / "dog.jpg"), want)
    monkeypatch.delenv("YOLOV2_DECODER")
    others = np.asarray(open_upright(PICTURES / "dog.jpg")).astype(int)
    assert 0 < np.abs(others - want).max() <= 3  # libjpeg-turbo's


@real
@pytest.mark.parametrize("name", ["dog", "person"])
def test_from_the_picture_file_to_the_detections(name):
    """Letterbox, every layer, decode, suppression, boxes in the picture."""
    with np.load(LITE / "trial3_golden.npz") as archive:
        golden = {key.removeprefix(f"{name}_"): archive[key] for key in archive if key.startswith(name)}
    model = yolov2.load(LITE / "tiny-yolov2-trial3.weights", device="cpu")
    path = PICTURES / f"{name}.jpg"
    picture = open_upright(path)
    images = network_input([picture], 224, 224, model.resize, model.device)
    np.testing.assert_allclose(images[0], golden["input"], atol=1e-6)
    with torch.inference_mode():
        outputs = model.network.layer_outputs(images)
    for index in (9, 10, 11, 12):
        np.testing.assert_allclose(outputs[index].ravel(), golden[f"layer{index}"], atol=1e-4)

    (results,) = model.predict(path, conf=0.24, iou=0.3)
    want = golden["dets"][np.argsort(-golden["dets"][:, 1], kind="stable")]
    width, height = picture.size
    low, high = want[:, 2:4] - want[:, 4:] / 2, want[:, 2:4] + want[:, 4:] / 2
    corners = (np.concatenate([low, high], 1) * [width, height, width, height]).clip(0, [width, height] * 2)
    np.testing.assert_array_equal(results.boxes.cls, want[:, 0])
    np.testing.assert_allclose(results.boxes.conf, want[:, 1], atol=1e-5)
    np.testing.assert_allclose(results.boxes.xyxy, corners, atol=0.01)  # pixels


def test_other_pictures_are_as_ever(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(open_upright(tmp_path / "a.png"), pixels)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=turned)
    assert open_upright(tmp_path / "turned.jpg").size == (9, 12)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.jpg")
    grey = np.asarray(open_upright(tmp_path / "grey.jpg"))
    assert grey.shape == (9, 12, 3) and (grey == grey[..., :1]).all()


def test_damage_and_absence(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(OSError, match=r"a\.jpg"):
        stb.decode_jpeg(path)
    monkeypatch.setitem(sys.modules, "raylib", None)
    with pytest.raises(UserError, match=r'pip install "yolov2\[exact\]"'):
        stb.decode_jpeg(path)


def test_nobody_else_imports_it():
    code = "import sys, yolov2.data.dataset; sys.exit('raylib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""Picture files: every decoder gives the same upright pixels, and none decodes a bomb."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.pictures import photograph
from yolov2.data import pictures
from yolov2.data.dataset import Dataset, Item, cached, open_upright
from yolov2.data.pictures import BROKEN, TURNS, read_pixels, upright_size
from yolov2.errors import UserError

SIMPLEJPEG = pytest.mark.skipif(pictures.simplejpeg() is None, reason="NOT CHECKED: simplejpeg is absent")


def calls_of(monkeypatch, name):
    """Counts what simplejpeg decodes."""
    counted, original = [], getattr(pictures.simplejpeg(), name)
    monkeypatch.setattr(
        pictures.simplejpeg(), name, lambda *args, **named: counted.append(1) or original(*args, **named)
    )
    return counted


@SIMPLEJPEG
def test_simplejpeg_decodes_as_pillow_does(tmp_path, monkeypatch):
    used = calls_of(monkeypatch, "decode_jpeg")
    path, count = tmp_path / "a.jpg", 0
    for size in ((1, 1), (17, 9), (120, 90)):
        for settings in (
            {"quality": 95, "subsampling": 0},
            {"quality": 75, "subsampling": 1},
            {"quality": 30, "subsampling": 2},
            {"progressive": True},
        ):
            Image.fromarray(photograph(*size)).save(path, "JPEG", **settings)
            count += 1
            np.testing.assert_array_equal(read_pixels(path), np.asarray(open_upright(path)))
    assert len(used) == count


@pytest.mark.parametrize("orientation", [1, *TURNS])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_pixels_are_upright(tmp_path, orientation, form):
    path, exif = tmp_path / "a", Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(photograph(30, 20)).save(path, form, exif=exif)
    pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels, np.asarray(open_upright(path)))
    assert pixels.shape[1::-1] == upright_size(path) == ((20, 30) if orientation >= 5 else (30, 20))


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "1", "RGBA", "LA", "I;16", "YCbCr"])
def test_pictures_of_other_kinds(tmp_path, mode):
    picture = Image.fromarray(photograph(30, 20))
    if mode == "I;16":
        picture = Image.fromarray(photograph(30, 20)[..., 0].astype(np.uint16) * 257)
    else:
        picture = picture.convert(mode)
    path = tmp_path / "a"
    picture.save(path, "JPEG" if mode in ("L", "CMYK", "YCbCr") else "PNG")
    pixels = read_pixels(path)
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.asarray(open_upright(path)))


@SIMPLEJPEG
def test_a_bomb_is_not_decoded(tmp_path, monkeypatch):
    used = calls_of(monkeypatch, "decode_jpeg")
    path = tmp_path / "bomb.jpg"
    Image.fromarray(photograph(64, 64)).save(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65000, 65000)
    path.write_bytes(data)
    with pytest.raises(Image.DecompressionBombError):
        read_pixels(path)
    # a second header with another size, which one library might believe and the other not
    good = tmp_path / "good.jpg"
    Image.fromarray(photograph(64, 64)).save(good)
    data = good.read_bytes()
    start = data.index(b"\xff\xc0")
    frame = bytearray(data[start : start + 19])
    frame[5:9] = struct.pack(">HH", 30000, 30000)
    path.write_bytes(data[:start] + bytes(frame) + data[start:])
    with pytest.raises(BROKEN):
        read_pixels(path)
    assert not used


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_damaged_files_are_pillows_to_judge(tmp_path, form):
    path, buffer = tmp_path / "a", io.BytesIO()
    Image.fromarray(photograph(64, 48)).save(buffer, form)
    data = buffer.getvalue()
    rng = np.random.default_rng(zlib.crc32(form.encode()))
    for _ in range(60):
        wrong = bytearray(data[: int(rng.integers(len(data) // 2, len(data) + 1))])
        for place in rng.integers(len(wrong), size=int(rng.integers(3))):
            wrong[place] = int(rng.integers(256))
        path.write_bytes(wrong)
        outcomes = []
        for read in (read_pixels, open_upright):
            try:
                outcomes.append(np.asarray(read(path)))
            except BROKEN as error:
                outcomes.append(type(error))
        got, want = outcomes
        assert np.array_equal(got, want) if isinstance(want, np.ndarray) else got is want
    with pytest.raises(OSError):
        read_pixels(tmp_path / "absent.jpg")


@SIMPLEJPEG
def test_stb_still_wins(tmp_path, monkeypatch):
    pytest.importorskip("raylib")
    used = calls_of(monkeypatch, "decode_jpeg")
    path = tmp_path / "a.jpg"
    Image.fromarray(photograph(120, 90)).save(path)
    monkeypatch.setenv("YOLOV2_DECODER", "stb")
    pixels = read_pixels(path)
    np.testing.assert_array_equal(pixels, np.asarray(open_upright(path)))
    assert not used


def files(folder, count):
    items = []
    for n in range(count):
        path = folder / f"{n}.jpg"
        Image.fromarray(photograph(200, 100, n)).save(path)
        items.append(Item(str(n), 200, 100, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0, bool), path))
    return Dataset(("a",), items)


def test_cache_remembers_and_respects_its_limit(tmp_path):
    data = files(tmp_path, 3)
    remembered = cached(data, max_bytes=2 * 200 * 100 * 3)
    first = [remembered.pixels(i) for i in range(3)]
    assert remembered.bytes == 2 * 200 * 100 * 3  # two of three fit
    for i in range(3):
        np.testing.assert_array_equal(first[i], np.asarray(data.picture(i)))
        data.items[i].path.unlink()
    for i in range(2):
        np.testing.assert_array_equal(np.asarray(remembered.picture(i)), first[i])
    with pytest.raises(UserError, match=r"2\.jpg"):
        remembered.pixels(2)


def test_threads_fill_the_cache_exactly(tmp_path):
    remembered = cached(files(tmp_path, 8), max_bytes=5 * 200 * 100 * 3)

    def read(order):
        for index in order:
            remembered.pixels(index)

    threads = [
        threading.Thread(target=read, args=(np.random.default_rng(n).permutation(8),)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert remembered.bytes == 5 * 200 * 100 * 3

"""python -m yolov2.detect: every readable picture gets a drawing and a record, the others a warning."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.commands import SIDE, assert_refused, command
from yolov2.detect import main, to_records
from yolov2.detector import Found
from yolov2.results import from_found
from yolov2.sources import find_pictures


@pytest.fixture
def flags(small_run, tmp_path):
    """Flags that every call here has: low confidence, so that there is something to draw."""
    weights = ("--weights", small_run / "last.safetensors")
    return (*weights, "--project", tmp_path / "out", "--conf", "0.001", "--device", "cpu")


def picture(path, size=(50, 40), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def found_in(folder):
    return json.loads((folder / "detections.json").read_text())


def test_records_by_hand():
    # centre (.5, .5), half as wide and as high: from 25 to 75 of 100 and from 10 to 30 of 40 pixels;
    # the second reaches from -.1 to .3 and is clipped at 0, from .9 to 1.1 and is clipped at 40
    boxes = np.array([[0.5, 0.5, 0.5, 0.5], [0.1, 1.0, 0.4, 0.2]], np.float32)
    found = Found(boxes, np.array([0.98765, 0.5]), np.array([1, 0]))
    results = from_found(found, np.zeros((40, 100, 3), np.uint8), ("cat", "dog"))
    assert to_records(results) == [
        {"class": "dog", "score": 0.9877, "box": [25.0, 10.0, 75.0, 30.0]},
        {"class": "cat", "score": 0.5, "box": [0.0, 36.0, 30.0, 40.0]},
    ]


def test_a_folder(small_data, flags, tmp_path, capsys):
    assert command(main, small_data / "val", *flags) == 0
    folder = tmp_path / "out" / "detect"
    result = found_in(folder)
    assert [p["picture"] for p in result["pictures"]] == [str(small_data / f"val/val{i}.png") for i in (0, 1)]
    for entry in result["pictures"]:
        assert (entry["width"], entry["height"]) == (SIDE, SIDE)
        with Image.open(folder / entry["drawn"]) as drawn:
            assert drawn.size == (4 * SIDE, 4 * SIDE)  # tiny pictures are enlarged, or no label can be read
        scores = [d["score"] for d in entry["detections"]]
        assert scores == sorted(scores, reverse=True) and len(scores) > 0
        for d in entry["detections"]:
            left, top, right, bottom = d["box"]
            assert d["class"] in ("blue", "red") and 0 <= left <= right <= SIDE and 0 <= top <= bottom <= SIDE
    count = sum(len(p["detections"]) for p in result["pictures"])
    assert f"{count} objects in 2 pictures" in (out := capsys.readouterr().out) and str(folder) in out


def test_nothing_found_is_no_mistake(small_data, flags, tmp_path, capsys):
    assert command(main, small_data / "val", *flags, "--conf", "1", "--no-draw") == 0
    assert "nothing found" in capsys.readouterr().out
    assert [p.name for p in (tmp_path / "out" / "detect").iterdir()] == ["detections.json"]


def test_batch_size_and_company_do_not_matter(small_data, flags, tmp_path):
    for name, batch in (("one", 1), ("all", 16)):
        assert command(main, small_data, *flags, "--name", name, "--batch", batch, "--no-draw") == 0
    one, many = (found_in(tmp_path / "out" / name)["pictures"] for name in ("one", "all"))
    assert len(one) == 8
    for a, b in zip(one, many, strict=True):
        assert [d["class"] for d in a["detections"]] == [d["class"] for d in b["detections"]]
        boxes = [np.array([d["box"] for d in p["detections"]]) for p in (a, b)]
        np.testing.assert_allclose(*boxes, atol=0.11)  # one rounded decimal


def test_every_kind_of_picture(flags, tmp_path):
    folder = tmp_path / "in"
    picture(folder / "wide.jpg", (300, 20))
    picture(folder / "tall.BMP", (7, 90))
    Image.new("L", (30, 30), 99).save(folder / "grey.png")
    Image.new("RGBA", (30, 30), (1, 2, 3, 4)).save(folder / "alpha.webp")
    Image.new("P", (30, 30)).save(folder / "palette.gif")
    Image.new("CMYK", (30, 30)).save(folder / "print.tiff")
    Image.new("I;16", (30, 30)).save(folder / "deep.tif")
    (folder / "notes.txt").write_text("not asked for")
    assert command(main, folder, *flags) == 0
    assert len(found_in(tmp_path / "out" / "detect")["pictures"]) == 7


def test_equal_names_do_not_overwrite_each_other(flags, tmp_path):
    paths = [picture(tmp_path / p) for p in ("a/x-2.png", "a/x.png", "b/x.png", "c/x.jpg")]
    assert command(main, *paths, *flags) == 0
    drawn = [p["drawn"] for p in found_in(tmp_path / "out" / "detect")["pictures"]]
    assert drawn == ["x-2.png", "x.png", "x-3.png", "x-4.png"]


def test_folders_are_searched_in_order(tmp_path):
    paths = [picture(tmp_path / p) for p in ("a/1.png", "a/b/2.JPG", "c.png")]
    assert find_pictures([tmp_path]) == paths
    assert find_pictures([paths[2], tmp_path / "a"]) == [paths[2], *paths[:2]]


def test_broken_ones_among_good_ones(flags, tmp_path, capsys):
    folder = tmp_path / "in"
    picture(folder / "good.jpg")
    torn = picture(folder / "torn.jpg", (200, 200))
    torn.write_bytes(torn.read_bytes()[:-2000])
    (folder / "text.jpg").write_text("hello")
    (folder / "zero.png").write_bytes(b"")
    assert command(main, folder, *flags) == 0
    captured = capsys.readouterr()
    assert captured.err.count("warning:") == 1
    assert "pictures cannot be read and were left out: 3" in captured.err
    assert all(name in captured.err for name in ("torn.jpg", "text.jpg", "zero.png"))
    assert "in 1 pictures" in captured.out
    (entry,) = found_in(tmp_path / "out" / "detect")["pictures"]
    assert entry["picture"] == str(folder / "good.jpg")


class TestRefused:
    def test_missing_path(self, flags, tmp_path, capsys):
        assert_refused(capsys, main, tmp_path / "gone.jpg", *flags, names=(tmp_path / "gone.jpg",))

    def test_empty_folder(self, flags, tmp_path, capsys):
        (tmp_path / "empty").mkdir()
        assert_refused(capsys, main, tmp_path / "empty", *flags, names=(tmp_path / "empty", ".jpg"))

    def test_text_with_a_picture_name(self, flags, tmp_path, capsys):
        (tmp_path / "text.jpg").write_text("hello")
        assert_refused(capsys, main, tmp_path / "text.jpg", *flags, names=("text.jpg", "picture"))
        assert not (tmp_path / "out" / "detect").exists()

    def test_all_broken(self, flags, tmp_path, capsys):
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / name).write_text("hello")
        paths = (tmp_path / "a.jpg", tmp_path / "b.jpg")
        assert_refused(capsys, main, *paths, *flags, names=("all 2 files", "a.jpg"))

    def test_no_source(self, capsys):
        assert_refused(capsys, main, names=("required: SOURCE",))

    def test_project_that_cannot_be_written(self, small_data, flags, tmp_path, capsys):
        (tmp_path / "out").write_text("a file")
        assert_refused(capsys, main, small_data, *flags, names=(tmp_path / "out", "--project"))

    def test_weights_that_are_none(self, small_data, tmp_path, capsys):
        path = tmp_path / "weights.safetensors"
        path.write_bytes(b"\0" * 64)
        assert_refused(capsys, main, small_data, "--weights", path, names=(path,))

    @pytest.mark.parametrize(
        "wrong", [("--conf", "2"), ("--iou", "x"), ("--batch", "0"), ("--max-det", "0"), ("--color", "red")]
    )
    def test_wrong_value(self, capsys, wrong):
        assert_refused(capsys, main, "a.jpg", *wrong, names=(wrong[0],))

    def test_as_a_process(self, tmp_path):
        """What the tests above call in this process is what a shell sees."""
        call = [sys.executable, "-m", "yolov2.detect", str(tmp_path / "gone")]
        result = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"error: {tmp_path / 'gone'}: no such picture, video or folder\n"

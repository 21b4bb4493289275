"""python -m yolov2.detect: every readable picture gets a drawing and a record, the others a warning."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import yolov2
from tests.commands import SIDE, assert_refused, command
from tests.models import TREE, noise, write_darknet
from yolov2.detect import main, to_records
from yolov2.detector import Detector, Found
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


def test_nothing_is_written(small_data, flags, tmp_path, capsys):
    assert command(main, small_data, *flags, "--no-save") == 0
    assert "objects in 8 pictures" in (out := capsys.readouterr().out) and "see" not in out
    assert not (tmp_path / "out").exists()


def test_the_compiler_is_not_loaded_to_find_objects(small_data, flags):
    """Importing it takes as long as all the rest; a process of its own, for this one has."""
    program = (
        "import sys; from yolov2.detect import main; main(sys.argv[1:]); "
        "assert not {'torch._dynamo', 'triton', 'matplotlib', 'onnx'} & set(sys.modules)"
    )
    argv = [sys.executable, "-c", program, small_data / "val", *flags]
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_another_engine(small_data, flags, tmp_path, capsys):
    for name, engine in (("one", "eager"), ("two", "onnxruntime")):
        assert command(main, small_data / "val", *flags, "--engine", engine, "--name", name, "--no-draw") == 0
    one, two = (found_in(tmp_path / "out" / name)["pictures"] for name in ("one", "two"))
    assert [len(p["detections"]) for p in one] == [len(p["detections"]) for p in two]
    options = ("--precision", "int8", "--calibration", small_data, "--no-save")
    assert command(main, small_data / "val", *flags, *options) == 0
    names = ("--precision int8 needs --engine onnxruntime",)
    assert_refused(capsys, main, small_data, *flags, "--engine", "eager", *options, names=names)


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
        "wrong",
        [
            ("--conf", "2"),
            ("--iou", "x"),
            ("--batch", "0"),
            ("--max-det", "0"),
            ("--color", "red"),
            ("--tree-thresh", "1.5"),
            ("--tree-rule", "x"),
        ],
    )
    def test_wrong_value(self, capsys, wrong):
        assert_refused(capsys, main, "a.jpg", *wrong, names=(wrong[0],))

    def test_as_a_process(self, tmp_path):
        """What the tests above call in this process is what a shell sees."""
        call = [sys.executable, "-m", "yolov2.detect", str(tmp_path / "gone")]
        result = subprocess.run(call, capture_output=True, text=True, env=os.environ | {"COLUMNS": "80"})
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == f"error: {tmp_path / 'gone'}: no such picture, video or folder\n"


# ---------------------------------------------------------------- videos, classifiers, Darknet's files


def film(path, frames=6, size=(64, 48), rate=10.0):
    """A video of soft blots."""
    cv2 = pytest.importorskip("cv2", reason='NO PROOF OF VIDEOS: needs opencv, pip install -e ".[test]"')
    fourcc = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
    writer = cv2.VideoWriter(str(path), fourcc, rate, size)
    for number in range(frames):
        writer.write(noise(*size, number)[..., ::-1])
    writer.release()
    return path


def frames_of(path):
    """(number of frames, (width, height), frames per second) of a video that OpenCV can read back."""
    cv2 = pytest.importorskip("cv2")
    capture = cv2.VideoCapture(str(path))
    rate, sizes = capture.get(cv2.CAP_PROP_FPS), []
    while (read := capture.read())[0]:
        sizes.append(read[1].shape[1::-1])
    capture.release()
    assert len(set(sizes)) == 1
    return len(sizes), sizes[0], rate


def lines_of(folder):
    return [json.loads(line) for line in (folder / "detections.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("suffix", [".avi", ".mp4"])
def test_a_video(flags, tmp_path, capsys, suffix):
    path = film(tmp_path / f"film{suffix}", size=(160, 128))
    assert command(main, path, *flags) == 0
    folder = tmp_path / "out" / "detect"
    assert sorted(p.name for p in folder.iterdir()) == ["detections.jsonl", "film.mp4"]
    assert frames_of(folder / "film.mp4") == (6, (160, 128), 10.0)
    entries = lines_of(folder)
    assert len(entries) == 6
    for entry in entries:
        assert (entry["picture"], entry["drawn"]) == (str(path), "film.mp4")
        assert (entry["width"], entry["height"]) == (160, 128) and len(entry["detections"]) > 0
    count = sum(len(entry["detections"]) for entry in entries)
    assert f"{count} objects in 6 pictures" in capsys.readouterr().out


def test_a_video_without_drawing(flags, tmp_path):
    assert command(main, film(tmp_path / "film.avi"), *flags, "--no-draw") == 0
    folder = tmp_path / "out" / "detect"
    assert [p.name for p in folder.iterdir()] == ["detections.jsonl"] and len(lines_of(folder)) == 6
    assert "drawn" not in lines_of(folder)[0]


def test_videos_and_pictures_together(flags, tmp_path):
    """A picture stays a picture; two videos of one name are two."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    sources = [film(tmp_path / "a/x.avi", 3), picture(tmp_path / "x.png"), film(tmp_path / "b/x.avi", 2)]
    assert command(main, *sources, *flags) == 0
    folder = tmp_path / "out" / "detect"
    drawn = [entry["drawn"] for entry in lines_of(folder)]
    assert drawn == ["x.mp4"] * 3 + ["x-2.png"] + ["x-3.mp4"] * 2
    assert (frames_of(folder / "x.mp4")[0], frames_of(folder / "x-3.mp4")[0]) == (3, 2)
    with Image.open(folder / "x-2.png") as file:
        assert file.size == (300, 240)  # enlarged by 6
    assert len(list(folder.iterdir())) == 4


def test_ctrl_c_ends_a_video_well(flags, tmp_path, monkeypatch, capsys):
    """Of a camera there is no other end."""
    made = Detector._result

    def interrupted(self, *args):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return made(self, *args)

    calls = []
    monkeypatch.setattr(Detector, "_result", interrupted)
    assert command(main, film(tmp_path / "film.avi"), *flags) == 130
    folder = tmp_path / "out" / "detect"
    assert len(lines_of(folder)) == frames_of(folder / "film.mp4")[0] == 3
    assert "interrupted" in capsys.readouterr().err


def test_a_broken_video(flags, tmp_path, capsys):
    (tmp_path / "film.mp4").write_text("hello")
    assert_refused(capsys, main, tmp_path / "film.mp4", *flags, names=("film.mp4", "video"))
    assert not (tmp_path / "out" / "detect").exists()


@pytest.mark.parametrize("name", ["softmax", "tree"])
def test_a_classifier(tmp_path, capsys, name):
    weights = write_darknet(tmp_path / "net", name)
    sources = [picture(tmp_path / "one.png"), picture(tmp_path / "two.png", (200, 150))]
    assert command(main, *sources, "--weights", weights, "--project", tmp_path, "--device", "cpu") == 0
    entries = found_in(tmp_path / "detect")["pictures"]
    for entry in entries:
        five = entry["detections"]
        assert len(five) == 5 and all(set(d) == {"class", "score"} for d in five)
        scores = [d["score"] for d in five]
        assert scores == sorted(scores, reverse=True) and 0.1 < sum(scores) < 1.001
        with Image.open(tmp_path / "detect" / entry["drawn"]) as drawn:
            assert drawn.getextrema() != ((0, 0),) * 3
    best = entries[0]["detections"][0]
    out = capsys.readouterr().out
    assert f"one.png: {best['class']} {best['score']:.2f}, " in out
    assert "2 pictures, " in out and "objects" not in out


class TestOnATree:
    @pytest.fixture
    def tree_flags(self, tmp_path):
        weights = ("--weights", write_darknet(tmp_path / "net", "region on a tree"))
        return (*weights, "--project", tmp_path / "out", "--conf", "0.3", "--device", "cpu")

    @pytest.fixture
    def source(self, tmp_path):
        Image.fromarray(noise(300, 260)).save(tmp_path / "noise.png")
        return tmp_path / "noise.png"

    def found(self, tmp_path, source, *flags):
        """Its folder, and the detections on the one picture."""
        before = set((tmp_path / "out").glob("*"))
        assert command(main, source, *flags) == 0
        (folder,) = set((tmp_path / "out").glob("*")) - before
        report = found_in(folder)
        return folder, report["pictures"][0]["detections"]

    def test_paths_are_written_and_drawn(self, tmp_path, source, tree_flags):
        folder, detections = self.found(tmp_path, source, *tree_flags)
        assert len(detections) > 3
        for d in detections:
            names = [node["class"] for node in d["path"]]
            assert names[-1] == d["class"]
            nodes = [TREE.names.index(name) for name in names]
            assert [TREE.parents[n] for n in nodes] == [-1, *nodes[:-1]]
            falling = [node["probability"] for node in d["path"]]
            assert falling == sorted(falling, reverse=True) and 0 < falling[-1] <= falling[0] <= 1
        with Image.open(folder / "noise.png") as drawn:
            assert drawn.width > 300 and drawn.height >= 260
        other, same = self.found(tmp_path, source, *tree_flags, "--no-paths")
        with Image.open(other / "noise.png") as drawn:
            assert drawn.size == (300, 260)
        assert same == detections

    @pytest.mark.parametrize(("threshold", "depth"), [(0, 2), (1, 1)])
    @pytest.mark.parametrize("rule", ["darknet", "paper"])
    def test_how_deep(self, tmp_path, source, tree_flags, threshold, depth, rule):
        flags = (*tree_flags, "--tree-thresh", threshold, "--tree-rule", rule, "--no-draw")
        _, detections = self.found(tmp_path, source, *flags)
        assert {len(d["path"]) for d in detections} == {depth}

    def test_rules(self, tmp_path, source, tree_flags):
        """A tree of two levels: the paper goes down where the leaf is likely, Darknet where it is more so."""
        deep = {}
        for rule in ("paper", "darknet"):
            flags = (*tree_flags, "--iou", 1, "--tree-thresh", 0.3, "--tree-rule", rule, "--no-draw")
            _, detections = self.found(tmp_path, source, *flags)
            likely = [[node["probability"] for node in d["path"]] for d in detections if len(d["path"]) == 2]
            products = [leaf * (1 if rule == "paper" else root) for root, leaf in likely]
            assert min(products) > 0.299
            deep[rule] = len(likely)
        assert 0 < deep["darknet"] < deep["paper"]

    def test_all_frames_of_a_video_are_of_one_size(self, tmp_path, tree_flags):
        path = film(tmp_path / "film.avi", size=(160, 128))
        assert command(main, path, *tree_flags, "--conf", "0.35") == 0
        folder = tmp_path / "out" / "detect"
        counts = [len(entry["detections"]) for entry in lines_of(folder)]
        frames, (width, height), _ = frames_of(folder / "film.mp4")
        assert len(set(counts)) > 1 and frames == len(counts)
        assert width > 480 and height >= 384

    @pytest.mark.parametrize("name", ["region", "grid", "tree"])
    @pytest.mark.parametrize("flag", [("--tree-thresh", 0.4), ("--tree-rule", "paper")])
    def test_nothing_to_descend(self, capsys, tmp_path, source, name, flag):
        weights = write_darknet(tmp_path / "net", name)
        arguments = (source, "--weights", weights, "--device", "cpu", "--project", tmp_path / "out", *flag)
        assert_refused(capsys, main, *arguments, names=(flag[0], weights))
        assert not (tmp_path / "out").exists()


def test_several_sources_of_several_kinds(flags, tmp_path):
    folder = tmp_path / "in"
    paths = [picture(folder / "1.png"), picture(folder / "2.png"), picture(tmp_path / "3.jpg")]
    (tmp_path / "list.txt").write_text("in/2.png\n3.jpg\n")
    sources = [paths[2], folder, tmp_path / "in" / "*.png", tmp_path / "list.txt"]
    assert command(main, *sources, *flags, "--no-draw") == 0
    got = [entry["picture"] for entry in found_in(tmp_path / "out" / "detect")["pictures"]]
    assert got == [str(paths[i]) for i in (2, 0, 1, 0, 1, 1, 2)]


def test_another_size_of_input(tmp_path, capsys):
    weights = write_darknet(tmp_path / "net", "region")
    path = tmp_path / "noise.png"
    Image.fromarray(noise(90, 70)).save(path)
    flags = ("--weights", weights, "--device", "cpu", "--project", tmp_path, "--conf", "0.6", "--no-draw")
    model = yolov2.load(weights, device="cpu")
    for name, imgsz in (("detect", None), ("detect-2", 64), ("detect-3", (64, 32))):
        text = str(imgsz).strip("()").replace(" ", "").lower()
        assert command(main, path, *flags, "--imgsz", text) == 0
        (entry,) = found_in(tmp_path / name)["pictures"]
        (want,) = model.predict(path, conf=0.6, imgsz=imgsz, progress=False)
        assert entry["detections"] == to_records(want) and len(want) > 3
    assert_refused(capsys, main, path, *flags, "--imgsz", "34", names=("--imgsz: 34: layer 7 (Reorg)",))
    assert_refused(capsys, main, path, *flags, "--imgsz", "0", names=("--imgsz: 0 is not",))
    assert_refused(capsys, main, path, *flags, "--imgsz", "32,32,3", names=("--imgsz: one side, or",))
    grid = write_darknet(tmp_path / "grid", "grid")
    options = ("--weights", grid, "--device", "cpu", "--imgsz", "64")
    assert_refused(capsys, main, path, *options, names=("--imgsz: 64, but layer 2 (Local)",))


def test_darknet_files_by_their_flags(tmp_path, capsys):
    weights = write_darknet(tmp_path / "a", "region").rename(tmp_path / "best.weights")
    (tmp_path / "some.names").write_text("ant\nbee\ncat\n")
    path = picture(tmp_path / "noise.png")
    flags = ("--weights", weights, "--device", "cpu", "--project", tmp_path, "--conf", "0.5", "--no-draw")
    assert_refused(capsys, main, path, *flags, names=(weights, "Give its cfg file"))
    flags += ("--cfg", tmp_path / "a" / "net.cfg")
    assert command(main, path, *flags, "--names", tmp_path / "some.names") == 0
    (entry,) = found_in(tmp_path / "detect")["pictures"]
    assert {d["class"] for d in entry["detections"]} <= {"ant", "bee", "cat"} and entry["detections"]
    assert_refused(capsys, main, path, *flags, "--names", weights, names=(weights, "not a list of names"))

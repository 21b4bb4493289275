"""python -m yolov2.anchors on small data sets written here, its figures, and VOC's real boxes."""

import builtins
import re

import numpy as np
import pytest
from PIL import Image

from reference.kmeans import mean_best_iou
from tests.golden import DATA
from yolov2 import plots
from yolov2.anchors import AnchorsConfig, box_cells, main, read_boxes
from yolov2.cli import run
from yolov2.errors import UserError

# Pictures of 100x50 and 50x100 pixels. Boxes (picture, width, height, difficult) in pixels.
PICTURES = [(100, 50), (50, 100)]
BOXES = [(0, 50, 25, 0), (0, 10, 10, 0), (1, 25, 50, 0), (1, 20, 20, 1)]


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "boxes.npz"
    np.savez(
        path,
        image=np.array([(2007, split, w, h) for split, (w, h) in enumerate(PICTURES)], np.int16),
        box_image=np.array([p for p, *_ in BOXES]),
        box_xyxy=np.array([(3, 4, 3 + w, 4 + h) for _, w, h, _ in BOXES], np.int16),
        difficult=np.array([d for *_, d in BOXES], np.int8),
    )
    return path


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "voc"
    (root / "train").mkdir(parents=True)
    for i, size in enumerate(PICTURES):
        Image.new("RGB", size).save(root / "train" / f"{i}.jpg")
        objects = "".join(
            f"<object><name>cell</name><difficult>{d}</difficult><bndbox><xmin>3</xmin><ymin>4</ymin>"
            f"<xmax>{3 + w}</xmax><ymax>{4 + h}</ymax></bndbox></object>"
            for p, w, h, d in BOXES
            if p == i
        )
        (root / "train" / f"{i}.xml").write_text(f"<annotation>{objects}</annotation>")
    return root


def anchors_in(text):
    """The numbers of the line for Darknet's cfg file, as (k, 2)."""
    line = re.search(r"^anchors = (.*)$", text, re.MULTILINE).group(1)
    return np.array([float(n) for n in line.split(",")]).reshape(-1, 2)


def test_box_cells_by_hand():
    fractions, sizes = np.array([[0.5, 0.5], [0.1, 0.2]]), np.array([[100, 50], [50, 100]])
    # Letterboxed, the picture of 100x50 fills 13 x 6.5 cells, and the one of 50x100 fills 6.5 x 13.
    np.testing.assert_allclose(box_cells(fractions, sizes, 13, "letterbox"), [[6.5, 3.25], [0.65, 2.6]])
    np.testing.assert_allclose(box_cells(fractions, sizes, 13, "stretch"), [[6.5, 6.5], [1.3, 2.6]])


def test_npz_and_folder_hold_the_same_boxes(npz, folder):
    expected = [[0.5, 0.5], [0.1, 0.2], [0.5, 0.5]], [[100, 50], [100, 50], [50, 100]]
    for data, split in ((npz, "trainval"), (folder, "train")):
        fractions, sizes = read_boxes(data, split)
        np.testing.assert_allclose(fractions, expected[0], rtol=1e-6)
        np.testing.assert_array_equal(sizes, expected[1])
    assert len(read_boxes(npz, "train")[0]) == 2
    assert len(read_boxes(npz, "val")[0]) == 1, "the difficult box is left out"


def test_prints_darknet_notation(npz, folder, capsys):
    for data, split in ((npz, "trainval"), (folder, "train")):
        assert run(main, ["--data", str(data), "--split", split, "--k", "3"]) == 0
        text = capsys.readouterr().out
        # 13 cells for 100 pixels: (10,10), (25,50), (50,25) pixels
        assert "anchors = 1.3,1.3, " in text
        np.testing.assert_allclose(sorted(anchors_in(text).tolist()), [[1.3, 1.3], [3.25, 6.5], [6.5, 3.25]])
        assert "3 boxes of" in text and "mean IoU      1.0000" in text and "recall at .5  1.0000" in text


def test_input_size_and_stride_set_the_cells(npz, capsys):
    argv = ["--data", str(npz), "--split", "val", "--k", "1", "--imgsz", "320", "--stride", "16"]
    assert run(main, argv) == 0
    # 20 cells for 100 pixels: the box of 25x50 pixels
    np.testing.assert_array_equal(anchors_in(capsys.readouterr().out), [[5, 10]])


def test_range_prints_a_table_and_writes_its_figure(npz, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    figure = tmp_path / "new" / "curve.png"
    assert run(main, ["--data", str(npz), "--split", "trainval", "--k", "1-3", "--plot", str(figure)]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if re.match(r" +\d", line)]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert rows[-1][1:] == ["1.0000", "1.0000"]
    assert Image.open(figure).format == "PNG"


def test_figure_of_the_anchors(npz, tmp_path):
    pytest.importorskip("matplotlib")
    assert run(main, ["--data", str(npz), "--k", "2", "--plot", str(tmp_path / "a.png")]) == 0
    assert Image.open(tmp_path / "a.png").format == "PNG"


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--k", "4"], "4 anchors from 2 different boxes"),
        (["--split", "test"], "no boxes in split test"),
        (["--split", "dog"], "split dog is not one of train, val, test, trainval"),
        (["--data", "absent.npz"], "absent.npz"),
        (["--data", "absent"], "absent"),
    ],
)
def test_user_errors_are_one_line(npz, flags, message, capsys):
    assert run(main, ["--data", str(npz), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut off"])
def test_broken_npz(content, tmp_path):
    path = tmp_path / "broken.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.npz: not an \.npz of boxes"):
        read_boxes(path, "train")


def test_npz_of_something_else(tmp_path):
    np.savez(tmp_path / "other.npz", image=np.zeros((1, 4)))
    with pytest.raises(UserError, match="box_image"):
        read_boxes(tmp_path / "other.npz", "train")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"k": "0"}, "'0' is neither"),
        ({"k": "five"}, "'five' is neither"),
        ({"k": "3-"}, "'3-' is neither"),
        ({"k": "9-1"}, "'9-1' is neither"),
        ({"imgsz": 400}, "400 pixels are not a whole number of cells of 32"),
        ({"stride": 0}, "cells of 0"),
        ({"restarts": 0}, "0 is not a positive number"),
    ],
)
def test_config_refuses(npz, settings, message):
    with pytest.raises(ValueError, match=message):
        AnchorsConfig(npz, **settings)


def write_results(path, rows):
    header = "epoch,step,seen,lr,loss,xy,wh,objectness,noobject,prior,classification,map50,seconds"
    path.write_text("\n".join([header, *rows, ""]))
    return path


def test_training_curves(tmp_path):
    pytest.importorskip("matplotlib")
    rows = ["1,10,640,0.001,9,1,2,3,1,1,1,,5.5", "2,20,1280,0.001,4,1,1,1,.5,0,.5,0.31,5.4"]
    plots.training_curves(write_results(tmp_path / "results.csv", rows), tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").format == "PNG"
    with pytest.raises(UserError, match="no rows"):
        plots.training_curves(write_results(tmp_path / "results.csv", []), tmp_path / "none.png")
    (tmp_path / "results.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(UserError, match="columns lr, map50"):
        plots.training_curves(tmp_path / "results.csv", tmp_path / "none.png")


def test_precision_recall_curves(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    curve = np.array([0.5, 1.0]), np.array([1.0, 0.8])
    empty = np.zeros(0), np.zeros(0)
    out = tmp_path / "pr.png"
    plots.precision_recall_curves({"dog": curve, "cat": empty}, {"dog": 0.9, "cat": 0.0}, out)
    assert Image.open(out).format == "PNG"
    with pytest.raises(UserError, match=r"pr\.xyz: .*not supported"):
        plots.precision_recall_curves({"dog": curve}, {"dog": 0.9}, out.with_suffix(".xyz"))
    plots.precision_recall_curves({}, {}, tmp_path / "none.png")
    assert "no truth to find" in capsys.readouterr().err and not (tmp_path / "none.png").exists()


def test_without_matplotlib_the_figure_is_left_out(npz, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert run(main, ["--data", str(npz), "--k", "1", "--plot", str(tmp_path / "a.png")]) == 0
    assert "matplotlib is missing" in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()


VOC = DATA / "voc0712_boxes.npz"


@pytest.mark.skipif(not VOC.exists(), reason=f"VOC's boxes are absent: {VOC}")
def test_voc(capsys):
    assert run(main, ["--data", str(VOC), "--split", "trainval", "--k", "5", "--restarts", "3"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("40058 boxes of")
    mean_iou = float(re.search(r"mean IoU +(\S+)", text).group(1))
    assert mean_iou >= 0.612
    # Six digits are printed, and the anchors that were printed are as good.
    wh = box_cells(*read_boxes(VOC, "trainval"), grid=13, resize="letterbox")
    assert mean_best_iou(wh, anchors_in(text)) == pytest.approx(mean_iou, abs=1e-4)

"""python -m benchmarks.anchors: anchors made by hand, what is written, and the published numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import anchors
from reference.kmeans import mean_best_iou
from yolov2.anchors import read_boxes
from yolov2.cli import run

ROOT = Path(__file__).parents[1]
QUICK = ["--seeds", "0,1", "--restarts", "1", "--largest", "3"]


def save(path, years):
    """Boxes of random shapes in a picture of 500x375 pixels of each year; every fifth is difficult."""
    corners = np.zeros((60, 4), np.int16)
    corners[:, 2:] = np.random.default_rng(0).integers(20, 370, (60, 2))
    np.savez(
        path,
        image=np.array([(year, 0, 500, 375) for year in years], np.int16),
        box_image=np.arange(60) % len(years),
        box_xyxy=corners,
        difficult=(np.arange(60) % 5 == 4).astype(np.int8),
    )
    return path


def test_anchors_of_faster_rcnn_by_hand():
    w, h = anchors.hand_made().T
    np.testing.assert_allclose(np.sqrt(w * h), np.repeat([128, 256, 512], 3))
    np.testing.assert_allclose(w / h, [0.5, 1, 2] * 3)
    # 500x375 becomes 800x600; 1000x300 would be 2000x600, but 1,000 is the most
    sizes = np.array([[500, 375], [375, 500], [1000, 300]])
    got = anchors.in_pixels(np.array([[0.5, 1.0]] * 3), sizes)
    np.testing.assert_allclose(got, [[400, 600], [300, 800], [500, 300]])


def test_what_is_written_is_what_was_measured(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: no figures are drawn")
    boxes = save(tmp_path / "boxes.npz", [2007, 2012])
    out = tmp_path / "out"
    assert run(anchors.main, ["--boxes", str(boxes), "--out", str(out), *QUICK]) == 0
    text = capsys.readouterr().out
    (file,) = out.glob("anchors-*.json")
    results = json.loads(file.read_text())
    assert str(boxes) in results["command"] and results["environment"]["date"][:10] in file.name
    assert results["protocol"]["boxes"] == "48 of boxes.npz, trainval, without difficult ones"
    assert results["curve"]["k"] == [1, 2, 3]
    for row, generation in zip(results["table"], anchors.TABLE, strict=True):
        assert len(row["seeds"]) == (1 if row["method"] == "hand" else 2)
        assert f"{row['paper']:.3f}  {row['here']:.3f}" in text and row["paper"] == generation.paper
        assert min(row["others"].values()) > 0 and row["others"].keys() == {"stretched", "only 2007"}
    fractions, sizes = read_boxes(boxes, "train")
    (by_hand,) = results["table"][2]["seeds"]
    assert by_hand == mean_best_iou(fractions * sizes * 1.6, anchors.hand_made())
    with Image.open(out / "anchors.png") as figure:
        assert figure.width > 500


def test_one_year_is_what_a_file_of_its_boxes_would_be(tmp_path):
    both = save(tmp_path / "both.npz", [2007, 2012])
    fractions, _ = anchors.of_year(both, 2007, "train")
    rows = [i for i in range(0, 60, 2) if i % 5 != 4]  # every other box is of the first picture
    with np.load(both) as archive:
        np.testing.assert_array_equal(fractions, archive["box_xyxy"][rows, 2:] / np.array([500, 375]))
    for years in ([2012, 2012], [2007, 2007]):
        assert anchors.of_year(save(tmp_path / "one.npz", years), 2007, "train") is None


def test_data_sets_of_other_formats(tmp_path, capsys):
    for kind in ("images", "labels"):
        (tmp_path / kind / "train").mkdir(parents=True)
    for i in range(5):
        Image.new("RGB", (100, 50)).save(tmp_path / f"images/train/{i}.png")
        rows = [f"0 0.5 0.5 {0.1 * (i + 1):.2f} {w:.2f}" for w in (0.2, 0.4, 0.9)]
        (tmp_path / f"labels/train/{i}.txt").write_text("\n".join(rows))
    (tmp_path / "classes.txt").write_text("thing")
    out = tmp_path / "out"
    assert run(anchors.main, ["--data", str(tmp_path), "--out", str(out), *QUICK]) == 0
    assert "15 of " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "one of --boxes and --data"),
        (["--boxes", "a.npz", "--data", "b"], "one of --boxes and --data"),
        (["--boxes", "a.npz", "--seeds", ""], "at least one"),
    ],
)
def test_refuses(flags, message, capsys):
    with pytest.raises(SystemExit):
        anchors.main(flags)
    assert message in capsys.readouterr().err


def test_too_few_shapes_are_the_users_mistake(tmp_path, capsys):
    np.savez(
        tmp_path / "few.npz",
        image=np.array([(2012, 0, 500, 375)]),
        box_image=np.zeros(5, int),
        box_xyxy=np.array([(0, 0, 10 + i, 20) for i in range(5)]),
        difficult=np.zeros(5, int),
    )
    assert run(anchors.main, ["--boxes", str(tmp_path / "few.npz"), "--out", str(tmp_path), *QUICK]) == 2
    assert "few.npz: k: 9 anchors from 5 different boxes" in capsys.readouterr().err


def test_boxes_that_are_not_there(tmp_path, capsys):
    assert run(anchors.main, ["--boxes", str(tmp_path / "no.npz"), "--out", str(tmp_path)]) == 2
    assert "no.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "file", sorted((ROOT / "benchmarks/results").glob("anchors-*.json")), ids=lambda p: p.name
)
def test_published_numbers_are_near_the_papers(file):
    """Five by IoU are better than five by squared error and as good as nine by hand."""
    results = json.loads(file.read_text())
    here = {(row["method"], row["anchors"]): row["here"] for row in results["table"]}
    assert 0.58 <= here["iou", 5] <= 0.63
    assert 0.65 <= here["iou", 9] <= 0.69
    assert here["sse", 5] < here["iou", 5]
    assert abs(here["iou", 5] - here["hand", 9]) <= 0.02
    assert results["environment"]["commit"] and results["protocol"]["seeds"]
    assert results["curve"]["k"] == list(range(1, 16))
    for method in ("iou", "sse"):
        of_curve = dict(zip(results["curve"]["k"], results["curve"][method], strict=True))
        rows = [row for row in results["table"] if row["method"] == method]
        assert all(of_curve[row["anchors"]] == row["seeds"][0] for row in rows)

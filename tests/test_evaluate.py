"""python -m yolov2.evaluate: the numbers are those of the data, whoever asks, and mistakes are one line."""

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from reference.average_precision import Matches
from tests.commands import TINY, add_picture, annotation, assert_refused, command, make_voc
from tests.test_detections import noisy
from yolov2 import train
from yolov2.data.sources import open_dataset
from yolov2.detector import Detector, Found
from yolov2.errors import Complaints, UserError
from yolov2.evaluate import main
from yolov2.evaluation import (
    best_f1,
    compare,
    detect_all,
    detection_table,
    evaluate,
    merge_shards,
    truth_table,
)


def oracle(dataset, change=lambda boxes, scores, classes: (boxes, scores, classes)):
    """A detector that knows the truths, and what `change` makes of them."""

    def stream(pictures, batch, **_):
        for picture, item in zip(pictures, dataset.items, strict=True):
            found = change(item.boxes, np.ones(len(item.boxes), np.float32), item.classes)
            yield picture, Found(*found)

    return SimpleNamespace(names=dataset.names, imgsz=(64, 96), resize="letterbox", stream=stream)


class TestNumbers:
    @pytest.fixture
    def dataset(self, small_data):
        return open_dataset(small_data, "train")

    def test_truths_found_exactly(self, dataset):
        result = evaluate(oracle(dataset), dataset)
        assert result.map50 == 1 and result.precision.per_class.tolist() == [1, 1]
        assert len(result.found) == 6

    def test_nothing_found(self, dataset):
        result = evaluate(oracle(dataset, lambda b, s, c: (b[:0], s[:0], c[:0])), dataset)
        assert result.map50 == 0

    def test_right_boxes_of_the_wrong_class(self, dataset):
        assert evaluate(oracle(dataset, lambda b, s, c: (b, s, 1 - c)), dataset).map50 == 0

    def test_one_class_of_two(self, dataset):
        result = evaluate(oracle(dataset, lambda b, s, c: (b[c == 1], s[c == 1], c[c == 1])), dataset)
        assert result.precision.per_class.tolist() == [0, 1] and result.map50 == 0.5
        assert result.table().split() == [
            *("class", "truths", "difficult", "found", "AP", "F1", "conf", "precision", "recall"),
            *("blue", "3", "0", "0", "0.000", "-", "-", "-", "-"),
            *("red", "3", "0", "3", "1.000", "1.000", "0.500", "1.000", "1.000"),
            *("mean", "6", "0", "3", "0.500"),
        ]
        assert result.headline() == (
            "mAP@.5 0.5000 (VOC all-point, continuous overlap, mean of 2 classes, "
            "96x64 letterbox, conf .005, NMS .45, at most 300 a picture)"
        )
        several = evaluate(oracle(dataset), dataset, conf=0, threshold=[0.5, 0.75], method="voc11")
        assert several.headline().startswith("mAP@[.5:.75] 1.0000 (VOC 11-point, ")
        assert "conf 0, " in several.headline()

    def test_tables(self, dataset):
        truths = truth_table(dataset.items)
        assert truths.picture.tolist() == [0, 1, 2, 3, 4, 5] and truths.boxes.shape == (6, 4)
        found = [
            Found(np.ones((n, 4), np.float32), np.ones(n, np.float32), np.zeros(n, int)) for n in (2, 0, 1)
        ]
        assert detection_table(found).picture.tolist() == [0, 0, 2]
        assert detection_table([]).boxes.shape == truth_table([]).boxes.shape == (0, 4)

    def test_class_without_truths_has_no_precision(self, dataset):
        kept = [item for item in dataset.items if item.classes[0] == 1]
        some = type(dataset)(dataset.names, kept)
        result = evaluate(oracle(some), some)
        table = result.table()
        assert result.map50 == 1 and re.search(r"^blue +0 +0 +0 +- +- +- +- +-$", table, re.MULTILINE)

    def test_difficult_truths_neither_count_nor_punish(self, tmp_path):
        """From the .xml to the number: one picture with two red boxes, the second one difficult."""
        boxes = [(4, 4, 28, 28), (34, 34, 60, 60)]
        for split in ("train", "val"):
            path = add_picture(tmp_path / split, "two", [("red", box) for box in boxes])
            first, second = annotation([("red", box) for box in boxes]).rsplit("<object>", 1)
            path.with_suffix(".xml").write_text(f"{first}<object><difficult>1</difficult>{second}")
        data = open_dataset(tmp_path, "val")
        assert data.items[0].difficult.tolist() == [False, True]
        # surer of the difficult one: AP is that of the other alone, whether or not the difficult is found
        for found in ([0], [1, 0]):
            scores = np.linspace(0.9, 0.5, len(found), dtype=np.float32)
            result = evaluate(oracle(data, lambda b, s, c, f=found, p=scores: (b[f], p, c[f])), data)
            assert result.map50 == 1 and result.precision.truths.tolist() == [1]
            assert result.classes[0][1:4] == (1, 1, len(found)) and result.classes[0].best.f1 == 1
        # a wrong box above the right one does punish: precision 1/2 at recall 1
        wrong = oracle(
            data, lambda b, s, c: (b[[1, 1, 0]] * [[1], [0.1], [1]], np.r_[0.9, 0.8, 0.7], c[[0, 0, 0]])
        )
        assert evaluate(wrong, data).map50 == 0.5

    def test_classes_asked_for(self, dataset):
        """Red boxes are found, blue ones are not; the order is that of the question."""
        half = oracle(dataset, lambda b, s, c: (b[c == 1], s[c == 1], c[c == 1]))
        for classes, names, want in (
            (["red"], ("red",), [1]),
            (["red", "blue", "red"], ("red", "blue"), [1, 0]),
        ):
            result = evaluate(half, dataset, classes=classes)
            assert result.names == names and result.precision.per_class.tolist() == want
            assert result.map50 == np.mean(want) and result.precision.truths.tolist() == [3] * len(want)
        assert result.found_names == ("blue", "red")
        with pytest.raises(UserError, match="--classes: no cat, dog among 2: blue, red"):
            evaluate(half, dataset, classes=["cat", "red", "dog"])

    def test_data_with_some_of_the_detectors_classes(self, dataset):
        """Numbers are the detector's in what it finds, the data's in the truths."""
        knows = oracle(dataset, lambda b, s, c: (b, s, np.array([3, 1])[c]))
        knows.names = ("anchor", "red", "dragon", "blue")
        result = evaluate(knows, dataset)
        np.testing.assert_array_equal(result.precision.per_class, [np.nan, 1, np.nan, 1])
        assert result.names == knows.names and result.map50 == 1
        assert evaluate(knows, dataset, classes=["blue"]).map50 == 1

    def test_inclusive_overlap_is_one_pixel_more(self, dataset):
        """Moved by d, a box of 24 pixels shares 24 - d of 24 + d, which is half at 8; one of 25 at 8.33."""
        for d, continuous, inclusive in ((7.9, 1, 1), (8.2, 0, 1), (8.5, 0, 0)):
            right = np.array([d / 64, 0, 0, 0], np.float32)
            moved = oracle(dataset, lambda b, s, c, right=right: (b + right, s, c))
            assert evaluate(moved, dataset).map50 == continuous
            assert evaluate(moved, dataset, overlap="inclusive").map50 == inclusive

    def test_other_names(self, dataset):
        other = type(dataset)(("cat",), dataset.items)
        with pytest.raises(UserError, match=r"the weights know 2 classes \(blue, red\), the data 1 \(cat\)"):
            evaluate(oracle(dataset), other)


class TestBestF1:
    def test_by_hand(self):
        """Hit, miss, hit, miss of 3 truths: F1 is 2/4, 2/5, 4/6, 4/7."""
        matches = Matches(np.array([0.9, 0.8, 0.6, 0.2]), np.array([1, 0, 1, 0], bool), 3)
        assert best_f1(matches) == pytest.approx((2 / 3, 0.4, 2 / 3, 2 / 3))

    def test_equal_scores_stand_or_fall_together(self):
        matches = Matches(np.array([0.5, 0.5, 0.5]), np.array([1, 0, 0], bool), 1)
        assert best_f1(matches) == pytest.approx((1 / 2, 0.25, 1 / 3, 1))

    def test_nothing_right(self):
        assert best_f1(Matches(np.array([0.5]), np.array([False]), 2)) is None
        assert best_f1(Matches(np.zeros(0), np.zeros(0, bool), 2)) is None

    def test_the_threshold_gives_these_numbers(self, small_data):
        """As --conf it leaves exactly the detections that were counted."""
        dataset = open_dataset(small_data, "train")
        found = noisy(dataset)
        for row in compare(dataset, found, dataset.names).classes:
            conf = round(row.best.conf, 3)
            kept = [Found(*(column[f.scores > conf] for column in f[:3])) for f in found]
            again = compare(dataset, kept, dataset.names, classes=[row.name])
            assert again.matches(0).hit.mean() == pytest.approx(row.best.precision)
            assert again.matches(0).hit.sum() / row.truths == pytest.approx(row.best.recall)


class TestShards:
    """Processes that share the pictures find what one would."""

    @pytest.mark.parametrize("world", [1, 2, 4, 7])
    def test_any_number_of_processes(self, small_data, world):
        dataset = open_dataset(small_data, "train")
        whole = dict(zip((item.id for item in dataset.items), noisy(dataset), strict=True))

        def stream(pictures, batch, *, items, **_):
            yield from zip(pictures, (whole[item.id] for item in items), strict=True)

        shards = []
        for rank in range(world):  # with seven there is one without pictures
            share = replace(dataset, items=dataset.items[rank::world])
            detector = oracle(dataset)
            detector.stream = partial(stream, items=share.items)
            shards.append(detect_all(detector, share))
        merged = compare(dataset, merge_shards(shards), dataset.names)
        alone = compare(dataset, list(whole.values()), dataset.names)
        assert merged.table() == alone.table() and 0 < merged.map50 < 1
        assert merged.precision.per_class.tolist() == alone.precision.per_class.tolist()

    def test_a_network(self, small_data, small_run):
        """Batches of other sizes: the same but for rounding."""
        dataset, detector = open_dataset(small_data, "train"), Detector.load(small_run / "best.safetensors")
        shares = [replace(dataset, items=dataset.items[rank::4]) for rank in range(4)]
        merged = merge_shards([detect_all(detector, share, batch=2, conf=0) for share in shares])
        for one, other in zip(merged, detect_all(detector, dataset, conf=0), strict=True):
            assert len(one.scores) == len(other.scores)
            np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), rtol=1e-4)

    def test_unreadable_pictures_keep_their_place(self, small_data, tmp_path):
        shutil.copytree(small_data, tmp_path / "data")
        dataset = open_dataset(tmp_path / "data", "train")
        broken = dataset.items[2].path
        broken.write_bytes(broken.read_bytes()[:100])
        complaints = Complaints()
        detector = oracle(dataset)
        detector.stream = lambda pictures, batch, **_: ((picture, noisy(dataset)[0]) for picture in pictures)
        found = detect_all(detector, dataset, complaints=complaints)
        assert [f is None for f in found] == [False, False, True, False, False, False]
        assert complaints.counts == {"unreadable pictures left out": 1}
        assert len(compare(dataset, found, dataset.names).items) == 5
        with pytest.raises(UserError, match=re.escape(str(broken))):
            detect_all(detector, dataset)
        with pytest.raises(UserError, match="none of the 6 pictures"):
            compare(dataset, [None] * 6, dataset.names)

    def test_no_such_parts(self):
        with pytest.raises(ValueError, match="shards of 1, 2 items"):
            merge_shards([[None], [None, None]])


def test_coco_in_pixels_of_the_picture(small_data):
    """Boxes of 24 x 30 are small, whatever size the network sees."""
    dataset = open_dataset(small_data, "train")
    result = evaluate(oracle(dataset), dataset, method="coco")
    numbers = result.coco.summary()
    assert (result.map50, numbers["AP"], numbers["APs"]) == (1, 1, 1) and np.isnan(numbers["APm"])
    assert result.headline().startswith("AP@[.5:.95] 1.0000, mAP@.5 1.0000 (COCO 101-point")
    assert re.search(r"^blue +3 +0 +3 +1.000 +1.000 +1.000 +0.500 +1.000 +1.000$", result.table(), re.M)
    assert re.search(r"^AR  \.5:\.95  small +100  1\.0000\n.*medium +100 +-\n", result.coco_table(), re.M)
    # with detections that COCO's matching gives to the next truth, the curve is COCO's too
    twice = oracle(dataset, lambda b, s, c: (b.repeat(2, 0), np.float32([0.9, 0.8]), c.repeat(2)))
    items = [
        replace(i, boxes=i.boxes.repeat(2, 0), classes=i.classes.repeat(2), difficult=np.zeros(2, bool))
        for i in dataset.items
    ]
    crowded = replace(dataset, items=items)
    assert evaluate(twice, crowded, method="coco").matches(0).hit.all()
    assert not evaluate(twice, crowded).matches(0).hit.all()
    with pytest.raises(ValueError, match="own thresholds"):
        compare(dataset, noisy(dataset), dataset.names, "coco", overlap="inclusive")


class TestCommand:
    def test_repeats_what_training_reported(self, small_data, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert command(train.main, "--data", small_data, *TINY) == 0
        reported = capsys.readouterr().out
        assert command(main) == 0  # newest run, its data, val
        out = capsys.readouterr().out
        for start in ("blue", "red", "mean", "mAP@.5"):
            line = re.search(rf"^{start} .*$", reported, re.MULTILINE)[0]
            assert line in out.splitlines()
        assert str(small_data) in out

    def test_json(self, small_run, tmp_path):
        path = tmp_path / "new" / "numbers.json"
        assert command(main, "--weights", small_run / "best.safetensors", "--json", path) == 0
        numbers = json.loads(path.read_text())
        assert numbers["method"] == "voc_all" and numbers["overlap"] == "continuous"
        assert set(numbers["per_class"]) == {"blue", "red"} and 0 <= numbers["map50"] <= 1

    def test_json_has_no_nan(self, small_run, tmp_path):
        data, path = make_voc(tmp_path / "data"), tmp_path / "numbers.json"
        for xml in (data / "val").glob("*.xml"):
            xml.write_text(annotation([]))
        flags = ("--data", data, "--json", path, "--plot", tmp_path / "none.png")
        assert command(main, "--weights", small_run / "best.safetensors", *flags) == 0
        numbers = json.loads(path.read_text())
        assert numbers["map50"] is None and numbers["per_class"] == {"blue": None, "red": None}

    def test_plot(self, small_run, tmp_path):
        pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: no curves are drawn")
        path = tmp_path / "new" / "curves.png"
        assert command(main, "--weights", small_run / "best.safetensors", "--plot", path) == 0
        with Image.open(path) as curves:
            assert min(curves.size) > 100

    def test_from_another_folder(self, small_data, tmp_path, capsys, monkeypatch):
        """A run on a relative --data is evaluated and resumed wherever one stands."""
        shutil.copytree(small_data, tmp_path / "home" / "data")
        monkeypatch.chdir(tmp_path / "home")
        assert command(train.main, "--data", "data", *TINY, "--epochs", "1") == 0
        run = tmp_path / "home" / "runs" / "train"
        monkeypatch.chdir(tmp_path)
        assert command(main, "--weights", run / "best.safetensors") == 0
        assert str(tmp_path / "home" / "data") in capsys.readouterr().out
        assert command(train.main, "--resume", run, "--epochs", "2") == 0
        (tmp_path / "home" / "data").rename(tmp_path / "moved")
        names = (tmp_path / "home" / "data", "no such folder", "give --data")
        assert_refused(capsys, main, "--weights", run / "best.safetensors", names=names)
        assert_refused(capsys, train.main, "--resume", run, names=names)
        assert command(main, "--weights", run / "best.safetensors", "--data", tmp_path / "moved") == 0

    def test_data_are_read_as_in_training(self, small_data, tmp_path, capsys, monkeypatch):
        """A folder that is VOC's and YOLO's, where the latter has two boxes in every picture."""
        monkeypatch.chdir(tmp_path)
        shutil.copytree(small_data, tmp_path / "data")
        (tmp_path / "data" / "data.yaml").write_text("train: train\nval: val\nnames: [blue, red]\n")
        for picture in (tmp_path / "data").rglob("*.png"):
            picture.with_suffix(".txt").write_text("0 0.3 0.3 0.4 0.4\n1 0.6 0.6 0.4 0.4\n")
        assert command(train.main, "--data", "data", *TINY, "--epochs", "1", "--format", "yolo") == 0
        capsys.readouterr()
        assert command(main) == 0
        captured = capsys.readouterr()
        assert re.search(r"^mean +4 ", captured.out, re.MULTILINE) and "see --format" not in captured.err
        assert command(main, "--format", "voc") == 0
        assert re.search(r"^mean +2 ", capsys.readouterr().out, re.MULTILINE)

    def test_another_split_and_method(self, small_run, capsys):
        flags = ("--weights", small_run / "best.safetensors", "--split", "train", "--method", "coco101")
        assert command(main, *flags, "--batch", "4") == 0
        out = capsys.readouterr().out
        assert "on 6 pictures" in out and "101-point, VOC matching" in out

    def test_an_engine_gives_the_same_numbers(self, small_run, tmp_path):
        for name, flags in (("own", ()), ("eager", ("--engine", "eager"))):
            numbers = tmp_path / f"{name}.json"
            assert command(main, "--weights", small_run / "best.safetensors", *flags, "--json", numbers) == 0
        own, eager = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("own", "eager"))
        assert eager["map50"] == pytest.approx(own["map50"], abs=1e-6)

    def test_a_precision_needs_an_engine(self, small_run, capsys):
        flags = ("--weights", small_run / "best.safetensors", "--precision", "bfloat16")
        assert_refused(capsys, main, *flags, names=("--precision is of an engine; add --engine auto",))

    def test_some_classes(self, small_run, tmp_path, capsys):
        path = tmp_path / "numbers.json"
        flags = ("--weights", small_run / "best.safetensors", "--json", path)
        assert command(main, *flags) == 0
        both = json.loads(path.read_text())
        assert command(main, *flags, "--classes", "red") == 0
        numbers, out = json.loads(path.read_text()), capsys.readouterr().out
        assert numbers["per_class"] == {"red": both["per_class"]["red"]}
        assert numbers["map50"] == both["per_class"]["red"]
        line = r"^mAP@\.5 0\.\d{4} \(VOC all-point, continuous overlap, mean of 1 class, 64x64 letterbox, "
        assert re.search(line, out, re.MULTILINE)

    def test_everything_into_a_folder(self, small_run, tmp_path, capsys):
        pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: no figures are drawn")
        out, elsewhere = tmp_path / "new" / "out", tmp_path / "numbers.json"
        flags = ("--weights", small_run / "best.safetensors", "--imgsz", "96,64", "--conf", "0.001")
        assert command(main, *flags, "--sure", "0.01", "--out", out, "--json", elsewhere) == 0
        said, numbers = capsys.readouterr().out, json.loads(elsewhere.read_text())
        names = {"precision_recall.png", "confusion.png", "worst.png"}
        assert {p.name for p in out.iterdir()} == names | {"coco_results.json", "coco_results.truths.json"}
        for name in names:
            with Image.open(out / name) as figure:
                assert min(figure.size) > 100
        settings = {
            "width": 64,
            "height": 96,
            "resize": "letterbox",
            "conf": 0.001,
            "iou": 0.45,
            "max_det": 300,
        }
        assert numbers["settings"] == settings and numbers["pictures"] == 2
        assert "64x96 letterbox, conf .001, NMS .45" in said and numbers["metric"] in said
        assert [row["name"] for row in numbers["classes"]] == ["blue", "red"]
        counts = np.array(numbers["confusion"]["counts"])
        assert counts[:2].sum() == 2 and "truths downwards\ntruth" in said

    def test_no_mistake_to_draw(self, small_run, tmp_path, capsys):
        flags = ("--weights", small_run / "best.safetensors", "--worst", tmp_path / "worst.png")
        data = make_voc(tmp_path / "data")
        for xml in (data / "val").glob("*.xml"):
            xml.write_text(annotation([]))
        assert command(main, *flags, "--data", data, "--sure", "1") == 0
        assert "no mistake in any picture" in capsys.readouterr().out
        assert not (tmp_path / "worst.png").exists()

    def test_held_out_pictures_are_those_of_training(self, small_run, tmp_path, capsys):
        make_voc(tmp_path / "data", train=11, val=0)
        assert command(main, "--weights", small_run / "best.safetensors", "--data", tmp_path / "data") == 0
        captured = capsys.readouterr()
        assert "on 2 pictures" in captured.out and "every tenth" in captured.err

    def test_truncated_picture_is_left_out(self, small_data, small_run, tmp_path, capsys):
        shutil.copytree(small_data, tmp_path / "data")
        picture = add_picture(tmp_path / "data" / "val", "torn", [("red", (5, 5, 40, 40))], ".jpg")
        picture.write_bytes(picture.read_bytes()[:-500])
        assert command(main, "--weights", small_run / "best.safetensors", "--data", tmp_path / "data") == 0
        captured = capsys.readouterr()
        assert f"warning: unreadable pictures left out: 1 ({picture})" in captured.err
        assert re.search(r"^mean +2 ", captured.out, re.MULTILINE)  # nor do its truths count


class TestRefused:
    def flags(self, run, *more):
        return ("--weights", run / "best.safetensors", *more)

    def test_unknown_class(self, small_run, tmp_path, capsys):
        data = make_voc(tmp_path / "data")
        (data / "val" / "val0.xml").write_text(annotation([("dragon", (1, 1, 30, 30))]))
        names = ("val0.xml", "'dragon'", "(blue, red)")
        assert_refused(capsys, main, *self.flags(small_run, "--data", data), names=names)

    def test_weights_of_other_classes(self, small_run, capsys, monkeypatch):
        """Trained on a folder, evaluated on the built-in pictures."""
        monkeypatch.setattr("yolov2.evaluate.open_dataset", lambda *_: open_dataset(None, "val"))
        monkeypatch.setattr("yolov2.data.sources.SHAPES_COUNT", {"val": 2})
        line = assert_refused(capsys, main, *self.flags(small_run), names=("(blue, red)",))
        assert "same classes" in line

    def test_missing_data(self, small_run, tmp_path, capsys):
        gone = tmp_path / "gone"
        assert_refused(capsys, main, *self.flags(small_run, "--data", gone), names=(gone, "--data"))

    def test_missing_split(self, small_run, capsys):
        assert_refused(
            capsys, main, *self.flags(small_run, "--split", "tset"), names=("'tset'", "train, val")
        )

    def test_all_pictures_truncated(self, small_data, small_run, tmp_path, capsys):
        shutil.copytree(small_data, tmp_path / "data")
        for picture in (tmp_path / "data" / "val").glob("*.png"):
            picture.write_bytes(picture.read_bytes()[:200])
        flags = self.flags(small_run, "--data", tmp_path / "data")
        assert_refused(capsys, main, *flags, names=("none of the 2 pictures", "val0.png"))

    def test_unknown_class_asked_for(self, small_run, capsys):
        flags = self.flags(small_run, "--classes", "red,green")
        assert_refused(capsys, main, *flags, names=("--classes", "no green", "blue, red"))

    def test_no_run_yet(self, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert_refused(capsys, main, names=("runs", "--weights"))

    def test_missing_weights(self, tmp_path, capsys):
        assert_refused(
            capsys, main, "--weights", tmp_path / "no.safetensors", names=("no.safetensors", "train")
        )

    @pytest.mark.parametrize(
        "flags",
        [
            *(("--conf", "2"), ("--conf", "nan"), ("--iou", "-0.1"), ("--method", "best")),
            *(("--classes", ""), ("--overlap", "some")),
            *(("--imgsz", "0"), ("--imgsz", "64,64,64"), ("--sure", "1.5"), ("--format", "xml")),
            *(("--batch", "0"), ("--batch", "9" * 30), ("--max-det", "0"), ("--max-det", "9" * 30)),
        ],
    )
    def test_wrong_value(self, capsys, flags):
        assert_refused(capsys, main, *flags, names=(flags[0],))

    def test_nothing_is_made_before_the_data_are_opened(self, small_run, tmp_path, capsys):
        flags = ("--data", tmp_path / "gone", "--json", tmp_path / "new" / "numbers.json")
        assert_refused(capsys, main, *self.flags(small_run, *flags), names=(tmp_path / "gone",))
        assert not (tmp_path / "new").exists()

    def test_size_that_the_network_cannot_take(self, small_run, capsys):
        assert_refused(capsys, main, *self.flags(small_run, "--imgsz", "100"), names=("imgsz: 100",))

    def test_figure_of_no_format(self, small_run, tmp_path, capsys):
        flags = self.flags(small_run, "--sure", "0", "--worst", tmp_path / "worst.what")
        assert_refused(capsys, main, *flags, names=("worst.what",))

    def test_json_that_cannot_be_written(self, small_run, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        flags = self.flags(small_run, "--json", tmp_path / "file" / "numbers.json")
        assert_refused(capsys, main, *flags, names=(tmp_path / "file",))

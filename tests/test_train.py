"""python -m yolov2.train: what a run leaves behind, exact resumption, what it says when things go wrong."""

import csv
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

import yolov2.train
from fast.loss import RegionLoss
from reference.kmeans import iou_kmeans, sse_kmeans
from tests.commands import TINY, add_picture, annotation, assert_refused, command, make_voc
from yolov2 import detect, evaluate
from yolov2.anchors import box_cells, box_shapes
from yolov2.checkpoint import load_checkpoint
from yolov2.data.sources import open_train_val
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.optimizer import make_optimizer, update
from yolov2.presets import VOC_ANCHORS
from yolov2.train import choose_anchors, train
from yolov2.train_config import TrainConfig, parse_anchors
from yolov2.training.config import LIMITS


def results(folder):
    """Rows of results.csv without the clock."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(a, b):
    """Two runs ended with the same bits: weights, statistics, momentum, printed numbers."""
    first, second = load_file(a / "last.safetensors"), load_file(b / "last.safetensors")
    assert first.keys() == second.keys()
    assert any(key.startswith("momentum/") for key in first)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert results(a) == results(b)
    assert (
        load_checkpoint(a / "last.safetensors").progress == load_checkpoint(b / "last.safetensors").progress
    )


class TestARun:
    def test_its_files(self, small_run):
        found = {p.name for p in small_run.iterdir()}
        assert {"best.safetensors", "last.safetensors", "results.csv", "val_sheet.png"} <= found
        assert not [name for name in found if name.endswith(".partial")]
        with Image.open(small_run / "val_sheet.png") as sheet:
            assert min(sheet.size) > 64

    @pytest.mark.parametrize("name", ["curves.png", "precision_recall.png"])
    def test_curves(self, small_run, name):
        pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: no curves are drawn")
        with Image.open(small_run / name) as curves:
            assert curves.width > curves.height > 100

    def test_results_have_a_row_per_epoch(self, small_run):
        rows = results(small_run)
        # six pictures in batches of two: three updates an epoch
        assert [(r["epoch"], r["step"], r["seen"]) for r in rows] == [("1", "3", "6"), ("2", "6", "12")]
        assert list(rows[0]) == ["epoch", "step", "seen", "lr", "loss", *RegionLoss._fields[1:7], "map50"]
        for row in rows:
            parts = [float(row[name]) for name in ["loss", *RegionLoss._fields[1:7]]]
            assert parts[0] == pytest.approx(sum(parts[1:]), rel=1e-4)
            assert 0 <= float(row["map50"]) <= 1

    def test_table_and_next_command(self, small_data, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert command(yolov2.train.main, "--data", small_data, *TINY, "--epochs", "1") == 0
        out = capsys.readouterr().out
        assert re.search(r"^blue +1 +0 +\d+ +[01]\.\d{3} ", out, re.MULTILINE)
        assert re.search(r"^mean +2 +0 +\d+ +[01]\.\d{3}$", out, re.MULTILINE)
        words = shlex.split(re.search(r"next: (.*)", out)[1])
        assert words[:3] == ["python", "-m", "yolov2.detect"]
        assert command(detect.main, *words[3:]) == 0
        found = json.loads((tmp_path / "runs" / "detect" / "detections.json").read_text())
        assert [p["picture"] for p in found["pictures"]] == [
            str(p) for p in sorted(small_data.glob("val/*.png"))
        ]

    def test_runs_are_numbered(self, small_data, small_run, tmp_path):
        project = tmp_path / "new" / "folder"
        for name in ("train", "train-2"):
            config = TrainConfig(data=small_data, imgsz=64, epochs=1, nominal_batch=6, project=project)
            assert train(config).folder == project / name

    def test_built_in_pictures(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("yolov2.data.sources.SHAPES_COUNT", {"train": 4, "val": 2})
        monkeypatch.chdir(tmp_path)
        assert command(yolov2.train.main, *TINY, "--epochs", "1") == 0
        words = shlex.split(re.search(r"next: (.*)", capsys.readouterr().out)[1])
        assert command(detect.main, *words[3:]) == 0
        assert command(evaluate.main) == 0  # the newest run, on the data it was trained on


class TestSameBits:
    def test_same_seed(self, small_data, small_run, tmp_path):
        command(yolov2.train.main, "--data", small_data, "--project", tmp_path, *TINY, "--workers", "3")
        assert_same_run(small_run, tmp_path / "train")

    def test_another_seed_is_another_run(self, small_data, small_run, tmp_path):
        command(yolov2.train.main, "--data", small_data, "--project", tmp_path, *TINY, "--seed", "1")
        first, second = (
            load_file(small_run / "last.safetensors"),
            load_file(tmp_path / "train/last.safetensors"),
        )
        assert not torch.equal(first["blocks.0.conv.weight"], second["blocks.0.conv.weight"])

    @pytest.mark.parametrize(
        "where, call, raised",
        [
            ("region_loss", 1, "signal"),  # Ctrl-C in the first update
            ("region_loss", 5, "signal"),  # ... in the middle of the second epoch
            ("region_loss", 6, "signal"),  # ... in the last update
            ("batches", 1, "exception"),  # before anything was done
            ("compare", 1, "exception"),  # while the first epoch is evaluated
        ],
    )
    def test_resumed(self, small_data, small_run, tmp_path, capsys, monkeypatch, where, call, raised):
        original, calls = getattr(yolov2.train, where), 0

        def interrupted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                if raised == "exception":
                    raise KeyboardInterrupt
                signal.raise_signal(signal.SIGINT)
            return original(*args, **kwargs)

        monkeypatch.setattr(yolov2.train, where, interrupted)
        assert command(yolov2.train.main, "--data", small_data, "--project", tmp_path, *TINY) == 130
        hint = re.search(r"stopped and saved; go on with: (.*)", capsys.readouterr().err)[1]
        assert (tmp_path / "train" / "last.safetensors").exists()
        monkeypatch.setattr(yolov2.train, where, original)
        words = shlex.split(hint)
        assert words[:3] == ["python", "-m", "yolov2.train"]
        assert command(yolov2.train.main, *words[3:]) == 0
        assert_same_run(small_run, tmp_path / "train")

    @pytest.mark.parametrize(
        "handler, sent", [(signal.default_int_handler, signal.SIGINT), (signal.SIG_IGN, signal.SIGTERM)]
    )
    def test_signals_of_a_shell(self, small_data, tmp_path, handler, sent):
        """A real process, a real signal: Ctrl-C, and `kill` for what `nohup ... &` made deaf to Ctrl-C."""
        words = [sys.executable, "-m", "yolov2.train", "--data", small_data, "--project", tmp_path, *TINY]
        process = subprocess.Popen(
            [*words, "--epochs", "9999"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            # as in a shell's foreground or background, however these tests were started
            preexec_fn=lambda: signal.signal(signal.SIGINT, handler),
        )
        patience = time.monotonic() + 60
        while not (tmp_path / "train" / "results.csv").exists() and time.monotonic() < patience:
            time.sleep(0.05)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        hint = f"stopped and saved; go on with: python -m yolov2.train --resume {tmp_path / 'train'}"
        assert hint in err and err.endswith("\ninterrupted\n") and "Traceback" not in err

    def test_resumed_for_more_epochs(self, small_run, tmp_path, capsys):
        shutil.copytree(small_run, tmp_path / "copy")
        assert command(yolov2.train.main, "--resume", tmp_path / "copy", "--epochs", "3") == 0
        assert [row["epoch"] for row in results(tmp_path / "copy")] == ["1", "2", "3"]


def test_schedule_of_a_run(small_data, tmp_path):
    """Four epochs of three updates; burn-in of 4, the rate drops to a half at updates 6 and 9."""
    flags = ("--data", small_data, "--project", tmp_path, *TINY, "--epochs", "4", "--lr", "0.001")
    drops = ("--burn-in", "4", "--milestones", "0.5,0.75", "--drop", "0.5")
    assert command(yolov2.train.main, *flags, *drops) == 0
    # update 3: .001 (3/4)^4 = .001 * 81/256; 6 = .5 * 12; 9 = .75 * 12; 12 is the last
    rates = [float(row["lr"]) for row in results(tmp_path / "train")]
    assert rates == pytest.approx([0.001 * 81 / 256, 0.0005, 0.00025, 0.00025], rel=1e-5)


class TestAnchors:
    def test_auto_is_kmeans_on_the_boxes(self, small_data):
        train_set, _ = open_train_val(small_data, None, Complaints())
        # square pictures of 64 pixels on an input of 64: two cells a side, boxes of 24 x 30 pixels
        assert choose_anchors(TrainConfig(data=small_data), train_set, 64) == ((0.75, 0.9375),)

    def test_auto_on_boxes_of_many_shapes(self, tmp_path):
        shapes = [(8 + 3 * i, 50 - 4 * i) for i in range(11)]
        for i, (w, h) in enumerate(shapes):
            add_picture(tmp_path / "train", f"p{i:02}", [("red", (2, 3, 2 + w, 3 + h))])
        add_picture(tmp_path / "val", "v", [("red", (2, 3, 20, 30))])
        train_set, _ = open_train_val(tmp_path, None, Complaints())
        anchors = choose_anchors(TrainConfig(data=tmp_path), train_set, 416)
        wanted, _ = iou_kmeans(np.array(shapes) / 64 * 13, 5, seed=0)  # 13 cells for 64 pixels
        assert len(anchors) == 5
        np.testing.assert_allclose(sorted(anchors), sorted(wanted.tolist()), atol=1e-4)

    def test_preset_and_given(self, small_data):
        train_set, _ = open_train_val(small_data, None, Complaints())
        assert choose_anchors(TrainConfig(anchors="preset"), train_set, 64) == VOC_ANCHORS
        assert choose_anchors(TrainConfig(anchors="1,2"), train_set, 64) == ((1.0, 2.0),)
        by_hand = choose_anchors(TrainConfig(anchors="hand"), train_set, 600)
        assert len(by_hand) == 9 and by_hand[1] == (4.0, 4.0) and by_hand[3] == (5.6569, 11.3137)
        by_error = choose_anchors(TrainConfig(anchors="sse:2"), train_set, 64)
        wh = box_cells(*box_shapes(train_set), 2, "letterbox")
        assert np.allclose(by_error, sse_kmeans(wh, len(by_error), seed=0)[0], atol=1e-4)

    def test_pixels_are_refused(self, small_data, tmp_path, capsys):
        flags = ("--data", small_data, "--project", tmp_path, *TINY, "--anchors", "42,55,102,128")
        assert_refused(capsys, yolov2.train.main, *flags, names=("--anchors", "2 cells", "divided by 32"))

    def test_as_many_as_asked_for(self, tmp_path):
        objects = [("red", (2, 3, 12 + 5 * i, 15 + 3 * i)) for i in range(9)]
        add_picture(tmp_path / "train", "p", objects)
        add_picture(tmp_path / "val", "v", objects)
        train_set, _ = open_train_val(tmp_path, None, Complaints())
        assert len(choose_anchors(TrainConfig(anchors="3"), train_set, 64)) == 3


class TestUpdate:
    def test_by_hand(self):
        layer = nn.Conv2d(1, 1, 1)
        with torch.no_grad():
            layer.weight.fill_(2.0)
            layer.bias.fill_(1.0)
        optimizer = make_optimizer(layer, 0.0, momentum=0.5, decay=0.1)
        # loss = sum over two pictures of 3 w + b: mean gradient 3 and 1
        for _ in range(2):
            update(optimizer, [2 * (3 * layer.weight + layer.bias).sum()], 2, rate=0.5)
        # step 1: v = 3 + .1 * 2 = 3.2, w = 2 - .5 * 3.2 = .4; the bias has no decay: v = 1, b = .5
        # step 2: v = .5 * 3.2 + 3 + .1 * .4 = 4.64, w = .4 - 2.32 = -1.92; v = .5 + 1, b = .5 - .75 = -.25
        assert layer.weight.item() == pytest.approx(-1.92)
        assert layer.bias.item() == pytest.approx(-0.25)

    def test_scales_of_batch_norm_do_not_decay(self):
        network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
        decayed, free = make_optimizer(network, 0.1, 0.9, 0.5).param_groups
        assert [p.shape for p in decayed["params"]] == [(2, 1, 1, 1)] and decayed["weight_decay"] == 0.5
        assert len(free["params"]) == 2 and free["weight_decay"] == 0

    def test_sub_batches_add_up_to_the_batch(self):
        torch.manual_seed(0)
        x, outcome = torch.randn(6, 3, 4, 4), []
        for sizes in ([6], [2, 4], [1] * 6):
            torch.manual_seed(1)
            layer = nn.Conv2d(3, 2, 3)
            losses = (layer(part).square().sum() for part in x.split(sizes))
            update(make_optimizer(layer, 0.0, 0.9, 0.01), losses, 6, rate=0.1)
            outcome.append(layer.weight.detach())
        torch.testing.assert_close(outcome[0], outcome[1])
        torch.testing.assert_close(outcome[0], outcome[2])


class TestOverflow:
    def test_nan(self, small_data, tmp_path, capsys, monkeypatch):
        original, calls = yolov2.train.region_loss, 0

        def broken(*args):
            nonlocal calls
            calls += 1
            loss = original(*args)
            if calls < 5:
                return loss
            nan = torch.tensor(float("nan"))
            return loss._replace(total=loss.total * nan, wh=loss.wh * nan)

        monkeypatch.setattr(yolov2.train, "region_loss", broken)
        config = TrainConfig(data=small_data, imgsz=64, epochs=3, nominal_batch=2, project=tmp_path)
        with pytest.raises(UserError, match=r"step 5: the loss is nan \(wh\)") as error:
            train(config)
        folder = tmp_path / "train"
        for name in ("nan_batch.safetensors", "last.safetensors"):
            assert str(folder / name) in str(error.value)
        batch = load_file(folder / "nan_batch.safetensors")
        assert batch["images"].shape == (2, 3, 64, 64) and batch["truth"].shape[::2] == (2, 5)
        assert len(batch["indices"]) == 2
        kept = load_checkpoint(folder / "last.safetensors")
        assert kept.progress["epoch"] == 1 and kept.progress["step"] == 3
        assert all(t.isfinite().all() for t in kept.tensors.values())

    def test_rate_too_high(self, small_data, tmp_path, capsys):
        flags = ("--data", small_data, "--project", tmp_path, *TINY, "--epochs", "40")
        line = assert_refused(
            capsys, yolov2.train.main, *flags, "--lr", "9", "--burn-in", "0", names=("step ",)
        )
        assert "try a lower --lr" in line


class TestBrokenFiles:
    """Among good files a broken one is counted and left out; alone it is the end, in one line."""

    @pytest.fixture
    def data(self, tmp_path):
        return make_voc(tmp_path / "data")

    def run(self, data, tmp_path):
        return command(yolov2.train.main, "--data", data, "--project", tmp_path, *TINY, "--epochs", "1")

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_truncated_picture(self, data, tmp_path, capsys, split):
        picture = add_picture(data / split, "torn", [("red", (5, 5, 40, 40))], ".jpg")
        picture.write_bytes(picture.read_bytes()[:-500])
        assert self.run(data, tmp_path) == 0
        captured = capsys.readouterr()
        assert captured.err.count("warning:") == 1
        assert f"warning: unreadable pictures left out: 1 ({picture})" in captured.err
        assert "6 train pictures with 6 boxes, 2 val pictures" in captured.out

    def test_picture_that_breaks_during_the_run(self, data, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(yolov2.train, "verify", lambda dataset, complaints: dataset)
        picture = data / "train" / "train0.png"
        picture.write_bytes(picture.read_bytes()[:200])
        assert self.run(data, tmp_path) == 0
        assert f"unreadable pictures skipped: 1 ({picture})" in capsys.readouterr().err

    def test_all_pictures_truncated(self, data, tmp_path, capsys):
        for picture in (data / "train").glob("*.png"):
            picture.write_bytes(picture.read_bytes()[:200])
        assert_refused(
            capsys, yolov2.train.main, "--data", data, "--project", tmp_path, names=("train0.png",)
        )

    def test_annotation_that_does_not_parse(self, data, tmp_path, capsys):
        (data / "train" / "train3.xml").write_text("<annotation><object>")
        assert self.run(data, tmp_path) == 0
        captured = capsys.readouterr()
        assert "warning: annotations of invalid XML left out: 1 (" in captured.err
        assert "train3.xml" in captured.err and "5 train" in captured.out

    def test_no_annotation_parses(self, data, tmp_path, capsys):
        for path in data.rglob("*.xml"):
            path.write_text("{}")
        assert_refused(capsys, yolov2.train.main, "--data", data, names=(data, "invalid XML"))

    @pytest.mark.parametrize(
        "box, kind",
        [
            ((50, 10, 90, 30), "boxes reaching outside clipped to the picture"),
            ((10, 10, 10, 30), "empty boxes dropped"),
            ((70, 10, 90, 30), "empty boxes dropped"),
            ((30, 10, 10, 30), "boxes with min and max swapped turned round"),
        ],
    )
    def test_bad_box(self, data, tmp_path, capsys, box, kind):
        (data / "train" / "train0.xml").write_text(annotation([("red", box), ("blue", (1, 1, 40, 40))]))
        assert self.run(data, tmp_path) == 0
        assert f"warning: {kind}: 1 (" in (err := capsys.readouterr().err) and "train0.xml:1 (red)" in err

    def test_picture_without_objects(self, data, tmp_path):
        for i in range(3):
            add_picture(data / "train", f"empty{i}", [])
        assert self.run(data, tmp_path) == 0

    def test_val_without_objects(self, data, tmp_path, capsys):
        for path in (data / "val").glob("*.xml"):
            path.write_text(annotation([]))
        assert self.run(data, tmp_path) == 0


class TestSplits:
    def test_test_takes_the_place_of_val(self, small_data, tmp_path, capsys):
        shutil.copytree(small_data, tmp_path / "data")
        (tmp_path / "data" / "val").rename(tmp_path / "data" / "test")
        train_set, val_set = open_train_val(tmp_path / "data", None, Complaints())
        assert (len(train_set), len(val_set)) == (6, 2)
        assert "no val split, its test split takes that place" in capsys.readouterr().err

    def test_tenth_is_held_out(self, tmp_path, capsys):
        make_voc(tmp_path / "data", train=11, val=0)
        shutil.rmtree(tmp_path / "data" / "val", ignore_errors=True)
        train_set, val_set = open_train_val(tmp_path / "data", None, Complaints())
        assert len(train_set) == 9 and [item.id for item in val_set.items] == ["train0", "train9"]
        assert capsys.readouterr().err.count("every tenth training picture is held out") == 1

    def test_one_picture_is_not_enough(self, tmp_path, capsys):
        make_voc(tmp_path / "data", train=1, val=0)
        assert_refused(capsys, yolov2.train.main, "--data", tmp_path / "data", names=(tmp_path / "data",))


class TestFlags:
    @pytest.mark.parametrize(
        "flags",
        [
            *(("--anchors", text) for text in ("0,0", "0", "101")),
            ("--anchors", "1,2,3"),
            ("--anchors", "abc"),
            ("--anchors", "nan,1"),
            ("--imgsz", "100"),
            ("--imgsz", "0"),
            ("--imgsz", "big"),
            *(("--multi-scale", text) for text in ("320", "320,600", "608,320", "0,320")),
            ("--lr", "-1"),
            ("--lr", "nan"),
            ("--drop", "0"),
            ("--decay", "-1"),
            ("--momentum", "1"),
            ("--seed", "-1"),
            ("--workers", "-1"),
            *((flag, "0") for flag in ("--batch", "--nominal-batch", "--clip")),
            *(("--ema", "1"), ("--save-every", "-1"), ("--precision", "int8"), ("--cache", "disk")),
            ("--epochs", "0"),
            ("--eval-every", "0"),
            ("--burn-in", "-1"),
            ("--milestones", "0.9,0.5"),
            ("--bn-momentum", "0"),
            ("--jitter", "2"),
            *(("--hue", text) for text in ("inf", "nan", "-0.1", "2")),
            *(("--saturation", text) for text in ("inf", "nan", "0", "-1", "1e9")),
            *(("--exposure", text) for text in ("inf", "nan", "0", "-1", "1e9")),
            *(("--zoom", text) for text in ("1,inf", "1,1000", "nan,1", "0,1", "2,1", "1")),
            *(("--flip", text) for text in ("5", "-1", "nan")),
            *((flag, "nan") for flag in ("--decay", "--momentum", "--jitter", "--drop", "--bn-momentum")),
            *(("--decay", "inf"), ("--milestones", "nan"), ("--milestones", "0.5,1")),
            *((flag, "9" * 30) for flag in ("--seed", "--workers", "--batch", "--epochs", "--imgsz")),
            *(("--anchors", "1,inf"), ("--anchors", "1e300,1"), ("--device", "hpu"), ("--device", "meta")),
            ("--model", "yolov9"),
            ("--resize", "squash"),
            ("--zoom", "0.8,1.2", "--resize", "stretch"),
            ("--format", "xml"),
        ],
    )
    def test_wrong_value(self, capsys, flags):
        assert_refused(capsys, yolov2.train.main, *flags, names=(flags[0].strip("-"),))

    def test_scales_of_the_loss(self):
        train_set, _ = open_train_val(None, None, Complaints())
        config = TrainConfig(noobject_scale=0.5, coord_scale=5, anchors="preset", imgsz=64)
        region = yolov2.train.build(config, train_set).region
        scales = region.object_scale, region.noobject_scale, region.class_scale, region.coord_scale
        assert scales == (5, 0.5, 1, 5)

    def test_every_number_has_a_limit(self):
        numbers = {f.name for f in fields(TrainConfig) if re.search(r"\b(int|float)\b", str(f.type))}
        assert numbers == {*LIMITS, "imgsz", "multi_scale"}

    def test_imgsz_names_the_nearest(self, capsys):
        assert "e.g. 96" in assert_refused(capsys, yolov2.train.main, "--imgsz", "100")

    def test_unknown_device(self, capsys):
        assert_refused(capsys, yolov2.train.main, "--device", "abacus", names=("abacus", "try cpu"))

    def test_every_flag_survives_the_checkpoint(self):
        config = TrainConfig(zoom=(0.5, 1.0), milestones=(0.5,), anchors="1,2", any_way_up=True, seed=3)
        assert TrainConfig.from_plain(json.loads(json.dumps(config.to_plain()))) == config

    @pytest.mark.parametrize(
        "text, anchors", [("auto", None), ("preset", None), ("1,2, 3.5,4", ((1.0, 2.0), (3.5, 4.0)))]
    )
    def test_anchors(self, text, anchors):
        assert parse_anchors(text) == anchors

    def test_given_anchors_are_used(self, small_data, tmp_path):
        flags = ("--data", small_data, "--project", tmp_path, *TINY, "--epochs", "1")
        assert command(yolov2.train.main, *flags, "--anchors", "1,2,1.5,0.5") == 0
        assert Detector.load(tmp_path / "train/best.safetensors").region.anchors == ((1.0, 2.0), (1.5, 0.5))


class TestRefused:
    def test_missing_folder(self, tmp_path, capsys):
        assert_refused(
            capsys, yolov2.train.main, "--data", tmp_path / "gone", names=(tmp_path / "gone", "--data")
        )

    def test_file_for_a_folder(self, tmp_path, capsys):
        (tmp_path / "data.zip").write_text("PK")
        assert_refused(capsys, yolov2.train.main, "--data", tmp_path / "data.zip", names=("data.zip",))

    def test_folder_of_something_else(self, tmp_path, capsys):
        (tmp_path / "notes.txt").write_text("hello")
        assert_refused(capsys, yolov2.train.main, "--data", tmp_path, names=(tmp_path, "Annotations"))

    def test_empty_split(self, small_data, tmp_path, capsys):
        shutil.copytree(small_data / "val", tmp_path / "data" / "val")
        (tmp_path / "data" / "train").mkdir()
        assert_refused(
            capsys, yolov2.train.main, "--data", tmp_path / "data", names=(tmp_path / "data", "'train'")
        )

    def test_project_that_cannot_be_written(self, small_data, tmp_path, capsys):
        (tmp_path / "runs").write_text("a file")
        flags = ("--data", small_data, "--project", tmp_path / "runs", *TINY)
        assert_refused(capsys, yolov2.train.main, *flags, names=(tmp_path / "runs", "--project"))

    def test_weights_of_another_network(self, small_data, small_run, capsys, tmp_path):
        flags = (
            "--model",
            "yolov2-tiny-voc",
            "--weights",
            small_run / "best.safetensors",
            "--data",
            small_data,
        )
        line = assert_refused(capsys, yolov2.train.main, *flags, "--project", tmp_path / "runs")
        assert "--model" in line and not (tmp_path / "runs").exists()

    def test_resume_best(self, small_run, capsys):
        path = small_run / "best.safetensors"
        assert_refused(capsys, yolov2.train.main, "--resume", path, names=(path, "last.safetensors"))

    def test_resume_missing(self, tmp_path, capsys):
        assert_refused(capsys, yolov2.train.main, "--resume", tmp_path / "x", names=(tmp_path / "x",))

    def test_resume_with_other_settings(self, small_run, capsys):
        line = assert_refused(
            capsys, yolov2.train.main, "--resume", small_run, "--lr", "0.5", names=("--lr",)
        )
        assert "--epochs" in line

    def test_resume_on_data_of_other_classes(self, small_run, tmp_path, capsys):
        add_picture(tmp_path / "train", "cat", [("cat", (1, 1, 20, 20))])
        add_picture(tmp_path / "val", "cat", [("cat", (1, 1, 20, 20))])
        flags = ("--resume", small_run, "--data", tmp_path)
        assert_refused(capsys, yolov2.train.main, *flags, names=("cat.xml", "'cat'", "blue, red"))


def test_start_from_a_checkpoint(small_data, small_run, tmp_path, capsys):
    flags = ("--data", small_data, "--project", tmp_path, *TINY, "--epochs", "1", "--lr", "1e-9")
    assert command(yolov2.train.main, *flags, "--weights", small_run / "best.safetensors") == 0
    assert re.search(r"^weights   \d+ convolutions from ", capsys.readouterr().out, re.MULTILINE)
    before, after = (load_file(f / "best.safetensors") for f in (small_run, tmp_path / "train"))
    np.testing.assert_allclose(before["blocks.0.conv.weight"], after["blocks.0.conv.weight"], atol=1e-6)

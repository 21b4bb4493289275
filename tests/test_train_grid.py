"""python -m yolov2.train --model yolov1-...: a run with YOLOv1's loss, its files, resumption, refusals."""

import re
import signal

import pytest
import torch
from safetensors.torch import load_file

import yolov2.train
from fast.grid import GridLoss
from reference.layers import Conv, Dropout, Grid, Reorg
from tests.commands import TINY, assert_refused, command
from tests.test_train import assert_same_run, results
from yolov2 import detect, evaluate
from yolov2.detector import Detector
from yolov2.train import main
from yolov2.train_config import TrainConfig

NANO = ("--model", "yolov1-nano", *TINY)


@pytest.fixture(scope="module")
def grid_run(small_data, tmp_path_factory):
    """The folder of a finished run with dropout and a moving average; not to be changed."""
    project = tmp_path_factory.mktemp("grid")
    flags = ("--data", small_data, "--project", project)
    assert command(main, *flags, *NANO, "--no-batch-norm", "--ema", "0.9") == 0
    return project / "train"


class TestARun:
    def test_what_it_says_and_leaves(self, small_data, tmp_path, capsys):
        flags = ("--data", small_data, "--project", tmp_path, *NANO)
        assert command(main, *flags) == 0
        out = capsys.readouterr().out
        assert re.search(r"^cells     2x2, 2 boxes each$", out, re.MULTILINE) and "anchors" not in out
        rows = results(tmp_path / "train")
        assert list(rows[0]) == ["epoch", "step", "seen", "lr", "loss", *GridLoss._fields[1:], "map50"]
        for row in rows:
            parts = [float(row[name]) for name in ["loss", *GridLoss._fields[1:]]]
            assert parts[0] == pytest.approx(sum(parts[1:]), rel=1e-4)
        weights = tmp_path / "train" / "best.safetensors"
        detector = Detector.load(weights)
        assert detector.head == Grid(side=2, boxes=2, classes=2)
        assert (detector.resize, detector.imgsz) == ("stretch", 64)
        assert command(evaluate.main, "--weights", weights) == 0
        assert re.search(r"^mean +2 ", capsys.readouterr().out, re.MULTILINE)
        assert command(detect.main, small_data / "val", "--weights", weights, "--project", tmp_path) == 0

    def test_it_learns_the_built_in_shapes(self, tmp_path, monkeypatch):
        monkeypatch.setattr("yolov2.data.sources.SHAPES_COUNT", {"train": 16, "val": 2})
        flags = ("--model", "yolov1-nano", "--device", "cpu", "--project", tmp_path, "--eval-every", "8")
        assert command(main, *flags, "--imgsz", "96", "--epochs", "8", "--lr", "0.002") == 0
        losses = [float(row["loss"]) for row in results(tmp_path / "train")]
        assert losses[-1] < losses[0] / 3

    @pytest.mark.parametrize("call", [2, 5])
    def test_resumed_with_the_same_bits(self, small_data, grid_run, tmp_path, monkeypatch, call):
        """Dropout's random numbers and the moving average included."""
        original, calls = yolov2.train.grid_loss, 0

        def interrupted(*args):
            nonlocal calls
            calls += 1
            if calls == call:
                signal.raise_signal(signal.SIGINT)
            return original(*args)

        monkeypatch.setattr(yolov2.train, "grid_loss", interrupted)
        flags = ("--data", small_data, "--project", tmp_path)
        assert command(main, *flags, *NANO, "--no-batch-norm", "--ema", "0.9") == 130
        assert command(main, "--resume", tmp_path / "train") == 0
        assert_same_run(grid_run, tmp_path / "train")
        assert any(key.startswith("ema/") for key in load_file(tmp_path / "train" / "last.safetensors"))

    def test_scales_of_the_loss_and_resizing(self, small_data, tmp_path):
        flags = ("--data", small_data, "--project", tmp_path, *NANO, "--epochs", "1", "--resize", "letterbox")
        assert command(main, *flags, "--coord-scale", "2", "--noobject-scale", "0.25") == 0
        detector = Detector.load(tmp_path / "train" / "best.safetensors")
        assert (detector.head.coord_scale, detector.head.noobject_scale, detector.resize) == (
            2,
            0.25,
            "letterbox",
        )


class TestSwitches:
    def test_a_tenth_of_the_rate_without_batch_norm(self):
        rates = [
            TrainConfig(model="yolov1-nano", batch_norm=on).resolved(torch.device("cpu")).lr
            for on in (True, False)
        ]
        assert rates == pytest.approx([0.002, 0.0002])
        assert TrainConfig(lr=0.5, batch_norm=False).resolved(torch.device("cpu")).lr == 0.5

    def test_neither_batch_norm_nor_passthrough(self, small_data, tmp_path):
        flags = ("--data", small_data, "--project", tmp_path, *TINY, "--epochs", "1")
        assert command(main, *flags, "--no-batch-norm", "--no-passthrough") == 0
        network = Detector.load(tmp_path / "train" / "best.safetensors").network
        assert not any(isinstance(layer, Reorg) for layer in network.layers)
        assert not any(layer.batch_norm for layer in network.layers if isinstance(layer, Conv))
        assert network.layers.count(Dropout()) == 1
        assert not any("norm" in name for name in network.state_dict())
        assert command(evaluate.main, "--weights", tmp_path / "train" / "best.safetensors") == 0

    def test_dropout_is_for_training_only(self, grid_run):
        network = Detector.load(grid_run / "best.safetensors").network
        x = torch.rand(1, 3, 64, 64)
        assert torch.equal(network(x), network(x))
        assert not torch.equal(network.train()(x), network(x))


class TestRefused:
    @pytest.mark.parametrize(
        "flags",
        [
            ("--anchors", "5"),
            ("--multi-scale", "64,96"),
            ("--tree", "9k.tree"),
            ("--classification", "pictures"),
            ("--assumed-iou", "0.3"),
            ("--location", "anchor"),
            ("--zoom", "0.8,1.2"),
            ("--cache", "device"),
        ],
    )
    def test_flags_without_a_meaning(self, capsys, tmp_path, flags):
        line = assert_refused(
            capsys, main, "--model", "yolov1-nano", "--project", tmp_path, *flags, names=flags[:1]
        )
        assert "Traceback" not in line and not list(tmp_path.iterdir())

    def test_parts_that_a_model_does_not_have(self, capsys, tmp_path):
        flags = ("--model", "yolov1-nano", "--no-passthrough", "--project", tmp_path)
        assert_refused(capsys, main, *flags, names=("--no-passthrough", "yolov1-nano"))

    def test_another_size_where_it_is_used(self, small_data, grid_run, capsys):
        flags = (small_data / "val", "--weights", grid_run / "best.safetensors", "--imgsz", "96")
        assert_refused(capsys, detect.main, *flags, names=("made for 64",))

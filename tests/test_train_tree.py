"""python -m yolov2.train --tree: boxes and labels together, resumed, on two processes, from other weights."""

import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import yolov2
import yolov2.train
from fast.loss import RegionLoss
from tests.commands import TINY, add_picture, assert_refused, command
from tests.models import check_equal
from tests.models import rows as found_in
from tests.test_evaluate_tree import LAYERS
from tests.test_pretrain import COLOURS, SMALL, Killed, make_folders
from tests.test_pretrain_tree import NAMES, TREE, write_tree
from tests.test_train import assert_same_run, results
from tests.test_training import SAME, distributed, rows, run
from yolov2 import export, pretrain
from yolov2.cfg import Config, Net, write_cfg
from yolov2.cfg_sections import HeadTraining
from yolov2.data.sources import open_dataset
from yolov2.detector import Detector
from yolov2.train import DetectionTask, main, prepare
from yolov2.train_config import TrainConfig
from yolov2.training.distributed import Processes

WARM, COLD, RED, ORANGE, BLUE, GREEN = range(6)  # the nodes of TREE; blue and red are the classes with boxes


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A tree, and three pictures each of red, orange, green, and of things that are known to be warm."""
    root = tmp_path_factory.mktemp("words")
    colour = {"red": "red", "n4": "red", "green": "green", "warm": "red"}
    colours = {name: COLOURS[value] for name, value in colour.items()}
    return write_tree(root), make_folders(root / "labelled", (("train", 3), ("val", 1)), colours)


@pytest.fixture(scope="module")
def joint(words):
    """Six updates an epoch, each on two pictures with boxes and two without."""
    rates = ("--ratio", "1", "--nominal-batch", "4", "--lr", "0.001")
    return ("--tree", words[0], "--classification", words[1], *rates)


@pytest.fixture(scope="module")
def finished(small_data, joint, tmp_path_factory):
    """The folder of a finished run; not to be changed."""
    return run(small_data, tmp_path_factory.mktemp("runs"), "train", *joint)


class TestARun:
    def test_its_checkpoint(self, finished):
        for name in ("best", "last"):
            model = Detector.load(finished / f"{name}.safetensors")
            assert model.names == NAMES and model.region.tree == TREE
            assert model.region.class_map == (BLUE, RED) and model.class_nodes == {"blue": BLUE, "red": RED}

    def test_its_numbers(self, finished):
        terms = RegionLoss._fields[1:7]
        for row in results(finished):
            assert list(row)[4:] == ["loss", *terms, "labelled", "map50"]
            assert float(row["loss"]) == pytest.approx(sum(float(row[name]) for name in terms), rel=1e-4)
            assert 0 < float(row["labelled"]) < float(row["classification"])
        assert [row["seen"] for row in results(finished)] == ["24", "48"]

    def test_the_plan_is_told(self, small_data, joint, tmp_path, capsys):
        """Of six pictures with boxes and twelve without, one and three at a time."""
        run(small_data, tmp_path, "run", *joint, "--ratio", "3", "--epochs", "1")
        out = capsys.readouterr().out
        assert "12 with a class only, 4 nodes: 3 of every 4; an epoch sees them 1.5 times, " in out
        assert "those with boxes 1.0 times\n" in out and "updates   6: 1 epochs of 6, each on 4" in out

    def test_map_and_names(self, small_data, words, tmp_path):
        (tmp_path / "my.map").write_text(f"{COLD}\n{ORANGE}\n")
        (tmp_path / "my.names").write_text("\n".join(f"a {name}" for name in NAMES))
        flags = ("--map", tmp_path / "my.map", "--names", tmp_path / "my.names", "--epochs", "1")
        folder = run(small_data, tmp_path, "run", "--tree", words[0], *flags)
        model = Detector.load(folder / "best.safetensors")
        assert model.names[RED] == "a red" and model.class_nodes == {"blue": COLD, "red": ORANGE}
        assert "labelled" not in results(folder)[0]  # there was nothing of the kind

    def test_the_tree_of_a_cfg_file(self, small_data, tmp_path):
        """Its names lie beside it; a map that is of other data does not count."""
        layers = [*LAYERS[:2], *LAYERS[1:2] * 3, *LAYERS[-2:]]
        write_cfg(tmp_path / "net.cfg", Config(Net(64, 64, 3), layers, HeadTraining()))
        (tmp_path / "net.names").write_text("\n".join(NAMES))
        folder = run(small_data, tmp_path, "run", "--model", tmp_path / "net.cfg", "--epochs", "1")
        model = Detector.load(folder / "best.safetensors")
        assert (model.names, model.region.tree) == (NAMES, TREE)
        assert model.class_nodes == {"blue": BLUE, "red": RED}

    def test_the_map_of_yolo9000_cfg(self, tmp_path):
        """It has a node for each of COCO's classes, whatever the nodes are called."""
        region = replace(LAYERS[-1], class_map=(GREEN, *[COLD] * 78, ORANGE))
        layers = [*LAYERS[:2], *LAYERS[1:2] * 3, LAYERS[-2], region]
        write_cfg(tmp_path / "net.cfg", Config(Net(64, 64, 3), layers, HeadTraining()))
        for split in ("train", "val"):
            objects = [("person", (5, 5, 40, 40)), ("toothbrush", (9, 9, 60, 60)), ("n5", (0, 9, 30, 60))]
            add_picture(tmp_path / "data" / split, split, objects)
        flags = ("--model", tmp_path / "net.cfg", "--epochs", "1")
        model = Detector.load(run(tmp_path / "data", tmp_path, "run", *flags) / "best.safetensors")
        assert model.class_nodes == {"n5": BLUE, "person": GREEN, "toothbrush": ORANGE}

    def test_pictures_that_cannot_be_read(self, small_data, words, joint, tmp_path, capsys):
        shutil.copytree(words[1], tmp_path / "set")
        broken = tmp_path / "set" / "train" / "warm" / "1.png"
        broken.write_bytes(broken.read_bytes()[:99])
        run(small_data, tmp_path, "run", *joint, "--classification", tmp_path / "set", "--epochs", "1")
        assert f"warning: unreadable pictures skipped: 1 ({broken})" in capsys.readouterr().err
        assert results(tmp_path / "run")[0]["seen"] == "23"

    def test_darknets_files(self, small_data, finished, tmp_path):
        """What was trained goes on without this library, tree and map with it."""
        best = finished / "best.safetensors"
        flags = ("--weights", best, "--format", "darknet", "--out", tmp_path / "net.weights")
        assert command(export.main, *flags) == 0
        suffixes = {".weights", ".cfg", ".names", ".tree", ".map"}
        assert {path.suffix for path in tmp_path.iterdir()} == suffixes
        before, after = (yolov2.load(path, device="cpu") for path in (best, tmp_path / "net.weights"))
        assert (after.names, after.network.layers) == (before.names, before.network.layers)
        pictures = [item.path for item in open_dataset(small_data, "train").items]
        options = {"conf": 0.05, "tree_threshold": 0.1, "progress": False}
        want = found_in(before.predict(pictures, **options))
        assert min(map(len, want)) > 1
        check_equal(found_in(after.predict(pictures, **options)), want, pixels=0.1, score=1e-4)


class TestTheSameRun:
    @pytest.mark.parametrize("killed, call", [*((False, n) for n in (2, 6, 9)), (True, 1), (True, 11)])
    def test_resumed(self, small_data, words, joint, finished, tmp_path, capsys, monkeypatch, killed, call):
        """After Ctrl-C, and after kill -9 from the last checkpoint, which has the tree with it."""
        original, calls = DetectionTask.loss, 0

        def interrupted(*args):
            nonlocal calls
            calls += 1
            if calls == call and killed:
                raise Killed
            if calls == call:
                signal.raise_signal(signal.SIGINT)
            return original(*args)

        shutil.copytree(words[0].parent, tmp_path / "words", ignore=lambda *_: ["labelled"])
        tree = ("--tree", tmp_path / "words" / words[0].name, "--save-every", "0")
        argv = ("--data", small_data, "--project", tmp_path, *TINY, *joint, *tree)
        with monkeypatch.context() as patched:
            patched.setattr(DetectionTask, "loss", interrupted)
            if killed:
                with pytest.raises(Killed):
                    command(main, *argv)
            else:
                assert command(main, *argv) == 130
        shutil.rmtree(tmp_path / "words")
        assert command(main, "--resume", tmp_path / "train") == 0
        assert f"after update {call - killed}\n" in capsys.readouterr().out
        assert_same_run(finished, tmp_path / "train")

    def test_two_processes_are_two_pieces(self, small_data, joint, tmp_path):
        """Each has its share of both kinds, also in batch norm."""
        flags = (*joint, *SAME, "--ratio", "2", "--batch", "3")
        both = distributed(2, small_data, tmp_path, "two", *flags)
        pieces = run(small_data, tmp_path, "one", *flags)
        np.testing.assert_allclose(rows(both), rows(pieces), rtol=1e-4)
        first, second = (load_file(folder / "last.safetensors") for folder in (both, pieces))
        for name, tensor in first.items():
            # statistics are averaged over processes and follow one another in pieces
            if ".running_" not in name and ".num_batches" not in name and not name.startswith("rng"):
                torch.testing.assert_close(tensor, second[name], rtol=1e-4, atol=1e-6)


class TestWeights:
    @pytest.fixture
    def prepared(self, small_data, joint, tmp_path, capsys):
        """The network that a run starts with, and what is said of it."""

        def prepared(weights):
            tree, classification = joint[1], joint[3]
            paths = {"data": small_data, "tree": tree, "classification": classification, "project": tmp_path}
            trainer, _ = prepare(TrainConfig(**paths, imgsz=64, device="cpu", weights=weights), Processes())
            return trainer.network, re.search("^weights .*", capsys.readouterr().out, re.MULTILINE)[0]

        return prepared

    def test_of_a_classifier_on_the_tree(self, words, tmp_path, prepared):
        flags = (*SMALL, "--epochs", "1", "--finetune-epochs", "0", "--project", tmp_path)
        assert command(pretrain.main, "--tree", words[0], "--data", words[1], *flags) == 0
        weights = tmp_path / "pretrain" / "best.safetensors"
        network, said = prepared(weights)
        assert f"8 convolutions from {weights}, 3 start afresh: " in said
        assert "not taken from the file: 12 conv 6 1x1/1 linear" in said
        self.check_same(network, load_file(weights), 12)

    def check_same(self, network, trained, layers):
        """The first so many layers are those that were trained."""
        for name, tensor in network.state_dict().items():
            if int(name.split(".")[1]) < layers:
                assert torch.equal(tensor, trained[name]), name

    def test_of_a_flat_detector(self, small_run, prepared):
        """All but the last convolution, which has its classes."""
        network, said = prepared(small_run / "best.safetensors")
        assert ", 1 start afresh: " in said and said.count("linear") == 2
        self.check_same(network, load_file(small_run / "best.safetensors"), len(network.layers) - 2)

    def test_of_a_detector_on_the_tree(self, finished, prepared):
        network, said = prepared(finished / "best.safetensors")
        assert "afresh" not in said
        self.check_same(network, load_file(finished / "best.safetensors"), len(network.layers))


class TestRefused:
    def refused(self, capsys, data, *flags, names):
        return assert_refused(capsys, main, "--data", data, *TINY, *flags, names=names)

    def test_what_needs_a_tree(self, small_data, words, capsys):
        for flag in ("--classification", "--names", "--map"):
            self.refused(capsys, small_data, flag, words[1], names=(flag, "--tree"))
        self.refused(capsys, small_data, "--model", "yolo9000", names=("--model yolo9000", "--tree"))

    @pytest.mark.parametrize(
        "file, text, says",
        [
            ("x.map", f"{RED}\n", ("1 lines", "2 classes")),
            ("x.map", f"{RED}\n6\n", ("line 2", "0 to 5")),
            ("x.map", "", ("empty",)),
            ("x.names", "a\nb\n", ("2 names", "6 nodes")),
            ("x.tree", "a -1\nb 7\n", ("line 2",)),
            ("x.map", None, ("No such file",)),
            ("x.tree", None, ("No such file",)),
        ],
    )
    def test_files(self, small_data, words, tmp_path, capsys, file, text, says):
        if text is not None:
            (tmp_path / file).write_text(text)
        flags = ("--tree", words[0], f"--{file[2:]}", tmp_path / file)
        self.refused(capsys, small_data, *flags, names=(tmp_path / file, *says))

    def test_classes(self, small_data, words, tmp_path, capsys):
        """Of boxes and of labels: unknown ones, and words for several nodes."""
        (tmp_path / "two.names").write_text("warm\ncold\nred\nblue\nblue\ngreen\n")
        flags = ("--tree", words[0], "--names", tmp_path / "two.names")
        says = (small_data, "'blue' may be 2 nodes", "n4 (warm > blue)", "n5 (cold > blue)", "A --map has")
        self.refused(capsys, small_data, *flags, names=says)
        for split in ("train", "val"):
            add_picture(tmp_path / "boxes" / split, split, [("bleu", (5, 5, 40, 40))])
        says = (tmp_path / "boxes", "'bleu' is none of the 6 nodes", "'blue'?", "A --map has the node")
        self.refused(capsys, tmp_path / "boxes", "--tree", words[0], names=says)
        labels = make_folders(tmp_path / "labels", (("train", 1),), {"purple": (200, 0, 200)})
        flags = ("--tree", words[0], "--classification", labels)
        line = self.refused(capsys, small_data, *flags, names=(labels, "'purple' is none of the 6 nodes"))
        assert "--map" not in line
        flags = ("--tree", words[0], "--classification", tmp_path / "nowhere")
        self.refused(capsys, small_data, *flags, names=(tmp_path / "nowhere", "no such folder"))

    def test_numbers(self, small_data, joint, capsys):
        says = ("--nominal-batch 1", "no room")
        self.refused(capsys, small_data, *joint, "--nominal-batch", "1", names=says)
        self.refused(capsys, small_data, *joint, "--cache", "device", names=("--cache device", "memory"))
        for ratio in ("0", "-1", "nan", "inf"):
            self.refused(capsys, small_data, *joint, "--ratio", ratio, names=("--ratio",))

    def test_on_resume(self, finished, words, tmp_path, capsys):
        """What a run was begun with it goes on with."""
        for flag, value in (("--tree", words[0]), ("--map", words[1]), ("--ratio", "2")):
            assert_refused(capsys, main, "--resume", finished, flag, value, names=(flag, "--resume"))
        argv = ("--resume", finished, "--cache", "device")
        assert_refused(capsys, main, *argv, names=("--cache device", "memory"))


def test_a_background_class_has_no_place_on_a_tree(small_data, monkeypatch):
    recipe = yolov2.train.find_recipe("nano")
    recipe = replace(recipe, head=replace(recipe.region, background=True))
    monkeypatch.setattr(yolov2.train, "find_recipe", lambda model: recipe)
    config = TrainConfig(imgsz=64, anchors="preset")
    data = open_dataset(small_data, "train")
    assert yolov2.train.build(config, data).region.background
    on_tree = yolov2.train.build(config, data, yolov2.train.Words(TREE, NAMES, (0,) * 6))
    assert not on_tree.region.background

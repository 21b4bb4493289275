"""python -m yolov2.pretrain on a tree of words: its loss, its measure, its data, a run, and what follows."""

import json
import re
import shlex
import signal
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.extra.numpy import arrays

import yolov2.train
from reference.layers import AvgPool, Conv, Cost, MaxPool, Softmax
from reference.wordtree import (
    IGNORED,
    absolute_probability,
    complete_labels,
    descend,
    read_tree,
    tree_softmax,
)
from tests.commands import TINY, assert_refused, command
from tests.golden import DATA
from tests.strategies import trees
from tests.test_pretrain import COLOURS, FLAGS, Toy, assert_same_run, make_folders, rows
from yolov2 import pretrain
from yolov2.cfg import Config, Net, write_cfg
from yolov2.cfg_sections import HeadTraining
from yolov2.classifier import Classifier, label_loss
from yolov2.data.class_folders import open_classification
from yolov2.data.crops_loader import label_batches
from yolov2.errors import Complaints, UserError
from yolov2.pretrain import ClassificationTask, main
from yolov2.pretrain_config import PretrainConfig, find_classifier, open_nodes
from yolov2.topk import TopK, merge, rank_classes, top_k
from yolov2.tree.accuracy import HierarchicalAccuracy

#     warm          cold
#   red  orange   blue  green
LINES = ["n1 -1", "n2 -1", "n3 0", "n4 0", "n5 1", "n6 1"]
NAMES = ("warm", "cold", "red", "orange", "blue", "green")
TREE = read_tree(LINES)


def write_tree(folder: Path) -> Path:
    (folder / "colours.tree").write_text("\n".join(LINES) + "\n")
    (folder / "colours.names").write_text("\n".join(NAMES) + "\n")
    return folder / "colours.tree"


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A tree, and folders called after nodes by either of their names; of some red things no more is known
    than that they are warm.
    """
    root = tmp_path_factory.mktemp("colours")
    named = {"blue": COLOURS["blue"], "n6": COLOURS["green"], "red": COLOURS["red"], "warm": COLOURS["red"]}
    return write_tree(root), make_folders(root / "data", colours=named)


@pytest.fixture(scope="module")
def finished(colours, tmp_path_factory):
    """The folder of a finished run, and what it said."""
    project = tmp_path_factory.mktemp("runs")
    tree, data = colours
    assert command(main, "--tree", tree, "--data", data, "--project", project, *FLAGS, "--epochs", "8") == 0
    return project / "pretrain"


class TestLoss:
    @given(trees(), st.data())
    def test_it_is_the_oracles(self, tree, data):
        """-ln of every P(node | parent) whose completed label is 1; the gradient is p - truth (SPEC 13.4)."""
        nodes = len(tree.parents)
        scores = data.draw(arrays(float, (3, nodes), elements=st.floats(-30, 30)))
        labels = data.draw(arrays(np.int64, 3, elements=st.integers(0, nodes - 1)))
        truth, p = complete_labels(np.eye(nodes)[labels], tree), tree_softmax(scores, tree)
        given = torch.from_numpy(scores).requires_grad_()
        loss = label_loss(given, torch.from_numpy(labels), tree)
        np.testing.assert_allclose(loss.item(), -np.log(p[truth == 1]).sum(), rtol=1e-9, atol=1e-12)
        loss.backward()
        wanted = np.where(truth == IGNORED, 0, p - truth)
        np.testing.assert_allclose(given.grad.numpy(), wanted, rtol=1e-9, atol=1e-12)
        assert (given.grad.numpy()[truth == IGNORED] == 0).all()

    @given(trees(), st.data())
    def test_its_gradient_is_that_of_its_value(self, tree, data):
        nodes, step = len(tree.parents), 1e-5
        scores = torch.from_numpy(data.draw(arrays(float, (1, nodes), elements=st.floats(-4, 4))))
        label = torch.tensor([data.draw(st.integers(0, nodes - 1))])
        scores.requires_grad_()
        label_loss(scores, label, tree).backward()
        with torch.no_grad():
            values = [
                [label_loss(scores + sign * step * torch.eye(nodes)[n], label, tree) for sign in (1, -1)]
                for n in range(nodes)
            ]
        slopes = [(up - down).item() / (2 * step) for up, down in values]
        np.testing.assert_allclose(scores.grad[0], slopes, atol=1e-8)

    def test_by_hand(self):
        """red: ln 2 for warm of two, ln 4 for red of 3:1; warm: ln 2; the cold colours do not matter."""
        scores = torch.tensor([[0, 0, 0, np.log(3), 9, -9], [0, 0, 7, -7, 9, 9]])
        loss = label_loss(scores, torch.tensor([2, 0]), TREE)
        assert loss.item() == pytest.approx(np.log([2, 4, 2]).sum())

    def test_a_tree_of_one_group_is_a_flat_softmax(self):
        flat = read_tree([f"n{i} -1" for i in range(7)])
        scores, labels = torch.randn(5, 7), torch.arange(5)
        torch.testing.assert_close(label_loss(scores, labels, flat), label_loss(scores, labels))

    def test_far_scores_are_finite(self):
        scores = torch.full((1, 6), -3e4).index_fill(1, torch.tensor([1, 3]), 3e4).requires_grad_()
        loss = label_loss(scores, torch.tensor([2]), TREE)
        loss.backward()
        assert loss.item() == 12e4 and scores.grad.tolist() == [[-1, 1, -1, 1, 0, 0]]


class TestMeasure:
    @pytest.fixture
    def classifier(self):
        torch.manual_seed(0)
        model = Classifier.build(find_classifier("nano").build(TREE), NAMES, 32)
        feeding = model.network.blocks[-3]
        torch.nn.init.normal_(next(feeding.parameters()), std=1.0)  # so that it is sure of something
        return model

    class Pictures(Toy):
        names = NAMES
        labels = np.array([0, 1, 2, 3, 4, 5, 0], np.int64)

    def test_it_is_what_the_oracle_says_of_the_outputs(self, classifier):
        top = top_k(classifier, self.Pictures(), batch=3, threshold=0.4)
        images = next(label_batches(self.Pictures(), 7, 32)).to(torch.device("cpu")).images
        with torch.inference_mode():
            scores = classifier.network.eval()(images).flatten(1).double().numpy()
        conditional = tree_softmax(scores, TREE)
        leaves = absolute_probability(conditional, TREE, only_leaves=True)
        assert top.ranked.tolist() == rank_classes(torch.from_numpy(leaves), 4).tolist()
        np.testing.assert_allclose(top.probability, leaves.max(1), rtol=1e-5)
        assert top.hierarchy.labels.tolist() == self.Pictures.labels.tolist()
        assert top.hierarchy.greedy.tolist() == [descend(p, TREE, 0) for p in conditional]
        assert top.hierarchy.reached.tolist() == [descend(p, TREE, 0.4) for p in conditional]
        np.testing.assert_allclose(classifier.probabilities(images), leaves, atol=1e-6)

    def test_shares_of_processes_are_the_whole(self, classifier):
        whole = top_k(classifier, self.Pictures(), batch=3)
        joined = merge([top_k(classifier, self.Pictures(), batch=3, rank=rank, world=3) for rank in range(3)])
        for name in ("labels", "reached", "greedy"):
            assert getattr(joined.hierarchy, name).tolist() == getattr(whole.hierarchy, name).tolist()
        assert str(joined) == str(whole)

    def test_a_label_above_a_leaf_is_right(self):
        labels, leaf = np.array([0, 1, 2, 3]), np.array([[2, 4], [3, 2], [2, 3], [4, 3]])
        hierarchy = HierarchicalAccuracy(TREE, NAMES, labels, leaf[:, 0], 0.5, leaf[:, 0])
        top = TopK(NAMES, 64, np.arange(4), labels, leaf, np.full(4, 0.5, np.float32), hierarchy)
        assert top.right().tolist() == [True, False, True, False]
        assert top.right(2).tolist() == [True, False, True, True]
        assert top.confused() == [("cold", "orange", 1), ("orange", "blue", 1)]
        assert str(top).startswith("top-1 0.5000 on 4 pictures")  # the fifth of four leaves is no feat
        assert "descent at 0.5\nexact          1   0.250" in top.table()


class TestData:
    def test_a_folder_may_be_called_after_any_node(self, colours):
        _, data = colours
        for split, count in (("train", 6), ("val", 2)):
            found = open_classification(data, split, NAMES, tree=TREE)
            assert found.names == NAMES and found.labels.dtype == np.int64
            assert found.labels.tolist() == sorted([4, 5, 2, 0] * count, key=[4, 5, 2, 0].index)

    def test_an_unknown_folder_is_named(self, tmp_path):
        data = make_folders(tmp_path / "set", colours={"organe": (200, 100, 0), "n3": (250, 0, 0)})
        with pytest.raises(UserError, match=r"set.*'organe'.*did you mean 'orange'"):
            open_classification(data, "train", NAMES, tree=TREE)

    def test_objects_cut_out(self, small_data):
        crops = open_classification(small_data, "train", NAMES, crops=True, tree=TREE)
        assert crops.names == NAMES and crops.labels.tolist() == [4, 2] * 3
        assert crops.picture(0).mode == "RGB"

    def test_darknets_labels_are_the_words(self, tmp_path):
        """Its names are for people: there are two cranes among ImageNet's."""
        make_folders(tmp_path / "set", colours={"n3": (250, 0, 0), "n1": (200, 100, 0)})
        paths = sorted((tmp_path / "set").rglob("*.png"))
        for split in ("train", "val"):
            rows = [str(path) for path in paths if split in path.parts]
            (tmp_path / f"{split}.list").write_text("\n".join(rows))
        (tmp_path / "labels.txt").write_text("n3\nn1\n")
        (tmp_path / "names.txt").write_text("crane\ncrane\n")
        text = "classes=2\nlabels=labels.txt\nnames=names.txt\ntrain=train.list\nvalid=val.list\n"
        (tmp_path / "a.data").write_text(text)
        found = open_classification(tmp_path / "a.data", "val", NAMES, tree=TREE)
        assert found.names == NAMES and found.labels.tolist() == [2, 2, 0, 0]

    def test_two_words_of_one_node_are_one_class(self, tmp_path):
        data = make_folders(tmp_path / "set", colours={"n3": (250, 0, 0), "red": (200, 0, 0)})
        complaints = Complaints()
        found = open_classification(data, "val", NAMES, complaints, tree=TREE)
        assert found.labels.tolist() == [2] * 4 and complaints.counts.total() == 1


class TestARun:
    def test_learns(self, finished, colours, capsys):
        assert command(main, "--evaluate", finished) == 0
        out = capsys.readouterr().out
        assert "top-1 1.0000 on 8 pictures, centre crop at 64x64" in out  # the warm ones are right as reds
        assert re.search(r"\n    0 +8 +8 +1\.000\n    1 +6 +6 +1\.000\n\ndescent at 0\.5\n", out)
        first, *_, last = (float(row["loss"]) for row in rows(finished))
        assert first > 3 * last

    def test_the_threshold_of_its_descent(self, finished, capsys):
        """Above .999999 it says no more than warm or cold."""
        assert command(main, "--evaluate", finished, "--tree-thresh", "0.999999") == 0
        out = capsys.readouterr().out
        assert "descent at 0.999999\nexact          2   0.250  the label\ncoarser        6   0.750" in out

    def test_its_files(self, finished):
        whole = json.loads((finished / "hierarchy.json").read_text())
        assert [c["name"] for c in whole["classes"]] == ["warm", "red", "blue", "green"]
        assert whole["labels"] == 8 and whole["by_depth"][0] == {"labels": 8, "right": 8}
        model = Classifier.load(finished / "best.safetensors")
        assert model.tree == TREE and model.names == NAMES

    def test_the_plan_is_told(self, colours, tmp_path, capsys):
        tree, data = colours
        flags = ("--tree", tree, "--data", data, "--project", tmp_path, *FLAGS, "--finetune-epochs", "0")
        assert command(main, *flags, "--epochs", "1") == 0
        out = capsys.readouterr().out
        assert "8 val pictures; 4 classes: warm 6, red 6, blue 6, green 6\n" in out
        assert "tree      6 nodes in 3 groups; 4 have train pictures, 1 of these are inner ones" in out
        words = shlex.split(re.search(r"next: (.*)", out)[1])
        assert words[:3] == ["python", "-m", "yolov2.train"]

    def test_a_detector_starts_from_it(self, finished, small_data, tmp_path, capsys):
        weights = finished / "best.safetensors"
        flags = ("--model", "nano", "--weights", weights, "--data", small_data, "--project", tmp_path)
        assert command(yolov2.train.main, *flags, *TINY, "--epochs", "1") == 0
        assert re.search(r"8 convolutions from .*best.safetensors, 3 start afresh", capsys.readouterr().out)

    def test_resumed_it_is_the_same_run(self, colours, finished, tmp_path, monkeypatch):
        calls, original = 0, ClassificationTask.loss

        def loss(*args):
            nonlocal calls
            calls += 1
            if calls == 9:
                signal.raise_signal(signal.SIGINT)
            return original(*args)

        tree = write_tree(tmp_path)  # is in the checkpoint, and not read again
        with monkeypatch.context() as patched:
            patched.setattr(ClassificationTask, "loss", loss)
            flags = ("--tree", tree, "--data", colours[1], "--project", tmp_path, *FLAGS, "--epochs", "8")
            assert command(main, *flags) == 130
        tree.unlink()
        assert command(main, "--resume", tmp_path / "pretrain") == 0
        assert_same_run(finished, tmp_path / "pretrain")

    def test_refused(self, finished, colours, tmp_path, capsys):
        tree, data = colours
        refused = [
            (("--data", data, "--model", "darknet9000"), ("--model darknet9000", "--tree", "9k.tree")),
            (("--data", data, "--names", tree), ("--names", "--tree")),
            (("--data", data, "--tree", tmp_path / "gone.tree"), ("gone.tree",)),
            (("--data", data, "--tree", tree, "--tree-thresh", "2"), ("--tree-thresh 2",)),
            (("--evaluate", finished, "--tree", tree), ("--tree",)),
        ]
        for flags, names in refused:
            assert_refused(capsys, main, *flags, "--project", tmp_path, names=names)
        assert_refused(capsys, main, "--resume", finished, "--tree", tree, names=("--tree",))


class TestNetworks:
    LAYERS = (Conv(8), MaxPool(), Conv(6, 1, batch_norm=False), AvgPool(), Softmax(TREE), Cost("masked"))

    def test_a_cfg_with_a_tree(self, tmp_path):
        path = tmp_path / "own.cfg"
        write_cfg(path, Config(Net(64, 64, 3), list(self.LAYERS), HeadTraining()))
        recipe = find_classifier(str(path))
        assert recipe.head == TREE and recipe.build() == list(self.LAYERS)
        assert open_nodes(PretrainConfig(model=str(path))) == (TREE.names, TREE)
        (tmp_path / "own.names").write_text("\n".join(NAMES))
        assert open_nodes(PretrainConfig(model=str(path))) == (NAMES, TREE)
        other = read_tree(["a -1", "b -1", "c 0"])
        layers = recipe.build(other)
        assert layers[2].filters == 3 and layers[4] == Softmax(other)

    def test_every_classifier_takes_a_tree(self, tmp_path):
        tree = write_tree(tmp_path)
        for name in ("nano", "tiny", "darknet9000"):
            config = PretrainConfig(model=name, tree=tree, imgsz=64)
            model = pretrain.build(config, *open_nodes(config))
            assert model.tree == TREE and model.names == NAMES and model.classes == 6

    def test_none_of_darknet9000_is_the_originals(self, tmp_path):
        config = PretrainConfig(data=Path("d"), model="darknet9000", tree=write_tree(tmp_path))
        config = config.resolved(torch.device("cpu"))
        (stage,) = config.stages
        assert (stage.imgsz, stage.lr, stage.until, config.nominal_batch) == (448, 0.001, 10, 128)
        schedule = stage.schedule(100_000)
        assert (schedule.policy, schedule.power, schedule.burn_in) == ("poly", 4, 1000)
        assert (round(stage.augment.smallest * 448), round(stage.augment.largest * 448)) == (448, 512)

    def test_the_original(self):
        if not DATA.is_dir():
            pytest.skip(f"ORIGINAL CFG FILES ABSENT ({DATA})")
        recipe = find_classifier(str(DATA / "darknet" / "cfg" / "darknet9000.cfg"))
        ours = find_classifier("darknet9000")
        assert len(recipe.head.parents) == ours.head and recipe.build() == ours.build(recipe.head)
        assert (recipe.imgsz, recipe.lr, recipe.zoom) == (ours.imgsz, ours.lr, ours.zoom)

"""Detectors on a tree, measured: classes at their nodes, and by depth on pictures without boxes."""

import csv
import json
import re
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import yolov2.train
from reference.layers import MaxPool
from reference.region import Region
from reference.wordtree import read_tree
from tests.commands import TINY, add_picture, assert_refused, command, make_voc
from tests.models import feeding, write_network
from tests.strategies import trees
from tests.test_pretrain import COLOURS, make_folders
from tests.test_pretrain_tree import NAMES, TREE, write_tree
from yolov2.cli import parse
from yolov2.data.class_folders import open_classification
from yolov2.data.sources import open_dataset
from yolov2.detector import Detector
from yolov2.draw import PALETTE
from yolov2.errors import Complaints, UserError
from yolov2.evaluate import main
from yolov2.evaluation import evaluate
from yolov2.presets import NETWORKS
from yolov2.pretrain_report import next_command
from yolov2.report import node_lines
from yolov2.train_config import TrainConfig
from yolov2.tree.evaluation import COLOURS as PLACES
from yolov2.tree.evaluation import best_detections, surest, with_boxes

WARM, COLD, RED, ORANGE, BLUE, GREEN = range(6)
REGION = Region(((3.0, 4.0), (3.0, 2.0)), 6, "tree", TREE, class_map=(BLUE, RED))
LAYERS = (MaxPool(), MaxPool(), MaxPool(), feeding(REGION.channels), REGION)
CONFIG = {"mapped": ["blue", "red"]}


def detector_on_tree(spread: float = 1.0) -> Detector:
    """Boxes as large as the anchors in the middle of every cell; all else is random."""
    torch.manual_seed(0)
    model = Detector.build(LAYERS, NAMES, 64, config=CONFIG)
    for parameter in model.network.parameters():
        torch.nn.init.normal_(parameter, std=spread)
        parameter.data.unflatten(0, (2, 11))[:, :4] = 0
    return model


def sure_of_red() -> Detector:
    """Says of every picture: objectness .8; warm .9, of that red .75."""
    model = detector_on_tree(0)
    with torch.no_grad():
        bias = next(p for p in model.network.parameters() if p.ndim == 1)
        logit = np.log([0.8 / 0.2, 9, 1, 3, 1, 1, 1])  # objectness, then the nodes
        bias.view(2, 11)[:, 4:] = torch.from_numpy(logit)
    return model


def saved(model: Detector, folder: Path) -> Path:
    model.save(folder / "net.safetensors")
    return folder / "net.safetensors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two pictures each of red, orange, blue, and of things that are known to be warm."""
    colour = {"n3": "red", "orange": "red", "blue": "blue", "warm": "green"}
    colours = {name: COLOURS[value] for name, value in colour.items()}
    return make_folders(tmp_path_factory.mktemp("folders") / "set", (("val", 2),), colours)


class TestThroughTheMap:
    def test_repeats_what_training_reported(self, small_data, tmp_path, capsys):
        """And of the pictures that had no boxes it says how far down it is right."""
        some = {"red": COLOURS["red"], "warm": COLOURS["green"]}
        labelled = make_folders(tmp_path / "set", (("train", 2), ("val", 2)), some)
        flags = ("--tree", write_tree(tmp_path), "--data", small_data, "--classification", labelled)
        assert command(yolov2.train.main, *flags, "--project", tmp_path, *TINY, "--lr", "0.001") == 0
        reported = capsys.readouterr().out
        weights = tmp_path / "train" / "best.safetensors"
        assert command(main, "--weights", weights, "--out", tmp_path / "out") == 0
        out = capsys.readouterr().out
        assert shlex.split(re.search("next: (.*)", reported)[1])[-2:] == ["--tree-rule", "paper"]
        for start in ("blue", "red", "mean", "mAP@.5", "tree", " +blue +cold > blue"):
            assert re.search(rf"^{start}.*$", reported, re.MULTILINE)[0] in out.splitlines()
        numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert list(numbers["per_class"]) == ["blue", "red"]
        assert command(main, "--weights", weights, "--classification", labelled) == 0
        assert "of 4, descent at 0.5 by the darknet rule, 64x64 letterbox" in capsys.readouterr().out

    def measured(self, *flags, json_file):
        assert command(main, *flags, "--conf", "0.0001", "--json", json_file) == 0
        return json.loads(json_file.read_text())["per_class"]

    def test_each_class_by_itself(self, small_data, tmp_path):
        model = detector_on_tree()
        weights, out = saved(model, tmp_path), tmp_path / "numbers.json"
        flags = ("--weights", weights, "--data", small_data, "--split", "train")
        data = open_dataset(small_data, "train")

        def wanted(*nodes):
            looking = model.for_classes(("blue", "red"), nodes)
            return dict(
                zip(("blue", "red"), evaluate(looking, data, 0.0001).precision.per_class, strict=True)
            )

        assert self.measured(*flags, json_file=out) == pytest.approx(wanted(BLUE, RED))
        (tmp_path / "swapped.map").write_text(f"{RED}\n{COLD}\n")
        swapped = self.measured(*flags, "--map", tmp_path / "swapped.map", json_file=out)
        assert swapped == pytest.approx(wanted(RED, COLD)) and swapped != pytest.approx(wanted(BLUE, RED))
        assert min(swapped.values()) > 0
        red = self.measured(*flags, "--classes", "red", json_file=out)
        assert red == pytest.approx({"red": wanted(BLUE, RED)["red"]})

    def test_other_data_have_classes_of_their_own(self, tmp_path, capsys):
        """An inner node, and a class that was never trained with boxes."""
        weights = saved(detector_on_tree(), tmp_path)
        for split in ("train", "val"):
            add_picture(tmp_path / "d" / split, split, [("warm", (5, 5, 40, 40)), ("n6", (20, 9, 60, 50))])
        assert command(main, "--weights", weights, "--data", tmp_path / "d") == 0
        out = capsys.readouterr().out
        assert "the classes are nodes, 1 of them called otherwise there\n" in out
        assert "          n6    cold > green\n          warm  warm\n" in out
        assert re.search(r"^n6 +1 ", out, re.MULTILINE) and not re.search("^red", out, re.MULTILINE)

    def test_darknets_files(self, tmp_path, capsys):
        """Eighty nodes in the cfg file are those of COCO's classes, whatever the nodes are called."""
        region = replace(REGION, class_map=(WARM, *[COLD] * 78, GREEN))
        layers = (*LAYERS[:-1], region)
        weights = write_network(tmp_path, layers, (3, 64, 64))
        add_picture(tmp_path / "d" / "val", "a", [("person", (5, 5, 40, 40)), ("toothbrush", (9, 9, 40, 40))])
        add_picture(tmp_path / "d" / "train", "b", [("person", (5, 5, 40, 40))])
        assert command(main, "--weights", weights, "--data", tmp_path / "d") == 0
        out = capsys.readouterr().out
        assert "person      n1\n" in out and "toothbrush  n2 > n6\n" in out

    def test_refused(self, small_run, small_data, folders, tmp_path, capsys):
        weights = ("--weights", saved(detector_on_tree(), tmp_path), "--data", small_data)
        (tmp_path / "short.map").write_text("3\n")
        (tmp_path / "far.map").write_text("3\n99\n")
        for name, words in (("short.map", ("1 lines", "2 classes")), ("far.map", ("line 2", "0 to 5"))):
            flags = (*weights, "--map", tmp_path / name)
            assert_refused(capsys, main, *flags, names=(tmp_path / name, *words))
        flat = ("--weights", small_run / "best.safetensors")
        assert_refused(
            capsys, main, *flat, "--map", tmp_path / "far.map", names=("--map", "no detector on a")
        )
        assert_refused(capsys, main, *flat, "--classification", folders, names=("--classification", "tree"))
        data = make_voc(tmp_path / "voc", 1, 1)
        xml = data / "val" / "val0.xml"
        xml.write_text(xml.read_text().replace("blue", "bleu"))
        names = ("voc", "'bleu'", "did you mean 'blue'")
        assert_refused(capsys, main, *weights[:2], "--data", data, names=names)

    @pytest.mark.parametrize(
        "flags",
        [
            ("--map", "a.map", "--detections", "a.json", "--data", "d"),
            ("--tree-thresh", "0.3"),
            ("--tree-rule", "paper"),
            *(("--classification", "c", *more) for more in (("--map", "a.map"), ("--data", "d"))),
            *(("--classification", "c", *more) for more in (("--worst", "w.png"), ("--iou", "0.3"))),
            ("--classification", "c", "--json", "a.csv"),
            ("--classification", "c", "--tree-thresh", "2"),
        ],
    )
    def test_flags_that_do_not_go_together(self, flags, capsys):
        assert_refused(capsys, main, *flags, names=(flags[-2] if flags[0] != "--map" else "--map",))


class TestSurest:
    @pytest.mark.parametrize("rule", ["darknet", "paper"])
    @pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6, 1.0])
    def test_it_is_the_detectors_best(self, folders, rule, threshold):
        model = detector_on_tree()
        data = open_classification(folders, "val", NAMES, Complaints(), tree=TREE)
        best = best_detections(model, data, 0, 3, threshold, rule, progress=False)
        pictures = [data.picture(i) for i in range(len(data))]
        options = {"conf": 0, "max_det": 1, "tree_rule": rule}
        found, leaves = (model(pictures, **options, tree_threshold=t) for t in (threshold, 0))
        h = best.hierarchy
        assert h.reached.tolist() == [f.classes[0] for f in found]
        assert h.greedy.tolist() == [f.classes[0] for f in leaves]
        assert h.labels.tolist() == data.labels.tolist()
        np.testing.assert_allclose(best.scores, [f.scores[0] for f in found], rtol=1e-5)
        np.testing.assert_allclose(best.boxes, [f.boxes[0] for f in found], atol=1e-5)

    def test_half_precision_is_read(self):
        outputs = torch.randn(3, REGION.channels, 4, 5)
        for one, other in zip(
            surest(outputs.half().float(), REGION), surest(outputs.half(), REGION), strict=True
        ):
            torch.testing.assert_close(one, other)


class TestByDepth:
    def test_by_hand(self, folders, tmp_path, capsys):
        """All are taken for red: so are the red ones; the warm ones may be."""
        flags = ("--weights", saved(sure_of_red(), tmp_path), "--classification", folders)
        assert command(main, *flags, "--out", tmp_path / "out") == 0
        out = capsys.readouterr().out
        assert re.search(r"\n    0 +8 +6 +0\.750\n    1 +6 +2 +0\.333\n", out)
        assert "exact 0.2500, coarser 0.0000, finer 0.2500, wrong 0.5000, nothing 0.0000 of 8" in out
        assert "classes found, or their parent, in one picture at least: 1 of 4\n" in out
        # boxes are of red and blue, so that warm things have some; orange ones have none
        assert "(neither a class of the boxes nor above or below one): 0 of 1, in 0 of 2 pictures\n" in out
        whole = json.loads((tmp_path / "out" / "hierarchy.json").read_text())
        assert whole["descent"] == {"exact": 2, "coarser": 0, "finer": 2, "wrong": 4, "nothing": 0}
        with (tmp_path / "out" / "pictures.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["name"] for row in rows[::2]] == ["blue", "red", "orange", "warm"]
        first = rows[[row["word"] for row in rows].index("n3")]
        assert first["path"] == "warm > red" and first["verdict"] == "exact" and first["near"] == "1"
        assert {row["name"]: row["boxes"] for row in rows} == {
            "red": "1",
            "blue": "1",
            "orange": "0",
            "warm": "1",
        }
        with Image.open(tmp_path / "out" / "pictures.png") as page:
            seen = {tuple(c) for c in np.unique(np.asarray(page).reshape(-1, 3), axis=0).tolist()}
        for verdict in ("exact", "finer", "wrong"):
            assert PALETTE[PLACES[verdict]] in seen

    def test_a_cautious_descent_and_a_strict_conf(self, folders, tmp_path, capsys):
        weights = saved(sure_of_red(), tmp_path)
        flags = ("--weights", weights, "--classification", folders)
        # .9 * .675 is less than .65, .9 * .75 is more
        for rule, counts in (
            ("darknet", "exact 0.2500, coarser 0.5000"),
            ("paper", "exact 0.2500, coarser 0.0"),
        ):
            assert command(main, *flags, "--tree-thresh", "0.65", "--tree-rule", rule) == 0
            out = capsys.readouterr().out
            assert counts in out and f"by the {rule} rule" in out
            classes = {
                "darknet": ("3 of 4\n", "1 of 1, in 2 of 2"),
                "paper": ("1 of 4\n", "0 of 1, in 0 of 2"),
            }
            assert all(text in out for text in classes[rule])  # red and orange by their parent, and warm
        assert command(main, *flags, "--conf", "0.8", "--out", tmp_path / "out") == 0
        out = capsys.readouterr().out
        assert (
            "nothing 1.0000 of 8" in out and "least: 0 of 4\n" in out
        )  # the parent of a root is not nothing
        assert {p.name for p in (tmp_path / "out").iterdir()} == {"hierarchy.json", "pictures.csv"}

    def test_among_all_detections(self, folders):
        """Each picture's own detections tell of its class; the next picture's do where the two are alike."""
        data = open_classification(folders, "val", NAMES, Complaints(), tree=TREE)
        best = best_detections(sure_of_red(), data, progress=False)
        assert len(best.every) == 8 and all(set(classes) == {RED} for classes in best.every)
        labels = best.hierarchy.labels.tolist()
        own = replace(best, every=tuple(np.array([COLD, label]) for label in labels), mapped=None)
        assert own.among_all().all()
        wanted = [b in (a, TREE.parents[a]) for a, b in pairwise([*labels, labels[0]])]
        alone = replace(own, every=tuple(np.array([label]) for label in labels))
        assert alone.among_all(1).tolist() == wanted and not all(wanted)
        assert (
            "detections above 0.25 (2.0 a picture): 4 of 4 classes, or their parent"
            in own.among_all_classes()
        )
        parents = replace(own, every=tuple(np.array([TREE.parents[label]]) for label in labels))
        assert parents.among_all().tolist() == [TREE.parents[label] >= 0 for label in labels]
        assert "without a box in training" in best.among_all_classes()

    def test_a_broken_picture_is_left_out(self, folders, tmp_path, capsys):
        make_folders(tmp_path / "set", (("val", 2),), {"red": COLOURS["red"]})
        broken = tmp_path / "set" / "val" / "red" / "0.png"
        broken.write_bytes(broken.read_bytes()[:90])
        flags = ("--weights", saved(sure_of_red(), tmp_path), "--classification", tmp_path / "set")
        assert command(main, *flags) == 0
        captured = capsys.readouterr()
        assert "exact 1.0000" in captured.out and " of 1, " in captured.out
        assert f"warning: unreadable pictures left out: 1 ({broken})" in captured.err
        (broken.parent / "1.png").write_text("")
        assert_refused(capsys, main, *flags, names=("none of the 2 pictures", "0.png"))
        data = open_classification(tmp_path / "set", "val", NAMES, Complaints(), tree=TREE)
        with pytest.raises(UserError, match=re.escape(str(broken))):
            best_detections(sure_of_red(), data)

    def test_without_a_map_nothing_is_said_of_boxes(self, folders):
        model = sure_of_red()
        layers = model.network.layers
        layers[-1] = replace(layers[-1], class_map=None)
        data = open_classification(folders, "val", NAMES, Complaints(), tree=TREE)
        assert "without a box" not in best_detections(model, data, progress=False).classes()


@given(trees(), st.data())
def test_with_boxes_is_on_a_path_through_a_class_of_theirs(tree, data):
    nodes = range(len(tree.parents))
    mapped = data.draw(st.lists(st.sampled_from(nodes), max_size=4))
    wanted = [any(m in tree.path(node) or node in tree.path(m) for m in mapped) for node in nodes]
    assert with_boxes(tree, mapped).tolist() == wanted


def test_lines_on_nodes():
    """Classes whose node is called otherwise come first: a wrong sense would be among them."""
    tree = read_tree(["a -1", "b 0", "c 1", "d 2", "e 3"])
    names = ("being", "animal", "canine", "dog", "hot dog")
    lines = node_lines(("dog", "hot_dog", "wolf"), (3, 4, 2), tree, names)
    assert lines == [
        "tree      5 nodes in 5 groups; the classes are nodes, 1 of them called otherwise there",
        "          wolf     being > animal > canine",
        "          dog      being > animal > canine > dog",
        "          hot_dog  ... > animal > canine > dog > hot dog",
    ]
    assert node_lines(("dog", "hot dog"), (3, 4), tree, names, most=1) == [
        "tree      5 nodes in 5 groups; the classes are nodes",
        "          dog  being > animal > canine > dog",
        "          and 1 more",
    ]


@pytest.mark.parametrize(
    ("classifier", "config", "command_line"),
    [
        ("darknet9000", {"tree": "t", "data": "im"}, "--model yolo9000 --weights w --data DATA --tree t"),
        ("darknet19", {"data": "im", "crops": True}, "--model yolo9000 --weights w --data im --tree TREE"),
        ("darknet19", {"data": "im"}, "--model yolov2-voc --weights w --data DATA"),
        ("darknet9000", {"tree": "t", "names": "n"}, "--model yolo9000 --weights w --tree t --names n"),
    ],
)
def test_what_follows_a_classifier(classifier, config, command_line):
    flat = command_line.count("--tree") == 0
    layers = NETWORKS[classifier].build()
    model = SimpleNamespace(
        config=config, tree=None if flat else TREE, network=SimpleNamespace(layers=layers)
    )
    said = next_command(model, Path("w"))
    assert said.startswith(f"python -m yolov2.train {command_line}")
    own = config.get("data") and not config.get("crops") and not flat
    assert ("--classification im" in said) == bool(own)
    parse(TrainConfig, shlex.split(said)[3:], "train", "")  # it is a command

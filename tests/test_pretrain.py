"""python -m yolov2.pretrain: two stages in one run, its measure, exact resumption, what follows."""

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

import yolov2.train
from reference.layers import AvgPool, Conv, Cost, MaxPool, Softmax
from reference.schedule import Schedule, learning_rate
from tests.commands import TINY, assert_refused, command
from tests.golden import DATA
from yolov2 import pretrain
from yolov2.cfg import Config, Net, write_cfg
from yolov2.cfg_sections import HeadTraining
from yolov2.checkpoint import load_checkpoint
from yolov2.classifier import Classifier, label_loss
from yolov2.data.crops_loader import Kept, label_batches
from yolov2.errors import Complaints, UserError
from yolov2.pretrain import ClassificationTask, main
from yolov2.pretrain_config import PRETRAIN_LIMITS, PretrainConfig, find_classifier
from yolov2.topk import TopK, merge, rank_classes, top_k
from yolov2.training.config import LIMITS

CPU = torch.device("cpu")
COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}
# three updates an epoch; two epochs, then one at twice the size
SMALL = (
    "--imgsz",
    "32",
    "--epochs",
    "2",
    "--finetune-epochs",
    "1",
    "--nominal-batch",
    "6",
    "--device",
    "cpu",
)
FLAGS = (*SMALL, "--lr", "0.05", "--bn-momentum", "0.2")


def make_folders(folder, counts=(("train", 6), ("val", 2)), colours=COLOURS):
    """A folder of noisy pictures of one colour per class, in train and val."""
    rng = np.random.default_rng(0)
    for split, count in counts:
        for name, colour in colours.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(-40, 41, (40, 44 + i, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make_folders(tmp_path_factory.mktemp("data") / "colours")


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    """The folder of a finished run; not to be changed."""
    project = tmp_path_factory.mktemp("runs")
    assert command(main, "--data", folders, "--project", project, *FLAGS, "--ema", "0.9") == 0
    return project / "pretrain"


def rows(folder):
    """results.csv without the clock."""
    with (folder / "results.csv").open() as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def assert_same_run(a, b):
    for name in ("last.safetensors", "best.safetensors", "best_32.safetensors"):
        first, second = load_file(a / name), load_file(b / name)
        assert first.keys() == second.keys()
        assert [key for key in first if not torch.equal(first[key], second[key])] == [], name
        assert load_checkpoint(a / name).progress == load_checkpoint(b / name).progress
    assert rows(a) == rows(b)


class Toy:
    """Labelled pictures in memory; number 3 cannot be read if it is broken."""

    names = ("a", "b", "c")
    labels = np.array([0, 1, 2, 0, 1, 2, 0], np.int64)

    def __init__(self, broken=False):
        self.broken = broken

    def __len__(self):
        return len(self.labels)

    def picture(self, index):
        if self.broken and index == 3:
            raise UserError("3.png: cannot be read")
        rng = np.random.default_rng(index)
        return Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))


class TestTopK:
    def test_equal_scores_rank_by_index(self):
        scores = torch.tensor([[0.1, 0.4, 0.4, 0.1], [0.25, 0.25, 0.25, 0.25], [0, 0, 0.5, 0.5]])
        assert rank_classes(scores, 3).tolist() == [[1, 2, 0], [0, 1, 2], [2, 3, 0]]

    @given(st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=6, max_size=6), min_size=1))
    def test_ranks_are_those_of_a_sorted_list(self, scores):
        wanted = [sorted(range(6), key=lambda c: (-row[c], c))[:5] for row in scores]
        assert rank_classes(torch.tensor(scores), 5).tolist() == wanted

    @pytest.fixture
    def top(self):
        """Seven classes; the last has no picture."""
        labels = np.array([0, 0, 1, 2, 3, 3])
        ranked = np.array(
            [[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [1, 0, 2, 3, 4], [0, 1, 3, 4, 2], [0, 1, 2, 4, 5]]
        )
        ranked = np.concatenate([ranked, [[0, 1, 2, 3, 5]]])
        return TopK(tuple("abcdefg"), 64, np.arange(6), labels, ranked, np.full(6, 0.5, np.float32))

    def test_by_hand(self, top):
        assert top.top(1) == 2 / 6 and top.top(2) == 3 / 6 and top.top(5) == 5 / 6
        assert str(top) == "top-1 0.3333, top-5 0.8333 on 6 pictures, centre crop at 64x64"
        np.testing.assert_array_equal(top.per_class(), [0.5, 1, 0, 0, np.nan, np.nan, np.nan])
        np.testing.assert_array_equal(top.per_class(5)[:4], [1, 1, 1, 0.5])
        assert top.confused() == [("d", "a", 2), ("a", "b", 1), ("c", "a", 1)]

    def test_table(self, top, tmp_path):
        assert top.table(most=2).splitlines() == [
            "class  pictures   top-1",
            "c             1   0.000",
            "d             2   0.000",
            "       and 2 better ones",
            "all           6   0.333",
            "most confused: d taken for a 2, a taken for b 1, c taken for a 1",
        ]
        top.save(tmp_path / "classes.csv")
        lines = (tmp_path / "classes.csv").read_text().splitlines()
        assert (
            lines[0] == "class,pictures,top1,top5" and lines[1] == "a,2,0.5,1.0" and lines[7] == "g,0,nan,nan"
        )

    def test_nothing_to_measure(self, top):
        empty = TopK(top.names, 64, *(np.empty(0, int),) * 2, np.empty((0, 5), int), np.empty(0))
        assert np.isnan(empty.top()) and "all" in empty.table() and empty.confused() == []

    @pytest.fixture
    def classifier(self):
        torch.manual_seed(0)
        return Classifier.build(find_classifier("nano").build(3), ("a", "b", "c"), 32)

    def test_shares_of_processes_are_the_whole(self, classifier):
        whole = top_k(classifier, Toy(), batch=3)
        shares = [top_k(classifier, Toy(), batch=3, rank=rank, world=3, workers=rank) for rank in range(3)]
        joined = merge(shares)
        assert joined.indices.tolist() == list(range(7)) and [len(s.labels) for s in shares] == [2, 2, 3]
        np.testing.assert_array_equal(joined.ranked, whole.ranked)
        np.testing.assert_allclose(joined.probability, whole.probability, rtol=1e-5)
        assert joined.labels.tolist() == Toy.labels.tolist()

    def test_it_sees_the_middle_at_the_classifiers_size(self, classifier):
        """The measure is what the model says of the centre crop, and no other size is reported."""
        from yolov2.crops import centre_example

        classifier.imgsz = 64
        top = top_k(classifier, Toy())
        crops = [centre_example(np.asarray(Toy().picture(i)), 64) for i in range(7)]
        images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2) / 255
        scores = classifier.probabilities(images).numpy()
        assert top.imgsz == 64
        np.testing.assert_array_equal(top.ranked[:, 0], scores.argmax(1))
        np.testing.assert_allclose(top.probability, scores.max(1), rtol=1e-5)

    def test_unreadable_pictures(self, classifier):
        complaints = Complaints()
        assert top_k(classifier, Toy(broken=True), complaints=complaints).indices.tolist() == [
            0,
            1,
            2,
            4,
            5,
            6,
        ]
        assert complaints.counts == {"unreadable pictures left out": 1}
        with pytest.raises(UserError, match=r"3\.png"):
            top_k(classifier, Toy(broken=True))


class TestBatches:
    def made(self, dataset=None, **options):
        config = PretrainConfig(data=Path("d")).resolved(CPU)
        options = {"shuffle": True, "seed": 1, "epoch": 2} | options
        return list(label_batches(dataset or Toy(), 3, 32, config.stages[0].augment, **options))

    def test_workers_and_memory_change_nothing(self):
        for other in (self.made(workers=3), self.made(Kept(Toy(), 10**9)), self.made(Kept(Toy(), 7000))):
            for a, b in zip(self.made(), other, strict=True):
                assert all(map(torch.equal, a, b))

    def test_processes_share_every_batch(self):
        shares = zip(*(self.made(rank=rank, world=2) for rank in range(2)), strict=True)
        for whole, pair in zip(self.made(), shares, strict=True):
            assert torch.equal(whole.images, torch.cat([part.images for part in pair]))

    def test_an_epoch_visits_every_picture_once_and_another_one_differs(self):
        first, second = self.made(), self.made(epoch=3)
        assert sorted(torch.cat([b.indices for b in first]).tolist()) == list(range(7))
        assert not torch.equal(first[0].images, second[0].images)
        assert [len(b.labels) for b in self.made(drop_last=True)] == [3, 3]
        assert torch.equal(self.made(start=2)[0].images, first[2].images)
        assert all(torch.equal(b.labels, torch.from_numpy(Toy.labels)[b.indices]) for b in first)

    def test_a_batch_on_its_way(self):
        batch = self.made()[0]
        moved = batch.to(CPU)
        assert moved.images.dtype == torch.float32 and moved.images.max() <= 1
        assert moved.images.is_contiguous(memory_format=torch.channels_last)
        assert [len(part.labels) for part in batch.split(2)] == [2, 1]
        assert [len(part.labels) for part in batch.split(9)] == [1, 1, 1]


def test_the_loss_is_darknets():
    """The sum of -ln p, whose descent direction is truth - p (SPEC 10)."""
    outputs = torch.randn(2, 3, 1, 1, dtype=torch.float64, requires_grad=True)
    loss = label_loss(outputs.flatten(1), torch.tensor([0, 1]))
    p = outputs.detach().flatten(1).softmax(1).numpy()
    truth = np.eye(3)[[0, 1]]
    np.testing.assert_allclose(loss.item(), -np.log(p[truth == 1]).sum())
    loss.backward()
    np.testing.assert_allclose(-outputs.grad.flatten(1).numpy(), truth - p)


class TestARun:
    def test_learns(self, folders, tmp_path, capsys):
        flags = ("--data", folders, "--project", tmp_path, *FLAGS, "--epochs", "8")
        assert command(main, *flags) == 0
        out = capsys.readouterr().out
        assert "top-1 1.0000 on 6 pictures, centre crop at 64x64" in out
        first, *_, last = (float(row["loss"]) for row in rows(tmp_path / "pretrain"))
        assert first > 3 * last

    def test_its_files(self, finished):
        found = {path.name for path in finished.iterdir()}
        assert {"last.safetensors", "results.csv", "classes.csv", "val_sheet.png"} <= found
        assert not [name for name in found if name.endswith(".partial")]
        sizes = {
            name: Classifier.load(finished / f"{name}.safetensors").imgsz for name in ("best", "best_32")
        }
        assert sizes == {"best": 64, "best_32": 32}
        with Image.open(finished / "val_sheet.png") as sheet:
            assert sheet.width > 500

    def test_results_go_through_both_stages(self, finished):
        found = rows(finished)
        assert list(found[0]) == ["epoch", "step", "seen", "lr", "loss", "top1"]
        assert [row["seen"] for row in found] == ["18", "36", "54"]
        # update 3 of 6 and 6 of 6 of the first stage, 3 of 3 of the second: polynomials of power 4
        np.testing.assert_allclose([float(row["lr"]) for row in found], [0.05 / 16, 0, 0], atol=1e-9)

    def test_the_plan_is_told(self, folders, tmp_path, capsys):
        command(main, "--data", folders, "--project", tmp_path, *FLAGS, "--epochs", "1")
        out = capsys.readouterr().out
        for line in (
            "data      18 train pictures, 6 val pictures; 3 classes: blue 6, green 6, red 6",
            "stage 1 of 2\nupdates   3: 1 epochs of 3, each on 6 pictures",
            "stage 2 of 2\nupdates   3: 1 epochs of 3, each on 6 pictures",
            "input     32x32 pixels",
            "input     64x64 pixels",
            "to 0 at 3 with power 4",
        ):
            assert line in out

    def test_same_seed_same_bits(self, folders, finished, tmp_path):
        flags = ("--data", folders, "--project", tmp_path, *FLAGS, "--ema", "0.9")
        assert command(main, *flags, "--workers", "2", "--cache", "none") == 0
        assert_same_run(finished, tmp_path / "pretrain")

    def test_objects_of_a_detection_set(self, small_data, tmp_path, capsys):
        flags = ("--data", small_data, "--crops", "--project", tmp_path, *FLAGS, "--finetune-epochs", "0")
        assert command(main, *flags) == 0
        out = capsys.readouterr().out
        assert "data      6 train pictures cut out, 2 val pictures; 2 classes: blue 3, red 3" in out
        assert "stage 1 of 1" in out and not (tmp_path / "pretrain" / "best_32.safetensors").exists()
        words = shlex.split(re.search(r"next: (.*)", out)[1])
        assert words[:3] == ["python", "-m", "yolov2.train"]
        # the detector starts from it, and says which layers do not
        assert command(yolov2.train.main, *words[3:], "--project", tmp_path, *TINY, "--epochs", "1") == 0
        out = capsys.readouterr().out
        assert re.search(r"8 convolutions from .*best.safetensors, 3 start afresh: 13 conv 32 ", out)
        assert "not taken from the file: 12 conv 2 1x1/1 linear" in out

    def test_without_batch_norm(self, small_data, folders, tmp_path, capsys):
        flags = ("--data", folders, "--project", tmp_path, *SMALL, "--finetune-epochs", "0")
        assert command(main, *flags, "--no-batch-norm") == 0
        classifier = Classifier.load(tmp_path / "pretrain" / "best.safetensors")
        assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in classifier.network.modules())
        # a detector without batch norm starts from it
        more = ("--data", small_data, "--no-batch-norm", "--project", tmp_path, *TINY, "--epochs", "1")
        weights = tmp_path / "pretrain" / "best.safetensors"
        assert command(yolov2.train.main, "--weights", weights, *more) == 0
        assert "8 convolutions from " in capsys.readouterr().out

    def test_two_processes_are_two_pieces(self, folders, tmp_path):
        """The same pictures in the same updates, and a measure that is merged exactly."""
        flags = ("--data", folders, *SMALL, "--batch", "3", "--lr", "1e-4", "--burn-in", "0", "--epochs", "1")
        assert command(main, *flags, "--project", tmp_path, "--name", "one") == 0
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
        argv = [*torchrun, "-m", "yolov2.pretrain", *flags, "--project", tmp_path, "--name", "two"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(
            list(map(str, argv)), env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("minutes in all") == 1
        for one, two in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
            # statistics of batch norm are averaged over processes, and follow one another in pieces
            one.pop("top1"), two.pop("top1")
            np.testing.assert_allclose(*([float(v) for v in row.values()] for row in (one, two)), rtol=1e-4)


class Killed(BaseException):
    """As good as kill -9: nobody catches it."""


class TestResumed:
    def broken_off(self, folders, project, monkeypatch, where, name, call, action):
        """Begin the run of `finished`, and do something at a call of a method."""
        original, calls = getattr(where, name), 0

        def counted(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                action()
            return original(*args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(where, name, counted)
            return command(main, "--data", folders, "--project", project, *FLAGS, "--ema", "0.9")

    @pytest.mark.parametrize("call", [2, 6, 8, 9], ids=["stage 1", "its last update", "stage 2", "its last"])
    def test_after_ctrl_c(self, folders, finished, tmp_path, monkeypatch, capsys, call):
        def action():
            signal.raise_signal(signal.SIGINT)

        where = ClassificationTask, "loss", call
        assert self.broken_off(folders, tmp_path, monkeypatch, *where, action) == 130
        words = shlex.split(re.search(r"stopped and saved; go on with: (.*)", capsys.readouterr().err)[1])
        assert words[:3] == ["python", "-m", "yolov2.pretrain"]
        assert command(main, *words[3:]) == 0
        assert_same_run(finished, tmp_path / "pretrain")

    @pytest.mark.parametrize(
        "where, name, call",
        [
            (ClassificationTask, "loss", 5),
            (pretrain, "_keep_best", 1),  # between the stages
            (ClassificationTask, "loss", 7),  # the first update of the second
            (yolov2.training.loop.Log, "write", 3),  # best.safetensors is of the second stage, last is not
            (pretrain, "report", 1),
        ],
        ids=lambda value: getattr(value, "__name__", str(value)),
    )
    def test_after_it_was_killed(self, folders, finished, tmp_path, monkeypatch, where, name, call):
        def action():
            raise Killed

        with pytest.raises(Killed):
            self.broken_off(folders, tmp_path, monkeypatch, where, name, call, action)
        assert command(main, "--resume", tmp_path / "pretrain") == 0
        assert_same_run(finished, tmp_path / "pretrain")

    def test_refused(self, finished, small_run, tmp_path, capsys):
        assert_refused(capsys, main, "--resume", finished, "--lr", "1", names=("--lr", "--finetune-epochs"))
        assert_refused(capsys, main, "--resume", finished, "--epochs", "5", names=("--epochs 5", "is over"))
        assert_refused(capsys, main, "--resume", tmp_path, names=("last.safetensors",))
        assert_refused(capsys, main, "--resume", finished / "best.safetensors", names=("optimiser",))
        assert_refused(capsys, main, "--resume", small_run, names=("no classifier", "another command"))


class TestEvaluate:
    def test_it_reports_what_the_run_reported(self, finished, folders, capsys):
        assert command(main, "--evaluate", finished) == 0
        measured = re.search(r"top-1 (\d\.\d+) on 6 pictures, centre crop at 64x64", capsys.readouterr().out)
        best = load_checkpoint(finished / "best.safetensors").progress["best"]
        assert float(measured[1]) == pytest.approx(best, abs=1e-4)
        flags = ("--data", folders, "--imgsz", "32")
        assert command(main, "--evaluate", finished / "best.safetensors", *flags) == 0
        assert "centre crop at 32x32" in capsys.readouterr().out

    def test_refused(self, finished, small_run, tmp_path, capsys):
        assert_refused(capsys, main, "--evaluate", small_run, names=("yolov2.evaluate",))
        flags = ("--data", make_folders(tmp_path / "data", [("val", 1)], {"pink": (250, 200, 200)}))
        assert_refused(capsys, main, "--evaluate", finished, *flags, names=("pink", "blue, green, red"))


class TestFlags:
    def test_none_is_the_papers(self):
        config = PretrainConfig(data=Path("d"), model="darknet19").resolved(CPU)
        first, second = config.stages
        assert (config.nominal_batch, config.momentum, config.decay) == (128, 0.9, 0.0005)
        assert (first.imgsz, first.until, first.lr) == (224, 160, 0.1)
        assert (second.imgsz, second.before, second.until, second.lr) == (448, 160, 170, 0.001)
        for stage, sides in ((first, (112, 392)), (second, (448, 512))):  # 128 and 448 at 256; 448 and 512
            augment = stage.augment
            assert tuple(round(s * stage.imgsz) for s in (augment.smallest, augment.largest)) == sides
            colour = (augment.hue, augment.saturation, augment.exposure)
            assert (augment.angle, augment.aspect, *colour) == (7, 0.75, 0.1, 0.75, 0.75)
        assert first.schedule(800000) == Schedule(0.1, "poly", burn_in=1000, max_batches=800000)
        assert learning_rate(second.schedule(100), 1) == pytest.approx(0.001 * 0.99**4, rel=1e-5)

    def test_rates_follow_the_nominal_batch(self):
        config = PretrainConfig(data=Path("d"), model="darknet19", nominal_batch=32).resolved(CPU)
        assert [stage.lr for stage in config.stages] == [0.025, 0.00025]

    @pytest.mark.parametrize(
        "flags, names",
        [
            (("--data", "gone"), ("gone",)),
            (("--data", ".", "--model", "yolov2-voc"), ("--model yolov2-voc", "darknet19")),
            (("--data", ".", "--model", "gone.cfg"), ("gone.cfg",)),
            (("--data", ".", "--imgsz", "8"), ("--imgsz 8", "32")),
            (("--data", ".", "--zoom", "2,1"), ("--zoom",)),
            (("--data", ".", "--cache", "device"), ("--cache",)),
            (("--data", ".", "--finetune-epochs", "-1"), ("--finetune-epochs",)),
            (("--data", ".", "--angle", "nan"), ("--angle",)),
        ],
    )
    def test_refused(self, capsys, flags, names, tmp_path):
        assert_refused(capsys, main, *flags, "--project", tmp_path, names=names)

    def test_every_number_has_a_limit(self):
        numbers = {f.name for f in fields(PretrainConfig) if re.search(r"\b(int|float)\b", str(f.type))}
        assert numbers <= {*LIMITS, *PRETRAIN_LIMITS}

    def test_one_class_is_none(self, capsys, tmp_path):
        (tmp_path / "data").mkdir()
        for split in ("train", "val"):
            (tmp_path / "data" / split / "cat").mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(tmp_path / "data" / split / "cat" / "1.png")
        assert_refused(capsys, main, "--data", tmp_path / "data", "--device", "cpu", names=("data", "class"))

    def test_help(self, capsys):
        assert command(main, "--help") == 0
        text = " ".join(capsys.readouterr().out.split())
        for words in ("--finetune-epochs N", "--crops", "folder of pictures per class", "darknet19"):
            assert words in text


class TestCfg:
    LAYERS = (Conv(8), MaxPool(), Conv(5, 1, batch_norm=False), AvgPool(), Softmax(), Cost())

    def written(self, tmp_path, layers=LAYERS, **net):
        write_cfg(tmp_path / "own.cfg", Config(Net(64, 64, 3, **net), list(layers), HeadTraining()))
        return str(tmp_path / "own.cfg")

    def test_a_recipe_of_ones_own(self, tmp_path):
        settings = {"batch": 16, "min_crop": 32, "max_crop": 96, "schedule": Schedule(0.02)}
        recipe = find_classifier(self.written(tmp_path, **settings))
        assert (recipe.imgsz, recipe.nominal_batch, recipe.lr, recipe.zoom) == (64, 16, 0.02, (0.5, 1.5))
        assert recipe.build(2) == [*self.LAYERS[:2], Conv(2, 1, batch_norm=False), *self.LAYERS[3:]]

    def test_refused(self, tmp_path):
        for layers in (self.LAYERS[:3], (*self.LAYERS[:3], Softmax())):
            with pytest.raises(UserError, match=r"own\.cfg: trained are"):
                find_classifier(self.written(tmp_path, layers))

    def test_the_originals(self):
        if not DATA.is_dir():
            pytest.skip(f"ORIGINAL CFG FILES ABSENT ({DATA})")
        recipe = find_classifier(str(DATA / "darknet" / "cfg" / "darknet19.cfg"))
        ours = find_classifier("darknet19")
        assert recipe.build(10) == ours.build(10)
        assert (recipe.lr, recipe.zoom, recipe.nominal_batch) == (ours.lr, ours.zoom, ours.nominal_batch)

"""The training loop: nominal batches in pieces and over processes, sizes, averages, runs that are killed."""

import csv
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.commands import TINY, command
from yolov2 import train
from yolov2.checkpoint import load_checkpoint
from yolov2.errors import UserError
from yolov2.train_config import TrainConfig
from yolov2.training.config import LoopConfig
from yolov2.training.loop import Plan
from yolov2.training.sizes import Sizes
from yolov2.training.state import Ema, Progress

ROOT = Path(__file__).parents[1]


def rows(folder, without=("seconds",)):
    """The numbers of results.csv, but for the clock; -1 where there is none."""
    with (folder / "results.csv").open() as file:
        return [[float(v or -1) for k, v in row.items() if k not in without] for row in csv.DictReader(file)]


def run(data, project, name, *flags):
    """The folder of a finished run of two epochs of three updates, two pictures each."""
    argv = ("--data", data, "--project", project, "--name", name, *TINY, *flags)
    assert command(train.main, *argv) == 0
    return project / name


def distributed(processes, data, project, name, *flags):
    """The same with processes on this machine, as a user starts them."""
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--standalone",
    ]
    argv = ["-m", "yolov2.train", "--data", data, "--project", project, "--name", name, *TINY, *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        list(map(str, torchrun + argv)), env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("minutes in all") == 1  # one of them speaks
    return project / name


# few steps at a low rate: what is compared is one computation in two orders, not two chaotic paths
SAME = ("--nominal-batch", "6", "--lr", "1e-4", "--burn-in", "0")


class TestOneNominalBatch:
    """Pieces, processes: the same pictures, the same update."""

    @pytest.fixture
    def pieces(self, small_data, tmp_path):
        return run(small_data, tmp_path, "pieces", *SAME, "--batch", "3")

    def test_pieces_differ_from_the_whole_by_batch_norm_alone(self, small_data, pieces, tmp_path):
        whole = run(small_data, tmp_path, "whole", *SAME, "--batch", "6")
        first, second = rows(pieces)[0], rows(whole)[0]
        assert first[:4] == second[:4] and first != second
        np.testing.assert_allclose(first[4:], second[4:], rtol=1)

    def test_two_processes_are_two_pieces(self, small_data, pieces, tmp_path):
        both = distributed(2, small_data, tmp_path, "two", *SAME, "--batch", "3")
        np.testing.assert_allclose(rows(both), rows(pieces), rtol=1e-4)
        first, second = (load_file(folder / "last.safetensors") for folder in (both, pieces))
        for name in first:
            # statistics are averaged over processes and follow one another in pieces
            if ".running_" not in name and ".num_batches" not in name and not name.startswith("rng"):
                torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)

    def test_with_synchronised_statistics_they_are_the_whole(self, small_data, tmp_path):
        both = distributed(2, small_data, tmp_path, "two", *SAME, "--batch", "3", "--sync-bn")
        whole = run(small_data, tmp_path, "whole", *SAME, "--batch", "6")
        np.testing.assert_allclose(rows(both), rows(whole), rtol=1e-4)
        first, second = (load_file(folder / "last.safetensors") for folder in (both, whole))
        for name in first:
            if not name.startswith(("rng", "momentum")):  # which at 1e-4 of rate has no weight yet
                torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)

    def test_rate_follows_the_nominal_batch(self):
        rates = [
            TrainConfig(model="yolov2-voc", nominal_batch=n).resolved(torch.device("cpu")).lr
            for n in (64, 16)
        ]
        assert rates == [0.001, 0.00025]
        assert TrainConfig(nominal_batch=16, lr=0.5).resolved(torch.device("cpu")).lr == 0.5


@pytest.mark.parametrize(
    "pictures, nominal, epochs, wanted",
    [(205, 64, 10, (64, 3, 30)), (6, 64, 2, (6, 1, 2)), (64, 64, 1, (64, 1, 1)), (3, 2, 5, (2, 1, 5))],
)
def test_plan(pictures, nominal, epochs, wanted):
    plan = Plan(pictures, nominal, epochs)
    assert (plan.per_update, plan.per_epoch, plan.updates) == wanted


class TestMultiScale:
    def test_sizes(self):
        sizes = Sizes(320, 608, 80200, seed=3)
        drawn = [sizes(n) for n in range(0, 80000, 10)]
        assert set(drawn) == set(range(320, 609, 32))
        assert max(drawn.count(side) for side in set(drawn)) < 1.2 * min(
            drawn.count(side) for side in set(drawn)
        )
        assert all(sizes(n) == sizes(n // 10 * 10) for n in range(500))
        # SPEC 16: the last 200 batches are of the largest size, which is looked at every ten
        assert {sizes(n) for n in range(80010, 80200)} == {608}
        assert {Sizes(320, 320, 100)(n) for n in range(100)} == {320}

    def test_with_and_without_workers(self, small_data, tmp_path, capsys):
        flags = ("--multi-scale", "64,128", "--epochs", "12", "--eval-every", "12")
        first, second = (run(small_data, tmp_path, n, *flags, "--workers", n) for n in ("0", "2"))
        assert rows(first) == rows(second)
        assert "64x64 pixels to 128x128, a new size every 10 updates" in capsys.readouterr().out

    def test_trained_at_many_sizes_evaluated_at_one(self, small_data, tmp_path):
        folder = run(small_data, tmp_path, "multi", "--multi-scale", "64,128")
        assert load_checkpoint(folder / "best.safetensors").imgsz == 64


def test_pictures_on_the_device(small_data, tmp_path):
    """The same run but for the rounding of pictures to bytes."""
    flags = ("--nominal-batch", "6", "--lr", "1e-4")
    here, there = (run(small_data, tmp_path, c, *flags, "--cache", c) for c in ("memory", "device"))
    np.testing.assert_allclose(rows(here), rows(there), rtol=0.02)
    assert rows(here) != rows(there)


class TestAverage:
    def test_follows(self):
        network = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
        ema = Ema(network, 0.9)
        with torch.no_grad():
            network[0].weight.fill_(8.0)
            network[1].running_mean.fill_(4.0)
        before = ema.network[0].weight.item()
        ema.follow(network, ema.share(1))  # (1 + 1) / (10 + 1) of the old average is kept
        assert ema.network[0].weight.item() == pytest.approx(before * 2 / 11 + 8 * 9 / 11)
        assert ema.network[1].running_mean.item() == pytest.approx(4 * 9 / 11)

    def test_is_what_is_kept_as_best(self, small_data, tmp_path):
        folder = run(small_data, tmp_path, "ema", "--ema", "0.99")
        best, last = (load_file(folder / f"{n}.safetensors") for n in ("best", "last"))
        key = "blocks.0.conv.weight"
        assert torch.equal(best[key], last[f"ema/{key}"]) and not torch.equal(best[key], last[key])


def test_long_gradients_are_cut(small_data, tmp_path):
    free, cut = (run(small_data, tmp_path, n, *f) for n, f in (("a", ()), ("b", ("--clip", "1e-9"))))
    start = load_file(run(small_data, tmp_path, "c", "--lr", "1e-30") / "last.safetensors")
    moved = [
        (load_file(f / "last.safetensors")["blocks.0.conv.weight"] - start["blocks.0.conv.weight"])
        .abs()
        .max()
        for f in (free, cut)
    ]
    assert moved[0] > 1e-4 and moved[1] < 1e-5  # what is left is decay


def test_no_objects(small_data, tmp_path, capsys):
    """A batch of mere background has a loss, and it is no nan."""
    from tests.commands import add_picture

    for i in range(4):
        add_picture(tmp_path / "data" / "train", f"empty{i}", [])
    add_picture(tmp_path / "data" / "train", "one", [("red", (5, 5, 40, 40))])
    add_picture(tmp_path / "data" / "val", "one", [("red", (5, 5, 40, 40))])
    folder = run(tmp_path / "data", tmp_path, "run", "--nominal-batch", "1")
    assert np.isfinite([row[4] for row in rows(folder)]).all()
    assert "no objects in this batch" in capsys.readouterr().err


class TestTooLarge:
    def test_batch_is_halved_until_it_fits(self, small_data, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr("yolov2.training.loop.Trainer._fits", lambda self, batch: batch <= 3)
        run(small_data, tmp_path, "run", "--nominal-batch", "6")
        assert "each on 6 pictures, in 2 pieces of 3" in capsys.readouterr().out

    def test_given_batch_is_refused(self, small_data, tmp_path, monkeypatch):
        monkeypatch.setattr("yolov2.training.loop.Trainer._fits", lambda self, batch: False)
        config = TrainConfig(data=small_data, imgsz=64, epochs=1, batch=4, project=tmp_path)
        with pytest.raises(UserError, match=r"4 pictures of 64 pixels do not fit .* smaller --batch"):
            train.train(config)

    def test_the_trial_leaves_no_trace(self, small_data, tmp_path):
        """The largest size is tried before the first step: same bits as without."""
        flags = ("--multi-scale", "64,128", "--lr", "1e-30", "--epochs", "1")
        tried = load_file(run(small_data, tmp_path, "a", *flags) / "last.safetensors")
        plain = load_file(
            run(small_data, tmp_path, "b", "--lr", "1e-30", "--epochs", "1") / "last.safetensors"
        )
        assert torch.equal(tried["blocks.0.conv.weight"], plain["blocks.0.conv.weight"])
        assert torch.equal(tried["rng/cpu"], plain["rng/cpu"])


class Killed:
    """Runs `train` in a fork of this process, which is quick to start, and kills it."""

    def __init__(self, config: TrainConfig):
        self.config = config

    def start(self) -> int:
        """The number of the new process."""
        folder = self.config.project / self.config.name
        resume = (folder / "last.safetensors").exists()
        if not resume:  # killed before its first update: nothing is lost
            shutil.rmtree(folder, ignore_errors=True)
        child = os.fork()
        if child:
            return child
        try:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                os.dup2(nowhere.fileno(), 2)
            train.train(TrainConfig(resume=folder, device="cpu") if resume else self.config)
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)


@pytest.mark.slow
def test_thirty_kills(small_data, tmp_path):
    """kill -9 at random moments: none is the end of the run, whose end is that of an unbroken one."""
    config = TrainConfig(
        data=small_data,
        imgsz=64,
        epochs=60,
        nominal_batch=2,
        eval_every=3,
        ema=0.99,
        device="cpu",
        project=tmp_path,
        name="killed",
        save_every=0,
        multi_scale=(64, 96),
    )
    chance, kills = random.Random(0), 0
    killed = Killed(config)
    while kills < 30:
        child = killed.start()
        time.sleep(chance.uniform(0.01, 0.45))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):  # it was done before
            assert os.WEXITSTATUS(status) == 0
            break
        kills += 1
        last = tmp_path / "killed" / "last.safetensors"
        if last.exists():
            load_checkpoint(last)
    assert kills == 30, "too quick a run: make it longer"
    child = killed.start()
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 0
    whole = train.train(TrainConfig(**{**vars(config), "name": "whole"})).folder
    ours, theirs = (load_file(f / "last.safetensors") for f in (tmp_path / "killed", whole))
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert rows(tmp_path / "killed") == rows(whole)


def test_sigterm_saves(small_data, tmp_path):
    """A scheduler's farewell is as good as Ctrl-C."""
    config = TrainConfig(
        data=small_data, imgsz=64, epochs=999, nominal_batch=2, project=tmp_path, device="cpu"
    )
    child = Killed(config).start()
    last = tmp_path / "train" / "results.csv"
    patience = time.monotonic() + 60
    while not (last.exists() and len(last.read_text().splitlines()) > 1) and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    assert os.WIFEXITED(status)  # by itself, not by the signal
    assert load_checkpoint(tmp_path / "train" / "last.safetensors").progress["step"] >= 3


def test_saved_within_an_epoch(small_data, tmp_path, monkeypatch):
    """A long epoch is not lost: checkpoints come by the clock too, and training goes on from there."""
    saved = []
    original = Progress._asdict
    monkeypatch.setattr(Progress, "_asdict", lambda self: saved.append(self.batch) or original(self))
    run(small_data, tmp_path, "run", "--save-every", "0", "--epochs", "1")
    assert {1, 2, 3} <= set(saved)


class TestLoopConfig:
    def test_what_resume_would_ignore(self):
        assert LoopConfig(lr=0.5, save_every=3.0, workers=2).changed() == ["--lr"]

    def test_progress_of_nowhere(self):
        plain = Progress(epoch=1, batch=2, parts=(1.0, 2.0))._asdict()
        assert Progress.from_plain(plain, 2).parts == (1.0, 2.0)
        with pytest.raises(ValueError):
            Progress.from_plain(plain, 3)


def test_events_of_tensorboard(small_run):
    pytest.importorskip("tensorboard", reason="TENSORBOARD ABSENT: no events are written")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(small_run / "tensorboard"))
    events.Reload()
    assert [(e.step, pytest.approx(e.value, rel=1e-5)) for e in events.Scalars("loss")] == [
        (row[1], row[4]) for row in rows(small_run)
    ]

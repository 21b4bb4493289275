"""``python -m benchmarks.training``, as far as it goes on a CPU."""

import json

import pytest
import torch

from benchmarks import training
from tests.commands import assert_refused, command

SMALL = ("--imgsz", 64, "--nominal-batch", 2, "--updates", 3, "--warm-up", 1, "--device", "cpu")


@pytest.fixture
def small(monkeypatch):
    """No compiler, and no measuring of the machine, which take their time."""
    monkeypatch.setattr(torch, "compile", lambda network: network)
    monkeypatch.setattr(training, "measured_roof", lambda *_: training.Roof(1e12, 1e12))
    monkeypatch.setattr(training, "environment", lambda: {"device": "this one"})


def run(data, path, *flags):
    """The exit status, and a row for every way."""
    status = command(training.main, "--data", data, *SMALL, "--json", path, *flags)
    saved = json.loads(path.read_text())
    assert saved["environment"] == {"device": "this one"}
    return status, saved["rows"]


def test_ways_side_by_side(small, small_data, tmp_path, capsys):
    status, (eager, compiled) = run(small_data, tmp_path / "t.json", "--ways", "eager,compile")
    assert status == 0 and [eager["contender"], compiled["contender"]] == ["eager", "compile"]
    assert eager["loss"] == compiled["loss"] > 0 and eager["updates"] == 3
    for row in (eager, compiled):
        assert row["alone"] > 0 and row["busy"] == pytest.approx(row["with the loader"] / row["alone"], 0.1)
    out = capsys.readouterr().out
    assert "nano at 64 pixels, 2 pictures an update, float32, pictures in memory" in out
    assert out.splitlines()[-1].startswith("compile ")


def test_a_way_that_fails_or_learns_something_else_is_no_time(small, small_data, tmp_path, monkeypatch):
    original = training.Contender.learn

    def learn(self, batch):
        original(self, batch)
        self.loss *= 1.1 if self.way == "compile" else 1.0

    monkeypatch.setattr(training.Contender, "learn", learn)
    status, (eager, compiled) = run(small_data, tmp_path / "t.json", "--ways", "eager,compile")
    assert status == 1 and "alone" in eager and "alone" not in compiled
    assert compiled["note"] == "learns something else: its loss is off by 10.0%"

    def race(self, batch, updates):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(training.Contender, "race", race)
    status, (eager,) = run(small_data, tmp_path / "t.json")
    assert status == 1 and eager["note"].startswith("CUDA error: operation not permitted")


def test_graphs_need_a_gpu(small_data, capsys):
    flags = ("--data", small_data, *SMALL, "--ways", "eager,cuda-graph")
    assert_refused(capsys, training.main, *flags, names=("--ways eager,cuda-graph", "CUDA GPU"))

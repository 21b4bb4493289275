"""Joint training as a command: boxes and labels in every batch, resumed, on two processes, refused."""

import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import yolov2.train
from reference.region import WordTree
from tests.commands import TINY, assert_refused, command
from tests.test_training import distributed, rows
from yolov2.checkpoint import load_checkpoint
from yolov2.tree.files import save_tree

#: `red` and `blue` are the classes of `small_data`; pictures without boxes show green and one inner node
TREE = WordTree(("thing", "colour", "red", "blue", "green"), (-1, -1, 1, 1, 1))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A tree, and folders of pictures with a class."""
    folder = tmp_path_factory.mktemp("words")
    save_tree(folder / "colours.tree", TREE)
    for name, shade in (("green", (30, 200, 30)), ("colour", (200, 200, 30)), ("red", (220, 30, 30))):
        (folder / "labelled" / "train" / name).mkdir(parents=True)
        for i in range(3):
            picture = Image.new("RGB", (50 + 10 * i, 64), (90, 90, 90))
            picture.paste(shade, (5 * i, 10, 30 + 5 * i, 50))
            picture.save(folder / "labelled" / "train" / name / f"{i}.png")
    return folder


@pytest.fixture
def joint(labelled):
    """The flags of a run on both."""
    return (
        *("--tree", labelled / "colours.tree", "--classification", labelled / "labelled"),
        *("--ratio", "1", "--nominal-batch", "4"),
    )


def test_a_run(small_data, joint, tmp_path, capsys):
    assert command(yolov2.train.main, "--data", small_data, "--project", tmp_path, *TINY, *joint) == 0
    out = capsys.readouterr().out
    assert "6 with a class only, 3 nodes: 2 of every 4" in out
    checkpoint = load_checkpoint(tmp_path / "train" / "best.safetensors")
    assert checkpoint.head.tree == TREE and checkpoint.names == TREE.names
    assert checkpoint.head.class_map == (3, 2)  # blue, red
    header = (tmp_path / "train" / "results.csv").read_text().splitlines()[0]
    assert ",classification,labelled,map50" in header


@pytest.mark.parametrize("call", [2, 3, 5])
def test_resumed(small_data, joint, tmp_path, monkeypatch, call):
    """Of three pictures of a class one is held out, so an epoch is three updates."""
    where = ("--data", small_data, "--project", tmp_path, *TINY, *joint)
    assert command(yolov2.train.main, *where, "--name", "whole") == 0
    original, calls = yolov2.train.region_loss, 0

    def interrupted(*args):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return original(*args)

    monkeypatch.setattr(yolov2.train, "region_loss", interrupted)
    assert command(yolov2.train.main, *where, "--name", "cut") == 130
    monkeypatch.setattr(yolov2.train, "region_loss", original)
    assert command(yolov2.train.main, "--resume", tmp_path / "cut") == 0
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("cut", "whole"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes(small_data, joint, tmp_path):
    """The loss curve of one process that works in two pieces: the same pictures of both kinds."""
    same = (*joint, "--lr", "1e-4", "--burn-in", "0", "--sync-bn")
    both = distributed(2, small_data, tmp_path, "two", *same, "--batch", "2")
    assert (
        command(yolov2.train.main, "--data", small_data, "--project", tmp_path, *TINY, *same, "--batch", "4")
        == 0
    )
    np.testing.assert_allclose(rows(both), rows(tmp_path / "train"), rtol=1e-4)


def test_flags_that_need_a_tree(small_data, labelled, capsys):
    for flag in ("classification", "names", "map"):
        argv = ("--data", small_data, *TINY, f"--{flag}", labelled / "labelled")
        assert_refused(capsys, yolov2.train.main, *argv, names=(f"--{flag}", "--tree"))
    assert_refused(
        capsys, yolov2.train.main, "--data", small_data, *TINY, "--model", "yolo9000", names=("--tree",)
    )


def test_words_that_are_no_node(small_data, labelled, joint, tmp_path, capsys):
    save_tree(tmp_path / "other.tree", WordTree(("red", "green"), (-1, -1)))
    argv = ("--data", small_data, *TINY, *joint, "--tree", tmp_path / "other.tree")
    assert_refused(capsys, yolov2.train.main, *argv, names=("'blue'", "--map"))
    (tmp_path / "short.map").write_text("2\n")
    argv = ("--data", small_data, *TINY, *joint, "--map", tmp_path / "short.map")
    assert_refused(capsys, yolov2.train.main, *argv, names=("short.map", "1 lines", "2 classes"))
    for name in ("green", "purple"):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "labelled" / name / "a.png")
    argv = ("--data", small_data, *TINY, *joint, "--classification", tmp_path / "labelled")
    assert_refused(capsys, yolov2.train.main, *argv, names=("'purple'",))
    argv = ("--data", small_data, *TINY, *joint, "--nominal-batch", "1")
    assert_refused(capsys, yolov2.train.main, *argv, names=("--nominal-batch 1",))

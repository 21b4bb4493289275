"""yolov2.cli: every field is a flag, its text is read by its type, and mistakes are one line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch

from yolov2.cli import parse, run
from yolov2.detector import pick_device
from yolov2.errors import UserError
from yolov2.runs import new_run


@dataclass(frozen=True)
class Config:
    data: Path = field(metadata={"help": "where the pictures are"})
    batch: int = field(default=8, metadata={"help": "pictures per step, 100% of them"})
    conf: float = 0.25
    name: str = "run"
    device: Literal["cpu", "cuda"] = "cpu"
    levels: Literal[1, 2] = 1
    steps: tuple[int, ...] = (100, 200)
    size: tuple[int, float] = field(default_factory=lambda: (1, 0.5))
    seed: int | None = None
    mirror: bool = True
    resume_from: Path | None = None

    def __post_init__(self):
        if self.batch < 1:
            raise ValueError(f"batch: {self.batch} is not a positive number")


def read(*flags):
    return parse(Config, flags, "python -m yolov2.test", "Test.")


def test_defaults_are_those_of_the_dataclass():
    assert read("--data", "voc") == Config(Path("voc"))


@pytest.mark.parametrize(
    "flags, name, value",
    [
        (["--batch", "3"], "batch", 3),
        (["--conf", "1e-3"], "conf", 1e-3),
        (["--name", "none"], "name", "none"),
        (["--device", "cuda"], "device", "cuda"),
        (["--levels", "2"], "levels", 2),
        (["--steps", "1,2, 3"], "steps", (1, 2, 3)),
        (["--steps", ""], "steps", ()),
        (["--size", "3,4.5"], "size", (3, 4.5)),
        (["--seed", "7"], "seed", 7),
        (["--seed", "none"], "seed", None),
        (["--no-mirror"], "mirror", False),
        (["--mirror"], "mirror", True),
        (["--resume-from", "a/b"], "resume_from", Path("a/b")),
    ],
)
def test_every_kind_of_value(flags, name, value):
    assert getattr(read("--data", "voc", *flags), name) == value


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "required: --data"),
        (["--data", "v", "--batch", "x"], "argument --batch: expected N, got 'x'"),
        (["--data", "v", "--batch", "none"], "argument --batch: expected N, got 'none'"),
        (["--data", "v", "--batch", "0"], "error: batch: 0 is not a positive number"),
        (["--data", "v", "--device", "tpu"], "expected {cpu,cuda}, got 'tpu'"),
        (["--data", "v", "--size", "1"], "expected N,X, got '1'"),
        (["--data", "v", "--size", "1,2,3"], "expected N,X, got '1,2,3'"),
        (["--data", "v", "--steps", "1,b"], "expected N,..., got '1,b'"),
        (["--data", "v", "--bat", "3"], "unrecognized arguments: --bat 3"),
    ],
)
def test_mistakes_name_the_flag(flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        read(*flags)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_help_shows_types_and_defaults(capsys):
    with pytest.raises(SystemExit) as stopped:
        read("--help")
    assert stopped.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--data PATH where the pictures are (required)" in text
    assert "--batch N pictures per step, 100% of them (default: 8)" in text
    assert "--steps N,... (default: 100,200)" in text
    assert "--size N,X (default: 1,0.5)" in text
    assert "--seed N (default: none)" in text
    assert "--mirror, --no-mirror (default: yes)" in text


def test_unsupported_union_is_a_mistake_of_the_programmer():
    @dataclass(frozen=True)
    class Odd:
        value: int | str = 1

    with pytest.raises(TypeError, match="union"):
        parse(Odd, [], "odd", "Odd.")


def test_run_turns_outcomes_into_exit_statuses(capsys):
    def fails(argv):
        raise UserError("voc: no such folder")

    def interrupted(argv):
        raise KeyboardInterrupt

    def broken(argv):
        raise ZeroDivisionError

    assert run(lambda argv: None) == 0
    assert run(lambda argv: len(argv), ["a", "b", "c"]) == 3
    assert run(fails) == 2
    assert capsys.readouterr().err == "error: voc: no such folder\n"
    assert run(interrupted) == 130
    with pytest.raises(ZeroDivisionError):
        run(broken)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: ..."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: ..."),
    ],
)
def test_too_little_memory(error, capsys):
    def fails(argv):
        raise error

    assert run(fails) == 2
    assert capsys.readouterr().err == "error: out of memory; try a smaller --batch or --imgsz\n"


def test_too_little_memory_in_earnest(capsys):
    assert run(lambda argv: torch.empty(2**60, dtype=torch.uint8)) == 2
    assert "error: out of memory" in capsys.readouterr().err


def test_other_runtime_errors_keep_their_traceback():
    def fails(argv):
        raise RuntimeError("sizes do not match")

    with pytest.raises(RuntimeError, match="sizes"):
        run(fails)


@pytest.mark.parametrize(
    "name", ["abacus", "hpu", "privateuseone", "meta", "xla", "cuda:999", "cuda:", "cpu:1"]
)
def test_devices_that_are_none(name):
    with pytest.raises(UserError, match=rf"^--device {name}: .*; try cpu$"):
        pick_device(name)


def test_runs_are_numbered_below_their_project(tmp_path):
    folders = [new_run(tmp_path / "a" / "b", "run") for _ in range(3)]
    assert folders == [tmp_path / "a" / "b" / name for name in ("run", "run-2", "run-3")]
    assert all(folder.is_dir() for folder in folders)


@pytest.mark.parametrize("spoil", [Path.touch, lambda path: path.symlink_to(path.with_name("unmounted"))])
def test_a_project_that_is_no_folder(tmp_path, spoil):
    """A link to a disk that is not there looks taken and missing at once: it was tried for ever."""
    spoil(tmp_path / "runs")
    with pytest.raises(UserError, match=r"runs: cannot be made \(File exists\); choose another --project"):
        new_run(tmp_path / "runs", "train")

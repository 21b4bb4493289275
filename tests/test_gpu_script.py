"""The script for GPU machines, as far as it goes without one: nobody watches when it runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu

ROOT = Path(__file__).parents[1]


def script(*args):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *map(str, args)], cwd=ROOT, capture_output=True, text=True
    )


def test_list_names_every_stage(capsys):
    assert gpu.main(["--list"]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == list(gpu.STAGES)
    assert {f"bench-{p.stem.removeprefix('bench_')}" for p in ROOT.glob("benchmarks/bench_*.py")} < set(names)


def test_a_prefix_names_a_group():
    assert gpu.chosen(["sanitizer"]) == [f"sanitizer-{tool}" for tool in gpu.TOOLS]
    with pytest.raises(SystemExit, match="--stage sanit: not one of equivalence-"):
        gpu.chosen(["sanit"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path, capsys):
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().out.startswith("no GPU here") and not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_rehearsal(tmp_path):
    """A proof, a sanitizer's cases and a benchmark run unattended and leave logs, numbers and a table."""
    stages = ("equivalence-reorg", "sanitizer-memcheck", "bench-reorg")
    run = script("--out", tmp_path, "--rehearse", *(a for s in stages for a in ("--stage", s)))
    logs = {s: (tmp_path / f"{s}.log").read_text() for s in stages}
    assert run.returncode == 0, run.stdout + run.stderr + "".join(log[-2000:] for log in logs.values())
    table = run.stdout.split("\n\n")[1].splitlines()
    assert [line.split()[:2] for line in table] == [[s, "passed"] for s in stages]
    rows = json.loads((tmp_path / "bench_reorg.json").read_text())["rows"]
    assert {"triton", "torch eager", "oracle"} <= {r["contender"] for r in rows}
    assert [s["result"] for s in json.loads((tmp_path / "summary.json").read_text())["stages"]] == [
        "passed"
    ] * 3


def test_a_failing_or_endless_stage_fails_the_run(tmp_path, monkeypatch, capsys):
    def stage(code):
        return gpu.Stage("", lambda plan: [gpu.python("-c", code)])

    monkeypatch.setattr(gpu, "LIMIT", 2)
    broken = {"good": "print('fine')", "bad": "raise SystemExit(3)", "slow": "import time; time.sleep(60)"}
    monkeypatch.setattr(gpu, "STAGES", {name: stage(code) for name, code in broken.items()})
    assert gpu.main(["--out", str(tmp_path), "--rehearse"]) == 1
    results = {s["stage"]: s["result"] for s in json.loads((tmp_path / "summary.json").read_text())["stages"]}
    assert results == {"good": "passed", "bad": "exit code 3", "slow": "out of time"}
    assert "out of time" in capsys.readouterr().out

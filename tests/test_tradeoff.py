"""python -m benchmarks.tradeoff: the numbers are those of evaluate, the paper's stand beside them."""

import json

import pytest

from benchmarks import report, tradeoff
from tests.commands import assert_refused, command
from yolov2 import evaluate


def test_a_row_for_every_size(small_run, small_data, tmp_path, capsys):
    weights = small_run / "best.safetensors"
    flags = ("--weights", weights, "--data", small_data, "--out", tmp_path, "--plot", tmp_path / "curve.png")
    assert command(tradeoff.main, *flags, "--sizes", "64,288") == 0
    out = capsys.readouterr().out
    (file,) = tmp_path.glob("tradeoff-*.json")
    saved = json.loads(file.read_text())
    small, large = saved["rows"]
    assert (small["side"], small["paper_fps"], large["paper_map"], large["paper_fps"]) == (64, None, 69.0, 91)
    assert small["fps"] > 0 and large["fps"] > 0 and "288x288" in large["metric"]
    assert "| 64 |" in out and "| 288 |" in out and "not given" in out and saved["command"] in out
    numbers = tmp_path / "numbers.json"
    again = (
        "--weights",
        weights,
        "--data",
        small_data,
        "--imgsz",
        288,
        "--method",
        "voc11",
        "--json",
        numbers,
    )
    assert command(evaluate.main, *again) == 0
    assert json.loads(numbers.read_text())["map50"] == pytest.approx(large["map50"], abs=1e-6)
    assert (tmp_path / "curve.png").stat().st_size > 1000
    assert report.main([str(file)]) == 0 and "| 288 |" in capsys.readouterr().out


def test_sizes_that_do_not_fit(small_run, capsys):
    flags = ("--weights", small_run / "best.safetensors", "--sizes", "100")
    assert_refused(capsys, tradeoff.main, *flags, names=("--sizes: multiples of 32",))

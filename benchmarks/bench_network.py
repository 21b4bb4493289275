"""FPS of whole networks, one picture at a time: from bytes to boxes, beside what one would pick instead.

On a CPU all threads compute. Asserted are the numbers that this project set itself. Not by --benchmark-quick:
it runs all of this with small networks on inputs a third as wide.
"""

import pytest
import torch

from benchmarks import network_races as races
from benchmarks.report import PARTS
from benchmarks.timing import CUDA, THREADS, Result

#: a predictor -> how many times onnxruntime's time for the network alone it may take, picture to boxes
TIMES_ONNXRUNTIME = {"predictor, eager": 1.25, "predictor, onnxruntime": 1.05}
OUTSIDE = 0.04  # of the time may go into everything but the network


@pytest.mark.parametrize(("name", "side"), races.CASES, ids=str)
def test_picture_to_results(benchmark, request, tmp_path, name, side):
    quick = request.config.getoption("benchmark_quick")
    usual = (name, side) in races.CASES[:3]
    if CUDA:
        races.gpu_case(benchmark, name, side, 1, quick)
        return
    if quick:
        name, side = races.small(name, side)
    else:
        torch.set_num_threads(THREADS)
    if not usual:
        races.cpu_size_race(benchmark, name, side)
        return
    result = races.cpu_race(benchmark, name, side, tmp_path)
    if name == "yolov2-voc":
        check_numbers(result)


def check_numbers(result: Result) -> None:
    """Hold the ratios to what is asked; noise gets two chances, the medians and the quicker fifths."""
    rows = {row.contender: row for row in result.rows if not row.note and row.mode != "quoted"}
    wanted = {(name, "onnxruntime, network alone"): most for name, most in TIMES_ONNXRUNTIME.items()} | {
        (f"{name}: {PARTS[0]}", name): OUTSIDE for name in ("predictor, eager",)
    }
    for (name, beside), most in wanted.items():
        if name in rows and beside in rows:
            ours, theirs = rows[name], rows[beside]
            ratio = min(ours.median / theirs.median, ours.p20 / theirs.p20)
            assert ratio <= most, f"{name} takes {ratio:.3g} of {beside}, not {most} at most"

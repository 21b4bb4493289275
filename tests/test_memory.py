"""What training takes of the machine's memory, and that it takes no more after three hundred updates."""

import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

import yolov2.train
from tests.commands import TINY, command, make_voc

STATM = Path("/proc/self/statm")


def resident() -> int:
    """Bytes of this process in memory."""
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="NO LEAK TEST: needs /proc")
def test_three_hundred_updates_leak_nothing(small_data, tmp_path, monkeypatch):
    original, seen = yolov2.train.region_loss, []

    def counted(*args):
        seen.append(resident())
        return original(*args)

    monkeypatch.setattr(yolov2.train, "region_loss", counted)
    flags = (*TINY, "--epochs", "100", "--eval-every", "25", "--multi-scale", "64,160", "--ema", "0.99")
    assert command(yolov2.train.main, "--data", small_data, "--project", tmp_path, *flags) == 0
    assert len(seen) == 300
    early, late = median(seen[90:120]), median(seen[270:])  # by then every size was seen
    assert late < 1.02 * early, f"{early >> 20} MiB became {late >> 20} MiB"


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="of the CPU's memory")
def test_yolov2_voc_in_twelve_gigabytes(tmp_path):
    """Sixteen pictures at a time at 416 pixels, with all that a run does."""
    data = make_voc(tmp_path / "data", train=16, val=1)
    flags = "--model yolov2-voc --imgsz 416 --multi-scale 0,0 --batch 16 --nominal-batch 16 --epochs 1"
    argv = [sys.executable, "-m", "yolov2.train", "--data", data, "--project", tmp_path, *flags.split()]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(list(map(str, argv)), env=environment, check=True, capture_output=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 12 << 20  # in units of 1024 bytes

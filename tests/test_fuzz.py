"""A part of the fuzz campaign in this process; all of it is ``python -m tests.fuzz --count 20000``."""

import subprocess
import sys

from tests import fuzz

COUNT = 1500


def test_damaged_files_end_in_a_model_or_in_one_line(tmp_path):
    results = list(fuzz.run(0, range(COUNT), tmp_path))
    assert [f"case {r.number}: {r.problem}" for r in results if r.problem] == []
    outcomes = {r.outcome for r in results}
    assert {"cfg: refused", "cfg: valid, run, a model", "cfg: valid, built without memory"} <= outcomes
    assert len(results) == COUNT and sum(outcome.startswith("weights") for outcome in outcomes) >= 5


def test_a_case_is_a_function_of_its_number():
    assert fuzz.make(3, 14) == fuzz.make(3, 14) != fuzz.make(3, 15)


BROKEN = """
import os, sys, tests.fuzz
from yolov2.cfg import CfgError

case = None

def make(seed, number):
    global case
    case = number
    return tests.fuzz.Case({"a.cfg": b""}, "a.cfg")

def broken(path, *args, **options):
    match case:
        case 0:
            raise KeyError("no exception for users")
        case 1:
            raise CfgError("somewhere")
        case 2:
            bytearray(1 << 33)
        case 3:
            while True:
                pass
        case 4:
            os._exit(9)
    raise CfgError("line 1: refused")

tests.fuzz.whole_weights()  # they are read before the reader breaks
tests.fuzz.read_cfg, tests.fuzz.make, tests.fuzz.HANG = broken, make, 1
sys.exit(tests.fuzz.main(["--count", "7"]))
"""


def test_the_campaign_notices():
    """Wrong exceptions, messages without a place, memory, an endless loop, the end of the process."""
    call = [sys.executable, "-c", BROKEN]
    process = subprocess.run(call, capture_output=True, text=True, timeout=120)
    problems = [line for line in process.stdout.splitlines() if line.startswith("case ")]
    assert process.returncode == 1, process.stderr
    for number, words in enumerate(("KeyError", "does not begin", "MemoryError", "no end after", "died")):
        assert problems[number].startswith(f"case {number}: ") and words in problems[number], problems
    assert len(problems) == 5

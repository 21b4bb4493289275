"""A part of the campaign of damaged data sets; all of it is ``python -m tests.fuzz_data --count 5000``."""

import time

import pytest

from tests import fuzz_data

COUNT = 250


def test_damaged_data_sets_are_read_with_complaints_or_refused_in_one_line(tmp_path):
    results = list(fuzz_data.run(0, range(COUNT), tmp_path / "set"))
    assert [f"case {r.number}: {r.problem}" for r in results if r.problem] == []
    outcomes = {r.outcome for r in results}
    for kind in ("voc", "coco", "yolo", "darknet"):
        assert {f"{kind}: refused", f"{kind}: read, with complaints"} <= outcomes


def test_a_case_is_a_function_of_its_number():
    assert fuzz_data.make(3, 14) == fuzz_data.make(3, 14) != fuzz_data.make(3, 15)


@pytest.mark.parametrize("kind", fuzz_data.KINDS)
def test_the_sets_are_valid_before_they_are_spoilt(tmp_path, kind):
    files = {name: data or fuzz_data.picture("JPEG") for name, data in fuzz_data.sets(kind).items()}
    polygons = kind in ("yolo", "darknet")  # a row of them is in every label file
    want = f"{kind}: read, {'with complaints' if polygons else 'whole'}"
    assert fuzz_data.judge(fuzz_data.Case(kind, files, {}), tmp_path / "set") == want


@pytest.mark.parametrize(
    "broken, limit, words",
    [
        (lambda: {}["no exception for users"], 1 << 40, "KeyError"),
        (lambda: time.sleep(10), 1 << 40, "no end after"),
        (lambda: "read", 1, "memory grew"),
    ],
)
def test_the_campaign_notices(tmp_path, monkeypatch, broken, limit, words):
    monkeypatch.setattr(fuzz_data, "HANG", 1)
    monkeypatch.setattr(fuzz_data, "judge", lambda case, root: broken())
    assert words in fuzz_data.attempt(0, 1, tmp_path, limit).problem

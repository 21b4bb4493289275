"""`benchmarks.report`: tables say what the files say, documents what the tables say; a figure is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import report, timing
from benchmarks.timing import Race, Result, Row

ROOT = Path(__file__).parents[1]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]
ENVIRONMENT = {
    "device": "A Machine",
    "threads": "1",
    "torch": "2.13.0",
    "sources": "0123456789abcdef",
    "date": "2026-11-25T03:33:04+00:00",
}


def race(side, batch, eager, ours, floor):
    """A race of two, in milliseconds, a tenth of ours outside the network."""
    facts = {"network": "yolov2-voc", "side": side, "batch": batch, "threads": 2}
    facts |= {"peak_flops_per_second": 2e11, "peak_bytes_per_second": 1.5e10}
    rows = [
        Row("paper, Titan X", "quoted", median=1e6 * batch / 67),
        Row("onnxruntime, network alone", note="not installed"),
        Row("torch eager", "call", "warm", 1e3 * eager, 900 * eager, 1100 * eager, 15),
        Row("predictor, eager", "call", "warm", 1e3 * ours, 900 * ours, 1100 * ours, 15),
        Row("predictor, eager: outside the network", "part", "warm", 100 * ours, 100 * ours, 100 * ours, 15),
    ]
    case = f"yolov2-voc, {side}x{side}, B{batch}"
    return Result(report.WORK, case, batch, 10, 1e3 * floor, "", "predictor, eager", facts, rows)


@pytest.fixture
def saved(tmp_path):
    """A file of results with two sizes and one other race."""
    other = Result(
        "decode", "VOC", 1, 10, 5.0, "", rows=[Row("torch eager", "call", "warm", 50, 40, 60, 100)]
    )
    results = [race(544, 4, 800, 400, 100), race(416, 1, 100, 40, 20), other]
    content = {"environment": ENVIRONMENT, "rows": [record for r in results for record in r.records()]}
    file = tmp_path / "machine.json"
    file.write_text(json.dumps(content))
    return file


def tables(*files):
    return dict(table for file in files for table in report.Saved.read(file).tables())


def test_the_table_over_sizes(saved):
    lines = tables(saved)["machine/sizes"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head, rule, *rows = cells
    assert head[:4] == ["network, input, batch", "paper, Titan X (quoted)", "torch eager", "predictor, eager"]
    assert head[4:] == ["ours / eager", "of roofline", "outside the network"]
    assert set(rule) == {"---", "---:"}
    assert rows == [
        ["yolov2-voc 416 B1", "67", "10", "25", "2.50x", "50 %", "10.0 %"],
        ["yolov2-voc 544 B4", "67", "5", "10", "2.00x", "25 %", "10.0 %"],
    ]
    assert "A Machine, threads 2, torch 2.13.0, commit 0123456789, 2026-11-25" in lines[-1]
    assert "roofline 0.2 TFLOP/s and 15 GB/s" in lines[-1]


def test_the_table_of_a_race_tells_what_was_not_measured(saved):
    lines = "\n".join(tables(saved)["machine/pictures-to-results-yolov2-voc-416x416-b1"])
    assert "| onnxruntime, network alone: not installed |  |" in lines
    assert "| paper, Titan X (quoted) |  |  |  | 67 |" in lines
    assert "| torch eager | 100 ms | 90 to 110 | 15 | 10 | 20 % | 2.50 |" in lines
    assert "| predictor, eager: outside the network | 4 ms | 4 to 4 | 15 |  |  | 10.0 % of it |" in lines
    assert "| torch eager | 50 us | 40 to 60 |" in "\n".join(tables(saved)["machine/decode-voc"])


def test_a_document_is_written_and_then_checked(saved, tmp_path, capsys):
    document = tmp_path / "page.md"
    text = "before\n<!-- results:machine/sizes -->\nold\n<!-- end -->\nafter | 1 |\n"
    document.write_text(text)
    check, write = ([str(saved), flag, str(document)] for flag in ("--check", "--write"))
    assert report.main(check) == 1 and document.read_text() == text
    assert capsys.readouterr().err == f"{document}: machine/sizes differs from the file\n"
    assert report.main(write) == 0 and report.main(check) == 0
    written = document.read_text()
    assert written.startswith("before\n<!--") and written.endswith("<!-- end -->\nafter | 1 |\n")
    assert all(line in written.splitlines() for line in tables(saved)["machine/sizes"])
    document.write_text(written.replace("2.50x", "2.60x"))
    assert report.main(check) == 1


def test_a_table_that_is_in_no_file_is_told(saved, tmp_path, capsys):
    document = tmp_path / "page.md"
    document.write_text("<!-- results:other/sizes -->\n<!-- end -->\n")
    assert report.main([str(saved), "--write", str(document)]) == 1
    assert "other/sizes is in none of the files" in capsys.readouterr().err
    document.write_text("no marks")
    with pytest.raises(SystemExit, match=r"page.md: no table between marks"):
        report.main([str(saved), "--check", str(document)])


def test_what_is_printed_can_be_pasted(saved, tmp_path, capsys):
    report.main([str(saved)])
    document = tmp_path / "page.md"
    document.write_text(capsys.readouterr().out)
    assert report.main([str(saved), "--check", str(document)]) == 0


def test_the_documents_of_this_project_say_what_the_files_say():
    files = sorted(map(str, ROOT.glob("benchmarks/results/*.json")))
    for document in DOCUMENTS:
        if report.MARKED.search(document.read_text()):
            assert report.main([*files, "--check", str(document)]) == 0


def test_every_saved_file_has_its_tables():
    for file in ROOT.glob("benchmarks/results/*.json"):
        assert len(tables(file)) >= max(1, len(report.Saved.read(file).races()))


def test_a_chart_is_drawn(saved, tmp_path):
    pytest.importorskip("matplotlib", reason='NO PROOF OF CHARTS: pip install -e ".[plot]"')
    out = tmp_path / "chart.png"
    assert report.main([str(saved), "--plot", str(out)]) == 0
    picture = np.asarray(Image.open(out).convert("L"))
    assert picture.shape[1] > picture.shape[0] > 400 and picture.std() > 5


def test_other_files_are_refused_in_one_line(tmp_path):
    file = tmp_path / "x.json"
    for content in ("", "[]", '{"rows": []}', '{"command": "python -m benchmarks.none"}'):
        file.write_text(content)
        with pytest.raises(SystemExit, match=r"x\.json: no file of results \("):
            report.main([str(file)])


def test_a_race_counts_batches_and_quotes(monkeypatch):
    """What does its work four times a call takes a quarter of it, and a quoted number is kept as it is."""
    monkeypatch.setattr(timing, "effort", timing.Effort(seconds=0.01, most=3, least=1))
    monkeypatch.setattr(timing, "results", [])
    ticks = iter(range(0, 10**12, 4000))
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: next(ticks))
    run = Race("work", "case", 2, lambda got: None, ours="once", ways=[("call", False)])
    run.peer("once", lambda: 0)
    run.peer("four times", lambda: 0, repeats=4)
    run.quote("somebody", images_per_second=100)
    if not timing.CUDA:
        result = run.run(Silent(), 8, floor=1e-6, facts={"side": 3})
        rows = {record["contender"]: record for record in result.records()}
        assert rows["once"]["median"] == 4 and rows["four times"]["median"] == 1
        assert rows["once"]["per_cent_of_floor"] == 25 and rows["once"]["side"] == 3
        assert rows["somebody"]["images_per_second"] == pytest.approx(100)


class Silent:
    """In place of pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, call, **_):
        call()

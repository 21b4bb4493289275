"""Every benchmark runs on one CPU thread; the table of all races is printed last and can be saved."""

import json
from pathlib import Path

import pytest

from benchmarks import timing


@pytest.fixture(autouse=True)
def one_thread():
    """See `timing.one_thread`."""
    with timing.one_thread():
        yield


def pytest_configure(config):
    """One table is enough; --benchmark-quick: just enough to see that everything runs."""
    config.option.benchmark_quiet = True
    if config.getoption("benchmark_quick"):
        timing.effort = timing.Effort(seconds=0.05, most=3, least=1, compile=0.0)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter, config):
    """Print what was measured, and write it where --benchmark-results says."""
    if not timing.results:
        return
    environment = timing.environment()
    terminalreporter.section("races")
    about = ("device", "driver", "torch", "triton", "python", "commit", "date")
    terminalreporter.line(", ".join(f"{k} {environment[k]}" for k in about if environment[k]))
    terminalreporter.line(f"a large copy moves {environment['copy_gigabytes_per_second']:.4g} GB/s")
    terminalreporter.line("")
    for line in timing.report(timing.results):
        terminalreporter.line(line)
    folder = config.getoption("benchmark_results")
    if folder:
        files = {Path(i).stem for i in terminalreporter.config.args if i.endswith(".py")}
        name = files.pop() if len(files) == 1 else "benchmarks"
        file = Path(folder) / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = [record for result in timing.results for record in result.records()]
        file.write_text(json.dumps({"environment": environment, "rows": rows}, indent=1) + "\n")
        terminalreporter.line(f"written: {file}")

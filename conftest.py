"""``pytest`` runs the tests and no benchmark, ``pytest --benchmark-only`` the benchmarks and no test."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Flags of this project."""
    parser.addoption(
        "--require-backend",
        action="append",
        metavar="NAME",
        help="fail unless this backend is alive: torch, triton-interpret or triton-cuda; may be repeated",
    )
    parser.addoption("--benchmark-results", metavar="DIR", help="write what benchmarks measure here, as json")
    parser.addoption(
        "--benchmark-quick",
        action="store_true",
        help="a few samples: whether benchmarks run, not what they say",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the half that was not asked for."""
    only_benchmarks = config.getoption("benchmark_only", default=False)
    left_out = ROOT / ("tests" if only_benchmarks else "benchmarks")
    return True if collection_path.is_relative_to(left_out) else None

"""FPS of whole networks, 64 pictures at a time, on a GPU; see `bench_network.py`."""

import pytest

from benchmarks import network_races as races


@pytest.mark.parametrize(("name", "side"), races.CASES, ids=str)
def test_pictures_to_results(benchmark, request, name, side):
    races.gpu_case(benchmark, name, side, 64, request.config.getoption("benchmark_quick"))

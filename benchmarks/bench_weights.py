"""Darknet's weights into a network, from a file of the size of yolov2.weights (204 MB)."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from benchmarks.timing import Race
from yolov2.network import Network, load_parameters, uninitialised
from yolov2.presets import NETWORKS
from yolov2.weights import initial_parameters, read_weights, write_weights

SHAPE = (3, 416, 416)
NO_GRAPH = "reads a file on the CPU"
LAYERS = NETWORKS["yolov2"].build()
MEMORY = """
import sys
from yolov2.network import load_parameters, uninitialised
from yolov2.presets import NETWORKS
from yolov2.weights import read_weights

def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))

layers, shape = NETWORKS["yolov2"].build(), (3, 416, 416)
before = peak()
network = uninitialised(layers, shape, "darknet")
load_parameters(network, read_weights(sys.argv[1], layers, shape)[1])
print((peak() - before) * 1024)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "yolov2.weights"
    write_weights(path, LAYERS, initial_parameters(LAYERS, SHAPE, np.random.default_rng(0)), seen=1)
    return path


def load(path):
    """What `yolov2.load` does: the file mapped, copied in pieces into parameters nobody initialised."""
    network = uninitialised(LAYERS, SHAPE, "darknet")
    load_parameters(network, read_weights(path, LAYERS, SHAPE)[1])
    return network


def load_plainly(path):
    """The file read as a whole, into a network that was initialised first."""
    parameters = read_weights(path, LAYERS, SHAPE)[1]
    network = Network(LAYERS, SHAPE, "darknet")
    copies = [{name: array.copy() for name, array in arrays.items()} for arrays in parameters]
    load_parameters(network, copies)
    return network


def test_load(benchmark, file):
    want = {
        f"blocks.{index}.conv.weight": arrays["weights"]
        for index, arrays in enumerate(read_weights(file, LAYERS, SHAPE)[1])
        if arrays
    }

    def check(network):
        got = network.state_dict()
        for name, array in want.items():
            np.testing.assert_array_equal(got[name].numpy(), array)

    size = file.stat().st_size
    race = Race("weights", f"yolov2, {size / 1e6:.0f} MB", 1, check, "1 s")
    race.ours(lambda: load(file), graph=NO_GRAPH, torch_graph=NO_GRAPH)
    race.peer("initialised, read as a whole", lambda: load_plainly(file), NO_GRAPH)
    race.run(benchmark, 2 * size)


def test_memory(benchmark, file):
    """Peak memory beyond what was there before, as a multiple of the file; the target is 1.2."""
    call = [sys.executable, "-c", MEMORY, str(file)]
    sizes = []
    benchmark.pedantic(
        lambda: sizes.append(int(subprocess.run(call, capture_output=True, text=True, check=True).stdout)),
        rounds=3,
    )
    ratio = float(torch.tensor(sizes, dtype=torch.float64).median()) / file.stat().st_size
    benchmark.extra_info["peak memory, times the file"] = ratio
    print(f"\npeak memory while loading: {ratio:.3f} times the file")
    assert ratio < 1.2

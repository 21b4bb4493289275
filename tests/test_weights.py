"""Reading weights files: the two headers, the order of arrays, files too short and too long."""

import struct

import numpy as np
import pytest

from reference.layers import AvgPool, Connected, Conv, Dropout, Local, MaxPool
from reference.network import forward
from yolov2.weights import initial_parameters, parameter_shapes, read_weights

INPUT = (2, 3, 3)
LAYERS = [
    Conv(4, 3, batch_norm=True),  # 4 + 4 + 4 + 4 + 4*2*3*3 = 88 floats
    MaxPool(2, 1),
    Conv(2, 1, batch_norm=False, activation="linear", groups=2),  # 2 + 2*2 = 6
    Local(1, 3),  # 9 + 9 * 1*2*3*3 = 171
    Connected(2, batch_norm=True),  # 2 + 2*9 + 2 + 2 + 2 = 26
]
FLOATS = 88 + 6 + 171 + 26
NEW = struct.pack("<3iq", 0, 2, 0, 2**40)  # 20 bytes: 64-bit image counter
OLD = struct.pack("<3ii", 0, 1, 0, 1234)  # 16 bytes
TRANSPOSED = struct.pack("<3ii", 1001, 0, 0, 1234)


@pytest.fixture
def file(tmp_path):
    """Write a header and the numbers 0, 1, 2, ... to a file."""

    def write(header, count, extra=b""):
        path = tmp_path / "some.weights"
        path.write_bytes(header + np.arange(count, dtype="<f4").tobytes() + extra)
        return path

    return write


def test_order_of_arrays(file):
    header, (conv, pool, grouped, local, connected) = read_weights(file(NEW, FLOATS), LAYERS, INPUT)
    assert (header.version, header.seen) == ((0, 2, 0), 2**40)
    assert (header.filled_layers, header.unfilled_layers, header.leftover_bytes) == (4, 0, 0)
    # convolution: statistics before the weights, fully connected: after them
    assert list(conv) == ["biases", "scales", "rolling_mean", "rolling_variance", "weights"]
    assert [a.flat[0] for a in conv.values()] == [0, 4, 8, 12, 16]
    assert conv["weights"].shape == (4, 2, 3, 3)
    assert pool == {}
    assert [(a.shape, a.flat[0]) for a in grouped.values()] == [((2,), 88), ((2, 2, 1, 1), 90)]
    assert local["biases"].shape == (1, 3, 3)
    assert local["weights"].shape == (9, 1, 2 * 3 * 3)
    assert list(connected) == ["biases", "weights", "scales", "rolling_mean", "rolling_variance"]
    assert connected["rolling_variance"].tolist() == [FLOATS - 2, FLOATS - 1]
    assert all(a.dtype == np.float32 for arrays in (conv, local, connected) for a in arrays.values())


def test_old_header(file):
    header, _ = read_weights(file(OLD, FLOATS), LAYERS, INPUT)
    assert (header.version, header.seen, header.leftover_bytes) == ((0, 1, 0), 1234, 0)


def test_transposed_matrices(file):
    layers = [Connected(2)]
    _, (plain,) = read_weights(file(OLD, 8), layers, (3, 1, 1))
    _, (transposed,) = read_weights(file(TRANSPOSED, 8), layers, (3, 1, 1))
    np.testing.assert_array_equal(plain["weights"], [[2, 3, 4], [5, 6, 7]])
    np.testing.assert_array_equal(transposed["weights"], [[2, 4, 6], [3, 5, 7]])


@pytest.mark.parametrize(
    ("floats", "filled", "leftover"), [(0, 0, 0), (88, 1, 0), (89, 1, 4), (94, 2, 0), (FLOATS, 4, 0)]
)
def test_short_files_fill_the_first_layers(file, floats, filled, leftover):
    header, parameters = read_weights(file(NEW, floats), LAYERS, INPUT)
    assert (header.filled_layers, header.unfilled_layers) == (filled, 4 - filled)
    assert header.leftover_bytes == leftover
    assert sum(map(bool, parameters)) == filled


def test_extra_bytes_are_counted(file):
    header, _ = read_weights(file(NEW, FLOATS, b"extra"), LAYERS, INPUT)
    assert (header.unfilled_layers, header.leftover_bytes) == (0, 5)


@pytest.mark.parametrize("content", [b"", NEW[:12], NEW[:16]])
def test_files_without_a_whole_header_are_refused(tmp_path, content):
    path = tmp_path / "cut.weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\.weights: \d+ bytes are too few"):
        read_weights(path, LAYERS, INPUT)


def test_initial_parameters():
    layers = [Conv(64, 3, groups=2), Connected(500), Dropout()]
    conv, connected, nothing = initial_parameters(layers, (64, 2, 2), np.random.default_rng(0))
    assert nothing == {}
    assert conv["weights"].std() == pytest.approx((2 / (3 * 3 * 64 / 2)) ** 0.5, rel=0.02)
    assert connected["weights"].std() == pytest.approx((2 / (64 * 2 * 2)) ** 0.5, rel=0.02)
    for name, value in {"biases": 0, "scales": 1, "rolling_mean": 0, "rolling_variance": 0}.items():
        np.testing.assert_array_equal(conv[name], np.full(64, value, np.float32))


def test_the_network_runs_on_them():
    layers = [*LAYERS[:-1], AvgPool()]
    parameters = initial_parameters(layers, INPUT, np.random.default_rng(0))
    shapes = [{name: a.shape for name, a in arrays.items()} for arrays in parameters]
    assert shapes == parameter_shapes(layers, INPUT)
    outputs = forward(layers, parameters, np.ones((2, *INPUT), np.float32))
    assert [y.shape[1:] for y in outputs] == [(4, 3, 3), (4, 3, 3), (2, 3, 3), (1, 3, 3), (1, 1, 1)]
    assert all(y.dtype == np.float32 for y in outputs)

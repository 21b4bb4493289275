"""Weights files both ways: the two headers, the order of arrays, files too short, too long and no weights."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.layers import AvgPool, BatchNorm, Connected, Conv, Dropout, Local, MaxPool, Softmax
from reference.network import forward
from yolov2.cfg import Config, HeadTraining, Net
from yolov2.errors import UserError
from yolov2.loading import load
from yolov2.network import Network, get_parameters, load_parameters, uninitialised
from yolov2.weights import (
    initial_parameters,
    parameter_shapes,
    read_weights,
    release,
    write_weights,
)

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
    header, parameters = read_weights(file(NEW, floats), LAYERS, INPUT, strict=False)
    assert (header.filled_layers, header.unfilled_layers) == (filled, 4 - filled)
    assert header.leftover_bytes == leftover
    assert sum(map(bool, parameters)) == filled


def test_extra_bytes_are_counted(file):
    header, _ = read_weights(file(NEW, FLOATS, b"extra"), LAYERS, INPUT, strict=False)
    assert (header.unfilled_layers, header.leftover_bytes) == (0, 5)


@pytest.mark.parametrize(
    ("floats", "extra", "complaint"),
    [
        (0, b"", r"short: layer 0 \(Conv\) needs 352 bytes, 0 are left; .* 1,184 bytes, this one has 20$"),
        (93, b"xyz", r"short: layer 2 \(Conv\) needs 24 bytes, 23 are left; .* bytes, this one has 395$"),
        (FLOATS, b"extra", r"long: 5 bytes are left after the last layer.* 1,184 .*, this one has 1,189$"),
    ],
)
def test_files_of_a_wrong_length_are_refused(file, floats, extra, complaint):
    with pytest.raises(ValueError, match=rf"some\.weights: too {complaint}"):
        read_weights(file(NEW, floats, extra), LAYERS, INPUT)


def test_reading_up_to_a_layer(file):
    header, parameters = read_weights(file(NEW, FLOATS), LAYERS, INPUT, cutoff=3)
    assert (header.filled_layers, header.unfilled_layers, header.leftover_bytes) == (2, 0, (171 + 26) * 4)
    assert [bool(arrays) for arrays in parameters] == [True, False, True, False, False]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 203934260\n", "Git LFS"),
        (b"<!DOCTYPE html>\n<html><title>Not found", "web page"),
        (b"\n  <HTML><body>Quota exceeded</body>", "web page"),
        (b'{"error": "not found", "status": 404}', "JSON"),
        (b"PK\x03\x04" + 40 * b"\0", "PyTorch"),
        (b"\x1f\x8b" + 40 * b"\0", "gzip"),
        (b"[net]\nbatch=1\nwidth=416", "cfg"),
        (b"\x89PNG\r\n\x1a\n" + 40 * b"\0", r"begins with version 1196314761\."),
    ],
)
def test_what_else_was_downloaded_is_said(tmp_path, content, what):
    path = tmp_path / "yolov2.weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"yolov2\.weights: not a weights file.*{what}"):
        read_weights(path, LAYERS, INPUT)


convolutions = st.builds(
    Conv,
    filters=st.sampled_from([2, 4]),
    size=st.integers(1, 3),
    batch_norm=st.booleans(),
    groups=st.integers(1, 2),
    flipped=st.booleans(),
)
connections = st.builds(Connected, outputs=st.integers(1, 3), batch_norm=st.booleans())
versions = st.sampled_from(
    [(0, 1, 0), (0, 2, 0), (0, 2, 5), (1, 0, 0), (1001, 0, 0), (0, 1001, 3), (0, 0, 9)]
)


@given(
    st.lists(st.one_of(convolutions, st.sampled_from([MaxPool(2, 1), BatchNorm(), Dropout()])), max_size=5),
    st.lists(st.one_of(connections, st.just(Local(2, 1, pad=0))), max_size=2),
    versions,
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 2**32 - 1),
)
def test_file_to_model_to_file_is_the_same_bytes(tmp_path_factory, maps, flats, version, seen, seed):
    layers = [*maps, *flats]
    folder = tmp_path_factory.mktemp("weights", numbered=True)
    shapes = parameter_shapes(layers, INPUT)
    count = sum(int(np.prod(shape)) for arrays in shapes for shape in arrays.values())
    wide = version[0] * 10 + version[1] >= 2 and max(version[:2]) < 1000
    content = struct.pack("<3iq" if wide else "<3ii", *version, seen)
    content += np.random.default_rng(seed).bytes(4 * count)  # any bits, those of NaN too
    (folder / "in.weights").write_bytes(content)

    header, parameters = read_weights(folder / "in.weights", layers, INPUT)
    assert (header.version, header.seen, header.unfilled_layers, header.leftover_bytes) == (
        version,
        seen,
        0,
        0,
    )
    assert [{name: a.shape for name, a in arrays.items()} for arrays in parameters] == shapes
    write_weights(folder / "out.weights", layers, parameters, header.seen, header.version)
    assert (folder / "out.weights").read_bytes() == content

    network = Network(layers, INPUT)  # and through torch
    load_parameters(network, parameters)
    write_weights(folder / "in.weights", layers, get_parameters(network), header.seen, header.version)
    assert (folder / "in.weights").read_bytes() == content


def test_a_file_may_be_written_over_the_one_that_was_read(file):
    path = file(NEW, FLOATS)
    content = path.read_bytes()
    header, parameters = read_weights(path, LAYERS, INPUT)
    write_weights(path, LAYERS, parameters, header.seen)
    assert path.read_bytes() == content
    assert parameters[0]["biases"].tolist() == [0, 1, 2, 3]  # still those of the file that was read
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_partial_files(file, tmp_path):
    """`darknet partial`: the first layers of a network, with the counter of images set back."""
    path, partial = file(NEW, FLOATS), tmp_path / "some.conv.3"
    _, parameters = read_weights(path, LAYERS, INPUT)
    write_weights(partial, LAYERS, parameters, seen=12345, cutoff=3)
    assert partial.read_bytes() == struct.pack("<3iq", 0, 2, 0, 0) + path.read_bytes()[20 : 20 + 94 * 4]
    header, again = read_weights(partial, LAYERS, INPUT, strict=False)
    assert (header.seen, header.filled_layers, header.unfilled_layers) == (0, 2, 2)
    np.testing.assert_array_equal(again[0]["weights"], parameters[0]["weights"])
    with pytest.raises(ValueError, match=r"layer 3 \(Local\): biases are missing"):
        write_weights(tmp_path / "whole.weights", LAYERS, again)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["some.conv.3", "some.weights"]


@pytest.mark.parametrize("cutoff", [0, 6])
def test_a_cutoff_beyond_the_network(file, tmp_path, cutoff):
    _, parameters = read_weights(file(NEW, FLOATS), LAYERS, INPUT)
    with pytest.raises(ValueError, match=rf"cutoff: {cutoff} is not from 1 to the 5 layers"):
        write_weights(tmp_path / "part.weights", LAYERS, parameters, cutoff=cutoff)


def test_a_counter_that_does_not_fit(tmp_path):
    with pytest.raises(ValueError, match=r"seen: 1099511627776 does not fit"):
        write_weights(tmp_path / "old.weights", [], [], seen=2**40, version=(0, 1, 0))


def test_released_memory_comes_back(file):
    _, parameters = read_weights(file(NEW, FLOATS), LAYERS, INPUT)
    for array in (parameters[0]["weights"], parameters[0]["weights"][1:], np.zeros(3), np.zeros(0)):
        before = array.copy()
        release(array)
        np.testing.assert_array_equal(array, before)


def test_an_uninitialised_network_is_filled(file):
    _, parameters = read_weights(file(NEW, FLOATS), LAYERS, INPUT)
    for network in (uninitialised(LAYERS, INPUT), Network(LAYERS, INPUT)):
        load_parameters(network, parameters)
        for got, want in zip(get_parameters(network), parameters, strict=True):
            for name in want:
                np.testing.assert_array_equal(got[name], want[name])
    assert network.state_dict().keys() == uninitialised(LAYERS, INPUT).state_dict().keys()


@pytest.mark.parametrize("content", [b"", NEW[:12], NEW[:16]])
def test_files_without_a_whole_header_are_refused(tmp_path, content):
    path = tmp_path / "cut.weights"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cut\.weights: \d+ bytes are too few"):
        read_weights(path, LAYERS, INPUT)


@pytest.mark.parametrize(
    ("layers", "classes"),
    [
        ([Conv(4, 1), Softmax()], 4 * 8 * 8),  # of a whole map
        ([Conv(4, 1), Softmax(), AvgPool(), Connected(3), Softmax()], 3),  # and not what the first one finds
    ],
)
def test_a_classifier_has_as_many_classes_as_its_last_softmax(tmp_path, layers, classes):
    path = tmp_path / "a.weights"
    write_weights(path, layers, initial_parameters(layers, (3, 8, 8), np.random.default_rng(0)))
    model = load(path, Config(Net(8, 8, 3), layers, HeadTraining()), device="cpu")
    assert model.classes == len(model.names) == classes


def test_no_size_of_input_asks_for_more_than_the_limits(tmp_path):
    """Nor does a file that is too short and may be."""
    (tmp_path / "a.weights").write_bytes(NEW)
    config = Config(Net(), [Conv(999_999), AvgPool(), Softmax()], HeadTraining())
    with pytest.raises(
        UserError, match=r"layer 0 \(Conv\): 1,023,998,976 values in one layer's output; at most"
    ):
        load(tmp_path / "a.weights", config, imgsz=32, strict=False, device="cpu")


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

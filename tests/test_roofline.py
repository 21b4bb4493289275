"""The work of networks, counted by hand, and the floors that follow from it."""

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reference.layers import (
    AvgPool,
    Connected,
    Conv,
    Cost,
    Crop,
    Dropout,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
)
from yolov2.inference import roofline
from yolov2.inference.roofline import Roof, Work, layer_work, measured_roof, timed, work_of
from yolov2.presets import NETWORKS
from yolov2.summary import summary

# after a map of 4x8x8 that is made from 2x8x8: layer, values it reads and writes, values of its parameters
LAYERS = [
    (Conv(6, 3, 2), 4 * 64 + 6 * 16, 6 * 4 * 9 + 6),
    (Conv(6, 3, groups=2, batch_norm=False), 4 * 64 + 6 * 64, 6 * 2 * 9 + 6),
    (Connected(5), 4 * 64 + 5, 5 * 4 * 64 + 5),
    (Local(3), 4 * 64 + 3 * 64, 64 * 3 * 4 * 9 + 3 * 64),
    (MaxPool(), 4 * 64 + 4 * 16, 0),
    (AvgPool(), 4 * 64 + 4, 0),
    (Reorg(2), 2 * 4 * 64, 0),
    (Upsample(2), 4 * 64 + 4 * 256, 0),
    (Crop(4, 6), 2 * 4 * 24, 0),
    (Shortcut(-2), 3 * 4 * 64, 0),
    (Route((-1, -2)), 4 * 4 * 64, 0),
    (Route((-2,)), 0, 0),
    (Dropout(), 0, 0),
    (Softmax(), 0, 0),
    (Cost(), 0, 0),
]


@pytest.mark.parametrize("layer, values, parameters", LAYERS, ids=lambda x: str(x)[:40])
def test_bytes_of_a_layer(layer, values, parameters):
    """Maps once for every picture, parameters once for all, each value at its precision."""
    work = layer_work([Conv(4), Conv(4), layer], (2, 8, 8), 3, 2)[-1]
    assert work.bytes == 2 * (3 * values + parameters)


@pytest.mark.parametrize("name", ["yolov2-voc", "yolov1", "darknet19"])
def test_a_network_does_the_work_of_its_layers(name):
    layers, shape = NETWORKS[name].build(), (3, 448, 448)
    rows = summary(layers, shape)
    one, eight = work_of(layers, shape), work_of(layers, shape, 8)
    assert eight.flops == 8 * one.flops == 8 * sum(row.flops for row in rows)
    # what does not grow with the batch are the weights: one bias for the scales and statistics of a filter
    weights = (8 * one.bytes - eight.bytes) / 7 / 4
    filters = sum(row.layer.filters for row in rows if isinstance(row.layer, Conv) and row.layer.batch_norm)
    assert weights == sum(row.learnable for row in rows) - filters


def test_a_layer_that_does_not_fit_is_named():
    with pytest.raises(ValueError, match=r"layer 1 \(Reorg\)"):
        work_of([Conv(4), Reorg(2)], (3, 15, 16))


@given(st.integers(0, 10**15), st.integers(0, 10**12), st.floats(1e6, 1e16), st.floats(1e6, 1e13))
def test_the_floor_is_the_slower_of_computing_and_moving(flops, moved, peak, bandwidth):
    floor = Work(flops, moved).seconds(Roof(peak, bandwidth))
    assert floor in (flops / peak, moved / bandwidth)
    assert floor * peak >= flops * (1 - 1e-9) and floor * bandwidth >= moved * (1 - 1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_roof_is_measured(dtype, monkeypatch):
    monkeypatch.setattr(roofline, "MATRIX", {"cpu": 128})
    monkeypatch.setattr(roofline, "COPY", {"cpu": 1 << 16})
    before = torch.backends.cuda.matmul.allow_tf32
    roof = measured_roof(torch.device("cpu"), dtype)
    assert 1e6 < roof.flops < 1e15 and 1e6 < roof.bytes < 1e13
    assert torch.backends.cuda.matmul.allow_tf32 == before


def test_seconds_are_those_of_the_calls():
    """The first call, which compiles and allocates, is not counted."""
    pauses = iter([0.2, 0.01, 0.02])
    seconds = timed(lambda: time.sleep(next(pauses)), torch.device("cpu"), 2)
    assert 0.01 <= seconds[0] < 0.2 and 0.02 <= seconds[1] < 0.2

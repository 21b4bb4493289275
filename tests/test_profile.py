"""`python -m yolov2.profile`: times land on the steps that take them, and the table says what was run."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import yolov2
from fast.letterbox import pack
from reference.layers import head_index
from tests.commands import assert_refused, command
from tests.models import NETWORKS, noise, write_darknet
from yolov2.inference import profiling, roofline
from yolov2.inference.predictor import Predictor, Prepared
from yolov2.inference.profiling import Profile, Step, profile
from yolov2.inference.roofline import Roof, Work, work_of
from yolov2.letterbox import pixels
from yolov2.profile import main, random_model, table

PICTURES = [noise(70, 40), noise(33, 64, 1)]
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def quick_roof(monkeypatch):
    monkeypatch.setitem(roofline.MATRIX, "cpu", 64)
    monkeypatch.setitem(roofline.COPY, "cpu", 1 << 16)


def predictor_of(tmp_path, name, device="cpu", **options):
    return Predictor(yolov2.load(write_darknet(tmp_path, name), device=device), **options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_from_pictures_to_results(name, device, tmp_path):
    predictor = predictor_of(tmp_path, name, device)
    before = predictor(PICTURES)
    result = profile(predictor, PICTURES, 2, layers=True)
    layers, shape = NETWORKS[name]
    head = head_index(list(layers))

    names = [step.name for step in result.steps]
    at = next(i for i, name in enumerate(names) if name.startswith("0 "))
    start, end = names[:at], names[at + head :]
    assert [name.split()[0] for name in names[at : at + head]] == [str(i) for i in range(head)]
    assert start == (["letterbox"] if device == "cpu" else ["pack", "upload", "letterbox"])
    assert set(end) <= {"detect", "download", "results"} and "detect" in end
    assert all(step.seconds > 0 for step in result.steps)
    assert result.whole.seconds > 0
    size = predictor.dtype.itemsize
    assert result.network.work == work_of(layers, shape, 2, size)
    assert sum(step.work.flops for step in result.steps if step.work) == result.network.work.flops
    # it is looked at, not changed
    for a, b in zip(before, predictor(PICTURES), strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, np.ndarray))


def test_time_lands_on_the_step_that_takes_it(tmp_path, monkeypatch):
    """By a clock that stands still but where a step takes its time."""
    predictor, now = predictor_of(tmp_path, "region"), 0
    predictor(PICTURES)
    monkeypatch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: now))

    def take(seconds):
        nonlocal now
        now += seconds

    def slower(seconds, plain):
        return lambda *arguments: (take(seconds), plain(*arguments))[1]

    model = predictor.model
    for index, seconds in ((0, 1), (3, 2), (4, 4)):
        predictor.run._network.blocks[index].register_forward_hook(lambda *_, s=seconds: take(s))
    monkeypatch.setattr(model, "_rows", slower(8, model._rows))
    monkeypatch.setattr(model, "_read_rows", slower(16, model._read_rows))
    result = profile(predictor, PICTURES, 3, read=lambda: take(32))
    assert [(step.name, step.seconds) for step in result.steps] == [
        ("read", 32),
        ("letterbox", 0),
        ("layer 0, 48x32", 1),
        ("layers 1-2, 24x16", 0),
        ("layers 3-4, 12x8", 6),
        ("layers 5-6, 24x16", 0),
        ("layers 7-9, 12x8", 0),
        ("detect", 8),
        ("results", 16),
    ]
    assert result.network.seconds == 7 and result.whole.seconds == 31


@pytest.mark.parametrize("name", ["region", "region on a tree"])
def test_the_steps_of_a_gpu_rehearsed_on_a_cpu(name, tmp_path, monkeypatch):
    """Bytes are packed, uploaded and letterboxed there, and all of it once more as one pipeline."""
    predictor = predictor_of(tmp_path, name)

    def packed(pictures, size, options, fill=0):
        return Prepared(pictures, size, options, pack([pixels(p) for p in pictures], *size), 0.0)

    monkeypatch.setattr(predictor, "_prepare", packed)
    result = profile(predictor, PICTURES, 1)
    names = [step.name for step in result.steps if step.work is None]
    results = ["results"] if name == "region" else []
    assert names == ["pack", "upload", "letterbox", "detect", *results]
    assert result.network.work.flops > 0 and result.whole.seconds > 0


def test_an_engine_that_shows_no_layers_is_one_step(tmp_path, capsys):
    pytest.importorskip("onnxruntime", reason="NO PROOF OF ENGINES: this needs onnxruntime")
    predictor = predictor_of(tmp_path, "region", engine="onnxruntime")
    result = profile(predictor, PICTURES, 2, bytes_per_value=1)
    assert [step.name for step in result.steps] == ["letterbox", "network", "detect", "results"]
    layers, shape = NETWORKS["region"]
    assert result.steps[1] == result.network and result.network.work == work_of(layers, shape, 2, 1)
    assert table(result, 2).count("\nnetwork") == 1
    flags = ("--model", "nano", "--device", "cpu", "--engine", "onnxruntime", "--layers")
    assert_refused(capsys, main, *flags, names=("--layers", "--engine onnxruntime"))


def test_the_table():
    """Shares are of the sum; what computes nothing, or moves nothing, has no rate."""
    layer, pool = Work(2 * 10**9, 10**6), Work(0, 4 * 10**6)
    steps = [Step("letterbox", 0.002), Step("layer 0", 0.04, layer), Step("layer 1", 0.008, pool)]
    network = Step("network", 0.048, Work(2 * 10**9, 5 * 10**6))
    text = table(Profile(steps, network, Step("in one call", 0.045), Roof(100e9, 1e9)), 9)
    assert text.splitlines() == [
        "step            ms     % GFLOP GFLOP/s  MB roofline",
        "letterbox    2.000   4.0",
        "layer 0     40.000  80.0 2.000    50.0 1.0      50%",
        "layer 1      8.000  16.0               4.0      50%",
        "---------------------------------------------------",
        "sum         50.000 100.0",
        "network     48.000  96.0 2.000    41.7 5.0      42%",
        "in one call 45.000  90.0",
        "in one call: 200.0 pictures/s",
    ]


def test_the_command(tmp_path, capsys):
    """Weights, a JPEG to read, a batch larger than the source, and a trace that a browser opens."""
    weights = write_darknet(tmp_path, "region")
    Image.fromarray(noise(50, 40)).save(tmp_path / "one.jpg")
    trace = tmp_path / "trace.json"
    flags = ("--source", tmp_path / "one.jpg", "--batch", 3, "--imgsz", "48,64", "--repeats", 2)
    flags += ("--device", "cpu", "--trace", trace)
    assert command(main, "--weights", weights, *flags) == 0
    out = capsys.readouterr().out
    assert f"{weights}, 64x48, batch 3, eager, float32" in out and "roof, measured here: " in out
    assert {"read", "letterbox", "layers", "detect", "results"} <= {
        line.split()[0] for line in out.splitlines()
    }
    gflop = work_of(NETWORKS["region"][0], (3, 48, 64), 3).flops / 1e9
    line = next(line for line in out.splitlines() if line.startswith("network"))
    assert f" {gflop:.3f} " in line
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"letterbox", "detect", "results", "at once", "1 maxpool 2x2/2, 32x24x4"} <= names


def test_networks_at_random(capsys):
    """Any preset at any size that fits it, the same weights every time."""
    assert command(main, "--model", "nano", "--imgsz", 64, "--device", "cpu", "--repeats", 1, "--layers") == 0
    out = capsys.readouterr().out
    assert "nano at random, 64x64, batch 1" in out and "640x480 of noise" in out
    assert "\n0 conv 16 3x3/2 BN leaky, 32x32x16 " in out
    one, two = random_model("nano", (64, 96)), random_model("nano")
    assert one.imgsz == (64, 96) and two.imgsz == (416, 416)
    assert torch.equal(one.network.blocks[0].conv.weight, two.network.blocks[0].conv.weight)
    assert random_model("yolov1-tiny", 128).resize == "stretch"
    assert random_model("tiny", 64).classes == 1000


def test_what_makes_no_sense_is_refused(tmp_path, capsys):
    nano = ("--model", "nano", "--device", "cpu")
    assert_refused(capsys, main, "--model", "what", names=("--model what", "yolov2-voc"))
    assert_refused(capsys, main, *nano, "--cfg", "x.cfg", names=("--model", "--cfg"))
    assert_refused(capsys, main, *nano, "--imgsz", 100, names=("nano at 100x100", "Reorg"))
    assert_refused(capsys, main, *nano, "--imgsz", "1,2,3", names=("--imgsz",))
    assert_refused(capsys, main, *nano, "--repeats", 0, names=("--repeats",))
    assert_refused(capsys, main, *nano, "--batch", 0, names=("--batch",))
    assert_refused(capsys, main, *nano, "--trace", tmp_path / "no" / "x.json", names=("--trace", "x.json"))
    assert_refused(capsys, main, *nano, "--source", tmp_path / "no.jpg", names=("no.jpg",))
    assert_refused(capsys, main, *nano, "--source", "0", names=("--source 0", "camera"))

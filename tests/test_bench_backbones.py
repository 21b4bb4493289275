"""python -m benchmarks.backbones: the networks are the published ones, and nothing is timed that is wrong."""

import json

import pytest
import torch
import torch.nn.functional as F

from benchmarks import backbones, timing
from benchmarks.backbones import NETWORKS, Quoted
from reference.layers import AvgPool, Connected, Conv, Softmax
from yolov2.cli import run
from yolov2.network import Network


@pytest.fixture
def small(monkeypatch):
    """Two networks that cost nothing, beside the true ones' quotes."""

    def build(filters):
        return lambda: [Conv(filters, 3, 2), AvgPool(), Connected(3), Softmax()]

    few = {"one": (build(8), Quoted(1.0, 10, None, 90.0)), "two": (build(16), Quoted(2.0, 5, 91.0, 92.0))}
    monkeypatch.setattr(backbones, "NETWORKS", few)
    monkeypatch.setattr(timing, "effort", timing.effort)  # the command sets it


def test_work_and_parameters_are_the_published_ones():
    """Parameters to the last one; operations within one per cent of what the authors quote."""
    rows = {row["network"]: row for row in backbones.costs(224)}
    parameters = {"Darknet-19": 20_842_376, "VGG-16": 138_357_544, "ResNet-50": 25_557_032}
    assert {name: rows[name]["parameters"] for name in parameters} == parameters
    for row in rows.values():
        assert row["flops"] / 1e9 == pytest.approx(row["quoted"]["billion"], rel=0.01)
    # the paper's text says 30.69 for VGG-16, which are its convolutions
    assert rows["VGG-16"]["flops_of_convolutions"] / 1e9 == pytest.approx(30.69, abs=0.005)


@pytest.mark.parametrize(("name", "weights"), [("VGG-16", 16), ("ResNet-50", 50 + 4), ("Darknet-19", 19)])
def test_depth(name, weights):
    """The number in a name counts layers with weights, ResNet's four projections not among them."""
    assert sum(isinstance(layer, Conv | Connected) for layer in NETWORKS[name][0]()) == weights


@pytest.mark.parametrize(("stride", "project"), [(1, False), (1, True), (2, True)])
def test_bottleneck_adds_its_own_input(stride, project):
    torch.manual_seed(0)
    first = Conv(16, 1, activation="linear")
    network = Network([first, *backbones._bottleneck(4, stride, project)], (3, 8, 8)).eval()
    convs = [block for block in network.blocks if hasattr(block, "conv")]
    with torch.no_grad():
        x = convs[0](torch.rand(2, 3, 8, 8))
        branch = x
        for block in convs[1:4]:
            branch = block(branch)
        want = F.relu(branch + (convs[4](x) if project else x))
        assert want.shape == (2, 16, 8 // stride, 8 // stride)
        network.blocks[0] = torch.nn.Identity()
        torch.testing.assert_close(network(x), want)


def test_results_file_and_table(small, tmp_path, capsys):
    assert run(backbones.main, ["--imgsz", "32", "--seconds", "0.01", "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    (file,) = tmp_path.glob("backbones-*.json")
    results = json.loads(file.read_text())
    assert results["command"].startswith("python -m benchmarks.backbones --imgsz 32") and results["seed"] == 0
    # 3 channels, 3x3 each, at 16x16 places; then 8 or 16 numbers to 3
    assert [row["flops"] for row in results["networks"]] == [2 * (n * 27 * 256 + n * 3) for n in (8, 16)]
    assert {row["network"] for row in results["speed"]} == {"one", "two"}
    for row in results["speed"]:
        assert row["images_per_second"] == pytest.approx(1e6 * row["batch"] / row["median"])
        assert row["samples"] >= 5 and row["p20"] <= row["median"] <= row["p80"]
    assert "1.00x  1.00x   10" in text and "quoted" in text


def test_nothing_is_timed_that_computes_something_else(small, tmp_path, monkeypatch):
    honest = backbones.open_engine

    def off_by_a_little(network, device):
        engine, dtype = honest(network, device)
        return lambda x: engine(x) * 1.02, dtype

    monkeypatch.setattr(backbones, "open_engine", off_by_a_little)
    with pytest.raises(AssertionError, match="off by"):
        backbones.main(["--imgsz", "32", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_work_alone(small, tmp_path, capsys):
    assert run(backbones.main, ["--imgsz", "32", "--seconds", "0", "--out", str(tmp_path)]) == 0
    assert "BFLOP" in capsys.readouterr().out
    assert json.loads(next(tmp_path.iterdir()).read_text())["speed"] == []


@pytest.mark.parametrize("flags", [["--imgsz", "100"], ["--imgsz", "0"], ["--seconds", "-1"]])
def test_refuses(flags, capsys):
    with pytest.raises(SystemExit):
        backbones.main(flags)
    assert flags[0][2:] in capsys.readouterr().err

"""Training that starts from Darknet's files: whole ones, partial ones, of one's own cfg or of a preset."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import yolov2.train
from reference.layers import AvgPool, Conv, MaxPool, Reorg, Route, Softmax
from reference.region import Region
from tests.commands import TINY, assert_refused, command
from yolov2.cfg import Config, Net, read_cfg, write_cfg
from yolov2.cfg_sections import HeadTraining
from yolov2.detector import Detector
from yolov2.errors import UserError
from yolov2.network import Network
from yolov2.presets import CLASSIFIERS, PRESETS
from yolov2.recipes import find_recipe
from yolov2.transfer import transfer
from yolov2.weights import initial_parameters, read_weights, write_weights

REGION = Region(((1.0, 2.0), (3.0, 1.5)), 4, rescore=False, object_scale=2.0)
TRUNK = [
    *(Conv(8, 3, 2), MaxPool(), Conv(16), MaxPool(), Conv(16), MaxPool()),
    *(Conv(16), MaxPool(), Reorg(1), Route((-2, -1))),
]
LAYERS = [*TRUNK, Conv(REGION.channels, 1, batch_norm=False, activation="linear"), REGION]
SHAPE = (3, 64, 64)
CONFIG = Config(Net(64, 64, 3, min_crop=64, max_crop=128), LAYERS, HeadTraining(jitter=0.15))


@pytest.fixture
def darknet(tmp_path):
    """The cfg and weights of a network for four classes."""
    write_cfg(tmp_path / "own.cfg", CONFIG)
    parameters = initial_parameters(LAYERS, SHAPE, np.random.default_rng(0))
    for arrays in parameters:
        if "rolling_variance" in arrays:
            arrays["rolling_variance"][:] = 1.0
    write_weights(tmp_path / "own.weights", LAYERS, parameters, seen=77)
    return tmp_path / "own.cfg", tmp_path / "own.weights", parameters


def train(small_data, tmp_path, *flags):
    """The detector after a run with so small a rate that the weights stay what they were."""
    flags = ("--data", small_data, "--project", tmp_path / "runs", *TINY, "--epochs", "1", *flags)
    flags = (*flags, "--anchors", "preset")
    assert command(yolov2.train.main, *flags, "--lr", "1e-9", "--decay", "0") == 0
    return Detector.load(tmp_path / "runs" / "train" / "best.safetensors")


def convolutions(detector):
    return [m.weight.detach().numpy() for m in detector.network.modules() if isinstance(m, torch.nn.Conv2d)]


def test_a_network_of_a_cfg_goes_on_with_its_weights(darknet, small_data, tmp_path, capsys):
    """Two classes in place of four: all but the last convolution is taken over."""
    cfg, weights, parameters = darknet
    detector = train(small_data, tmp_path, "--model", cfg, "--weights", weights)
    said = f"4 convolutions from {weights}, 1 start afresh: 10 conv 14 1x1/1 linear; "
    assert said + "not taken from the file: 10 conv 18 1x1/1 linear\n" in capsys.readouterr().out
    assert detector.network.layers[:-2] == TRUNK
    assert detector.region.classes == 2 and detector.network.layers[-2].filters == 2 * (5 + 2)
    assert (detector.region.object_scale, detector.region.rescore) == (2.0, False)
    given = [arrays["weights"] for arrays in parameters if arrays]
    for got, want in zip(convolutions(detector)[:-1], given, strict=False):
        np.testing.assert_allclose(got, want, atol=1e-6)
    assert detector.progress["seen"] == 6  # a fresh run


def test_the_result_is_written_back(darknet, small_data, tmp_path):
    """Read, fine-tuned, written: what Darknet gets differs from what it gave by the training alone."""
    cfg, weights, parameters = darknet
    detector = train(small_data, tmp_path, "--model", cfg, "--weights", weights)
    from yolov2.export import export_darknet

    files = export_darknet(detector, tmp_path / "back.weights")
    assert [f.name for f in files] == ["back.weights", "back.cfg", "back.names"]
    config = read_cfg(tmp_path / "back.cfg")
    assert config.layers == detector.network.layers and config.net.input_shape == SHAPE
    header, back = read_weights(tmp_path / "back.weights", config.layers, SHAPE)
    assert header.seen == 6
    np.testing.assert_allclose(back[0]["weights"], parameters[0]["weights"], atol=1e-6)


def test_a_part_of_a_classifier_seeds_a_detector(darknet, small_data, tmp_path, capsys):
    """As darknet19_448.conv.23 does: a file that ends with a layer, without its cfg."""
    cfg, _, parameters = darknet
    seed = tmp_path / "classifier.conv.8"
    layers = [*TRUNK[:8], Conv(9, 1, batch_norm=False), AvgPool(), Softmax()]
    arrays = [*parameters[:8], *initial_parameters(layers, SHAPE, np.random.default_rng(1))[8:]]
    write_weights(seed, layers, arrays, cutoff=8)
    detector = train(small_data, tmp_path, "--model", cfg, "--weights", seed)
    said = f"4 convolutions from {seed}, 1 start afresh: 10 conv 14 1x1/1 linear\n"
    assert said in capsys.readouterr().out
    np.testing.assert_allclose(convolutions(detector)[3], parameters[6]["weights"], atol=1e-6)


@pytest.mark.parametrize(
    "classifier, detector, first",
    [
        ("darknet19", "yolov2-voc", 23),  # what darknet19_448.conv.23 holds (SPEC 18)
        ("yolov2-tiny", "yolov2-tiny-voc", 13),
        ("yolov2-tiny", "yolov2-tiny", 13),
        ("nano", "nano", 12),
    ],
)
def test_a_classifier_seeds_its_detector(classifier, detector, first, monkeypatch):
    """All but its last layer, which tells its own classes apart, whatever sizes the two were trained at."""
    monkeypatch.setattr("yolov2.network._initialise", lambda module, fan_in: None)  # takes seconds
    trained = Network(CLASSIFIERS[classifier].build(7), (3, 64, 64))
    network = Network(PRESETS[detector].build(), (3, 96, 96))
    for parameter in trained.parameters():
        torch.nn.init.constant_(parameter, 2.5)
    line = transfer(network, trained, Path("c.safetensors"))
    assert f"not taken from the file: {first} conv 7 1x1/1 linear" in line
    taken, state = 0, network.state_dict()
    for name, tensor in trained.state_dict().items():
        if int(name.split(".")[1]) < first:
            assert torch.equal(state.pop(name), tensor)
            taken += name.endswith("conv.weight")
    assert line.startswith(f"{taken} convolutions from c.safetensors, ")
    assert not any((tensor == 2.5).any() for tensor in state.values() if tensor.numel() > 1)
    rest = [index for index, layer in enumerate(network.layers) if index >= first and isinstance(layer, Conv)]
    assert [int(n) for n in re.findall(r"(\d+) conv \d", line.partition(";")[0])] == rest


def test_refused(darknet, small_data, tmp_path, capsys):
    cfg, weights, _ = darknet
    alone = tmp_path / "alone.weights"
    alone.write_bytes(weights.read_bytes()[:-4])
    flags = ("--data", small_data, "--project", tmp_path / "runs", *TINY)
    refused = ("--model", cfg, "--weights", alone)
    assert_refused(capsys, yolov2.train.main, *flags, *refused, names=(alone, "--cfg"))
    assert_refused(capsys, yolov2.train.main, *flags, "--cfg", cfg, names=("--cfg", "--weights"))
    assert_refused(capsys, yolov2.train.main, *flags, "--model", "gone.cfg", names=("gone.cfg",))
    assert_refused(capsys, yolov2.train.main, *flags, "--model", "yolov9", names=("yolov9", ".cfg"))
    other = ("--model", "nano", "--weights", weights)
    assert_refused(capsys, yolov2.train.main, *flags, *other, names=(weights, "another network"))


def test_recipes(darknet, tmp_path):
    cfg, *_ = darknet
    assert find_recipe("nano") is PRESETS["nano"]
    recipe = find_recipe(str(cfg))
    assert (recipe.imgsz, recipe.jitter, recipe.lr, recipe.region) == (64, 0.15, 0.001, REGION)
    assert recipe.build() == LAYERS
    write_cfg(tmp_path / "classifier.cfg", Config(CONFIG.net, [*TRUNK, AvgPool(), Softmax()], HeadTraining()))
    with pytest.raises(UserError, match=r"classifier\.cfg: only networks that end in a convolution"):
        find_recipe(str(tmp_path / "classifier.cfg"))

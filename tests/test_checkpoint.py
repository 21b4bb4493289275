"""Checkpoints: what they say about the network, that they give it back bit for bit, and damage."""

import json
import os
import shutil
from dataclasses import fields
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

import yolov2.train
from reference import layers as records
from reference.region import Region, WordTree
from tests.commands import assert_refused, command
from yolov2 import detect
from yolov2.checkpoint import Checkpoint, from_plain, load_checkpoint, save_checkpoint, to_plain
from yolov2.detector import Detector
from yolov2.errors import UserError
from yolov2.results import from_found
from yolov2.train_config import TrainConfig

REGION = Region(((1.0, 2.0), (0.5, 0.25)), 3)
LAYERS = [
    *(records.Conv(4), records.MaxPool(), records.Conv(4)),
    *(records.Reorg(order="space_to_depth"), records.Route((-1,))),
    *(records.Conv(REGION.channels, 1, batch_norm=False, activation="linear"), REGION),
]


@pytest.fixture
def detector():
    torch.manual_seed(3)
    return Detector.build(LAYERS, ("a", "b", "c"), 32, "stretch", {"lr": 0.1})


@pytest.fixture
def path(detector, tmp_path):
    detector.save(tmp_path / "best.safetensors", {"epoch": 7})
    return tmp_path / "best.safetensors"


def test_outputs_are_equal_to_the_last_bit(detector, path):
    again = Detector.load(path)
    x = torch.rand(2, 3, 32, 32)
    detector.network.eval()
    with torch.inference_mode():
        torch.testing.assert_close(again.network(x), detector.network(x), rtol=0, atol=0)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8))
    (first,), (second,) = detector([picture], conf=0.0), again([picture], conf=0.0)
    assert len(first.scores) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_everything_else_comes_back(path):
    again = Detector.load(path)
    assert again.network.layers == LAYERS and not again.network.training
    assert (again.names, again.imgsz, again.resize, again.config) == (
        ("a", "b", "c"),
        32,
        "stretch",
        {"lr": 0.1},
    )
    assert load_checkpoint(path).progress == {"epoch": 7} and load_checkpoint(path).momentum == {}


def test_metadata_for_other_readers(path):
    """Whoever opens the file with safetensors alone finds all conventions in plain JSON."""
    with safe_open(path, framework="np") as file:
        metadata = {k: json.loads(v) for k, v in file.metadata().items() if k != "format"}
    assert metadata["names"] == ["a", "b", "c"]
    assert metadata["anchors"] == [[1.0, 2.0], [0.5, 0.25]]
    assert metadata["reorg_order"] == ["space_to_depth"]
    assert (metadata["imgsz"], metadata["resize"]) == (32, "stretch")
    assert metadata["layers"][0] == {"type": "Conv"} | records.Conv(4).__dict__


def test_a_run_saves_its_whole_configuration(small_run, small_data):
    for name in ("best", "last"):
        checkpoint = load_checkpoint(small_run / f"{name}.safetensors")
        config = TrainConfig.from_plain(checkpoint.config)
        assert set(checkpoint.config) == {f.name for f in fields(TrainConfig)}
        assert (config.data, config.epochs, config.nominal_batch, config.imgsz) == (small_data, 2, 2, 64)
        assert checkpoint.names == ("blue", "red") and checkpoint.imgsz == 64
        assert checkpoint.progress["epoch"] == 2 or name == "best"
        parameters = {
            n for n, _ in Detector.load(small_run / f"{name}.safetensors").network.named_parameters()
        }
        assert set(checkpoint.momentum) == (parameters if name == "last" else set())


TREE = WordTree(("animal", "thing", "dog", "cat"), (-1, -1, 0, 0))
EVERY_RECORD = (
    *(records.Conv(3, 1, 2, 0, False, "relu", 3), records.MaxPool(3, 1, 0), records.AvgPool()),
    *(
        records.Route((-1, 2)),
        records.Reorg(3, True),
        records.Softmax(TREE),
        records.Connected(5, "leaky", True),
    ),
    *(records.Local(2, 1, 1, 0), records.Dropout(0.25), records.Grid(3, 2, 5, forced=True)),
    *(records.Upsample(3, 0.5), records.Shortcut(-2, "leaky", 2.0), records.BatchNorm()),
    *(records.Crop(3, 4, adjust=False), records.Cost("masked")),
    Region(((1.0, 1.0),), 4, "tree", TREE, class_map=(2, 3)),
)


@pytest.mark.parametrize("record", EVERY_RECORD, ids=lambda r: type(r).__name__)
def test_every_record_survives(record):
    assert from_plain(json.loads(json.dumps(to_plain(record)))) == record


def test_every_kind_of_layer_was_tried():
    assert {type(r) for r in EVERY_RECORD} == set(get_args(records.Layer))


def rewrite(path, change, keep=lambda name: True):
    """Put other metadata into a checkpoint: `change` alters the dict of plain values."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys() if keep(name)}  # noqa: SIM118
    plain = {k: json.loads(v) for k, v in metadata.items() if k != "format"}
    change(plain)
    save_file(tensors, path, {"format": metadata["format"]} | {k: json.dumps(v) for k, v in plain.items()})


def flipped(data, rng, positions):
    """The bytes with one bit wrong, once for each of the positions."""
    for position in positions:
        broken = bytearray(data)
        broken[position] ^= 1 << int(rng.integers(8))
        yield bytes(broken)


class TestDamage:
    def test_truncated(self, path):
        data = path.read_bytes()
        for size in (0, 4, 100, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:size])
            with pytest.raises(UserError, match=r"best\.safetensors: damaged checkpoint"):
                Detector.load(path)

    def test_flipped_bits_are_refused_or_harmless(self, path):
        """A wrong bit in the header, or in a tensor, ends in a message or in a detector; never in a crash."""
        data, rng = path.read_bytes(), np.random.default_rng(1)
        picture = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
        refused = 0
        for broken in flipped(data, rng, rng.integers(0, len(data), 400)):
            path.write_bytes(broken)
            try:
                (found,) = Detector.load(path)([picture], conf=0.01)
            except UserError as error:
                assert str(path) in str(error) and "\n" not in str(error)
                refused += 1
            else:
                detect.to_records(from_found(found, picture, ("a", "b", "c")))
        assert 50 < refused < 350

    def test_flipped_bits_and_resume(self, small_run, tmp_path, capsys, monkeypatch):
        """The same for going on with a training: configuration, progress and momentum are read too."""
        monkeypatch.setattr(yolov2.train, "report", lambda *_: None)  # it only reads the best checkpoint
        path = tmp_path / "last.safetensors"
        data, rng = (small_run / "last.safetensors").read_bytes(), np.random.default_rng(1)
        parts = [(data.index(key), 900) for key in (b'"config"', b'"progress"')] + [(0, len(data))]
        refused = 0
        for start, length in parts:
            for broken in flipped(data, rng, start + rng.integers(0, length, 25)):
                path.write_bytes(broken)
                status = command(yolov2.train.main, "--resume", path, "--epochs", "3")
                errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
                assert (status, len(errors)) in ((0, 0), (2, 1))
                refused += status == 2
        assert 10 < refused < 65

    @pytest.mark.parametrize(
        "key, value, reason",
        [
            ("names", ["a", "b"], "2 class names for 3 classes"),
            ("names", [1, 2, 3], "a class name is no text"),
            ("names", 3, "not iterable"),
            ("resize", "strecth", "resize: 'strecth' is not one of letterbox, stretch"),
            ("imgsz", "32", "imgsz: '32' is not a number of pixels"),
            ("imgsz", 0, "imgsz: 0"),
            ("imgsz", 33, "not divisible by stride 2"),
            ("imgsz", [32, "32"], "imgsz: (32, '32') is not"),
            ("imgsz", [32, 32, 32], "imgsz: (32, 32, 32) is not"),
            ("batch_norm", "new", "batch_norm: 'new' is not one of"),
            ("config", None, "config and progress"),
            ("progress", 3, "config and progress"),
            ("layers", [], "does not end in a region, detection or softmax layer"),
            ("layers", to_plain(LAYERS[:-1]), "does not end in a region, detection or softmax layer"),
            ("layers", to_plain([records.MaxPool(0), *LAYERS[1:]]), "damaged checkpoint"),
            ("layers", to_plain([records.Conv(4, groups=0), *LAYERS[1:]]), "damaged checkpoint"),
            ("layers", [{"type": "Convolution"}], "no 'Convolution'"),
            ("layers", [{"typ": "Conv"}], "no 'type'"),
        ],
    )
    def test_records_that_make_no_sense(self, path, key, value, reason):
        rewrite(path, lambda plain: plain.update({key: value}))
        with pytest.raises(UserError, match=r"best\.safetensors: damaged checkpoint \(") as error:
            Detector.load(path)
        assert reason in str(error.value)

    @pytest.mark.parametrize(
        "key, change",
        [
            ("progress", {"epocs": 1}),
            ("progress", {"epoch": -1}),
            ("progress", {"epoch": "1"}),
            ("progress", {"parts": [0.0]}),
            ("progress", {"parts": None}),
            ("progress", {"best": None}),
            ("config", {"lr": "high"}),
            ("config", {"model": "yolov9"}),
            ("config", {"zoom": [1.0]}),
            ("config", {"resize": "strecth"}),
            ("config", {"data": 5}),
        ],
    )
    def test_a_run_that_cannot_have_been(self, small_run, tmp_path, capsys, key, change):
        path = shutil.copy(small_run / "last.safetensors", tmp_path)
        rewrite(path, lambda plain: plain[key].update(change))
        assert_refused(capsys, yolov2.train.main, "--resume", path, names=(path, "last.safetensors"))

    @pytest.mark.parametrize("lost", ["momentum/blocks.0.conv.weight", "blocks.0.conv.weight"])
    def test_a_lost_tensor(self, small_run, tmp_path, capsys, lost):
        path = shutil.copy(small_run / "last.safetensors", tmp_path)
        rewrite(path, lambda plain: None, keep=lambda name: name != lost)
        assert_refused(capsys, yolov2.train.main, "--resume", path, names=(path,))

    def test_weights_that_are_not_finite(self, path):
        c = load_checkpoint(path)
        c.tensors["blocks.0.conv.weight"][0, 0] = float("nan")
        save_checkpoint(path, c)
        with pytest.raises(UserError, match="not all weights are finite"):
            Detector.load(path)

    @pytest.mark.parametrize(
        "name, content",
        [
            ("yolov2.weights", b""),
            ("yolov2.weights", b"hello"),
            ("darknet19_448.conv.23", np.array([0, 1, 0, 0, 7, 7], "<i4").tobytes()),
            ("yolo.bin", np.array([0, 2, 5, 0, 0, 7], "<i4").tobytes()),
        ],
    )
    def test_weights_of_darknet(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}: a weights file of Darknet, which needs its cfg"):
            load_checkpoint(tmp_path / name)

    def test_foreign_safetensors(self, tmp_path):
        save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
        with pytest.raises(UserError, match=r"other\.safetensors: not a checkpoint of this library"):
            load_checkpoint(tmp_path / "other.safetensors")

    def test_something_else(self, tmp_path):
        (tmp_path / "notes.safetensors").write_text("hello, " * 100)
        with pytest.raises(UserError, match=r"notes\.safetensors"):
            load_checkpoint(tmp_path / "notes.safetensors")

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match="no such checkpoint; train one"):
            load_checkpoint(tmp_path / "none.safetensors")

    def test_folder(self, path):
        with pytest.raises(UserError, match=r"a folder; name a file in it, e\.g\. .*best\.safetensors"):
            load_checkpoint(path.parent)

    def test_tensors_of_another_network(self, path):
        c = load_checkpoint(path)
        tensors = {**c.tensors, "blocks.0.conv.weight": torch.zeros(5, 3, 3, 3)}
        save_checkpoint(path, Checkpoint(c.layers, c.names, c.imgsz, c.resize, c.config, c.progress, tensors))
        with pytest.raises(UserError, match=r"best\.safetensors: does not fit the network it describes"):
            Detector.load(path)


def test_a_write_that_fails_keeps_the_old_file(path, detector, monkeypatch):
    before = path.read_bytes()

    def full(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("yolov2.checkpoint.save_file", full)
    with pytest.raises(UserError, match=r"best\.safetensors: cannot be written \(.*No space left"):
        detector.save(path, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["best.safetensors"]

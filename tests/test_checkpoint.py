"""Checkpoints: what they say about the network, that they give it back bit for bit, and damage."""

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from reference import layers as records
from reference.region import Region, WordTree
from yolov2.checkpoint import Checkpoint, from_plain, load_checkpoint, save_checkpoint, to_plain
from yolov2.detector import Detector
from yolov2.errors import UserError
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
        assert set(checkpoint.config) == set(TrainConfig.__dataclass_fields__)
        assert (config.data, config.epochs, config.batch, config.imgsz) == (small_data, 2, 2, 64)
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
    Region(((1.0, 1.0),), 4, "tree", TREE, class_map=(2, 3)),
)


@pytest.mark.parametrize("record", EVERY_RECORD, ids=lambda r: type(r).__name__)
def test_every_record_survives(record):
    assert from_plain(json.loads(json.dumps(to_plain(record)))) == record


def test_every_kind_of_layer_was_tried():
    assert {type(r) for r in EVERY_RECORD} == set(records.Layer.__args__)


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
        refused = 0
        for position in rng.integers(0, 3000, 300):
            broken = bytearray(data)
            broken[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            try:
                Detector.load(path)
            except UserError as error:
                assert str(path) in str(error)
                refused += 1
        assert refused > 50

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

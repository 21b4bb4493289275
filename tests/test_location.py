"""`location="anchor"`, boxes that nothing holds in their cell: from flags and files to detections.

What it computes is held to numbers by hand in `test_decode` and `test_loss`, and every backend, and ONNX, to
the oracle by suites that draw it as they draw all settings.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

import reference.detect
from tests.commands import TINY, assert_refused, command
from tests.models import PASSTHROUGH, REGION, some_parameters
from yolov2 import train
from yolov2.cfg import CfgError, read_cfg
from yolov2.checkpoint import load_checkpoint
from yolov2.detector import Detector
from yolov2.export import export_program
from yolov2.network import load_parameters


def test_a_cfg_says_so():
    (region,) = read_cfg("[net]\n[region]\nlocation=anchor").layers
    (other,) = read_cfg("[net]\n[region]").layers
    assert (region.location, other.location) == ("anchor", "cell")
    with pytest.raises(CfgError, match="location: 'grid' is not one of cell, anchor"):
        read_cfg("[net]\n[region]\nlocation=grid")


def test_a_checkpoint_and_a_program_keep_it(tmp_path):
    layers, shape = [*PASSTHROUGH[:-1], replace(REGION, location="anchor")], (3, 64, 96)
    model = Detector.build(layers, ("ant", "bee", "cat"), shape[1:])
    load_parameters(model.network, some_parameters(layers, shape))
    model.save(tmp_path / "net.safetensors")
    model = Detector.load(tmp_path / "net.safetensors")
    assert model.region == layers[-1]
    export_program(model, tmp_path / "net.pt2", detections=True, conf=0.2, max_det=50)

    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        raw = model.network(images).numpy()
    boxes, scores, classes, count = torch.export.load(tmp_path / "net.pt2").module()(images)
    want = reference.detect.detect(raw, model.region, 0.2, max_det=50)
    assert want.count.min() > 1 and not (abs(want.boxes[..., :2] - 0.5) < 0.5).all()  # some lie outside
    np.testing.assert_array_equal(count, want.count)
    np.testing.assert_array_equal(classes, want.classes)
    np.testing.assert_allclose(scores, want.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(boxes, want.boxes, rtol=1e-5, atol=1e-5)


def test_a_training_is_told(small_data, tmp_path, capsys):
    flags = ("--data", small_data, "--project", tmp_path, *TINY)
    assert command(train.main, *flags, "--location", "anchor", "--epochs", "1") == 0
    assert load_checkpoint(tmp_path / "train" / "last.safetensors").head.location == "anchor"
    assert_refused(capsys, train.main, *flags, "--location", "grid", names=("--location", "{cell,anchor}"))

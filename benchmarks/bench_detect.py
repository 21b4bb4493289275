"""Decode, threshold and NMS of a whole head, and pictures to detections of whole networks, on the CPU."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.inputs import VOC, trained_head
from fast.detect import detect
from yolov2.detector import Detector
from yolov2.presets import PRESETS


@pytest.mark.parametrize("conf", [0.25, 0.005], ids=["detection", "evaluation"])
def test_detect_head(benchmark, conf):
    head = trained_head(1)
    found = detect(head, VOC, conf)
    assert 1 <= int(found.count) <= 100
    benchmark.pedantic(detect, (head, VOC, conf), rounds=50, warmup_rounds=5)


@pytest.mark.parametrize("model", ["nano", "yolov2-tiny-voc", "yolov2-voc"])
def test_picture_to_detections(benchmark, model):
    """OPS is frames per second at 416 x 416, one picture at a time; the weights are random."""
    preset = PRESETS[model]
    torch.manual_seed(0)
    names = tuple(f"class {i}" for i in range(VOC.classes))
    detector = Detector.build(preset.build(dataclasses.replace(preset.region)), names, 416)
    pixels = np.random.default_rng(0).integers(0, 256, (416, 416, 3), np.uint8)
    picture = Image.fromarray(pixels)
    benchmark.pedantic(detector, ([picture],), rounds=10, warmup_rounds=2)

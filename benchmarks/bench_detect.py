"""Raw head to detections: decode, threshold and suppression; and pictures to detections of whole networks."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

import reference.detect
from benchmarks.inputs import COCO, VOC, close, head_in, trained_head
from benchmarks.peers import WAITS, decode_then_torchvision, torchvision
from benchmarks.timing import BATCHES, CUDA, DEVICE, OURS, THREADS, Race
from fast.detect import detect
from yolov2.detector import Detector
from yolov2.presets import PRESETS

REGIONS = {"VOC": VOC, "COCO": COCO}
HEADS = (
    [("VOC", "fp16 nhwc"), ("COCO", "fp16 nhwc"), ("COCO", "fp32 nchw")]
    if CUDA
    else [("VOC", "fp32 nchw"), ("COCO", "fp32 nchw")]
)
THRESHOLDS = {"detection": 0.25, "evaluation": 0.005}


@pytest.mark.parametrize(("data", "form"), HEADS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("mode", THRESHOLDS)
def test_head_to_detections(benchmark, mode, batch, data, form):
    conf, region = THRESHOLDS[mode], REGIONS[data]
    head = head_in(form, trained_head(batch, region))
    few = sorted({0, 1, batch - 1} & set(range(batch)))  # of these the oracle tells
    numbers = head.float().cpu().numpy()[few]
    want = reference.detect.detect(numbers, region, conf)
    assert (want.count >= 1).all()
    assert mode == "evaluation" or (want.count <= 100).all()

    def check(got):
        for name in ("count", "classes", "scores", "boxes"):
            close(getattr(got, name)[few], getattr(want, name))

    def check_flat(got):
        image, _, score, _ = got
        for row, i in enumerate(few):
            n = int(want.count[row])
            close(score[image == i][:n], want.scores[row, :n])

    target = "30x eager decode + torchvision" if (mode, batch) == ("detection", 64) else ""
    race = Race(f"head to detections, {mode}", f"{data} 13x13, B{batch}, {form}", batch, check, target)
    race.ours(lambda: detect(head, region, conf), torch_graph=WAITS)
    race.peer(
        "decode + torchvision",
        torchvision and (lambda: decode_then_torchvision(head, region, conf, 0.45)),
        WAITS,
        check=check_flat,
    )
    if not CUDA and batch == 1 and data == "VOC":

        def by_oracle():
            found = reference.detect.detect(numbers, region, conf)
            return type(found)(*map(torch.from_numpy, found))

        race.peer("oracle", by_oracle)
    # objectness of all, the rest of those it lets through, the detections
    fires = int((head.unflatten(1, (5, -1))[:, :, 4].float().sigmoid() > conf).sum())
    read = (head.numel() // (5 + region.classes) + fires * (4 + region.classes)) * head.element_size()
    result = race.run(benchmark, read + batch * (100 * (4 * 4 + 4 + 8) + 8))
    if not CUDA and batch == 1 and data == "VOC":
        assert result.median(OURS) <= 10_000, "more than 10 ms an image"


@pytest.mark.parametrize("threads", sorted({1, THREADS}))
@pytest.mark.parametrize("model", ["nano", "yolov2-tiny-voc", "yolov2-voc"])
def test_picture_to_detections(benchmark, model, threads):
    """One picture of 416 x 416 at a time; the weights are random.

    Convolutions have work for all threads, but where a core is taken by others, all wait for the last.
    """
    torch.set_num_threads(threads)
    preset = PRESETS[model]
    torch.manual_seed(0)
    names = tuple(f"class {i}" for i in range(VOC.classes))
    layers = preset.build(dataclasses.replace(preset.region))
    detector = Detector.build(layers, names, 416).to(DEVICE)
    pixels = np.random.default_rng(0).integers(0, 256, (416, 416, 3), np.uint8)
    picture = Image.fromarray(pixels)

    def check(found):
        assert len(found) == 1  # what it finds is proven in tests/; with random weights, rarely something

    race = Race("picture to detections", f"{model}, 416x416, B1, {threads} CPU threads", 1, check)
    race.ours(lambda: list(detector([picture])), "the picture is on the host", WAITS)
    race.run(benchmark, 3 * 416 * 416)

"""Greedy suppression alone, of boxes as a trained head gives them."""

import numpy as np
import pytest
import torch

import reference.nms
from benchmarks.inputs import COCO, VOC, trained_head
from benchmarks.peers import WAITS, corners, torchvision
from benchmarks.timing import BATCHES, CUDA, DEVICE, OURS, Race, nbytes
from fast.decode import class_scores, decode
from fast.nms import batched_nms, multi_label_nms

IOU = 0.45


def best_boxes(batch, count):
    """Boxes (batch, count, 4), scores and classes (batch, count) of the best of every image, unsorted."""
    decoded = decode(trained_head(batch, COCO), COCO)
    score, label = class_scores(decoded, COCO, 0).max(2)
    chosen = score.topk(count).indices.sort().values
    boxes = decoded.boxes.flatten(1, 3).gather(1, chosen[..., None].expand(-1, -1, 4))
    return boxes.to(DEVICE), score.gather(1, chosen).to(DEVICE), label.gather(1, chosen).to(DEVICE)


@pytest.mark.parametrize("boxes", [100, 845])
@pytest.mark.parametrize("batch", BATCHES)
def test_one_class_a_box(benchmark, batch, boxes):
    box, score, label = best_boxes(batch, boxes)
    box_np, score_np, label_np = (t.cpu().numpy() for t in (box, score, label))
    want = reference.nms.batched_nms(box_np, score_np, IOU, boxes, label_np)
    kept = [sorted(image[image >= 0] + i * boxes) for i, image in enumerate(want.index)]

    def check(got):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a.cpu().numpy(), b)

    def check_flat(got):
        np.testing.assert_array_equal(got.sort().values.cpu().numpy(), np.concatenate(kept))

    race = Race(
        "nms", f"{boxes} boxes, B{batch}", batch, check,
        "20x torchvision" if (batch, boxes) == (1, 100) else "",
    )  # fmt: skip
    race.ours(lambda: batched_nms(box, score, IOU, boxes, label), torch_graph=WAITS)
    xyxy, flat = corners(box).flatten(0, 1), score.flatten()
    group = (label + 80 * torch.arange(batch, device=DEVICE)[:, None]).flatten()
    race.peer(
        "torchvision", torchvision and (lambda: torchvision.ops.batched_nms(xyxy, flat, group, IOU)),
        WAITS, check=check_flat,
    )  # fmt: skip
    if not CUDA:
        race.peer(
            "oracle",
            lambda: [
                torch.from_numpy(a) for a in reference.nms.batched_nms(box_np, score_np, IOU, boxes, label_np)
            ],
        )
    race.run(benchmark, nbytes(box, score, label) + batch * (boxes + 1) * 8)


@pytest.mark.parametrize("batch", BATCHES)
def test_every_class_of_a_box(benchmark, batch):
    """Evaluation: 845 boxes, 20 classes each, everything above .005."""
    decoded = decode(trained_head(batch, VOC), VOC)
    box, score = decoded.boxes.flatten(1, 3).to(DEVICE), class_scores(decoded, VOC, 0.005).to(DEVICE)
    box_np, score_np = box.cpu().numpy(), score.cpu().numpy()
    few = sorted({0, 1, batch - 1} & set(range(batch)))  # of these the oracle tells
    want = reference.nms.multi_label_nms(box_np[few], score_np[few], IOU, 100, 0.005)

    def check(got):
        for name in want._fields:
            np.testing.assert_array_equal(getattr(got, name)[few].cpu().numpy(), getattr(want, name))

    candidates = int((score > 0).sum()) / batch
    race = Race("nms of every class", f"845 boxes x 20, {candidates:.0f} candidates, B{batch}", batch, check)
    race.ours(lambda: multi_label_nms(box, score, IOU, 100, 0.005), torch_graph=WAITS)

    def by_torchvision():
        image, row, label = (score > 0.005).nonzero(as_tuple=True)
        value = score[image, row, label]
        keep = torchvision.ops.batched_nms(corners(box[image, row]), value, image * 20 + label, IOU)
        return torch.bincount(image[keep], minlength=batch)

    def check_counts(got):
        np.testing.assert_array_equal(got[few].clamp(max=100).cpu().numpy(), want.count)

    race.peer("torchvision", torchvision and by_torchvision, WAITS, check=check_counts)
    if not CUDA and batch == 1:

        def by_oracle():
            kept = reference.nms.multi_label_nms(box_np, score_np, IOU, 100, 0.005)
            return type(kept)(*map(torch.from_numpy, kept))

        race.peer("oracle", by_oracle)
    result = race.run(benchmark, nbytes(box, score) + batch * (100 * 20 + 8))
    if not CUDA:
        assert result.median(OURS) / batch <= 10_000, "more than 10 ms an image"

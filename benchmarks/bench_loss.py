"""Region loss and its gradient for the head of a network, truths included in the call.

Bytes: the five numbers that boxes and objectness come from, of every slot, and the gradient of everything;
class scores are needed at the few slots that answer for a truth.
"""

import numpy as np
import pytest
import torch

from benchmarks.inputs import COCO, VOC, head_in, trained_head, truths
from benchmarks.peers import COPIES, autograd_loss
from benchmarks.timing import CUDA, DEVICE, OURS, Race, nbytes
from fast.loss import region_loss
from reference.loss import region_loss_grad

REGIONS = {"VOC": VOC, "COCO": COCO}
SEEN = {"prior": 1, "late": 1_000_000}  # before and after predictions stop being pulled to their anchors
FORMS = ["fp32 nchw", "fp16 nhwc"] if CUDA else ["fp32 nchw"]
CASES = (
    [(data, 64, "late") for data in REGIONS] + [("COCO", 1, "late"), ("COCO", 64, "prior")]
    if CUDA
    else [("VOC", 16, "prior"), ("VOC", 16, "late"), ("COCO", 16, "late")]
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("data", "batch", "when"), CASES)
def test_loss_and_gradient(benchmark, data, batch, when, form):
    region, seen = REGIONS[data], SEEN[when]
    truth = truths(batch, region.classes)
    pred = head_in(form, trained_head(batch, region)).requires_grad_()
    numbers, truth_np = pred.detach().float().cpu().numpy(), truth.numpy()
    want = region_loss_grad(numbers, truth_np, region, seen)
    truth = truth.to(DEVICE)

    def check(got):
        error = np.abs(got.float().cpu().numpy() - want).max()
        # float32 adds up in another order than the oracle; half precision rounds the gradient to 11 bits
        assert error <= (1e-5 if got.dtype == torch.float32 else 1e-3) * np.abs(want).max()

    def step(loss):
        return torch.autograd.grad(loss(pred), pred)[0]

    def ours(pred):
        return region_loss(pred, truth, region, seen).total

    def autograd(pred):
        return autograd_loss(pred, truth, region, seen)

    target = "100x torch autograd, 10x torch.compile" if batch == 64 else ""
    race = Race("region loss and gradient", f"{data} 13x13, B{batch}, {when}, {form}", batch, check, target)
    race.ours(lambda: step(ours), torch_graph=COPIES)
    race.peer("torch autograd", lambda: step(autograd), COPIES)
    if CUDA or when == "prior":
        race.compiled(autograd, pred, through=step)
    if not CUDA and when == "late":
        race.peer("oracle", lambda: torch.from_numpy(region_loss_grad(numbers, truth_np, region, seen)))
    rows = nbytes(pred) // (5 + region.classes) * 5
    result = race.run(benchmark, rows + nbytes(truth) + nbytes(pred))
    if not CUDA and data == "VOC":
        assert result.median(OURS) <= 40_000

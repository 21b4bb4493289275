"""What only a GPU can show: nothing waits for it, and a CUDA graph replays every operation.

`python -m benchmarks.gpu` runs it on a machine that has one.
"""

import pytest
import torch

from benchmarks.inputs import VOC, trained_head, truths
from fast.decode import decode, decode_candidates
from fast.detect import detect
from fast.loss import region_loss
from fast.nms import batched_nms, multi_label_nms
from fast.reorg import reorg
from fast.stem import stem
from tests.backends import KERNELS

CUDA = [b for b in KERNELS if b.name == "triton-cuda"]
pytestmark = pytest.mark.skipif(not CUDA, reason="NO GPU: nothing here can be shown")


def candidates(head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes (B, N, 4) and scores (B, N, C) of a head."""
    found = decode(head, VOC)
    return found.boxes.flatten(1, 3), (found.objectness[..., None] * found.class_probs).flatten(1, 3)


def of_best_class(boxes: torch.Tensor, scores: torch.Tensor):
    best, label = scores.max(2)
    return batched_nms(boxes, best, 0.45, 50, label, 0.1)


OPERATIONS = {
    "decode": lambda head: tuple(decode(head, VOC)),
    "decode_candidates": lambda head: tuple(decode_candidates(head, VOC, 0.25, 100)),
    "detect": lambda head: tuple(detect(head, VOC)),
    "detect, evaluation": lambda head: tuple(detect(head, VOC, 0.005)),
    "detect, one label": lambda head: tuple(detect(head, VOC, multi_label=False)),
    "batched_nms": lambda head: tuple(of_best_class(*candidates(head))),
    "multi_label_nms": lambda head: tuple(multi_label_nms(*candidates(head), 0.45, 300, 0.005)),
    "stem": lambda head: (stem(head[:, :3], head[:2, :27, 0, 0].reshape(2, 3, 3, 3), head[:2, 0, 0, 0]),),
    "reorg": lambda head: (reorg(head[:, :124, :12, :12].contiguous()),),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_nothing_waits_and_a_graph_replays_it(name):
    run = OPERATIONS[name]
    head, other = trained_head(2, seed=0).cuda(), trained_head(2, seed=1).cuda()
    want = [run(x) for x in (head, other)]  # also compiles the kernels
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(head)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    held, graph = head.clone(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run(held)
    for x, expected in zip((head, other), want, strict=True):
        held.copy_(x)
        graph.replay()
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_graph_replays_loss_and_gradient():
    head, truth = trained_head(2).cuda(), truths(2, VOC.classes).cuda()
    leaf = head.clone().requires_grad_()

    def step():
        leaf.grad = None
        loss = region_loss(leaf, truth, VOC, 10**6)
        loss.total.backward()
        return loss.total.detach(), leaf.grad

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        want = [x.clone() for x in step()]
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = step()
    graph.replay()
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)

"""Region loss, forward and backward, batch 16 of 13x13 cells, 20 classes, on one CPU thread.

The peer is the oracle: the same numbers with Python loops over images and truths.
"""

import numpy as np
import pytest
import torch

from benchmarks.inputs import VOC, trained_head, truths
from fast.loss import region_loss
from reference.loss import region_loss_grad

BATCH = 16


@pytest.fixture(autouse=True)
def one_thread():
    """Small operations on two threads measure the scheduler."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("seen", [1, 1_000_000], ids=["prior", "late"])
def test_torch(benchmark, seen):
    pred, truth = trained_head(BATCH).requires_grad_(), truths(BATCH, VOC.classes)

    def step():
        pred.grad = None
        region_loss(pred, truth, VOC, seen).total.backward()

    step()
    want = region_loss_grad(pred.detach().numpy(), truth.numpy(), VOC, seen)
    scale = np.abs(want).max()
    assert np.abs(pred.grad.numpy() - want).max() <= 1e-5 * scale  # right first, then quick
    benchmark.pedantic(step, rounds=50, warmup_rounds=5)
    assert benchmark.stats.stats.median < 0.040


def test_oracle(benchmark):
    pred, truth = trained_head(BATCH).numpy(), truths(BATCH, VOC.classes).numpy()
    benchmark.pedantic(region_loss_grad, (pred, truth, VOC, 1_000_000), rounds=5, warmup_rounds=1)

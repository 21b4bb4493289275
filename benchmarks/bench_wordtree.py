"""Class probabilities of YOLO9000: a softmax over every group of siblings, 9418 words, 867 boxes an image.

And its region loss with the gradient: classes are needed at the few slots that answer for a truth.
"""

import numpy as np
import pytest
import torch

import benchmarks.tree_head as peers
import reference.wordtree
from benchmarks.inputs import head_in, trained_head, truths, word_tree
from benchmarks.peers import COPIES, autograd_loss
from benchmarks.timing import CUDA, DEVICE, Race, nbytes
from fast.loss import region_loss
from fast.wordtree import absolute_probability, tree_softmax
from reference.loss import region_loss_grad
from reference.region import Region
from yolov2.presets import YOLO9000_ANCHORS

TREE = word_tree()
REGION = Region(YOLO9000_ANCHORS, len(TREE.parents), "tree", TREE)
SOFTMAX = {
    "loop over groups": peers.loop_softmax,
    "loop, split and cat": peers.split_softmax,
    "scatter, gather": peers.scatter_softmax,
    "segment_reduce": peers.segment_softmax,
}
ABSOLUTE = {"loop over groups": peers.loop_absolute, "gather every level": peers.gather_absolute}
#: autograd of the slices that `loop_softmax` writes would copy the head once a group
DIFFERENTIABLE = {name: f for name, f in SOFTMAX.items() if f is not peers.loop_softmax}

each_layout = pytest.mark.parametrize("layout", ["nchw", "nhwc"])
each_batch = pytest.mark.parametrize("batch", (1, 8) if CUDA else (1,))


def scores(batch: int, layout: str) -> torch.Tensor:
    """Of images and anchors, (batch * 3, 9418, 17, 17)."""
    g = torch.Generator().manual_seed(0)
    return head_in(f"fp32 {layout}", torch.randn(batch * 3, len(TREE.parents), 17, 17, generator=g).mul(2))


@pytest.mark.parametrize("work", ["softmax", "absolute"])
@each_layout
@each_batch
def test_tree(benchmark, batch, layout, work):
    ours, others = (tree_softmax, SOFTMAX) if work == "softmax" else (absolute_probability, ABSOLUTE)
    oracle = getattr(reference.wordtree, ours.__name__)
    x = scores(batch, layout)
    if work == "absolute":
        x = tree_softmax(x, TREE, 1)
    numbers = x.cpu().numpy()
    want = oracle(numbers[:1], TREE, 1)

    def check(got):
        np.testing.assert_allclose(got[:1].cpu().numpy(), want, rtol=1e-4, atol=1e-6)

    race = Race(f"tree {work}", f"9418 words, 17x17x3, B{batch}, fp32 {layout}", batch, check)
    race.ours(lambda: ours(x, TREE, 1))
    for name, other in others.items():
        race.peer(name, lambda other=other: other(x, TREE, 1))
    if not CUDA and layout == "nchw":
        race.peer("oracle", lambda: torch.from_numpy(oracle(numbers, TREE, 1)))
    race.run(benchmark, 2 * nbytes(x))


@pytest.mark.parametrize("rows", [1, 64])
def test_rows(benchmark, rows):
    """Of single boxes or classified pictures, where a loop has little to do in every step."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(rows, len(TREE.parents), generator=g).mul(2).to(DEVICE)
    want = reference.wordtree.tree_softmax(x.cpu().numpy(), TREE)

    def check(got):
        np.testing.assert_allclose(got.cpu().numpy(), want, rtol=1e-4, atol=1e-6)

    race = Race("tree softmax", f"9418 words, {rows} rows, fp32", rows, check)
    race.ours(lambda: tree_softmax(x, TREE))
    for name, other in SOFTMAX.items():
        race.peer(name, lambda other=other: other(x, TREE, 1))
    race.run(benchmark, 2 * nbytes(x))


@each_layout
@each_batch
def test_softmax_gradient(benchmark, batch, layout):
    x = scores(batch, layout).requires_grad_()
    g = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
    g = g.contiguous(memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format)
    first = x[:1].detach().double().cpu().numpy()
    p, of_p = reference.wordtree.tree_softmax(first, TREE, 1), g[:1].double().cpu().numpy()
    sums = np.add.reduceat(p * of_p, TREE.group_offsets, 1)
    want = p * (of_p - np.repeat(sums, TREE.group_sizes, 1))

    def check(got):
        np.testing.assert_allclose(got[:1].cpu().numpy(), want, rtol=1e-4, atol=1e-5)

    def backward(softmax):
        probs = softmax(x, TREE, 1)
        return lambda: torch.autograd.grad(probs, x, g, retain_graph=True)[0]

    race = Race("tree softmax gradient", f"9418 words, 17x17x3, B{batch}, fp32 {layout}", batch, check)
    race.ours(backward(tree_softmax))
    for name, softmax in DIFFERENTIABLE.items():
        race.peer(name, backward(softmax))
    race.run(benchmark, 3 * nbytes(x))


@each_layout
@pytest.mark.parametrize("batch", (1, 8) if CUDA else (1, 2))
def test_loss_and_gradient(benchmark, batch, layout):
    """Everything that is learned from a picture with boxes: places, objectness, and paths in the tree."""
    pred = head_in(f"fp32 {layout}", trained_head(batch, REGION, grid=17)).requires_grad_()
    truth, seen = truths(batch, REGION.classes), REGION.prior_images
    want = region_loss_grad(pred.detach().cpu().numpy(), truth.numpy(), REGION, seen)
    truth = truth.to(DEVICE)

    def check(got):
        assert np.abs(got.cpu().numpy() - want).max() <= 1e-5 * np.abs(want).max()

    def step(loss):
        return torch.autograd.grad(loss(), pred)[0]

    def autograd(log_softmax, everywhere):
        return lambda: step(lambda: autograd_loss(pred, truth, REGION, seen, log_softmax, everywhere))

    race = Race("tree loss and gradient", f"9418 words, 17x17x3, B{batch}, fp32 {layout}", batch, check)
    race.ours(lambda: step(lambda: region_loss(pred, truth, REGION, seen).total), torch_graph=COPIES)
    race.peer("loop, split and cat", autograd(peers.split_log_softmax, True), COPIES)
    race.peer("scatter, gather", autograd(peers.scatter_log_softmax, True), COPIES)
    race.peer("scatter where truths are", autograd(peers.scatter_log_softmax, False), COPIES)
    rows = nbytes(pred) // (5 + REGION.classes) * 5
    race.run(benchmark, rows + nbytes(truth) + nbytes(pred))

"""Class probabilities of YOLO9000: a softmax over every group of siblings, 9418 words, 867 boxes an image."""

import numpy as np
import pytest
import torch

import reference.wordtree
from benchmarks.inputs import word_tree
from benchmarks.timing import CUDA, DEVICE, Race, nbytes
from fast.wordtree import absolute_probability, tree_softmax

TREE = word_tree()


@pytest.mark.parametrize("work", ["softmax", "absolute"])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("batch", (1, 8) if CUDA else (1,))
def test_tree(benchmark, batch, layout, work):
    ours = tree_softmax if work == "softmax" else absolute_probability
    oracle = getattr(reference.wordtree, ours.__name__)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch * 3, len(TREE.parents), 17, 17, generator=g).mul(2)  # images and anchors first
    if work == "absolute":
        x = tree_softmax(x, TREE, 1)
    want = oracle(x[:1].numpy(), TREE, 1)
    form = torch.contiguous_format if layout == "nchw" else torch.channels_last
    x = x.to(DEVICE).contiguous(memory_format=form)

    def check(got):
        np.testing.assert_allclose(got[:1].cpu().numpy(), want, rtol=1e-4, atol=1e-6)

    race = Race(f"tree {work}", f"9418 words, 17x17x3, B{batch}, fp32 {layout}", batch, check)
    race.ours(lambda: ours(x, TREE, 1))
    if not CUDA and layout == "nchw":
        numbers = x.numpy()
        race.peer("oracle", lambda: torch.from_numpy(oracle(numbers, TREE, 1)))
    race.run(benchmark, 2 * nbytes(x))

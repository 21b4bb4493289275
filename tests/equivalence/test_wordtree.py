"""Softmax per sibling group, absolute probabilities and the descent of a tree."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.wordtree
import reference.wordtree
from tests.equivalence.test_region import DTYPES, close
from tests.strategies import TREE


@DTYPES
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.0, 1.0, 30.0]))
def test_wordtree(dtype, seed, spread):
    scores = np.random.default_rng(seed).normal(scale=spread, size=(4, len(TREE.parents))).astype(dtype)
    want = reference.wordtree.tree_softmax(scores, TREE)
    got = fast.wordtree.tree_softmax(torch.from_numpy(scores), TREE)
    close(got, want, dtype)
    want = reference.wordtree.absolute_probability(want, TREE)
    close(fast.wordtree.absolute_probability(got, TREE), want, dtype)
    for threshold in (0.0, 0.3, 0.5, 0.9):
        nodes = [reference.wordtree.descend(row, TREE, threshold) for row in want]
        assert fast.wordtree.descend(torch.from_numpy(want), TREE, threshold).tolist() == nodes

"""Probabilities on a tree as one writes them in torch: loops over sibling groups, and segment operations."""

import math
from functools import reduce

import torch
from torch import Tensor

from fast.wordtree import tree_tensors
from reference.region import WordTree


def loop_softmax(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    """One group after the other, at all places at once, each written where it belongs."""
    out = torch.empty_like(scores)
    for start, size in zip(tree.group_offsets, tree.group_sizes, strict=True):
        out.narrow(dim, start, size).copy_(scores.narrow(dim, start, size).softmax(dim))
    return out


def split_softmax(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    """The same loop, kinder to autograd, which would copy the whole gradient for every slice written."""
    return torch.cat([group.softmax(dim) for group in scores.split(tree.group_sizes, dim)], dim)


def split_log_softmax(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    """Logarithm of `split_softmax`."""
    return torch.cat([group.log_softmax(dim) for group in scores.split(tree.group_sizes, dim)], dim)


def scatter_softmax(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    """All groups at once: scatter to maxima and to sums, gather from them."""
    return scatter_log_softmax(scores, tree, dim).exp()


def scatter_log_softmax(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    """Logarithm of `scatter_softmax`."""
    places = [1] * scores.dim()
    places[dim] = -1
    group = tree_tensors(tree, scores.device).group_of.view(places).expand(scores.shape)
    groups = [*scores.shape]
    groups[dim] = len(tree.group_sizes)
    top = scores.new_full(groups, -math.inf).scatter_reduce(dim, group, scores.detach(), "amax")
    shifted = scores - top.gather(dim, group)
    total = torch.zeros_like(top).scatter_add(dim, group, shifted.exp())
    return shifted - total.log().gather(dim, group)


def segment_softmax(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    """All groups at once by `torch.segment_reduce`, which wants the nodes first."""
    tensors, sizes = tree_tensors(tree, scores.device), tree.group_sizes
    lengths = torch.tensor(sizes, device=scores.device)
    rows = scores.movedim(dim, 0).contiguous()
    top = torch.segment_reduce(rows.detach(), "max", lengths=lengths, unsafe=True)
    e = (rows - top.index_select(0, tensors.group_of)).exp()
    total = torch.segment_reduce(e, "sum", lengths=lengths, unsafe=True)
    return (e / total.index_select(0, tensors.group_of)).movedim(0, dim)


def loop_absolute(conditional: Tensor, tree: WordTree, dim: int) -> Tensor:
    """One group after the other times its parent, in place; parents come first."""
    out = conditional.clone()
    for start, group in zip(tree.group_offsets, out.split(tree.group_sizes, dim), strict=True):
        if tree.parents[start] >= 0:
            group *= out.narrow(dim, tree.parents[start], 1)
    return out


def gather_absolute(conditional: Tensor, tree: WordTree, dim: int) -> Tensor:
    """All nodes at once: one step up the tree after the other, roots stay at a 1 behind the last node."""
    one = torch.ones_like(conditional.narrow(dim, 0, 1))
    padded = torch.cat([conditional, one], dim)
    paths = tree_tensors(tree, conditional.device).path_nodes % padded.shape[dim]
    return reduce(torch.mul, (padded.index_select(dim, step) for step in paths.unbind(1)))

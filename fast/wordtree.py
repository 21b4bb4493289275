"""Class probabilities on a tree of words, for YOLO9000 (SPEC 13; paper 2, sec. 4)."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from reference.region import WordTree


class TreeTensors(NamedTuple):
    """A WordTree as index tensors on one device. G groups, N nodes, D depth of the deepest path."""

    group_of: Tensor  # (N,) group of each node
    path_nodes: Tensor  # (N, D) each node, its parent, ... , its root, padded with -1
    levels: tuple[Tensor, ...]  # nodes at depth 0 (roots), 1, 2, ...
    parents: Tensor  # (N,) -1 for roots
    members: Tensor  # (G, S) nodes of each group, padded with -1
    child_group: Tensor  # (N,) group of each node's children, -1 for a leaf


@lru_cache(maxsize=16)
def tree_tensors(tree: WordTree, device: torch.device) -> TreeTensors:
    """Index tensors of `tree` on `device`, made once."""
    paths = [tree.path(node) for node in range(len(tree.parents))]
    depth = max(len(path) for path in paths)
    widest = max(tree.group_sizes)
    members = [
        [*range(start, start + size)] + [-1] * (widest - size)
        for start, size in zip(tree.group_offsets, tree.group_sizes, strict=True)
    ]
    levels = [[n for n, path in enumerate(paths) if len(path) == d] for d in range(1, depth + 1)]

    def index(values) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    return TreeTensors(
        group_of=index(tree.group_of),
        path_nodes=index([path + [-1] * (depth - len(path)) for path in paths]),
        levels=tuple(index(level) for level in levels),
        parents=index(tree.parents),
        members=index(members),
        child_group=index(tree.child_group),
    )


@lru_cache(maxsize=64)
def tree_of(structure: str) -> WordTree:
    """The tree behind the text that an operator was given (`WordTree.structure`), without names."""
    return WordTree.from_structure(structure)


def tree_table(tree: WordTree, device: torch.device) -> Tensor:
    """What a kernel needs to walk in a tree, made once per device.

    Returns
    -------
    Tensor (N, 5) int32
        Of every node: its parent (-1 for a root), the first of its siblings, their number (itself
        included), its first child (-1 for a leaf) and the number of its children.
    """
    return _tree_table(tree.structure, device)


@lru_cache(maxsize=64)
def _tree_table(structure: str, device: torch.device) -> Tensor:
    tree = tree_of(structure)
    first, size = tree.group_offsets, tree.group_sizes
    rows = [
        (parent, first[group], size[group], *((first[below], size[below]) if below >= 0 else (-1, 0)))
        for parent, group, below in zip(tree.parents, tree.group_of, tree.child_group, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)


def tree_log_softmax(scores: Tensor, tree: WordTree, dim: int = -1) -> Tensor:
    """Logarithm of `tree_softmax`."""
    scores = scores.movedim(dim, -1)
    group_of = tree_tensors(tree, scores.device).group_of
    groups = len(tree.group_sizes)
    index = group_of.expand(scores.shape)
    top = scores.new_full((*scores.shape[:-1], groups), -torch.inf)
    top = top.scatter_reduce(-1, index, scores.detach(), "amax")
    shifted = scores - top.gather(-1, index)
    total = torch.zeros_like(top).scatter_add(-1, index, shifted.exp())
    return (shifted - total.log().gather(-1, index)).movedim(-1, dim)


def tree_softmax(scores: Tensor, tree: WordTree, dim: int = -1) -> Tensor:
    """Softmax over every sibling group: P(node | parent).

    Parameters
    ----------
    scores : Tensor (..., N, ...)
        Raw scores, one per node along `dim`.
    tree : WordTree
        The tree of N nodes.
    dim : int
        The dimension of the nodes.

    Returns
    -------
    Tensor
        Conditional probabilities, same shape and dtype; every group sums to 1.
    """
    return tree_log_softmax(scores, tree, dim).exp()


def absolute_probability(conditional: Tensor, tree: WordTree, dim: int = -1) -> Tensor:
    """P(node) = product of the conditionals from the node up to its root (SPEC 13.2).

    Parameters
    ----------
    conditional : Tensor (..., N, ...)
        P(node | parent) along `dim`.

    Returns
    -------
    Tensor
        Absolute probabilities, same shape and dtype.
    """
    tensors = tree_tensors(tree, conditional.device)
    absolute = conditional.movedim(dim, -1).clone()
    for nodes in tensors.levels[1:]:
        absolute[..., nodes] *= absolute[..., tensors.parents[nodes]]
    return absolute.movedim(-1, dim)


def descend(probabilities: Tensor, tree: WordTree, threshold: float) -> Tensor:
    """Walk down from the roots along the best child while the product stays above `threshold` (SPEC 13.3).

    Parameters
    ----------
    probabilities : Tensor (..., N)
        Values per node; conditional ones implement the paper, Darknet's detection passes absolute ones.
    threshold : float
        A child is entered while the product of the values on the way exceeds this.

    Returns
    -------
    Tensor (...) int64
        The node reached: the last accepted one, or the best root if not even that was accepted.
    """
    tensors = tree_tensors(tree, probabilities.device)
    values = probabilities.reshape(-1, probabilities.shape[-1])
    rows = torch.arange(len(values), device=values.device)
    group = torch.zeros_like(rows)
    product = values.new_ones(len(values))
    node = torch.full_like(rows, -1)
    for _ in tensors.levels:
        members = tensors.members[group.clamp(min=0)]  # (rows, widest group)
        candidates = values.gather(1, members.clamp(min=0)).masked_fill(members < 0, -torch.inf)
        value, place = candidates.max(1)
        # Darknet starts from "node 0 with probability 0": nothing positive means node 0
        best = torch.where(value > 0, members[rows, place], 0)
        value = value.clamp(min=0)
        accept = (group >= 0) & (product * value > threshold)
        node = torch.where(accept | ((node < 0) & (group == 0)), best, node)
        product = torch.where(accept, product * value, product)
        group = torch.where(accept, tensors.child_group[best], -1)
    return node.reshape(probabilities.shape[:-1])

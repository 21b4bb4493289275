"""Class probabilities on a tree of words, for YOLO9000 (SPEC 13; paper 2, sec. 4)."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fast._launch import DTYPES, once, operator, use_triton
from reference.region import TreeRule, WordTree

PIECE = 64  # rows turned around at once on a CPU: 2.4 MB of the 9k tree in float32


class TreeTensors(NamedTuple):
    """A WordTree as index tensors on one device. G groups, N nodes, D depth of the deepest path."""

    group_of: Tensor  # (N,) group of each node
    path_nodes: Tensor  # (N, D) each node, its parent, ... , its root, padded with -1
    levels: tuple[Tensor, ...]  # nodes at depth 0 (roots), 1, 2, ...
    parents: Tensor  # (N,) -1 for roots
    members: Tensor  # (G, S) nodes of each group, padded with -1
    sizes: Tensor  # (G,) number of nodes in each group
    child_group: Tensor  # (N,) group of each node's children, -1 for a leaf


def tree_tensors(tree: WordTree, device: torch.device) -> TreeTensors:
    """Index tensors of `tree` on `device`, made once."""
    return _tree_tensors(tree.structure, device)


@once
def _tree_tensors(structure: str, device: torch.device) -> TreeTensors:
    tree = tree_of(structure)
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
        sizes=index(tree.group_sizes),
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


@once
def _tree_table(structure: str, device: torch.device) -> Tensor:
    tree = tree_of(structure)
    first, size = tree.group_offsets, tree.group_sizes
    rows = [
        (parent, first[group], size[group], *((first[below], size[below]) if below >= 0 else (-1, 0)))
        for parent, group, below in zip(tree.parents, tree.group_of, tree.child_group, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.int32, device=device)


@once
def branches(structure: str, nodes: tuple[int, ...], device: torch.device) -> tuple[WordTree, Tensor, Tensor]:
    """What of a tree the probabilities of some nodes depend on: the groups of siblings on their paths.

    Returns
    -------
    (WordTree, Tensor (N',) int64, Tensor (M,) int64)
        These groups as a tree of their own, the nodes that they consist of, and where among those the M
        `nodes` are; made once per device.
    """
    tree = tree_of(structure)
    groups = sorted({tree.group_of[step] for node in nodes for step in tree.path(node)})
    members = [
        node
        for g in groups
        for node in range(tree.group_offsets[g], tree.group_offsets[g] + tree.group_sizes[g])
    ]
    place = {-1: -1} | {node: i for i, node in enumerate(members)}
    branch = WordTree(("",) * len(members), tuple(place[tree.parents[node]] for node in members))
    places = torch.tensor([place[node] for node in nodes], dtype=torch.int64, device=device)
    return branch, torch.tensor(members, dtype=torch.int64, device=device), places


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
        Raw scores, one per node along `dim`; any strides, also slices of a head.
    tree : WordTree
        The tree of N nodes.
    dim : int
        The dimension of the nodes.

    Returns
    -------
    Tensor
        Conditional probabilities, same shape and dtype, in memory in the order that `scores` is; every group
        sums to 1. Half precision is computed in float32 and rounded once. Differentiable once.

    Raises
    ------
    ValueError
        If `scores` does not have N nodes along `dim`.
    """
    return _tree_softmax(scores, tree.structure, _nodes(scores, tree, dim))


def absolute_probability(conditional: Tensor, tree: WordTree, dim: int = -1) -> Tensor:
    """P(node) = product of the conditionals from the node up to its root (SPEC 13.2). Has no gradient.

    Parameters
    ----------
    conditional : Tensor (..., N, ...)
        P(node | parent) along `dim`; any strides.
    tree : WordTree
        The tree of N nodes.
    dim : int
        The dimension of the nodes.

    Returns
    -------
    Tensor
        Absolute probabilities, same shape and dtype, in memory in the order that `conditional` is. Half
        precision is computed in float32 and rounded once.

    Raises
    ------
    ValueError
        If `conditional` does not have N nodes along `dim`.
    """
    return _absolute_probability(conditional, tree.structure, _nodes(conditional, tree, dim))


def _nodes(x: Tensor, tree: WordTree, dim: int) -> int:
    """`dim`, counted from the front."""
    if x.shape[dim] != len(tree.parents):
        raise ValueError(f"{x.shape[dim]} values along dim {dim} for a tree of {len(tree.parents)} nodes")
    return dim % x.dim()


def _exact(x: Tensor) -> torch.dtype:
    """What `x` is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _pieces(dim: int, *tensors: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
    """The tensors, all of one shape, part by part, and which dimension of the parts the nodes are.

    On a CPU a part is what is contiguous and fits the cache: the places of one image and anchor, nodes first,
    or rows of nodes (channels last). The parts of the first tensor are views if it is dense.
    """
    first = tensors[0]
    if first.device.type != "cpu":
        yield 0, [x.movedim(dim, 0) for x in tensors]
    elif first.numel():
        outer = sorted((d for d in range(first.dim()) if d != dim), key=first.stride, reverse=True)
        inner = [d for d in outer if first.stride(d) < first.stride(dim) and first.shape[d] > 1]
        order = (*(d for d in outer if d not in inner), dim, *inner)
        shape = (-1, first.shape[dim], math.prod(first.shape[d] for d in inner))
        blocks = [x.permute(order).reshape(shape) for x in tensors]
        if inner:
            yield from ((0, [*block]) for block in zip(*blocks, strict=True))
        else:
            rows = (x[..., 0].split(PIECE) for x in blocks)
            yield from ((1, [*piece]) for piece in zip(*rows, strict=True))


def _nodes_first(compute: Callable[..., None], structure: str, dim: int, x: Tensor) -> Tensor:
    """The result of compute(out, x, structure), which wants the nodes in dimension 0."""
    whole = torch.empty_like(x)
    for axis, (out, values) in _pieces(dim, whole, x):
        if axis == 0:
            compute(out, values, structure)
        else:
            # Groups of one size would come from all over a row, a line of the cache for a few nodes each
            # time; so some rows after the other are turned around in the cache.
            turned = values.t().contiguous()
            result = torch.empty_like(turned)
            compute(result, turned, structure)
            out.copy_(result.t())
    return whole


def _by_size(x: Tensor, structure: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of one size after the other: their nodes, and copies of their values (groups, size, ...).

    So a torch function sees all groups of a size at once, 41 sizes in the 9k tree, and the copies stay small.
    """
    for size, nodes in _sizes(structure, x.device):
        yield nodes, x.index_select(0, nodes).unflatten(0, (len(nodes) // size, size)).to(_exact(x))


@once
def _sizes(structure: str, device: torch.device) -> list[tuple[int, Tensor]]:
    tree = tree_of(structure)
    nodes: dict[int, list[int]] = {}
    for first, size in zip(tree.group_offsets, tree.group_sizes, strict=True):
        nodes.setdefault(size, []).extend(range(first, first + size))
    return [(size, torch.tensor(of_size, device=device)) for size, of_size in nodes.items()]


@once
def _levels(structure: str, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Nodes at depth 0, 1, ..., and where among the nodes of the level above each one's parent is."""
    tree = tree_of(structure)
    levels: list[list[int]] = []
    depth, place = {-1: -1}, {-1: -1}
    for node, parent in enumerate(tree.parents):
        depth[node] = depth[parent] + 1
        if depth[node] == len(levels):
            levels.append([])
        place[node] = len(levels[depth[node]])
        levels[depth[node]].append(node)
    parents = [[place[tree.parents[node]] for node in level] for level in levels]
    return [
        (torch.tensor(level, device=device), torch.tensor(above, device=device))
        for level, above in zip(levels, parents, strict=True)
    ]


def _softmax(out: Tensor, scores: Tensor, structure: str) -> None:
    for nodes, score in _by_size(scores, structure):
        out.index_copy_(0, nodes, score.softmax(1).to(out.dtype).flatten(0, 1))


def _softmax_grad(structure: str, dim: int, probs: Tensor, grad: Tensor) -> Tensor:
    dx, group = torch.empty_like(probs), tree_tensors(tree_of(structure), probs.device).group_of
    for axis, (out, p, g) in _pieces(dim, dx, probs, grad):
        p, g = p.to(_exact(p)), g.to(_exact(g))
        shape = [*p.shape]
        shape[axis] = len(tree_of(structure).group_sizes)
        total = p.new_zeros(shape).index_add_(axis, group, p * g)
        out.copy_((g - total.index_select(axis, group)).mul_(p))
    return dx


def _absolute(out: Tensor, conditional: Tensor, structure: str) -> None:
    above = None
    for nodes, parents in _levels(structure, out.device):
        level = conditional.index_select(0, nodes).to(_exact(out))
        if above is not None:
            level *= above.index_select(0, parents)
        out.index_copy_(0, nodes, level.to(out.dtype))
        above = level


@operator("yolov2::tree_softmax")
def _tree_softmax(scores: Tensor, structure: str, dim: int) -> Tensor:
    if use_triton(scores) and scores.dtype in DTYPES:
        from fast.kernels.wordtree import tree_softmax as kernel

        return kernel(scores, structure, dim)
    return _nodes_first(_softmax, structure, dim, scores)


@operator("yolov2::tree_softmax_grad")
def _tree_softmax_grad(probs: Tensor, grad: Tensor, structure: str, dim: int) -> Tensor:
    """dL/d(scores) = p (g - sum of g p over the group), from p = tree_softmax(scores) and g = dL/dp."""
    if use_triton(probs) and probs.dtype in DTYPES:
        from fast.kernels.wordtree import tree_softmax_grad as kernel

        return kernel(probs, grad, structure, dim)
    return _softmax_grad(structure, dim, probs, grad)


@operator("yolov2::absolute_probability")
def _absolute_probability(conditional: Tensor, structure: str, dim: int) -> Tensor:
    if use_triton(conditional) and conditional.dtype in DTYPES:
        from fast.kernels.wordtree import absolute_probability as kernel

        return kernel(conditional, structure, dim)
    return _nodes_first(_absolute, structure, dim, conditional)


@_tree_softmax.register_fake
@_absolute_probability.register_fake
def _(x, structure, dim):
    return torch.empty_like(x)


@_tree_softmax_grad.register_fake
def _(probs, grad, structure, dim):
    return torch.empty_like(probs)


def _setup(ctx, inputs, output):
    _, ctx.structure, ctx.dim = inputs
    ctx.save_for_backward(output)


def _backward(ctx, grad):
    return _tree_softmax_grad(*ctx.saved_tensors, grad, ctx.structure, ctx.dim), None, None


_tree_softmax.register_autograd(_backward, setup_context=_setup)


def node_paths(scores: Tensor, tree: WordTree, nodes: Tensor) -> tuple[Tensor, Tensor]:
    """The way from a root to a node, and how probable each node on it is.

    Parameters
    ----------
    scores : Tensor (K, N)
        Raw scores of K boxes.
    tree : WordTree
        The tree of N nodes.
    nodes : Tensor (K,) int64
        A node for each.

    Returns
    -------
    (Tensor (K, D) int64, Tensor (K, D))
        Nodes from the root down, padded with -1 to the depth D of the deepest path of the tree, and their
        absolute probabilities, padded with 0. Only groups on the way are read.
    """
    tensors = tree_tensors(tree, scores.device)
    up = tensors.path_nodes[nodes]  # the node first, its root last
    there = up >= 0
    members = tensors.members[tensors.group_of[up.clamp(min=0)]]  # (K, D, widest group)
    flat = members.clamp(min=0).flatten(1)
    logits = scores.gather(1, flat).view(members.shape).to(_exact(scores))
    total = logits.masked_fill(members < 0, -torch.inf).logsumexp(2)
    own = scores.gather(1, up.clamp(min=0)).to(_exact(scores))
    conditional = (own - total).exp().where(there, 1)
    # turned round: roots first, and what is left over behind
    depth = there.sum(1, keepdim=True)
    order = depth - 1 - torch.arange(up.shape[1], device=up.device)
    here = order >= 0
    order = order.clamp(min=0)
    absolute = conditional.gather(1, order).where(here, 1).cumprod(1)
    return up.gather(1, order).where(here, -1), absolute.where(here, 0)


def descend_scores(
    scores: Tensor, at: tuple[Tensor, ...], tree: WordTree, threshold: float, rule: TreeRule
) -> Tensor:
    """`descend` from raw scores; only groups on the way are read, a level of all K boxes at once.

    Parameters
    ----------
    scores : Tensor (..., N)
        Raw scores, any strides.
    at : tuple of Tensor (K,) int64
        Which of them, an index for each dimension but the last.
    tree : WordTree
        The tree of N nodes.
    threshold, rule
        As `tree_threshold` and `tree_rule` of `fast.decode.decode_candidates`.

    Returns
    -------
    Tensor (K,) int64
        Nodes.
    """
    tensors = tree_tensors(tree, scores.device)
    group = torch.zeros_like(at[0])
    row = torch.arange(len(group), device=group.device)  # of those that still go on
    node, absolute = group, scores.new_ones(len(group), dtype=_exact(scores))
    reached = absolute
    for level in range(len(tensors.levels)):
        if not len(row):
            break
        members = tensors.members[group, : int(tensors.sizes[group].max())]
        x = scores[(*(index[row, None] for index in at), members.clamp(min=0))].to(absolute.dtype)
        top, place = x.masked_fill(members < 0, -torch.inf).max(1)
        absolute = absolute / (x - top[:, None]).exp().where(members >= 0, 0).sum(1)
        reached = absolute if rule == "paper" else reached * absolute
        # Darknet starts from "node 0 with probability 0": nothing positive means node 0
        best = members.gather(1, place[:, None])[:, 0].where(absolute > 0, 0)
        accept = reached > threshold
        node = best.clone() if level == 0 else node.index_copy(0, row[accept], best[accept])
        group = tensors.child_group[best]
        on = accept & (group >= 0)
        row, group, absolute, reached = row[on], group[on], absolute[on], reached[on]
    return node


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
    product = torch.ones_like(probabilities[..., 0])
    group = torch.zeros_like(product, dtype=torch.int64)
    node = group - 1
    for _ in tensors.levels:
        members = tensors.members[group.clamp(min=0)]  # (..., widest group)
        candidates = probabilities.gather(-1, members.clamp(min=0)).masked_fill(members < 0, -torch.inf)
        value, place = candidates.max(-1)
        best = members.gather(-1, place[..., None])[..., 0]
        # Darknet starts from "node 0 with probability 0": nothing positive means node 0
        best = torch.where(value > 0, best, 0)
        value = value.clamp(min=0)
        accept = (group >= 0) & (product * value > threshold)
        node = torch.where(accept | ((node < 0) & (group == 0)), best, node)
        product = torch.where(accept, product * value, product)
        group = torch.where(accept, tensors.child_group[best], -1)
    return node

"""YOLO9000's tree of words: reading it, probabilities along it, labels for it (SPEC 13; paper 2, sec. 4)."""

import re
from collections.abc import Iterable
from os import PathLike
from pathlib import Path

import numpy as np

from reference.region import WordTree

IGNORED = -1234.0  # label of the nodes that a picture says nothing about


def read_tree(source: str | PathLike | Iterable[str]) -> WordTree:
    """Read a tree, one "name parent" per line, parent -1 for a root (SPEC 13.1).

    Parameters
    ----------
    source : path or iterable of str
        The file, or its lines.

    Returns
    -------
    WordTree

    Raises
    ------
    ValueError
        If a line is not of that form (the message has its number), there is none, or see `WordTree`.
    """
    if isinstance(source, str | PathLike):
        source = Path(source).read_text("utf-8-sig").splitlines()
    names, parents = [], []
    for number, line in enumerate(source, start=1):
        if not (match := re.fullmatch(r"\s*(\S+)\s+(-?[0-9]{1,9})\s*", line)) or not match[1].isprintable():
            raise ValueError(f"line {number}: {line[:60]!r} is not 'name parent'")
        names.append(match[1])
        parents.append(int(match[2]))
    if not names:
        raise ValueError("line 1: there is no node")
    return WordTree(tuple(names), tuple(parents))


def tree_softmax(scores: np.ndarray, tree: WordTree, axis: int = -1) -> np.ndarray:
    """One softmax per group of siblings: the probability of each node GIVEN its parent (SPEC 1.1).

    Parameters
    ----------
    scores : (..., nodes, ...) float
        Raw scores, nodes along `axis`.
    tree : WordTree
        The tree.
    axis : int
        Which axis holds the nodes.

    Returns
    -------
    (..., nodes, ...) float
        Conditional probabilities.
    """

    def per_group(reduce, values):
        return np.repeat(reduce.reduceat(values, tree.group_offsets, axis), tree.group_sizes, axis)

    e = np.exp(scores - per_group(np.maximum, scores))
    return e / per_group(np.add, e)


def absolute_probability(
    conditional: np.ndarray, tree: WordTree, axis: int = -1, only_leaves: bool = False
) -> np.ndarray:
    """Probability of every node: the product of the conditionals from it up to its root (SPEC 13.2).

    Parameters
    ----------
    conditional : (..., nodes, ...) float
        Probabilities given the parent, nodes along `axis`.
    tree : WordTree
        The tree.
    axis : int
        Which axis holds the nodes.
    only_leaves : bool
        Set inner nodes to zero.

    Returns
    -------
    (..., nodes, ...) float
    """
    absolute = conditional.copy()
    p = np.moveaxis(absolute, axis, 0)  # a view
    for start, size in zip(tree.group_offsets, tree.group_sizes, strict=True):
        if (parent := tree.parents[start]) >= 0:
            p[start : start + size] *= p[parent]  # parents come first, so p[parent] is final
    if only_leaves:
        p[np.array(tree.child_group) >= 0] = 0
    return absolute


def descend(probabilities: np.ndarray, tree: WordTree, threshold: float) -> int:
    """Walk down from the roots into the likeliest child while the path is likely enough (SPEC 13.3).

    Given conditional probabilities this is the paper's rule. Darknet's detection passes absolute ones, so
    the product punishes depth twice (SPEC 8).

    Parameters
    ----------
    probabilities : (nodes,) float
        Not negative.
    tree : WordTree
        The tree.
    threshold : float
        The product along the path must exceed this, >= 0.

    Returns
    -------
    int
        The deepest node accepted; the likeliest root if not even that is.

    Raises
    ------
    ValueError
        If `threshold` is negative.
    """
    if threshold < 0:
        raise ValueError(f"threshold: {threshold} is negative")
    group, product = 0, 1
    while True:
        start = tree.group_offsets[group]
        best = start + int(np.argmax(probabilities[start : start + tree.group_sizes[group]]))
        product = product * probabilities[best]
        if not product > threshold:
            return best if group == 0 else tree.parents[start]
        if tree.child_group[best] < 0:
            return best
        group = tree.child_group[best]


def complete_labels(labels: np.ndarray, tree: WordTree) -> np.ndarray:
    """A dog is also a mammal and an animal; which plant it would be, nobody knows (SPEC 13.4).

    Parameters
    ----------
    labels : (..., nodes) float
        One-hot.
    tree : WordTree
        The tree.

    Returns
    -------
    (..., nodes) float
        Ancestors are 1 too; every group of siblings without a 1 is filled with -1234, "ignored".
    """
    completed = labels.copy()
    for node in reversed(range(len(tree.parents))):
        if (parent := tree.parents[node]) >= 0:
            completed[..., parent] = np.maximum(completed[..., parent], completed[..., node])
    known = np.maximum.reduceat(completed, tree.group_offsets, axis=-1) > 0
    completed[~np.repeat(known, tree.group_sizes, axis=-1)] = IGNORED
    return completed

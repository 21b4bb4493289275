"""How far down a tree of words a model is right: by depth, and by what a cautious descent says (SPEC 13.3).

A flat top-1 knows right and wrong. On a tree "dog" for a terrier is no mistake, only coarse; and a picture
whose label is "dog" cannot tell whether "terrier" is right.
"""

import csv
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from reference.region import WordTree

# of a picture, by where the node reached lies: the label; above it; below it; elsewhere; there is none
VERDICTS = ("exact", "coarser", "finer", "wrong", "nothing")


@lru_cache(maxsize=8)
def root_paths(tree: WordTree) -> np.ndarray:
    """The way down to every node.

    Parameters
    ----------
    tree : WordTree
        N nodes, the deepest path has D.

    Returns
    -------
    ndarray, int64 (N, D)
        From the root (depth 0) to the node itself, padded with -1. Not to be written to.
    """
    parents = np.array(tree.parents)
    levels = [np.arange(len(parents))]  # every node, its parent, ..., and -1 beyond its root
    while (levels[-1] >= 0).any():
        levels.append(np.where(levels[-1] >= 0, parents[levels[-1]], -1))
    upwards = np.stack(levels[:-1], 1)
    lengths = (upwards >= 0).sum(1, keepdims=True)
    columns = np.arange(upwards.shape[1])
    paths = np.take_along_axis(upwards, (lengths - 1 - columns) % upwards.shape[1], 1)
    paths[columns >= lengths] = -1
    paths.setflags(write=False)
    return paths


def on_path(tree: WordTree, nodes: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Whether `nodes` lie on the paths from a root down to `ends`, both included.

    Parameters
    ----------
    tree : WordTree
        The tree.
    nodes, ends : ndarray, int64
        Nodes of shapes that go together; -1 is no node.

    Returns
    -------
    ndarray, bool
        False where one of the two is no node.
    """
    paths = root_paths(tree)
    depth = (paths >= 0).sum(1) - 1
    return (nodes >= 0) & (ends >= 0) & (paths[ends, depth[nodes]] == nodes)


@dataclass(frozen=True)
class HierarchicalAccuracy:
    """What a model on a tree says of N things whose nodes are known: pictures, or objects.

    Parameters
    ----------
    tree : WordTree
        The tree.
    names : tuple of str
        What people call its nodes.
    labels : ndarray, int64 (N,)
        The node that each is; any, not only leaves.
    reached : ndarray, int64 (N,)
        Where a descent at `threshold` stopped; -1 is nothing found.
    threshold : float
        Of that descent.
    greedy : ndarray, int64 (N,), optional
        The leaf that a descent at threshold 0 ends in, -1 is nothing found. None takes `reached`: below it
        nothing is right then.

    Raises
    ------
    ValueError
        If the arrays differ in length, or one holds what is no node.
    """

    tree: WordTree
    names: tuple[str, ...]
    labels: np.ndarray
    reached: np.ndarray
    threshold: float
    greedy: np.ndarray | None = None

    def __post_init__(self):
        nodes = len(self.tree.parents)
        if len(self.names) != nodes:
            raise ValueError(f"{len(self.names)} names for {nodes} nodes")
        for what, lowest in (("labels", 0), ("reached", -1), ("greedy", -1)):
            values = getattr(self, what)
            if values is None:
                continue
            if values.shape != self.labels.shape or values.ndim != 1:
                raise ValueError(f"{what}: shape {values.shape} for labels of shape {self.labels.shape}")
            if len(values) and not lowest <= values.min() <= values.max() < nodes:
                raise ValueError(f"{what}: not all are nodes of a tree of {nodes}")

    def by_depth(self) -> tuple[np.ndarray, np.ndarray]:
        """How many labels are so deep, and how many greedy paths run through the label's ancestor there.

        Returns
        -------
        counts, right : ndarray, int64 (D,)
            At depth 0 (the roots), 1, ..., as deep as the deepest label. A label counts at its own depth and
            at all above it.
        """
        paths = root_paths(self.tree)
        wanted = paths[self.labels]
        greedy = self.reached if self.greedy is None else self.greedy
        found = np.where(greedy[:, None] >= 0, paths[greedy], -1)
        counts = (wanted >= 0).sum(0)
        right = ((wanted >= 0) & (wanted == found)).sum(0)
        deepest = int((counts > 0).sum())
        return counts[:deepest], right[:deepest]

    def verdicts(self) -> np.ndarray:
        """Index into `VERDICTS` of every one of the N: int64 (N,)."""
        cases = [
            self.reached == self.labels,
            on_path(self.tree, self.reached, self.labels),
            on_path(self.tree, self.labels, self.reached),
            self.reached >= 0,
        ]
        return np.select(cases, range(4), 4).astype(np.int64)

    def counts(self) -> np.ndarray:
        """How often each of `VERDICTS` was passed: int64 (5,)."""
        return np.bincount(self.verdicts(), minlength=len(VERDICTS))

    def per_class(self) -> tuple[np.ndarray, np.ndarray]:
        """The same for every label that occurs.

        Returns
        -------
        nodes : ndarray, int64 (C,)
            The labels, ascending.
        counts : ndarray, int64 (C, 5)
            A column for each of `VERDICTS`.
        """
        nodes, place = np.unique(self.labels, return_inverse=True)
        counts = np.zeros((len(nodes), len(VERDICTS)), np.int64)
        np.add.at(counts, (place, self.verdicts()), 1)
        return nodes, counts

    def __str__(self) -> str:
        total = max(1, len(self.labels))
        shares = [f"{word} {n / total:.4f}" for word, n in zip(VERDICTS, self.counts(), strict=True)]
        return f"{', '.join(shares)} of {len(self.labels)}, descent at {self.threshold:g}"

    def table(self, most: int = 10) -> str:
        """Both measures as text, and the `most` labels that are most often wrong or not found."""
        lines = ["depth   labels   right   share"]
        for depth, (count, right) in enumerate(zip(*self.by_depth(), strict=True)):
            lines.append(f"{depth:>5} {count:>8} {right:>7} {right / count:7.3f}")
        lines += ["", f"descent at {self.threshold:g}"]
        meaning = ("the label", "right, above the label", "below the label", "", "no node at all")
        for word, count, what in zip(VERDICTS, self.counts(), meaning, strict=True):
            share = count / max(1, len(self.labels))
            lines.append(f"{word:<8} {count:>7} {share:7.3f}  {what}".rstrip())
        nodes, counts = self.per_class()
        missed = counts[:, 3:].sum(1) / counts.sum(1)
        order = np.lexsort((-counts.sum(1), -missed))  # of equally bad ones those of many pictures
        worst = [i for i in order[:most] if missed[i]]
        if worst:
            width = max(len(self.names[nodes[i]]) for i in worst)
            lines += ["", " ".join([f"{'most missed':<{width}}", *(f"{word:>8}" for word in VERDICTS)])]
            lines += [
                " ".join([f"{self.names[nodes[i]]:<{max(width, 11)}}", *(f"{n:>8}" for n in counts[i])])
                for i in worst
            ]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write the counts: of every label that occurs as ``.csv``, these and all the others as ``.json``.

        Raises
        ------
        ValueError
            If `path` ends in neither.
        """
        depth = (root_paths(self.tree) >= 0).sum(1) - 1
        classes = [
            {"node": node, "word": self.tree.names[node], "name": self.names[node], "depth": int(depth[node])}
            | dict(zip(VERDICTS, counts, strict=True))
            for node, counts in zip(*(x.tolist() for x in self.per_class()), strict=True)
        ]
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ("node", "word", "name", "depth", *VERDICTS))
                writer.writeheader()
                writer.writerows(classes)
        elif path.suffix == ".json":
            counts, right = (x.tolist() for x in self.by_depth())
            whole = {
                "labels": len(self.labels),
                "threshold": self.threshold,
                "by_depth": [{"labels": n, "right": r} for n, r in zip(counts, right, strict=True)],
                "descent": dict(zip(VERDICTS, self.counts().tolist(), strict=True)),
                "classes": classes,
            }
            path.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        else:
            raise ValueError(f"{path}: neither .csv nor .json")

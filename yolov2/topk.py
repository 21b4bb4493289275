"""How often a classifier is right: top-1 and top-5 on the middle of every picture (SPEC 18).

On a tree it is asked for leaves, as in Darknet, and a label is right if it is one of them or lies above one:
a picture of which no more is known than that it shows a dog is right as any dog.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fast.wordtree import descend
from reference.region import WordTree
from yolov2.classifier import Classifier, leaf_probability
from yolov2.data.crops_loader import Labelled, label_batches
from yolov2.errors import Complaints
from yolov2.model import input_size
from yolov2.tree.accuracy import HierarchicalAccuracy, on_path

RANKS = 5  # best classes that are remembered of every picture


@dataclass(frozen=True)
class TopK:
    """What a classifier says of labelled pictures.

    Parameters
    ----------
    names : tuple of str
        Of the classes, or of the nodes of the tree.
    imgsz : int
        Side of the input that the pictures were measured at, in pixels.
    indices : ndarray, int64 (N,)
        Which pictures of the data set.
    labels : ndarray, int64 (N,)
        Their classes.
    ranked : ndarray, int64 (N, K)
        The K = `RANKS` most probable classes (leaves), or all if they are fewer, the best first.
    probability : ndarray, float32 (N,)
        Of the best.
    hierarchy : HierarchicalAccuracy, optional
        Of the same pictures, if the classes are the nodes of a tree.
    """

    names: tuple[str, ...]
    imgsz: int
    indices: np.ndarray
    labels: np.ndarray
    ranked: np.ndarray
    probability: np.ndarray
    hierarchy: HierarchicalAccuracy | None = None

    def right(self, k: int = 1) -> np.ndarray:
        """Whether the class of a picture is among its `k` best, or above one of them: bool (N,)."""
        best, labels = self.ranked[:, :k], self.labels[:, None]
        hits: np.ndarray = best == labels
        if self.hierarchy is not None:
            hits = on_path(self.hierarchy.tree, labels, best)
        return np.any(hits, axis=1)

    def top(self, k: int = 1) -> float:
        """Share of the pictures that are right so; nan if there are none."""
        return float(self.right(k).mean()) if len(self.labels) else float("nan")

    def per_class(self, k: int = 1) -> np.ndarray:
        """The same for every class: (C,)."""
        counts = self.counts.astype(float)
        right = np.bincount(self.labels[self.right(k)], minlength=len(self.names))
        return np.divide(right, counts, out=np.full(len(counts), np.nan), where=counts > 0)

    @property
    def counts(self) -> np.ndarray:
        """Pictures of every class: int64 (C,)."""
        return np.bincount(self.labels, minlength=len(self.names))

    def confused(self, most: int = 10) -> list[tuple[str, str, int]]:
        """Class, what it was taken for, and how often, the most frequent first."""
        wrong = ~self.right()
        pairs = np.stack([self.labels[wrong], self.ranked[wrong, 0]], 1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        order = np.argsort(-counts, kind="stable")[:most]
        rows = zip(found[order].tolist(), counts[order].tolist(), strict=True)
        return [(self.names[truth], self.names[said], count) for (truth, said), count in rows]

    def __str__(self) -> str:
        choices = len(self.names) if self.hierarchy is None else _leaves(self.hierarchy.tree)
        tops = [f"top-{k} {self.top(k):.4f}" for k in (1, 5) if k < choices]
        return f"{', '.join(tops)} on {len(self.labels)} pictures, centre crop at {self.imgsz}x{self.imgsz}"

    def table(self, most: int = 20) -> str:
        """Accuracy per class as text, the worst first, `most` of them, and what they are taken for."""
        accuracy, counts = self.per_class(), self.counts
        worst = np.argsort(accuracy, kind="stable")[: np.isfinite(accuracy).sum()]
        width = max([5, *(len(self.names[c]) for c in worst[:most])])
        lines = [f"{'class':<{width}}  pictures   top-1"]
        lines += [f"{self.names[c]:<{width}}  {counts[c]:>8}  {accuracy[c]:6.3f}" for c in worst[:most]]
        if len(worst) > most:
            lines.append(f"{'':<{width}}  and {len(worst) - most} better ones")
        lines.append(f"{'all':<{width}}  {counts.sum():>8}  {self.top():6.3f}")
        pairs = self.confused()
        if pairs:
            lines.append("most confused: " + ", ".join(f"{a} taken for {b} {n}" for a, b, n in pairs))
        if self.hierarchy is not None:
            lines += ["", self.hierarchy.table(most=0)]
        return "\n".join(lines)

    def save(self, path: Path) -> None:
        """Write class, pictures, top-1 and top-5 of every class as comma separated values."""
        columns = (self.names, self.counts.tolist(), self.per_class(1).tolist(), self.per_class(5).tolist())
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("class", "pictures", "top1", "top5"))
            rows = zip(*columns, strict=True)
            writer.writerows(row for row in rows if row[1] or self.hierarchy is None)  # trees have many nodes


def rank_classes(scores: Tensor, k: int) -> Tensor:
    """The `k` best classes of every row of (B, C), the best first; of equal ones the lower comes first."""
    return scores.argsort(dim=1, descending=True, stable=True)[:, :k]


def top_k(
    classifier: Classifier,
    dataset: Labelled,
    batch: int = 32,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
    complaints: Complaints | None = None,
    threshold: float = 0.5,
) -> TopK:
    """Measure a classifier on the largest square in the middle of every picture.

    Parameters
    ----------
    classifier : Classifier
        Measured at its own `imgsz`; classes as of `dataset`.
    dataset : Labelled
        Labelled pictures.
    batch : int
        Pictures at a time.
    workers : int
        Threads making batches.
    rank, world : int
        Which of how many processes this is; each measures its share, `merge` puts them together.
    progress : bool
        Show a bar when it takes more than two seconds.
    complaints : Complaints, optional
        Counts pictures that cannot be read, and are left out. Without it the first one raises.
    threshold : float
        On a tree, of the descent by conditional probabilities (SPEC 13.3, the paper's).

    Returns
    -------
    TopK

    Raises
    ------
    ValueError
        If the input is not square, or the classes are not as many.
    UserError
        If a picture cannot be read and no `complaints` are given.
    """
    width, height = input_size(classifier.imgsz)
    if width != height:
        raise ValueError(f"imgsz: {classifier.imgsz} is not square")
    if len(dataset.names) != classifier.classes:
        raise ValueError(f"{len(dataset.names)} classes of pictures, {classifier.classes} of the classifier")
    made = label_batches(
        dataset, batch * world, width, workers=workers, complaints=complaints, rank=rank, world=world
    )
    count = -(-len(dataset) // (batch * world))
    tree = classifier.tree
    ranks = min(RANKS, classifier.classes if tree is None else _leaves(tree))
    indices, labels, ranked, best, greedy, reached = [], [], [], [], [], []
    for some in tqdm(made, "measuring", count, delay=2, leave=False, unit="batch", disable=not progress):
        if not len(some.images):
            continue
        images = some.to(classifier.device).images
        if tree is None:
            scores = classifier.probabilities(images)
        else:
            conditional = classifier.conditional(images)
            scores = leaf_probability(conditional, tree)
            greedy.append(descend(conditional, tree, 0.0).cpu())
            reached.append(descend(conditional, tree, threshold).cpu())
        classes = rank_classes(scores, ranks)
        indices.append(some.indices)
        labels.append(some.labels)
        ranked.append(classes.cpu())
        best.append(scores.gather(1, classes[:, :1])[:, 0].cpu())
    empty = torch.empty(0, dtype=torch.int64)
    names, truth = tuple(dataset.names), torch.cat([empty, *labels]).numpy()
    hierarchy = None
    if tree is not None:
        cautious, leaf = (torch.cat([empty, *nodes]).numpy() for nodes in (reached, greedy))
        hierarchy = HierarchicalAccuracy(tree, names, truth, cautious, threshold, leaf)
    return TopK(
        names,
        width,
        torch.cat([empty, *indices]).numpy(),
        truth,
        torch.cat([empty.view(0, 1).expand(0, ranks), *ranked]).numpy(),
        torch.cat([torch.empty(0), *best]).numpy(),
        hierarchy,
    )


def _leaves(tree: WordTree) -> int:
    return sum(group < 0 for group in tree.child_group)


def merge(shares: Sequence[TopK]) -> TopK:
    """What several processes measured, in the order of the data set."""
    order = np.argsort(np.concatenate([share.indices for share in shares]))

    def joined(parts: Sequence[Any], names: tuple[str, ...]) -> dict[str, Any]:
        return {name: np.concatenate([getattr(part, name) for part in parts])[order] for name in names}

    whole = replace(shares[0], **joined(shares, ("indices", "labels", "ranked", "probability")))
    if whole.hierarchy is None:
        return whole
    nodes = joined([share.hierarchy for share in shares], ("labels", "reached", "greedy"))
    return replace(whole, hierarchy=replace(whole.hierarchy, **nodes))

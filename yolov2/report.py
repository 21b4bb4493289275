"""What a run says before its first step, and what it shows when it is finished."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reference.region import TreeRule, WordTree
from yolov2.data.classes import letters
from yolov2.data.dataset import Dataset
from yolov2.detector import Detector
from yolov2.draw import draw_detections, sheet
from yolov2.tree.nodes import NodeIndex

# How a tree is descended here. Of the twenty odd boxes of COCO's that a small network had learnt to find, the
# paper's rule names 12 exactly and 4 wrongly, Darknet's 6 and 4; the others are called by a node above
RULE: TreeRule = "paper"


def node_lines(
    names: Sequence[str], nodes: Sequence[int], tree: WordTree, node_names: Sequence[str], most: int = 12
) -> list[str]:
    """Which nodes classes are, with the ways to them: a crane that is a bird is to be seen before training.

    Parameters
    ----------
    names : sequence of str
        The classes.
    nodes : sequence of int
        A node of each.
    tree : WordTree
        The tree.
    node_names : sequence of str
        What people call its nodes.
    most : int
        At most so many are listed, those first whose node is called otherwise.

    Returns
    -------
    list of str
        One line on the tree, then one per class.
    """
    index = NodeIndex(tree, node_names, lambda note: None)
    otherwise = [letters(name) != letters(node_names[node]) for name, node in zip(names, nodes, strict=True)]
    order = sorted(range(len(names)), key=lambda c: not otherwise[c])
    called = f", {sum(otherwise)} of them called otherwise there" if any(otherwise) else ""
    width = max((len(names[c]) for c in order[:most]), default=0)
    more = [f"and {len(names) - most} more"] * (len(names) > most)
    listed = [f"{names[c]:<{width}}  {index.path(nodes[c])}" for c in order[:most]] + more
    size = f"{len(tree.parents)} nodes in {len(tree.group_sizes)} groups"
    return [f"tree      {size}; the classes are nodes{called}", *(f"          {line}" for line in listed)]


def next_command(dataset: Dataset, weights: Path, folder: Path, tree: bool = False) -> str:
    """A detect command that works as it stands: on pictures of the data, or on drawn ones written out."""
    targets = [item.path for item in dataset.items[:3] if item.path is not None]
    if not targets:  # the built-in set is in no file: leave some pictures to try
        targets = [folder / "pictures"]
        targets[0].mkdir(exist_ok=True)
        for i in range(min(8, len(dataset))):
            dataset.picture(i).save(targets[0] / f"{dataset.items[i].id}.png")
    rule = ["--tree-rule", RULE] if tree else []
    return shlex.join(["python", "-m", "yolov2.detect", *map(str, targets), "--weights", str(weights), *rule])


def val_sheet(detector: Detector, dataset: Dataset, count: int = 12, conf: float = 0.25) -> Image.Image:
    """A sheet of val pictures, truths on the left and detections on the right of each pair."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    pictures = [dataset.picture(int(i)) for i in chosen]
    tiles, captions = [], []
    everything = detector(pictures, conf=conf, tree_rule=RULE)
    for i, picture, found in zip(chosen, pictures, everything, strict=True):
        item = dataset.items[int(i)]
        tiles.append(draw_detections(picture, item.boxes, dataset.names, item.classes))
        tiles.append(draw_detections(picture, found.boxes, detector.names, found.classes, found.scores))
        captions += [f"{item.id}: truth", "found"]
    return sheet(tiles, columns=6, captions=captions)

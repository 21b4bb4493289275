"""What a run says before its first step, and what it shows when it is finished."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reference.region import TreeRule, WordTree
from yolov2 import plots
from yolov2.data.classes import letters
from yolov2.data.dataset import Dataset
from yolov2.detector import Detector
from yolov2.draw import draw_detections, sheet
from yolov2.errors import shortened
from yolov2.evaluation import Evaluation
from yolov2.summary import summary, total_flops
from yolov2.train_config import TrainConfig
from yolov2.training.loop import Trainer
from yolov2.tree.nodes import NodeIndex

# How a tree is descended here. Of the twenty odd boxes of COCO's that a small network had learnt to find, the
# paper's rule names 12 exactly and 4 wrongly, Darknet's 6 and 4; the others are called by a node above
RULE: TreeRule = "paper"


def plan_lines(config: TrainConfig, trainer: Trainer, train_set: Dataset, val_set: Dataset) -> list[str]:
    """The plan of a run, before its first step: what is trained, on what, how long, how fast."""
    detector = trainer.model
    assert isinstance(detector, Detector) and config.imgsz
    rows = summary(detector.network.layers, (3, config.imgsz, config.imgsz))
    boxes = sum(len(item.boxes) for item in train_set.items)
    names, region = train_set.names, detector.region
    tree: list[str] = []
    if region.tree is not None and region.class_map is not None:
        tree = node_lines(names, region.class_map, region.tree, detector.names)
    return [
        f"model     {config.model}: {sum(r.learnable for r in rows) / 1e6:.2f} M parameters, "
        f"{total_flops(rows) / 1e9:.2f} BFLOP a picture at {config.imgsz}x{config.imgsz}",
        f"data      {len(train_set)} train pictures with {boxes} boxes, {len(val_set)} val pictures; "
        f"{len(names)} classes: {shortened(list(names), 20)}",
        *tree,
        "anchors   " + "  ".join(f"{w:.2f},{h:.2f}" for w, h in region.anchors) + " (cells)",
        *trainer.plan_lines(),
        f"folder    {trainer.folder}",
    ]


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


def report(folder: Path, detector: Detector, val_set: Dataset, evaluation: Evaluation) -> None:
    """What is left of a run: the best checkpoint's table, a sheet, curves, and the next command to type."""
    weights = folder / "best.safetensors"
    print(f"\nbest checkpoint on {len(val_set)} val pictures")
    print(evaluation.table())
    print(evaluation.headline())
    val_sheet(detector, val_set).save(folder / "val_sheet.png")
    plots.training_curves(folder / "results.csv", folder / "curves.png")
    evaluation.plot(folder / "precision_recall.png")
    names = ("val_sheet.png", "curves.png", "precision_recall.png", "results.csv")
    files = [name for name in names if (folder / name).exists()]
    print(f"\n{weights}\nalso there: last.safetensors, {', '.join(files)}")
    print(f"next: {next_command(val_set, weights, folder, detector.region.tree is not None)}")


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

"""What `yolov2.pretrain` says before its first step, and what it shows when it is finished."""

import shlex
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from reference.layers import Conv
from yolov2 import plots
from yolov2.classifier import Classifier
from yolov2.crops import centre_example
from yolov2.data.crops_loader import Labelled
from yolov2.draw import sheet
from yolov2.errors import shortened
from yolov2.presets import PRESETS
from yolov2.pretrain_config import PretrainConfig
from yolov2.summary import summary, total_flops
from yolov2.topk import TopK

RIGHT, WRONG = (38, 166, 91), (230, 57, 70)
TILES = 12  # of each half of the sheet


def plan_lines(
    config: PretrainConfig, classifier: Classifier, train_set: Labelled, val_set: Labelled
) -> list[str]:
    """What is trained, and on what."""
    assert config.imgsz
    rows = summary(classifier.network.layers, (3, config.imgsz, config.imgsz))
    counts = np.bincount(train_set.labels, minlength=len(train_set.names))
    cut = " cut out" if config.crops or config.data is None else ""
    tree = classifier.tree
    known = np.arange(len(counts)) if tree is None else np.flatnonzero(counts)
    names = [f"{train_set.names[c]} {counts[c]}" for c in known]
    lines = [
        f"model     {config.model}: {sum(r.learnable for r in rows) / 1e6:.2f} M parameters, "
        f"{total_flops(rows) / 1e9:.3f} BFLOP a picture at {config.imgsz}x{config.imgsz}",
        f"data      {len(train_set)} train pictures{cut}, {len(val_set)} val pictures; {len(names)} classes: "
        f"{shortened(names, 20)}",
    ]
    if tree is not None:
        inner = sum(tree.child_group[node] >= 0 for node in known)
        lines.append(
            f"tree      {len(counts)} nodes in {len(tree.group_sizes)} groups; "
            f"{len(known)} have train pictures, {inner} of these are inner ones"
        )
    return lines


def report(folder: Path, classifier: Classifier, val_set: Labelled, top: TopK) -> None:
    """What is left of a run: the best checkpoint's table, a sheet, and the next command to type."""
    weights = folder / "best.safetensors"
    print(f"\nbest checkpoint: {top}")
    print(top.table())
    top.save(folder / "classes.csv")
    plots.training_curves(folder / "results.csv", folder / "curves.png", "top1", "top-1")
    if top.hierarchy is not None:
        top.hierarchy.save(folder / "hierarchy.json")
    names = ("last.safetensors", "results.csv", "classes.csv", "hierarchy.json", "curves.png")
    files = [name for name in names if (folder / name).exists()]
    if len(top.labels):
        val_sheet(top, val_set).save(folder / "val_sheet.png")
        files.append("val_sheet.png")
    others = sorted(path.name for path in folder.glob("best_*.safetensors"))
    print(f"\n{weights}\nalso there: {', '.join([*files, *others])}")
    print(f"next: {next_command(classifier, weights)}")


def next_command(classifier: Classifier, weights: Path) -> str:
    """The command that trains a detector from the classifier, or one that measures it again.

    What stands in capitals is not known here. From a classifier on a tree it is YOLO9000's joint training,
    which takes the classifier's own pictures too.
    """
    config = classifier.config
    data = ["--data", config["data"] if config.get("crops") else "DATA"] if config.get("data") else []
    detectors = list(PRESETS)
    if classifier.tree is not None:
        detectors.sort(key=lambda name: name != "yolo9000")
        data += ["--tree", config.get("tree") or "TREE"]
        if config.get("names"):
            data += ["--names", config["names"]]
        if config.get("data") and not config.get("crops"):
            data += ["--classification", config["data"]]
    layers = classifier.network.layers
    last = next(i for i in reversed(range(len(layers))) if isinstance(layers[i], Conv))
    trunk = layers[:last]  # without the convolution that tells its own classes apart
    for name in detectors:
        if PRESETS[name].build()[: len(trunk)] == trunk:
            return shlex.join(
                ["python", "-m", "yolov2.train", "--model", name, "--weights", str(weights), *data]
            )
    return shlex.join(["python", "-m", "yolov2.pretrain", "--evaluate", str(weights)])


def val_sheet(top: TopK, dataset: Labelled, side: int = 160) -> Image.Image:
    """Val pictures as they were measured, each with its class and, if that is wrong, what it was taken for.

    The upper half is a sample, the lower the mistakes that the classifier was most sure of.

    Parameters
    ----------
    top : TopK
        Of `dataset`, at least one picture.
    dataset : Labelled
        The pictures.
    side : int
        Of a tile, in pixels.
    """
    sample = np.linspace(0, len(top.labels) - 1, min(TILES, len(top.labels))).round().astype(int)
    right = top.right()
    wrong = np.flatnonzero(~right)
    surest = wrong[np.argsort(-top.probability[wrong], kind="stable")][:TILES]
    tiles, captions = [], []
    for i in [*sample.tolist(), *surest.tolist()]:
        crop = Image.fromarray(centre_example(np.asarray(dataset.picture(int(top.indices[i]))), top.imgsz))
        label, found = top.labels[i], top.ranked[i, 0]
        tiles.append(ImageOps.expand(crop.resize((side, side)), 4, RIGHT if right[i] else WRONG))
        said = top.names[label] if label == found else f"{top.names[label]} as {top.names[found]}"
        captions.append(f"{said} {top.probability[i]:.2f}")
    return sheet(tiles, 6, captions, side + 8)

"""What a finished run shows: a table, a sheet of val pictures, curves, and the next command to type."""

import shlex
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from yolov2 import plots
from yolov2.data.dataset import Dataset
from yolov2.detector import Detector
from yolov2.draw import draw_detections, sheet
from yolov2.evaluate import Evaluation, evaluate


def report(folder: Path, val_set: Dataset, device: torch.device) -> Evaluation:
    """Evaluate a run's best checkpoint: print the table, draw sheet and curves, name the next command."""
    weights = folder / "best.safetensors"
    detector = Detector.load(weights, device)
    evaluation = evaluate(detector, val_set)
    print(f"\nbest checkpoint on {len(val_set)} val pictures (AP at IoU .5, all points)")
    print(evaluation.table())
    val_sheet(detector, val_set).save(folder / "val_sheet.png")
    plots.training_curves(folder / "results.csv", folder / "curves.png")
    evaluation.plot(folder / "precision_recall.png")
    names = ("val_sheet.png", "curves.png", "precision_recall.png", "results.csv")
    files = [name for name in names if (folder / name).exists()]
    print(f"\n{weights}\nalso there: last.safetensors, {', '.join(files)}")
    print(f"next: {next_command(val_set, weights, folder)}")
    return evaluation


def next_command(dataset: Dataset, weights: Path, folder: Path) -> str:
    """A detect command that works as it stands: on pictures of the data, or on drawn ones written out."""
    targets = [item.path for item in dataset.items[:3] if item.path is not None]
    if not targets:  # the built-in set is in no file: leave some pictures to try
        targets = [folder / "pictures"]
        targets[0].mkdir(exist_ok=True)
        for i in range(min(8, len(dataset))):
            dataset.picture(i).save(targets[0] / f"{dataset.items[i].id}.png")
    return shlex.join(["python", "-m", "yolov2.detect", *map(str, targets), "--weights", str(weights)])


def val_sheet(detector: Detector, dataset: Dataset, count: int = 12, conf: float = 0.25) -> Image.Image:
    """A sheet of val pictures, truths on the left and detections on the right of each pair."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int)
    pictures = [dataset.picture(int(i)) for i in chosen]
    tiles, captions = [], []
    for i, picture, found in zip(chosen, pictures, detector(pictures, conf=conf), strict=True):
        item = dataset.items[int(i)]
        tiles.append(draw_detections(picture, item.boxes, dataset.names, item.classes))
        tiles.append(draw_detections(picture, found.boxes, dataset.names, found.classes, found.scores))
        captions += [f"{item.id}: truth", "found"]
    return sheet(tiles, columns=6, captions=captions)

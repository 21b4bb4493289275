"""What a training run says before its first step, and what is left of it."""

from collections.abc import Sequence
from pathlib import Path

from reference.layers import Grid
from reference.region import Region
from yolov2 import plots
from yolov2.data.dataset import Dataset
from yolov2.detector import Detector
from yolov2.errors import shortened
from yolov2.evaluation import Evaluation
from yolov2.report import next_command, node_lines, val_sheet
from yolov2.summary import summary, total_flops
from yolov2.train_config import TrainConfig
from yolov2.training.loop import Trainer


def plan_lines(config: TrainConfig, trainer: Trainer, train_set: Dataset, val_set: Dataset) -> list[str]:
    """The plan of a run, before its first step: what is trained, on what, how long, how fast."""
    detector = trainer.model
    assert isinstance(detector, Detector) and config.imgsz
    rows = summary(detector.network.layers, (3, config.imgsz, config.imgsz))
    boxes = sum(len(item.boxes) for item in train_set.items)
    names = train_set.names
    return [
        f"model     {config.model}: {sum(r.learnable for r in rows) / 1e6:.2f} M parameters, "
        f"{total_flops(rows) / 1e9:.2f} BFLOP a picture at {config.imgsz}x{config.imgsz}",
        f"data      {len(train_set)} train pictures with {boxes} boxes, {len(val_set)} val pictures; "
        f"{len(names)} classes: {shortened(list(names), 20)}",
        *_head_lines(detector, names),
        *trainer.plan_lines(),
        f"folder    {trainer.folder}",
    ]


def _head_lines(detector: Detector, names: Sequence[str]) -> list[str]:
    """What a box is predicted by: a cell, or an anchor; and the classes' places on a tree."""
    head = detector.head
    if isinstance(head, Grid):
        return [f"cells     {head.side}x{head.side}, {head.boxes} boxes each"]
    tree: list[str] = []
    if head.tree is not None and head.class_map is not None:
        tree = node_lines(names, head.class_map, head.tree, detector.names)
    return [*tree, "anchors   " + "  ".join(f"{w:.2f},{h:.2f}" for w, h in head.anchors) + " (cells)"]


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
    on_tree = isinstance(detector.head, Region) and detector.head.tree is not None
    print(f"next: {next_command(val_set, weights, folder, on_tree)}")

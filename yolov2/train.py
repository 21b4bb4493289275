"""Train a detector: ``python -m yolov2.train`` draws its own pictures, ``--data FOLDER`` takes yours.

``--model yolov1`` is the YOLO of 2016, ``yolov1-tiny`` its Fast YOLO, ``yolov1-nano`` a small one for CPUs.
With ``--tree``, and pictures that have a class but no boxes, it is YOLO9000's joint training:
``--tree 9k.tree --map coco9k.map --classification FOLDER``.

On many GPUs, of one machine or several: ``torchrun --nproc-per-node=N -m yolov2.train ...``.
"""

import dataclasses
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fast.grid import GridLoss, grid_loss, grid_truth, trained_grid
from fast.loss import RegionLoss, region_loss
from reference.layers import Grid
from reference.region import Region, WordTree
from reference.schedule import Schedule
from yolov2.anchors import METHODS, SHORTER, box_cells, box_shapes, hand_made
from yolov2.checkpoint import Checkpoint
from yolov2.cli import parse, run
from yolov2.data.class_folders import open_classification
from yolov2.data.crops_loader import Kept, Labelled
from yolov2.data.dataset import Dataset, cached, verify
from yolov2.data.device import DeviceDataset, device_batches, on_device
from yolov2.data.joint import Portions, joint_batches, portions
from yolov2.data.loader import Batch, batches
from yolov2.data.sources import open_train_val
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.evaluation import Evaluation, compare, detect_all, merge_shards, settings_of
from yolov2.model import Model
from yolov2.presets import Recipe
from yolov2.recipes import find_recipe, grid_for, switched
from yolov2.runs import new_run
from yolov2.train_config import TrainConfig, parse_anchors
from yolov2.train_report import plan_lines, report
from yolov2.training.distributed import Processes, processes
from yolov2.training.loop import Plan, Trainer
from yolov2.training.resume import resume
from yolov2.training.sizes import Sizes
from yolov2.transfer import load_trained, start_from
from yolov2.tree.classes import class_nodes, coco_nodes
from yolov2.tree.files import open_node_names, open_tree

CACHE_BYTES = 4 << 30  # pictures are kept decoded as long as they fit


class TrainResult(NamedTuple):
    """What `train` leaves behind."""

    folder: Path
    evaluation: Evaluation  # of the best checkpoint on the val pictures
    seconds: float


class Words(NamedTuple):
    """A tree of classes, and what of it the data have."""

    tree: WordTree
    names: tuple[str, ...]  # what people call its nodes
    nodes: tuple[int, ...]  # of the classes of the pictures with boxes


class Joint(NamedTuple):
    """Pictures without boxes to learn from."""

    pictures: Kept
    portions: Portions


class DetectionTask:
    """Boxes and classes, learnt with the region loss (SPEC 7) or YOLOv1's (SPEC 11).

    See `yolov2.training.loop.Task`.

    Parameters
    ----------
    config : TrainConfig
        Resolved.
    head : Region or Grid
        Of the detector.
    train_set, val_set : Dataset
        Pictures to learn from, and to measure on.
    plan, sizes : Plan, Sizes
        Updates, and the input's side at each.
    processes : Processes
        Who takes which share.
    joint : Joint, optional
        Pictures that have a class and no boxes, to learn from too.
    """

    metric = "map50"

    def __init__(
        self,
        config: TrainConfig,
        head: Region | Grid,
        train_set: Dataset,
        val_set: Dataset,
        plan: Plan,
        sizes: Sizes,
        processes: Processes,
        joint: Joint | None = None,
    ):
        self.joint = joint
        # of the region loss, with that of pictures without boxes where there are any
        terms = GridLoss._fields[1:] if isinstance(head, Grid) else RegionLoss._fields[1 : 8 if joint else 7]
        self.parts = ("loss", *terms)
        self.steady = head.prior_images if isinstance(head, Region) else 0
        self.config, self.head, self.plan, self.sizes = config, head, plan, sizes
        self.processes = processes
        memory = CACHE_BYTES // processes.world if config.cache == "memory" else 0
        share = dataclasses.replace(val_set, items=val_set.items[processes.rank :: processes.world])
        self.val_set, self.val_share = val_set, cached(share, memory // 4)
        self.complaints = Complaints()
        self.train_set: Dataset = cached(train_set, memory)
        if config.cache == "device":
            self.train_set = on_device(
                train_set, processes.device, workers=config.workers or 0, complaints=self.complaints
            )

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """This process's share of every update."""
        config, processes, plan = self.config, self.processes, self.plan
        first = epoch * plan.per_epoch
        how = (lambda number: self.sizes(first + number)), config.augment
        same: dict[str, Any] = {
            "seed": config.seed,
            "epoch": epoch,
            "start": start,
            "rank": processes.rank,
            "world": processes.world,
        }
        loaded = same | {
            "workers": config.workers or 0,
            "complaints": self.complaints,
            "pin": processes.device.type == "cuda",
        }
        if self.joint:
            yield from joint_batches(self.train_set, *self.joint, *how, **loaded, per_epoch=plan.per_epoch)
        elif isinstance(self.train_set, DeviceDataset):
            same |= {"shuffle": True, "drop_last": True}
            yield from device_batches(self.train_set, plan.per_update, *how, **same)
        else:
            loaded |= {"shuffle": True, "drop_last": True}
            yield from batches(self.train_set, plan.per_update, *how, **loaded)
        self.complaints.report()

    def loss(self, outputs: Tensor, batch: Batch, seen: int) -> Tensor:
        """The terms of the loss."""
        head, truth = self.head, batch.truth
        if isinstance(head, Grid):
            cells = grid_truth(truth[..., :4], truth[..., 4].long(), head)
            return torch.stack(grid_loss(trained_grid(outputs.flatten(1), head), cells, head))
        return torch.stack(region_loss(outputs, truth, head, seen)[: len(self.parts)])

    def evaluate(self, model: Model) -> float:
        """mAP at IoU .5 on the val pictures, all points."""
        assert isinstance(model, Detector)
        return self.measure(model).map50

    def measure(self, detector: Detector) -> Evaluation:
        """Every process detects on its share of the val pictures; all compare the same, whole results.

        On a tree the classes of the data are looked for, each by itself.
        """
        if isinstance(self.head, Region) and self.head.class_map is not None:
            detector = detector.for_classes(self.val_set.names, self.head.class_map)
        found = detect_all(
            detector, self.val_share, progress=self.processes.first, complaints=self.complaints
        )
        whole = merge_shards(self.processes.gather(found))
        return compare(self.val_set, whole, detector.names, settings=settings_of(detector))

    def remark(self, batch: Batch) -> str:
        """A batch of mere background has no coordinate loss; say so rather than nan. No GPU is asked."""
        return "" if batch.truth.is_cuda or batch.truth[:, :, 2].any() else "no objects in this batch"


def choose_anchors(config: TrainConfig, dataset: Dataset, imgsz: int) -> tuple[tuple[float, float], ...]:
    """Anchors in cells of 32 pixels, by `config`: given, of the preset, or k-means on the boxes.

    Raises
    ------
    UserError
        If those given are pixels, by their size.
    """
    given = parse_anchors(config.anchors)
    if given is not None:
        grid = imgsz // 32
        if max(map(max, given)) > 2 * grid:  # as zoom allows
            raise UserError(
                f"--anchors {config.anchors}: larger than the input of {grid} cells; pixels of the "
                "input are to be divided by 32"
            )
        return given
    if config.anchors == "hand":
        by_hand = hand_made() * imgsz / SHORTER / 32
        return tuple((round(float(w), 4), round(float(h), 4)) for w, h in by_hand)
    preset = find_recipe(config.model).region.anchors
    fractions, sizes = box_shapes(dataset)
    if config.anchors == "preset" or not len(fractions):
        return preset
    wh = box_cells(fractions, sizes, imgsz / 32, config.resize or "letterbox")
    method, _, number = config.anchors.rpartition(":")
    count = len(preset) if number == "auto" else int(number)
    anchors, _ = METHODS[method or "iou"](wh, min(count, len(np.unique(wh, axis=0))), seed=0)
    return tuple((round(float(w), 4), round(float(h), 4)) for w, h in anchors)


def make_schedule(config: TrainConfig, updates: int) -> Schedule:
    """Darknet's burn-in and steps, the milestones being shares of all `updates`."""
    assert config.lr is not None and config.milestones is not None
    return Schedule(
        config.lr,
        "steps",
        burn_in=min(1000, updates // 10) if config.burn_in is None else config.burn_in,
        steps=tuple(round(m * updates) for m in config.milestones),
        scales=(config.drop,) * len(config.milestones),
        max_batches=updates,
    )


def train(config: TrainConfig) -> TrainResult:
    """Train, evaluate and report, as the command does.

    Parameters
    ----------
    config : TrainConfig
        The settings; ``config.resume`` takes all but those in `TrainConfig.RESUMABLE` from that run.

    Returns
    -------
    TrainResult
        In every process, where torchrun started several.

    Raises
    ------
    UserError
        If data, flags or checkpoints do not fit, or the loss becomes NaN.
    KeyboardInterrupt
        On Ctrl-C, after the run was saved so that it can be resumed.
    """
    with processes(config.device) as together:
        return _train(config, together)


def _train(config: TrainConfig, together: Processes) -> TrainResult:
    started = time.perf_counter()
    trainer, task = prepare(config, together)
    folder = trainer.folder
    try:
        trainer.run()
    except KeyboardInterrupt:
        if together.first:
            command = f"python -m yolov2.train --resume {shlex.quote(str(folder))}"
            print(f"\nstopped and saved; go on with: {command}", file=sys.stderr)
        raise
    # by way of rank 0: on another machine there is no such file
    best = together.from_first(Detector.load(folder / "best.safetensors") if together.first else None)
    evaluation = task.measure(best.to(together.device))
    seconds = time.perf_counter() - started
    if together.first:
        report(folder, best, task.val_set, evaluation)
        print(f"{seconds / 60:.1f} minutes in all")
    return TrainResult(folder, evaluation, seconds)


def prepare(config: TrainConfig, together: Processes) -> tuple[Trainer, DetectionTask]:
    """All that comes before the first update, which the trainer's `run` makes: data, network, plan, folder.

    Parameters
    ----------
    config : TrainConfig
        As for `train`.
    together : Processes
        Of `yolov2.training.distributed.processes`.

    Raises
    ------
    UserError
        As `train`.
    """
    resumed: Checkpoint | None = None
    if config.resume is not None:
        config, resumed = resume(config, Detector)
    config = config.resolved(together.device)
    assert config.imgsz and config.multi_scale and config.nominal_batch and config.epochs
    # before the data: that may take a while
    if not resumed:
        check_model(config)
    trained = load_trained(config.weights, config.cfg) if config.weights and not resumed else None
    train_set, val_set = _open(config, _class_names(resumed) if resumed else None, together)
    words = together.from_first(_open_words(config, train_set, resumed) if together.first else None)
    joint = _open_joint(config, words, together)

    torch.manual_seed(config.seed)
    taken = ""
    if resumed:
        assert config.resume is not None
        detector, folder = Detector.from_checkpoint(resumed, config.resume), config.resume.parent
    else:
        detector = build(config, train_set, words)
        if config.weights:
            taken = f"weights   {start_from(detector.network, trained, config.weights)}"
        folder = together.from_first(new_run(config.project, config.name) if together.first else None)
    # evaluate and --resume may be called from another folder
    paths = {name: getattr(config, name) for name in ("data", "classification")}
    absolute = {name: path.absolute() for name, path in paths.items() if path}
    detector.config = dataclasses.replace(config, **absolute).to_plain()
    if words:
        detector.config["mapped"] = list(train_set.names)

    plan = Plan(len(train_set), config.nominal_batch, config.epochs)
    if joint:
        per_epoch = joint.portions.batches(len(train_set), len(joint.pictures))
        plan = dataclasses.replace(plan, pictures=per_epoch * sum(joint.portions))
    low, high = config.multi_scale if config.multi_scale != (0, 0) else (config.imgsz, config.imgsz)
    sizes = Sizes(low, high, plan.updates, config.seed)
    task = DetectionTask(config, detector.head, train_set, val_set, plan, sizes, together, joint)
    schedule = make_schedule(config, plan.updates)
    trainer = Trainer(config, detector, task, plan, schedule, sizes, folder, together, resumed)
    if together.first:
        if resumed:
            at = trainer.progress
            taken = f"resumed   in epoch {at.epoch + 1} of {plan.epochs}, after update {at.step}"
        lines = plan_lines(config, trainer, train_set, val_set)
        if joint:
            lines.insert(2, _joint_line(joint, plan, len(train_set)))
        print("\n".join(filter(None, [*lines, taken])), flush=True)
    return trainer, task


def check_model(config: TrainConfig) -> None:
    """Complain about flags that the model has no use for.

    Raises
    ------
    UserError
        With the flag.
    """
    recipe = _recipe(config)
    if not isinstance(recipe.head, Grid):
        return
    grid_for(recipe, config.imgsz or recipe.imgsz)
    if config.anchors != "auto":
        raise UserError(f"--anchors: {config.model} is a YOLOv1, which has none; leave it out")
    if config.multi_scale not in (None, (0, 0)):
        raise UserError(
            f"--multi-scale: {config.model} has a connected layer, made for one size of input; leave it out"
        )
    for flag in ("tree", "classification", "names", "map", "assumed_iou", "location"):
        if getattr(config, flag) is not None:
            typed = flag.replace("_", "-")
            raise UserError(f"--{typed}: is about a region layer, {config.model} is a YOLOv1; leave it out")


def _recipe(config: TrainConfig) -> Recipe:
    return switched(find_recipe(config.model), config.model, config.batch_norm, config.passthrough)


def build(config: TrainConfig, train_set: Dataset, words: Words | None = None) -> Detector:
    """A new detector for these data, or the nodes of a tree, with random weights."""
    assert config.imgsz
    recipe, mode = _recipe(config), config.resize or "letterbox"
    if isinstance(recipe.head, Grid):
        settings: dict[str, Any] = {"classes": len(train_set.names)} | config.loss
        grid = dataclasses.replace(grid_for(recipe, config.imgsz), **settings)
        return Detector.build(recipe.build(grid), train_set.names, config.imgsz, mode)
    head: dict[str, Any] = {"classes": len(train_set.names), "class_map": None} | config.loss
    if words:
        on_tree = {"class_activation": "tree", "tree": words.tree, "background": False}
        head |= {"classes": len(words.names), "class_map": words.nodes} | on_tree
    anchors = choose_anchors(config, train_set, config.imgsz)
    region = dataclasses.replace(recipe.region, anchors=anchors, **head)
    names = words.names if words else train_set.names
    return Detector.build(recipe.build(region), names, config.imgsz, mode)


def _class_names(checkpoint: Checkpoint) -> tuple[str, ...]:
    """The classes of the data that a run was begun with."""
    mapped = checkpoint.config.get("mapped")
    return checkpoint.names if mapped is None else tuple(mapped)


def _open_words(config: TrainConfig, train_set: Dataset, resumed: Checkpoint | None) -> Words | None:
    """The tree of --tree, of the model's cfg file or of the run that is resumed; None if there is none.

    Raises
    ------
    UserError
        If a file is no tree, a flag needs one, or a class of the data is none of its nodes.
    """
    head = resumed.head if resumed else find_recipe(config.model).head
    if isinstance(head, Grid):
        return None
    assert isinstance(head, Region)
    if resumed:
        return Words(head.tree, resumed.names, head.class_map or ()) if head.tree else None
    tree = open_tree(config.tree) if config.tree else head.tree
    if tree is None:
        if config.model == "yolo9000":
            raise UserError("--model yolo9000: needs a --tree, such as Darknet's 9k.tree")
        for flag in ("classification", "names", "map"):
            if getattr(config, flag) is not None:
                raise UserError(f"--{flag}: is about the nodes of a tree; give --tree")
        return None
    complaints = Complaints()
    names = open_node_names(tree, config.tree or config.model, config.names)
    where = config.data or "the built-in set"
    known = {} if config.tree else coco_nodes(head.class_map or ())
    nodes = class_nodes(train_set.names, tree, names, where, complaints, config.map, known)
    complaints.report()
    return Words(tree, names, nodes)


def _open_joint(config: TrainConfig, words: Words | None, together: Processes) -> Joint | None:
    """The pictures of --classification, read once for all processes."""
    if config.classification is None:
        return None
    assert words and config.nominal_batch
    if config.nominal_batch < 2:
        raise UserError("--nominal-batch 1: has no room for a picture with boxes and one without")
    found: Labelled | None = None
    if together.first:
        complaints = Complaints()
        found = open_classification(config.classification, "train", words.names, complaints, tree=words.tree)
        complaints.report()
    memory = CACHE_BYTES // 2 // together.world if config.cache == "memory" else 0
    return Joint(Kept(together.from_first(found), memory), portions(config.nominal_batch, config.ratio))


def _joint_line(joint: Joint, plan: Plan, detection: int) -> str:
    """What an epoch is."""
    boxes, classes = joint.portions
    count, nodes = len(joint.pictures), len(np.unique(joint.pictures.labels))
    times = plan.per_epoch * boxes / detection, plan.per_epoch * classes / count
    return (
        f"          and {count} with a class only, {nodes} nodes: {classes} of every {plan.per_update}; "
        f"an epoch sees them {times[1]:.1f} times, those with boxes {times[0]:.1f} times"
    )


def _open(config: TrainConfig, names: tuple[str, ...] | None, together: Processes) -> tuple[Dataset, Dataset]:
    """The data, read and looked through once for all processes."""
    if config.data is None:  # drawn, which is quicker than sent
        return open_train_val(None, names, Complaints())
    sets = None
    if together.first:
        complaints = Complaints()
        train_set, val_set = open_train_val(config.data, names, complaints, config.format)
        # rather now than after an hour
        sets = verify(train_set, complaints), verify(val_set, complaints)
        complaints.report()
    return together.from_first(sets)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    train(parse(TrainConfig, argv, "python -m yolov2.train", "Train a YOLOv2 or YOLOv1 detector."))


if __name__ == "__main__":
    raise SystemExit(run(main))

"""Train a classifier for a detector to start from: ``python -m yolov2.pretrain --data FOLDER`` (SPEC 18).

Two stages in one run, as Darknet-19 was trained for YOLOv2: at 224 pixels, then for a while at 448. People
without ImageNet train on the objects of their detection data: ``--crops``. With ``--tree`` the classes are
nodes of a tree of words, as YOLO9000 was begun (SPEC 13.5). On many GPUs:
``torchrun --nproc-per-node=N -m yolov2.pretrain ...``.
"""

import dataclasses
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from reference.layers import Softmax
from reference.region import WordTree
from yolov2.checkpoint import Checkpoint, load_checkpoint, reading, training_data
from yolov2.classifier import Classifier, label_loss
from yolov2.cli import parse, run
from yolov2.data.class_folders import open_classification
from yolov2.data.crops_loader import Kept, LabelBatch, Labelled, label_batches
from yolov2.errors import Complaints, UserError
from yolov2.loading import load
from yolov2.model import Model
from yolov2.pretrain_config import PretrainConfig, Stage, find_classifier, open_nodes
from yolov2.pretrain_report import plan_lines, report
from yolov2.recipes import biased
from yolov2.runs import new_run
from yolov2.topk import TopK, merge, top_k
from yolov2.training.distributed import Processes, processes
from yolov2.training.loop import Plan, Trainer
from yolov2.training.resume import resume
from yolov2.training.sizes import Sizes
from yolov2.training.state import Progress
from yolov2.transfer import load_trained, start_from

CACHE_BYTES = 4 << 30  # pictures are kept decoded as long as they fit


class PretrainResult(NamedTuple):
    """What `pretrain` leaves behind."""

    folder: Path
    top: TopK  # of the best checkpoint on the val pictures
    seconds: float


class ClassificationTask:
    """One class a picture, learnt with softmax and cross entropy; see `yolov2.training.loop.Task`.

    Parameters
    ----------
    tree : WordTree, optional
        The classes are its nodes.
    config : PretrainConfig
        Resolved.
    stage : Stage
        What is trained of it.
    train_set, val_set : Kept
        Pictures to learn from, and to measure on.
    plan : Plan
        Updates.
    processes : Processes
        Who takes which share.
    """

    parts = ("loss",)
    metric = "top1"
    steady = 0

    def __init__(
        self,
        tree: WordTree | None,
        config: PretrainConfig,
        stage: Stage,
        train_set: Kept,
        val_set: Kept,
        plan: Plan,
        processes: Processes,
    ):
        self.tree = tree
        self.config, self.stage, self.plan, self.processes = config, stage, plan, processes
        self.train_set, self.val_set = train_set, val_set

    def batches(self, epoch: int, start: int) -> Iterator[LabelBatch]:
        """This process's share of every update."""
        complaints = Complaints()
        assert self.config.workers is not None
        yield from label_batches(
            self.train_set,
            self.plan.per_update,
            self.stage.imgsz,
            self.stage.augment,
            seed=self.config.seed,
            epoch=epoch,
            shuffle=True,
            drop_last=True,
            workers=self.config.workers,
            complaints=complaints,
            start=start,
            rank=self.processes.rank,
            world=self.processes.world,
            pin=self.processes.device.type == "cuda",
        )
        complaints.report()

    def loss(self, outputs: Tensor, batch: LabelBatch, seen: int) -> Tensor:
        """See `yolov2.classifier.label_loss`."""
        return label_loss(outputs.flatten(1), batch.labels, self.tree)[None]

    def evaluate(self, model: Model) -> float:
        """Share of the val pictures whose class is the most probable one; on a tree, see `yolov2.topk`."""
        assert isinstance(model, Classifier)
        top = self.measure(model)
        if self.processes.first:
            tqdm.write(str(top))
        return top.top()

    def measure(self, classifier: Classifier) -> TopK:
        """Every process measures its share of the val pictures; all are given the whole."""
        return measure(classifier, self.val_set, self.config, self.processes)

    def remark(self, batch: LabelBatch) -> str:
        """Nothing."""
        return ""


def measure(classifier: Classifier, dataset: Labelled, config: PretrainConfig, together: Processes) -> TopK:
    """`top_k`, shared among the processes."""
    complaints = Complaints()
    mine = top_k(
        classifier,
        dataset,
        config.batch or 32,
        config.workers or 0,
        together.rank,
        together.world,
        together.first,
        complaints,
        config.tree_thresh,
    )
    complaints.report()
    return merge(together.gather(mine))


def pretrain(config: PretrainConfig) -> PretrainResult:
    """Train, measure and report, as the command does.

    Parameters
    ----------
    config : PretrainConfig
        The settings; ``config.resume`` takes all but those in `PretrainConfig.RESUMABLE` from that run.

    Returns
    -------
    PretrainResult
        In every process, where torchrun started several.

    Raises
    ------
    UserError
        If data, flags or checkpoints do not fit, or the loss becomes NaN.
    KeyboardInterrupt
        On Ctrl-C, after the run was saved so that it can be resumed.
    """
    with processes(config.device) as together:
        return _pretrain(config, together)


def _pretrain(config: PretrainConfig, together: Processes) -> PretrainResult:
    started = time.perf_counter()
    last: Checkpoint | None = None
    if config.resume is not None:
        config, last = resume(config, Classifier)
        folder = config.resume.parent  # type: ignore[union-attr]
        begun = last.config["epochs"]
        if config.epochs != begun and (_epoch(last, folder), last.progress["batch"]) > (begun, 0):
            raise UserError(f"--epochs {config.epochs}: that stage is over; --finetune-epochs may change")
    config = config.resolved(together.device)
    # before the data: that may take a while
    trained = load_trained(config.weights, config.cfg) if config.weights and not last else None
    names: tuple[str, ...] | None
    if last:
        assert isinstance(last.head, Softmax)
        names, tree = last.names, last.head.tree
    else:
        names, tree = together.from_first(open_nodes(config) if together.first else None)
    complaints = Complaints()
    train_set = _open(config, "train", names, tree, together, complaints)
    val_set = _open(config, "val", train_set.names, tree, together, complaints)
    complaints.report()

    lines = []
    if last:
        classifier = _classifier(last, folder)
    else:
        torch.manual_seed(config.seed)
        classifier = build(config, train_set.names, tree)
        if config.weights:
            lines = [f"weights   {start_from(classifier.network, trained, config.weights)}"]
        folder = together.from_first(new_run(config.project, config.name) if together.first else None)
    if together.first:
        lines = [*plan_lines(config, classifier, train_set, val_set), *lines, f"folder    {folder}"]
        print("\n".join(lines), flush=True)
    try:
        for stage in config.stages:
            if last and _epoch(last, folder) >= stage.until and stage is not config.stages[-1]:
                continue  # it is over
            train_stage(config, stage, classifier, last, train_set, val_set, folder, together)
            last = _from_first(folder / "last.safetensors", together)
            classifier = _classifier(last, folder)
    except KeyboardInterrupt:
        if together.first:
            command = f"python -m yolov2.pretrain --resume {shlex.quote(str(folder))}"
            print(f"\nstopped and saved; go on with: {command}", file=sys.stderr)
        raise
    path = folder / "best.safetensors"
    best = Classifier.from_checkpoint(_from_first(path, together), path).to(together.device)
    top = measure(best, val_set, config, together)
    seconds = time.perf_counter() - started
    if together.first:
        report(folder, best, val_set, top)
        print(f"{seconds / 60:.1f} minutes in all")
    return PretrainResult(folder, top, seconds)


def train_stage(
    config: PretrainConfig,
    stage: Stage,
    classifier: Classifier,
    last: Checkpoint | None,
    train_set: Kept,
    val_set: Kept,
    folder: Path,
    together: Processes,
) -> None:
    """One stage from its beginning, or from where `last` was saved in it, to its end.

    Parameters
    ----------
    config : PretrainConfig
        Resolved.
    stage : Stage
        One of its stages.
    classifier : Classifier
        Trained in place.
    last : Checkpoint, optional
        Of this stage or of the end of the one before; the classifier has its weights.
    train_set, val_set : Kept
        Pictures.
    folder : Path
        Of the run.
    together : Processes
        Who else trains.
    """
    assert config.nominal_batch
    if last and stage.before and _epoch(last, folder) == stage.before and not last.progress["batch"]:
        # As in Darknet, where it is another cfg, it takes the weights and nothing else. Done before its first
        # epoch was saved, this may be done again: it is the same beginning.
        still = {k: torch.zeros_like(v) for k, v in last.tensors.items() if k.startswith("momentum/")}
        last = dataclasses.replace(
            last, tensors=last.tensors | still, progress=last.progress | {"best": -1.0}
        )
        if together.first:
            _keep_best(folder, config)
    classifier.imgsz = stage.imgsz
    classifier.network.input_shape = (3, stage.imgsz, stage.imgsz)
    # evaluate and --resume may be called from another folder
    classifier.config = dataclasses.replace(config, data=config.data and config.data.absolute()).to_plain()
    plan = Plan(len(train_set), config.nominal_batch, stage.until, stage.before)
    task = ClassificationTask(classifier.tree, config, stage, train_set, val_set, plan, together)
    trainer = Trainer(
        config.of_stage(stage, together.device),
        classifier,
        task,
        plan,
        stage.schedule(plan.updates - plan.first),
        Sizes(stage.imgsz, stage.imgsz, plan.updates, config.seed),
        folder,
        together,
        last,
    )
    if together.first:
        print(f"\nstage {config.stages.index(stage) + 1} of {len(config.stages)}")
        print("\n".join(trainer.plan_lines()), flush=True)
        if trainer.progress.step > plan.first:
            print(f"resumed   in epoch {trainer.progress.epoch + 1}, after update {trainer.progress.step}")
    trainer.run()


def _keep_best(folder: Path, config: PretrainConfig) -> None:
    """The best of the first stage under a name of its own: the second writes best.safetensors anew."""
    kept = folder / f"best_{config.imgsz}.safetensors"
    if not kept.exists():
        shutil.copyfile(folder / "best.safetensors", kept.with_suffix(".partial"))
        kept.with_suffix(".partial").replace(kept)


def _epoch(checkpoint: Checkpoint, folder: Path) -> int:
    """Epochs that were finished when it was saved."""
    with reading(folder / "last.safetensors"):
        return Progress.from_plain(checkpoint.progress, len(ClassificationTask.parts)).epoch


def _classifier(checkpoint: Checkpoint, folder: Path) -> Classifier:
    return Classifier.from_checkpoint(checkpoint, folder / "last.safetensors")


def _from_first(path: Path, together: Processes) -> Checkpoint:
    """A checkpoint by way of rank 0: on another machine there is no such file."""
    return together.from_first(load_checkpoint(path) if together.first else None)


def build(config: PretrainConfig, names: Sequence[str], tree: WordTree | None = None) -> Classifier:
    """A new classifier for these classes, or the nodes of a tree that people call so, with random weights.

    Raises
    ------
    UserError
        If there is nothing to tell apart, or the network cannot take the input.
    """
    assert config.imgsz
    if len(names) < 2:
        raise UserError(f"{config.data}: {len(names)} class; a classifier needs two to tell apart")
    layers = find_classifier(config.model).build(len(names) if tree is None else tree)
    if not config.batch_norm:
        layers = [biased(layer) for layer in layers]
    try:
        return Classifier.build(layers, names, config.imgsz)
    except ValueError as error:
        raise UserError(f"--model {config.model}, --imgsz {config.imgsz}: {error}") from None


def _open(
    config: PretrainConfig,
    split: str,
    names: tuple[str, ...] | None,
    tree: WordTree | None,
    together: Processes,
    complaints: Complaints,
) -> Kept:
    """A split of the data, read once for all processes."""
    found: Labelled | None = None
    if together.first:
        found = open_classification(config.data, split, names, complaints, config.crops, tree)
    memory = CACHE_BYTES // together.world if config.cache == "memory" else 0
    return Kept(together.from_first(found), memory if split == "train" else memory // 4)


def evaluate(config: PretrainConfig) -> TopK:
    """Measure the classifier ``config.evaluate`` on the val pictures, at its own size or ``config.imgsz``.

    Raises
    ------
    UserError
        If it is no classifier, or the data do not fit it.
    """
    assert config.evaluate is not None
    path = config.evaluate / "best.safetensors" if config.evaluate.is_dir() else config.evaluate
    with processes(config.device) as together:
        classifier = load(path, config.cfg, config.names, imgsz=config.imgsz, device=together.device)
        if not isinstance(classifier, Classifier):
            raise UserError(f"{path}: a detector; measure it with `python -m yolov2.evaluate`")
        if config.data is None:
            if "data" not in classifier.config:
                raise UserError(f"--data: needed, {path} does not say what it was trained on")
            crops = bool(classifier.config.get("crops"))
            config = dataclasses.replace(config, data=training_data(classifier.config, path), crops=crops)
        complaints = Complaints()
        val_set = _open(config, "val", classifier.names, classifier.tree, together, complaints)
        complaints.report()
        top = measure(classifier, val_set, config, together)
        if together.first:
            print(top)
            print(top.table())
        return top


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = parse(
        PretrainConfig, argv, "python -m yolov2.pretrain", "Train Darknet-19 or a smaller classifier."
    )
    if config.evaluate is not None:
        evaluate(config)
    else:
        pretrain(config)


if __name__ == "__main__":
    raise SystemExit(run(main))

"""Train a detector: ``python -m yolov2.train`` draws its own pictures, ``--data FOLDER`` takes yours."""

import csv
import dataclasses
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from fast.loss import RegionLoss, region_loss
from reference.kmeans import iou_kmeans
from reference.schedule import Schedule, learning_rate
from yolov2.anchors import box_cells, box_shapes
from yolov2.checkpoint import Checkpoint, load_checkpoint, reading, training_data
from yolov2.cli import parse, run, uninterrupted
from yolov2.data.dataset import Dataset, cached, verify
from yolov2.data.loader import Batch, batches
from yolov2.data.sources import open_train_val
from yolov2.detector import Detector, pick_device
from yolov2.errors import Complaints, UserError
from yolov2.evaluate import Evaluation, evaluate
from yolov2.optimizer import make_optimizer, update
from yolov2.recipes import find_recipe
from yolov2.report import report
from yolov2.runs import new_run
from yolov2.train_config import TrainConfig, parse_anchors
from yolov2.transfer import load_trained, start_from

CACHE_BYTES = 4 << 30  # pictures are kept decoded as long as they fit
PARTS = ("loss", *RegionLoss._fields[1:])
COLUMNS = ("epoch", "step", "seen", "lr", *PARTS)
# a run goes on as it was begun but for these
RESUMABLE = ("resume", "data", "epochs", "device", "workers")
BAR_INTERVAL = 0.2 if sys.stderr.isatty() else 20.0  # seconds; a log file wants few lines
LR_HINT = "try a lower --lr or a longer --burn-in"


class Progress(NamedTuple):
    """Where training stands."""

    epoch: int = 0  # epochs begun and finished
    batch: int = 0  # batches done of the epoch under way
    step: int = 0  # updates
    seen: int = 0  # pictures
    best: float = -1.0  # best mAP so far
    parts: tuple[float, ...] = (0.0,) * len(PARTS)  # loss terms of the epoch under way, summed ...
    pictures: int = 0  # ... over so many pictures

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "Progress":
        """Out of a checkpoint.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it cannot have come from here.
        """
        progress = cls(**plain | {"parts": tuple(plain["parts"])})
        counts = (progress.epoch, progress.batch, progress.step, progress.seen, progress.pictures)
        counted = all(isinstance(n, int) and n >= 0 for n in counts)
        terms = len(progress.parts) == len(PARTS) and np.isfinite(progress.parts).all()
        if not (counted and terms and isinstance(progress.best, float)):  # NaN where val has no truths
            raise ValueError(f"progress {plain}")
        return progress

    def after_update(self, pictures: int, parts: Sequence[float]) -> "Progress":
        """One update on so many pictures later; `parts` are its loss terms."""
        return self._replace(
            batch=self.batch + 1,
            step=self.step + 1,
            seen=self.seen + pictures,
            parts=tuple(a + b for a, b in zip(self.parts, parts, strict=True)),
            pictures=self.pictures + pictures,
        )

    @property
    def means(self) -> list[float]:
        """Loss terms of the epoch under way, per picture."""
        return [part / max(1, self.pictures) for part in self.parts]


class TrainResult(NamedTuple):
    """What `train` leaves behind."""

    folder: Path
    evaluation: Evaluation  # of the best checkpoint on the val pictures
    seconds: float


def choose_anchors(config: TrainConfig, dataset: Dataset, imgsz: int) -> tuple[tuple[float, float], ...]:
    """Anchors in cells of 32 pixels, by `config`: given, of the preset, or k-means on the boxes."""
    given = parse_anchors(config.anchors)
    if given is not None:
        return given
    preset = find_recipe(config.model).region.anchors
    fractions, sizes = box_shapes(dataset)
    if config.anchors == "preset" or not len(fractions):
        return preset
    wh = box_cells(fractions, sizes, imgsz / 32, config.resize)
    anchors, _ = iou_kmeans(wh, min(len(preset), len(np.unique(wh, axis=0))), seed=0)
    return tuple((round(float(w), 4), round(float(h), 4)) for w, h in anchors)


def train(config: TrainConfig) -> TrainResult:
    """Train, evaluate and report, as the command does.

    Parameters
    ----------
    config : TrainConfig
        The settings; ``config.resume`` takes all but those in `RESUMABLE` from that run.

    Returns
    -------
    TrainResult

    Raises
    ------
    UserError
        If data, flags or checkpoints do not fit, or the loss becomes NaN.
    KeyboardInterrupt
        On Ctrl-C, after the run was saved so that it can be resumed.
    """
    started = time.perf_counter()
    resumed: Checkpoint | None = None
    if config.resume is not None:
        path = config.resume / "last.safetensors" if config.resume.is_dir() else config.resume
        resumed = load_checkpoint(path)
        if not resumed.momentum:
            raise UserError(f"{path}: holds no optimiser state; resume from the run's last.safetensors")
        _only_resumable(config)
        with reading(path):
            run_config = TrainConfig.from_plain(resumed.config)
            progress = Progress.from_plain(resumed.progress)
        config = dataclasses.replace(
            run_config,
            data=config.data or training_data(resumed.config, path),
            epochs=config.epochs or run_config.epochs,
            device=config.device,
            workers=config.workers,
            resume=path,
        )
    device = pick_device(config.device)
    config = config.resolved(device)
    assert config.imgsz is not None and config.lr is not None
    # before the data: that may take a while
    trained = load_trained(config.weights, config.cfg) if config.weights and not resumed else None
    complaints = Complaints()
    train_set, val_set = open_train_val(config.data, resumed.names if resumed else None, complaints)
    if config.data is not None:  # rather now than after an hour
        train_set, val_set = verify(train_set, complaints), verify(val_set, complaints)
    complaints.report()

    torch.manual_seed(config.seed)
    if resumed:
        detector = Detector.from_checkpoint(resumed, path)
        folder = path.parent
    else:
        anchors = choose_anchors(config, train_set, config.imgsz)
        recipe = find_recipe(config.model)
        if recipe.region.tree is not None:
            raise UserError(f"--model {config.model}: networks with a tree cannot be trained yet")
        region = dataclasses.replace(
            recipe.region, anchors=anchors, classes=len(train_set.names), class_map=None
        )
        layers = recipe.build(region)
        detector = Detector.build(layers, train_set.names, config.imgsz, config.resize)
        if config.weights is not None:
            print(start_from(detector.network, trained, config.weights))
        folder = new_run(config.project, config.name)
        progress = Progress()
    # evaluate and --resume may be called from another folder
    detector.config = dataclasses.replace(config, data=config.data and config.data.absolute()).to_plain()
    detector.to(device)
    optimizer = make_optimizer(detector.network, config.lr, config.momentum, config.decay)
    for module in detector.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = config.bn_momentum
    for name, parameter in detector.network.named_parameters():
        momentum = torch.zeros_like(parameter, requires_grad=False)
        if resumed:
            momentum.copy_(resumed.momentum[name])
        optimizer.state[parameter]["momentum_buffer"] = momentum

    region, names = detector.region, ", ".join(train_set.names)
    parameters = sum(p.numel() for p in detector.network.parameters())
    print(
        f"{config.model}: {parameters / 1e6:.2f} M weights, input {config.imgsz}x{config.imgsz}, on {device}"
    )
    print(f"{len(train_set)} train and {len(val_set)} val pictures, {len(train_set.names)} classes: {names}")
    print("anchors (cells):", "  ".join(f"{w:.2f},{h:.2f}" for w, h in region.anchors))
    print(f"writing to {folder}" + (f", resumed at step {progress.step}" if resumed else ""), flush=True)

    try:
        _loop(config, detector, optimizer, progress, train_set, val_set, folder)
    except KeyboardInterrupt:
        command = f"python -m yolov2.train --resume {shlex.quote(str(folder))}"
        print(f"\nstopped and saved; go on with: {command}", file=sys.stderr)
        raise
    evaluation = report(folder, val_set, device)
    seconds = time.perf_counter() - started
    print(f"{seconds / 60:.1f} minutes in all")
    return TrainResult(folder, evaluation, seconds)


def make_schedule(config: TrainConfig, updates: int) -> Schedule:
    """Darknet's burn-in and steps, the milestones being shares of all `updates`."""
    assert config.lr is not None
    return Schedule(
        config.lr,
        "steps",
        burn_in=min(1000, updates // 10) if config.burn_in is None else config.burn_in,
        steps=tuple(round(m * updates) for m in config.milestones),
        scales=(config.drop,) * len(config.milestones),
        max_batches=updates,
    )


def _only_resumable(config: TrainConfig) -> None:
    """Complain about flags that `config.resume` would leave without effect."""
    for f in dataclasses.fields(config):
        if f.name not in RESUMABLE and getattr(config, f.name) != f.default:
            allowed = ", ".join(f"--{name}" for name in RESUMABLE[1:])
            raise UserError(
                f"--{f.name.replace('_', '-')}: --resume takes it from the run; leave it out, only {allowed} "
                "may change"
            )


def _loop(
    config: TrainConfig,
    detector: Detector,
    optimizer: torch.optim.SGD,
    progress: Progress,
    train_set: Dataset,
    val_set: Dataset,
    folder: Path,
) -> None:
    """All epochs."""
    assert config.epochs is not None and config.imgsz is not None
    assert config.workers is not None
    train_set = cached(train_set, CACHE_BYTES)
    val_set = cached(val_set, CACHE_BYTES // 4)
    drop_last = len(train_set) >= config.batch  # a last batch of one would spoil the batch statistics
    steps_per_epoch = len(train_set) // config.batch if drop_last else 1
    total = config.epochs * steps_per_epoch
    schedule = make_schedule(config, total)
    eval_every = config.eval_every or max(1, config.epochs // 20)
    complaints = Complaints()
    network, region = detector.network, detector.region
    started = time.perf_counter()

    def save(name: str) -> None:
        state = {
            f"momentum/{n}": optimizer.state[p]["momentum_buffer"] for n, p in network.named_parameters()
        }
        detector.save(folder / name, progress._asdict(), state if name.startswith("last") else None)

    per_epoch = steps_per_epoch * config.batch if drop_last else len(train_set)
    bar = tqdm(
        total=config.epochs * per_epoch,
        initial=progress.seen,
        unit="img",
        smoothing=0.05,
        mininterval=BAR_INTERVAL,
    )
    try:
        while progress.epoch < config.epochs:
            network.train()
            epoch_batches = batches(
                train_set,
                config.batch,
                config.imgsz,
                config.augment,
                seed=config.seed,
                epoch=progress.epoch,
                shuffle=True,
                drop_last=drop_last,
                workers=config.workers,
                complaints=complaints,
                resize=config.resize,
                start=progress.batch,
            )
            for batch in epoch_batches:
                images = batch.images.to(detector.device, memory_format=torch.channels_last)
                truth = batch.truth.to(detector.device)
                with uninterrupted():  # or a resumed run would not be the same run
                    n = len(images)
                    loss = region_loss(network(images), truth, region, progress.seen + n)
                    values = torch.stack(loss).detach().cpu()
                    if not torch.isfinite(values[0]):
                        _stop_on_nan(batch, values, progress, folder)
                    update(optimizer, [loss.total], n, learning_rate(schedule, progress.step + 1))
                    progress = progress.after_update(n, values.tolist())
                bar.update(n)
                bar.set_description_str(f"epoch {progress.epoch + 1}/{config.epochs}", refresh=False)
                bar.set_postfix_str(_loss_line(progress.means), refresh=False)
            complaints.report()
            if not all(p.isfinite().all() for p in network.parameters()):
                raise UserError(f"step {progress.step}: the weights overflowed; {_kept(folder)}; {LR_HINT}")
            epoch, means, map50 = progress.epoch + 1, progress.means, None
            if epoch % eval_every == 0 or epoch == config.epochs:
                map50 = evaluate(detector, val_set).map50
            with uninterrupted():
                progress = progress._replace(epoch=epoch, batch=0, parts=Progress().parts, pictures=0)
                if map50 is not None:
                    # a tie goes to the longer training; so does NaN, where val has no truths
                    better = not map50 < progress.best or not (folder / "best.safetensors").exists()
                    if better:
                        progress = progress._replace(best=map50)
                        save("best.safetensors")
                    mark = "  best so far" if better else ""
                    bar.write(f"epoch {epoch}: loss {means[0]:.3f}  mAP {map50:.3f}{mark}")
                save("last.safetensors")
                row = [epoch, progress.step, progress.seen, learning_rate(schedule, progress.step), *means]
                _append(folder / "results.csv", row, map50, time.perf_counter() - started)
    except KeyboardInterrupt:
        with uninterrupted():
            save("last.safetensors")
        raise
    finally:
        bar.close()


def _loss_line(means: Sequence[float]) -> str:
    """Loss and its parts that are not zero, short enough for a progress bar."""
    short = {"objectness": "obj", "noobject": "noobj", "classification": "cls"}
    shown = zip(PARTS, means, strict=True)
    return " ".join(f"{short.get(name, name)} {value:.2f}" for name, value in shown if value)


def _append(path: Path, row: list[float], map50: float | None, seconds: float) -> None:
    """Add an epoch to results.csv."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow([*COLUMNS, "map50", "seconds"])
        numbers = [f"{v:.6g}" for v in row]
        writer.writerow([*numbers, "" if map50 is None else f"{map50:.5f}", f"{seconds:.1f}"])


def _stop_on_nan(batch: Batch, values: Tensor, progress: Progress, folder: Path) -> None:
    """Keep what is needed to find the cause, and stop."""
    path = folder / "nan_batch.safetensors"
    save_file({"images": batch.images.contiguous(), "truth": batch.truth, "indices": batch.indices}, path)
    parts = zip(PARTS[1:], values[1:].tolist(), strict=True)
    bad = ", ".join(name for name, value in parts if not np.isfinite(value))
    raise UserError(
        f"step {progress.step + 1}: the loss is {values[0]:g} ({bad}); the batch is in {path}, "
        f"{_kept(folder)}; {LR_HINT}"
    )


def _kept(folder: Path) -> str:
    """What a run that went wrong leaves to its user."""
    last = folder / "last.safetensors"
    return f"the last good checkpoint is {last}" if last.exists() else "no epoch was finished yet"


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    train(parse(TrainConfig, argv, "python -m yolov2.train", "Train a YOLOv2 detector."))


if __name__ == "__main__":
    raise SystemExit(run(main))

"""The training loop, for whatever is trained: a `Task` brings the batches, the loss and the measure.

One update::

    nominal batch ── every process takes its share ── in pieces that fit into memory
      forward, loss SUMMED over a piece's pictures, backward   (with the last piece gradients are averaged)
    divided by the pictures of all processes ── clipped ── SGD as Darknet runs it ── moving average

so neither the number of processes nor the size of a piece changes what is computed, but for batch norm, whose
statistics are a piece's own.
"""

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from fast._launch import use_triton
from reference.schedule import Schedule, learning_rate
from yolov2.checkpoint import Checkpoint, reading
from yolov2.cli import OUT_OF_MEMORY, uninterrupted
from yolov2.errors import UserError
from yolov2.model import Model
from yolov2.network import Network
from yolov2.optimizer import make_optimizer, update
from yolov2.training.config import LoopConfig
from yolov2.training.distributed import Processes, synchronise_batch_norm
from yolov2.training.graphs import Graphs
from yolov2.training.log import Log
from yolov2.training.sizes import Sizes
from yolov2.training.state import Ema, Progress, from_tensors, start_momentum, to_tensors

BAR_INTERVAL = 0.2 if sys.stderr.isatty() else 20.0  # seconds; a log file wants few lines
LR_HINT = "try a lower --lr or a longer --burn-in"
HALVES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainBatch(Protocol):
    """Pictures with what is to be learnt of them."""

    @property
    def images(self) -> Tensor: ...

    def to(self, device: torch.device) -> Any:
        """On another device, pictures as float32 in [0, 1]."""

    def split(self, parts: int) -> list[Any]:
        """So many batches of nearly equal size; fewer if there are fewer pictures."""

    def _asdict(self) -> dict[str, Tensor]:
        """All its tensors, for a post mortem."""


class Task(Protocol):
    """What is trained: everything that differs between a detector and a classifier."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the loss's terms; the first is their sum."""

    @property
    def metric(self) -> str:
        """Name of the measure; higher is better."""

    @property
    def steady(self) -> int:
        """Pictures after which `loss` does not depend on `seen` any more."""

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """This process's share of every update of an epoch, from the `start`-th on."""

    def loss(self, outputs: Tensor, batch: Any, seen: int) -> Tensor:
        """The terms (len(parts),), each summed over the batch's pictures; `seen` counts these too."""

    def evaluate(self, model: Model) -> float:
        """The measure; all processes call it, and all are given the whole measure."""

    def remark(self, batch: Any) -> str:
        """A word on the batch for the progress bar."""


class Update(NamedTuple):
    """An update whose loss may still be on its way from the GPU."""

    values: Tensor  # loss terms on the CPU, summed over all processes
    ready: Any  # event after which they are
    batch: TrainBatch
    pictures: int
    step: int


@dataclass(frozen=True)
class Plan:
    """How the training set is cut into updates.

    Parameters
    ----------
    pictures : int
        Of the training set.
    nominal : int
        Pictures per update as asked for.
    epochs : int
        All of them, those of an earlier stage too.
    before : int
        Epochs of that earlier stage; schedule and sizes count from its end.
    """

    pictures: int
    nominal: int
    epochs: int
    before: int = 0

    @property
    def per_update(self) -> int:
        """Pictures of an update: all there are, if they are fewer than asked for."""
        return min(self.nominal, self.pictures)

    @property
    def per_epoch(self) -> int:
        """Updates of an epoch; the pictures that are left over (other ones every time) wait for the next."""
        return self.pictures // self.per_update

    @property
    def updates(self) -> int:
        """Of all the training."""
        return self.epochs * self.per_epoch

    @property
    def first(self) -> int:
        """The update that the earlier stage ended with."""
        return self.before * self.per_epoch


class Trainer:
    """One run: a model, its optimiser, and where they stand.

    Parameters
    ----------
    config : LoopConfig
        With every "none" resolved.
    model : Model
        Trained in place.
    task : Task
        What it learns.
    plan : Plan
        Updates.
    schedule : Schedule
        Learning rate.
    sizes : Sizes
        Side of the input at every update.
    folder : Path
        Of the run.
    processes : Processes
        Who else trains.
    resumed : Checkpoint, optional
        Where to go on; `model` has its weights.

    Raises
    ------
    UserError
        If the checkpoint is damaged, or memory does not suffice for one piece.
    """

    def __init__(
        self,
        config: LoopConfig,
        model: Model,
        task: Task,
        plan: Plan,
        schedule: Schedule,
        sizes: Sizes,
        folder: Path,
        processes: Processes,
        resumed: Checkpoint | None = None,
    ):
        self.config, self.task, self.plan, self.schedule, self.sizes = config, task, plan, schedule, sizes
        self.folder, self.processes = folder, processes
        device = processes.device
        model.to(device)
        if config.sync_bn and processes.world > 1:
            synchronise_batch_norm(model.network, device)
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        model.network.to(memory_format=layout)  # type: ignore[call-overload]
        for module in model.network.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = config.bn_momentum
        self.model = model
        self.network: Network = model.network
        assert config.lr is not None
        self.optimizer = make_optimizer(self.network, config.lr, config.momentum, config.decay)
        start_momentum(self.network, self.optimizer)
        self.ema = Ema(self.network, config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "float16" else None
        self.progress = Progress()
        if resumed is not None:
            with reading(folder / "last.safetensors"):
                self.progress = Progress.from_plain(resumed.progress, len(task.parts))
                from_tensors(resumed.tensors, self.network, self.optimizer, self.ema)
            if self.scaler:
                self.scaler.load_state_dict(
                    self.scaler.state_dict()
                    | {"scale": self.progress.scale, "_growth_tracker": self.progress.growth}
                )
        self.pieces = self._pieces()
        self.forward = self._wrapped()
        self.graphs = self._graphs() if config.cuda_graph else None
        self.pending: deque[Update] = deque()
        self.saved = time.monotonic()

    # ---- memory and speed -------------------------------------------------------------------------------

    def _pieces(self) -> int:
        """How many pieces a share is cut into; the largest input is tried, rather now than after an hour."""
        share = -(-self.plan.per_update // self.processes.world)
        wanted = self.config.batch or (min(share, 8) if self.processes.device.type == "cpu" else share)
        if self.sizes.smallest == self.sizes.largest and self.config.batch and self.progress.step:
            return -(-share // wanted)
        while True:
            batch = min(wanted, share)
            fits = self._fits(batch)
            if self.processes.total(int(fits)) == self.processes.world:
                return -(-share // batch)
            if self.config.batch or batch == 1:
                raise UserError(
                    f"{batch} pictures of {self.sizes.largest} pixels do not fit into the memory of "
                    f"{self.processes.device}; try a smaller --batch, input or model"
                )
            wanted = batch // 2

    def _fits(self, batch: int) -> bool:
        """Whether a piece of the largest input can be trained; leaves no trace but a warm allocator."""
        side, device = self.sizes.largest, self.processes.device
        if device.type == "cpu" and self.sizes.smallest == side:
            return True  # the first update will tell as soon
        kept = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        rng = torch.get_rng_state()
        try:
            self.network.train()
            images = torch.zeros(batch, 3, side, side, device=device)
            with self._autocast():
                outputs = self.network(images.contiguous(memory_format=torch.channels_last))
            outputs.float().square().sum().backward()
            return True
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, MemoryError) and not any(w in str(error) for w in OUT_OF_MEMORY):
                raise
            return False
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            for name, buffer in self.network.named_buffers():
                buffer.copy_(kept[name])
            torch.set_rng_state(rng)

    def _autocast(self) -> Any:
        dtype = HALVES[self.config.precision]
        return torch.autocast(self.processes.device.type, dtype) if dtype else nullcontext()

    def _wrapped(self) -> nn.Module:
        """The network as it is called: compiled, and with gradients averaged over processes."""
        network: Any = self.network
        if self.processes.world > 1:
            ids = [self.processes.device.index] if self.processes.device.type == "cuda" else None
            network = DistributedDataParallel(network, device_ids=ids, gradient_as_bucket_view=True)
        if self.config.compile:
            sizes = (self.sizes.largest - self.sizes.smallest) // self.sizes.stride + 1
            torch._dynamo.config.recompile_limit = max(8, 2 * sizes)  # a graph for every size
            network = torch.compile(network)
        return network

    def _graphs(self) -> Graphs | None:
        """Updates as CUDA graphs, where they can be."""
        device = self.processes.device
        if device.type == "cuda" and self.processes.world == 1 and use_triton(torch.empty(0, device=device)):
            return Graphs(self._step, device, self.task.steady)
        if self.processes.first:
            where = "several processes" if self.processes.world > 1 else f"device {device}"
            print(f"note: --cuda-graph: {where} must do without; it is for one GPU", file=sys.stderr)
        return None

    def plan_lines(self) -> list[str]:
        """How the run will go, in words."""
        plan, schedule, config, sizes = self.plan, self.schedule, self.config, self.sizes
        multi = sizes.smallest < sizes.largest
        share = -(-plan.per_update // self.processes.world)
        cut = f", in {self.pieces} pieces of {-(-share // self.pieces)}" if self.pieces > 1 else ""
        many = f" over {self.processes.world} processes" if self.processes.world > 1 else ""
        turns = sorted({max(1, schedule.burn_in), *(n for n in schedule.steps if 0 < n <= plan.updates)})
        changes = [f"{learning_rate(schedule, n):.3g} from update {n}" for n in turns]
        if schedule.policy == "poly":
            changes.append(f"to 0 at {schedule.max_batches} with power {schedule.power:g}")
        extras = [
            config.precision,
            "compiled" if config.compile else "",
            "in CUDA graphs" if self.graphs else "",
            f"moving average {config.ema}" if config.ema else "",
            f"gradient clipped at {config.clip}" if config.clip else "",
            "batch norm over all processes" if config.sync_bn and self.processes.world > 1 else "",
        ]
        return [
            f"updates   {plan.updates - plan.first}: {plan.epochs - plan.before} epochs of {plan.per_epoch}, "
            f"each on {plan.per_update} "
            f"pictures{many}{cut}",
            f"rate      {', '.join(changes)}",
            f"input     {sizes.smallest}x{sizes.smallest} pixels"
            + (f" to {sizes.largest}x{sizes.largest}, a new size every 10 updates" if multi else ""),
            f"on        {self.processes.device}, {', '.join(filter(None, extras))}",
        ]

    # ---- updates ----------------------------------------------------------------------------------------

    def run(self) -> None:
        """Train to the end.

        Raises
        ------
        UserError
            If the loss becomes NaN or the weights overflow.
        KeyboardInterrupt
            On Ctrl-C or SIGTERM, after the run was saved.
        """
        with _terminable():
            self._run()

    def _run(self) -> None:
        columns = (*self.task.parts, self.task.metric, "seconds")
        first = self.processes.first
        self.log = Log(self.folder, columns, self.progress.epoch, self.progress.step) if first else None
        self.started = time.monotonic() - (self.log.seconds if self.log else 0)
        if self.progress.step == self.plan.first:
            self._save("last.safetensors")  # from here on there is something to resume
        plan = self.plan
        self.bar = tqdm(
            total=plan.updates * plan.per_update,
            initial=self.progress.step * plan.per_update,
            unit="img",
            smoothing=0.05,
            mininterval=BAR_INTERVAL,
            disable=not first,
        )
        try:
            while self.progress.epoch < plan.epochs:
                self._epoch()
        except KeyboardInterrupt:
            with uninterrupted():
                self._settle(0)
                self._save("last.safetensors")
            raise
        finally:
            self.bar.close()

    def _epoch(self) -> None:
        self.network.train()
        epoch = self.progress.epoch + 1
        self.bar.set_description_str(f"epoch {epoch}/{self.plan.epochs}", refresh=False)
        for batch in self.task.batches(self.progress.epoch, self.progress.batch):
            with uninterrupted():  # or a resumed run would not be the same run
                self._update(batch)
                if time.monotonic() - self.saved > 60 * self.config.save_every:
                    self._settle(0)
                    self._save("last.safetensors")
        with uninterrupted():
            self._settle(0)
            self.processes.average_([b for _, b in self.network.named_buffers()])
        if not all(p.isfinite().all() for p in self.network.parameters()):
            raise UserError(f"step {self.progress.step}: the weights overflowed; {self._kept()}; {LR_HINT}")
        every = self.config.eval_every or max(1, self.plan.epochs // 20)
        value = (
            self.task.evaluate(self.best_model) if epoch % every == 0 or epoch == self.plan.epochs else None
        )
        with uninterrupted():
            self._end_epoch(value)

    def _end_epoch(self, value: float | None) -> None:
        means = dict(zip(self.task.parts, self.progress.means, strict=False))
        self.progress = self.progress.after_epoch()
        if value is not None:
            # a tie goes to the longer training; so does NaN, where val has no truths
            better = not value < self.progress.best or not (self.folder / "best.safetensors").exists()
            if better:
                self.progress = self.progress._replace(best=value)
                self._save("best.safetensors")
            loss, mark = means.get("loss", float("nan")), "  best so far" if better else ""
            if self.processes.first:
                words = f"loss {loss:.3f}  {self.task.metric} {value:.3f}{mark}"
                self.bar.write(f"epoch {self.progress.epoch}: {words}")
        if self.log:
            rate = learning_rate(self.schedule, self.progress.step - self.plan.first)
            row = {"epoch": self.progress.epoch, "step": self.progress.step, "seen": self.progress.seen}
            seconds = time.monotonic() - self.started
            self.log.write({**row, "lr": rate, **means, self.task.metric: value, "seconds": seconds})
        self._save("last.safetensors")  # last: a run killed before this does the epoch and its row again

    def _update(self, batch: TrainBatch) -> None:
        """One step on this process's share of a nominal batch."""
        step = self.progress.step + len(self.pending)
        pictures = self.processes.total(len(batch.images))
        if not pictures:  # none of them can be read, as the complaints will tell
            return
        seen = self.progress.seen + sum(u.pictures for u in self.pending)
        rate = learning_rate(self.schedule, step + 1 - self.plan.first)
        share = self.ema.share(step + 1) if self.ema else 0.0
        values = (self.graphs or self._step)(batch, pictures, seen, rate, share)
        # neither a fused optimiser nor a graph says that it wrote to these; `Model.predictor` asks
        torch.autograd.graph.increment_version([*self.network.parameters(), *self.network.buffers()])
        ready = None
        if values.is_cuda:  # nobody waits: these are looked at when the next update is under way
            values = values.to("cpu", non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        self.pending.append(Update(values, ready, batch, pictures, step + 1))
        self._settle(1 if ready else 0)
        self.bar.set_postfix_str(self._line(batch), refresh=False)
        self.bar.update(pictures)

    def _step(
        self, batch: TrainBatch, pictures: int, seen: int, rate: float | Tensor, share: float | Tensor
    ) -> Tensor:
        """What the device does: from the batch to the moving average. Nothing here waits for a GPU.

        `pictures` are those of all processes, `seen` those before them, `share` is the weight of the network
        in its moving average. Returns the terms of the loss, summed over all processes.
        """
        here = len(batch.images)
        values = torch.zeros(len(self.task.parts), device=self.processes.device)
        pieces = batch.split(self.pieces)

        def losses() -> Iterator[Tensor]:
            done = 0
            for number, piece in enumerate(pieces, 1):
                done += len(piece.images)
                moved = piece.to(self.processes.device)
                if not here:  # nothing could be read: keep step with the other processes
                    yield self.forward(moved.images.new_zeros(1, *moved.images.shape[1:])).sum() * 0.0
                    continue
                # gradients are averaged over processes once, with the last piece
                alone = number < len(pieces) and self.processes.world > 1
                with self.forward.no_sync() if alone else nullcontext():  # type: ignore[operator]
                    with self._autocast():
                        outputs = self.forward(moved.images)
                    parts = self.task.loss(outputs.float(), moved, seen + pictures * done // here)
                    values.add_(parts.detach())
                    yield parts[0]

        update(self.optimizer, losses(), pictures / self.processes.world, rate, self.config.clip, self.scaler)
        if self.ema:
            self.ema.follow(self.network, share)
        return self.processes.sum(values)

    def _settle(self, leave: int) -> None:
        """Count the updates whose losses are known, all but so many; stop on NaN."""
        while len(self.pending) > leave:
            done = self.pending.popleft()
            if done.ready:
                done.ready.synchronize()
            if not torch.isfinite(done.values[0]):
                self._stop_on_nan(done)
            self.progress = self.progress.after_update(done.pictures, done.values.tolist())

    def _line(self, batch: TrainBatch) -> str:
        """Loss and its parts that are not zero, short enough for a progress bar."""
        short = {"objectness": "obj", "noobject": "noobj", "classification": "cls"}
        shown = zip(self.task.parts, self.progress.means, strict=False)
        words = [f"{short.get(name, name)} {value:.2f}" for name, value in shown if value]
        if self.sizes.smallest < self.sizes.largest:
            words.append(f"{batch.images.shape[-1]} px")
        return " ".join([*words, self.task.remark(batch)]).strip()

    def _stop_on_nan(self, done: Update) -> None:
        """Keep what is needed to find the cause, and stop."""
        path = self.folder / f"nan_batch{self.processes.rank or ''}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in done.batch._asdict().items()}, path)
        parts = zip(self.task.parts[1:], done.values[1:].tolist(), strict=True)
        bad = ", ".join(name for name, value in parts if not torch.isfinite(torch.tensor(value)))
        self.pending.clear()
        raise UserError(
            f"step {done.step}: the loss is {done.values[0]:g} ({bad or 'sum'}); the batch is in {path}, "
            f"{self._kept()}; {LR_HINT}"
        )

    def _kept(self) -> str:
        """What a run that went wrong leaves to its user."""
        if not self.progress.epoch:
            return "no epoch was finished yet"
        return f"the last good checkpoint is {self.folder / 'last.safetensors'}"

    # ---- checkpoints ------------------------------------------------------------------------------------

    @property
    def best_model(self) -> Model:
        """What is evaluated and kept as the best: the averaged weights, where there are any."""
        return replace(self.model, network=self.ema.network) if self.ema else self.model

    def _save(self, name: str) -> None:
        """Write best.safetensors, which holds a model, or last.safetensors, which can be resumed."""
        self.saved = time.monotonic()
        if not self.processes.first:
            return
        progress = self.progress
        if self.scaler:
            state = self.scaler.state_dict()
            progress = progress._replace(scale=state["scale"], growth=state["_growth_tracker"])
        if name == "best.safetensors":
            self.best_model.save(self.folder / name, progress._asdict())
        else:
            extra = to_tensors(self.network, self.optimizer, self.ema)
            self.model.save(self.folder / name, progress._asdict(), extra)


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM, a scheduler's farewell, do what Ctrl-C does, also in a shell's background.

    There Ctrl-C is ignored from the start, and what stands for it would be too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: os.kill(os.getpid(), signal.SIGINT))
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    if ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

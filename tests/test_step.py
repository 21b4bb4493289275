"""One update of training: nothing in it waits for a GPU, and it may be replayed."""

from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from fast import _launch
from fast.augment import Placed, augment
from tests.commands import TINY, command
from yolov2 import train
from yolov2.data.crops_loader import LabelBatch
from yolov2.data.joint import JointBatch
from yolov2.data.loader import Batch
from yolov2.optimizer import make_optimizer
from yolov2.train_config import TrainConfig
from yolov2.training import loop
from yolov2.training.distributed import Processes
from yolov2.training.graphs import ROWS, WARM_UP, Graphs
from yolov2.training.state import to_tensors

CPU, CUDA, META = torch.device("cpu"), torch.device("cuda"), torch.device("meta")
NOWHERE = torch.ones(5, device=META)  # of which nothing can be copied to the host
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT CHECKED: needs a GPU")


class NothingWaits(TorchDispatchMode):
    """Raises where Python would have to wait for a GPU, also inside this project's operators.

    That is for a value, for a shape that depends on values, and for copies between host and device: of
    another device, or (which `lift_fresh` gives away) of numbers that Python has.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "yolov2":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs or {})
        tags, indices = func.tags, args[1] if func._schema.name.startswith("aten::index") else ()
        by_mask = any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in indices)
        if torch.Tag.dynamic_output_shape in tags and (by_mask or not indices):
            raise AssertionError(f"{func}: the shape depends on values")
        if torch.Tag.data_dependent_output in tags or by_mask:
            raise AssertionError(f"{func}: Python asks for a value")
        result = func(*args, **kwargs or {})
        if func._schema.name in ("aten::_to_copy", "aten::copy_", "aten::lift_fresh"):
            source = args[1] if func._schema.name == "aten::copy_" else args[0]
            if result.device != source.device or func._schema.name == "aten::lift_fresh":
                raise AssertionError(f"{func}: a copy from {source.device} to {result.device}")
        return result


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
        lambda x: x.index_put_((x > 0,), x[0]),
        lambda x: x.nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.equal(x + 1),
        lambda x: x.new_tensor([3.0, 4.0]),
        lambda x: torch.tensor(3.0, device=x.device),
        lambda x: x.to(META),
        lambda x: NOWHERE.copy_(x),
        lambda x: NOWHERE.cpu(),
        lambda x: NOWHERE.tolist(),
    ],
)
def test_what_waits_is_noticed(wait):
    x = torch.ones(5)
    with pytest.raises((AssertionError, NotImplementedError)), NothingWaits():
        wait(x)


class Silent:
    """A progress bar that shows nothing."""

    def update(self, pictures): ...

    def set_postfix_str(self, text, refresh): ...


def trainer_of(data, project, device=CPU, **settings):
    """A trainer in front of its first update, and its task."""
    same = {"imgsz": 64, "nominal_batch": 2, "epochs": 9, "ema": 0.9, "clip": 1.0, "device": str(device)}
    trainer, task = train.prepare(
        TrainConfig(data=data, project=project, **same | settings), Processes(device=device)
    )
    trainer.bar = Silent()
    trainer.network.train()
    return trainer, task


def picture_batch(device, side=64, rows=3):
    """Two pictures augmented on a device."""
    table = torch.tensor([Placed(0, 5, 4, side, side, 0, 0), Placed(60, 5, 4, 40, 50, -3, 9, True)])
    buffer, colour = torch.arange(120, dtype=torch.uint8), torch.tensor([[0.1, 1.5, 0.8]] * 2)
    truth = torch.rand(2, rows, 5, generator=torch.Generator().manual_seed(rows))
    truth[..., 4] = truth[..., 4] > 0.5
    return (x.to(device) for x in (buffer, table, colour, truth))


@pytest.mark.parametrize(
    "device, precision",
    [(META, "float32"), *((CPU, p) for p in ("float32", "bfloat16", "float16"))],
    ids=str,
)
def test_nothing_in_an_update_waits(small_data, tmp_path, monkeypatch, device, precision):
    """From pixels on the device to the moving average, on the path that a GPU takes: kernels are launched.

    The meta device has no memory: what came from the host, or went there, could not hide.
    """
    fused = device == CPU  # as on GPUs; meta has no fused optimiser
    monkeypatch.setattr(loop, "make_optimizer", partial(make_optimizer, fused=fused))
    trainer, _ = trainer_of(small_data, tmp_path, device, precision=precision)
    buffer, table, colour, truth = picture_batch(device)
    rate, share = torch.zeros(2, device=device) if fused else (0.1, torch.zeros((), device=device))

    def update():
        images = augment(buffer, table, colour, 64, 64, channels_last=True)
        return trainer._step(Batch(images, truth, torch.arange(2)), 2, 0, rate, share)

    with _launch.recording() as launches:
        update()  # makes what is made once
        first = len(launches)
        monkeypatch.setattr(_launch, "_get_current_dispatch_mode", lambda: None)
        with NothingWaits():
            values = update()
    assert values.device == device and values.shape == (7,)
    kernels = [launch.kernel.__name__ for launch in launches[first:]]
    assert {"_augment_kernel", "_region_loss_kernel", "_backward_kernel"} <= set(kernels)


def test_nor_in_one_of_yolov1(small_data, tmp_path):
    """Whose loss is torch code on GPUs too."""
    trainer, _ = trainer_of(small_data, tmp_path, META, model="yolov1-nano", imgsz=None)
    side = trainer.sizes.largest
    images, truth = torch.rand(2, 3, side, side, device=META), torch.rand(2, 9, 5, device=META)
    with NothingWaits():
        values = trainer._step(Batch(images, truth, torch.arange(2)), 2, 0, 0.1, NOWHERE[0])
    assert len(values) == len(trainer.task.parts) == 6


class OnCpu(Graphs):
    """Replays by running again: all of `Graphs` but CUDA.

    Its device has a number that tensors do not have, the other way round than "cuda" and they.
    """

    def __init__(self, step, steady=0):
        super().__init__(step, torch.device("cpu:0"), steady)

    def aside(self, run):
        return run()

    def capture(self, run):
        return run


class TestGraphs:
    """Batches of two sizes, with lists of truths of many lengths."""

    BATCHES = tuple(((64, 96)[i // 2 % 2], (3, 70, 10)[i % 3]) for i in range(20))

    def state_after(self, trainer):
        """All that a run remembers, after updates on the batches."""
        for side, rows in self.BATCHES:
            buffer, table, colour, truth = picture_batch(trainer.processes.device, side, rows)
            images = augment(buffer, table, colour, side, side, channels_last=True)
            trainer._update(Batch(images, truth, torch.arange(2)))
        trainer._settle(0)
        extra = to_tensors(trainer.network, trainer.optimizer, trainer.ema)
        return {**trainer.network.state_dict(), **extra, "loss": torch.tensor(trainer.progress.parts)}

    def test_replayed_updates_are_updates(self, small_data, tmp_path, monkeypatch):
        """Rate, share of the average, pictures and truths are each update's own."""
        monkeypatch.setattr(loop, "make_optimizer", partial(make_optimizer, fused=True))
        settings = {"burn_in": 20, "batch": 1, "model": "nano"}
        plain = self.state_after(trainer_of(small_data, tmp_path, **settings)[0])
        trainer, _ = trainer_of(small_data, tmp_path, **settings)
        trainer.graphs = OnCpu(trainer._step, steady=4)
        replayed = self.state_after(trainer)
        assert plain.keys() == replayed.keys()
        for name in plain:
            torch.testing.assert_close(plain[name], replayed[name], rtol=1e-4, atol=1e-6, msg=name)
        # not before 4 pictures and 3 updates of a shape, so none of the long lists
        captured = {(images[-1], truth[1]) for images, truth, _ in trainer.graphs.captured}
        assert captured == {(64, ROWS), (96, ROWS)} and len(trainer.graphs.met) == 4

    def test_every_kind_of_batch(self):
        """Of its own type, for that knows how it is cut; labels have no lists to fill up."""
        images, indices = torch.zeros(4, 3, 8, 8), torch.arange(4)
        for batch in (
            JointBatch(images, torch.zeros(4, 2, 5), indices),
            LabelBatch(images, torch.arange(4), indices),
        ):
            got = []
            graphs = OnCpu(lambda batch, *_: got.append(batch) or torch.zeros(1))  # noqa: B023
            for _ in range(WARM_UP + 2):
                graphs(batch, 4, 0, 0.1, 0.2)
            assert {type(b) for b in got} == {type(batch)} and len(got) == WARM_UP + 2
            assert got[-1] is got[-2] is not got[0] and len(graphs.captured) == 1

    def test_lists_that_kernels_may_not_take_are_not_captured(self):
        graphs = OnCpu(lambda batch, *_: torch.zeros(1))
        for rows in (300, 250):
            batch = Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1, rows, 5), torch.arange(1))
            for _ in range(WARM_UP + 1):
                graphs(batch, 1, 0, 0.1, 0.2)
        assert [truth[1] for _, truth, _ in graphs.captured] == [256]

    def test_without_a_gpu_a_note_and_the_same_run(self, small_data, small_run, tmp_path, capsys):
        flags = ("--data", small_data, "--project", tmp_path, *TINY, "--cuda-graph")
        assert command(train.main, *flags) == 0
        assert "note: --cuda-graph: device cpu must do without" in capsys.readouterr().err
        first, second = (load_file(f / "last.safetensors") for f in (small_run, tmp_path / "train"))
        assert all(torch.equal(first[name], second[name]) for name in first)

    @needs_cuda
    @pytest.mark.parametrize("compiled", [False, True])
    @pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
    def test_captured_by_cuda(self, small_data, tmp_path, monkeypatch, precision, compiled):
        """A whole update in a graph is what its kernels are one by one."""
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        settings = {"burn_in": 20, "precision": precision, "compile": compiled, "device": CUDA}
        plain = self.state_after(trainer_of(small_data, tmp_path, **settings)[0])
        trainer, _ = trainer_of(small_data, tmp_path, **settings, cuda_graph=True)
        monkeypatch.setattr(trainer.graphs, "steady", 0)
        replayed = self.state_after(trainer)
        assert len(trainer.graphs.captured) >= 2
        for name in plain.keys() - {"rng/cpu", "rng/cuda"}:
            torch.testing.assert_close(plain[name], replayed[name], rtol=1e-3, atol=1e-5, msg=name)


@needs_cuda
@pytest.mark.parametrize("cache", ["device", "memory"])
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_nothing_waits_on_a_gpu(small_data, tmp_path, monkeypatch, precision, graph, cache):
    """The loop's own updates, from decoded pictures to the loss that is on its way back."""
    settings = {"precision": precision, "cuda_graph": graph, "cache": cache}
    trainer, task = trainer_of(small_data, tmp_path, CUDA, **settings)
    if graph:
        monkeypatch.setattr(trainer.graphs, "steady", 0)
    for epoch in range(WARM_UP):  # three updates each: kernels are compiled, graphs captured
        for batch in task.batches(epoch, 0):
            trainer._update(batch)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in task.batches(WARM_UP, 0):
            trainer._update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    trainer._settle(0)
    assert trainer.progress.step == 3 * (WARM_UP + 1) and np.isfinite(trainer.progress.parts).all()
    assert not graph or trainer.graphs.captured

"""The training loop against Darknet's own training: parameters after 1, 2 and 5 updates (SPEC 10, 17).

What runs is `yolov2.training.loop.Trainer`, as the commands use it; only the batches are the recorded ones.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fast.loss import region_loss
from reference.loss import region_delta
from reference.region import Region
from reference.schedule import learning_rate
from tests.golden import GOLDEN, Case, check, compare
from yolov2.cfg import read_cfg
from yolov2.classifier import Classifier
from yolov2.data.loader import Batch
from yolov2.detector import Detector
from yolov2.network import get_parameters, load_parameters
from yolov2.training.config import LoopConfig
from yolov2.training.distributed import Processes
from yolov2.training.loop import Plan, Trainer
from yolov2.training.sizes import Sizes
from yolov2.training.state import Progress
from yolov2.weights import read_weights


class Recorded:
    """The task of learning what Darknet was given, which prints the squared deltas as its cost."""

    parts, metric = ("loss", "cost"), "nothing"

    def __init__(self, head):
        self.head, self.costs = head, []

    def loss(self, outputs: Tensor, batch: Batch, seen: int) -> Tensor:
        if isinstance(self.head, Region):
            delta = region_delta(outputs.detach().numpy(), batch.truth.numpy(), self.head, seen)
            total, cost = region_loss(outputs, batch.truth, self.head, seen).total, np.square(delta).sum()
        else:
            total = -(outputs.flatten(1).log_softmax(1) * batch.truth).sum()
            cost = total.item()
        self.costs.append(cost)
        return torch.stack([total, torch.tensor(float(cost))])

    def remark(self, batch: Batch) -> str:
        return ""


class Silent:
    """A progress bar that shows nothing."""

    def update(self, pictures): ...

    def set_postfix_str(self, text, refresh): ...


def trainer_of(case: Case, config, network_parameters) -> Trainer:
    """The trainer, where Darknet stood when the recording began."""
    net, layers = config.net, config.layers
    kind = Detector if isinstance(layers[-1], Region) else Classifier
    classes = layers[-1].classes if kind is Detector else case["truth"].shape[-1]
    names = [str(i) for i in range(classes)]
    model = kind.build(layers, names, (net.height, net.width), batch_norm="darknet")
    load_parameters(model.network, network_parameters)
    model.network.train()
    loop = LoopConfig(
        lr=1.0, momentum=net.momentum, decay=net.decay, batch=case["input"].shape[1], channels_last=False
    )
    plan = Plan(net.batch, net.batch, epochs=case.config["updates"])
    side = Sizes(net.width, net.width, plan.updates)
    task = Recorded(layers[-1])
    trainer = Trainer(loop, model, task, plan, net.schedule, side, Path(), Processes())
    seen = case.config["seen_at_start"]
    trainer.progress = Progress(step=seen // net.batch, seen=seen)
    trainer.bar = Silent()
    return trainer


@check("network_train")
def train_case(case: Case):
    """Darknet's sub-batches, momentum, decay, burn-in, batch norm of its CPU build, and nothing else."""
    config = read_cfg(GOLDEN / case.config["cfg"], root=GOLDEN)
    shape = (config.net.channels, config.net.height, config.net.width)
    wanted = {
        int(name.split("_")[-1].split(".")[0]): case.path.parent / name for name in case.config["weights"]
    }
    trainer = trainer_of(case, config, read_weights(wanted[0], config.layers, shape)[1])
    images, truth = (torch.from_numpy(case[name]).flatten(0, 1) for name in ("input", "truth"))
    batch, rates = Batch(images, truth, torch.arange(len(images))), []
    for number in range(1, case.config["updates"] + 1):
        trainer._update(batch)
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        if number not in wanted:
            continue
        expected = read_weights(wanted[number], config.layers, shape)[1]
        got_all = get_parameters(trainer.model.network)
        for index, (got, want) in enumerate(zip(got_all, expected, strict=True)):
            for name in want:
                yield compare(f"{name} of layer {index} after {number}", got[name], want[name], atol=1e-6)
    yield compare("rates", rates, case["rates"], rtol=2e-4)
    yield compare("cost", trainer.task.costs, case["cost"], rtol=1e-4)
    assert rates[0] == learning_rate(
        config.net.schedule, case.config["seen_at_start"] // config.net.batch + 1
    )

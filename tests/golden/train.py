"""The torch stack against Darknet's own training: parameters after 1, 2 and 5 updates (SPEC 10, 17)."""

import numpy as np
import torch

from fast.loss import region_loss
from reference.loss import region_delta
from reference.region import Region
from reference.schedule import learning_rate
from tests.golden import GOLDEN, Case, check, compare
from yolov2.cfg import read_cfg
from yolov2.network import Network, get_parameters, load_parameters
from yolov2.optimizer import make_optimizer, update
from yolov2.weights import read_weights


@check("network_train")
def train_case(case: Case):
    """Darknet's sub-batches, momentum, decay, burn-in, batch norm of its CPU build, and nothing else."""
    config = read_cfg(GOLDEN / case.config["cfg"], root=GOLDEN)
    shape = (config.net.channels, config.net.height, config.net.width)
    network = Network(config.layers, shape, batch_norm="darknet")
    wanted = {
        int(name.split("_")[-1].split(".")[0]): case.path.parent / name for name in case.config["weights"]
    }
    load_parameters(network, read_weights(wanted[0], config.layers, shape)[1])
    network.train()
    net, seen = config.net, case.config["seen_at_start"]
    optimizer = make_optimizer(network, 0.0, net.momentum, net.decay)
    costs, rates = [], []

    def losses():
        nonlocal seen
        for images, truth in zip(
            torch.from_numpy(case["input"]), torch.from_numpy(case["truth"]), strict=True
        ):
            seen += len(images)
            raw = network(images)
            if isinstance(network.head, Region):
                delta = region_delta(raw.detach().numpy(), truth.numpy(), network.head, seen)
                costs.append(np.square(delta).sum())
                yield region_loss(raw, truth, network.head, seen).total
            else:
                loss = -(raw.flatten(1).log_softmax(1) * truth).sum()
                costs.append(loss.item())
                yield loss

    for number in range(1, case.config["updates"] + 1):
        batch_num = seen // net.batch + 1  # counted when updating
        rates.append(learning_rate(net.schedule, batch_num))
        update(optimizer, losses(), net.batch, rates[-1])
        if number not in wanted:
            continue
        expected = read_weights(wanted[number], config.layers, shape)[1]
        for index, (got, want) in enumerate(zip(get_parameters(network), expected, strict=True)):
            for name in want:
                yield compare(f"{name} of layer {index} after {number}", got[name], want[name], atol=1e-6)
    yield compare("rates", rates, case["rates"], rtol=2e-4)
    yield compare("cost", costs, case["cost"], rtol=1e-4)

"""Several processes that train one network, as ``torchrun -m yolov2.train`` starts them.

Every process takes its share of each nominal batch, gradients are averaged by torch's
``DistributedDataParallel``, and rank 0 writes. A single process needs none of this: `Processes()` has a world
of one, and its methods return what they are given.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from yolov2.model import pick_device

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 (immutable)

    @property
    def first(self) -> bool:
        """Whether this is the one that prints and writes."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def total(self, count: int) -> int:
        """Sum of a number over all processes, by way of their CPUs: nobody waits for a GPU."""
        return count if self.world == 1 else int(self.sum(torch.tensor(count)))

    def gather(self, value: T) -> list[T]:
        """What every process has, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: T | None) -> T:
        """What rank 0 has; the others give None."""
        if self.world == 1:
            return value  # type: ignore[return-value]
        box = [value]
        dist.broadcast_object_list(box, device=self.device if self.device.type == "cuda" else None)
        return box[0]  # type: ignore[return-value]

    def average_(self, buffers: list[Tensor]) -> None:
        """Replace floating tensors by their mean over all processes: each has seen other pictures."""
        if self.world > 1:
            for buffer in buffers:
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.world


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """Join the processes that torchrun started, for as long as the block lasts; alone if it did not.

    Parameters
    ----------
    device : str
        The flag --device. "auto" and "cuda" give every process of a machine a GPU of its own.

    Raises
    ------
    UserError
        If there is no such device.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        yield Processes(device=pick_device(device))
        return
    if device in ("auto", "cuda") and torch.cuda.is_available():
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    chosen = pick_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), world, chosen)
    finally:
        dist.destroy_process_group()


class _SumOfAll(torch.autograd.Function):
    """Sum over all processes, whose losses all depend on it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


class SyncedBatchNorm(nn.BatchNorm2d):
    """Batch norm over the pictures of all processes, of any size; torch's own is for GPUs only."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        x32 = x.float()
        count = x32.new_tensor([x32.numel() / x32.shape[1]])
        count, total = torch.split(_SumOfAll.apply(torch.cat([count, x32.sum((0, 2, 3))])), [1, x32.shape[1]])
        mean = total / count
        centred = x32 - mean[:, None, None]
        variance = _SumOfAll.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            if self.num_batches_tracked is not None:
                self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Let every batch norm of a network, in place, see the pictures of all processes."""
    kind = nn.SyncBatchNorm if device.type == "cuda" else SyncedBatchNorm
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.BatchNorm2d:
                synced = kind(child.num_features, child.eps, child.momentum).to(device)
                synced.load_state_dict(child.state_dict())
                setattr(module, name, synced)

"""What a run must remember to go on bit for bit: progress, momentum, averages, random numbers."""

import copy
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Progress(NamedTuple):
    """Where training stands."""

    epoch: int = 0  # epochs begun and finished
    batch: int = 0  # updates done of the epoch under way
    step: int = 0  # updates
    seen: int = 0  # pictures
    best: float = -1.0  # best value of the metric so far
    parts: tuple[float, ...] = ()  # loss terms of the epoch under way, summed ...
    pictures: int = 0  # ... over so many pictures
    scale: float = 65536.0  # float16 only: the factor of the loss, and updates since it changed
    growth: int = 0

    @classmethod
    def from_plain(cls, plain: dict[str, Any], parts: int) -> Self:
        """Out of a checkpoint; `parts` is the number of loss terms.

        Raises
        ------
        KeyError, TypeError, ValueError
            If it cannot have come from here.
        """
        progress = cls(**plain | {"parts": tuple(plain["parts"])})
        counts = (
            progress.epoch,
            progress.batch,
            progress.step,
            progress.seen,
            progress.pictures,
            progress.growth,
        )
        counted = all(isinstance(n, int) and n >= 0 for n in counts)
        # none where an epoch begins
        terms = len(progress.parts) == (parts if progress.batch else 0)
        finite = np.isfinite((*progress.parts, progress.scale)).all()
        if not (
            counted and terms and finite and isinstance(progress.best, float)
        ):  # NaN where val has no truths
            raise ValueError(f"progress {plain}")
        return progress

    def after_update(self, pictures: int, parts: Sequence[float]) -> Self:
        """One update on so many pictures later; `parts` are its loss terms."""
        before = self.parts or (0.0,) * len(parts)
        return self._replace(
            batch=self.batch + 1,
            step=self.step + 1,
            seen=self.seen + pictures,
            parts=tuple(a + b for a, b in zip(before, parts, strict=True)),
            pictures=self.pictures + pictures,
        )

    def after_epoch(self) -> Self:
        """The next epoch's beginning."""
        return self._replace(epoch=self.epoch + 1, batch=0, parts=(), pictures=0)

    @property
    def means(self) -> list[float]:
        """Loss terms of the epoch under way, per picture."""
        return [part / max(1, self.pictures) for part in self.parts]


class Ema(Generic[Net]):
    """A copy of a network whose weights and statistics follow the original's slowly.

    Parameters
    ----------
    network : nn.Module
        What to follow; `Ema.network` is the copy.
    decay : float
        Share of the old average kept at an update. It rises to that: the average of the first updates is
        not the initial weights.
    """

    def __init__(self, network: Net, decay: float):
        self.network: Net = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def share(self, step: int) -> float:
        """Weight that the network has in the average after its `step`-th update."""
        return 1 - min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def follow(self, network: nn.Module, share: float | Tensor) -> None:
        """An update was made; `share` is a number or, so that it may change in a CUDA graph, a tensor ()."""
        for mine, theirs in zip(
            self.network.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if mine.is_floating_point():
                mine.lerp_(theirs, share)
            else:
                mine.copy_(theirs)


def start_momentum(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give every parameter its buffer of zeros, as the first step would: a run may be saved before that."""
    for parameter in network.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, requires_grad=False)


def to_tensors(network: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None) -> dict[str, Tensor]:
    """What rides along in last.safetensors beside the network's own state."""
    tensors = {
        f"momentum/{name}": optimizer.state[parameter]["momentum_buffer"]
        for name, parameter in network.named_parameters()
    }
    if ema is not None:
        tensors |= {f"ema/{name}": tensor for name, tensor in ema.network.state_dict().items()}
    tensors["rng/cpu"] = torch.get_rng_state()
    device = next(network.parameters()).device
    if device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
    return tensors


def from_tensors(
    tensors: dict[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer, ema: Ema | None
) -> None:
    """Undo `to_tensors`.

    Raises
    ------
    KeyError, RuntimeError
        If they are not of this network.
    """
    for name, parameter in network.named_parameters():
        optimizer.state[parameter]["momentum_buffer"].copy_(tensors[f"momentum/{name}"])
    if ema is not None:
        ema.network.load_state_dict(
            {k.removeprefix("ema/"): v for k, v in tensors.items() if k.startswith("ema/")}
        )
    if "rng/cpu" in tensors:  # a checkpoint of an earlier version has none
        torch.set_rng_state(tensors["rng/cpu"])
    device = next(network.parameters()).device
    if device.type == "cuda" and "rng/cuda" in tensors:
        torch.cuda.set_rng_state(tensors["rng/cuda"], device)

"""The optimiser, as Darknet runs it (SPEC 17)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # also what synchronised ones are made from


def make_optimizer(
    network: nn.Module, lr: float, momentum: float, decay: float, fused: bool | None = None
) -> torch.optim.SGD:
    """SGD as Darknet runs it (SPEC 17): weight decay on weights only, not on biases and scales.

    Parameters
    ----------
    network : nn.Module
        Whose parameters it changes.
    lr, momentum, decay : float
        As for `torch.optim.SGD`.
    fused : bool, optional
        All parameters in one pass, which also takes a rate that is a tensor, and a `GradScaler`, without
        waiting for either; None is so on GPUs.
    """
    weights: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_weight = name == "weight" and not isinstance(module, _BatchNorm)
            (weights if is_weight else others).append(parameter)
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    if fused is None:
        fused = any(parameter.is_cuda for parameter in network.parameters())
    # None, not False: a CPU's loop over parameters is the default there, other devices have better ones
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=fused or None)


def update(
    optimizer: torch.optim.Optimizer,
    losses: Iterable[Tensor],
    pictures: float,
    rate: float | Tensor,
    clip: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> None:
    """One step of the optimiser, as Darknet takes it (SPEC 17).

    Parameters
    ----------
    optimizer : Optimizer
        Of `make_optimizer`.
    losses : iterable of Tensor
        Loss of every sub-batch, SUMMED over its pictures. A generator may compute each when it is asked for:
        its graph is freed before the next.
    pictures : float
        Pictures of all sub-batches together. Gradients are added up and divided by this, so any batch size
        and any division into sub-batches trains alike. Where gradients are averaged over processes, this is
        the mean number of pictures of a process.
    rate : float or Tensor ()
        Learning rate of this step. A captured step reads the tensor anew at every replay.
    clip : float, optional
        Largest norm of the whole gradient; a larger one is shortened to it.
    scaler : GradScaler, optional
        Enlarges the loss while gradients are in float16.
    """
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    for loss in losses:
        mean = loss / pictures
        (scaler.scale(mean) if scaler else mean).backward()
    if clip is not None:
        if scaler:
            scaler.unscale_(optimizer)
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(weights, clip)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()

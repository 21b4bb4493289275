"""A network for inference alone: batch norm goes into the weights, the activation into the convolution."""

import copy
import platform
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from yolov2.network import ConvBlock, DarknetBatchNorm, Network, Pool

#: what oneDNN calls the activations that it applies before a result leaves the registers, and their numbers
POST_OPS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.Identity: ("none", []),
    nn.LeakyReLU: ("leaky_relu", [0.1]),
    nn.ReLU: ("relu", []),
    nn.Sigmoid: ("sigmoid", []),
}
MONOTONE = (nn.Identity, nn.LeakyReLU, nn.ReLU, nn.Sigmoid)
#: a convolution of fewer channels is quicker on plain weights: measured, the three of a picture by 3.7 times
LEAST_CHANNELS = 8


class FoldedConv(nn.Module):
    """Convolution, bias and activation; made of a `ConvBlock` in its evaluation form."""

    def __init__(self, block: ConvBlock):
        super().__init__()
        conv = block.conv
        weight, bias = folded_parameters(block)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = nn.Parameter(bias, requires_grad=False)
        self.stride, self.padding, self.groups = conv.stride, conv.padding, conv.groups
        self.activation = block.activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(
            F.conv2d(x, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        )


class PackedConv(nn.Module):
    """A `FoldedConv` for x86 CPUs: weights in the order that oneDNN wants, the activation in the same pass.

    These are the operators that torch.compile uses; called by hand they need no compiler and no waiting.
    """

    def __init__(self, conv: FoldedConv, size: tuple[int, int, int, int]):
        super().__init__()
        self.geometry = [*map(list, (conv.padding, conv.stride, (1, 1))), conv.groups]
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(conv.weight, *self.geometry, list(size))
        self.bias = conv.bias.detach()
        self.post_op = *POST_OPS[type(conv.activation)], ""

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self.geometry, *self.post_op
        )


class PooledConv(nn.Module):
    """A `FoldedConv` and the max pool behind it: bias and activation come last, on a quarter of the map.

    Both are monotone: the largest of four stays the largest. cuDNN's convolutions in torch add the
    bias in a pass of its own.
    """

    def __init__(self, conv: FoldedConv, pool: Pool):
        super().__init__()
        self.conv, self.pool = conv, pool
        self.bias = nn.Parameter(conv.bias[:, None, None].clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        c = self.conv
        x = self.pool(F.conv2d(x, c.weight, None, c.stride, c.padding, groups=c.groups))
        return c.activation(x.add_(self.bias))


def fold(network: Network, dtype: torch.dtype = torch.float32) -> Network:
    """The same function with fewer steps, for inference.

    Parameters
    ----------
    network : Network
        Left as it is; the parameters of the result are its own.
    dtype : torch.dtype
        Of the result's parameters and input. Folding is computed in float64.

    Returns
    -------
    Network
        In evaluation mode and channels last.
    """
    with torch.no_grad():
        return _with_blocks(
            network, lambda b: FoldedConv(b) if isinstance(b, ConvBlock) else copy.deepcopy(b)
        ).to(dtype)


def can_pack() -> bool:
    """Whether torch has oneDNN's packed convolutions here, and they are known to be quicker."""
    known = platform.machine().lower() in ("x86_64", "amd64") and torch.backends.mkldnn.is_available()
    return known and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def pack(network: Network, images: Tensor) -> Network:
    """A folded float32 network with weights as oneDNN wants them.

    Parameters
    ----------
    network : Network
        Of `fold`, on a CPU.
    images : Tensor, float32 (B, 3, height, width)
        An input like those to come; others are possible, at another speed.

    Returns
    -------
    Network
    """
    sizes: dict[nn.Module, tuple[int, int, int, int]] = {}
    hooks = [
        b.register_forward_hook(lambda module, inputs, _: sizes.update({module: tuple(inputs[0].shape)}))
        for b in network.blocks
    ]
    with torch.inference_mode():
        network(images)
    for hook in hooks:
        hook.remove()

    def packed(block: nn.Module) -> nn.Module:
        if isinstance(block, FoldedConv) and block.weight.shape[1] >= LEAST_CHANNELS:
            return PackedConv(block, sizes[block])
        return block

    with torch.no_grad():
        return _with_blocks(network, packed)


def pool_first(network: Network) -> Network:
    """A folded network in which plain convolutions and the pools behind them are one, see `PooledConv`."""
    blocks = list(network.blocks)
    for index, (conv, pool) in enumerate(pairwise(network.blocks)):
        if not isinstance(conv, FoldedConv) or not isinstance(pool, Pool) or index in network._wanted:
            continue
        if isinstance(conv.activation, MONOTONE):
            blocks[index], blocks[index + 1] = PooledConv(conv, pool), nn.Identity()
    changed = iter(blocks)
    return _with_blocks(network, lambda _: next(changed))


def folded_parameters(block: ConvBlock) -> tuple[Tensor, Tensor]:
    """Weight (F, C, k, k) and bias (F,), float32, of a convolution that does its batch norm too (SPEC 10)."""
    conv, norm = block.conv, block.norm

    def exact(t: Tensor) -> Tensor:
        return t.detach().to("cpu", torch.float64)  # not every device has it

    weight = exact(conv.weight)
    bias = torch.zeros(len(weight), dtype=torch.float64) if conv.bias is None else exact(conv.bias)
    if isinstance(norm, nn.BatchNorm2d):
        assert norm.running_mean is not None and norm.running_var is not None
        variance = exact(norm.running_var)
        # the two forms of batch norm have their epsilon in different places, see `DarknetBatchNorm`
        root = variance.sqrt() + 1e-6 if isinstance(norm, DarknetBatchNorm) else (variance + norm.eps).sqrt()
        scale = exact(norm.weight) / root
        weight = weight * scale[:, None, None, None]
        bias = exact(norm.bias) + (bias - exact(norm.running_mean)) * scale
    return weight.float(), bias.float()


def _with_blocks(network: Network, change: Callable[[nn.Module], nn.Module]) -> Network:
    """A shallow copy of a network, whose blocks are `change`d."""
    result = copy.copy(network)
    result._modules = dict(network._modules)
    result.blocks = nn.ModuleList(map(change, network.blocks))
    return result.eval()

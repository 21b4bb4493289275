"""A list of layer records as an ``nn.Module`` (SPEC 10)."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast.decode import activate_region
from fast.grid import activate_grid
from fast.reorg import reorg
from fast.wordtree import tree_softmax
from reference.layers import (
    AvgPool,
    BatchNorm,
    Connected,
    Conv,
    Crop,
    Dropout,
    Grid,
    Head,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    absolute_route,
    head_index,
    output_shapes,
)
from reference.region import Region
from yolov2.weights import Parameters, release

BatchNormForm = Literal["cudnn", "darknet"]
PIECE = 1 << 20  # parameters copied at a time


class _DarknetNormalise(torch.autograd.Function):
    """Training form of Darknet's CPU batch norm: Bessel variance, 1e-6 outside the root, 1e-5 in backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean = x.mean((0, 2, 3))
        variance = x.var((0, 2, 3), unbiased=True)
        centred = x - mean[:, None, None]
        ctx.save_for_backward(centred, variance)
        ctx.mark_non_differentiable(mean, variance)
        return centred / (variance.sqrt() + 1e-6)[:, None, None], mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> Tensor:
        centred, variance = ctx.saved_tensors
        count = centred.numel() / centred.shape[1]
        rate = (variance + 1e-5).rsqrt()[:, None, None]
        d_mean = -rate * grad.sum((0, 2, 3), keepdim=True)
        d_variance = -0.5 * rate**3 * (grad * centred).sum((0, 2, 3), keepdim=True)
        return grad * rate + d_variance * 2 * centred / count + d_mean / count


class DarknetBatchNorm(nn.BatchNorm2d):
    """Batch norm exactly as Darknet's CPU build computes it (SPEC 10), for proofs and exact inference."""

    def forward(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        if self.training:
            normal, mean, variance = _DarknetNormalise.apply(x)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        else:
            # x - mean over sqrt(variance) + 1e-6, which torch's own kernel computes of another variance
            variance = (self.running_var.sqrt() + 1e-6).square()
            return F.batch_norm(x, self.running_mean, variance, self.weight, self.bias, eps=0.0)
        normal = normal * self.weight[:, None, None]
        return normal if self.bias is None else normal + self.bias[:, None, None]


def _batch_norm(channels: int, form: BatchNormForm, biases: bool = True) -> nn.BatchNorm2d:
    """Batch norm in one of its forms; momentum .01 is Darknet's "rolling = .99 rolling + .01 batch"."""
    norm = (DarknetBatchNorm if form == "darknet" else nn.BatchNorm2d)(channels, eps=1e-5, momentum=0.01)
    if not biases:
        norm.register_parameter("bias", None)
    return norm


def _activation(name: str) -> nn.Module:
    return {
        "leaky": nn.LeakyReLU(0.1, inplace=True),
        "relu": nn.ReLU(inplace=True),
        "logistic": nn.Sigmoid(),
        "linear": nn.Identity(),
    }[name]


def _initialise(module: Any, fan_in: int) -> None:
    """Darknet's start: normal weights, no bias. On the meta device there is nothing to do."""
    if not module.weight.is_meta:
        nn.init.normal_(module.weight, std=(2 / fan_in) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class ConvBlock(nn.Module):
    """Convolution, then batch norm or bias, then activation."""

    def __init__(self, layer: Conv, channels: int, batch_norm: BatchNormForm):
        super().__init__()
        self.conv = nn.Conv2d(
            channels,
            layer.filters,
            layer.size,
            layer.stride,
            layer.padding,
            groups=layer.groups,
            bias=not layer.batch_norm,
        )
        self.norm = _batch_norm(layer.filters, batch_norm) if layer.batch_norm else nn.Identity()
        self.activation = _activation(layer.activation)
        fan_in = layer.size**2 * channels // layer.groups
        _initialise(self.conv, fan_in)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)))


class Pool(nn.Module):
    """Max pool with Darknet's padding: a total per side pair, positions outside count as -infinity."""

    def __init__(self, layer: MaxPool):
        super().__init__()
        self.size, self.stride, self.total = layer.size, layer.stride, layer.total_padding

    def forward(self, x: Tensor) -> Tensor:
        if self.size == self.stride == 2 and self.total == 1:
            return F.max_pool2d(x, 2, ceil_mode=True)  # the same map without a padded copy
        low, high = self.total // 2, self.total - self.total // 2
        if low == high <= self.size // 2:
            return F.max_pool2d(x, self.size, self.stride, low)
        return F.max_pool2d(F.pad(x, (low, high, low, high), value=-torch.inf), self.size, self.stride)


class ConnectedBlock(nn.Module):
    """Fully connected layer on the flattened input, as a (outputs, 1, 1) map."""

    def __init__(self, layer: Connected, inputs: int, batch_norm: BatchNormForm):
        super().__init__()
        self.linear = nn.Linear(inputs, layer.outputs, bias=not layer.batch_norm)
        self.norm = _batch_norm(layer.outputs, batch_norm) if layer.batch_norm else nn.Identity()
        self.activation = _activation(layer.activation)
        _initialise(self.linear, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.linear(x.flatten(1))[:, :, None, None]))


class LocalBlock(nn.Module):
    """Convolution whose weights differ at every place: weights (places, filters, c*size*size)."""

    def __init__(self, layer: Local, channels: int, out: tuple[int, int, int]):
        super().__init__()
        self.layer, self.out = layer, out
        fan_in = layer.size**2 * channels
        places = out[1] * out[2]
        self.weight = nn.Parameter(torch.empty(places, layer.filters, fan_in))
        self.bias = nn.Parameter(torch.empty(out))
        _initialise(self, fan_in)
        self.activation = _activation(layer.activation)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x, self.layer.size, padding=self.layer.pad, stride=self.layer.stride)
        y = torch.einsum("pfk,bkp->bfp", self.weight, patches).unflatten(2, self.out[1:])
        return self.activation(y + self.bias)


class CentreCrop(nn.Module):
    """The middle of the picture, on the scale -1 to 1 if the layer says so."""

    def __init__(self, layer: Crop):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        height, width = self.layer.height, self.layer.width
        top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
        x = x[:, :, top : top + height, left : left + width]
        return 2 * x - 1 if self.layer.adjust else x


class SoftmaxOfAll(nn.Module):
    """Softmax over all inputs of a picture, or one per sibling group of a tree."""

    def __init__(self, layer: Softmax):
        super().__init__()
        self.tree = layer.tree

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        flat = flat.softmax(1) if self.tree is None else tree_softmax(flat, self.tree)
        return flat.view(x.shape)


class Network(nn.Module):
    """A network built from a list of layer records.

    Parameters
    ----------
    layers : sequence of Layer
        The network; its last record (but for a Cost) may be a Region, Softmax or Grid.
    input_shape : (channels, height, width)
        Picture the shapes are checked with. Fully convolutional networks take any size afterwards.
    batch_norm : {"cudnn", "darknet"}
        "cudnn" is torch's own batch norm, which is what Darknet's cuDNN build computes and trains with;
        "darknet" reproduces Darknet's CPU build to rounding.

    Raises
    ------
    ValueError
        If a layer does not fit its input, or a Region or Grid is not the last; the message names the layer.

    Notes
    -----
    `forward` returns the RAW output in front of the head record (Region, Softmax, Grid): losses, decode and
    detection take that and the record, which is ``network.head``. `layer_outputs` returns everything.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        input_shape: tuple[int, int, int] = (3, 416, 416),
        batch_norm: BatchNormForm = "cudnn",
    ):
        super().__init__()
        self.layers = list(layers)
        self.input_shape = input_shape
        self.batch_norm = batch_norm
        self._head = head_index(self.layers)
        shapes = output_shapes(self.layers, input_shape)
        self.blocks = nn.ModuleList()
        self._wanted: set[int] = set()
        shape = input_shape
        for index, layer in enumerate(self.layers):
            if isinstance(layer, Region | Grid) and index != self._head:
                raise ValueError(f"layer {index} ({type(layer).__name__}): only supported as the last one")
            if isinstance(layer, Route | Shortcut):
                self._wanted.update(absolute_route(layer, index))
            of_head = index == self._head
            self.blocks.append(nn.Identity() if of_head else _block(layer, shape, shapes[index], batch_norm))
            shape = shapes[index]

    @property
    def head(self) -> Head | None:
        """The record that gives the raw outputs their meaning."""
        return None if self._head is None else self.layers[self._head]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        kept: dict[int, Tensor] = {}
        for index in range(len(self.layers)):
            x = self._layer(index, x, kept)
            if index in self._wanted:
                kept[index] = x
        return x

    def layer_outputs(self, x: Tensor) -> list[Tensor]:
        """Output of every layer, as `reference.network.forward` returns them.

        Parameters
        ----------
        x : Tensor (B, C, H, W)
            Pictures.

        Returns
        -------
        list of Tensor (B, C, H, W)
            That of the head is activated (SPEC 1, 11).
        """
        outputs: dict[int, Tensor] = {}
        for index in range(len(self.layers)):
            x = self._layer(index, x, outputs)
            if index == self._head:
                match self.head:
                    case Region() as region:
                        x = activate_region(x, region)
                    case Grid() as grid:
                        x = activate_grid(x.flatten(1), grid).view(x.shape)
                    case Softmax() as softmax:
                        x = SoftmaxOfAll(softmax)(x)
            outputs[index] = x
        return list(outputs.values())

    def _layer(self, index: int, x: Tensor, earlier: dict[int, Tensor]) -> Tensor:
        layer, block = self.layers[index], self.blocks[index]
        match layer:
            case Route():
                maps = [earlier[i] for i in absolute_route(layer, index)]
                return torch.cat(maps, 1) if len(maps) > 1 else maps[0]
            case Shortcut():
                (other,) = absolute_route(layer, index)
                if layer.alpha == layer.beta == 1:
                    return block(x + earlier[other])
                return block(layer.alpha * x + layer.beta * earlier[other])
            case Reorg():
                return reorg(x, layer.stride, layer.order, layer.reverse)
            case Upsample():
                x = F.interpolate(x, scale_factor=layer.stride, mode="nearest")
                return x if layer.scale == 1 else x * layer.scale
        return block(x)


def uninitialised(
    layers: Sequence[Layer], input_shape: tuple[int, int, int], batch_norm: BatchNormForm = "cudnn"
) -> Network:
    """A network whose parameters hold anything yet, with channels last: made in no time, to be filled."""
    with torch.device("meta"):
        network = Network(layers, input_shape, batch_norm)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def allocate(t: Tensor) -> Tensor:
        count = t.ndim == 0  # batches tracked, of which no file tells
        return torch.zeros((), dtype=t.dtype) if count else torch.empty_strided(t.shape, t.stride())

    return network._apply(allocate)


def _block(
    layer: Layer, shape: tuple[int, int, int], out: tuple[int, int, int], batch_norm: BatchNormForm
) -> nn.Module:
    """The module of a layer between maps (channels, height, width) of `shape` and `out`."""
    channels, height, width = shape
    match layer:
        case Conv():
            return ConvBlock(layer, channels, batch_norm)
        case Connected():
            return ConnectedBlock(layer, channels * height * width, batch_norm)
        case Local():
            return LocalBlock(layer, channels, out)
        case BatchNorm():
            return _batch_norm(channels, batch_norm, biases=False)
        case MaxPool():
            return Pool(layer)
        case AvgPool():
            return nn.AdaptiveAvgPool2d(1)
        case Shortcut():
            return _activation(layer.activation)
        case Crop():
            return CentreCrop(layer)
        case Dropout():
            return nn.Dropout(layer.probability)
        case Softmax():
            return SoftmaxOfAll(layer)
    return nn.Identity()


def _slots(network: Network) -> list[dict[str, Tensor]]:
    """The tensors of every layer under Darknet's names."""
    found = []
    for block in network.blocks:
        slots: dict[str, Tensor] = {}
        if isinstance(block, LocalBlock):
            slots = {"biases": block.bias, "weights": block.weight}
        elif isinstance(block, ConvBlock | ConnectedBlock):
            inner = block.conv if isinstance(block, ConvBlock) else block.linear
            slots["weights"] = inner.weight
            if inner.bias is not None:
                slots["biases"] = inner.bias
        norm = block if isinstance(block, nn.BatchNorm2d) else getattr(block, "norm", None)
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None and norm.running_var is not None
            if norm.bias is not None:
                slots["biases"] = norm.bias
            slots |= {"scales": norm.weight, "rolling_mean": norm.running_mean}
            slots["rolling_variance"] = norm.running_var
        found.append(slots)
    return found


@torch.no_grad()
def load_parameters(network: Network, parameters: Parameters) -> None:
    """Copy parameters in the form of `yolov2.weights.read_weights` into `network`.

    Parameters
    ----------
    network : Network
        Changed in place.
    parameters : list of dict
        One per layer with any of weights, biases, scales, rolling_mean, rolling_variance; missing ones
        keep their values, as in Darknet.

    Raises
    ------
    ValueError
        If an array does not have the number of elements the layer needs.
    """
    for index, (slots, given) in enumerate(zip(_slots(network), parameters, strict=True)):
        for name, array in given.items():
            if name not in slots or slots[name].numel() != np.size(array):
                raise ValueError(f"layer {index}: {name} with {np.size(array)} values does not fit")
            _fill(slots[name], np.asarray(array).reshape(slots[name].shape))


def _fill(slot: Tensor, array: np.ndarray) -> None:
    """Copy piece by piece, so that a mapped file of weights never lies in memory a second time."""
    rows = max(1, PIECE * len(array) // array.size)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nobody writes to it
        for start in range(0, len(array), rows):
            piece = array[start : start + rows]
            slot[start : start + rows].copy_(torch.from_numpy(np.ascontiguousarray(piece)))
            release(piece)


def get_parameters(network: Network) -> Parameters:
    """The inverse of `load_parameters`: copies, ready for `reference.network.forward`."""
    return [{k: _numpy(v) for k, v in slots.items()} for slots in _slots(network)]


def _numpy(t: Tensor) -> np.ndarray:
    t = t.detach().cpu()
    return (t.float() if t.dtype == torch.bfloat16 else t).numpy().copy()

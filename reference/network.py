"""A whole network in NumPy: the plain list of layer records of `reference.layers`, run from top to bottom."""

import numpy as np

from reference.activation import activate, softmax
from reference.batchnorm import Form, batch_norm
from reference.conv import connected, conv2d, local
from reference.decode import activate_region
from reference.grid import activate_grid
from reference.layers import (
    AvgPool,
    BatchNorm,
    Connected,
    Conv,
    Cost,
    Crop,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    absolute_route,
    output_shapes,
)
from reference.pool import average_pool, max_pool
from reference.region import Region
from reference.reorg import reorg
from reference.wordtree import tree_softmax

Parameters = dict[str, np.ndarray]


def forward(
    layers: list[Layer], parameters: list[Parameters], x: np.ndarray, form: Form = "darknet"
) -> list[np.ndarray]:
    """Run a network for inference (SPEC 10).

    Parameters
    ----------
    layers : list of Layer
        The network.
    parameters : list of dict
        One per layer, empty for layers that have none. `Conv`: "weights" (N, C / groups, size, size) and
        "biases" (N,); `Connected`: "weights" (outputs, inputs) and "biases" (outputs,); with batch norm
        either has "scales", "rolling_mean" and "rolling_variance" too. `Local`: "weights"
        (OH * OW, N, C * size * size) and "biases" (N, OH, OW). `BatchNorm`: the last three, (C,).
    x : ndarray, (B, C, H, W)
        Pictures, float32 or float64.
    form : {"darknet", "cudnn"}
        Form of batch norm, see `reference.batchnorm`.

    Returns
    -------
    list of ndarray, (B, C, H, W)
        Output of every layer, of the shapes that `output_shapes` tells. That of a `Region` is activated
        (SPEC 1); that of a `Grid` is its input, softmaxed per cell if it says so (SPEC 11).

    Raises
    ------
    ValueError
        If a layer does not fit its input, or `form` is unknown.
    """
    output_shapes(layers, x.shape[1:])  # complains about the first layer that does not fit
    outputs: list[np.ndarray] = []
    for index, (layer, p) in enumerate(zip(layers, parameters, strict=True)):
        match layer:
            case Conv():
                x = conv2d(x, p["weights"], layer.stride, layer.padding, layer.groups)
                x = _normalise_and_activate(x, layer, p, form)
            case Connected():
                x = _normalise_and_activate(connected(x, p["weights"]), layer, p, form)
            case Local():
                x = local(x, p["weights"], layer.size, layer.stride, layer.pad) + p["biases"]
                x = activate(x, layer.activation)
            case MaxPool():
                x = max_pool(x, layer.size, layer.stride, layer.total_padding)
            case AvgPool():
                x = average_pool(x)
            case BatchNorm():
                statistics = p["rolling_mean"], p["rolling_variance"]
                x = batch_norm(x, p["scales"], np.zeros_like(p["scales"]), *statistics, form)
            case Upsample():
                x = layer.scale * x.repeat(layer.stride, axis=2).repeat(layer.stride, axis=3)
            case Shortcut():
                (other,) = absolute_route(layer, index)
                x = activate(layer.alpha * x + layer.beta * outputs[other], layer.activation)
            case Crop():
                top, left = (x.shape[2] - layer.height) // 2, (x.shape[3] - layer.width) // 2
                x = x[:, :, top : top + layer.height, left : left + layer.width]
                x = 2 * x - 1 if layer.adjust else x
            case Route():
                x = np.concatenate([outputs[i] for i in absolute_route(layer, index)], axis=1)
            case Reorg():
                x = reorg(x, layer.stride, layer.order, layer.reverse)
            case Softmax():
                x = _softmax_of_all(x, layer)
            case Region():
                x = activate_region(x, layer)
            case Grid():
                x = activate_grid(x.reshape(len(x), -1), layer).reshape(x.shape)
            case Dropout() | Cost():
                pass  # one drops while training only, the other has no output of its own
        outputs.append(x)
    return outputs


def _normalise_and_activate(x, layer, p, form):
    if layer.batch_norm:
        x = batch_norm(x, p["scales"], p["biases"], p["rolling_mean"], p["rolling_variance"], form)
    else:
        x = x + p["biases"][:, None, None]
    return activate(x, layer.activation)


def _softmax_of_all(x, layer):
    flat = x.reshape(len(x), -1)
    flat = softmax(flat) if layer.tree is None else tree_softmax(flat, layer.tree)
    return flat.reshape(x.shape)

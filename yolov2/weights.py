"""Darknet's weights files, and the values that training starts from (SPEC 10, 12). NumPy only."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference.layers import BatchNorm, Connected, Conv, Layer, Local, Shape, output_shapes

Parameters = list[dict[str, np.ndarray]]


@dataclass(frozen=True)
class Header:
    """What the first 16 or 20 bytes of a weights file say, and how much of it fitted the network.

    Parameters
    ----------
    version : (major, minor, revision)
        The file counts images in 64 bits from 0.2 on.
    seen : int
        Images the network was trained on.
    filled_layers : int
        Layers of the network that the file filled.
    unfilled_layers : int
        Layers with parameters for which the file had none left. Not an error: a detector is seeded by
        the first layers of a classifier.
    leftover_bytes : int
        Bytes nobody asked for. Together with `unfilled_layers` a sign of a wrong or damaged file: it
        ended within a layer.
    """

    version: tuple[int, int, int]
    seen: int
    filled_layers: int
    unfilled_layers: int
    leftover_bytes: int


def parameter_shapes(layers: list[Layer], input_shape: Shape) -> list[dict[str, tuple[int, ...]]]:
    """Name and shape of every array of every layer, in the order of a weights file.

    Parameters
    ----------
    layers : list of Layer
        The network.
    input_shape : (channels, height, width)
        Of the input picture, in pixels.

    Returns
    -------
    list of dict
        One per layer, empty for a layer without parameters. The arrays are those that
        `reference.network.forward` takes.
    """
    outputs = output_shapes(layers, input_shape)
    found = []
    for layer, (c, h, w), out in zip(layers, [input_shape, *outputs], outputs, strict=False):
        shapes: dict[str, tuple[int, ...]] = {}
        match layer:
            case Conv(filters=n, size=size):
                statistics = _statistics(n) if layer.batch_norm else {}
                weights = (n, c // layer.groups, size, size)
                shapes = {"biases": (n,), **statistics, "weights": weights}
            case Connected(outputs=n):
                statistics = _statistics(n) if layer.batch_norm else {}
                shapes = {"biases": (n,), "weights": (n, c * h * w), **statistics}
            case BatchNorm():
                shapes = _statistics(c)
            case Local(filters=n, size=size):
                shapes = {"biases": out, "weights": (out[1] * out[2], n, c * size * size)}
        found.append(shapes)
    return found


def read_weights(path: str | Path, layers: list[Layer], input_shape: Shape) -> tuple[Header, Parameters]:
    """Read a weights file for a network.

    Parameters
    ----------
    path : str or Path
        The file, with its 16-byte (before 2017-06) or 20-byte header.
    layers, input_shape
        The network and its input, as for `parameter_shapes`; the file itself does not tell.

    Returns
    -------
    header : Header
        Including how many layers were filled.
    parameters : list of dict of ndarray, float32
        One dict per layer, empty where the file had ended or the layer has no parameters.

    Raises
    ------
    ValueError
        If the file is too short to have a header.
    """
    data = Path(path).read_bytes()
    if len(data) < 16:
        raise ValueError(f"{path}: {len(data)} bytes are too few for a weights file")
    major, minor, revision = (int(n) for n in np.frombuffer(data, "<i4", 3))
    wide = major * 10 + minor >= 2 and major < 1000 and minor < 1000
    transposed = major > 1000 or minor > 1000  # the matrices of connected layers
    if wide and len(data) < 20:
        raise ValueError(f"{path}: {len(data)} bytes are too few for a weights file of version 0.2")
    seen = int(np.frombuffer(data, "<i8" if wide else "<i4", 1, offset=12)[0])
    offset = 20 if wide else 16

    all_shapes = parameter_shapes(layers, input_shape)
    parameters: Parameters = [{} for _ in layers]
    filled = 0
    for layer, shapes, arrays in zip(layers, all_shapes, parameters, strict=True):
        if 4 * _count(shapes) > len(data) - offset:
            break
        for name, shape in shapes.items():
            values = np.frombuffer(data, "<f4", math.prod(shape), offset).astype(np.float32)
            offset += values.nbytes
            if transposed and isinstance(layer, Connected) and name == "weights":
                arrays[name] = np.ascontiguousarray(values.reshape(shape[::-1]).T)
            else:
                arrays[name] = values.reshape(shape)
        filled += bool(shapes)
    unfilled = sum(map(bool, all_shapes)) - filled
    return Header((major, minor, revision), seen, filled, unfilled, len(data) - offset), parameters


def initial_parameters(layers: list[Layer], input_shape: Shape, rng: np.random.Generator) -> Parameters:
    """Parameters of an untrained network.

    Weights are normal with variance 2 / (inputs of one output), scales are 1, all else is 0, the
    rolling variance too. (SPEC 10 says so for convolutions; other layers follow the same rule here.)

    Parameters
    ----------
    layers, input_shape
        The network and its input, as for `parameter_shapes`.
    rng : numpy.random.Generator
        Where the weights come from.

    Returns
    -------
    list of dict of ndarray, float32
        One dict per layer, empty for a layer without parameters.
    """
    parameters: Parameters = []
    for layer, shapes in zip(layers, parameter_shapes(layers, input_shape), strict=True):
        arrays = {name: np.full(shape, name == "scales", np.float32) for name, shape in shapes.items()}
        if shapes:
            shape = shapes["weights"]
            inputs = math.prod(shape[1:]) if isinstance(layer, Conv) else shape[-1]
            arrays["weights"] = rng.standard_normal(shape, np.float32) * np.float32((2 / inputs) ** 0.5)
        parameters.append(arrays)
    return parameters


def _statistics(n: int) -> dict[str, tuple[int, ...]]:
    return {"scales": (n,), "rolling_mean": (n,), "rolling_variance": (n,)}


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())

"""Darknet's weights files both ways, and the values that training starts from (SPEC 10, 12). NumPy only."""

import math
import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reference.layers import BatchNorm, Connected, Conv, Layer, Local, Shape, output_shapes

Parameters = list[dict[str, np.ndarray]]
Version = tuple[int, int, int]
#: what somebody may have downloaded instead of a weights file, by its first bytes
NOT_WEIGHTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: fetch it with `git lfs pull`",
    b"<": "a web page (HTML or XML): the download got a page in place of the file",
    b"{": "a text in JSON: the download got an error message or a page in place of the file",
    b"PK\x03\x04": "a zip archive or a PyTorch file",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"[net]": "a cfg file: it goes into the cfg argument",
}


@dataclass(frozen=True)
class Header:
    """What the first 16 or 20 bytes of a weights file say, and how much of it fitted the network.

    Parameters
    ----------
    version : (major, minor, revision)
        The file counts images in 64 bits from 0.2 on. Above 1000 the matrices of connected layers are
        transposed.
    seen : int
        Images the network was trained on.
    filled_layers : int
        Layers of the network that the file filled.
    unfilled_layers : int
        Layers with parameters for which the file had none left. A detector is seeded by the first layers of
        a classifier.
    leftover_bytes : int
        Bytes nobody asked for. Together with `unfilled_layers` a sign of a wrong or damaged file: it
        ended within a layer.
    """

    version: Version
    seen: int
    filled_layers: int
    unfilled_layers: int
    leftover_bytes: int


def parameter_names(layer: Layer) -> tuple[str, ...]:
    """Names of a layer's arrays in the order of a weights file; none for a layer without parameters."""
    statistics = ("scales", "rolling_mean", "rolling_variance")
    match layer:
        case Conv():
            return "biases", *(statistics if layer.batch_norm else ()), "weights"
        case Connected():
            return "biases", "weights", *(statistics if layer.batch_norm else ())
        case Local():
            return "biases", "weights"
        case BatchNorm():
            return statistics
    return ()


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
        of_weights: tuple[int, ...] = ()
        match layer:
            case Conv(filters=n, size=size):
                of_weights = (n, c // layer.groups, size, size)
            case Connected(outputs=n):
                of_weights = (n, c * h * w)
            case Local(filters=n, size=size):
                of_weights = (out[1] * out[2], n, c * size * size)
        of_biases = out if isinstance(layer, Local) else out[:1]
        names = parameter_names(layer)
        found.append({name: of_weights if name == "weights" else of_biases for name in names})
    return found


def read_weights(
    path: str | Path,
    layers: Sequence[Layer],
    input_shape: Shape,
    strict: bool = True,
    cutoff: int | None = None,
) -> tuple[Header, Parameters]:
    """Read a weights file for a network.

    Parameters
    ----------
    path : str or Path
        The file, with its 16-byte (before 2017-06) or 20-byte header.
    layers, input_shape
        The network and its input, as for `parameter_shapes`; the file itself does not tell.
    strict : bool
        The file must have as many bytes as the network needs. Otherwise, as in Darknet, a file that ends
        early fills the first layers (darknet19_448.conv.23), and bytes too many are left alone.
    cutoff : int, optional
        Read the first so many layers only, whatever follows them in the file.

    Returns
    -------
    header : Header
        Including how many layers were filled.
    parameters : list of dict of ndarray, float32
        One dict per layer, empty where the file had ended or the layer has no parameters. The arrays are
        read-only views of the mapped file: it is read where and when they are looked at.

    Raises
    ------
    ValueError
        If the file is no weights file (and what it seems to be instead), or is too short or too long: the
        message names the layer, the bytes it needs and the bytes that are left.
    OSError
        If it cannot be read.
    """
    layers = list(layers)
    mapped = _map(Path(path))
    version, seen, offset = _read_header(Path(path), mapped)
    transposed = max(version[:2]) > 1000

    all_shapes = parameter_shapes(layers, input_shape)
    whole = offset + sum(4 * _count(shapes) for shapes in all_shapes)
    if cutoff is not None:
        all_shapes[cutoff:] = [{} for _ in all_shapes[cutoff:]]
    parameters: Parameters = [{} for _ in layers]
    filled = 0
    for index, (layer, shapes) in enumerate(zip(layers, all_shapes, strict=True)):
        left, needed = len(mapped) - offset, 4 * _count(shapes)
        if needed > left:
            if strict:
                raise ValueError(
                    f"{path}: too short: layer {index} ({type(layer).__name__}) needs {needed:,} bytes, "
                    f"{left:,} are left; the network needs a file of {whole:,} bytes, this one has "
                    f"{len(mapped):,}"
                )
            break
        for name, shape in shapes.items():
            values = np.frombuffer(mapped, "<f4", math.prod(shape), offset)
            offset += values.nbytes
            parameters[index][name] = _from_file(values, shape, layer, name, transposed)
        filled += bool(shapes)
    left = len(mapped) - offset
    if strict and left and cutoff is None:
        raise ValueError(
            f"{path}: too long: {left:,} bytes are left after the last layer with parameters; the network "
            f"needs a file of {whole:,} bytes, this one has {len(mapped):,}"
        )
    unfilled = sum(map(bool, all_shapes)) - filled
    return Header(version, seen, filled, unfilled, left), parameters


def write_weights(
    path: str | Path,
    layers: Sequence[Layer],
    parameters: Parameters,
    seen: int = 0,
    version: Version = (0, 2, 0),
    cutoff: int | None = None,
) -> None:
    """Write a weights file, never leaving a half-written one behind.

    Parameters
    ----------
    path : str or Path
        Where to. It may be the file that `parameters` were read from.
    layers : sequence of Layer
        The network.
    parameters : list of dict of ndarray
        As `read_weights` or `yolov2.network.get_parameters` return them.
    seen : int
        Images the network was trained on.
    version : (major, minor, revision)
        From 0.2 on the header has 20 bytes, before that 16; above 1000 matrices of connected layers are
        transposed. What `read_weights` returned makes the same file again.
    cutoff : int, optional
        Write the first so many layers only and `seen` as 0: a file to start other networks from.

    Raises
    ------
    ValueError
        If a layer that is to be written has no parameters, or arrays of a wrong number of values, or `seen`
        does not fit the header.
    """
    path, layers = Path(path), list(layers)
    if cutoff is not None and not 1 <= cutoff <= len(layers):
        raise ValueError(f"cutoff: {cutoff} is not from 1 to the {len(layers)} layers there are")
    header = np.array(version, "<i4").tobytes()
    count = "<i8" if _is_wide(version) else "<i4"
    try:
        header += np.array(0 if cutoff is not None else seen, count).tobytes()
    except OverflowError:
        raise ValueError(f"seen: {seen} does not fit a file of version {version}") from None
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(header)
            for index, layer in enumerate(layers[:cutoff]):
                for name in parameter_names(layer):
                    if name not in parameters[index]:
                        raise ValueError(f"layer {index} ({type(layer).__name__}): {name} are missing")
                    values = _to_file(parameters[index][name], layer, name, max(version[:2]) > 1000)
                    file.write(np.ascontiguousarray(values, "<f4").data)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def release(array: np.ndarray) -> None:
    """Give back the memory that looking at a mapped array took; it is read again when looked at again.

    A network of 200 MB that is filled from a mapped file would occupy 400 MB otherwise.
    """
    mapped = array
    while isinstance(mapped, np.ndarray) and mapped.base is not None:
        mapped = mapped.base
    if isinstance(mapped, memoryview):
        mapped = mapped.obj
    if isinstance(mapped, mmap.mmap) and hasattr(mapped, "madvise"):  # not on Windows
        start = np.frombuffer(mapped, np.uint8).__array_interface__["data"][0]
        low = array.__array_interface__["data"][0] - start
        page = low // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_DONTNEED, page, low + array.nbytes - page)


def _map(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
        for magic, what in NOT_WEIGHTS.items():
            if start.startswith(magic.lower()):
                raise ValueError(f"{path}: not a weights file but {what}")
        size = os.fstat(file.fileno()).st_size
        if size < 16:
            raise ValueError(f"{path}: {size} bytes are too few for a weights file")
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _read_header(path: Path, mapped: mmap.mmap) -> tuple[Version, int, int]:
    """(version, seen, bytes of the header)."""
    major, minor, revision = (int(n) for n in np.frombuffer(mapped, "<i4", 3))
    if not (0 <= major < 10_000 and 0 <= minor < 10_000):
        raise ValueError(f"{path}: not a weights file: it begins with version {major}.{minor}.{revision}")
    wide = _is_wide((major, minor, revision))
    if wide and len(mapped) < 20:
        raise ValueError(f"{path}: {len(mapped)} bytes are too few for a weights file of version 0.2")
    seen = int(np.frombuffer(mapped, "<i8" if wide else "<i4", 1, offset=12)[0])
    return (major, minor, revision), seen, 20 if wide else 16


def _is_wide(version: Version) -> bool:
    """Whether images are counted in 64 bits."""
    major, minor, _ = version
    return major * 10 + minor >= 2 and major < 1000 and minor < 1000


def _from_file(
    values: np.ndarray, shape: tuple[int, ...], layer: Layer, name: str, transposed: bool
) -> np.ndarray:
    if name == "weights" and isinstance(layer, Connected) and transposed:
        return values.reshape(shape[::-1]).T
    if name == "weights" and isinstance(layer, Conv) and layer.flipped:
        return values.reshape(-1, shape[0]).T.reshape(shape)
    return values.reshape(shape)


def _to_file(values: np.ndarray, layer: Layer, name: str, transposed: bool) -> np.ndarray:
    flipped = layer.flipped if isinstance(layer, Conv) else isinstance(layer, Connected) and transposed
    return values.reshape(len(values), -1).T if name == "weights" and flipped else values


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
        if "weights" in shapes:
            shape = shapes["weights"]
            inputs = math.prod(shape[1:]) if isinstance(layer, Conv) else shape[-1]
            arrays["weights"] = rng.standard_normal(shape, np.float32) * np.float32((2 / inputs) ** 0.5)
        parameters.append(arrays)
    return parameters


def _count(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for shape in shapes.values())

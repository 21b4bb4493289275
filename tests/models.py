"""What the tests of loading, running and exporting share: small networks in Darknet's files, and pictures."""

from pathlib import Path

import numpy as np
from PIL import Image

from reference.layers import (
    AvgPool,
    Connected,
    Conv,
    Cost,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shape,
    Softmax,
)
from reference.region import Region, WordTree
from yolov2.cfg import Config, write_cfg
from yolov2.cfg_sections import HeadTraining, Net
from yolov2.weights import Parameters, Version, initial_parameters, write_weights

REGION = Region(((0.5, 0.7), (1.5, 1.0)), 3)
TREE = WordTree(("animal", "thing", "dog", "cat", "cup", "car"), (-1, -1, 0, 0, 1, 1))
ON_TREE = Region(((1.0, 1.0),), 6, "tree", TREE)
GRID = Grid(3, 2, 4)


def feeding(filters: int) -> Conv:
    return Conv(filters, 1, batch_norm=False, activation="linear")


PASSTHROUGH = (
    *(Conv(4), MaxPool(), Conv(8), MaxPool(), Conv(8)),
    *(Route((2,)), Conv(4, 1), Reorg(2), Route((-1, 4)), feeding(REGION.channels), REGION),
)
YOLOV1 = (
    Conv(6),
    MaxPool(),
    Local(4),
    Dropout(),
    Connected(20, "leaky", True),
    Connected(GRID.outputs),
    GRID,
)
#: name: (layers, (channels, height, width) of the input)
NETWORKS: dict[str, tuple[tuple[Layer, ...], Shape]] = {
    "region": (PASSTHROUGH, (3, 32, 48)),
    "grid": (YOLOV1, (3, 20, 14)),
    "softmax": ((Conv(8), MaxPool(), feeding(7), AvgPool(), Softmax(), Cost()), (3, 16, 16)),
    "tree": ((Conv(8), feeding(6), AvgPool(), Softmax(TREE)), (3, 16, 12)),
    "region on a tree": ((Conv(8), MaxPool(), feeding(ON_TREE.channels), ON_TREE), (3, 16, 16)),
}
DETECTORS = [name for name, (layers, _) in NETWORKS.items() if isinstance(layers[-1], Region | Grid)]
CLASSIFIERS = [name for name in NETWORKS if name not in DETECTORS]


def some_parameters(layers: list[Layer], shape: Shape, seed: int = 0) -> Parameters:
    """Parameters of which none is left at 0 or 1."""
    rng = np.random.default_rng(seed)
    parameters = initial_parameters(layers, shape, rng)
    for arrays in parameters:
        for name in arrays:
            if name in ("scales", "rolling_variance"):
                arrays[name] = rng.uniform(0.5, 2, arrays[name].shape).astype(np.float32)
            elif name != "weights":
                arrays[name] = rng.normal(0, 0.5, arrays[name].shape).astype(np.float32)
    return parameters


def write_darknet(
    folder: Path, name: str, stem: str = "net", version: Version = (0, 2, 0), seen: int = 6400, **net
) -> Path:
    """The files of one of `NETWORKS`, ``net.weights`` and ``net.cfg``; returns the path of the weights."""
    layers, shape = NETWORKS[name]
    return write_network(folder, layers, shape, stem, version, seen, **net)


def write_network(
    folder: Path,
    layers,
    shape: Shape,
    stem: str = "net",
    version: Version = (0, 2, 0),
    seen: int = 6400,
    **net,
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    channels, height, width = shape
    sizes = {"width": width, "height": height, "channels": channels, "min_crop": width, "max_crop": 2 * width}
    config = Config(Net(**sizes | net), list(layers), HeadTraining())
    write_cfg(folder / f"{stem}.cfg", config)
    path = folder / f"{stem}.weights"
    write_weights(path, layers, some_parameters(list(layers), shape), seen, version)
    return path


def noise(width: int, height: int, seed: int = 0) -> np.ndarray:
    """A picture, uint8 (height, width, 3), of large soft blots."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).copy()


def rows(results) -> list[np.ndarray]:
    """(N, 6) left, top, right, bottom, score, class of every picture, or (C,) probabilities."""
    return [np.asarray((r.probs if r.boxes is None else r.boxes).data) for r in results]


def check_equal(got, wanted, pixels: float = 0.0, score: float = 0.0) -> None:
    """The same detections in the same order."""
    assert len(got) == len(wanted)
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape and (a[:, 5] == b[:, 5]).all()
        np.testing.assert_allclose(a[:, :4], b[:, :4], rtol=0, atol=pixels)
        np.testing.assert_allclose(a[:, 4], b[:, 4], rtol=0, atol=score)

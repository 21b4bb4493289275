"""`yolov2.load`: a network from Darknet's files or a checkpoint of this library, ready to use."""

import math
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from reference.layers import Grid, Layer, Reorg, ReorgOrder, Shape, Softmax, head_index
from reference.region import Region
from yolov2.cfg import Config, limited_shapes, open_cfg
from yolov2.cfg_sections import HeadTraining, Net
from yolov2.checkpoint import load_checkpoint, to_plain
from yolov2.classifier import Classifier
from yolov2.detector import Detector
from yolov2.errors import UserError
from yolov2.letterbox import Mode
from yolov2.model import input_size, pick_device
from yolov2.names import default_names, read_names
from yolov2.network import Network, load_parameters, uninitialised
from yolov2.presets import NETWORKS, Recipe
from yolov2.weights import read_weights

NEED_A_TREE = ("yolo9000", "darknet9000")  # which is a file of Darknet's
PICKLES = {".pt", ".pth", ".pkl", ".bin", ".ckpt"}


def load(
    weights: str | Path,
    cfg: str | Path | Config | None = None,
    names: str | Path | Sequence[str] | None = None,
    *,
    device: str | int | torch.device = "auto",
    imgsz: int | tuple[int, int] | None = None,
    resize: Mode | None = None,
    reorg: ReorgOrder | None = None,
    strict: bool = True,
) -> Detector | Classifier:
    """A model from its files.

    Parameters
    ----------
    weights : str or Path
        ``.safetensors`` of this library, or a weights file of Darknet.
    cfg : str, Path or Config, optional
        Darknet's network file, what `yolov2.cfg.read_cfg` made of it, or the name of a published network in
        `yolov2.presets.NETWORKS`. By default the file of the same name beside the weights, or else the
        published network of that name.
    names : str, Path or sequence of str, optional
        Class names, or a file with one a line. By default a file of the weights' name, ``.names``, beside
        them; otherwise VOC's for 20 classes, COCO's for 80, the nodes' for a tree, else numbers.
    device : str, int or torch.device
        "auto" is the GPU if there is one; a number is that GPU.
    imgsz : int or tuple of int (height, width), optional
        Size of the input in pixels, if not the one the files say.
    resize : {"letterbox", "stretch"}, optional
        How pictures are brought to that size. By default what the files say: Darknet letterboxes, but for
        YOLOv1.
    reorg : {"darknet", "space_to_depth"}, optional
        Order of reorg layers. Darknet's is what its own weights need; some forks of 2018 and 2019 trained
        with the textbook's.
    strict : bool
        A weights file must have exactly the bytes that the network needs. Otherwise what is missing starts
        at random, and what is too much is left alone.

    Returns
    -------
    Detector or Classifier
        Ready for ``predict``. Weights of Darknet run with the batch norm of Darknet's CPU build.

    Raises
    ------
    UserError
        If a file is missing, damaged or of another kind, or the files do not go together.
    ValueError
        If an option has no meaning.

    Warns
    -----
    UserWarning
        For keys in the cfg that nothing here reads, and of a file that did not fill the network.

    Examples
    --------
    >>> model = yolov2.load("yolov2-voc.weights", cfg="yolov2-voc.cfg", names="voc.names")
    >>> for result in model.predict("pictures/*.jpg", conf=0.5):
    ...     print(result.path, result.boxes.xyxy, result.save())
    """
    for option, value, known in (("resize", resize, Mode), ("reorg", reorg, ReorgOrder)):
        if value is not None and value not in get_args(known):
            raise ValueError(f"{option}: {value!r} is not one of {', '.join(get_args(known))}")
    path = Path(weights)
    if path.suffix == ".safetensors":
        if cfg is not None or names is not None:
            raise UserError(f"{path}: a checkpoint knows its own network and names; leave cfg and names out")
        checkpoint = load_checkpoint(path)
        kind = Classifier if isinstance(checkpoint.head, Softmax) else Detector
        model: Detector | Classifier = kind.from_checkpoint(checkpoint, path)
    else:
        model = from_darknet(path, cfg, names, imgsz, strict)
    if imgsz is not None:
        width, height = input_size(imgsz)
        try:
            model.check_size(imgsz)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
        model.imgsz = _one_if_square(width, height)
        model.network.input_shape = (3, height, width)
    if resize is not None:
        model.resize = resize
    if reorg is not None:
        layers = model.network.layers
        layers[:] = [replace(x, order=reorg) if isinstance(x, Reorg) else x for x in layers]
    if isinstance(device, int):
        device = f"cuda:{device}"
    return model.to(device if isinstance(device, torch.device) else pick_device(device))


def from_darknet(
    path: Path,
    cfg: str | Path | Config | None = None,
    names: str | Path | Sequence[str] | None = None,
    imgsz: int | tuple[int, int] | None = None,
    strict: bool = True,
) -> Detector | Classifier:
    """A model from Darknet's files; parameters and errors as of `load`, but `imgsz` is for a cfg without."""
    _refuse_other_files(path)
    if cfg is None:
        cfg = beside(path, ".cfg")
        if cfg is None and (cfg := published(path.stem)) is None:
            raise UserError(f"{path}: which network is it of? Give its cfg file")
    elif not isinstance(cfg, Config) and not Path(cfg).is_file():
        if str(cfg) in NEED_A_TREE:
            raise UserError(f"{cfg}: needs the tree that its cfg file names; give that file")
        cfg = published(str(cfg)) or cfg
    config = cfg if isinstance(cfg, Config) else open_cfg(cfg)
    where = f"{path}: the network" if isinstance(cfg, Config) else f"{cfg}:"
    net, layers = config.net, config.layers
    head, classes = _head(layers, where)
    if net.channels not in (0, 3):
        raise UserError(f"{where} channels={net.channels}; only networks for RGB pictures are supported")
    width, height = net.width, net.height
    if width < 1 or height < 1:
        if imgsz is None:
            raise UserError(f"{where} says no width and height; give imgsz")
        width, height = input_size(imgsz)
    shape = (3, height, width)
    shapes = _checked(layers, shape, where)
    if isinstance(head, Softmax):
        classes = math.prod(shapes[-1])
    try:
        header, parameters = read_weights(path, layers, shape, strict)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise UserError(str(error)) from None
    if header.unfilled_layers:
        warnings.warn(
            f"{path}: fills {header.filled_layers} layers; {header.unfilled_layers} start at random",
            stacklevel=3,
        )
    network = (Network if header.unfilled_layers else uninitialised)(layers, shape, "darknet")
    load_parameters(network, parameters)
    if strict and not all(_sound(name, tensor) for name, tensor in network.state_dict().items()):
        raise UserError(f"{path}: damaged: a weight is no finite number, or a variance is negative")

    tree = None if isinstance(head, Grid) or head.tree is None else head.tree.names
    kind = Classifier if isinstance(head, Softmax) else Detector
    return kind(
        network.eval(),
        _names(path, names, classes, isinstance(head, Softmax)) or tree or default_names(classes),
        _one_if_square(width, height),
        "stretch" if isinstance(head, Grid) else "letterbox",
        {"net": to_plain(net), "head_training": to_plain(config.head_training)},
        {"seen": header.seen, "darknet_version": list(header.version)},
    )


def _sound(name: str, tensor: Tensor) -> bool:
    return bool(tensor.isfinite().all() and not (name.endswith("running_var") and (tensor < 0).any()))


def published(name: str) -> Config | None:
    """What the cfg file of a published network says, by its name; None if it is unknown or needs a tree."""
    if name not in NETWORKS or name in NEED_A_TREE:
        return None
    preset = NETWORKS[name]
    side = preset.imgsz
    net = Net(side, side, 3, min_crop=side, max_crop=2 * side)
    training = HeadTraining(preset.jitter) if isinstance(preset, Recipe) else HeadTraining()
    return Config(net, preset.build(), training)


def _refuse_other_files(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"{path}: a folder; name the weights in it")
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if path.suffix == ".cfg":
        raise UserError(f"{path}: a network file holds no weights; give it as cfg, and the weights first")
    if path.suffix in PICKLES and zipfile.is_zipfile(path):
        raise UserError(f"{path}: a PyTorch file, which may run code when it is opened; it is not read here")


def beside(path: Path, suffix: str) -> Path | None:
    """A file called like the weights, in their folder or, as Darknet keeps them, in cfg or data beside it."""
    stems = [path.stem, path.name.partition(".")[0]]  # the second for darknet19_448.conv.23
    folders = [path.parent, path.parent / "cfg", path.parent / "data"]
    found = (folder / f"{stem}{suffix}" for folder in folders for stem in stems)
    return next((file for file in found if file.is_file()), None)


def _head(layers: list[Layer], where: str) -> tuple[Region | Grid | Softmax, int]:
    """The head record, and its number of classes (0 if it does not say)."""
    index = head_index(layers)
    if index is None:
        raise UserError(f"{where} ends in no region, detection or softmax layer: what does it find?")
    head = layers[index]
    assert isinstance(head, Region | Grid | Softmax)
    return head, 0 if isinstance(head, Softmax) else head.classes


def _checked(layers: list[Layer], shape: Shape, where: str) -> list[Shape]:
    try:
        return limited_shapes(layers, shape)
    except ValueError as error:
        raise UserError(f"{where} {error}") from None


def _one_if_square(width: int, height: int) -> int | tuple[int, int]:
    """A size of input as a model keeps it: one number, or (height, width)."""
    return width if width == height else (height, width)


def _names(
    path: Path, names: str | Path | Sequence[str] | None, classes: int, classifier: bool
) -> tuple[str, ...] | None:
    if names is None:
        names = beside(path, ".names")
    if names is None:
        return None
    given = read_names(names) if isinstance(names, str | Path) else tuple(names)
    if not all(isinstance(name, str) for name in given):
        raise UserError("names: a class name is no text")
    # Darknet's own list for ImageNet names all 21,842 sets of synonyms, its classes are the first 1,000
    given = given[:classes] if classifier else given
    if len(given) != classes:
        where = f"{names}: " if isinstance(names, str | Path) else "names: "
        raise UserError(f"{where}{len(given)} class names for {classes} classes")
    return given

"""Darknet's network files (.cfg), both ways: text <-> settings and the list of layer records (SPEC 19)."""

import math
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    Shape,
    Shortcut,
    Softmax,
    Upsample,
    output_shape,
)
from reference.region import Region, WordTree
from yolov2.cfg_sections import (
    MAX_BYTES,
    MAX_CLASSES,
    READERS,
    CfgError,
    HeadTraining,
    Net,
    Section,
    read_head_training,
    read_net,
    shown,
    split,
    text_of,
)
from yolov2.errors import UserError
from yolov2.tree.files import tree_text

#: what a file may ask for, beside the limits in `yolov2.cfg_sections`; more is refused before it is allocated
MAX_LAYERS = 2_000
MAX_TREES = 4  # layers that name one
MAX_VALUES = 1 << 28  # of one layer's output for one picture: 1 GiB
MAX_PARAMETERS = 1 << 30  # of the whole network: 4 GiB
MAX_WARNINGS = 20


@dataclass(frozen=True)
class Config:
    """A parsed cfg file."""

    net: Net
    layers: list[Layer]
    head_training: HeadTraining


def read_cfg(source: str | Path, root: str | Path | None = None) -> Config:
    """Read a network file.

    Parameters
    ----------
    source : str or Path
        A file; or its text, if it is a str of more than one line.
    root : str or Path, optional
        Folder that the file's own paths (`tree`, `map`) are relative to. By default they are looked for in
        the working folder, as Darknet does, then in the file's folder and the one above it.

    Returns
    -------
    Config

    Raises
    ------
    CfgError
        A ValueError, if the text is malformed, names a type of layer that is not supported, gives a layer
        settings that make no sense or do not go with the layers in front of it, or asks for more than the
        limits at the top of this module and of `yolov2.cfg_sections`. The message, one line of printable
        characters, names the line and the section.
    OSError
        If the file cannot be read.

    Warns
    -----
    UserWarning
        For every key that nothing here reads; of more than 20 for the rest together.
    """
    if isinstance(source, str) and "\n" in source:
        text, folders = source, [Path(".")]
        if len(text) > MAX_BYTES:
            raise CfgError(f"line 1: the text is longer than {MAX_BYTES:,} characters")
    else:
        folders = [Path("."), Path(source).parent, Path(source).parent.parent]
        try:
            text = text_of(Path(source))
        except ValueError as problem:
            raise CfgError(f"line 1: {problem}") from None
    net, *sections = split(text)
    if net.name not in ("net", "network"):
        raise CfgError(f"line {net.line}: the first section must be [net], not [{shown(net.name)}]")
    if len(sections) > MAX_LAYERS:
        raise sections[MAX_LAYERS].error(f"more than {MAX_LAYERS} layers")
    if len(with_tree := [section for section in sections if "tree" in section.options]) > MAX_TREES:
        raise with_tree[MAX_TREES].error(f"tree: more than {MAX_TREES} layers with a tree")

    settings = net.read(read_net)
    layers: list[Layer] = []
    head_training = HeadTraining()
    for section in sections:
        section.read(Section.refuse_loading_keys)
        section.folders = folders if root is None else [Path(root)]
        if section.name not in READERS:
            raise section.error(f"unknown layer type; known are {', '.join(READERS)}")
        if section.name in ("region", "detection", "cost") and section is not sections[-1]:
            raise section.error("only supported as the last section")
        layers.append(section.read(READERS[section.name]))
        if section.name in ("region", "detection"):
            head_training = section.read(read_head_training)
    if min(settings.input_shape) > 0:
        _check_shapes(settings, layers, sections)
    unread = [(section, key) for section in (net, *sections) for key in sorted(section.unread)]
    for section, key in unread[:MAX_WARNINGS]:
        line = section.options[key][1]
        warnings.warn(f"line {line}, [{section.name}]: {shown(key)} is not used", stacklevel=2)
    if more := unread[MAX_WARNINGS:]:
        line = more[0][0].options[more[0][1]][1]
        warnings.warn(f"line {line} and later: {len(more):,} more keys are not used", stacklevel=2)
    return Config(settings, layers, head_training)


def open_cfg(path: str | Path) -> Config:
    """Read a network file for a command or `yolov2.load`: whatever is said names the file.

    Raises
    ------
    UserError
        If it cannot be read or makes no sense; in one line, with file, line and section.

    Warns
    -----
    UserWarning
        For keys that nothing here reads; with file, line and section too.
    """
    with warnings.catch_warnings(record=True) as unread:
        warnings.simplefilter("always")
        try:
            config = read_cfg(Path(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    for warning in unread:
        warnings.warn(f"{path}: {warning.message}", stacklevel=4)  # where `load` was called
    return config


def limited_shapes(layers: list[Layer], shape: Shape) -> list[Shape]:
    """Shape of every layer's output in a network that fits into a machine.

    Parameters
    ----------
    layers : list of Layer
        The network.
    shape : (channels, height, width)
        The input picture, in pixels.

    Returns
    -------
    list of (channels, height, width)
        As `reference.layers.output_shapes`.

    Raises
    ------
    ValueError
        If a layer does not fit its input, or asks for more than the limits at the top of this module; the
        message names the layer's index.
    """
    shapes: list[Shape] = []
    parameters = 0
    for layer in layers:
        parameters = _append_shape(layer, shapes, shape, parameters)
    return shapes


def _append_shape(layer: Layer, shapes: list[Shape], of_input: Shape, parameters: int) -> int:
    """Append the shape of the next layer's output to `shapes`; return `parameters` plus its own number."""
    before = shapes[-1] if shapes else of_input
    shape = output_shape(layer, shapes, of_input)
    parameters += _parameters(layer, before, shape)
    for count, limit, what in (
        (_padded(layer, before), MAX_VALUES, "values in a padded input"),
        (math.prod(shape), MAX_VALUES, "values in one layer's output"),
        (parameters, MAX_PARAMETERS, "parameters up to here"),
        (math.prod(shape) * isinstance(layer, Softmax), MAX_CLASSES, "classes"),
    ):
        if count > limit:
            where = f"layer {len(shapes)} ({type(layer).__name__})"
            raise ValueError(f"{where}: {count:,} {what}; at most {limit:,} are supported")
    shapes.append(shape)
    return parameters


def _check_shapes(net: Net, layers: list[Layer], sections: list["Section"]) -> None:
    """Complain about the first layer that does not fit what is in front of it, or is too large."""
    shapes: list[Shape] = []
    parameters = 0
    for layer, section in zip(layers, sections, strict=True):
        if isinstance(layer, Region) and shapes and shapes[-1][0] != layer.channels:
            _complain_of_filters(layer, layers, shapes, sections)
        try:
            parameters = _append_shape(layer, shapes, net.input_shape, parameters)
        except ValueError as problem:
            raise section.error(problem) from None


def _complain_of_filters(
    region: Region, layers: list[Layer], shapes: list[Shape], sections: list["Section"]
) -> None:
    feeding = len(shapes) - 1
    num, wanted = len(region.anchors), f"{len(region.anchors)} * (5 + {region.classes})"
    if not isinstance(layers[feeding], Conv):
        message = f"num={num} and classes={region.classes} need {wanted} = {region.channels} channels"
        raise sections[feeding + 1].error(f"{message}, not the {shapes[-1][0]} in front of it")
    section = sections[feeding]
    line = section.options["filters"][1] if "filters" in section.options else section.line
    head = f"the [region] in line {sections[feeding + 1].line}"
    raise section.error(
        f"filters={shapes[-1][0]}, but {head} with num={num} and classes={region.classes} "
        f"needs filters={region.channels} = {wanted}",
        line,
    )


def _padded(layer: Layer, shape: Shape) -> int:
    """Size of a layer's input with its margins."""
    c, h, w = shape
    margin = 0
    if isinstance(layer, Conv | MaxPool):
        margin = 2 * layer.padding if isinstance(layer, Conv) else layer.total_padding
    return c * (h + margin) * (w + margin)


def _parameters(layer: Layer, shape: Shape, out: Shape) -> int:
    """About how many numbers a layer learns or keeps, in unbounded integers."""
    inputs = shape[0] * shape[1] * shape[2]
    match layer:
        case Conv():
            return layer.filters * (shape[0] // layer.groups * layer.size**2 + 4)
        case Connected():
            return layer.outputs * (inputs + 4)
        case Local():
            return out[1] * out[2] * layer.filters * (shape[0] * layer.size**2 + 1)
        case BatchNorm():
            return 3 * shape[0]
    return 0


def write_cfg(path: str | Path, config: Config) -> list[Path]:
    """Write a network file, and beside it the tree and the class map that it names, if it has any.

    Parameters
    ----------
    path : str or Path
        Where to; ``x.tree`` (a second tree: ``x2.tree``) and ``x.map`` go beside ``x.cfg``, with no spaces in
        their names, which a cfg cannot name. Darknet itself looks for those relative to its working folder,
        `read_cfg` beside the cfg too.
    config : Config
        What to write. `read_cfg` gives it back exactly; settings that Darknet does not know (reorg in the
        textbook order, the loss as printed) become keys of which it warns.

    Returns
    -------
    list of Path
        The files written.
    """
    path = Path(path)
    tree, class_map = (path.with_name("".join(path.stem.split()) + suffix) for suffix in (".tree", ".map"))
    files = {path: cfg_text(config, tree.name, class_map.name)}
    files |= {path.with_name(name): tree_text(t) for t, name in _tree_names(config, tree.name).items()}
    for layer in config.layers:
        if isinstance(layer, Region) and layer.class_map is not None:
            files[class_map] = "".join(f"{node}\n" for node in layer.class_map)
    for file, text in files.items():
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    return list(files)


def _tree_names(config: Config, first: str) -> dict[WordTree, str]:
    """What the files of a network's trees are called, if the first one is called `first`."""
    trees = [layer.tree for layer in config.layers if isinstance(layer, Region | Softmax) and layer.tree]
    stem, suffix = os.path.splitext(first)
    return {tree: f"{stem}{n if n > 1 else ''}{suffix}" for n, tree in enumerate(dict.fromkeys(trees), 1)}


def cfg_text(config: Config, tree: str = "network.tree", class_map: str = "network.map") -> str:
    """The text of a network file.

    Parameters
    ----------
    config : Config
        What to write.
    tree, class_map : str
        What the file calls the files of its (first) tree and its class map.

    Returns
    -------
    str
    """
    sections = [_section("net", _net_options(config.net))]
    trees = _tree_names(config, tree)
    for layer in config.layers:
        of_layer = layer.tree if isinstance(layer, Region | Softmax) else None
        name, options = _layer_options(layer, trees[of_layer] if of_layer else "", class_map)
        if isinstance(layer, Region | Grid):
            training = config.head_training
            options |= {"jitter": training.jitter, "max": training.max_truths}
            if isinstance(layer, Region):
                options["random"] = training.multi_scale
        sections.append(_section(name, options))
    return "\n".join(sections)


def _section(name: str, options: dict[str, Any]) -> str:
    return f"[{name}]\n" + "".join(f"{key}={_value(value)}\n" for key, value in options.items())


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(_value, value))
    if isinstance(value, bool):
        return str(int(value))
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _net_options(net: Net) -> dict[str, Any]:
    schedule = net.schedule
    plain = Net(width=net.width, min_crop=net.width, max_crop=2 * net.width)
    always = {k: getattr(net, k) for k in ("batch", "subdivisions", "width", "height", "channels")}
    always |= {"momentum": net.momentum, "decay": net.decay}
    distortions = ("angle", "saturation", "exposure", "hue", "aspect", "min_crop", "max_crop")
    rare = {k: getattr(net, k) for k in distortions if getattr(net, k) != getattr(plain, k)}
    rates = {"learning_rate": schedule.learning_rate, "policy": schedule.policy}
    keys = ("burn_in", "power", "max_batches", "steps", "scales", "step", "scale", "gamma")
    usual = type(schedule)()
    rates |= {k: getattr(schedule, k) for k in keys if getattr(schedule, k) != getattr(usual, k)}
    return always | rare | rates


def _layer_options(layer: Layer, tree: str, class_map: str) -> tuple[str, dict[str, Any]]:
    """A section's name and the options it needs."""
    options: dict[str, Any]
    rare: dict[str, tuple[Any, Any]]
    keys: tuple[str, ...]
    match layer:
        case Conv():
            padding = {"pad": 1} if layer.pad is None else {"padding": layer.pad}
            options = {
                "filters": layer.filters,
                "size": layer.size,
                "stride": layer.stride,
                **padding,
                "activation": layer.activation,
            }
            if layer.batch_norm:
                options = {"batch_normalize": 1} | options
            rare = {"groups": (layer.groups, 1), "flipped": (layer.flipped, False)}
            return "convolutional", options | _unusual(rare)
        case Connected():
            options = {"output": layer.outputs, "activation": layer.activation}
            return "connected", options | _unusual({"batch_normalize": (layer.batch_norm, False)})
        case Local():
            keys = ("filters", "size", "stride", "pad", "activation")
            return "local", {key: getattr(layer, key) for key in keys}
        case BatchNorm():
            return "batchnorm", {}
        case MaxPool():
            options = {"size": layer.size, "stride": layer.stride}
            return "maxpool", options | ({} if layer.padding is None else {"padding": layer.padding})
        case AvgPool():
            return "avgpool", {}
        case Upsample():
            return "upsample", {"stride": layer.stride} | _unusual({"scale": (layer.scale, 1.0)})
        case Reorg():
            rare = {"reverse": (layer.reverse, False), "order": (layer.order, "darknet")}
            return "reorg", {"stride": layer.stride} | _unusual(rare)
        case Route():
            return "route", {"layers": layer.layers}
        case Shortcut():
            rare = {"alpha": (layer.alpha, 1.0), "beta": (layer.beta, 1.0)}
            return "shortcut", {"from": layer.layer, "activation": layer.activation} | _unusual(rare)
        case Crop():
            keys = ("flip", "angle", "saturation", "exposure")
            options = {"crop_height": layer.height, "crop_width": layer.width}
            return "crop", options | {k: getattr(layer, k) for k in keys} | {"noadjust": not layer.adjust}
        case Dropout():
            return "dropout", {"probability": layer.probability}
        case Cost():
            return "cost", {"type": layer.kind} | _unusual({"scale": (layer.scale, 1.0)})
        case Softmax():
            return "softmax", {"groups": 1} | ({"tree": tree} if layer.tree else {})
        case Grid():
            options = {"classes": layer.classes, "coords": 4, "side": layer.side, "num": layer.boxes}
            flags = ("softmax", "sqrt", "rescore", "forced")
            return "detection", options | {k: getattr(layer, k) for k in (*flags, *_SCALES)}
        case Region():
            return "region", _region_options(layer, tree, class_map)
    raise TypeError(f"{layer!r} is no layer")


_SCALES = ("object_scale", "noobject_scale", "class_scale", "coord_scale")


def _region_options(region: Region, tree: str, class_map: str) -> dict[str, Any]:
    options: dict[str, Any] = {
        "anchors": tuple(side for anchor in region.anchors for side in anchor),
        "num": len(region.anchors),
        "classes": region.classes,
        "coords": 4,
        "softmax": region.class_activation != "logistic",
        "bias_match": region.bias_match,
        "rescore": region.rescore,
        "thresh": region.ignore_threshold,
        **{key: getattr(region, key) for key in _SCALES},
    }
    rare = {
        "background": (region.background, False),
        "class_loss": (region.class_loss, "cross_entropy"),
        "box_weight": (region.box_weight, "2-wh"),
        "location": (region.location, "cell"),
        "assumed_iou": (region.assumed_iou, 0.0),
        "prior_scale": (region.prior_scale, 0.01),
        "prior_images": (region.prior_images, 12800),
    }
    files = {"tree": tree} if region.tree else {}
    return options | _unusual(rare) | files | ({"map": class_map} if region.class_map is not None else {})


def _unusual(options: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Of options with their (value, default), the values that are not the default."""
    return {key: value for key, (value, default) in options.items() if value != default}

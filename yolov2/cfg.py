"""Darknet's network files (.cfg), both ways: text <-> settings and the list of layer records (SPEC 19)."""

import os
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
    READERS,
    CfgError,
    HeadTraining,
    Net,
    Section,
    read_head_training,
    read_net,
    split,
)

#: what a file may ask for; more is refused before any of it is allocated
MAX_BYTES = 1 << 22  # of the file itself
MAX_LAYERS = 2_000
MAX_VALUES = 1 << 28  # of one layer's output for one picture: 1 GiB
MAX_PARAMETERS = 1 << 30  # of the whole network: 4 GiB


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
        limits at the top of this module. The message names the line and the section.
    OSError
        If the file cannot be read.

    Warns
    -----
    UserWarning
        For every key that nothing here reads.
    """
    if isinstance(source, str) and "\n" in source:
        text, folders = source, [Path(".")]
    else:
        text, folders = _text_of(Path(source)), [Path("."), Path(source).parent, Path(source).parent.parent]
    net, *sections = split(text)
    if net.name not in ("net", "network"):
        raise CfgError(f"line {net.line}: the first section must be [net], not [{net.name}]")
    if len(sections) > MAX_LAYERS:
        raise sections[MAX_LAYERS].error(f"more than {MAX_LAYERS} layers")

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
    for section in (net, *sections):
        section.warn_unread()
    return Config(settings, layers, head_training)


def _text_of(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise CfgError(f"line 1: {path} is larger than {MAX_BYTES:,} bytes: no network file")
    if b"\0" in data:
        raise CfgError(f"line 1: {path} is not a text file")
    return data.decode("utf-8-sig", errors="replace")  # comments are in any encoding


def _check_shapes(net: Net, layers: list[Layer], sections: list["Section"]) -> None:
    """Complain about the first layer that does not fit what is in front of it, or is too large."""
    shapes: list[Shape] = []
    parameters = 0
    for layer, section in zip(layers, sections, strict=True):
        if isinstance(layer, Region) and shapes and shapes[-1][0] != layer.channels:
            _complain_of_filters(layer, layers, shapes, sections)
        before = shapes[-1] if shapes else net.input_shape
        try:
            shape = output_shape(layer, shapes, net.input_shape)
        except ValueError as problem:
            raise section.error(problem) from None
        parameters += _parameters(layer, before, shape)
        for count, limit, what in (
            (
                _padded(layer, shapes[-1] if shapes else net.input_shape),
                MAX_VALUES,
                "values in a padded input",
            ),
            (shape[0] * shape[1] * shape[2], MAX_VALUES, "values in one layer's output"),
            (parameters, MAX_PARAMETERS, "parameters up to here"),
        ):
            if count > limit:
                raise section.error(f"{count:,} {what}; at most {limit:,} are supported")
        shapes.append(shape)


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
    """About how many numbers a layer learns, in unbounded integers."""
    inputs = shape[0] * shape[1] * shape[2]
    match layer:
        case Conv():
            return layer.filters * (shape[0] // layer.groups * layer.size**2 + 4)
        case Connected():
            return layer.outputs * (inputs + 4)
        case Local():
            return out[1] * out[2] * layer.filters * (shape[0] * layer.size**2 + 1)
    return 0


def write_cfg(path: str | Path, config: Config) -> list[Path]:
    """Write a network file, and beside it the tree and the class map that it names, if it has any.

    Parameters
    ----------
    path : str or Path
        Where to; ``x.tree`` and ``x.map`` go beside ``x.cfg``. Darknet itself looks for those relative to its
        working folder, `read_cfg` beside the cfg too.
    config : Config
        What to write. `read_cfg` gives it back exactly; settings that Darknet does not know (reorg in the
        textbook order, the loss as printed) become keys of which it warns.

    Returns
    -------
    list of Path
        The files written.
    """
    path = Path(path)
    tree, class_map = path.with_suffix(".tree"), path.with_suffix(".map")
    files = {path: cfg_text(config, tree.name, class_map.name)}
    for layer in config.layers:
        if isinstance(layer, Region | Softmax) and layer.tree is not None:
            files[tree] = tree_text(layer.tree)
        if isinstance(layer, Region) and layer.class_map is not None:
            files[class_map] = "".join(f"{node}\n" for node in layer.class_map)
    for file, text in files.items():
        partial = file.with_name(file.name + ".partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, file)
    return list(files)


def tree_text(tree: WordTree) -> str:
    """A tree in Darknet's form, a "name parent" per line (SPEC 13.1); nameless nodes get a number."""
    rows = enumerate(zip(tree.names, tree.parents, strict=True))
    return "".join(f"{name or f'n{node}'} {parent}\n" for node, (name, parent) in rows)


def cfg_text(config: Config, tree: str = "network.tree", class_map: str = "network.map") -> str:
    """The text of a network file.

    Parameters
    ----------
    config : Config
        What to write.
    tree, class_map : str
        What the file calls the files of its tree and its class map.

    Returns
    -------
    str
    """
    sections = [_section("net", _net_options(config.net))]
    for layer in config.layers:
        name, options = _layer_options(layer, tree, class_map)
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
        "prior_scale": (region.prior_scale, 0.01),
        "prior_images": (region.prior_images, 12800),
    }
    files = {"tree": tree} if region.tree else {}
    return options | _unusual(rare) | files | ({"map": class_map} if region.class_map is not None else {})


def _unusual(options: dict[str, tuple[Any, Any]]) -> dict[str, Any]:
    """Of options with their (value, default), the values that are not the default."""
    return {key: value for key, (value, default) in options.items() if value != default}

"""What a network is made of and costs: ``python -m yolov2.summary --model yolov2-voc`` (SPEC 21)."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from reference.layers import (
    Connected,
    Conv,
    Cost,
    Crop,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Shape,
    Shortcut,
    Softmax,
    Upsample,
    absolute_route,
    output_shapes,
)
from reference.region import Region, WordTree
from yolov2.cfg import open_cfg
from yolov2.cli import option, parse, run
from yolov2.errors import UserError
from yolov2.presets import NETWORKS
from yolov2.weights import parameter_shapes


class Row(NamedTuple):
    """One layer, for one picture."""

    layer: Layer
    output: Shape  # (channels, height, width)
    flops: int  # two for every multiply-add
    learnable: int  # weights, biases and scales
    stored: int  # floats in a weights file: those, and the rolling statistics


def summary(layers: Sequence[Layer], shape: Shape) -> list[Row]:
    """Output, work and parameters of every layer.

    Parameters
    ----------
    layers : sequence of Layer
        The network.
    shape : (channels, height, width)
        Of the input picture, in pixels.

    Returns
    -------
    list of Row

    Raises
    ------
    ValueError
        If a layer does not fit its input; the message names the layer.
    """
    layers = list(layers)
    rows = []
    outputs = output_shapes(layers, shape)
    for layer, out, arrays in zip(layers, outputs, parameter_shapes(layers, shape), strict=True):
        sizes = {name: math.prod(array) for name, array in arrays.items()}
        # a convolution uses every weight at every place; weights of other layers belong to one place
        uses = out[1] * out[2] if isinstance(layer, Conv) else 1
        flops = 2 * sizes.get("weights", 0) * uses
        learnable = sum(size for name, size in sizes.items() if not name.startswith("rolling"))
        rows.append(Row(layer, out, flops, learnable, sum(sizes.values())))
    return rows


def total_flops(rows: Iterable[Row]) -> int:
    """Work of a network; as in Darknet's own count, local layers are left out."""
    return sum(row.flops for row in rows if not isinstance(row.layer, Local))


def describe(row: Row, index: int) -> tuple[str, str, str]:
    """A layer in words.

    Parameters
    ----------
    row : Row
        The layer.
    index : int
        Its place in the network.

    Returns
    -------
    kind : str
        Its section in a cfg file, e.g. "maxpool"; "conv" for short.
    detail : str
        Its settings, e.g. "32 3x3/1 BN leaky": filters, size and stride, batch norm, activation.
    output : str
        width x height x channels; what a head or a loss puts out has no such sides and is one number.
    """
    c, h, w = row.output
    flat = isinstance(row.layer, Region | Grid | Softmax | Cost)
    kind = "detection" if isinstance(row.layer, Grid) else type(row.layer).__name__.lower()
    return kind, _detail(row.layer, index), str(w * h * c) if flat else f"{w}x{h}x{c}"


def table(rows: Sequence[Row]) -> str:
    """The summary as text: headings, a line per layer, and one of totals."""
    words = [describe(row, index) for index, row in enumerate(rows)]
    k, d, o = (max(map(len, column)) for column in zip(("layer", "detail", "output"), *words, strict=True))
    lines = [f"{'#':>3} {'layer':<{k}} {'detail':<{d}} {'output':>{o}} {'BFLOP':>7} {'learnable':>11}"]
    for index, (row, (kind, detail, output)) in enumerate(zip(rows, words, strict=True)):
        lines.append(
            f"{index:>3} {kind:<{k}} {detail:<{d}} {output:>{o}} {row.flops / 1e9:>7.3f} {row.learnable:>11,}"
        )
    learnable, stored = (sum(getattr(row, name) for row in rows) for name in ("learnable", "stored"))
    lines.append(
        f"{total_flops(rows) / 1e9:.3f} BFLOP, {learnable:,} learnable parameters, "
        f"{stored:,} floats in a weights file"
    )
    return "\n".join(lines)


def to_plain(rows: Sequence[Row]) -> dict[str, Any]:
    """The summary as JSON-able values.

    Parameters
    ----------
    rows : sequence of Row
        Of `summary`.

    Returns
    -------
    dict
        ``flops``, ``learnable`` and ``stored`` of the network, and ``layers``: a dict each of ``kind`` and
        ``detail`` (see `describe`), ``output`` (channels, height, width), and the same three numbers.
    """
    layers = []
    for index, row in enumerate(rows):
        kind, detail, _ = describe(row, index)
        numbers = {"flops": row.flops, "learnable": row.learnable, "stored": row.stored}
        layers.append({"kind": kind, "detail": detail, "output": list(row.output), **numbers})
    totals = {name: sum(getattr(row, name) for row in rows) for name in ("learnable", "stored")}
    return {"flops": total_flops(rows), **totals, "layers": layers}


def _detail(layer: Layer, index: int) -> str:
    match layer:
        case Conv(filters=n, size=size, stride=stride, batch_norm=batch_norm, activation=activation):
            groups = f" {layer.groups} groups" if layer.groups > 1 else ""
            return f"{n} {size}x{size}/{stride} {'BN ' if batch_norm else ''}{activation}{groups}"
        case Local(filters=n, size=size, stride=stride):
            return f"{n} {size}x{size}/{stride}"
        case Connected(outputs=n):
            return f"{n}"
        case MaxPool(size=size, stride=stride):
            return f"{size}x{size}/{stride}"
        case Reorg(stride=stride, reverse=reverse):
            return f"x{stride}" if reverse else f"/{stride}"
        case Upsample(stride=stride, scale=scale):
            return f"x{stride}" + (f" times {scale:g}" if scale != 1 else "")
        case Shortcut(activation=activation, alpha=alpha, beta=beta):
            (source,) = absolute_route(layer, index)
            scales = f" alpha {alpha:g} beta {beta:g}" if (alpha, beta) != (1, 1) else ""
            return f"from {source}{scales} {activation}"
        case Crop(width=width, height=height, adjust=adjust):
            return f"{width}x{height}" + (" to -1..1" if adjust else "")
        case Softmax(tree=WordTree(group_sizes=groups)):
            return f"{len(groups)} groups"
        case Cost(kind=kind, scale=scale):
            return kind + (f" times {scale:g}" if scale != 1 else "")
    return ""


@dataclass(frozen=True)
class SummaryConfig:
    """Flags of ``python -m yolov2.summary``."""

    model: str = option(f"{', '.join(NETWORKS)}, or a .cfg file", default="yolov2-voc")
    imgsz: int | None = option(
        "side of the input in pixels; none is what the network is made for", default=None
    )
    json: bool = option("print JSON: exact numbers, outputs as channels, height, width", default=False)


def network_of(model: str) -> tuple[list[Layer], Shape]:
    """The layers of a network and the shape of its input.

    Parameters
    ----------
    model : str
        A name in `yolov2.presets.NETWORKS`, or the path of a cfg file. What that says and nothing here reads
        is warned of on stderr.

    Returns
    -------
    layers : list of Layer
    shape : (channels, height, width)
        In pixels; a file that does not say how many channels has 3, one that says no size has 0.

    Raises
    ------
    UserError
        If there is no such network, or its file makes no sense.
    """
    if model in NETWORKS:
        preset = NETWORKS[model]
        return preset.build(), (3, preset.imgsz, preset.imgsz)
    if not Path(model).is_file():
        raise UserError(f"--model {model}: no such file and none of {', '.join(NETWORKS)}")
    network = open_cfg(model)
    net = network.net
    return network.layers, (net.channels or 3, net.height, net.width)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = parse(SummaryConfig, argv, "python -m yolov2.summary", "Layers, shapes and costs of a network.")
    layers, shape = network_of(config.model)
    if config.imgsz is not None:
        shape = shape[0], config.imgsz, config.imgsz
    elif min(shape) < 1:
        raise UserError(f"{config.model}: says no width and height; give --imgsz")
    try:
        rows = summary(layers, shape)
    except ValueError as error:
        raise UserError(f"{config.model}: {error}") from None
    if config.json:
        print(json.dumps({"model": config.model, "input": list(shape), **to_plain(rows)}))
    else:
        print(table(rows))


if __name__ == "__main__":
    raise SystemExit(run(main))

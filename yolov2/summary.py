"""What a network is made of and costs: ``python -m yolov2.summary --model yolov2-voc`` (SPEC 21)."""

import math
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from reference.layers import Connected, Conv, Layer, Local, MaxPool, Reorg, Shape, output_shapes
from yolov2.cfg import read_cfg
from yolov2.cli import option, parse, run
from yolov2.errors import UserError
from yolov2.presets import PRESETS, darknet19
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


def table(rows: Sequence[Row]) -> str:
    """The summary as text, a line per layer and one of totals."""
    lines = ["  # layer      detail              output        BFLOP    learnable"]
    for index, row in enumerate(rows):
        c, h, w = row.output
        lines.append(
            f"{index:>3} {type(row.layer).__name__.lower():<10} {_detail(row.layer):<18} "
            f"{f'{w}x{h}x{c}':>15} {row.flops / 1e9:>8.3f} {row.learnable:>12,}"
        )
    learnable, stored = (sum(getattr(row, name) for row in rows) for name in ("learnable", "stored"))
    lines.append(
        f"{total_flops(rows) / 1e9:.3f} BFLOP, {learnable:,} learnable parameters, "
        f"{stored:,} floats in a weights file"
    )
    return "\n".join(lines)


def _detail(layer: Layer) -> str:
    match layer:
        case Conv(filters=n, size=size, stride=stride, batch_norm=batch_norm, activation=activation):
            return f"{n} {size}x{size}/{stride} {'BN ' if batch_norm else ''}{activation}"
        case Local(filters=n, size=size, stride=stride):
            return f"{n} {size}x{size}/{stride}"
        case MaxPool(size=size, stride=stride):
            return f"{size}x{size}/{stride}"
        case Reorg(stride=stride):
            return f"/{stride}"
        case Connected(outputs=n):
            return f"{n}"
    return ""


@dataclass(frozen=True)
class SummaryConfig:
    """Flags of ``python -m yolov2.summary``."""

    model: str = option(f"{', '.join(PRESETS)}, darknet19, or a .cfg file", default="yolov2-voc")
    imgsz: int | None = option(
        "side of the input in pixels; none is what the network is made for", default=None
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config = parse(SummaryConfig, argv, "python -m yolov2.summary", "Layers, shapes and costs of a network.")
    shape: Shape = (3, 224, 224)
    if config.model in PRESETS:
        preset = PRESETS[config.model]
        layers, shape = preset.build(preset.region), (3, preset.imgsz, preset.imgsz)
    elif config.model == "darknet19":
        layers = darknet19()
    elif Path(config.model).is_file():
        try:
            with warnings.catch_warnings(record=True) as unread:
                warnings.simplefilter("always")
                network = read_cfg(Path(config.model), root=Path(config.model).parent)
        except (ValueError, OSError) as error:
            raise UserError(f"{config.model}: {error}") from None
        for warning in unread:
            print(f"warning: {config.model}: {warning.message}", file=sys.stderr)
        layers, shape = network.layers, network.net.input_shape
    else:
        raise UserError(f"--model {config.model}: no such file and none of {', '.join(PRESETS)}, darknet19")
    if config.imgsz is not None:
        shape = shape[0], config.imgsz, config.imgsz
    try:
        print(table(summary(layers, shape)))
    except ValueError as error:
        raise UserError(f"{config.model}: {error}") from None


if __name__ == "__main__":
    raise SystemExit(run(main))

"""What `yolov2.train` can train: a preset by its name, or the network of a cfg file; whole or in part."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from reference.layers import (
    BatchNorm,
    Connected,
    Conv,
    Dropout,
    Grid,
    Layer,
    Reorg,
    Route,
    Shortcut,
    absolute_route,
    output_shapes,
)
from reference.region import Region
from reference.schedule import Schedule, learning_rate
from yolov2.cfg import open_cfg
from yolov2.errors import UserError
from yolov2.presets import PRESETS, Recipe


def find_recipe(model: str) -> Recipe:
    """A detector's table with its settings.

    Parameters
    ----------
    model : str
        A name in `yolov2.presets.PRESETS`, or the path of a cfg file whose network ends in a region layer or
        YOLOv1's detection layer; its anchors, cells and classes can be replaced by others.

    Raises
    ------
    UserError
        If there is no such preset or file, or it is of another kind of network.
    """
    if model in PRESETS:
        return PRESETS[model]
    if not Path(model).is_file():
        raise UserError(f"--model {model}: no such file and none of {', '.join(PRESETS)}")
    config = open_cfg(model)
    net, layers = config.net, config.layers
    if net.channels not in (0, 3) or net.height != net.width:
        raise UserError(f"--model {model}: trained are networks for square RGB pictures; see width, height")
    table: Callable[[Any], list[Layer]]
    match layers:
        case [*body, Conv() as conv, Region() as head]:
            table = lambda head: [*body, replace(conv, filters=head.channels), head]  # noqa: E731
        case [*body, Connected() as connected, Grid() as head]:
            table = lambda head: [*body, replace(connected, outputs=head.outputs), head]  # noqa: E731
        case _:
            raise UserError(
                f"--model {model}: only networks that end in a convolution and a region, or in a connected "
                "layer and a detection, are trained"
            )
    training = config.head_training
    return Recipe(
        table,
        net.height or 416,
        head,
        training.jitter,
        _highest(net.schedule),
        net.batch if net.batch > 1 else 64,  # published files are left as for testing, one picture at a time
        (320, 608) if training.multi_scale else None,
    )


def _highest(schedule: Schedule) -> float:
    """The rate that a schedule rises to: those of YOLOv1 warm up by steps, here `burn_in` does it."""
    if schedule.policy != "steps":
        return schedule.learning_rate
    begun = replace(schedule, burn_in=0)
    return max(learning_rate(begun, n) for n in (0, *(n for n in schedule.steps if n > 0)))


def grid_for(recipe: Recipe, imgsz: int) -> Grid:
    """The head of a YOLOv1 for an input of another size.

    Parameters
    ----------
    recipe : Recipe
        Its head is a Grid.
    imgsz : int
        Side of the input in pixels.

    Returns
    -------
    Grid
        A cell for every place of the map that the first connected layer sees, as the published ones have.

    Raises
    ------
    UserError
        If the input is too small.
    """
    assert isinstance(recipe.head, Grid)
    if imgsz == recipe.imgsz:
        return recipe.head
    layers = recipe.build()
    first = next(i for i, layer in enumerate(layers) if isinstance(layer, Connected))
    try:
        _, side, _ = output_shapes(layers[:first], (3, imgsz, imgsz))[-1]
    except ValueError as error:
        raise UserError(f"--imgsz {imgsz}: {error}") from None
    return replace(recipe.head, side=side)


def switched(recipe: Recipe, model: str, batch_norm: bool = True, passthrough: bool = True) -> Recipe:
    """A recipe without batch norm or without passthrough.

    Parameters
    ----------
    recipe : Recipe
        Of `find_recipe`.
    model : str
        Its name, for messages.
    batch_norm : bool
        False: convolutions have biases instead, and half of what feeds the head is dropped while training,
        as in YOLOv1.
    passthrough : bool
        False: the head sees the last map alone, without the finer one beside it.

    Raises
    ------
    UserError
        If the network has no such part, or one that cannot be left out.
    """
    changes: list[Callable[[list[Layer]], list[Layer]]] = []
    for kept, flag, change in (
        (passthrough, "--no-passthrough", without_passthrough),
        (batch_norm, "--no-batch-norm", without_batch_norm),
    ):
        if not kept:
            try:
                change(recipe.build())
            except ValueError as error:
                raise UserError(f"{flag}: {model} {error}; leave it out") from None
            changes.append(change)

    def table(head: Region | Grid) -> list[Layer]:
        layers = recipe.build(head)
        for change in changes:
            layers = change(layers)
        return layers

    return replace(recipe, table=table) if changes else recipe


def biased(layer: Layer) -> Layer:
    """The same layer with biases in place of batch norm."""
    return replace(layer, batch_norm=False) if isinstance(layer, Conv | Connected) else layer


def without_batch_norm(layers: list[Layer]) -> list[Layer]:
    """Biases in place of batch norm, and dropout of .5 before the layer that feeds the head.

    Raises
    ------
    ValueError
        If there is no batch norm, or one that is a layer of its own.
    """
    if any(isinstance(layer, BatchNorm) for layer in layers):
        raise ValueError("has batch norm as layers of their own")
    normal = [isinstance(layer, Conv | Connected) and layer.batch_norm for layer in layers]
    if not any(normal):
        raise ValueError("has no batch norm")
    *body, feeding, head = map(biased, layers)
    return [*body, *([] if isinstance(body[-1], Dropout) else [Dropout()]), feeding, head]


def without_passthrough(layers: list[Layer]) -> list[Layer]:
    """Drop the branch: a route back, what follows up to its reorg, and the route that puts both together.

    Raises
    ------
    ValueError
        If there is none, or later layers refer to earlier ones.
    """
    reorg = next((i for i, layer in enumerate(layers) if isinstance(layer, Reorg)), None)
    begin = next((i for i in range(reorg or 0)[::-1] if isinstance(layers[i], Route)), None)
    if reorg is None or begin is None:
        raise ValueError("has no passthrough")
    end = reorg + 1
    together = layers[end]
    if not isinstance(together, Route) or {*absolute_route(together, end)} != {begin - 1, reorg}:
        raise ValueError("has a passthrough of another form")
    if any(isinstance(layer, Route | Shortcut) for layer in layers[end + 1 :]):
        raise ValueError("has routes behind its passthrough")
    return [*layers[:begin], *layers[end + 1 :]]

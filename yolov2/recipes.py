"""What `yolov2.train` can train: a preset by its name, or the network of a cfg file."""

from dataclasses import replace
from pathlib import Path

from reference.layers import Conv, Layer
from reference.region import Region
from yolov2.cfg import open_cfg
from yolov2.errors import UserError
from yolov2.presets import PRESETS, Recipe


def find_recipe(model: str) -> Recipe:
    """A detector's table with its settings.

    Parameters
    ----------
    model : str
        A name in `yolov2.presets.PRESETS`, or the path of a cfg file whose network ends in a region layer;
        its anchors and classes can be replaced by others.

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
    if len(layers) < 2 or not isinstance(layers[-1], Region) or not isinstance(layers[-2], Conv):
        raise UserError(f"--model {model}: only networks that end in a convolution and a region are trained")
    *body, feeding, region = layers
    assert isinstance(feeding, Conv) and isinstance(region, Region)
    if net.channels not in (0, 3) or net.height != net.width:
        raise UserError(f"--model {model}: trained are networks for square RGB pictures; see width, height")

    def table(head: Region) -> list[Layer]:
        return [*body, replace(feeding, filters=head.channels), head]

    schedule, training = net.schedule, config.head_training
    return Recipe(
        table,
        net.height or 416,
        region,
        training.jitter,
        schedule.learning_rate,
        net.batch if net.batch > 1 else 64,  # published files are left as for testing, one picture at a time
        (320, 608) if training.multi_scale else None,
    )

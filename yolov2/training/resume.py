"""How a command goes on with a run that it left."""

from dataclasses import replace
from typing import TypeVar

from yolov2.checkpoint import Checkpoint, load_checkpoint, reading, training_data
from yolov2.errors import UserError
from yolov2.model import Model
from yolov2.training.config import LoopConfig

Config = TypeVar("Config", bound=LoopConfig)


def resume(config: Config, kind: type[Model]) -> tuple[Config, Checkpoint]:
    """The run that ``config.resume`` names: how it was begun, but for what may change, and where it stands.

    Parameters
    ----------
    config : LoopConfig
        What the command was told.
    kind : type
        What the command trains.

    Returns
    -------
    config : LoopConfig
        Of the same class; its `resume` is the file.
    checkpoint : Checkpoint
        That file.

    Raises
    ------
    UserError
        If there is no such run, it cannot be resumed, or a flag would have no effect.
    """
    assert config.resume is not None
    path = config.resume / "last.safetensors" if config.resume.is_dir() else config.resume
    checkpoint = load_checkpoint(path)
    if not isinstance(checkpoint.head, kind.HEADS):
        raise UserError(
            f"{path}: no {kind.__name__.lower()}, so another command trained it and can resume it"
        )
    if not checkpoint.momentum:
        raise UserError(f"{path}: holds no optimiser state; resume from the run's last.safetensors")
    if changed := config.changed():
        allowed = ", ".join(f"--{name.replace('_', '-')}" for name in config.RESUMABLE[1:])
        raise UserError(
            f"{changed[0]}: --resume takes it from the run; leave it out, only {allowed} may change"
        )
    with reading(path):
        begun = type(config).from_plain(checkpoint.config)
    given = {name: getattr(config, name) for name in config.RESUMABLE}
    kept = {name: value for name, value in given.items() if value is not None}
    data = given["data"] or training_data(checkpoint.config, path)
    try:
        return replace(begun, **kept | {"data": data, "resume": path}), checkpoint
    except ValueError as error:  # what may change does not go with what may not
        raise UserError(str(error)) from None

"""Checkpoints: a safetensors file whose metadata says all that is needed to use or resume a network."""

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from reference.layers import Grid, Head, Layer, Reorg, head_index
from reference.region import Region, WordTree
from reference.schedule import Schedule
from yolov2.cfg_sections import HeadTraining, Net
from yolov2.errors import UserError
from yolov2.letterbox import Mode
from yolov2.network import BatchNormForm

FORMAT = "yolov2 checkpoint 1"
EXTRA = ("momentum/", "ema/", "rng/")  # names of tensors that are not the network's begin so
# what a wrong byte in a checkpoint leads to, here or where the network is built
DAMAGE = (SafetensorError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError)
_RECORDS = {cls.__name__: cls for cls in (*get_args(Layer), WordTree, Net, Schedule, HeadTraining)}


def to_plain(value: Any) -> Any:
    """Layer records, and dataclasses inside them, as JSON-able dicts that carry their type's name."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, list | tuple):
        return [to_plain(v) for v in value]
    return value


def from_plain(value: Any) -> Any:
    """The inverse of `to_plain`; lists become tuples.

    Raises
    ------
    KeyError
        If a dict names a record that does not exist.
    """
    if isinstance(value, dict):
        fields = {k: from_plain(v) for k, v in value.items() if k != "type"}
        return _RECORDS[value["type"]](**fields)
    if isinstance(value, list):
        return tuple(from_plain(v) for v in value)
    return value


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Parameters
    ----------
    layers : tuple of Layer
        The network, head included: anchors, reorg order and loss settings are in its records.
    names : tuple of str
        Class names.
    imgsz : int, or tuple of int (height, width)
        Size of the network's input, in pixels; one number if it is square.
    resize : {"letterbox", "stretch"}
        How pictures were brought to that size.
    config : dict
        The whole training configuration, as it was run.
    progress : dict
        Where training stood: epoch, step, seen, best mAP.
    tensors : dict of Tensor
        The network's state; in ``last.safetensors`` also what training needs to go on, under `EXTRA` names.
    batch_norm : {"cudnn", "darknet"}
        Which form of batch norm the weights are meant for, see `yolov2.network.Network`.

    Raises
    ------
    ValueError
        If these do not go together.
    """

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    imgsz: int | tuple[int, int]
    resize: Mode
    config: dict[str, Any]
    progress: dict[str, Any]
    tensors: dict[str, Tensor]
    batch_norm: BatchNormForm = "cudnn"

    def __post_init__(self):
        if head_index(list(self.layers)) is None:
            raise ValueError("the network does not end in a region, detection or softmax layer")
        if isinstance(self.head, Region | Grid) and len(self.names) != self.head.classes:
            raise ValueError(f"{len(self.names)} class names for {self.head.classes} classes")
        if not all(isinstance(name, str) for name in self.names):
            raise ValueError("a class name is no text")
        sides = self.imgsz if isinstance(self.imgsz, tuple) and len(self.imgsz) == 2 else (self.imgsz,)
        if not all(isinstance(side, int) and side >= 1 for side in sides):
            raise ValueError(f"imgsz: {self.imgsz!r} is not a number of pixels, nor two")
        if self.batch_norm not in get_args(BatchNormForm):
            raise ValueError(f"batch_norm: {self.batch_norm!r} is not one of {get_args(BatchNormForm)}")
        if self.resize not in get_args(Mode):
            raise ValueError(f"resize: {self.resize!r} is not one of {', '.join(get_args(Mode))}")
        if not isinstance(self.config, dict) or not isinstance(self.progress, dict):
            raise ValueError("config and progress must be dicts")

    @property
    def head(self) -> Head:
        """The record that gives the network's outputs their meaning."""
        index = head_index(list(self.layers))
        assert index is not None
        return self.layers[index]  # type: ignore[return-value]

    @property
    def state(self) -> dict[str, Tensor]:
        """The network's own tensors, for ``load_state_dict``."""
        return {k: v for k, v in self.tensors.items() if not k.startswith(EXTRA)}

    @property
    def momentum(self) -> dict[str, Tensor]:
        """Momentum by parameter name, empty unless the file can resume training."""
        return {k.removeprefix("momentum/"): v for k, v in self.tensors.items() if k.startswith("momentum/")}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, never leaving a half-written file behind.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    plain = {
        "layers": to_plain(checkpoint.layers),
        "names": checkpoint.names,
        "imgsz": checkpoint.imgsz,
        "resize": checkpoint.resize,
        "anchors": [list(a) for r in checkpoint.layers if isinstance(r, Region) for a in r.anchors],
        "reorg_order": [r.order for r in checkpoint.layers if isinstance(r, Reorg)],
        "config": checkpoint.config,
        "progress": checkpoint.progress,
        "batch_norm": checkpoint.batch_norm,
    }
    metadata = {"format": FORMAT} | {key: json.dumps(value) for key, value in plain.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
    partial = path.with_suffix(".partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # what the user's umask makes of it; safetensors locks others out
        save_file(tensors, partial, metadata)
        partial.chmod(mode)
        with partial.open("rb+") as file:  # on the disk before it takes the old one's place: power may fail
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}); free some space or write elsewhere") from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report whatever damage to the checkpoint `path` comes to light in the block.

    Raises
    ------
    UserError
        In place of any of `DAMAGE`.
    """
    try:
        yield
    except DAMAGE as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(f"{path}: damaged checkpoint ({reason}); use another one or train again") from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    UserError
        If the file is missing, is no checkpoint of this library, or is damaged.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder; name a file in it, e.g. {path / 'best.safetensors'}")
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; train one with `python -m yolov2.train`")
    if _is_darknet(path):
        raise UserError(
            f"{path}: a weights file of Darknet, which needs its cfg; `python -m yolov2.export` makes a "
            ".safetensors checkpoint of both"
        )
    with reading(path):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path}: not a checkpoint of this library (no '{FORMAT}' in its metadata)")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
        if not all(tensor.isfinite().all() for tensor in tensors.values()):
            raise ValueError("not all weights are finite")
        keys = ("layers", "names", "imgsz", "resize", "config", "progress")
        plain = {key: json.loads(metadata[key]) for key in keys}
        imgsz = plain["imgsz"]
        return Checkpoint(
            layers=from_plain(plain["layers"]),
            names=tuple(plain["names"]),
            imgsz=tuple(imgsz) if isinstance(imgsz, list) else imgsz,
            resize=plain["resize"],
            config=plain["config"],
            progress=plain["progress"],
            tensors=tensors,
            batch_norm=json.loads(metadata.get("batch_norm", '"cudnn"')),
        )


def load_state(network: torch.nn.Module, checkpoint: Checkpoint, path: Path) -> None:
    """Copy a checkpoint's tensors into a network of the same layers.

    Raises
    ------
    UserError
        If the tensors do not fit the network.
    """
    try:
        network.load_state_dict(checkpoint.state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{path}: does not fit the network it describes ({reason})") from None


def training_data(config: dict[str, Any], path: Path) -> Path | None:
    """The data that the checkpoint `path` was trained on, by its `config`; None is the built-in set.

    Raises
    ------
    UserError
        If they are not there any more.
    """
    data = config.get("data")
    if data is None:
        return None
    if not Path(str(data)).exists():
        raise UserError(f"{data}: no such folder or file, but {path} was trained on it; give --data")
    return Path(data)


def _is_darknet(path: Path) -> bool:
    """Whether the file is called .weights or begins with Darknet's version 0.1 to 0.9 (SPEC 12)."""
    with path.open("rb") as file:
        major, minor = (int.from_bytes(file.read(4), "little") for _ in range(2))
    # a safetensors file begins with the length of its header, in 64 bits and far below 2^32
    return path.suffix == ".weights" or (major == 0 and 0 < minor < 10)

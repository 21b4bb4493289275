"""Checkpoints: a safetensors file whose metadata says all that is needed to use or resume a network."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import reference.layers as records
from reference.layers import Layer
from reference.region import Region, WordTree
from yolov2.errors import UserError
from yolov2.letterbox import Mode

FORMAT = "yolov2 checkpoint 1"
_RECORDS = {
    cls.__name__: cls
    for cls in (
        *(records.Conv, records.MaxPool, records.AvgPool, records.Route, records.Reorg, records.Softmax),
        *(records.Connected, records.Local, records.Dropout, records.Grid, Region, WordTree),
    )
}


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
    imgsz : int
        Side of the square network input, in pixels.
    resize : {"letterbox", "stretch"}
        How pictures were brought to that size.
    config : dict
        The whole training configuration, as it was run.
    progress : dict
        Where training stood: epoch, step, seen, best mAP.
    tensors : dict of Tensor
        The network's state; in ``last.safetensors`` also ``momentum/<parameter>``.
    """

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    imgsz: int
    resize: Mode
    config: dict[str, Any]
    progress: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def state(self) -> dict[str, Tensor]:
        """The network's own tensors, for ``load_state_dict``."""
        return {k: v for k, v in self.tensors.items() if not k.startswith("momentum/")}

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
        "reorg_order": [r.order for r in checkpoint.layers if isinstance(r, records.Reorg)],
        "config": checkpoint.config,
        "progress": checkpoint.progress,
    }
    metadata = {"format": FORMAT} | {key: json.dumps(value) for key, value in plain.items()}
    tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
    partial = path.with_suffix(".partial")
    try:
        save_file(tensors, partial, metadata)
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({error}); free some space or use --project") from None


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
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise UserError(f"{path}: not a checkpoint of this library (no '{FORMAT}' in its metadata)")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no iterator)
        plain = {
            k: json.loads(metadata[k]) for k in ("layers", "names", "imgsz", "resize", "config", "progress")
        }
        return Checkpoint(
            layers=from_plain(plain["layers"]),
            names=tuple(plain["names"]),
            imgsz=plain["imgsz"],
            resize=plain["resize"],
            config=plain["config"],
            progress=plain["progress"],
            tensors=tensors,
        )
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: damaged checkpoint ({error}); use another one, e.g. best instead of last"
        ) from None


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

"""A trained network with what it takes to use it: class names, input size, resize mode."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from fast.detect import detect
from reference.layers import Layer
from reference.region import Region
from yolov2.checkpoint import Checkpoint, load_checkpoint, load_state, reading, save_checkpoint
from yolov2.errors import UserError
from yolov2.letterbox import Letterbox, Mode, network_input
from yolov2.network import Network


class Found(NamedTuple):
    """Detections on one picture, best first. K boxes."""

    boxes: np.ndarray  # (K, 4) float32 x, y, w, h as fractions of the picture, not clipped
    scores: np.ndarray  # (K,) float32
    classes: np.ndarray  # (K,) int64


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one.

    Raises
    ------
    UserError
        If there is no such device, or not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # torch knows more names (hpu, meta, ...): nothing here runs on those
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?|mps", name):
        raise UserError(f"--device {name}: not one of auto, cpu, cuda, cuda:1, ..., mps; try cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from None
    return device


def check_options(conf: float, iou: float, max_det: int, batch: int) -> None:
    """Complain about flags of detection that make no sense.

    Raises
    ------
    ValueError
        With the name of the flag.
    """
    if not 0 <= conf <= 1 or not 0 <= iou <= 1:
        raise ValueError("--conf and --iou must be from 0 to 1")
    if not 1 <= batch <= 10**6 or not 1 <= max_det <= 10**6:
        raise ValueError("--batch and --max-det must be from 1 to 1000000")


@dataclass
class Detector:
    """A region network and its conventions.

    Parameters
    ----------
    network : Network
        Ends in a Region record.
    names : tuple of str
        Class names, as many as the region has classes.
    imgsz : int
        Side of the network's square input, in pixels.
    resize : {"letterbox", "stretch"}
        How pictures are brought to that size.
    config : dict
        The training configuration, for the record.
    """

    network: Network
    names: tuple[str, ...]
    imgsz: int
    resize: Mode = "letterbox"
    config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        layers: Iterable[Layer],
        names: tuple[str, ...],
        imgsz: int,
        resize: Mode = "letterbox",
        config: dict[str, Any] | None = None,
    ) -> "Detector":
        """A new network with random weights."""
        network = Network(list(layers), (3, imgsz, imgsz))
        # on CPUs and tensor cores alike, convolutions are faster when channels lie together
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, tuple(names), imgsz, resize, config or {})

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> "Detector":
        """Read a checkpoint.

        Raises
        ------
        UserError
            If the file is missing, damaged or not of this library.
        """
        checkpoint = load_checkpoint(Path(path))
        return cls.from_checkpoint(checkpoint, Path(path)).to(device)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, path: Path) -> "Detector":
        """The detector described by a checkpoint that was read from `path`.

        Raises
        ------
        UserError
            If the network cannot be built, or the tensors are not of that network.
        """
        c = checkpoint
        with reading(path):
            with torch.device("meta"):  # shapes only, no memory: does the network run at all?
                Network(list(c.layers), (3, c.imgsz, c.imgsz)).eval()(torch.empty(1, 3, c.imgsz, c.imgsz))
            detector = cls.build(c.layers, c.names, c.imgsz, c.resize, c.config)
            shapes = {name: p.shape for name, p in detector.network.named_parameters()}
            if c.momentum and {name: m.shape for name, m in c.momentum.items()} != shapes:
                raise ValueError("the momentum is not of these weights")
        load_state(detector.network, checkpoint, path)
        detector.network.eval()
        return detector

    def save(
        self, path: Path, progress: dict[str, Any], extra: dict[str, torch.Tensor] | None = None
    ) -> None:
        """Write a checkpoint; `extra` tensors (``momentum/...``) ride along."""
        tensors = dict(self.network.state_dict()) | (extra or {})
        layers = tuple(self.network.layers)
        checkpoint = Checkpoint(layers, self.names, self.imgsz, self.resize, self.config, progress, tensors)
        save_checkpoint(path, checkpoint)

    def to(self, device: torch.device | str) -> "Detector":
        """Move to a device, in place."""
        self.network.to(device)
        return self

    @property
    def region(self) -> Region:
        """Settings of the head."""
        head = self.network.head
        assert isinstance(head, Region)
        return head

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def __call__(
        self, pictures: list[Image.Image], conf: float = 0.25, iou: float = 0.45, max_det: int = 100
    ) -> list[Found]:
        """Find objects in pictures.

        Parameters
        ----------
        pictures : list of PIL.Image.Image
            Any sizes.
        conf : float
            Detections must score above this.
        iou : float
            NMS threshold.
        max_det : int
            At most so many detections a picture.

        Returns
        -------
        list of Found
            One per picture, boxes as fractions of that picture.
        """
        boxes = [Letterbox(*p.size, self.imgsz, self.imgsz, self.resize) for p in pictures]
        images = network_input(pictures, self.imgsz, self.imgsz, self.resize, self.device)
        self.network.eval()
        found = detect(self.network(images), self.region, conf, iou, max_det)
        results = []
        for i, (box, n) in enumerate(zip(boxes, found.count.tolist(), strict=True)):
            parts = box.undo(found.boxes[i, :n].float()), found.scores[i, :n].float(), found.classes[i, :n]
            results.append(Found(*(part.cpu().numpy() for part in parts)))
        return results

    def stream(
        self, pictures: Iterable[Image.Image], batch: int = 16, **options: Any
    ) -> Iterator[tuple[Image.Image, Found]]:
        """Detections of any number of pictures, `batch` at a time; `options` as in a call."""
        pictures = iter(pictures)
        while group := list(islice(pictures, batch)):
            yield from zip(group, self(group, **options), strict=True)

"""A trained detector, YOLOv2, YOLO9000 or YOLOv1: pictures in, boxes out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fast.detect import Detections, detect
from fast.grid import activate_grid, detect_grid
from fast.nms import multi_label_nms
from reference.layers import Grid
from reference.region import Region
from yolov2.model import Model, Picture, check_options, input_size, letterboxes, pick_device
from yolov2.results import Results, from_found

__all__ = ["Detector", "Found", "check_options", "pick_device"]


class Found(NamedTuple):
    """Detections on one picture, best first. K boxes."""

    boxes: np.ndarray  # (K, 4) float32 x, y, w, h as fractions of the picture, not clipped
    scores: np.ndarray  # (K,) float32
    classes: np.ndarray  # (K,) int64


@dataclass(repr=False)
class Detector(Model):
    """A network that ends in a Region or a Grid, with its conventions; see `Model` for the parameters."""

    HEADS: ClassVar = (Region, Grid)

    @property
    def head(self) -> Region | Grid:
        """Settings of the head."""
        head = self.network.head
        assert isinstance(head, Region | Grid)
        return head

    @property
    def region(self) -> Region:
        """Settings of the head of a YOLOv2.

        Raises
        ------
        ValueError
            If it is a YOLOv1.
        """
        if not isinstance(self.head, Region):
            raise ValueError("this network has YOLOv1's detection layer, not a region layer")
        return self.head

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.classes

    @torch.inference_mode()
    def __call__(
        self, pictures: Sequence[Picture], conf: float = 0.25, iou: float = 0.45, max_det: int = 100
    ) -> list[Found]:
        """Find objects in pictures.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image or ndarray, uint8 (H, W, 3)
            RGB, any sizes.
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
        size = input_size(self.imgsz)
        outputs = self.network.eval()(self._input(pictures, size))
        return self._interpret(outputs, pictures, size, conf, iou, max_det)

    def stream(
        self, pictures: Iterable[Picture], batch: int = 16, **options: Any
    ) -> Iterator[tuple[Picture, Found]]:
        """Detections of any number of pictures, `batch` at a time; `options` as in a call."""
        pictures = iter(pictures)
        while group := list(islice(pictures, batch)):
            yield from zip(group, self(group, **options), strict=True)

    def _interpret(
        self,
        outputs: Tensor,
        pictures: Sequence[Picture],
        size: tuple[int, int],
        conf: float,
        iou: float,
        max_det: int,
    ) -> list[Found]:
        found = raw_detections(outputs, self.head, conf, iou, max_det)
        results = []
        for i, (box, n) in enumerate(
            zip(letterboxes(pictures, size, self.resize), found.count.tolist(), strict=True)
        ):
            parts = box.undo(found.boxes[i, :n].float()), found.scores[i, :n].float(), found.classes[i, :n]
            results.append(Found(*(part.cpu().numpy() for part in parts)))
        return results

    def _result(
        self, found: Found, picture: Picture, names: dict[int, str], path: str, speed: dict[str, float]
    ) -> Results:
        return from_found(found, picture, names, path, dict(speed))


def raw_detections(
    outputs: Tensor, head: Region | Grid, conf: float = 0.25, iou: float = 0.45, max_det: int = 100
) -> Detections:
    """Final detections of a network's raw outputs, whichever head it has.

    Parameters
    ----------
    outputs : Tensor (B, channels, H, W)
        Of ``Network.forward``.
    head : Region or Grid
        Their meaning.
    conf, iou : float
        Least score and NMS threshold.
    max_det : int
        At most so many detections a picture.

    Returns
    -------
    Detections
        Boxes as fractions of the input.
    """
    if isinstance(head, Region):
        return detect(outputs, head, conf, iou, max_det)
    boxes, _, scores = detect_grid(activate_grid(outputs.flatten(1), head), head, conf)
    index, label, score, count = multi_label_nms(boxes, scores, iou, max_det, conf)
    found = boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    return Detections(found.where(index[..., None] >= 0, 0), score, label, count)

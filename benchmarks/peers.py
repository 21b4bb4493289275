"""What a torch user would write instead, with the libraries at hand; None where a library is missing."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fast.decode import decode
from reference.region import Region

#: why no CUDA graph can hold an operation
WAITS = "waits for the host"
COPIES = "copies from the host"

torchvision: Any
try:
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except Exception:  # absent, or built for another torch, which shows in many ways and at the latest here
    torchvision = None


def corners(boxes: Tensor) -> Tensor:
    """Centre and size to left, top, right, bottom."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def decode_then_torchvision(pred: Tensor, region: Region, conf: float, iou: float) -> tuple[Tensor, ...]:
    """Image, box, score and class of all detections of a batch, best first (no `max_det`)."""
    decoded = decode(pred, region)
    scores = decoded.objectness.flatten(1)[..., None] * decoded.class_probs.flatten(1, 3)
    image, box, label = (scores > conf).nonzero(as_tuple=True)
    score = scores[image, box, label]
    boxes = decoded.boxes.flatten(1, 3)[image, box]
    keep = torchvision.ops.batched_nms(corners(boxes), score, image * region.classes + label, iou)
    return image[keep], boxes[keep], score[keep], label[keep]


def interpolate_each(
    pictures: list[Tensor], places: list[tuple[int, int, int, int]], side: int, dtype: torch.dtype
) -> Tensor:
    """Letterbox of pictures (H, W, 3) uint8, one F.interpolate each, at (width, height, x, y)."""
    out = pictures[0].new_full((len(pictures), 3, side, side), 0.5, dtype=dtype)
    for canvas, picture, (w, h, x, y) in zip(out, pictures, places, strict=True):
        planes = picture.permute(2, 0, 1)[None].float() / 255
        canvas[:, y : y + h, x : x + w] = F.interpolate(planes, (h, w), mode="bilinear", align_corners=True)[
            0
        ]
    return out

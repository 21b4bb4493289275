"""Training augmentation: jitter of aspect and place, colour, mirror (SPEC 15), on one picture at a time."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fast.image import resize
from fast.letterbox import GREY
from yolov2.letterbox import pixels

SMALLEST = 0.001  # boxes with a side below this fraction of the input are dropped


@dataclass(frozen=True)
class Augment:
    """How much a training picture may change; the defaults are those of yolov2-voc.

    Parameters
    ----------
    jitter : float
        Width and height each vary by up to this fraction before the aspect is taken.
    hue, saturation, exposure : float
        Hue shifts by up to ``hue`` of the colour circle; saturation and exposure are multiplied by up
        to their value or divided by it.
    flip : float
        Probability of a left-right mirror.
    scale : (smallest, largest)
        Zoom range. (1, 1): always the largest size that fits, as the YOLOv2 cfgs train; Darknet's source
        carries (.25, 2) in a comment.
    flip_vertical, transpose : float
        Probabilities of an upside-down mirror and of swapped axes, for data without an up, such as cells.
        Together with `flip` at .5 they reach all eight symmetries of the square.
    max_labels : int
        Boxes kept per picture.
    """

    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5
    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    flip_vertical: float = 0.0
    transpose: float = 0.0
    max_labels: int = 30

    def __post_init__(self):
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter: {self.jitter} is not in [0, 1)")
        if not min(self.saturation, self.exposure) > 0:
            raise ValueError(f"saturation {self.saturation} and exposure {self.exposure} must be positive")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: {self.scale} is not a range of positive numbers")


def augment(
    picture: Image.Image | np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    options: Augment,
    rng: np.random.Generator,
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """A random variant of a picture on the network's input, with its boxes.

    The picture is resized as `Letterbox` does it, not with Darknet's `place`, which samples half a pixel
    beside that and darkens the last row and column: training sees what detection will see.

    Parameters
    ----------
    picture : PIL.Image.Image or ndarray, uint8 (H, W, 3)
        RGB.
    boxes : ndarray, float32 (N, 4)
        cxcywh, fractions of the picture.
    classes : ndarray, int64 (N,)
        Class of every box.
    size : (width, height)
        Size of the network's input, in pixels.
    options : Augment
        Ranges of the random changes.
    rng : numpy.random.Generator
        The only source of chance.

    Returns
    -------
    picture : Tensor, float32 (3, height, width)
        Values in [0, 1].
    boxes : ndarray, float32 (M, 4)
        cxcywh, fractions of the input, clipped to it; M <= N, in random order.
    classes : ndarray, int64 (M,)
        Class of every box kept.
    """
    net_w, net_h = size
    source = pixels(picture).permute(2, 0, 1).float()
    if rng.random() < options.transpose:
        source, boxes = source.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    _, h, w = source.shape

    jitter_w, jitter_h = rng.uniform(-options.jitter, options.jitter, 2)
    aspect = w * (1 + jitter_w) / (h * (1 + jitter_h))
    zoom = rng.uniform(*options.scale)
    new_w, new_h = (net_h * aspect, net_h) if aspect < 1 else (net_w, net_w / aspect)
    new_w, new_h = new_w * zoom, new_h * zoom
    # rng.uniform would refuse a negative margin, a picture larger than the input.
    x, y = rng.random() * (net_w - new_w), rng.random() * (net_h - new_h)
    hue = rng.uniform(-options.hue, options.hue)
    saturation, exposure = (_factor(limit, rng) for limit in (options.saturation, options.exposure))

    placed = resize(source, max(1, int(new_w)), max(1, int(new_h)))
    left, top = int(x), int(y)
    placed = placed[:, max(0, -top) : net_h - top, max(0, -left) : net_w - left]
    left, top = max(0, left), max(0, top)
    # Darknet changes the colours after placing, so the exposure also changes the grey canvas.
    canvas = torch.full((3, net_h, net_w), min(GREY * exposure, 1.0))
    view = canvas[:, top : top + placed.shape[1], left : left + placed.shape[2]]
    placed.mul_(1 / 255)
    unchanged = (hue, saturation, exposure) == (0, 1, 1)
    view.copy_(placed if unchanged else distort(placed, hue, saturation, exposure))

    boxes = place(boxes, (new_w / net_w, new_h / net_h), (x / net_w, y / net_h))
    if rng.random() < options.flip:
        canvas, boxes = canvas.flip(2), boxes * [-1, 1, 1, 1] + [1, 0, 0, 0]
    if rng.random() < options.flip_vertical:
        canvas, boxes = canvas.flip(1), boxes * [1, -1, 1, 1] + [0, 1, 0, 0]
    order = rng.permutation(len(boxes))[: options.max_labels]  # first cut the list, then drop (SPEC 15.6)
    order = order[(boxes[order, 2:] >= SMALLEST).all(1)]
    return canvas, boxes[order].astype(np.float32), classes[order]


def place(boxes: np.ndarray, scale: tuple[float, float], offset: tuple[float, float]) -> np.ndarray:
    """Boxes (N, 4) cxcywh after a picture was scaled and moved, clipped to [0, 1]; gone outside: size 0."""
    low = (boxes[:, :2] - boxes[:, 2:] / 2) * scale + offset
    high = (boxes[:, :2] + boxes[:, 2:] / 2) * scale + offset
    low, high = low.clip(0, 1), high.clip(0, 1)
    return np.concatenate([(low + high) / 2, high - low], 1)


def distort(rgb: Tensor, hue: float, saturation: float, exposure: float) -> Tensor:
    """Shift the hue and multiply saturation and value of a picture, in HSV (SPEC 14).

    Parameters
    ----------
    rgb : Tensor, float (3, H, W)
        Values in [0, 1].
    hue : float
        Shift, as a fraction of the colour circle.
    saturation, exposure : float
        Factors.

    Returns
    -------
    Tensor, float (3, H, W)
        Values in [0, 1].

    Notes
    -----
    With V the largest channel, D = V - smallest = S V, and k the hue in sixths of the circle (red 0, green 2,
    blue 4), a colour is V - D plus D times the share of each primary: |k-3|-1, 2-|k-2|, 2-|k-4| in [0, 1].
    So V and D are scaled, k is shifted, and S itself is never needed.
    """
    r, g, b = rgb
    value = rgb.amax(0)
    chroma = value - rgb.amin(0)
    safe = chroma.clamp_min(1e-12)  # greys have no hue; D = 0 hides whatever they get
    k = torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe)
    k = torch.where(value == r, (g - b) / safe, k)
    k = (k + 6 * hue).remainder_(6)
    chroma = chroma * (saturation * exposure)
    least = value * exposure - chroma
    shares = torch.stack([(k - 3).abs_() - 1, 2 - (k - 2).abs_(), 2 - (k - 4).abs_()]).clamp_(0, 1)
    return shares.mul_(chroma).add_(least).clamp_(0, 1)


def _factor(limit: float, rng: np.random.Generator) -> float:
    """Uniform between 1 and `limit`, or with even odds the reciprocal of that."""
    factor = rng.uniform(min(1.0, limit), max(1.0, limit))
    return factor if rng.random() < 0.5 else 1 / factor

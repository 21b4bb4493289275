"""Training pictures of a detector as Darknet makes them (SPEC 15): a plan by chance, then its rendering.

Everything that chance decides is in a `Plan`; `render` then needs no chance, so the same plan may be carried
out elsewhere, e.g. on a GPU.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from reference.augment import CLASSIFICATION_ONLY, SMALLEST, Draws, correct_boxes
from yolov2.raster import recolour, warp

Form = Literal["place", "crop"]

GREY = 127.5  # what is around a placed picture, before its colours change


@dataclass(frozen=True)
class Augment:
    """How much a training picture may change; the defaults are those of yolov2-voc.

    Parameters
    ----------
    jitter : float
        Width and height each vary by up to this fraction before the aspect is taken; for a crop, how much
        of either side each margin may take away or add.
    hue, saturation, exposure : float
        Hue shifts by up to ``hue`` of the colour circle; saturation and exposure are multiplied by up
        to their value or divided by it.
    flip : float
        Probability of a left-right mirror.
    scale : (smallest, largest)
        Zoom range. (1, 1): always the largest size that fits, as the YOLOv2 cfgs train; Darknet's source
        carries (.25, 2) in a comment, and YOLOv3 draws it. Not for crops.
    flip_vertical, transpose : float
        Probabilities of an upside-down mirror and of swapped axes, for data without an up, such as cells.
        Together with `flip` at .5 they reach all eight symmetries of the square.
    max_labels : int, optional
        Labels that compete for a place, drawn by lot. Darknet's is 30, without a word about the rest; None
        keeps them all.
    form : {"place", "crop"}
        "place" puts the whole picture on a grey canvas, "crop" is the release of 2016: a cut-out, stretched
        to the input.

    Raises
    ------
    ValueError
        If a number has no meaning.
    """

    jitter: float = 0.3
    hue: float = 0.1
    saturation: float = 1.5
    exposure: float = 1.5
    flip: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    flip_vertical: float = 0.0
    transpose: float = 0.0
    max_labels: int | None = None
    form: Form = "place"

    def __post_init__(self):
        if self.form not in get_args(Form):
            raise ValueError(f"form: {self.form} is not one of {', '.join(get_args(Form))}")
        most = 1 if self.form == "place" else 0.5  # beyond, two margins might leave nothing
        if not 0 <= self.jitter < most:
            raise ValueError(f"jitter: {self.jitter} is not in [0, {most:g})")
        if not 0 <= self.hue <= 1:
            raise ValueError(f"hue: {self.hue} is not in [0, 1]")
        if not min(self.saturation, self.exposure) > 0:
            raise ValueError(f"saturation {self.saturation} and exposure {self.exposure} must be positive")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: {self.scale} is not a range of positive numbers")
        if self.form == "crop" and self.scale != (1, 1):
            raise ValueError(f"scale: {self.scale} is for the form place, a crop has none")
        if self.max_labels is not None and self.max_labels < 0:
            raise ValueError(f"max_labels: {self.max_labels} is negative")


class Plan(NamedTuple):
    """What becomes of one picture.

    The picture is transposed, placed or cropped, recoloured with its canvas, then mirrored.

    Attributes
    ----------
    transpose : bool
        Rows of the picture become columns first; all else is about the transposed picture.
    width, height, x, y : int
        Size of the picture on the input and where its top left corner lies, in pixels; it may reach beyond
        the input. Pixel i of it shows the picture at column i * (picture's width) / `width`.
    crop : (x, y, width, height) of int, optional
        The part of the picture to be stretched to the whole input instead, in its pixels; what lies outside
        of it repeats its edge.
    hue, saturation, exposure : float
        As `yolov2.raster.recolour` takes them.
    mirror, flip_vertical : bool
        Left to right, upside down.
    scale, shift : (x, y)
        A box of the transposed picture lies at box * scale + shift of the input, both in fractions, before
        it is mirrored. Not rounded to pixels, as in Darknet: up to one beside what is seen.
    order : list of int
        The labels shuffled.
    truth : ndarray, float32 (M, 5)
        Rows x y w h class of the labels that are still to be seen, in that order; M <= N.
    """

    transpose: bool
    width: int
    height: int
    x: int
    y: int
    crop: tuple[int, int, int, int] | None
    hue: float
    saturation: float
    exposure: float
    mirror: bool
    flip_vertical: bool
    scale: tuple[float, float]
    shift: tuple[float, float]
    order: list[int]
    truth: np.ndarray


def plan(
    draws: Draws,
    picture_size: tuple[int, int],
    input_size: tuple[int, int],
    labels: np.ndarray,
    options: Augment,
) -> Plan:
    """Decide what becomes of a picture.

    Parameters
    ----------
    draws : Draws
        Consumed in Darknet's order (SPEC 15): aspect (2), zoom if there is a range, dx, dy, hue,
        saturation (2), exposure (2), mirror, one per label; for a crop: left, right, top and bottom margin,
        mirror, hue, saturation (2), exposure (2), one per label. Last, and where their probabilities are not
        zero, upside down and transposed.
    picture_size, input_size : (width, height)
        In pixels.
    labels : ndarray, float32 (N, 5)
        Rows class x y w h, fractions of the picture. A row centred at exactly (0, 0) has no box (SPEC 6).
    options : Augment
        Ranges of the draws.
    """
    place = options.form == "place"
    # shares of ranges that are only known when the last draw has said whether the picture is transposed
    geometry = [draws.uniform(0, 1) for _ in range(2 if place else 4)]
    zoom: float | np.float32 = 1
    if place:
        if options.scale != (1, 1):
            zoom = draws.uniform(*options.scale)
        geometry += [draws.uniform(0, 1) for _ in range(2)]
    else:
        mirror = _chance(draws, options.flip)
    hue = draws.uniform(-options.hue, options.hue)
    saturation, exposure = draws.factor(options.saturation), draws.factor(options.exposure)
    if place:
        mirror = _chance(draws, options.flip)
    order = list(range(len(labels)))
    for i in range(len(labels)):
        j = draws.integer(len(labels))
        order[i], order[j] = order[j], order[i]
    flip_vertical = options.flip_vertical > 0 and _chance(draws, options.flip_vertical)
    transpose = options.transpose > 0 and _chance(draws, options.transpose)

    if transpose:
        picture_size, labels = picture_size[::-1], labels[:, [0, 2, 1, 4, 3]]
    if place:
        corner, size, scale, shift = _placed(geometry, picture_size, input_size, options.jitter, zoom)
        crop = None
    else:
        crop, scale, shift = _cropped(geometry, picture_size, options.jitter)
        corner, size = (0, 0), input_size

    kept = labels[order][: options.max_labels]  # first cut the list, then drop (SPEC 15.6)
    boxes = correct_boxes(kept[:, 1:], scale, shift, mirror)
    if flip_vertical:
        boxes[:, 1] = np.where(boxes[:, 1] == CLASSIFICATION_ONLY, CLASSIFICATION_ONLY, 1 - boxes[:, 1])
    truth = np.concatenate([boxes, kept[:, :1]], 1)[(boxes[:, 2:] >= SMALLEST).all(1)]
    return Plan(
        transpose=transpose,
        width=size[0],
        height=size[1],
        x=corner[0],
        y=corner[1],
        crop=crop,
        hue=float(hue),
        saturation=float(saturation),
        exposure=float(exposure),
        mirror=mirror,
        flip_vertical=flip_vertical,
        scale=scale,
        shift=shift,
        order=order,
        truth=truth,
    )


def render(pixels: np.ndarray, plan: Plan, input_size: tuple[int, int]) -> np.ndarray:
    """Carry out a plan.

    Parameters
    ----------
    pixels : ndarray, uint8 (H, W, 3)
        The picture that the plan was made for, RGB.
    plan : Plan
        What to do with it.
    input_size : (width, height)
        That of the plan, in pixels.

    Returns
    -------
    ndarray, uint8 (height, width, 3)
        On photographs with YOLOv2's ranges .33 levels from what Darknet computes in floats on average (.44
        without OpenCV), and 4 at most: a picture is rounded twice, and colours multiply what the first lost.
    """
    width, height = input_size
    h, w = pixels.shape[1::-1] if plan.transpose else pixels.shape[:2]
    left, top = max(plan.x, 0), max(plan.y, 0)
    right, bottom = min(plan.x + plan.width, width), min(plan.y + plan.height, height)
    x: float
    y: float
    if plan.crop:
        x, y, crop_w, crop_h = plan.crop
        # corners aligned, like any other resizing of Darknet's
        step_x, step_y = (crop_w - 1) / max(width - 1, 1), (crop_h - 1) / max(height - 1, 1)
    elif right <= left or bottom <= top:  # a strip less than a pixel wide
        x, y, step_x, step_y, right, bottom = 0, 0, 1.0, 1.0, left, top
    else:
        step_x, step_y = w / plan.width, h / plan.height
        x, y = (left - plan.x) * step_x, (top - plan.y) * step_y
    seen_w, seen_h = right - left, bottom - top

    # colours are changed pixel by pixel, so mirroring before or after is the same, and here it costs nothing
    if plan.mirror:
        x, step_x, left = x + (seen_w - 1) * step_x, -step_x, width - right
    if plan.flip_vertical:
        y, step_y, top = y + (seen_h - 1) * step_y, -step_y, height - bottom
    matrix = np.array([[step_x, 0, x], [0, step_y, y]], float)
    if plan.transpose:
        matrix = matrix[::-1]
    seen = warp(pixels, matrix, seen_w, seen_h, "edge" if plan.crop else "black")
    seen = recolour(seen, plan.hue, plan.saturation, plan.exposure)
    if seen_w == width and seen_h == height:
        return seen
    canvas = np.full((height, width, 3), round(min(GREY * plan.exposure, 255)), np.uint8)
    canvas[top : top + seen_h, left : left + seen_w] = seen
    return canvas


def augment(
    picture: Image.Image | np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    size: tuple[int, int],
    options: Augment,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A random variant of a picture on the network's input, with its boxes.

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
    picture : ndarray, uint8 (height, width, 3)
        RGB.
    boxes : ndarray, float32 (M, 4)
        cxcywh, fractions of the input, clipped to it; M <= N, in random order.
    classes : ndarray, int64 (M,)
        Class of every box kept.
    """
    pixels = np.asarray(picture)
    labels = np.concatenate([classes[:, None], boxes], 1).astype(np.float32)
    decided = plan(Draws(integers(rng)), pixels.shape[1::-1], size, labels, options)
    truth = decided.truth
    return render(pixels, decided, size), truth[:, :4], truth[:, 4].astype(np.int64)


def integers(rng: np.random.Generator) -> Iterator[int]:
    """31-bit integers without end, as C's ``rand`` gives them; a handful at a time, which is quicker."""
    while True:
        yield from rng.integers(2**31, size=32).tolist()


def _chance(draws: Draws, probability: float) -> bool:
    """An event of this probability, by one draw."""
    return draws.parity() if probability == 0.5 else bool(draws.uniform(0, 1) < probability)


def _between(share: np.float32, a: float | np.float32, b: float | np.float32) -> np.float32:
    """What `Draws.uniform` gives for these bounds where it gives `share` for 0 and 1."""
    low, high = np.float32(min(a, b)), np.float32(max(a, b))
    return share * (high - low) + low


def _placed(shares, picture_size, input_size, jitter, zoom):
    """(x, y), (width, height) in pixels, then scale and shift of boxes (SPEC 15, steps 2 and 3)."""
    (w, h), (width, height) = picture_size, input_size
    numerator = w + _between(shares[0], -jitter * w, jitter * w)
    aspect = numerator / (h + _between(shares[1], -jitter * h, jitter * h))
    new_w, new_h = (height * aspect, height) if aspect < 1 else (width, width / aspect)
    new_w, new_h = new_w * zoom, new_h * zoom
    x, y = _between(shares[2], 0, width - new_w), _between(shares[3], 0, height - new_h)
    scale, shift = (new_w / width, new_h / height), (x / width, y / height)
    return (int(x), int(y)), (int(new_w), int(new_h)), scale, shift


def _cropped(shares, picture_size, jitter):
    """(x, y, width, height) of the crop in pixels, then scale and shift of boxes (SPEC 15, 2016 release)."""
    w, h = picture_size
    left, right, top, bottom = (
        int(_between(share, -most, most))
        for share, side in zip(shares, (w, w, h, h), strict=True)
        for most in [int(np.float32(jitter) * np.float32(side))]
    )
    crop_w, crop_h = w - left - right, h - top - bottom
    return (left, top, crop_w, crop_h), (w / crop_w, h / crop_h), (-left / crop_w, -top / crop_h)

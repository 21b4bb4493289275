"""Training and validation pictures of a classifier as Darknet makes them (SPEC 18)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from reference.augment import Draws
from yolov2.augment import integers
from yolov2.raster import recolour, warp


@dataclass(frozen=True)
class CropAugment:
    """How much a training picture may change; the defaults are those of darknet19.cfg.

    Parameters
    ----------
    smallest, largest : float
        The shorter side of the picture is resized to something between these, as multiples of the crop's
        side: 128/256 and 448/256. darknet19_448.cfg has 448/448 and 512/448.
    angle : float
        Largest rotation in degrees.
    aspect : float
        Bound of the stretching factor; it or its reciprocal.
    hue, saturation, exposure : float
        Hue shifts by up to ``hue`` of the colour circle; saturation and exposure are multiplied by up
        to their value or divided by it.

    Raises
    ------
    ValueError
        If a number has no meaning.
    """

    smallest: float = 0.5
    largest: float = 1.75
    angle: float = 7.0
    aspect: float = 0.75
    hue: float = 0.1
    saturation: float = 0.75
    exposure: float = 0.75

    def __post_init__(self):
        if not 0 < self.smallest <= self.largest:
            raise ValueError(f"smallest {self.smallest} and largest {self.largest} are no range of sizes")
        if not 0 <= self.hue <= 1:
            raise ValueError(f"hue: {self.hue} is not in [0, 1]")
        if not min(self.aspect, self.saturation, self.exposure) > 0:
            raise ValueError("aspect, saturation and exposure must be positive")


class CropPlan(NamedTuple):
    """What becomes of one picture.

    Attributes
    ----------
    matrix : ndarray, float64 (2, 3)
        Pixel (x, y) of the crop, mirrored or not, shows the picture at ``matrix @ (x, y, 1)``.
    hue, saturation, exposure : float
        As `yolov2.raster.recolour` takes them.
    """

    matrix: np.ndarray
    hue: float = 0.0
    saturation: float = 1.0
    exposure: float = 1.0


def plan_crop(
    draws: Draws, picture_size: tuple[int, int], size: int, options: CropAugment, centre: bool = False
) -> CropPlan:
    """Decide what becomes of a picture.

    Parameters
    ----------
    draws : Draws
        Consumed in Darknet's order (SPEC 18): unless `centre`, aspect (2), crop, angle, dx, dy; then mirror,
        hue, saturation (2), exposure (2).
    picture_size : (width, height)
        In pixels.
    size : int
        Side of the crop in pixels.
    options : CropAugment
        Ranges of the draws.
    centre : bool
        Mirror and recolour the centre crop instead of a random one.
    """
    matrix = centre_matrix(picture_size, size) if centre else _crop_matrix(draws, picture_size, size, options)
    if draws.parity():
        matrix = matrix @ [[-1, 0, size - 1], [0, 1, 0], [0, 0, 1]]
    hue = draws.uniform(-options.hue, options.hue)
    return CropPlan(
        matrix, float(hue), *(float(draws.factor(s)) for s in (options.saturation, options.exposure))
    )


def _crop_matrix(draws: Draws, picture_size: tuple[int, int], size: int, options: CropAugment) -> np.ndarray:
    """See `reference.image.rotate_crop`."""
    w, h = picture_size
    stretch = draws.factor(options.aspect)
    least, most = round(options.smallest * size), round(options.largest * size)
    side = least + draws.integer(most - least + 1)
    # A picture one pixel high, stretched, may have a shorter side of less than a pixel.
    scale = np.float32(side) / np.float32(max(1, int(min(np.float32(h), w * stretch))))
    radians = np.deg2rad(draws.uniform(-options.angle, options.angle))
    reach_x, reach_y = (w * scale / stretch - size) / 2, (h * scale - size) / 2
    dx, dy = draws.uniform(-reach_x, reach_x), draws.uniform(-reach_y, reach_y)
    cos, sin = np.cos(radians), np.sin(radians)
    step_x, step_y = stretch / scale, 1 / scale
    middle, turn = np.array([[w / 2], [h / 2]]), np.array([[cos, -sin], [sin, cos]])
    steps = turn * [step_x, step_y]
    return np.column_stack([steps, steps @ [[dx - size / 2], [dy - size / 2]] + middle]).astype(float)


def centre_matrix(picture_size: tuple[int, int], size: int) -> np.ndarray:
    """The largest square in the middle of a picture, corners aligned; see `reference.image.centre_crop`."""
    w, h = picture_size
    side = min(w, h)
    step = (side - 1) / max(size - 1, 1)
    return np.array([[step, 0, (w - side) // 2], [0, step, (h - side) // 2]], float)


def render_crop(pixels: np.ndarray, plan: CropPlan, size: int) -> np.ndarray:
    """Carry out a plan; as exact as `yolov2.augment.render`.

    Parameters
    ----------
    pixels : ndarray, uint8 (H, W, 3)
        The picture that the plan was made for, RGB.
    plan : CropPlan
        What to do with it.
    size : int
        Side of the crop in pixels.

    Returns
    -------
    ndarray, uint8 (size, size, 3)
        Black where it reaches beyond the picture.
    """
    seen = warp(pixels, plan.matrix, size, size)
    return recolour(seen, plan.hue, plan.saturation, plan.exposure)


def crop_example(pixels: np.ndarray, size: int, options: CropAugment, rng: np.random.Generator) -> np.ndarray:
    """A random crop of a picture: rotated, stretched, mirrored and recoloured (SPEC 18).

    Parameters
    ----------
    pixels : ndarray, uint8 (H, W, 3)
        RGB.
    size : int
        Side of the network's input in pixels.
    options : CropAugment
        Ranges of the random changes.
    rng : numpy.random.Generator
        The only source of chance.

    Returns
    -------
    ndarray, uint8 (size, size, 3)
    """
    plan = plan_crop(Draws(integers(rng)), pixels.shape[1::-1], size, options)
    return render_crop(pixels, plan, size)


def centre_example(pixels: np.ndarray, size: int) -> np.ndarray:
    """The largest square in the middle of a picture, resized, as validation sees it (SPEC 18).

    Parameters
    ----------
    pixels : ndarray, uint8 (H, W, 3)
        RGB.
    size : int
        Side of the network's input in pixels.

    Returns
    -------
    ndarray, uint8 (size, size, 3)
    """
    return render_crop(pixels, CropPlan(centre_matrix(pixels.shape[1::-1], size)), size)

"""Training pictures as Darknet makes them, each a function of a stream of integers (SPEC 15 and 18)."""

from collections.abc import Iterable

import numpy as np

from reference.image import GREY, Number, centre_crop, crop, distort, flip, place, resize, rotate_crop

Pair = tuple[Number, Number]

RANDOM_MAX = 2**31 - 1
CLASSIFICATION_ONLY = 999999.0  # in all four box fields: the picture has a class but no box (SPEC 6)
SMALLEST = 0.001  # truths narrower or lower than this fraction of the picture are dropped


class Draws:
    """Random quantities made from 31-bit integers the way Darknet makes them from ``rand()``.

    Parameters
    ----------
    integers : iterable of int
        In 0..2147483647; a finite log replays a run of the original exactly.
    """

    def __init__(self, integers: Iterable[int]):
        self._integers = iter(integers)

    @classmethod
    def from_generator(cls, rng: np.random.Generator) -> "Draws":
        """An endless stream from a NumPy generator."""
        return cls(int(rng.integers(2**31)) for _ in iter(int, 1))

    def integer(self, n: int) -> int:
        """An integer in 0..n-1."""
        return int(next(self._integers)) % n

    def parity(self) -> bool:
        """Whether the next integer is odd."""
        return self.integer(2) == 1

    def uniform(self, a: Number, b: Number) -> np.float32:
        """A number between `a` and `b`, in float32 like the original's."""
        low, high = np.float32(min(a, b)), np.float32(max(a, b))
        return np.float32(next(self._integers)) / np.float32(RANDOM_MAX) * (high - low) + low

    def factor(self, s: float) -> np.float32:
        """A number between 1 and `s`, or its reciprocal: "value, parity" in SPEC 15."""
        value = self.uniform(1, s)
        return value if self.parity() else 1 / value


def correct_boxes(boxes: np.ndarray, scale: Pair, shift: Pair, mirror: bool) -> np.ndarray:
    """Move boxes along with their picture: corner * scale + shift, mirror, clip (SPEC 15, step 6).

    Parameters
    ----------
    boxes : (N, 4) float
        cx, cy, w, h as fractions of the source picture.
    scale : (x, y)
        Size of the placed picture as a fraction of the training picture. A crop has scales above 1.
    shift : (x, y)
        Where its top left corner lies, as a fraction of the training picture.
    mirror : bool
        Flip left to right afterwards.

    Returns
    -------
    (N, 4) float
        cx, cy, w, h as fractions of the training picture, cut off at its edges. A box centred at exactly
        (0, 0) stands for "no box" and becomes 999999 in all four fields.
    """
    scale_xy, shift_xy = np.array(scale, boxes.dtype), np.array(shift, boxes.dtype)
    low = (boxes[:, :2] - boxes[:, 2:] / 2) * scale_xy + shift_xy
    high = (boxes[:, :2] + boxes[:, 2:] / 2) * scale_xy + shift_xy
    if mirror:
        low[:, 0], high[:, 0] = 1 - high[:, 0], 1 - low[:, 0]
    low, high = low.clip(0, 1), high.clip(0, 1)
    moved = np.concatenate([(low + high) / 2, high - low], axis=1)
    moved[(boxes[:, :2] == 0).all(axis=1)] = CLASSIFICATION_ONLY
    return moved


def truth_rows(
    labels: np.ndarray,
    scale: Pair = (1, 1),
    shift: Pair = (0, 0),
    mirror: bool = False,
    max_labels: int = 30,
) -> np.ndarray:
    """Rows of a label file -> the truth array of a training picture (SPEC 15, step 6).

    The list is cut to `max_labels` BEFORE invisible boxes are dropped, so a dropped row is not replaced.

    Parameters
    ----------
    labels : (N, 5) float
        class, cx, cy, w, h as fractions of the source picture, in the order in which they compete.
    scale, shift, mirror
        See `correct_boxes`.
    max_labels : int
        Rows of the result.

    Returns
    -------
    (max_labels, 5) float
        cx, cy, w, h, class; unused rows are zero.
    """
    labels = labels[:max_labels]
    boxes = correct_boxes(labels[:, 1:], scale, shift, mirror)
    visible = (boxes[:, 2:] >= SMALLEST).all(axis=1)
    truth = np.zeros((max_labels, 5), labels.dtype)
    truth[: visible.sum()] = np.concatenate([boxes, labels[:, :1]], axis=1)[visible]
    return truth


def shuffle(rows: np.ndarray, draws: Draws) -> np.ndarray:
    """Darknet's (biased) shuffle: row i changes places with any row, for every i (SPEC 15, step 6)."""
    rows = rows.copy()
    for i in range(len(rows)):
        j = draws.integer(len(rows))
        rows[[i, j]] = rows[[j, i]]
    return rows


def _random_distort(image, draws: Draws, hue: float, saturation: float, exposure: float) -> np.ndarray:
    return distort(image, draws.uniform(-hue, hue), draws.factor(saturation), draws.factor(exposure))


def detection_example(
    image: np.ndarray,
    labels: np.ndarray,
    draws: Draws,
    width: int,
    height: int,
    *,
    jitter: float = 0.3,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_labels: int = 30,
) -> tuple[np.ndarray, np.ndarray]:
    """One training picture of a detector, with its truths (SPEC 15, steps 2-6).

    Parameters
    ----------
    image : (3, H, W) float
        The source picture.
    labels : (N, 5) float
        class, cx, cy, w, h as fractions of it.
    draws : Draws
        Consumed in Darknet's order: aspect (2), dx, dy, hue, saturation (2), exposure (2), mirror, one
        per label.
    width, height : int
        Network input in pixels.
    jitter : float
        Largest change of either side in the aspect ratio, as a fraction of the side.
    hue, saturation, exposure : float
        Bounds of the colour changes; see `reference.image.distort`.
    max_labels : int
        Rows of the truth array.

    Returns
    -------
    picture : (3, height, width) float
    truth : (max_labels, 5) float
        cx, cy, w, h as fractions of the picture, class; unused rows are zero.
    """
    _, h, w = image.shape
    numerator = w + draws.uniform(-jitter * w, jitter * w)
    aspect = numerator / (h + draws.uniform(-jitter * h, jitter * h))
    new_w, new_h = (height * aspect, height) if aspect < 1 else (width, width / aspect)
    dx, dy = draws.uniform(0, width - new_w), draws.uniform(0, height - new_h)
    canvas = np.full((3, height, width), GREY, image.dtype)
    picture = place(image, int(new_w), int(new_h), int(dx), int(dy), canvas)
    picture = _random_distort(picture, draws, hue, saturation, exposure)
    mirror = draws.parity()
    # Pixels were placed at whole numbers, labels follow the exact ones: up to a pixel apart, as in Darknet.
    truth = truth_rows(
        shuffle(labels, draws),
        (new_w / width, new_h / height),
        (dx / width, dy / height),
        mirror,
        max_labels,
    )
    return (flip(picture) if mirror else picture), truth


def cropped_example(
    image: np.ndarray,
    labels: np.ndarray,
    draws: Draws,
    width: int,
    height: int,
    *,
    jitter: float = 0.2,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_labels: int = 30,
) -> tuple[np.ndarray, np.ndarray]:
    """One training picture of a detector as the release of 2016 makes it (SPEC 15): a stretched crop.

    Parameters
    ----------
    image : (3, H, W) float
        The source picture.
    labels : (N, 5) float
        class, cx, cy, w, h as fractions of it.
    draws : Draws
        Consumed in Darknet's order: margins left, right, top, bottom, mirror, hue, saturation (2),
        exposure (2), one per label.
    width, height : int
        Network input in pixels.
    jitter : float
        Largest margin, cut off or added, as a fraction of the side; below .5.
    hue, saturation, exposure : float
        Bounds of the colour changes; see `reference.image.distort`.
    max_labels : int
        Rows of the truth array.

    Returns
    -------
    picture : (3, height, width) float
    truth : (max_labels, 5) float
        cx, cy, w, h as fractions of the picture, class; unused rows are zero.
    """
    _, h, w = image.shape
    most_x, most_y = (int(np.float32(jitter) * np.float32(side)) for side in (w, h))
    left, right = (int(draws.uniform(-most_x, most_x)) for _ in range(2))
    top, bottom = (int(draws.uniform(-most_y, most_y)) for _ in range(2))
    mirror = draws.parity()
    crop_w, crop_h = w - left - right, h - top - bottom
    picture = resize(crop(image, left, top, crop_w, crop_h), width, height)
    picture = _random_distort(flip(picture) if mirror else picture, draws, hue, saturation, exposure)
    scale, shift = (w / crop_w, h / crop_h), (-left / crop_w, -top / crop_h)
    return picture, truth_rows(shuffle(labels, draws), scale, shift, mirror, max_labels)


def classification_example(
    image: np.ndarray,
    draws: Draws,
    size: int,
    min_crop: int,
    max_crop: int,
    *,
    angle: float = 7.0,
    aspect: float = 0.75,
    hue: float = 0.1,
    saturation: float = 0.75,
    exposure: float = 0.75,
    centre: bool = False,
) -> np.ndarray:
    """One training picture of a classifier: a rotated, stretched crop, mirror, colour (SPEC 18).

    Parameters
    ----------
    image : (3, H, W) float
        The source picture.
    draws : Draws
        Consumed in Darknet's order: unless `centre`, aspect (2), crop, angle, dx, dy; then mirror, hue,
        saturation (2), exposure (2).
    size : int
        Side of the result in pixels.
    min_crop, max_crop : int
        The shorter side of the source is resized to something between these, in pixels, before the crop.
    angle : float
        Largest rotation in degrees.
    aspect : float
        Bound of the stretching factor.
    hue, saturation, exposure : float
        Bounds of the colour changes; see `reference.image.distort`.
    centre : bool
        Take the centre crop instead of a random one.

    Returns
    -------
    (3, size, size) float
    """
    if centre:
        picture = centre_crop(image, size, size)
    else:
        _, h, w = image.shape
        stretch = draws.factor(aspect)
        side = min_crop + draws.integer(max_crop - min_crop + 1)
        scale = np.float32(side) / np.float32(int(min(h, w * stretch)))
        radians = np.deg2rad(draws.uniform(-angle, angle))
        reach_x, reach_y = (w * scale / stretch - size) / 2, (h * scale - size) / 2
        dx, dy = draws.uniform(-reach_x, reach_x), draws.uniform(-reach_y, reach_y)
        picture = rotate_crop(image, radians, scale, size, size, dx, dy, stretch)
    if draws.parity():
        picture = flip(picture)
    return _random_distort(picture, draws, hue, saturation, exposure)

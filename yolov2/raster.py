"""Warping and recolouring 8-bit pictures: by OpenCV where it is installed, else by Pillow and NumPy.

Both give what `reference.image` computes in floats to the nearest level or two; nothing else in a training
picture takes time but decoding its file.
"""

from functools import cache
from types import ModuleType
from typing import Literal

import numpy as np
from PIL import Image

Border = Literal["black", "edge"]

LONGEST = 32766  # pixels a side: OpenCV's limit
BLOCK = 65536  # pixels recoloured at a time: a dozen arrays of so many bytes stay in the cache


@cache
def opencv() -> ModuleType | None:
    """OpenCV, or None where it is not installed. It is told to stay on its caller's thread."""
    try:
        import cv2
    except ImportError:
        return None
    cv2.setNumThreads(0)  # batches are made by several threads already
    return cv2


def warp(
    pixels: np.ndarray, matrix: np.ndarray, width: int, height: int, border: Border = "black"
) -> np.ndarray:
    """Sample a picture bilinearly at the places that an affine map gives.

    Parameters
    ----------
    pixels : ndarray, uint8 (H, W, 3)
        The picture.
    matrix : ndarray, float64 (2, 3)
        Pixel (x, y) of the result shows the picture at ``matrix @ (x, y, 1)``. Whole numbers are the middles
        of pixels.
    width, height : int
        Size of the result in pixels.
    border : {"black", "edge"}
        What lies outside of the picture: zeros, which the samples between its last pixels and the outside
        fade to, or its outermost pixels again and again.

    Returns
    -------
    ndarray, uint8 (height, width, 3)
        Within a level of the exact sample: OpenCV rounds (before version 5 it also rounds places to 1/32
        pixel), Pillow truncates.
    """
    if not width or not height:
        return np.empty((height, width, 3), np.uint8)
    cv2 = opencv()
    if cv2 and max(*pixels.shape[:2], width, height) <= LONGEST:
        mode = cv2.BORDER_CONSTANT if border == "black" else cv2.BORDER_REPLICATE
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return cv2.warpAffine(pixels, matrix, (width, height), flags=flags, borderMode=mode)

    corners = matrix @ [[0, width - 1, 0, width - 1], [0, 0, height - 1, height - 1], [1, 1, 1, 1]]
    low, high = np.floor(corners.min(1)).astype(int) - 1, np.ceil(corners.max(1)).astype(int) + 2
    if border == "black":  # a pixel of it is enough
        low, high = low.clip(-1, None), np.minimum(high, np.array(pixels.shape[1::-1]) + 1)
        if (high <= low).any():
            return np.zeros((height, width, 3), np.uint8)
    seen = _cut(pixels, low, high, border)
    (a, b, c), (d, e, f) = matrix - np.column_stack([np.zeros((2, 2)), low])
    # Pillow counts from the corners of pixels, here and there
    numbers = (a, b, c + (1 - a - b) / 2, d, e, f + (1 - d - e) / 2)
    how = Image.Transform.AFFINE, numbers, Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(seen).transform((width, height), *how))


def _cut(pixels: np.ndarray, low: np.ndarray, high: np.ndarray, border: Border) -> np.ndarray:
    """The rectangle from (x, y) `low` to before `high`, which may leave the picture."""
    size = np.array(pixels.shape[1::-1])
    inside_low, inside_high = low.clip(0, size), high.clip(0, size)
    cut = pixels[inside_low[1] : inside_high[1], inside_low[0] : inside_high[0]]
    margins = [(int(b), int(a)) for b, a in zip(inside_low - low, high - inside_high, strict=True)]
    if border == "black":
        return np.pad(cut, (*margins[::-1], (0, 0)))
    columns, rows = (np.arange(l, h).clip(0, n - 1) for l, h, n in zip(low, high, size, strict=True))
    return pixels[rows[:, None], columns]


def recolour(pixels: np.ndarray, hue: float, saturation: float, exposure: float) -> np.ndarray:
    """Shift the hue and multiply saturation and value of a picture, in HSV (SPEC 14).

    With V and m the largest and the smallest channel of a pixel, a channel of a fully bright, fully
    saturated colour is a trapezoid over the hue, so turning the hue by up to a sextant adds to the channel or
    takes from it and clips at V and m: nothing is divided and no hue is ever known. What remains is that
    saturation s and exposure e turn a channel c into e (V - s (V - c)).

    Parameters
    ----------
    pixels : ndarray, uint8 (H, W, 3)
        RGB.
    hue : float
        Added to the hue, in turns, [-1, 1].
    saturation, exposure : float
        Factors of saturation and value. Saturations above 1 are not cut before the result is.

    Returns
    -------
    ndarray, uint8 (H, W, 3)
        On photographs with YOLOv2's ranges .25 levels from `reference.image.distort` on average and at most
        1.5. OpenCV's own 8-bit HSV is 2 levels from it on average and up to 80, because its saturation ends
        at 1, and takes as long. (Darknet turns a pixel whose hue becomes exactly 1 magenta. This does not.)
    """
    if (hue, saturation, exposure) == (0, 1, 1) or not pixels.size:
        return pixels
    result = np.empty(pixels.shape, np.uint8)
    rows = max(1, BLOCK // pixels.shape[1])
    for top in range(0, len(pixels), rows):
        block = slice(top, top + rows)
        _recolour(pixels[block], hue, saturation, exposure, result[block])
    return result


def _recolour(pixels: np.ndarray, hue: float, saturation: float, exposure: float, result: np.ndarray) -> None:
    cv2 = opencv() or _NumPy
    planes = cv2.split(pixels, [np.empty(pixels.shape[:2], np.uint8) for _ in range(3)])
    r, g, b = planes
    most, least = cv2.max(cv2.max(r, g), b), cv2.min(cv2.min(r, g), b)
    thirds = round(3 * hue)  # of a turn: there channels only change their names
    turn = 6 * hue - 2 * thirds  # what is left, in sextants, [-1, 1]
    part = cv2.convertScaleAbs(cv2.subtract(most, least), alpha=abs(turn))
    risen, fallen = cv2.add(least, part), cv2.subtract(most, part)
    changed = [r, g, b]
    for number, channel in enumerate(planes):
        # from which colour and to which this channel's light goes
        source, target = planes[number - 1], planes[number - 2]
        if turn < 0:
            source, target = target, source
        turned = fallen.copy()
        cv2.copyTo(risen, cv2.compare(source, target, cv2.CMP_GE), turned)
        # turned + channel - target, in bytes that stop at 0 and 255: one of the two differences is zero
        turned = cv2.add(turned, cv2.subtract(channel, target))
        turned = cv2.subtract(turned, cv2.subtract(target, channel))
        turned = cv2.max(cv2.min(turned, most), least)
        changed[(number + thirds) % 3] = cv2.addWeighted(
            turned, exposure * saturation, most, exposure * (1 - saturation), 0
        )
    cv2.merge(changed, result)


class _NumPy:
    """OpenCV's functions that `recolour` calls, for arrays of uint8."""

    CMP_GE = 0
    max, min = np.maximum, np.minimum

    @staticmethod
    def split(pixels, planes):
        for plane, channel in zip(planes, pixels.transpose(2, 0, 1), strict=True):
            plane[:] = channel
        return planes

    @staticmethod
    def merge(planes, pixels):
        np.stack(planes, axis=2, out=pixels)

    @staticmethod
    def add(a, b):
        return a + np.minimum(b, ~a)  # ~a = 255 - a

    @staticmethod
    def subtract(a, b):
        return a - np.minimum(a, b)

    @staticmethod
    def compare(a, b, _):
        return a >= b

    @staticmethod
    def copyTo(source, mask, target):
        np.copyto(target, source, where=mask)

    @staticmethod
    def convertScaleAbs(a, alpha):
        return np.rint(a * np.float32(alpha)).astype(np.uint8)

    @staticmethod
    def addWeighted(a, alpha, b, beta, _):
        total = a * np.float32(alpha)
        total += b * np.float32(beta)
        return np.rint(total, out=total).clip(0, 255, out=total).astype(np.uint8)

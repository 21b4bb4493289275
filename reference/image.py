"""Pictures as Darknet prepares them: resize, place, crop, rotate, colour (SPEC 14).

A picture is a float array (3, height, width), planar RGB in [0, 1]. Sizes in arguments are always in the
order width, height. Every function returns a new array of its input's dtype.
"""

import numpy as np

Size = tuple[int, int]
Number = float | np.floating

GREY = 0.5  # what a canvas is filled with


def load_normalise(pixels: np.ndarray, dtype=np.float32) -> np.ndarray:
    """Turn decoded pixels into a picture: planar, divided by 255, no mean subtracted (SPEC 14).

    Parameters
    ----------
    pixels : (H, W, 3) uint8
        RGB bytes.
    dtype : float dtype
        That of the result.

    Returns
    -------
    (3, H, W) float
        In [0, 1].

    Raises
    ------
    ValueError
        If `pixels` is not (H, W, 3) uint8.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"pixels: (H, W, 3) uint8 is needed, got {pixels.shape} {pixels.dtype}")
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype) / 255


def _resize_axis(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    n, dtype = image.shape[axis], image.dtype.type
    scale = dtype(n - 1) / dtype(max(size - 1, 1))
    position = np.arange(size, dtype=dtype) * scale
    position[-1:] = n - 1  # corners aligned: the last output copies the last input, whatever was rounded
    low = position.astype(int)
    shape = [1, 1, 1]
    shape[axis] = size
    d = (position - low.astype(dtype)).reshape(shape)
    return (1 - d) * image.take(low, axis) + d * image.take(np.minimum(low + 1, n - 1), axis)


def resize(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bilinear resize with aligned corners, first along rows, then along columns (SPEC 14).

    Equals ``align_corners=True`` of other libraries. A single output pixel copies the last input one.

    Parameters
    ----------
    image : (3, H, W) float
        The picture.
    width, height : int
        New size in pixels.

    Returns
    -------
    (3, height, width) float
    """
    return _resize_axis(_resize_axis(image, width, axis=2), height, axis=1)


def _sample(image: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Bilinear samples at columns `x` and rows `y` (broadcast together), zero outside the picture."""
    _, h, w = image.shape
    x0, y0 = np.floor(x), np.floor(y)
    dx, dy = x - x0, y - y0
    col, row = x0.astype(int), y0.astype(int)

    def pixel(col, row):
        inside = (col >= 0) & (col < w) & (row >= 0) & (row < h)
        return image[:, row.clip(0, h - 1), col.clip(0, w - 1)] * inside

    top = (1 - dx) * pixel(col, row) + dx * pixel(col + 1, row)
    bottom = (1 - dx) * pixel(col, row + 1) + dx * pixel(col + 1, row + 1)
    return (1 - dy) * top + dy * bottom


def place(image: np.ndarray, width: int, height: int, dx: int, dy: int, canvas: np.ndarray) -> np.ndarray:
    """Draw a picture on a canvas at a given size and offset; what falls outside is lost (SPEC 14).

    Pixel x samples the picture at column x * W / width. Samples beyond the last column or row count as
    zero, so the far edges darken where the picture is enlarged: Darknet's training pictures have this.

    Parameters
    ----------
    image : (3, H, W) float
        The picture.
    width, height : int
        Size on the canvas in pixels.
    dx, dy : int
        Where its top left corner goes, in pixels of the canvas; may be negative.
    canvas : (3, canvas height, canvas width) float
        Left unchanged.

    Returns
    -------
    (3, canvas height, canvas width) float
        The canvas with the picture on it.
    """
    dtype = image.dtype.type
    rows = np.arange(max(0, -dy), min(height, canvas.shape[1] - dy))[:, None]
    cols = np.arange(max(0, -dx), min(width, canvas.shape[2] - dx))
    y = rows.astype(dtype) / dtype(height) * dtype(image.shape[1])
    x = cols.astype(dtype) / dtype(width) * dtype(image.shape[2])
    placed = canvas.copy()
    placed[:, rows + dy, cols + dx] = _sample(image, x, y)
    return placed


def crop(image: np.ndarray, dx: int, dy: int, width: int, height: int) -> np.ndarray:
    """Cut out a rectangle; where it leaves the picture, the nearest edge pixel is repeated (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        The picture.
    dx, dy : int
        Top left corner of the rectangle, in pixels; may be negative.
    width, height : int
        Its size in pixels.

    Returns
    -------
    (3, height, width) float
    """
    rows = (np.arange(height) + dy).clip(0, image.shape[1] - 1)[:, None]
    cols = (np.arange(width) + dx).clip(0, image.shape[2] - 1)
    return image[:, rows, cols]


def centre_crop(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize the largest square in the middle of a picture (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        The picture.
    width, height : int
        Size of the result in pixels.

    Returns
    -------
    (3, height, width) float
    """
    _, h, w = image.shape
    side = min(h, w)
    return resize(crop(image, (w - side) // 2, (h - side) // 2, side, side), width, height)


def rotate_crop(
    image: np.ndarray,
    radians: Number,
    scale: Number,
    width: int,
    height: int,
    dx: Number,
    dy: Number,
    aspect: Number,
) -> np.ndarray:
    """Cut out a rotated, scaled and stretched rectangle; zero outside the picture (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        The picture.
    radians : float
        Rotation about the picture's centre.
    scale : float
        Output pixels per picture pixel, vertically.
    width, height : int
        Size of the result in pixels.
    dx, dy : float
        Shift of the rectangle in output pixels.
    aspect : float
        Picture columns covered per output column, relative to rows.

    Returns
    -------
    (3, height, width) float
    """
    u = (np.arange(width) - width / 2 + dx) * aspect / scale
    v = ((np.arange(height) - height / 2 + dy) / scale)[:, None]
    x = np.cos(radians) * u - np.sin(radians) * v + image.shape[2] / 2
    y = np.sin(radians) * u + np.cos(radians) * v + image.shape[1] / 2
    return _sample(image, x.astype(image.dtype), y.astype(image.dtype))


def flip(image: np.ndarray) -> np.ndarray:
    """Mirror a (3, H, W) picture left to right."""
    return image[:, :, ::-1].copy()


def rgb_to_hsv(image: np.ndarray) -> np.ndarray:
    """RGB -> hue, saturation, value (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        RGB in [0, 1].

    Returns
    -------
    (3, H, W) float
        Hue in turns, [0, 1), 0 for greys; saturation and value in [0, 1].
    """
    r, g, b = image
    value = image.max(axis=0)
    spread = value - image.min(axis=0)
    one = np.where(spread > 0, spread, 1)  # a grey has no hue; its numerator below is 0 too
    sector = np.where(r == value, (g - b) / one, np.where(g == value, 2 + (b - r) / one, 4 + (r - g) / one))
    hue = np.where(sector < 0, sector + 6, sector) / 6
    return np.stack([hue, spread / np.where(value > 0, value, 1), value])


def hsv_to_rgb(image: np.ndarray) -> np.ndarray:
    """Hue, saturation, value -> RGB, the inverse of `rgb_to_hsv` (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        Hue in turns, [0, 1]; saturation and value, not limited to 1.

    Returns
    -------
    (3, H, W) float
    """
    hue, s, v = image
    sector = np.floor(6 * hue)
    f = 6 * hue - sector
    p, q, t = v * (1 - s), v * (1 - s * f), v * (1 - s * (1 - f))
    k = sector.astype(int)  # 6 arises where a hue was rounded up to 1; Darknet treats it like 5
    r = np.choose(k, [v, q, p, p, t, v, v])
    g = np.choose(k, [t, v, v, q, p, p, p])
    b = np.choose(k, [p, p, t, v, v, q, q])
    return np.stack([r, g, b])


def distort(image: np.ndarray, hue: Number, saturation: Number, exposure: Number) -> np.ndarray:
    """Change the colours of a picture (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        RGB in [0, 1].
    hue : float
        Added to the hue, in turns, [-1, 1].
    saturation, exposure : float
        Factors of the saturation and of the value.

    Returns
    -------
    (3, H, W) float
        Clipped to [0, 1].
    """
    h, s, v = rgb_to_hsv(image)
    h = h + hue
    h = np.where(h > 1, h - 1, np.where(h < 0, h + 1, h))
    return hsv_to_rgb(np.stack([h, s * saturation, v * exposure])).clip(0, 1)

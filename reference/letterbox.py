"""A picture fitted into the network's input, aspect ratio kept, and its boxes taken back (SPEC 14 and 8.1).

Pictures and sizes are those of `reference.image`.
"""

import numpy as np

from reference.image import GREY, Size, resize


def letterbox_size(picture: Size, network: Size) -> Size:
    """Size that a picture has inside a letterbox: as large as fits, aspect ratio kept (SPEC 8.1).

    Parameters
    ----------
    picture, network : (width, height)
        In pixels.

    Returns
    -------
    (width, height)
        In pixels of the network's input; the free side is rounded down.

    Raises
    ------
    ValueError
        If the picture is so elongated that not one pixel of its short side is left.
    """
    (w, h), (net_w, net_h) = picture, network
    if np.float32(net_w) / np.float32(w) < np.float32(net_h) / np.float32(h):
        size = net_w, h * net_w // w
    else:
        size = w * net_h // h, net_h
    if min(size) < 1:
        raise ValueError(f"a picture of {w}x{h} pixels leaves nothing in a letterbox of {net_w}x{net_h}")
    return size


def letterbox(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Fit a picture into the middle of a grey canvas, aspect ratio kept (SPEC 14).

    Parameters
    ----------
    image : (3, H, W) float
        The picture.
    width, height : int
        Size of the canvas in pixels.

    Returns
    -------
    (3, height, width) float

    Raises
    ------
    ValueError
        See `letterbox_size`.
    """
    w, h = letterbox_size((image.shape[2], image.shape[1]), (width, height))
    x0, y0 = (width - w) // 2, (height - h) // 2
    canvas = np.full((3, height, width), GREY, image.dtype)
    canvas[:, y0 : y0 + h, x0 : x0 + w] = resize(image, w, h)
    return canvas


def undo_letterbox(boxes: np.ndarray, picture: Size, network: Size, relative: bool = True) -> np.ndarray:
    """Boxes seen by the network -> boxes of the picture it was letterboxed from (SPEC 8.1).

    The margin is half the free space, not rounded, although `letterbox` rounds it down: Darknet does so.

    Parameters
    ----------
    boxes : (..., 4) float
        cx, cy, w, h as fractions of the network's input.
    picture, network : (width, height)
        In pixels.
    relative : bool
        Return fractions of the picture; otherwise pixels.

    Returns
    -------
    (..., 4) float
        cx, cy, w, h, not clipped.

    Raises
    ------
    ValueError
        See `letterbox_size`.
    """
    net, inner = np.array(network, float), np.array(letterbox_size(picture, network), float)
    margin = (net - inner) / 2 / net
    unit = np.ones(2) if relative else np.array(picture, float)
    scale, offset = unit * net / inner, np.concatenate([margin, np.zeros(2)])
    # in float64 and rounded once: C's constants are doubles
    return ((boxes - offset) * np.tile(scale, 2)).astype(boxes.dtype)

"""Pooling (SPEC 10)."""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def max_pool(x: np.ndarray, size: int = 2, stride: int = 2, padding: int | None = None) -> np.ndarray:
    """Largest value of every window.

    The window of output i starts at i * stride - padding // 2, and places outside the picture are
    smaller than everything. So size 2 begins at the picture's edge: stride 2 gives ceil(H / 2), and
    stride 1 keeps H, the extra row and column lying at the bottom and right.

    Parameters
    ----------
    x : ndarray, (B, C, H, W)
        Input.
    size, stride : int
        Side and step of the square window, in pixels.
    padding : int, optional
        TOTAL padding of a side pair, in pixels, less than `size`; Darknet's default is size - 1.

    Returns
    -------
    ndarray, (B, C, OH, OW)
        OH = (H + padding - size) // stride + 1, OW likewise.

    Raises
    ------
    ValueError
        If `padding` is not less than `size`: some window might then see nothing.
    """
    return x.reshape(-1)[max_pool_winners(x, size, stride, padding)]


def max_pool_winners(x: np.ndarray, size: int = 2, stride: int = 2, padding: int | None = None) -> np.ndarray:
    """Flat index into `x` of the FIRST largest value (in row-major order) of every window of `max_pool`.

    Arguments, shape and errors are those of `max_pool`; int64.
    """
    padding = size - 1 if padding is None else padding
    if not 0 <= padding < size:
        raise ValueError(f"padding {padding} is not in 0..{size - 1}")
    low, high = padding // 2, padding - padding // 2
    padded = np.pad(x, ((0, 0), (0, 0), (low, high), (low, high)), constant_values=-np.inf)
    windows = sliding_window_view(padded, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    b, c, oh, ow = windows.shape[:4]
    ky, kx = np.divmod(windows.reshape(b, c, oh, ow, -1).argmax(axis=-1), size)
    row = np.arange(oh)[:, None] * stride - low + ky
    col = np.arange(ow) * stride - low + kx
    plane = np.arange(b * c).reshape(b, c, 1, 1)
    return (plane * x.shape[2] + row) * x.shape[3] + col


def max_pool_grad(
    dout: np.ndarray, x: np.ndarray, size: int = 2, stride: int = 2, padding: int | None = None
) -> np.ndarray:
    """Add every dL/d(output) (B, C, OH, OW) to the winner of its window: dL/dx, shaped like `x`.

    The other arguments and the errors are those of `max_pool`.
    """
    dx = np.zeros(x.size, dout.dtype)
    np.add.at(dx, max_pool_winners(x, size, stride, padding), dout)  # windows overlap where stride < size
    return dx.reshape(x.shape)


def average_pool(x: np.ndarray) -> np.ndarray:
    """Mean of every channel: (B, C, H, W) -> (B, C, 1, 1)."""
    return x.mean(axis=(2, 3), keepdims=True)

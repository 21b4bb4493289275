"""Convolution, its unshared cousin of YOLOv1 and the fully connected layer, without bias (SPEC 10).

All three are one matrix product once every window of the picture has become a column.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def columns(x: np.ndarray, size: int, stride: int, pad: int) -> np.ndarray:
    """Windows of a zero-padded picture: (B, C, H, W) -> (B, C, size, size, OH, OW), for im2col.

    `size`, `stride` and `pad` are in pixels, as for `conv2d`.
    """
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, (size, size), axis=(2, 3))[:, :, ::stride, ::stride]
    return windows.transpose(0, 1, 4, 5, 2, 3)


def conv2d(x: np.ndarray, weights: np.ndarray, stride: int = 1, pad: int = 0, groups: int = 1) -> np.ndarray:
    """Cross-correlation with zero padding.

    Parameters
    ----------
    x : ndarray, (B, C, H, W)
        Input.
    weights : ndarray, (N, C / groups, size, size)
        Square kernels; kernels of group g see the g-th slice of the channels only.
    stride, pad : int
        Step of the window, and border of zeros on every side, in pixels.
    groups : int
        Divides C and N.

    Returns
    -------
    ndarray, (B, N, OH, OW)
        OH = (H + 2 pad - size) // stride + 1, OW likewise.

    Raises
    ------
    ValueError
        If the channels of `x` and `weights` do not agree.
    """
    cols, kernels = _as_matrices(x, weights, stride, pad, groups)
    return (kernels @ cols).reshape(len(x), len(weights), *_out(x, weights, stride, pad))


def conv2d_grad(
    dout: np.ndarray, x: np.ndarray, weights: np.ndarray, stride: int = 1, pad: int = 0, groups: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """What `conv2d` sends back.

    Parameters
    ----------
    dout : ndarray, (B, N, OH, OW)
        dL/d(output).
    x, weights, stride, pad, groups
        The arguments of that call.

    Returns
    -------
    dx : ndarray, (B, C, H, W)
    dweights : ndarray, (N, C / groups, size, size)
        Summed over the batch.

    Raises
    ------
    ValueError
        If the channels of `x` and `weights` do not agree.
    """
    b, c, h, w = x.shape
    size = weights.shape[-1]
    cols, kernels = _as_matrices(x, weights, stride, pad, groups)
    oh, ow = dout.shape[2:]
    dout = dout.reshape(b, groups, -1, oh * ow)
    dweights = (dout @ cols.swapaxes(-1, -2)).sum(axis=0).reshape(weights.shape)

    dcols = (kernels.swapaxes(-1, -2) @ dout).reshape(b, c, size, size, oh, ow)
    dx = np.zeros((b, c, h + 2 * pad, w + 2 * pad), dcols.dtype)
    for ky in range(size):
        for kx in range(size):
            dx[:, :, ky : ky + stride * oh : stride, kx : kx + stride * ow : stride] += dcols[:, :, ky, kx]
    return dx[:, :, pad : pad + h, pad : pad + w], dweights


def local(x: np.ndarray, weights: np.ndarray, size: int, stride: int = 1, pad: int = 0) -> np.ndarray:
    """Convolution that has its own kernels at every place of the output.

    Parameters
    ----------
    x : ndarray, (B, C, H, W)
        Input.
    weights : ndarray, (OH * OW, N, C * size * size)
        One bank of kernels per place, row-major.
    size, stride, pad : int
        As for `conv2d`, in pixels.

    Returns
    -------
    ndarray, (B, N, OH, OW)

    Raises
    ------
    ValueError
        If there is not one bank per place: Darknet's rule for the size of this layer's output is
        that of a convolution for size = 2 pad + 1 or pad = 0 only.
    """
    places, n, _ = weights.shape
    cols = columns(x, size, stride, pad)
    oh, ow = cols.shape[-2:]
    if places != oh * ow:
        raise ValueError(f"{places} banks of kernels for {oh * ow} places")
    cols = cols.reshape(len(x), -1, places).transpose(2, 1, 0)  # (places, C size size, B)
    return (weights @ cols).transpose(2, 1, 0).reshape(len(x), n, oh, ow)


def connected(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of all inputs: x (B, ...) and weights (outputs, inputs) -> (B, outputs, 1, 1)."""
    return (x.reshape(len(x), -1) @ weights.T)[:, :, None, None]


def _out(x, weights, stride, pad):
    return tuple((n + 2 * pad - weights.shape[-1]) // stride + 1 for n in x.shape[2:])


def _as_matrices(x, weights, stride, pad, groups):
    """Windows (B, groups, K, OH OW) and kernels (groups, N / groups, K), K = C / groups * size * size."""
    if x.shape[1] != weights.shape[1] * groups:
        raise ValueError(f"{x.shape[1]} channels for kernels of {groups} x {weights.shape[1]}")
    k = weights[0].size
    cols = columns(x, weights.shape[-1], stride, pad).reshape(len(x), groups, k, -1)
    return cols, weights.reshape(groups, -1, k)

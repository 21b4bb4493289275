"""The layers that a picture meets first, as one: convolution, leaky, max pool (SPEC 10)."""

import numpy as np

from reference.activation import activate
from reference.conv import conv2d
from reference.pool import max_pool


def stem(x: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """A 3x3 convolution that keeps the size, leaky, and a 2x2 max pool that halves it.

    Parameters
    ----------
    x : ndarray, (B, 3, H, W)
        Pictures.
    weights : ndarray, (F, 3, 3, 3)
        One kernel a filter, batch norm folded into it.
    bias : ndarray, (F,)

    Returns
    -------
    ndarray, (B, F, ceil(H / 2), ceil(W / 2))
        Where H or W is odd, the last windows of the pool see what there is.
    """
    return max_pool(activate(conv2d(x, weights, pad=1) + bias[:, None, None], "leaky"))

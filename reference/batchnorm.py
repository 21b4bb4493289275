"""Batch normalisation in the two forms that matter for YOLOv2 (SPEC 10).

========= =========================== ==========================
form      "darknet" (its CPU code)    "cudnn" (and torch)
========= =========================== ==========================
divides   sqrt(variance) + 1e-6       sqrt(variance + 1e-5)
variance  sum of squares / (N - 1)    sum of squares / N
========= =========================== ==========================

Both put the variance with N - 1 into the rolling statistics, N = B * H * W.
"""

from typing import Literal, NamedTuple, get_args

import numpy as np

Form = Literal["darknet", "cudnn"]
MOMENTUM = 0.01


class BatchNorm(NamedTuple):
    """Output (B, C, H, W); mean and variance of the batch as used; rolling statistics after it, all (C,)."""

    output: np.ndarray
    mean: np.ndarray
    variance: np.ndarray
    rolling_mean: np.ndarray
    rolling_variance: np.ndarray


def batch_norm(
    x: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    form: Form = "darknet",
) -> np.ndarray:
    """scales * (x - mean) / deviation + biases, the inference form.

    Parameters
    ----------
    x : ndarray, (B, C, H, W)
        Input.
    scales, biases, mean, variance : ndarray, (C,)
        Learned scale and shift, (rolling) statistics.
    form : {"darknet", "cudnn"}
        Where the epsilon goes, see the table above.

    Returns
    -------
    ndarray, (B, C, H, W)

    Raises
    ------
    ValueError
        If `form` is unknown.
    """
    return _column(scales) * _normalise(x, mean, variance, form) + _column(biases)


def batch_norm_train(
    x: np.ndarray,
    scales: np.ndarray,
    biases: np.ndarray,
    rolling_mean: np.ndarray,
    rolling_variance: np.ndarray,
    form: Form = "darknet",
) -> BatchNorm:
    """Normalise by the statistics of the batch itself; shapes and arguments as for `batch_norm`.

    Returns
    -------
    BatchNorm

    Raises
    ------
    ValueError
        If `form` is unknown, or the batch has one value per channel, which has no variance.
    """
    count = x[:, 0].size
    if count < 2:
        raise ValueError("batch norm needs more than one value per channel to train")
    mean = x.mean(axis=(0, 2, 3))
    unbiased = x.var(axis=(0, 2, 3), ddof=1)
    variance = unbiased if form == "darknet" else x.var(axis=(0, 2, 3))
    return BatchNorm(
        batch_norm(x, scales, biases, mean, variance, form),
        mean,
        variance,
        (1 - MOMENTUM) * rolling_mean + MOMENTUM * mean,
        (1 - MOMENTUM) * rolling_variance + MOMENTUM * unbiased,
    )


def batch_norm_grad(
    dout: np.ndarray,
    x: np.ndarray,
    scales: np.ndarray,
    mean: np.ndarray,
    variance: np.ndarray,
    form: Form = "darknet",
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the training form sends back.

    Parameters
    ----------
    dout, x : ndarray, (B, C, H, W)
        dL/d(output), and the input of the forward pass.
    scales, mean, variance : ndarray, (C,)
        As used by the forward pass; `mean` and `variance` are those of the `BatchNorm`.
    form : {"darknet", "cudnn"}
        "cudnn" is the exact derivative. "darknet" is what that code computes: the same formula with
        the unbiased variance in it, and 1e-5 inside the root although its forward pass adds 1e-6 outside.

    Returns
    -------
    dx : ndarray, (B, C, H, W)
    dscales, dbiases : ndarray, (C,)

    Raises
    ------
    ValueError
        If `form` is unknown.
    """
    axes = (0, 2, 3)
    count = x[:, 0].size
    dscales = (dout * _normalise(x, mean, variance, form)).sum(axis=axes)
    dbiases = dout.sum(axis=axes)

    centred = x - _column(mean)
    d = dout * _column(scales)  # dL/d(normalised x)
    variance = variance + 1e-5
    dmean = -d.sum(axis=axes) / np.sqrt(variance)
    dvariance = -0.5 * variance**-1.5 * (d * centred).sum(axis=axes)
    dx = d / _column(np.sqrt(variance)) + (2 * _column(dvariance) * centred + _column(dmean)) / count
    return dx, dscales, dbiases


def _normalise(x, mean, variance, form):
    if form not in get_args(Form):
        raise ValueError(f"form: {form!r} is not one of {', '.join(get_args(Form))}")
    deviation = np.sqrt(variance) + 1e-6 if form == "darknet" else np.sqrt(variance + 1e-5)
    return (x - _column(mean)) / _column(deviation)


def _column(per_channel):
    return per_channel[:, None, None]

"""Activations and softmax (SPEC 10). Every derivative is a function of the OUTPUT, as Darknet takes it."""

import numpy as np

from reference.wordtree import IGNORED


def logistic(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), any shape, in float64 and rounded once to the dtype of `x`, as in C (SPEC 0).

    e is never raised to a positive power, so nothing overflows.
    """
    e = np.exp(-np.abs(x), dtype=np.float64)
    return (np.where(x >= 0, 1, e) / (1 + e)).astype(x.dtype)


ACTIVATIONS = {
    "linear": lambda x: x,
    "leaky": lambda x: np.where(x > 0, x, 0.1 * x),
    "relu": lambda x: np.maximum(x, 0),
    "logistic": logistic,
}
DERIVATIVES = {
    "linear": lambda y: np.ones_like(y),
    "leaky": lambda y: np.where(y > 0, 1, 0.1).astype(y.dtype),
    "relu": lambda y: (y > 0).astype(y.dtype),
    "logistic": lambda y: y * (1 - y),
}


def activate(x: np.ndarray, name: str) -> np.ndarray:
    """Apply an activation.

    Parameters
    ----------
    x : ndarray
        Any shape, float32 or float64.
    name : {"linear", "leaky", "relu", "logistic"}
        Leaky has slope 0.1 at and below 0.

    Returns
    -------
    ndarray
        Shape and dtype of `x`.

    Raises
    ------
    ValueError
        If `name` is not one of the above.
    """
    return _lookup(ACTIVATIONS, name)(x)


def activate_grad(y: np.ndarray, name: str) -> np.ndarray:
    """Derivative of an activation at the input that gave the output `y`; otherwise as `activate`."""
    return _lookup(DERIVATIVES, name)(y)


def _lookup(table, name):
    if name not in table:
        raise ValueError(f"activation {name!r} is not one of {', '.join(table)}")
    return table[name]


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """exp(x) / sum(exp(x)) along `axis`, of the shape and dtype of `x`.

    The maximum is subtracted first, so nothing overflows.
    """
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def cross_entropy(probabilities: np.ndarray, truth: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss of a softmax layer, and what it sends back (SPEC 10).

    Parameters
    ----------
    probabilities : ndarray
        Output of the softmax, any shape.
    truth : ndarray
        Same shape: 1 for the true classes (a tree has one per group), 0 for the others, and `IGNORED`
        for whole groups of a tree that the label says nothing about.

    Returns
    -------
    cost : float
        Sum of -ln p over the true entries.
    delta : ndarray
        Same shape: truth - p, the descent direction for the scores that went into the softmax; 0 where
        ignored.
    """
    ignored = truth == IGNORED
    cost = -np.log(probabilities[(truth != 0) & ~ignored]).sum()
    return cost, np.where(ignored, 0, truth - probabilities)

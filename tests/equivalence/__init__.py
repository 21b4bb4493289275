"""One suite that holds every backend of `fast` to the oracle, a file for each operation.

Real numbers follow a rule by measurement: the oracle is computed in float64, and a backend may be at most
twice as far from it as the oracle's own float32 run is, plus `k` roundings of the largest value. Indices,
masks, counts and kept boxes are equal.
"""

import numpy as np
import torch

#: float16 and bfloat16 results are float32 ones, rounded once
EPS = {
    torch.float64: 2.0**-52,
    torch.float32: 2.0**-23,
    torch.float16: 2.0**-10,
    torch.bfloat16: 2.0**-7,
}


def close(got: torch.Tensor, oracle: np.ndarray, twin: np.ndarray, k: float, scale: float = 0.0) -> None:
    """Fail unless ``|got - oracle| <= 2 max|twin - oracle| + k eps scale``.

    Parameters
    ----------
    got : Tensor
        What a backend computed.
    oracle : ndarray, float64
        The truth.
    twin : ndarray
        The oracle run in the precision the backend computes in.
    k : float
        Roundings of the largest finite value that are allowed besides; eps is that of `got`'s dtype.
    scale : float
        Size of what the values are differences of, if that is larger than the largest of them.
    """
    oracle, twin = np.asarray(oracle, np.float64), np.asarray(twin, np.float64)
    assert tuple(got.shape) == oracle.shape
    value = got.detach().double().cpu().numpy()
    finite = np.isfinite(oracle) & np.isfinite(twin)  # elsewhere: NaN and infinities where the twin has them
    np.testing.assert_array_equal(value[~finite], twin[~finite])
    if not finite.any():
        return
    oracle, twin, value = oracle[finite], twin[finite], value[finite]
    allowed = 2 * np.abs(twin - oracle).max() + k * EPS[got.dtype] * max(scale, np.abs(oracle).max())
    off = np.abs(value - oracle)
    worst = np.nan_to_num(off, nan=np.inf).argmax()
    assert off[worst] <= allowed, (
        f"{value[worst]}, not {oracle[worst]}: off by {off[worst]:.3g} > {allowed:.3g}"
    )


def equal(got: torch.Tensor, want: np.ndarray) -> None:
    """Fail unless all values are equal."""
    np.testing.assert_array_equal(got.detach().cpu().numpy(), want)

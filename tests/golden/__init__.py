"""Numbers computed by the original C implementation, and the checks that hold this library to them.

The numbers lie beside the project in ``../shared/golden`` (or ``$YOLOV2_SHARED/golden``) and are never part
of it. ``python -m tests.golden`` prints one line per group; `tests/test_golden.py` runs every case.

A check is a generator registered for one group. It gets a `Case` and yields one `Comparison` per quantity::

    @check("reorg")
    def reorg_case(case):
        yield compare("output", reorg(case["input"], ...), case["output"], atol=0)
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

SHARED = Path(os.environ.get("YOLOV2_SHARED", Path(__file__).resolve().parents[3] / "shared"))
GOLDEN = SHARED / "golden"
DATA = SHARED / "data"


@dataclass(frozen=True)
class Case:
    """One golden case; ``case["output"]`` is an array of its .npz, `config` its settings."""

    file: str
    group: str
    name: str
    config: dict

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        if not self.file.endswith(".npz"):
            return {}
        with np.load(self.path) as archive:
            return dict(archive)

    @property
    def path(self) -> Path:
        return GOLDEN / self.file

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays


@dataclass(frozen=True)
class Comparison:
    """The worst value of a quantity: the one that uses most of its tolerance ``atol + rtol |want|``."""

    quantity: str
    error: float  # |got - want| there
    share: float  # error / tolerance there; more than 1 fails, and any error does where exact is asked
    tolerance: str


def compare(quantity: str, got, want, atol: float = 0.0, rtol: float = 0.0) -> Comparison:
    """Measure how far `got` is from `want`; NaNs must coincide, shapes must be equal."""
    got, want = np.asarray(got), np.asarray(want)
    tolerance = " + ".join([f"{atol:g}"] * bool(atol) + [f"{rtol:g} relative"] * bool(rtol)) or "exact"
    if got.shape != want.shape:
        raise AssertionError(f"{quantity}: shape {got.shape}, golden {want.shape}")
    if not want.size:
        return Comparison(quantity, 0.0, 0.0, tolerance)
    got, want = got.astype(np.float64), want.astype(np.float64)
    if not np.array_equal(np.isnan(got), np.isnan(want)):
        raise AssertionError(f"{quantity}: NaN at other places than in the golden array")
    same = (got == want) | np.isnan(want)
    error = np.where(same, 0.0, np.abs(np.where(same, 0.0, got) - np.where(same, 0.0, want)))
    allowed = atol + rtol * np.abs(np.where(same, 0.0, want))
    share = np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)
    worst = np.unravel_index(share.argmax(), share.shape)
    return Comparison(quantity, float(error[worst]), float(share[worst]), tolerance)


CHECKS: dict[str, Callable[[Case], Iterator[Comparison]]] = {}


def check(group: str):
    """Register the check of a group of cases."""

    def register(function):
        assert group not in CHECKS, f"two checks for {group}"
        CHECKS[group] = function
        return function

    return register


def cases() -> list[Case]:
    """All cases of the index, in its order; none where the golden folder is absent."""
    if not GOLDEN.is_dir():
        return []
    index = json.loads((GOLDEN / "index.json").read_text())
    found = [Case(e["file"], e["group"], e["name"], e.get("config", {})) for e in index]
    rates = "schedule/rates.json"  # one case per schedule, which the index does not list
    schedules = json.loads((GOLDEN / rates).read_text())
    return found + [Case(rates, "schedule", name, config) for name, config in schedules.items()]


from tests.golden import grid, layers, pictures, region, train, tree  # noqa: E402, F401  (they register their checks)

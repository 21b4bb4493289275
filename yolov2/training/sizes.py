"""Multi-scale training: a new input size every ten updates (paper 2, sec. 2; SPEC 16)."""

from dataclasses import dataclass

import numpy as np

EVERY = 10  # updates of one size
LAST = 200  # updates at the end that are of the largest size


@dataclass(frozen=True)
class Sizes:
    """Side of the input at every update: a function of its number, so that any process and any thread knows.

    Parameters
    ----------
    smallest, largest : int
        Range of sides in pixels, multiples of `stride`; equal ones train at one size.
    updates : int
        All of the training. Its last 200, or its last tenth if that is less, are of the largest size.
    seed : int
        Decides the draws.
    stride : int
        Side of a cell in pixels.
    """

    smallest: int
    largest: int
    updates: int
    seed: int = 0
    stride: int = 32

    def __call__(self, update: int) -> int:
        """Side in pixels of update 0, 1, 2, ..."""
        if self.smallest == self.largest:
            return self.largest
        first = update // EVERY * EVERY  # like the original, it looks only when ten updates are over
        if first + min(LAST, self.updates // 10) > self.updates:
            return self.largest
        steps = (self.largest - self.smallest) // self.stride
        rng = np.random.default_rng([self.seed, 0x512E, first])
        return self.smallest + self.stride * int(rng.integers(steps + 1))

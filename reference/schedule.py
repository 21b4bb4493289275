"""Learning rate schedules (SPEC 17)."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from reference.activation import logistic

Policy = Literal["constant", "step", "steps", "exp", "poly", "sigmoid"]


@dataclass(frozen=True)
class Schedule:
    """How the learning rate follows the number of the batch.

    Parameters
    ----------
    learning_rate : float
        Rate that everything below multiplies.
    policy : {"constant", "step", "steps", "exp", "poly", "sigmoid"}
        The formula, see `learning_rate`. (Darknet's "random" is no function of the batch.)
    burn_in : int
        During the first `burn_in` batches the rate climbs to `learning_rate`, whatever the policy.
    power : float
        Exponent of "poly" and of the burn-in.
    steps, scales : tuple of int, tuple of float
        "steps" multiplies by scales[i] from batch steps[i] on.
    step, scale : int, float
        "step" multiplies by `scale` every `step` batches; `step` is also the middle of "sigmoid".
    gamma : float
        Base of "exp", steepness of "sigmoid".
    max_batches : int
        Batches to train for; 0 if unknown.

    Raises
    ------
    ValueError
        If the policy is unknown or its own settings make no sense.
    """

    learning_rate: float = 0.001
    policy: Policy = "constant"
    burn_in: int = 0
    power: float = 4.0
    steps: tuple[int, ...] = ()
    scales: tuple[float, ...] = ()
    step: int = 1
    scale: float = 1.0
    gamma: float = 1.0
    max_batches: int = 0

    def __post_init__(self):
        if self.policy not in get_args(Policy):
            raise ValueError(f"policy: {self.policy!r} is not one of {', '.join(get_args(Policy))}")
        if len(self.steps) != len(self.scales):
            raise ValueError(f"steps: {len(self.steps)} steps for {len(self.scales)} scales")
        if self.policy == "poly" and self.max_batches < 1:
            raise ValueError("max_batches: needed by the policy 'poly'")
        if self.policy == "step" and self.step < 1:
            raise ValueError(f"step: {self.step} is not a positive number of batches")


def learning_rate(schedule: Schedule, batch_num: int, unsigned_quirk: bool = False) -> float:
    """Rate of one update.

    Parameters
    ----------
    schedule : Schedule
        The settings.
    batch_num : int
        Pictures seen // pictures per update, counted when updating: 1 for the first update of a fresh run.
    unsigned_quirk : bool
        Compute as Darknet does since 2017-06, with an unsigned batch number: a negative step is then a
        huge one and never reached (yolov2-tiny-voc.cfg has steps=-1,...), nor does "sigmoid" leave 0
        below its step. The default is what the settings mean, and what Darknet did before.

    Returns
    -------
    float
        The learning rate.
    """
    s, n = schedule, batch_num
    wrap = (lambda k: k % 2**64) if unsigned_quirk else int
    if n < s.burn_in:
        return s.learning_rate * (n / s.burn_in) ** s.power
    match s.policy:
        case "constant":
            factor = 1.0
        case "step":
            factor = s.scale ** (n // s.step)
        case "steps":
            factor = 1.0
            for step, scale in zip(s.steps, s.scales, strict=True):
                if wrap(step) > n:
                    break
                factor *= scale
        case "exp":
            factor = s.gamma**n
        case "poly":
            # Darknet takes this difference in float32; at the very end little else is left of it.
            factor = float(np.float32(1) - np.float32(n) / np.float32(s.max_batches)) ** s.power
        case "sigmoid":
            factor = float(logistic(np.array(-s.gamma * wrap(n - s.step))))
    return s.learning_rate * factor

"""Learning rates: every policy at points worked out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.schedule import Schedule, learning_rate


@pytest.mark.parametrize(
    ("schedule", "batch_num", "rate"),
    [
        (Schedule(0.02), 10**6, 0.02),
        (Schedule(0.02, "step", step=10, scale=0.5), 9, 0.02),
        (Schedule(0.02, "step", step=10, scale=0.5), 25, 0.02 / 4),
        (Schedule(1.0, "steps", steps=(10, 20), scales=(0.5, 0.1)), 9, 1.0),
        (Schedule(1.0, "steps", steps=(10, 20), scales=(0.5, 0.1)), 10, 0.5),
        (Schedule(1.0, "steps", steps=(10, 20), scales=(0.5, 0.1)), 20, 0.05),
        (Schedule(1.0, "exp", gamma=0.5), 3, 1 / 8),
        (Schedule(1.0, "poly", max_batches=100), 50, 1 / 16),  # power 4
        (Schedule(1.0, "poly", max_batches=100, power=2), 50, 1 / 4),
        (Schedule(1.0, "sigmoid", gamma=0.1, step=30), 30, 1 / 2),
        (Schedule(1.0, "sigmoid", gamma=0.1, step=30), 10, 1 / (1 + 2.718281828**-2)),
        (Schedule(0.1, burn_in=10), 5, 0.1 / 16),
        (Schedule(0.1, "exp", gamma=0.5, burn_in=10, power=1), 5, 0.05),  # the policy has to wait
        (Schedule(0.1, burn_in=10), 10, 0.1),
    ],
)
def test_by_hand(schedule, batch_num, rate):
    assert learning_rate(schedule, batch_num) == pytest.approx(rate, rel=1e-6)


def test_burn_in_ends_where_the_policy_would_have_been():
    schedule = Schedule(0.1, "exp", gamma=0.5, burn_in=3, power=1)
    assert learning_rate(schedule, 2) == pytest.approx(0.1 * 2 / 3)
    assert learning_rate(schedule, 3) == pytest.approx(0.1 / 8)


TINY_VOC = Schedule(1.0, "steps", steps=(-1, 100, 20000, 30000), scales=(0.1, 10.0, 0.1, 0.1))


@pytest.mark.parametrize(("batch_num", "rate"), [(1, 0.1), (99, 0.1), (100, 1), (20000, 0.1), (30000, 0.01)])
def test_steps_of_minus_1_mean_from_the_start(batch_num, rate):
    assert learning_rate(TINY_VOC, batch_num) == pytest.approx(rate)


@pytest.mark.parametrize("batch_num", [1, 99, 100, 20000, 30000])
def test_unsigned_darknet_never_gets_past_minus_1(batch_num):
    assert learning_rate(TINY_VOC, batch_num, unsigned_quirk=True) == 1.0


def test_unsigned_darknet_has_no_sigmoid_below_its_step():
    schedule = Schedule(1.0, "sigmoid", gamma=0.1, step=30)
    assert learning_rate(schedule, 29, unsigned_quirk=True) == 0
    assert learning_rate(schedule, 30, unsigned_quirk=True) == 0.5


@given(st.integers(0, 99), st.floats(0.5, 8))
def test_burn_in_climbs_to_the_rate(n, power):
    schedule = Schedule(0.1, burn_in=100, power=power)
    assert learning_rate(schedule, n) < learning_rate(schedule, n + 1) <= 0.1


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"policy": "random"}, "policy: 'random' is not one of constant"),
        ({"policy": "poly"}, "max_batches: needed"),
        ({"policy": "step", "step": 0}, "step: 0 is not"),
        ({"policy": "steps", "steps": (1, 2), "scales": (0.1,)}, "2 steps for 1 scales"),
    ],
)
def test_settings_without_meaning_are_refused(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        Schedule(**settings)

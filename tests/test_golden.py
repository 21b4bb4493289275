"""Every case of ../shared/golden, at the tolerances its README suggests."""

import pytest

from tests.golden import CHECKS, GOLDEN, cases

CASES = cases()


@pytest.mark.skipif(
    not CASES, reason=f"GOLDEN NUMBERS ABSENT: {GOLDEN} does not exist; nothing proven against C"
)
def test_every_case_has_a_check():
    assert {case.group for case in CASES} <= set(CHECKS)
    assert len(CASES) == 105


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}/{case.name}")
def test_golden(case):
    comparisons = list(CHECKS[case.group](case))
    assert comparisons, "the check compared nothing"
    for c in comparisons:
        assert c.share <= 1, f"{c.quantity}: off by {c.error:.3g}, allowed {c.tolerance}"

"""What every test sees: Hypothesis settings fit for slow, noisy machines, and a header that says what ran."""

import torch
from hypothesis import HealthCheck, settings

from tests.golden import GOLDEN

# examples are counted, not timed: two shared cores are no stopwatch
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def pytest_report_header():
    """Name the proofs that this machine can run."""
    golden = f"golden numbers in {GOLDEN}" if GOLDEN.is_dir() else f"GOLDEN NUMBERS ABSENT ({GOLDEN})"
    return f"backends: torch {torch.__version__} (cpu); {golden}"

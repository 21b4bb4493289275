"""What every test sees: Hypothesis settings fit for slow, noisy machines, and a header that says what ran."""

import os
import signal

import pytest
import torch
from hypothesis import HealthCheck, settings

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it once, when it is imported

from tests.backends import BACKENDS
from tests.commands import TINY, command, make_voc
from tests.golden import GOLDEN
from yolov2 import train

settings.register_profile(
    "default",
    deadline=None,  # examples are counted, not timed: two shared cores are no stopwatch
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,  # there the examples of yesterday, so that red means the change
)
settings.load_profile("default")
torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


def pytest_collection_modifyitems(items):
    """Branches that only kernels have are no tests of torch."""
    items[:] = [
        item
        for item in items
        if not item.get_closest_marker("kernels") or item.callspec.params["backend"].kernels
    ]


@pytest.fixture(autouse=True)
def ctrl_c():
    """SIGINT raises KeyboardInterrupt, also where a shell started pytest in the background, deaf to it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def pytest_report_header():
    """Name the proofs that this machine can run."""
    golden = f"golden numbers in {GOLDEN}" if GOLDEN.is_dir() else f"GOLDEN NUMBERS ABSENT ({GOLDEN})"
    names = ", ".join(b.name for b in BACKENDS)
    return f"backends: {names} (torch {torch.__version__}); {golden}"


def pytest_configure(config):
    """Fail at once where a backend is asked for that this machine does not have."""
    wanted = config.getoption("require_backend")
    alive = [b.name for b in BACKENDS]
    if wanted and not set(wanted) <= set(alive):
        raise pytest.UsageError(f"--require-backend {' '.join(wanted)}: alive here are {', '.join(alive)}")


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """A data set of six and two pictures of 64 pixels; not to be changed."""
    return make_voc(tmp_path_factory.mktemp("data") / "blocks")


@pytest.fixture(scope="session")
def small_run(small_data, tmp_path_factory):
    """The folder of a finished run on `small_data`; not to be changed."""
    project = tmp_path_factory.mktemp("runs")
    assert command(train.main, "--data", small_data, "--project", project, *TINY) == 0
    return project / "train"

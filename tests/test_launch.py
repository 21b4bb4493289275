"""Which backend runs, how to choose it, and that `fast` does without Triton where there is none."""

import os
import subprocess
import sys

import pytest
import torch

from fast import _launch
from fast.detect import detect
from fast.reorg import reorg
from reference.region import Region
from tests.strategies import TREE


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Python in a process of its own, with a clean choice of backend."""
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "YOLOV2_BACKEND")}
    return subprocess.run(
        [sys.executable, "-c", code], env=env | environment, capture_output=True, text=True, check=False
    )


def test_cpu_tensors_take_torch():
    assert not _launch.use_triton(torch.zeros(1))


def test_choice_lasts_as_long_as_asked():
    with _launch.use_backend("triton"):
        assert _launch.use_triton(torch.zeros(1)) == _launch.triton_installed()
        with _launch.use_backend("torch"):
            assert not _launch.use_triton(torch.zeros(1))
    assert not _launch.use_triton(torch.zeros(1))


def test_choice_ends_with_an_error():
    with pytest.raises(RuntimeError, match="on purpose"), _launch.use_backend("triton"):
        raise RuntimeError("on purpose")
    assert not _launch.use_triton(torch.zeros(1))


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    is_cuda = True


def test_environment_keeps_to_torch():
    code = "import tests.test_launch as t, torch; print(t._launch.use_triton(t.OnGpu()))"
    assert run(code, YOLOV2_BACKEND="torch").stdout.strip() == "False"
    assert run(code).stdout.strip() == str(_launch.triton_installed())


def test_a_misspelt_backend_is_said():
    result = run("import fast.detect", YOLOV2_BACKEND="cuda")
    assert result.returncode
    assert "YOLOV2_BACKEND=cuda: not one of auto, torch" in result.stderr


def test_the_cpu_needs_no_triton():
    """Neither imported nor installed: `fast`, training and detection import and run."""
    code = """
import sys, torch
sys.modules["triton"] = None  # importing it fails
import yolov2.train, yolov2.detect
from fast.detect import detect
from reference.region import Region
region = Region(((1.0, 1.0),), 2)
print(int(detect(torch.ones(1, 7, 2, 2), region, 0.1).count))
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) > 0


def test_recording_runs_nothing():
    if not _launch.triton_installed():
        pytest.skip("TRITON IS NOT INSTALLED: no kernel can be recorded")
    region = Region(((1.0, 1.0),), 2)
    with _launch.recording() as launches:
        detect(torch.zeros(1, 7, 2, 2), region)
        reorg(torch.zeros(1, 4, 2, 2))
    assert [launch.warps for launch in launches] == [4, 4]
    assert "BOXES" in launches[0].constants


def test_settings_survive_the_way_through_text():
    region = Region(
        ((1.5, 2.0),), len(TREE.parents), "tree", TREE, class_map=(3, 1), rescore=False, prior_scale=0.5
    )
    back = _launch.region_of(region.settings)
    assert back.tree is not None and back.tree.parents == TREE.parents
    assert back.settings == region.settings
    assert (back.anchors, back.class_map, back.rescore, back.prior_scale) == (
        ((1.5, 2.0),),
        (3, 1),
        False,
        0.5,
    )
    with pytest.raises(TypeError):
        Region.from_settings('{"anchors": [[1, 1]], "class_map": null, "tree": null}')


@pytest.mark.parametrize("warps", [1, 2, 4, 8, 16, 32])
def test_all_registers_fit_a_multiprocessor(warps):
    assert _launch.all_registers(warps) * 32 * warps <= 65536

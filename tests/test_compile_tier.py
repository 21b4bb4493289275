"""Every kernel compiles for four GPUs that are not here, and keeps its values in registers there."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.compile import TARGETS
from fast._launch import triton_installed

ROOT = Path(__file__).parents[1]
# functions under @triton.jit that are launched; their helpers have other names
KERNELS = {
    node.name
    for path in (ROOT / "fast/kernels").glob("*.py")
    for node in ast.parse(path.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel")
    if any("jit" in ast.unparse(d) for d in node.decorator_list)
}

pytestmark = pytest.mark.skipif(
    not triton_installed(), reason="TRITON IS NOT INSTALLED: NO KERNEL IS COMPILED"
)


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """All of `benchmarks.compile`, in a process without the interpreter."""
    file = tmp_path_factory.mktemp("compile") / "reports.json"
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.compile", "--json", str(file)]
    run = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert file.exists(), run.stdout[-4000:] + run.stderr[-4000:]
    return json.loads(file.read_text())["reports"]


@pytest.mark.parametrize("target", TARGETS)
def test_kernels_fit(reports, target):
    """They compile, spill no register and find room for their shared memory."""
    here = [r for r in reports if r["target"] == target]
    unfit = [
        f"{r['kernel']}, {r['warps']} warps, {r['constants']} ({r['case']}): {r['problem']}"
        for r in here
        if r["problem"]
    ]
    assert not unfit, f"for {target}:\n" + "\n".join(unfit)


def test_every_kernel_is_among_them(reports):
    """A new kernel needs a case in benchmarks/every_kernel.py."""
    for target in TARGETS:
        assert {r["kernel"] for r in reports if r["target"] == target} == KERNELS

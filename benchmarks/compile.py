"""Compile every kernel for GPUs that are not here, and read what it needs of them.

    python -m benchmarks.compile                    # the table; Triton caches what it compiles
    python -m benchmarks.compile --json FILE --markdown FILE

The launches of `benchmarks.every_kernel` are recorded instead of run, specialised by Triton's own launcher
code (integers that are 1 become constants, those divisible by 16 and aligned pointers say so) and compiled
as `fast._launch.launch` would have it. A kernel that spills registers to memory or needs more shared memory
than a program may have fails.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from shutil import which
from typing import Any, NamedTuple


class Target(NamedTuple):
    """A GPU to compile for, in Triton's terms, and the shared memory that a program may have there."""

    backend: str
    arch: int | str
    lanes: int
    shared: int


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 163 << 10),
    "sm_90": Target("cuda", 90, 32, 227 << 10),
    "sm_100": Target("cuda", 100, 32, 227 << 10),
    "gfx942": Target("hip", "gfx942", 64, 64 << 10),
}
#: compiled in every variant; the others in one dtype and layout of each set of constants
FIRST = "sm_90"
NUMBERS = ("registers", "shared", "spills")


@dataclasses.dataclass
class Job:
    """One specialisation of one kernel for one target; picklable, so that another process can compile it."""

    module: str
    kernel: str
    case: str  # the first case of every_kernel that launches it
    target: str
    flags: dict[str, Any]  # Triton's options
    signature: dict[str, str]
    constexprs: dict[tuple[int, ...], Any]
    attrs: dict[tuple[int, ...], Any]
    constants: dict[str, Any]

    @property
    def key(self) -> str:
        """Equal keys are the same machine code."""
        return repr((self.module, self.kernel, self.target, self.flags, *self._specialisation()))

    def _specialisation(self) -> Iterable[Any]:
        return (sorted(self.signature.items()), sorted(self.constexprs.items()), sorted(self.attrs.items()))

    @property
    def form(self) -> str:
        """Equal forms differ in dtypes, layout or sizes only."""
        return repr((self.module, self.kernel, self.target, self.flags, sorted(self.constants.items())))


@dataclasses.dataclass
class Report:
    """What a compiled kernel needs."""

    kernel: str
    case: str
    constants: dict[str, Any]
    target: str
    warps: int
    registers: int = 0  # of a thread
    shared: int = 0  # bytes of a program
    spills: int = 0  # instructions that move registers of a thread to memory and back
    seconds: float = 0.0
    error: str = ""

    @property
    def problem(self) -> str:
        """Why this kernel must not be launched, or nothing."""
        if self.error:
            return self.error
        if self.spills:
            return f"registers spilled: {self.spills} instructions"
        if self.shared > TARGETS[self.target].shared:
            return f"{self.shared} bytes of shared memory of {TARGETS[self.target].shared}"
        return ""

    def __str__(self) -> str:
        return f"{self.kernel} for {self.target}, {self.warps} warps, {self.constants} ({self.case})"


def record(only: str = "", targets: Iterable[str] = tuple(TARGETS)) -> list[Job]:
    """What the cases whose name contains `only` launch, each specialisation once for every target."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    from benchmarks.every_kernel import cases
    from fast import _launch

    backends = {name: make_backend(GPUTarget(*TARGETS[name][:3])) for name in targets}
    binders: dict[tuple, Callable] = {}
    jobs: dict[str, Job] = {}
    forms: set[str] = set()
    for case, call in cases("cpu"):
        if only not in case:
            continue
        # nothing has run, so what else an operation does with the results may fail
        with _launch.recording() as launches, suppress(IndexError, RuntimeError):
            call()
        for kernel, args, warps, alone, constants in launches:
            for target, backend in backends.items():
                # what JITFunction.run passes on, see fast._launch.launch
                flags = {"num_warps": warps, "enable_fp_fusion": False, "debug": False}
                if alone and TARGETS[target].backend == "cuda":
                    flags["maxnreg"] = _launch.all_registers(warps)
                options = flags | constants
                if (kernel, target) not in binders:
                    binders[kernel, target] = create_function_from_signature(
                        kernel.signature, kernel.params, backend
                    )
                bound, specialised, rest = binders[kernel, target](*args, **options)
                _, signature, constexprs, attrs = kernel._pack_args(
                    backend, dict(options), bound, specialised, rest
                )
                function = kernel.fn
                names = function.__module__, function.__name__
                job = Job(*names, case, target, flags, signature, constexprs, attrs, constants)
                if job.key in jobs or (target != FIRST and job.form in forms):
                    continue
                jobs[job.key] = job
                forms.add(job.form)
    return list(jobs.values())


def build(job: Job) -> Report:
    """Compile one job and read its resources."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    report = Report(job.kernel, job.case, job.constants, job.target, job.flags["num_warps"])
    start = time.perf_counter()
    try:
        kernel = getattr(import_module(job.module), job.kernel)
        target = GPUTarget(*TARGETS[job.target][:3])
        options = make_backend(target).parse_options(dict(job.flags))
        source = ASTSource(kernel, job.signature, job.constexprs, job.attrs)
        built = triton.compile(source, target=target, options=options.__dict__)
        read = cuda_resources if target.backend == "cuda" else hip_resources
        report.registers, static, report.spills = read(built.asm)
        report.shared = max(static, built.metadata.shared)
    except Exception as error:  # the table names it, with its kernel and variant
        report.error = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
    report.seconds = time.perf_counter() - start
    return report


def nvidia_tool(name: str) -> str:
    """Path of a tool of CUDA's: Triton's own copy, or what is installed."""
    import triton

    beside = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    tool = str(beside) if beside.exists() else which(name)
    if tool is None:
        raise RuntimeError(f"{name} is neither in the Triton package nor on the PATH")
    return tool


def cuda_resources(asm: dict[str, Any]) -> tuple[int, int, int]:
    """Registers, static shared memory and spilled registers of a cubin."""
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "k.cubin")
        cubin.write_bytes(asm["cubin"])
        text = subprocess.run(
            [nvidia_tool("cuobjdump"), "--dump-resource-usage", cubin],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", text)}
        spills = 0
        if found["STACK"] + found["LOCAL"]:
            # a frame alone is no spill (a call of the slow path of a division has one): something must use it
            code = subprocess.run(
                [nvidia_tool("nvdisasm"), cubin], capture_output=True, text=True, check=True
            ).stdout
            spills = len(re.findall(r"\b(STL|LDL)\b", code))
    return found["REG"], found["SHARED"], spills


def hip_resources(asm: dict[str, Any]) -> tuple[int, int, int]:
    """Vector registers, static shared memory and spilled registers, from the metadata of the assembly."""
    # scalar registers spill into lanes of vector registers, which is no memory
    keys = "vgpr_count|vgpr_spill_count|group_segment_fixed_size|private_segment_fixed_size"
    found = {k: int(v) for k, v in re.findall(rf"\.({keys}):\s+(\d+)", asm["amdgcn"])}
    spilled = max(found["vgpr_spill_count"], found["private_segment_fixed_size"] // 4)
    return found["vgpr_count"], found["group_segment_fixed_size"], spilled


def build_all(jobs: list[Job], workers: int = 2) -> list[Report]:
    """Compile in several processes, which keeps the order of `jobs`."""
    if workers == 1:
        return [build(job) for job in jobs]
    # fresh processes: torch has threads, which a fork would lose
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(build, jobs, chunksize=2))


def table(reports: list[Report], every: bool = False, markdown: bool = False) -> str:
    """One line a kernel and target, or with `every` also a set of constants: the worst of what it covers."""
    groups: dict[tuple[str, ...], list[Report]] = {}
    for r in reports:
        constants = ", ".join(f"{k}={v}" for k, v in r.constants.items())
        variant = (constants, str(r.warps)) if every else ()
        groups.setdefault((r.kernel, *variant, r.target), []).append(r)
    head = ("kernel", *(("constants", "warps") if every else ()), "target", "built", *NUMBERS)
    lines = [head]
    for names, rs in groups.items():
        built = [r for r in rs if not r.error]
        worst = [str(max(getattr(r, k) for r in built)) if built else "-" for k in NUMBERS]
        number = str(len(rs)) if len(built) == len(rs) else f"{len(built)} of {len(rs)}"
        lines.append((*names, number, *worst))
    if markdown:
        rows = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([rows[0], "|" + "---|" * len(head), *rows[1:]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Compile and print; the exit code is 1 if a kernel fails, spills or needs too much shared memory."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases of every_kernel containing this")
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated; default: all")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--every", action="store_true", help="one line each set of constants")
    parser.add_argument("--json", type=Path, help="write every single report here")
    parser.add_argument("--markdown", type=Path, help="write the table here")
    args = parser.parse_args(argv)
    os.environ.pop("TRITON_INTERPRET", None)  # with it Triton would hand out no kernels to compile

    from fast._launch import triton_installed

    if not triton_installed():
        print("TRITON IS NOT INSTALLED: nothing was compiled")
        return 2
    import triton

    start = time.perf_counter()
    reports = build_all(record(args.only, args.target or tuple(TARGETS)), args.workers)
    bad = [r for r in reports if r.problem]
    print(table(reports, args.every))
    print("numbers are the worst of what a line covers; spills are instructions (gfx942: registers)")
    seconds = time.perf_counter() - start
    print(
        f"Triton {triton.__version__}: {len(reports)} kernels compiled in {seconds:.0f} s, {len(bad)} unfit"
    )
    for r in bad:
        print(f"UNFIT: {r}: {r.problem}")
    if args.json:
        rows = [dataclasses.asdict(r) | {"problem": r.problem} for r in reports]
        args.json.write_text(json.dumps({"triton": triton.__version__, "reports": rows}, indent=1))
    if args.markdown:
        args.markdown.write_text(table(reports, args.every, markdown=True) + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

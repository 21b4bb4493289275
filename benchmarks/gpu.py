"""Everything that needs a GPU, from one script: proofs, sanitizers, benchmarks.

    python -m benchmarks.gpu --list
    python -m benchmarks.gpu --out DIR --stage equivalence --stage compile
    python -m benchmarks.gpu --out DIR --stage bench              # all whose names begin so
    python -m benchmarks.gpu --out DIR --seconds 570              # all that fits into so long

Every stage ends within nine minutes and leaves DIR/STAGE.log, benchmarks also DIR/bench_NAME.json. Nothing is
downloaded and nothing has to be installed but the libraries: it runs from a bare copy of the repository.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LIMIT = 540  # seconds a stage
PROOFS = sorted(p.stem.removeprefix("test_") for p in (ROOT / "tests/equivalence").glob("test_*.py"))
BENCHMARKS = sorted(p.stem.removeprefix("bench_") for p in Path(__file__).parent.glob("bench_*.py"))
ANIMALS = ROOT / "data/VOC2012"  # where somebody put the pictures of Pascal VOC 2012
TOOLS = {
    "memcheck": "accesses out of bounds",
    "racecheck": "shared memory without a barrier",
    "synccheck": "barriers that not all reach",
    "initcheck": "reads of what nobody wrote",
}


@dataclass
class Command:
    """One process of a stage."""

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    may_fail: bool = False  # only prepares


class Plan(NamedTuple):
    """What a stage may ask about its surroundings."""

    out: Path
    rehearse: bool  # no GPU: as far as the interpreter goes, and small


class Stage(NamedTuple):
    """A named part of the work."""

    about: str
    commands: Callable[[Plan], list[Command]]


def python(*args: str, **env: str) -> Command:
    """This interpreter with `args`."""
    return Command([sys.executable, *args], env)


def pytest(*args: str) -> Command:
    """Pytest, which writes no cache into a copy that may be read-only."""
    return python("-m", "pytest", "-q", "-p", "no:cacheprovider", *args)


def equivalence(name: str) -> Callable[[Plan], list[Command]]:
    """One file of the suite that holds the kernels to the oracle."""

    def commands(plan: Plan) -> list[Command]:
        file = f"tests/equivalence/test_{name}.py"
        if plan.rehearse:
            return [pytest(file, "--require-backend", "triton-interpret")]
        # most of the time goes into compiling what examples of all shapes need, which many processes share
        many = ["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []
        return [pytest(file, "--require-backend", "triton-cuda", *many)]

    return commands


def compile_tier(plan: Plan) -> list[Command]:
    """Registers, shared memory and spills with the Triton of this machine."""
    report = ["--json", str(plan.out / "compile.json"), "--workers", str(min(16, os.cpu_count() or 2))]
    only = ["--only", "reorg darknet 12x6x10"] if plan.rehearse else []
    return [python("-m", "benchmarks.compile", *report, *only)]


def sanitizer(tool: str) -> Callable[[Plan], list[Command]]:
    """All kernels under one tool of compute-sanitizer."""

    def commands(plan: Plan) -> list[Command]:
        cases = ["-m", "benchmarks.every_kernel"]
        if plan.rehearse:
            return [python(*cases, "--only", "reorg darknet 12x6x10", "--one-of", "4")]
        # compiled by many processes first, instead of by one under a tool
        workers = str(min(16, os.cpu_count() or 2))
        prepare = python("-m", "benchmarks.compile", "--target", capability(), "--workers", workers)
        prepare.may_fail = True
        found = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        watched = Command([found, "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"])
        watched.argv += [sys.executable, *cases]
        # without its cache every tensor of torch is an allocation of its own, with bounds that the tool knows
        watched.env["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        return [prepare, python(*cases), watched]

    return commands


def benchmark(name: str) -> Callable[[Plan], list[Command]]:
    """One file of benchmarks."""

    def commands(plan: Plan) -> list[Command]:
        quick = ["--benchmark-quick"] if plan.rehearse else []
        file = f"benchmarks/bench_{name}.py"
        return [pytest("--benchmark-only", f"--benchmark-results={plan.out}", *quick, file)]

    return commands


def training(cache: str) -> Callable[[Plan], list[Command]]:
    """How fast a detector is trained, and how busy the loader keeps the GPU."""

    def commands(plan: Plan) -> list[Command]:
        flags = ["--cache", cache, "--json", str(plan.out / f"training-{cache}.json")]
        if plan.rehearse:
            small = "--model nano --imgsz 64 --nominal-batch 2 --updates 3 --warm-up 1 --device cpu"
            return [python("-m", "benchmarks.training", *flags, *small.split())]
        real = ["--data", str(ANIMALS)] if ANIMALS.is_dir() else []
        large = "--model yolov2-voc --imgsz 416 --batch 64 --precision bfloat16 --workers 12"
        return [python("-m", "benchmarks.training", *flags, *large.split(), *real)]

    return commands


def step(plan: Plan) -> list[Command]:
    """An update of training waits for nothing, and is captured as a whole."""
    more = [] if plan.rehearse else ["tests/test_device_data.py"]
    return [pytest("tests/test_step.py", *more)]


def predictor(plan: Plan) -> list[Command]:
    """CUDA graphs from bytes to boxes beside the CPU; folding; memory and threads over many predictions."""
    count = "100" if plan.rehearse else "10000"
    lasting = ["--count", count, "--json", str(plan.out / "endurance.json")]
    return [
        pytest("tests/test_folded.py", "tests/test_predictor.py", "-k", "not compiled"),
        python("-m", "benchmarks.endurance", *lasting),
    ]


def backbones(plan: Plan) -> list[Command]:
    """Darknet-19 beside other classifiers."""
    small = ["--imgsz", "32", "--seconds", "0.01"] if plan.rehearse else []
    return [python("-m", "benchmarks.backbones", "--out", str(plan.out), *small)]


def animals(*flags: str) -> Callable[[Plan], list[Command]]:
    """yolov2-voc on VOC2012's animals; called again, it goes on where it stood."""

    def commands(plan: Plan) -> list[Command]:
        if plan.rehearse or not ANIMALS.is_dir():
            return [
                python("-c", f"print('not run: {ANIMALS.relative_to(ROOT)} is not there, or a rehearsal')")
            ]
        recipe = "--model yolov2-voc --imgsz 416 --epochs 80 --precision bfloat16 --cache device --workers 12"
        where = ["--data", str(ANIMALS), "--seconds", str(LIMIT - 60)]
        return [python("-m", "benchmarks.animals", *where, *flags, *recipe.split())]

    return commands


STAGES = {
    **{f"equivalence-{n}": Stage(f"{n}: kernels against the oracle", equivalence(n)) for n in PROOFS},
    "compile": Stage("registers, shared memory and spills with this Triton", compile_tier),
    **{f"sanitizer-{t}": Stage(f"every kernel: {about}", sanitizer(t)) for t, about in TOOLS.items()},
    **{f"bench-{n}": Stage(f"benchmarks/bench_{n}.py", benchmark(n)) for n in BENCHMARKS},
    "backbones": Stage("work and speed beside VGG-16, ResNet-50 and v1's", backbones),
    "predictor": Stage("graphs from bytes to boxes are right, and last", predictor),
    "step": Stage("an update waits for nothing and is captured", step),
    **{
        f"training-{c}": Stage(f"pictures a second, pictures in {c}", training(c))
        for c in ("memory", "device")
    },
    "animals": Stage("VOC2012's animals from random weights, in slices", animals()),
    "animals-pretrained": Stage("the same from a classifier of crops", animals("--pretrain")),
}


def capability() -> str:
    """The name of this GPU among the targets of `benchmarks.compile`; sm_90 for one that is none."""
    import torch

    from benchmarks.compile import FIRST, TARGETS

    name = "sm_{}{}".format(*torch.cuda.get_device_capability())
    return name if name in TARGETS else FIRST


def run(command: Command, log: Path, seconds: float) -> str:
    """Run one command, its output into `log`; what went wrong, or nothing."""
    env = os.environ | {"PYTHONUNBUFFERED": "1"} | command.env
    with log.open("ab") as file:
        file.write(f"+ {' '.join(command.argv)}\n".encode())
        file.flush()
        try:
            process = subprocess.Popen(
                command.argv, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
        except OSError as error:
            return f"{command.argv[0]}: {error.strerror}"
        try:
            code = process.wait(max(seconds, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with its workers
            process.wait()
            return "out of time"
    return "" if code == 0 or command.may_fail else f"exit code {code}"


def run_stage(name: str, plan: Plan, seconds: float) -> dict:
    """Run the commands of a stage until one fails."""
    log = plan.out / f"{name}.log"
    log.unlink(missing_ok=True)
    start, trouble = time.monotonic(), ""
    for command in STAGES[name].commands(plan):
        trouble = trouble or run(command, log, seconds - (time.monotonic() - start))
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = lines[-1].strip("= ") if lines else ""
    return {
        "stage": name,
        "result": trouble or "passed",
        "seconds": round(time.monotonic() - start, 1),
        "last line": last[:90],
    }


def chosen(names: list[str] | None) -> list[str]:
    """Stages of these names, or whose names begin so."""
    if not names:
        return list(STAGES)
    unknown = [n for n in names if not any(s == n or s.startswith(f"{n}-") for s in STAGES)]
    if unknown:
        raise SystemExit(f"--stage {unknown[0]}: not one of {', '.join(STAGES)}")
    return [s for s in STAGES if any(s == n or s.startswith(f"{n}-") for n in names)]


def main(argv: list[str] | None = None) -> int:
    """Run stages; the exit code is 1 if one failed, 2 if there is no GPU."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, metavar="DIR", help="logs and results go here")
    parser.add_argument("--stage", action="append", metavar="NAME", help="may be repeated; default: all")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="for all stages together")
    parser.add_argument("--list", action="store_true", help="print the stages and stop")
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, small: does this script run?")
    args = parser.parse_args(argv)
    names = chosen(args.stage)
    if args.list:
        for name in names:
            print(f"{name:22} {STAGES[name].about}")
        return 0
    if args.out is None:
        parser.error("--out is needed")
    import torch

    if not torch.cuda.is_available() and not args.rehearse:
        print("no GPU here: nothing was run (--rehearse runs the stages as far as a CPU goes)")
        return 2
    if not args.rehearse:
        os.environ.pop("TRITON_INTERPRET", None)
    plan = Plan(args.out.resolve(), args.rehearse)
    plan.out.mkdir(parents=True, exist_ok=True)
    end, results = time.monotonic() + args.seconds, []
    for name in names:
        left = end - time.monotonic()
        if left < 10:
            results.append({"stage": name, "result": "not started", "seconds": 0.0, "last line": ""})
            continue
        print(f"{name} ...", flush=True)
        results.append(run_stage(name, plan, min(LIMIT, left)))
    about = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "rehearsal on a CPU"}
    (plan.out / "summary.json").write_text(json.dumps(about | {"stages": results}, indent=1) + "\n")
    print()
    for r in results:
        print(f"{r['stage']:22} {r['result']:12} {r['seconds']:6.1f} s  {r['last line']}")
    return int(any(r["result"] != "passed" for r in results))


if __name__ == "__main__":
    sys.exit(main())

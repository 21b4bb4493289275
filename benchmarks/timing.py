"""Races: several ways to compute the same, checked first, then timed in turns, counted in bytes.

A `Race` holds its contenders to one check before any clock runs. On a GPU every contender is timed as a
call (what Python, the launch and the allocation cost is in it) and as a replay of a CUDA graph (the work
alone), each with the inputs in the L2 cache and with the cache flushed. On a CPU a call on one thread is all
there is.
"""

import contextlib
import gc
import hashlib
import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast import _launch

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
#: images a call
BATCHES = (1, 64) if CUDA else (1, 4)
#: the contender that others are compared with
OURS = "triton" if CUDA else "torch eager"
#: seconds before a call on several CPU threads: those of the contender before, another library's pool, go on
#: spinning for a while, and would take a core from this one
PAUSE = 0.03
#: what whole networks get; torch's own number may have been changed by the tests' settings
THREADS = os.cpu_count() or 1

Call = Callable[[], Any]


@dataclass
class Effort:
    """How long to measure: changed by --benchmark-quick."""

    seconds: float = 2.5 if CUDA else 1.0  # a contender, and way of timing it
    most: int = 300  # samples
    least: int = 5
    compile: float = 200.0 if CUDA else 90.0  # seconds for torch.compile, all races together

    def samples_of(self, seconds: float, least: int = 0) -> int:
        """How often to run what takes so long; 100 times wherever that takes less than three shares."""
        share = max(least, int(self.seconds / max(seconds, 1e-7)))
        wanted = max(share, 100) if 3 * share >= 100 else share
        return max(self.least, min(self.most, wanted))


effort = Effort()


@dataclass
class Row:
    """One contender, timed in one way; microseconds."""

    contender: str
    mode: str = ""  # "call" or "graph"; "part" of ours; "quoted", not measured
    cache: str = ""  # "warm" or "flushed"
    median: float = 0.0
    p20: float = 0.0
    p80: float = 0.0
    samples: int = 0
    note: str = ""  # why there are no numbers


@dataclass
class Result:
    """A race that was run."""

    work: str
    case: str
    images: int
    bytes: int
    floor: float  # microseconds that moving the bytes takes
    target: str
    ours: str = OURS  # the contender that others are compared with
    facts: dict[str, Any] = field(default_factory=dict)  # whatever else is worth saving
    rows: list[Row] = field(default_factory=list)

    def median(self, contender: str, mode: str = "call", cache: str = "warm") -> float | None:
        """Microseconds, if measured."""
        for row in self.rows:
            if (row.contender, row.mode, row.cache) == (contender, mode, cache) and not row.note:
                return row.median
        return None

    def times_ours(self, row: Row, mode: str | None = None) -> float | None:
        """How many times longer a contender takes than we do, timed alike or in another `mode` of ours."""
        ours = self.median(self.ours, mode or row.mode, row.cache)
        return row.median / ours if ours and not row.note and row.contender != self.ours else None

    def records(self) -> Iterator[dict[str, Any]]:
        """Rows as flat dictionaries, everything worked out."""
        about = {k: v for k, v in asdict(self).items() if k not in ("rows", "facts")} | self.facts
        for row in self.rows:
            record = about | asdict(row)
            if not row.note:
                record |= {
                    "gigabytes_per_second": self.bytes / row.median / 1e3,
                    "per_cent_of_floor": 100 * self.floor / row.median,
                    "images_per_second": 1e6 * self.images / row.median,
                    "times_ours": self.times_ours(row),
                    "times_our_graph": self.times_ours(row, "graph"),
                }
            yield record


#: of this process, in the order they were run
results: list[Result] = []


@dataclass
class _Contender:
    name: str
    call: Call
    backend: _launch.Backend
    graph: str  # why no graph can hold it, or nothing
    check: Callable[[Any], None]
    repeats: int = 1  # how often a call does the work


#: how contenders are timed: mode, and whether the cache is flushed before
WAYS = [("call", False), ("call", True), ("graph", False), ("graph", True)] if CUDA else [("call", False)]


class Race:
    """Contenders for one piece of work.

    Parameters
    ----------
    work, case : str
        What is computed, and on what.
    images : int
        Pictures a call, for FPS.
    check : callable
        Gets the result of every contender before anything is timed, and asserts that it is right.
    target : str
        What KERNELS.md asks for, shown beside what was measured on a GPU.
    ours : str
        The contender that others are compared with.
    least : int
        So many samples of each, if --benchmark-quick does not forbid it.
    ways : list of (mode, flush)
        A part of `WAYS`.
    """

    def __init__(
        self,
        work: str,
        case: str,
        images: int,
        check: Callable[[Any], None],
        target: str = "",
        ours: str = OURS,
        least: int = 0,
        ways: list[tuple[str, bool]] = WAYS,
    ):
        self.work, self.case, self.images, self.check, self.target = work, case, images, check, target
        self.reference, self.least, self.ways = ours, least, ways
        self.contenders: list[_Contender] = []
        self.notes: list[Row] = []

    def ours(self, call: Call, graph: str = "", torch_graph: str = "") -> None:
        """Enter an operation of `fast`: with its kernels, and as the torch code it is without them."""
        if CUDA:
            self.contenders.append(_Contender("triton", call, "auto", graph, self.check))
        else:
            self.notes.append(Row("triton", note="needs a GPU"))
        self.contenders.append(_Contender("torch eager", call, "torch", torch_graph, self.check))

    def peer(
        self,
        name: str,
        call: Call | None,
        graph: str = "",
        note: str = "not installed",
        check: Callable[[Any], None] | None = None,
        backend: _launch.Backend = "torch",
        repeats: int = 1,
    ) -> None:
        """Enter another way; `graph` says why no CUDA graph can hold it, no call is a `note`."""
        if call is None:
            self.notes.append(Row(name, note=note))
        else:
            entry = _Contender(name, call, backend, graph, check or self.check, repeats)
            self.contenders.append(entry)

    def quote(self, name: str, images_per_second: float) -> None:
        """Enter a number that somebody published."""
        time = 1e6 * self.images / images_per_second
        self.notes.append(Row(name, "quoted", median=time, p20=time, p80=time))

    def compiled(
        self, call: Callable[..., Any], *args: Any, through: Callable | None = None, best: bool = False
    ) -> None:
        """Enter torch.compile of ``call(*args)``, within the time left for compiling.

        `through` gets the compiled function and does the rest of the work, e.g. the backward pass. CUDA
        graphs of compiled code are torch's own, which knows what cannot go into one; the `best` alone is
        the one with graphs where there is a GPU.
        """
        torch._dynamo.reset()  # forget those of other races, which count against a limit
        kinds = {"torch.compile": None} | ({"torch.compile, graphs": "reduce-overhead"} if CUDA else {})
        kinds = dict([*kinds.items()][-1:]) if best else kinds
        for name, mode in kinds.items():
            run = _compiled(call, args, through, mode)
            note = compile_now(run)
            if note:
                self.notes.append(Row(name, note=note))
            else:
                self.contenders.append(_Contender(name, run, "torch", "see its own row", self.check))

    def run(
        self,
        benchmark: Any,
        bytes_moved: int,
        floor: float | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Result:
        """Check all, time all in turns, remember the result; `benchmark` is pytest-benchmark's fixture.

        The `floor`, in seconds, is that of moving the bytes unless it is given.
        """
        for c in self.contenders:
            try:
                with _launch.use_backend(c.backend):
                    c.check(c.call())
            except AssertionError as error:
                error.add_note(f"that was {c.name}")
                raise
        floor = 1e6 * (bytes_moved / bandwidth() if floor is None else floor)
        about = (self.work, self.case, self.images, bytes_moved, floor, self.target, self.reference)
        result = Result(*about, facts or {}, [*self.notes])
        for mode, flush in self.ways:
            result.rows += self._time(mode, flush)
        results.append(result)
        ours = next(c for c in self.contenders if c.name == self.reference)
        benchmark.extra_info.update(work=self.work, case=self.case, median_us=result.median(ours.name))
        benchmark.pedantic(_synchronous(ours.call), rounds=3, warmup_rounds=1)
        return result

    def _time(self, mode: str, flush: bool) -> list[Row]:
        cache_state = "flushed" if flush else "warm"
        clocks: list[tuple[_Contender, Call, int]] = []
        rows: list[Row] = []
        for c in self.contenders:
            if mode == "graph" and c.graph:
                if not flush:
                    rows.append(Row(c.name, "graph", note=f"no graph: {c.graph}"))
                continue
            with _launch.use_backend(c.backend):
                call = _captured(c.call) if mode == "graph" else c.call
                if isinstance(call, str):
                    rows.append(Row(c.name, "graph", note=f"no graph: {call}"))
                    continue
                clock = _clock(call, flush, queue=mode == "graph")
                for _ in range(2):
                    clock()
                seconds = min(_elapsed(clock) for _ in range(2))
            clocks.append((c, clock, effort.samples_of(seconds, self.least)))
        times = _in_turns([(clock, samples, c.backend) for c, clock, samples in clocks])
        for (c, _, samples), t in zip(clocks, times, strict=True):
            p20, median, p80 = np.percentile(t, [20, 50, 80]) / c.repeats
            rows.append(Row(c.name, mode, cache_state, float(median), float(p20), float(p80), samples))
        return rows


def _in_turns(clocks: list[tuple[Call, int, _launch.Backend]]) -> list[list[float]]:
    """Microseconds of each clock, the samples of all spread over the same stretch of time."""
    times: list[list[float]] = [[] for _ in clocks]
    most = max((n for _, n, _ in clocks), default=0)
    gc.collect()
    gc.disable()
    try:
        for turn in range(most):
            for t, (clock, samples, backend) in zip(times, clocks, strict=True):
                if (turn + 1) * samples // most > turn * samples // most:
                    with _launch.use_backend(backend):
                        t.append(clock())
    finally:
        gc.enable()
    return times


def _clock(call: Call, flush: bool, queue: bool) -> Callable[[], float]:
    """A function that runs `call` once and returns its microseconds."""
    if not CUDA:

        def on_cpu() -> float:
            if torch.get_num_threads() > 1:
                time.sleep(PAUSE)
            start = time.perf_counter_ns()
            call()
            return (time.perf_counter_ns() - start) / 1e3

        return on_cpu

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def on_gpu() -> float:
        if flush:
            _scratch().zero_()
        elif queue:
            torch.cuda._sleep(200_000)  # some 100 us in which the host gets ahead
        if not queue:
            torch.cuda.synchronize()  # the call starts on an idle GPU, so what the host does counts
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e3

    return on_gpu


def _captured(call: Call) -> Call | str:
    """A replay of `call` from a CUDA graph, or why there is none."""
    stream = torch.cuda.current_stream()
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = call()
    except RuntimeError as error:
        torch.cuda.set_stream(stream)  # a capture that fails leaves its own
        torch.cuda.synchronize()
        return str(error).splitlines()[0][:80]

    def replay() -> Any:
        graph.replay()
        return kept

    return replay


def _elapsed(f: Call) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def _synchronous(call: Call) -> Call:
    def run() -> Any:
        out = call()
        if CUDA:
            torch.cuda.synchronize()
        return out

    return run


@cache
def _scratch() -> Tensor:
    """More than any L2 cache: writing it throws everything else out."""
    return torch.empty(256 << 20, dtype=torch.uint8, device=DEVICE)


@cache
def bandwidth() -> float:
    """Bytes a second that a large copy on this device reads and writes together."""
    size = (2 << 30) if CUDA else (128 << 20)
    a = torch.randint(0, 255, (size // 8,), device=DEVICE)
    b = torch.empty_like(a)
    clock = _clock(lambda: b.copy_(a), flush=False, queue=True)
    times = [clock() for _ in range(25 if CUDA else 9)]
    return 2 * size / statistics.median(times[2:]) * 1e6


def _compiled(call: Callable[..., Any], args: tuple, through: Callable | None, mode: str | None) -> Call:
    compiled = torch.compile(call, dynamic=False, mode=mode)

    def run() -> Any:
        if mode:
            torch.compiler.cudagraph_mark_step_begin()  # results of the last call are not needed any more
        return through(compiled) if through else compiled(*args)

    return run


_compiling = 0.0  # seconds so far


def compile_now(run: Call) -> str:
    """Let a function under torch.compile compile itself; why it did not, or nothing."""
    global _compiling
    if not CUDA and shutil.which("g++") is None:
        return "needs a C++ compiler"
    if _compiling >= effort.compile:
        return f"the {effort.compile:.0f} s for compiling are used up"
    start = time.perf_counter()
    try:
        with _launch.use_backend("torch"):
            for _ in range(3):
                run()
    except Exception as error:  # a peer that cannot run is a note, not a failure of ours
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:80]}"
    finally:
        _compiling += time.perf_counter() - start
    return ""


def plain(operator: Any) -> Callable[..., Any]:
    """The Python function behind a custom operator, which torch.compile would not look into."""
    return operator.function


def nbytes(*tensors: Tensor) -> int:
    """Bytes of all elements."""
    return sum(t.numel() * t.element_size() for t in tensors)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Small operations on two threads measure the scheduler."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


ROOT = Path(__file__).parents[1]


def environment() -> dict[str, Any]:
    """What the numbers were made with."""

    def output(*command: str) -> str | None:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=ROOT
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    def version(name: str) -> str | None:
        try:
            return __import__(name).__version__
        except Exception:  # absent, or broken in a way of its own
            return None

    sources = hashlib.sha256()
    for path in sorted(p for wing in ("fast", "benchmarks") for p in (ROOT / wing).rglob("*.py")):
        sources.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if CUDA else None
    return {
        "device": torch.cuda.get_device_name() if CUDA else _cpu(),
        "driver": driver and driver.splitlines()[0],
        "threads": f"1, whole networks also {THREADS}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": version("triton") if CUDA else None,
        "numpy": np.__version__,
        "torchvision": version("torchvision"),
        "commit": output("git", "rev-parse", "HEAD"),
        "sources": sources.hexdigest()[:16],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "copy_gigabytes_per_second": bandwidth() / 1e9,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def report(races: Iterable[Result]) -> Iterator[str]:
    """The table: a block a race."""
    head = ["", "", "median us", "p20", "p80", "n", "GB/s", "of floor", "images/s", "/ ours"]
    head += ["/ our graph"] if CUDA else []
    for race in races:
        yield (
            f"{race.work}: {race.case}; {race.bytes / 1e6:.3g} MB, floor {race.floor:.3g} us"
            + (f"; target {race.target}" if race.target else "")
        )
        lines = [head]
        for row, record in zip(race.rows, race.records(), strict=True):
            how = f"{row.mode} {row.cache}".strip() if CUDA else row.mode
            if row.note:
                lines.append((row.contender, row.note, *[""] * (len(head) - 2)))
                continue
            ratios = [race.times_ours(row), *([race.times_ours(row, "graph")] if CUDA else [])]
            lines.append(
                (
                    row.contender,
                    how,
                    *(f"{v:.4g}" for v in (row.median, row.p20, row.p80)),
                    str(row.samples),
                    f"{record['gigabytes_per_second']:.3g}",
                    f"{record['per_cent_of_floor']:.3g}%",
                    f"{record['images_per_second']:.4g}",
                    *(f"{r:.3g}x" if r else "" for r in ratios),
                )
            )
        width = [max(len(line[i]) for line in lines if i != 1 or line[2]) for i in range(len(head))]
        for line in lines:
            cells = [line[0].ljust(width[0]), line[1].ljust(width[1])]
            cells += [c.rjust(w) for c, w in zip(line[2:], width[2:], strict=True)]
            yield "  " + "  ".join(cells).rstrip()
        yield ""

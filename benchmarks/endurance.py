"""Ten thousand predictions in one process: does memory stay flat, and do eight threads find the same?

    python -m benchmarks.endurance                    # about two minutes on two CPU cores
    python -m benchmarks.endurance --model yolov2-tiny-voc --imgsz 416 --engine onnxruntime

Pictures have hundreds of sizes, the network's input has three. Memory is the process's own (resident set),
read after a tenth of the predictions, when everything has been used once, and at the end.
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import environment
from yolov2.inference.predictor import Predictor
from yolov2.profile import random_model

THREADS = 8


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def pictures(count: int, seed: int = 0) -> list[np.ndarray]:
    """Noise of random sizes from 40 to 700 pixels a side."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(40, 700, (count, 2))
    noise = rng.integers(0, 256, (700, 700, 3), np.uint8)
    return [np.ascontiguousarray(noise[:h, :w]) for h, w in sizes]


def growth(predictor: Predictor, count: int, sides: list[int]) -> tuple[float, float, float]:
    """Megabytes after a tenth of `count` predictions and at the end, and predictions a second."""
    shown = pictures(200)
    start, early = time.perf_counter(), 0.0
    for i in range(count):
        predictor([shown[i % len(shown)]], imgsz=sides[i % len(sides)])
        if i == count // 10:
            early = resident()
    return early, resident(), count / (time.perf_counter() - start)


def differences(predictor: Predictor, count: int, sides: list[int]) -> int:
    """In how many of `count` calls eight threads find other numbers than one."""
    shown = pictures(count, seed=1)

    def call(i: int) -> list[np.ndarray]:
        (found,) = predictor([shown[i]], 0.05, imgsz=sides[i % len(sides)])
        return [found.boxes, found.scores, found.classes]

    serial = [call(i) for i in range(count)]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(call, range(count)))
    return sum(
        not all(np.array_equal(a, b) for a, b in zip(x, y, strict=True))
        for x, y in zip(serial, together, strict=True)
    )


def main(argv: list[str] | None = None) -> int:
    """Measure; the exit code is 1 if memory grew by 2 % or more, or threads disturb each other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    model = random_model(args.model, args.imgsz).to(args.device)
    predictor = Predictor(model, args.engine)
    sides = [args.imgsz, args.imgsz - 32, args.imgsz + 32]
    early, late, rate = growth(predictor, args.count, sides)
    different = differences(predictor, min(500, args.count), sides)
    grown = 100 * (late / early - 1)
    print(f"{args.count} predictions, {rate:.0f} a second")
    print(f"memory: {early:.1f} MB after a tenth, {late:.1f} MB at the end, {grown:+.2f} %")
    print(f"{THREADS} threads: {different} of {min(500, args.count)} calls differ from those of one")
    if args.json:
        row = {"count": args.count, "model": args.model, "imgsz": args.imgsz, "engine": args.engine}
        row |= {"early_mb": early, "late_mb": late, "growth_per_cent": grown, "different": different}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"environment": environment(), "rows": [row]}, indent=1) + "\n")
    return int(grown >= 2 or different > 0)


if __name__ == "__main__":
    raise SystemExit(main())

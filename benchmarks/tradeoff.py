"""One trained network at many sizes of input: accuracy against speed, beside the paper's five points.

    python -m benchmarks.tradeoff --weights best.safetensors --data VOC2012 --plot docs/tradeoff.png

YOLOv2 is fully convolutional: one network, trained at many sizes (``--multi-scale``), runs at any. Small
inputs are quick, large ones see small objects. The paper's points, of Pascal VOC 2007 and a Titan X, stand
beside the measured ones to compare the shape of the two curves, not their height.
"""

import dataclasses
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import PAPER
from benchmarks.timing import THREADS, environment
from yolov2 import plots
from yolov2.cli import option, parse, run
from yolov2.data.sources import Format, open_dataset
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.evaluation import Metric, evaluate
from yolov2.inference.engines import EngineName, Precision
from yolov2.inference.predictor import Predictor
from yolov2.loading import load

#: pictures whose mean time is a sample of the speed, and how many samples
PICTURES, SAMPLES = 8, 5


@dataclass(frozen=True)
class TradeoffConfig:
    """Flags of ``python -m benchmarks.tradeoff``."""

    weights: Path = option("checkpoint, or Darknet's .weights with the cfg beside it")
    data: Path | None = option("data set; none is the built-in one", default=None)
    format: Format | None = option("format of the data; none is detected", default=None)
    split: str = option("which part of the data set", default="val")
    sizes: tuple[int, ...] = option("sides of the input in pixels", default=(288, 352, 416, 480, 544, 608))
    method: Metric = option("how the curve is averaged", default="voc11")
    engine: EngineName = option("what runs the network", default="auto")
    precision: Precision = option("of the engine", default="auto")
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    out: Path = option("the results go into this folder", default=Path("benchmarks/results"))
    plot: Path | None = option("draw the two curves into this file", default=None)

    def __post_init__(self):
        if not self.sizes or min(self.sizes) < 32 or any(side % 32 for side in self.sizes):
            raise ValueError("--sizes: multiples of 32 pixels")


def speed(predictor: Predictor, pictures: list[Any]) -> float:
    """Pictures a second, one at a time, from bytes to boxes."""
    predictor.warmup()
    samples = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for picture in pictures:
            predictor([picture])
        samples.append((time.perf_counter() - start) / len(pictures))
    return 1 / statistics.median(samples)


def measure(config: TradeoffConfig) -> list[dict[str, Any]]:
    """A row for every size: side, map50, metric, fps and the paper's two numbers."""
    model = load(config.weights, device=config.device)
    if not isinstance(model, Detector):
        raise UserError(f"{config.weights}: a classifier finds no boxes; give a detector")
    complaints = Complaints()
    dataset = open_dataset(config.data, config.split, model.names, complaints, config.format)
    shown = [dataset.picture(i) for i in range(min(PICTURES, len(dataset)))]
    rows = []
    for side in config.sizes:
        try:
            model.check_size(side)
        except ValueError as error:
            raise UserError(f"--sizes: {error}") from None
        detector = dataclasses.replace(model, imgsz=side)
        predictor = Predictor(detector, config.engine, config.precision)
        result = evaluate(detector, dataset, method=config.method, complaints=complaints, predictor=predictor)
        row = {
            "side": side,
            "map50": result.map50,
            "metric": result.headline(),
            "fps": speed(predictor, shown),
        }
        paper = PAPER.get(side)
        rows.append(row | {"paper_map": paper and paper.map, "paper_fps": paper and paper.fps})
        print(f"{side}: mAP@.5 {row['map50']:.4f}, {row['fps']:.1f} pictures/s", file=sys.stderr)
    complaints.report()
    return rows


def report(results: dict[str, Any]) -> str:
    """The rows as a markdown table with its conditions."""
    lines = ["| input | mAP@.5 here | pictures/s here | paper: mAP | paper: FPS |", "|---|---|---|---|---|"]
    for row in results["rows"]:
        paper = (f"{row['paper_map']:.1f}", f"{row['paper_fps']}") if row["paper_map"] else ("not given",) * 2
        lines.append(f"| {row['side']} | {100 * row['map50']:.1f} | {row['fps']:.1f} | {' | '.join(paper)} |")
    e = results["environment"]
    lines += ["", f"{results['command']}; {e['device']}, commit {str(e['commit'])[:10]}, {e['date'][:10]}."]
    return "\n".join(
        [*lines, f"Paper: VOC 2007 test, GeForce GTX Titan X. Here: {results['rows'][0]['metric']}."]
    )


def draw(rows: list[dict[str, Any]], out: Path) -> None:
    """Accuracy against speed, here and in the paper, each point with its size."""
    axes = plots._panels(1)
    if axes is None:
        return
    axis = axes[0]
    here = [(r["fps"], 100 * r["map50"], r["side"]) for r in rows]
    paper = [(p.fps, p.map, side) for side, p in PAPER.items()]
    for points, style, label in ((here, "C0o-", "here"), (paper, "ko--", "paper (VOC 2007, Titan X)")):
        xs, ys, _ = zip(*points, strict=True)
        axis.plot(xs, ys, style, markersize=4, label=label)
        for x, y, side in points:
            axis.annotate(str(side), (x, y), xytext=(4, -10), textcoords="offset points", fontsize=7)
    axis.set(xlabel="pictures a second", ylabel="mAP at IoU .5 (%)", xscale="log")
    axis.legend(frameon=False, loc="best")
    plots._save(axes, out)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every size, print the table, save it and draw it."""
    argv = sys.argv[1:] if argv is None else list(argv)
    about = "Accuracy against speed of one network over sizes of input."
    config = parse(TradeoffConfig, argv, "python -m benchmarks.tradeoff", about)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.tradeoff", *map(str, argv)]),
        "environment": environment(),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        results["rows"] = measure(config)
    finally:
        torch.set_num_threads(before)
    print(report(results))
    file = config.out / f"tradeoff-{results['environment']['date'][:10]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    if config.plot:
        draw(results["rows"], config.plot)


if __name__ == "__main__":
    raise SystemExit(run(main))

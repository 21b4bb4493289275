"""Darknet-19 beside the classifiers it was weighed against: work, parameters and speed (paper 2, sec. 3).

    python -m benchmarks.backbones --out runs/backbones                          # the GPU, if there is one
    CUDA_VISIBLE_DEVICES= python -m benchmarks.backbones --out runs/backbones    # one thread of a CPU
    python -m benchmarks.backbones --out runs/backbones --seconds 0              # no speed, only work

Work and parameters are computed from lists of layers. A FLOP is a multiplication or an addition: two for
every multiply-add of convolutions and fully connected layers, nothing for the rest, as the authors count.

Speed is that of the forward pass on random pictures with random weights. All networks run in the engine of
this library (batch norm folded, on x86 CPUs packed weights, on GPUs float16); each is held to its plain form
in float32 first, then all are timed in turns. Quoted, not measured, are the authors' speeds (Darknet in
float32 on a Titan X) and all accuracy: what paper 2 says, and what their talk on it says.
"""

import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import timing
from benchmarks.timing import CUDA, DEVICE, Race, environment, one_thread
from reference.layers import AvgPool, Connected, Conv, Dropout, Layer, MaxPool, Route, Shortcut, Softmax
from yolov2.cli import option, parse, run
from yolov2.inference.engines import open_engine
from yolov2.network import Network
from yolov2.presets import darknet19, extraction
from yolov2.summary import summary, total_flops

BATCHES = (1, 64) if CUDA else (1,)
WAYS = ("call", "graph") if CUDA else ("call",)  # with and without what Python and the launches cost


def vgg16(classes: int = 1000) -> list[Layer]:
    """VGG-16: configuration D of Simonyan and Zisserman, "Very deep convolutional networks", table 1."""
    layers: list[Layer] = []
    for filters, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        layers += [Conv(filters, batch_norm=False, activation="relu")] * count + [MaxPool()]
    return [*layers, *(Connected(4096, "relu"), Dropout()) * 2, Connected(classes), Softmax()]


def resnet50(classes: int = 1000) -> list[Layer]:
    """ResNet-50 of He et al., "Deep residual learning", table 1: a stage halves in its first 1x1."""
    layers: list[Layer] = [Conv(64, 7, 2, activation="relu"), MaxPool(3, 2)]
    for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        layers += _bottleneck(width, 2 if stage else 1, project=True)
        layers += _bottleneck(width) * (count - 1)
    return [*layers, AvgPool(), Connected(classes), Softmax()]


def _bottleneck(width: int, stride: int = 1, project: bool = False) -> list[Layer]:
    """1x1, 3x3, 1x1 to four times as many channels, and a shortcut: the identity, or a projection."""
    wide = Conv(4 * width, 1, activation="linear")
    branch = [Conv(width, 1, stride, activation="relu"), Conv(width, activation="relu"), wide]
    if not project:
        return [*branch, Shortcut(-4, "relu")]
    return [*branch, Route((-4,)), Conv(4 * width, 1, stride, activation="linear"), Shortcut(-3, "relu")]


class Quoted(NamedTuple):
    """What the authors say. Top-5 in per cent on ImageNet, at 224 pixels."""

    billion: float  # operations
    fps: int
    top5_paper: float | None
    top5_talk: float


NETWORKS = {
    "Darknet-19": (darknet19, Quoted(5.58, 200, 91.2, 91.8)),
    "VGG-16": (vgg16, Quoted(30.95, 100, 90.0, 90.0)),
    "ResNet-50": (resnet50, Quoted(7.66, 90, None, 92.2)),
    "Extraction (v1)": (extraction, Quoted(8.52, 180, 88.0, 90.8)),
}


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of ``python -m benchmarks.backbones``."""

    imgsz: int = option("side of the input in pixels", default=224)
    seconds: float = option("to time a network for, in every way; 0 times nothing", default=10.0)
    seed: int = option("of weights and pictures", default=0)
    out: Path = option("folder for the numbers", default=Path("runs/backbones"))

    def __post_init__(self):
        if self.imgsz < 32 or self.imgsz % 32:
            raise ValueError(f"imgsz: {self.imgsz} is not a multiple of 32")
        if self.seconds < 0:
            raise ValueError(f"seconds: {self.seconds} is negative")


def costs(imgsz: int) -> list[dict[str, Any]]:
    """Name, FLOPs of one picture (convolutions alone, and all), parameters and quoted numbers of each."""
    rows = []
    for name, (build, quoted) in NETWORKS.items():
        layers = summary(build(), (3, imgsz, imgsz))
        convolutions = sum(row.flops for row in layers if isinstance(row.layer, Conv))
        flops, parameters = total_flops(layers), sum(row.learnable for row in layers)
        about = {"network": name, "flops": flops, "flops_of_convolutions": convolutions}
        rows.append(about | {"parameters": parameters, "quoted": quoted._asdict()})
    return rows


def race(imgsz: int, batch: int, seed: int) -> Race:
    """All networks on the same pictures, ready to be checked and timed."""
    torch.manual_seed(seed)
    images = torch.rand(batch, 3, imgsz, imgsz, device=DEVICE)
    result = Race("backbones", f"{imgsz}x{imgsz}, B{batch}", batch, lambda out: None)
    for name, (build, _) in NETWORKS.items():
        network = Network(build(), (3, imgsz, imgsz)).to(DEVICE).eval()
        with torch.inference_mode():
            want = network(images[:1])
        engine, dtype = open_engine(network, DEVICE)
        inputs = images.to(dtype).contiguous(memory_format=torch.channels_last)

        def check(got, want=want):
            error = (got[:1].float() - want).abs().max() / want.abs().max()
            assert error < (1e-2 if CUDA else 1e-4), f"off by {error:.1e} of the largest"

        result.peer(name, partial(engine, inputs), check=check)
    return result


@torch.inference_mode()
def speeds(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """A row a network, batch and way: median, p20, p80 in microseconds, samples and pictures a second.

    Raises
    ------
    AssertionError
        If an engine does not compute what the plain network does; then nothing is timed.
    """
    rows = []
    timing.effort = timing.Effort(seconds=config.seconds)
    for batch in BATCHES:
        contest = race(config.imgsz, batch, config.seed)
        for c in contest.contenders:
            c.check(c.call())
        for way in WAYS:
            for row in contest._time(way, flush=False):
                times = {k: v for k, v in asdict(row).items() if k != "contender"}
                fps = {} if row.note else {"images_per_second": 1e6 * batch / row.median}
                rows.append({"network": row.contender, "batch": batch} | times | fps)
    return rows


def report(results: dict[str, Any]) -> str:
    """Both tables as text."""
    lines = [
        f"{results['imgsz']} pixels; FLOPs: two for every multiply-add; quoted: the authors' own numbers",
        f"{'':<15} {'BFLOP':>7} {'quoted':>7} {'conv. only':>10} {'parameters':>12}"
        f" {'top-5, paper':>12} {'talk':>6}  (quoted, not measured)",
    ]
    for row in results["networks"]:
        q = row["quoted"]
        paper = "" if q["top5_paper"] is None else f"{q['top5_paper']:.1f}"
        lines.append(
            f"{row['network']:<15} {row['flops'] / 1e9:>7.3f} {q['billion']:>7.2f}"
            f" {row['flops_of_convolutions'] / 1e9:>10.3f} {row['parameters']:>12,} {paper:>12}"
            f" {q['top5_talk']:>6.1f}"
        )
    if not results["speed"]:
        return "\n".join(lines)
    flops = {row["network"]: row["flops"] for row in results["networks"]}
    quoted = {row["network"]: row["quoted"]["fps"] for row in results["networks"]}
    base = next(iter(quoted))  # speeds are told as multiples of the first network's
    lines += [
        f"\n{results['environment']['device']}, {results['precision']}, {results['threads']} CPU thread",
        f"{'':<15} {'batch':>5} {'way':>5} {'ms':>8} {'p20-p80':>15} {'n':>4} {'FPS':>8} {'GFLOP/s':>8}"
        f" {'ratio':>6} {'quoted':>6} {'FPS':>4}",
    ]
    for row in results["speed"]:
        about = f"{row['network']:<15} {row['batch']:>5} {row['mode']:>5}"
        if row["note"]:
            lines.append(f"{about} {row['note']}")
            continue
        same = [r for r in results["speed"] if (r["batch"], r["mode"]) == (row["batch"], row["mode"])]
        fps, base_fps = row["images_per_second"], same[0].get("images_per_second", math.nan)
        around = f"{row['p20'] / 1e3:.2f}-{row['p80'] / 1e3:.2f}"
        lines.append(
            f"{about} {row['median'] / 1e3:>8.2f} {around:>15} {row['samples']:>4} {fps:>8.4g}"
            f" {fps * flops[row['network']] / 1e9:>8.4g} {fps / base_fps:>5.2f}x"
            f" {quoted[row['network']] / quoted[base]:>5.2f}x {quoted[row['network']]:>4}"
        )
    lines.append(f"ratio: to the FPS of {base}, beside that of the authors' FPS on a Titan X (quoted)")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables and write them as json, with how they were made."""
    argv = sys.argv[1:] if argv is None else argv
    about = "Darknet-19 beside VGG-16, ResNet-50 and YOLOv1's classifier: work, parameters, speed."
    config = parse(BenchmarkConfig, argv, "python -m benchmarks.backbones", about)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.backbones", *argv]),
        "environment": environment(),
        "threads": 1,
        "imgsz": config.imgsz,
        "seed": config.seed,
        "precision": "float16" if CUDA else "float32",
        "networks": costs(config.imgsz),
    }
    # cuDNN chooses by trying, as the predictor lets it
    with one_thread(), torch.backends.cudnn.flags(enabled=True, benchmark=True):
        results["speed"] = speeds(config) if config.seconds else []
    print(report(results))
    kind, day = "gpu" if CUDA else "cpu", results["environment"]["date"][:10]
    file = config.out / f"backbones-{kind}-{day}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {file}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(run(main))

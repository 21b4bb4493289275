"""Races of whole networks: uint8 pictures on the host to results on the host, and the networks alone.

`bench_network.py` and, for larger batches, `bench_network_8.py` and `bench_network_64.py` run them; each is a
stage of `benchmarks.gpu`.

The weights are random, but what a trained network makes of pictures is kept: batch norm has the statistics of
its maps, and one prediction in a hundred fires, so that thresholds and NMS have their usual work.
"""

import copy
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.peers import COPIES, WAITS
from benchmarks.report import PAPER, PARTS, WORK
from benchmarks.timing import CUDA, DEVICE, Race, Result, Row, compile_now
from fast._launch import use_backend
from reference.boxes import box_iou
from reference.region import Region
from yolov2.classifier import Classifier
from yolov2.data.shapes import shapes
from yolov2.detector import Detector, Found
from yolov2.errors import UserError
from yolov2.export import export_darknet
from yolov2.inference.engines import DTYPES, EngineName, Precision, to_onnx_bytes
from yolov2.inference.predictor import Predictor
from yolov2.inference.roofline import Roof, measured_roof, work_of
from yolov2.model import Model, Options, input_size
from yolov2.network import ConvBlock, Network
from yolov2.presets import NETWORKS

#: (network, side of its input in pixels), what matters most first: a stage of benchmarks.gpu has an end
CASES = [
    *(("yolov2-voc", 416), ("yolov2-tiny-voc", 416), ("darknet19", 224)),
    *(("yolov2-voc", side) for side in (544, 288, 608, 352, 480)),
]
#: seconds after which a stage begins no further case, so that it ends, and writes, within its nine minutes
LAST_START = 430
#: samples of every contender; others take turns, so that a slow moment of the machine hits all
LEAST = 15
#: how far raw outputs may be from those of the plain float32 network: root mean square, of the outputs' own
TOLERANCE = {"float32": 1e-4, "float16": 0.01, "bfloat16": 0.08}
#: the same where batch norm's epsilon is in Darknet's place
DARKNETS = 2e-2  # .0074 was seen
#: share of the plain network's detections that must be found again, but for one
FOUND_AGAIN = {"float32": 1.0, "float16": 0.95, "bfloat16": 0.8}
SURE = 0.3  # of those whose score is not at the threshold
FIRES = 0.01  # share of predictions that have an objectness above .5
STREAMED = 16  # batches a call, where batches are streamed
OPTIONS = Options()
#: what --benchmark-quick takes instead
SMALL = {"yolov2-voc": "nano", "yolov2-tiny-voc": "nano", "darknet19": "tiny"}
_started: dict[int, float] = {}  # by the size of the batch


def small(name: str, side: int) -> tuple[str, int]:
    """A small network on an input a third as wide."""
    return SMALL[name], side // 3 // 32 * 32


@cache
def model_of(name: str) -> Detector | Classifier:
    """One of the networks, on the device that is timed."""
    torch.manual_seed(0)
    preset = NETWORKS[name]
    layers = preset.build()
    kind = Detector if isinstance(preset.head, Region) else Classifier
    classes = preset.head.classes if isinstance(preset.head, Region) else preset.head
    assert isinstance(classes, int)
    model = kind.build(layers, [f"class {i}" for i in range(classes)], preset.imgsz)
    settle(model.network, model._input(pictures(4), input_size(preset.imgsz)))
    model.network.requires_grad_(False)
    return model.to(DEVICE)


@torch.no_grad()
def settle(network: Network, images: Tensor) -> None:
    """Give a random network the statistics of a trained one."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            norm.momentum = 1.0  # the statistics become those of the next batch
    network.train()(images)
    raw = network.eval()(images)
    if not isinstance(network.head, Region):
        return
    # every output gets mean 0 and deviation 1; then classes are told apart, and objectness is rarely high
    last = [b for b in network.blocks if isinstance(b, ConvBlock)][-1].conv
    assert last.bias is not None
    mean, scale = raw.mean((0, 2, 3)), 1 / raw.std((0, 2, 3))
    scale_of = scale.view(len(network.head.anchors), -1)
    scale_of[:, 5:] *= 4
    scale_of[:, 4] *= 2
    last.weight *= scale[:, None, None, None]
    last.bias.copy_((last.bias - mean) * scale)
    objectness = network(images).unflatten(1, scale_of.shape)[:, :, 4]
    last.bias.view(scale_of.shape)[:, 4] -= objectness.quantile(1 - FIRES)


@cache
def pictures(count: int) -> list[np.ndarray]:
    """Drawn pictures of VOC's usual size, uint8 (375, 500, 3)."""
    data = shapes("val", 4)
    drawn = [np.array(data.picture(i).resize((500, 375))) for i in range(min(count, 4))]
    return [drawn[i % 4] for i in range(count)]


@cache
def roof(dtype: torch.dtype) -> Roof:
    """What this machine reaches, with all its threads."""
    return measured_roof(DEVICE, dtype)


def plain(model: Model, group: Sequence[np.ndarray], side: int) -> list[Any]:
    """Results of the network as it is, in float32."""
    with torch.inference_mode():
        outputs = model.network(model._input(group, (side, side)))
        return model._interpret(outputs, group, (side, side), OPTIONS)


def near(want: Tensor, tolerance: float) -> Callable[[Any], None]:
    """A check of raw outputs."""
    want = want.float().flatten(1)

    def check(got: Any) -> None:
        got = torch.as_tensor(got).to(want.device).float().flatten(1)
        error = (got - want).square().mean().sqrt() / want.square().mean().sqrt()
        assert error <= tolerance, f"raw outputs are off by {error:.2g} of their size"

    return check


def alike(want: list[Any], precision: str, copies: int = 1) -> Callable[[list[Any]], None]:
    """A check of results: the same boxes, or the same probabilities."""

    def check(got: list[Any]) -> None:
        assert len(got) == copies * len(want)
        if not isinstance(want[0], Found):
            for a, b in zip(got, want * copies, strict=True):
                assert (torch.as_tensor(a) - torch.as_tensor(b)).abs().max() <= TOLERANCE[precision]
            return
        total = sum(int((found.scores > SURE).sum()) for found in want * copies)
        again = sum(found_again(a, b) for a, b in zip(got, want * copies, strict=True))
        assert total, "no boxes: what would be the time of NMS?"
        assert again >= FOUND_AGAIN[precision] * total - 1, f"{again} of {total} boxes are found again"

    return check


def found_again(got: Found, want: Found) -> int:
    """How many sure boxes of `want` have one of their class, and in their place, in `got`.

    Of two that overlap too much for NMS, rounding may choose the other.
    """
    sure = want.scores > SURE
    overlap = box_iou(want.boxes[sure], got.boxes)
    return int(((overlap > OPTIONS.iou) & (got.classes == want.classes[sure][:, None])).any(1).sum())


def facts_of(name: str, side: int, batch: int, dtype: torch.dtype) -> tuple[int, float, dict[str, Any]]:
    """Bytes, the least seconds, and what is saved beside them."""
    values = torch.finfo(dtype).bits // 8
    work, top = work_of(NETWORKS[name].build(), (3, side, side), batch, values), roof(dtype)
    facts = {"network": name, "side": side, "batch": batch, "flops": work.flops}
    facts |= {"peak_flops_per_second": top.flops, "peak_bytes_per_second": top.bytes}
    facts |= {"threads": torch.get_num_threads()}
    return work.bytes, work.seconds(top), facts


def quote_paper(race: Race, name: str, side: int, batch: int) -> None:
    """Enter the paper's FPS, where it has one."""
    if name == "yolov2-voc" and side in PAPER and batch == 1:
        race.quote("paper, Titan X", PAPER[side].fps)


# ---------------------------------------------------------------- a CPU

ENGINES: tuple[EngineName, ...] = ("eager", "onnxruntime", "openvino")


def cpu_race(benchmark: Any, name: str, side: int, folder: Path) -> Result:
    """Everything a user could pick on a CPU: libraries that run the network alone, and pictures to results.

    Libraries that have no way from pictures to boxes are timed without one.
    """
    model = dataclasses.replace(model_of(name), imgsz=side)
    group = pictures(1)
    with torch.no_grad():
        images = model._input(group, (side, side))
        raw = model.network(images)
    check_raw, check = near(raw, TOLERANCE["float32"]), alike(plain(model, group, side), "float32")
    array = np.ascontiguousarray(images.numpy())
    race = Race(WORK, f"{name}, {side}x{side}, B1", 1, check, ours="predictor, eager", least=LEAST)
    quote_paper(race, name, side, 1)

    onnx = to_onnx_bytes(model.network, (3, side, side))
    weights = folder / "network.weights"
    export_darknet(model, weights)
    version = peers.opencv_version()
    absent = f"needs {peers.OPENCV4}=DIR, see peers.py"
    alone: dict[str, tuple[Callable[[], Any] | None, str]] = {
        "onnxruntime": (peers.in_onnxruntime(onnx, array), "not installed"),
        "OpenVINO": (peers.in_openvino(onnx, array), "not installed"),
        f"OpenCV {version or ''}".strip(): (peers.in_opencv(onnx, array), "not installed"),
        "OpenCV < 5, cfg": (peers.in_opencv4(weights.with_suffix(".cfg"), weights, array), absent),
        "torch eager": (lambda: inferred(model.network, images), ""),
    }
    for contender, (call, note) in alone.items():
        check_it = near(raw, DARKNETS) if "cfg" in contender else check_raw
        race.peer(f"{contender}, network alone", call, note=note, check=check_it)

    race.peer("torch eager", lambda: plain(model, group, side))
    run = peers.frozen(model.network)
    note = compile_now(lambda: run(images))

    def compiled() -> list[Any]:
        with torch.no_grad():
            return model._interpret(run(model._input(group, (side, side))), group, (side, side), OPTIONS)

    race.peer("torch.compile, freezing", None if note else compiled, note=note)
    predictors: dict[str, Predictor] = {}
    for engine in ENGINES:
        try:
            predictors[engine] = Predictor(model, engine).warmup()
        except UserError:
            race.peer(f"predictor, {engine}", None)
            continue
        race.peer(f"predictor, {engine}", partial(predictors[engine], group))
    eager = predictors["eager"]
    race.peer("predictor, eager, network alone", lambda: inferred(eager.run, images), check=check_raw)

    moved, floor, facts = facts_of(name, side, 1, torch.float32)
    result = race.run(benchmark, moved, floor, facts)
    for name_of, predictor in predictors.items():
        result.rows.append(outside(f"predictor, {name_of}: {PARTS[0]}", predictor, group))
    return result


def cpu_size_race(benchmark: Any, name: str, side: int) -> Result:
    """How time grows with the size of the input."""
    model = dataclasses.replace(model_of(name), imgsz=side)
    group = pictures(1)
    check = alike(plain(model, group, side), "float32")
    race = Race(WORK, f"{name}, {side}x{side}, B1", 1, check, ours="predictor, eager", least=LEAST // 2)
    quote_paper(race, name, side, 1)
    race.peer("torch eager", lambda: plain(model, group, side))
    predictor = Predictor(model, "eager").warmup()
    race.peer("predictor, eager", lambda: predictor(group))
    return race.run(benchmark, *facts_of(name, side, 1, torch.float32))


def inferred(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A call that keeps nothing for gradients."""
    with torch.inference_mode():
        return run(images)


def outside(name: str, predictor: Predictor, group: Sequence[np.ndarray], samples: int = LEAST) -> Row:
    """The time of calls but for their network's: letterbox, decode, NMS, results.

    It is taken inside every call, so that it needs no difference of two medians.
    """
    run, inside = predictor.run, 0.0

    def watched(images: Tensor) -> Tensor:
        nonlocal inside
        start = time.perf_counter()
        out = run(images)
        inside = time.perf_counter() - start
        return out

    predictor.run = watched
    try:
        times = []
        for _ in range(samples):
            start = time.perf_counter()
            predictor(group)
            times.append(1e6 * (time.perf_counter() - start - inside))
    finally:
        predictor.run = run
    p20, median, p80 = map(float, np.percentile(times, [20, 50, 80]))
    return Row(name, "part", "warm", median, p20, p80, samples)


# ---------------------------------------------------------------- a GPU

PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float16")
LOWEST = PRECISIONS[0]  # in which peers compute
OURS = f"predictor, {LOWEST}"


@contextmanager
def with_kernels() -> Iterator[None]:
    """This project's kernels, and nothing kept for gradients."""
    with use_backend("auto"), torch.no_grad():
        yield


def gpu_case(benchmark: Any, name: str, side: int, batch: int, quick: bool) -> None:
    """One case on a GPU, if there is time; without one, --benchmark-quick runs the usual ones on the CPU."""
    if not (CUDA or (quick and (name, side) in CASES[:3])):
        pytest.skip("batches are for GPUs")
    if CUDA and time.monotonic() - _started.setdefault(batch, time.monotonic()) > LAST_START:
        pytest.skip("no time is left in this stage")
    if quick:
        (name, side), batch = small(name, side), min(batch, 2)
    gpu_races(benchmark, name, side, batch)
    gc.collect()  # graphs keep the memory of all their maps, and a predictor is part of a cycle
    if CUDA:
        torch.cuda.empty_cache()


def gpu_races(benchmark: Any, name: str, side: int, batch: int) -> tuple[Result, Result]:
    """The network alone, then pictures to results, in bfloat16 and float16."""
    # cuDNN tries its algorithms for all contenders, as the predictor lets it for itself
    with torch.backends.cudnn.flags(enabled=True, benchmark=True):
        model = dataclasses.replace(model_of(name), imgsz=side)
        predictors = {p: Predictor(model, precision=p) for p in PRECISIONS}
        network = copy.deepcopy(model.network).to(DTYPES[LOWEST])
        facts = facts_of(name, side, batch, DTYPES[LOWEST])
        case = f"{name}, {side}x{side}, B{batch}"
        alone = alone_race(case, model, network, predictors, batch).run(_Silent(), *facts)
        race = whole_race(case, model, network, predictors, batch)
        quote_paper(race, name, side, batch)
        whole = race.run(benchmark, *facts)
    part = next(r for r in reversed(alone.rows) if r.contender.endswith(PARTS[1]) and not r.note)
    whole.rows.append(dataclasses.replace(part, mode="part", cache="warm"))
    return alone, whole


def alone_race(
    case: str, model: Model, network: Network, predictors: dict[Precision, Predictor], batch: int
) -> Race:
    """Raw outputs of an input that is on the device, and what is made of them there."""
    with with_kernels():
        images = model._input(pictures(batch), input_size(model.imgsz))
        raw = model.network(images)
    low = images.to(DTYPES[LOWEST])
    ways = [("call", False), ("graph", False)] if CUDA else [("call", False)]
    race = Race("network alone", case, batch, near(raw, TOLERANCE[LOWEST]), ours=OURS, ways=ways)
    race.peer(f"torch eager, {LOWEST}", lambda: inferred(network, low))
    race.compiled(network, low, best=True)
    for precision, p in predictors.items():
        call, check = partial(inferred, p.run, images.to(p.dtype)), near(raw, TOLERANCE[precision])
        race.peer(f"predictor, {precision}", call, check=check, backend="auto")
    outputs = inferred(predictors[LOWEST].run, low)
    rows = partial(inferred, lambda x: model._rows(x, OPTIONS), outputs)
    race.peer(f"{OURS}: {PARTS[1]}", rows, check=lambda rows: None, backend="auto")  # proven in tests/
    return race


def whole_race(
    case: str, model: Model, network: Network, predictors: dict[Precision, Predictor], batch: int
) -> Race:
    """Pictures to results."""
    group, size = pictures(batch), input_size(model.imgsz)
    with with_kernels():
        want = plain(model, group, size[0])
    race = Race(WORK, case, batch, alike(want, LOWEST), ours=OURS, ways=[("call", False)])

    def eager(run: Callable[[Tensor], Tensor] = network) -> list[Any]:
        with torch.no_grad():
            outputs = run(model._input(group, size).to(DTYPES[LOWEST]))
            return model._interpret(outputs, group, size, OPTIONS)

    def streamed(p: Predictor) -> list[Any]:
        return [found for _, found in p.stream(group * STREAMED, batch)]

    race.peer(f"torch eager, {LOWEST}", eager, WAITS)
    race.peer(f"torch eager, {LOWEST}, our kernels", eager, WAITS, backend="auto")
    race.compiled(network, through=lambda run: eager_with_kernels(eager, run), best=True)
    for precision, p in predictors.items():
        name, check, checks = (
            f"predictor, {precision}",
            alike(want, precision),
            alike(want, precision, STREAMED),
        )
        race.peer(name, partial(p, group), COPIES, check=check, backend="auto")
        stream = partial(streamed, p)
        race.peer(f"{name}, batches streamed", stream, COPIES, check=checks, backend="auto", repeats=STREAMED)
    return race


def eager_with_kernels(eager: Callable[..., list[Any]], run: Callable[[Tensor], Tensor]) -> list[Any]:
    """Pictures to results with another network, and this project's kernels around it."""
    with use_backend("auto"):
        return eager(run)


class _Silent:
    """In place of pytest-benchmark's fixture, which times once a test."""

    def __init__(self) -> None:
        self.extra_info: dict[str, Any] = {}

    def pedantic(self, *_: Any, **__: Any) -> None:
        """Time nothing."""

"""Where the time of one batch goes: ``python -m yolov2.profile --model yolov2-voc`` (a table, and a trace).

The network's lines say how much of the roofline they reach: the time that their FLOPs or their bytes, counted
from the layers, take at least on this machine, whose rates are measured beside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reference.layers import Grid, Softmax, head_index, output_shapes
from reference.region import Region
from yolov2.classifier import Classifier
from yolov2.cli import option, parse, run
from yolov2.detector import Detector
from yolov2.errors import Complaints, UserError
from yolov2.inference.engines import EngineName, Precision
from yolov2.inference.predictor import Predictor
from yolov2.inference.profiling import Profile, Step, profile, visible_network
from yolov2.inference.roofline import MATRIX, Roof
from yolov2.letterbox import Mode
from yolov2.loading import load
from yolov2.model import check_options, input_size, pick_device
from yolov2.names import default_names
from yolov2.presets import NETWORKS
from yolov2.runs import newest_weights
from yolov2.sources import open_source
from yolov2.summary import network_of

Model = Detector | Classifier
#: (height, width) of the pictures that are made up where none are given
PICTURE = (480, 640)
HEADINGS = ("step", "ms", "%", "GFLOP", "GFLOP/s", "MB", "roofline")


@dataclass(frozen=True)
class ProfileConfig:
    """Flags of ``python -m yolov2.profile``."""

    weights: Path | None = option(
        "checkpoint, or Darknet's .weights; none is the best one of the newest run", default=None
    )
    cfg: Path | None = option("network file of .weights; none is the one beside them", default=None)
    names: Path | None = option("class names of .weights, one a line; none: beside them", default=None)
    model: str | None = option(
        f"in place of weights, a network at random: {', '.join(NETWORKS)}, or a .cfg file", default=None
    )
    source: str | None = option(
        "picture, folder, pattern or .txt list to read; none makes pictures up", default=None
    )
    imgsz: tuple[int, ...] | None = option(
        "input in pixels, one side or height,width; none is the network's", default=None
    )
    batch: int = option("pictures at a time", default=1)
    engine: EngineName = option("what runs the network; auto is eager", default="auto")
    precision: Precision = option("auto is float16 on CUDA GPUs, float32 elsewhere", default="auto")
    calibration: Path | None = option("for int8: pictures like those to come", default=None)
    device: str = option("cpu, cuda, cuda:1, ... or auto", default="auto")
    repeats: int = option("passes, of which the table has the medians", default=10)
    layers: bool = option("a line for every layer, not for those of one size of output", default=False)
    trace: Path | None = option(
        "write one more pass to this .json, for chrome://tracing or ui.perfetto.dev", default=None
    )

    def __post_init__(self):
        check_options(0, 0, 1, self.batch)
        if not 1 <= self.repeats <= 10**6:
            raise ValueError("--repeats must be from 1 to 1000000")
        if self.imgsz is not None and (len(self.imgsz) not in (1, 2) or min(self.imgsz) < 1):
            raise ValueError("--imgsz: one side, or height,width")
        if self.model is not None:
            for flag in ("weights", "cfg", "names"):
                if getattr(self, flag) is not None:
                    raise ValueError(f"--model has random weights: leave --{flag} out, or --model")
        if self.trace is not None and (not self.trace.parent.is_dir() or self.trace.is_dir()):
            raise UserError(f"--trace {self.trace}: not a file in a folder that exists")

    @property
    def size(self) -> int | tuple[int, int] | None:
        """Size of the input as a model takes it."""
        if self.imgsz is None or len(self.imgsz) == 1:
            return self.imgsz and self.imgsz[0]
        return self.imgsz[0], self.imgsz[1]


def random_model(name: str, imgsz: int | tuple[int, int] | None = None) -> Model:
    """A network with random weights, the same every time.

    Parameters
    ----------
    name : str
        In `yolov2.presets.NETWORKS`, or the path of a cfg file.
    imgsz : int or tuple of int (height, width), optional
        Size of the input in pixels; by default the network's own.

    Returns
    -------
    Detector or Classifier
        On the CPU.

    Raises
    ------
    UserError
        If there is no such network, it says nothing of what it finds, or a layer does not fit the size.
    """
    layers, (channels, height, width) = network_of(name)
    if imgsz is not None:
        width, height = input_size(imgsz)
    if min(width, height) < 1:
        raise UserError(f"--model {name}: says no width and height; give --imgsz")
    if channels != 3:
        raise UserError(f"--model {name}: takes pictures of {channels} channels, not RGB")
    index = head_index(layers)
    head = None if index is None else layers[index]
    if not isinstance(head, Region | Grid | Softmax):
        raise UserError(f"--model {name}: ends in no region, detection or softmax layer")
    torch.manual_seed(0)
    try:
        classes = output_shapes(layers, (3, height, width))[-1]
        if isinstance(head, Softmax):
            names = default_names(int(np.prod(classes)))
            return Classifier.build(layers, names, (height, width))
        resize: Mode = "stretch" if isinstance(head, Grid) else "letterbox"
        return Detector.build(layers, default_names(head.classes), (height, width), resize)
    except ValueError as error:
        raise UserError(f"--model {name} at {width}x{height}: {error}") from None


def table(result: Profile, batch: int) -> str:
    """The profile as text: headings, a line per step, and what they come to.

    Parameters
    ----------
    result : Profile
        Of `yolov2.inference.profiling.profile`.
    batch : int
        Pictures at a time.

    Returns
    -------
    str
        The columns are milliseconds, their share in the sum, and of the network's steps 10^9 FLOPs, the same
        a second, 10^6 bytes moved, and the floor of `Work.seconds` as per cent of the time taken.
    """
    steps, network, whole, roof = result
    everything = sum(step.seconds for step in steps)
    lines: list[tuple[str, ...]] = [HEADINGS]
    totals = [Step("sum", everything), *([] if network in steps else [network]), whole]
    for step in (*steps, *totals):
        lines.append((step.name, *_numbers(step, everything, roof)))
    first, *others = (max(map(len, column)) for column in zip(*lines, strict=True))
    texts = []
    for name, *cells in lines:
        right = (f"{cell:>{width}}" for cell, width in zip(cells, others, strict=True))
        texts.append(" ".join((f"{name:<{first}}", *right)))
    texts.insert(1 + len(steps), "-" * len(texts[0]))
    texts.append(f"{whole.name}: {batch / whole.seconds:,.1f} pictures/s")
    return "\n".join(text.rstrip() for text in texts)


def _numbers(step: Step, everything: float, roof: Roof) -> tuple[str, ...]:
    """The cells beside a step's name; what has no work, or no FLOPs, has no numbers of it."""
    seconds, work = step.seconds, step.work
    flops = moved = reached = rate = ""
    if work is not None and work.flops:
        flops, rate = f"{work.flops / 1e9:.3f}", f"{work.flops / 1e9 / seconds:,.1f}"
    if work is not None and work.bytes:
        moved, reached = f"{work.bytes / 1e6:,.1f}", f"{work.seconds(roof) / seconds:.0%}"
    return f"{1000 * seconds:,.3f}", f"{100 * seconds / everything:.1f}", flops, rate, moved, reached


def _reader(source: str, batch: int) -> Callable[[], list[Any]]:
    """What reads the first pictures of a source, from its start again where they do not suffice."""
    complaints = Complaints()
    pictures = open_source(source, complaints=complaints)
    if pictures.streaming:
        raise UserError(f"--source {source}: a video or camera; give pictures")
    # iterating opens the files anew every time
    return lambda: [frame.picture for frame in islice(chain.from_iterable(repeat(pictures)), batch)]


def _model(config: ProfileConfig) -> tuple[Model, str]:
    """The network on its device, and its name."""
    device = pick_device(config.device)
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {config.device}: its time cannot be taken here; try cpu")
    if config.model is not None:
        return random_model(config.model, config.size).to(device), f"{config.model} at random"
    weights = config.weights or newest_weights()
    model = load(weights, config.cfg, config.names, device=device, imgsz=config.size)
    return model, str(weights)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    description = "Show where the time of one batch goes."
    config = parse(ProfileConfig, argv, "python -m yolov2.profile", description)
    read = None if config.source is None else _reader(config.source, config.batch)
    noise = np.random.default_rng(0).integers(0, 256, (*PICTURE, 3), np.uint8)
    pictures = [noise] * config.batch if read is None else read()
    model, name = _model(config)
    calibration = None if config.calibration is None else str(config.calibration)
    predictor = Predictor(model, config.engine, config.precision, calibration)
    shown = visible_network(predictor.run) is not None
    if config.layers and not shown:
        raise UserError(f"--layers: --engine {config.engine} does not show its layers; leave it out")
    size = 1 if config.precision == "int8" else predictor.dtype.itemsize
    result = profile(predictor, pictures, config.repeats, config.layers, size, read, config.trace)
    print(_conditions(config, predictor, result.roof, name))
    print(table(result, config.batch))
    if config.trace is not None:
        print(f"see {config.trace}, in chrome://tracing or https://ui.perfetto.dev")


def _conditions(config: ProfileConfig, predictor: Predictor, roof: Roof, name: str) -> str:
    """What the numbers were made with, and what they are."""
    device, dtype, threads = predictor.device, str(predictor.dtype).split(".")[1], torch.get_num_threads()
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else f"cpu, {threads} thread{'s' * (threads > 1)}"
    engine = "eager" if visible_network(predictor.run) else type(predictor.run).__name__.lower()
    precision = "int8" if config.precision == "int8" else dtype
    width, height = input_size(predictor.model.imgsz)
    pictures = config.source or "{1}x{0} of noise".format(*PICTURE)
    side = MATRIX[device.type]
    lines = [
        f"{name}, {width}x{height}, batch {config.batch}, {engine}, {precision}",
        f"{where}, torch {torch.__version__}; pictures: {pictures}; medians of {config.repeats} passes",
        f"roof, measured here: {roof.flops / 1e9:,.0f} GFLOP/s (matrices {side}x{side}, {dtype}), "
        f"{roof.bytes / 1e9:,.1f} GB/s (a large copy)",
        "roofline: the least time at these rates, as per cent of the time taken; a cache can do better",
    ]
    if cuda:
        lines.append(
            "the steps of the GPU are run one by one for this table; the last line is their CUDA graph"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(run(main))

"""Take a network elsewhere: ``python -m yolov2.export --weights x.weights --cfg x.cfg --format onnx``.

======================  =====================================================================================
safetensors             this library's checkpoint: network, names, anchors, reorg order, all in one file
darknet                 .weights with their .cfg and .names (and tree and map), for Darknet itself
onnx                    for onnxruntime, OpenCV 5 and others; optionally with decode and NMS inside
torch                   a program of ``torch.export`` (.pt2)
======================  =====================================================================================
"""

import dataclasses
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference.layers import Grid, ReorgOrder, Softmax
from reference.region import Region, WordTree
from reference.schedule import Schedule
from yolov2.cfg import Config, write_cfg
from yolov2.cfg_sections import HeadTraining, Net
from yolov2.checkpoint import from_plain, reading
from yolov2.classifier import Classifier
from yolov2.cli import option, parse, run
from yolov2.detector import Detector, raw_detections
from yolov2.errors import UserError
from yolov2.letterbox import Mode
from yolov2.loading import beside, load
from yolov2.model import check_options, input_size
from yolov2.network import get_parameters
from yolov2.runs import newest_weights
from yolov2.weights import write_weights

Format = Literal["safetensors", "darknet", "onnx", "torch"]
SUFFIXES: dict[Format, str] = {
    "safetensors": ".safetensors",
    "darknet": ".weights",
    "onnx": ".onnx",
    "torch": ".pt2",
}


def export_darknet(model: Detector | Classifier, path: Path, cutoff: int | None = None) -> list[Path]:
    """Write Darknet's files: weights, and beside them cfg, names and, if there are any, tree and map.

    Parameters
    ----------
    model : Detector or Classifier
        Of Darknet's or this library's training.
    path : Path
        Of the weights; the others are called like it.
    cutoff : int, optional
        Write only the first so many layers, and no other file: weights to start other networks from.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If the count of pictures does not fit the header that the weights came with.
    """
    config, progress = darknet_config(model), model.progress
    version = tuple(progress.get("darknet_version", (0, 2, 0)))
    seen = progress.get("seen", 0)
    write_weights(path, model.network.layers, get_parameters(model.network), seen, version, cutoff)
    if cutoff is not None:
        return [path]
    names = path.with_suffix(".names")
    _write(names, "".join(f"{name}\n" for name in model.names).encode())
    return [path, *write_cfg(path.with_suffix(".cfg"), config), names]


def darknet_config(model: Detector | Classifier) -> Config:
    """What Darknet is told about a network: as it came from its cfg, or as this library trained it."""
    width, height = input_size(model.imgsz)
    trained = model.config
    if "net" in trained:
        net, training = from_plain(trained["net"]), from_plain(trained["head_training"])
        net = dataclasses.replace(net, width=width, height=height, channels=3)
        return Config(net, model.network.layers, training)
    keys = ("momentum", "decay", "hue", "saturation", "exposure")
    settings = {key: trained[key] for key in keys if key in trained}
    settings |= {"batch": trained["nominal_batch"]} if "nominal_batch" in trained else {}
    net = Net(width, height, 3, min_crop=width, max_crop=2 * width, **settings)
    if "lr" in trained:
        net = dataclasses.replace(net, schedule=Schedule(trained["lr"]))
    multi_scale = any(trained.get("multi_scale") or ())
    return Config(net, model.network.layers, HeadTraining(trained.get("jitter", 0.2), multi_scale))


def export_onnx(
    model: Detector | Classifier,
    path: Path,
    *,
    detections: bool = False,
    conf: float = 0.25,
    iou: float = 0.45,
    max_det: int = 100,
    dynamic_size: bool = False,
) -> str:
    """Write an ONNX file and, where onnxruntime is installed, run it beside the network.

    Parameters
    ----------
    model : Detector or Classifier
        What to write.
    path : Path
        Where to.
    detections, conf, iou, max_det, dynamic_size
        See `yolov2.onnx_graph.to_onnx`.

    Returns
    -------
    str
        A line that says what goes in and comes out, and how far the two were apart.

    Raises
    ------
    UserError
        If the package onnx is not installed.
    ValueError
        If the network has no such form.
    """
    from yolov2.onnx_graph import to_onnx

    network = model.network
    width, height = input_size(model.imgsz)
    written = to_onnx(
        network.layers,
        get_parameters(network),
        (3, height, width),
        names=model.names,
        batch_norm=network.batch_norm,
        detections=detections,
        conf=conf,
        iou=iou,
        max_det=max_det,
        dynamic_size=dynamic_size,
        resize=model.resize,
    )
    _write(path, written.SerializeToString())
    what = ", ".join(f"{value.name} {_dims(value)}" for value in written.graph.output)
    line = f"images {_dims(written.graph.input[0])} RGB in 0..1 -> {what}"
    try:
        import onnxruntime
    except ImportError:
        return f"{line}; not run, for onnxruntime is not installed"
    images = _example(model)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    got = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        wanted = Exported(model, (conf, iou, max_det) if detections else None)(images)
    return f"{line}; {_compared(got, wanted)} in onnxruntime"


class PlainTreeSoftmax(nn.Module):
    """Softmax over every sibling group of a tree (SPEC 13), in torch's own operators."""

    table: Tensor  # (groups, size of the largest) nodes, and their number where a group has no more
    cells: Tensor  # (nodes,) their places in the table

    def __init__(self, tree: WordTree):
        super().__init__()
        nodes, longest = len(tree.parents), max(tree.group_sizes)
        groups = zip(tree.group_offsets, tree.group_sizes, strict=True)
        rows = [[*range(first, first + size)] + [nodes] * (longest - size) for first, size in groups]
        self.register_buffer("table", torch.tensor(rows))
        self.register_buffer("cells", (self.table.flatten() < nodes).nonzero()[:, 0])

    def forward(self, scores: Tensor) -> Tensor:
        filled = F.pad(scores, (0, 1), value=-torch.inf)
        return filled[:, self.table].softmax(2).flatten(1)[:, self.cells]


class Exported(nn.Module):
    """What an exported file computes: raw outputs, the probabilities of a classifier, or detections."""

    def __init__(self, model: Detector | Classifier, detections: tuple[float, float, int] | None):
        super().__init__()
        self.network = model.network.eval()
        self.head = model.network.head
        self.softmax: nn.Module | None = None
        if isinstance(self.head, Softmax):
            tree = self.head.tree
            self.softmax = nn.Softmax(1) if tree is None else PlainTreeSoftmax(tree)
        self.detections = detections

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor, Tensor]:
        raw = self.network(images)
        if self.softmax is not None:
            return self.softmax(raw.flatten(1))
        if self.detections is not None:
            assert isinstance(self.head, Region | Grid)
            return tuple(raw_detections(raw, self.head, *self.detections))  # type: ignore[return-value]
        return raw.flatten(1) if isinstance(self.head, Grid) else raw


def export_program(
    model: Detector | Classifier,
    path: Path,
    *,
    detections: bool = False,
    conf: float = 0.25,
    iou: float = 0.45,
    max_det: int = 100,
) -> str:
    """Write a program of ``torch.export``, for any number of pictures, and run it beside the network.

    Parameters
    ----------
    model : Detector or Classifier
        What to write.
    path : Path
        Where to.
    detections, conf, iou, max_det
        With detections inside, as of ``fast.detect.detect``. Such a program needs ``import fast.detect``
        before ``torch.export.load``; one without needs torch alone.

    Returns
    -------
    str
        A line that says what goes in and comes out, and how far the two were apart.

    Raises
    ------
    ValueError
        If the network has no such form.
    """
    if detections and not isinstance(model, Detector):
        raise ValueError("detections: a classifier makes none; export without")
    module = Exported(model, (conf, iou, max_det) if detections else None)
    images = _example(model)
    batch = {"images": {0: torch.export.Dim("batch", min=1, max=1 << 16)}}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (images,), dynamic_shapes=batch)
        if not detections:  # plain torch in place of this library's operator
            program = program.run_decompositions({torch.ops.yolov2.reorg.default: _plain_reorg})
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # names folders of this computer
        program.example_inputs = None  # noise is not worth its bytes
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    _write(path, buffer.getbuffer())
    with torch.no_grad():
        got, wanted = torch.export.load(path).module()(images), module(images)
    what = "raw outputs" if isinstance(model, Detector) else "probabilities"
    what = "boxes, scores, classes, count" if detections else what
    line = f"images (batch, 3, {images.shape[2]}, {images.shape[3]}) RGB in 0..1 -> {what}"
    return f"{line}; {_compared(got, wanted)} when loaded again"


def _plain_reorg(x: Tensor, s: int, darknet: bool, inverse: bool) -> Tensor:
    """The operator yolov2::reorg in torch's own operators (SPEC 9)."""
    B, C, H, W = x.shape
    if inverse:
        D, H, W = C // (s * s), H * s, W * s
        shape: tuple[Any, ...] = (B, D, H, W)
        if darknet:
            D, H, W = D // (s * s), H * s, W * s
        moved = x.reshape(B, s, s, D, H // s, W // s).permute(0, 3, 4, 1, 5, 2)
    else:
        shape = (B, C * s * s, H // s, W // s)
        D, H, W = (C // (s * s), H * s, W * s) if darknet else (C, H, W)
        moved = x.reshape(B, D, H // s, s, W // s, s).permute(0, 3, 5, 1, 2, 4)
    return moved.reshape(shape).clone(memory_format=torch.contiguous_format)


def _example(model: Detector | Classifier) -> Tensor:
    """Two pictures of noise."""
    width, height = input_size(model.imgsz)
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def _compared(got: Any, wanted: Any) -> str:
    """How far results are apart."""
    pairs = zip(*((x,) if isinstance(x, Tensor) else x for x in (got, wanted)), strict=True)
    worst = max(float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max()) for a, b in pairs)
    return f"at most {worst:.1e} from the network on noise"


def _dims(value: Any) -> str:
    sides = [d.dim_param or str(d.dim_value) for d in value.type.tensor_type.shape.dim]
    return f"({', '.join(sides)})"


def _write(path: Path, data: bytes | memoryview) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class ExportConfig:
    """Flags of ``python -m yolov2.export``."""

    weights: Path | None = option(
        "checkpoint, or Darknet's .weights; none is the best one of the newest run", default=None
    )
    cfg: Path | None = option("network file of .weights; none is the one beside them", default=None)
    names: Path | None = option("class names of .weights, one a line; none: beside them", default=None)
    format: Format = option("what to write", default="safetensors")
    out: Path | None = option("file to write; none is beside the weights", default=None)
    imgsz: tuple[int, ...] | None = option(
        "input in pixels, one side or height,width; none is the network's", default=None
    )
    resize: Mode | None = option("how pictures meet the input; none is as the files say", default=None)
    reorg: ReorgOrder | None = option(
        "order of reorg; space_to_depth for weights trained so by a fork", default=None
    )
    strict: bool = option("weights must have exactly the length that the network needs", default=True)
    cutoff: int | None = option("darknet: only the first so many layers", default=None)
    detections: bool = option("onnx, torch: decode and NMS inside", default=False)
    conf: float = option("with --detections: they must score above this", default=0.25)
    iou: float = option("with --detections: NMS threshold", default=0.45)
    max_det: int = option("with --detections: so many rows a picture", default=100)
    dynamic_size: bool = option("onnx: any height and width", default=False)

    def __post_init__(self):
        check_options(self.conf, self.iou, self.max_det, 1)
        if self.imgsz is not None and len(self.imgsz) not in (1, 2):
            raise ValueError("--imgsz: one side, or height,width")
        for flag, formats in (("detections", ("onnx", "torch")), ("dynamic_size", ("onnx",))):
            if getattr(self, flag) and self.format not in formats:
                raise ValueError(f"--{flag.replace('_', '-')}: only of --format {' or '.join(formats)}")
        if self.cutoff is not None and (self.format != "darknet" or self.cutoff < 1):
            raise ValueError("--cutoff: a number of layers, with --format darknet")


def _place(config: ExportConfig, weights: Path) -> Path:
    """The file to write; a complaint if it, or one that goes with it, is among those that are read."""
    suffix = SUFFIXES[config.format]
    out = config.out or weights.with_suffix(suffix)
    if out.is_dir():
        out = out / weights.with_suffix(suffix).name
    elif out.suffix == "":
        out = out.with_suffix(suffix)
    files = [out]
    if config.format == "darknet" and config.cutoff is None:
        files += [out.with_suffix(other) for other in (".cfg", ".names", ".tree", ".map")]
    if out in files[1:]:
        raise UserError(f"{out}: the weights; {out.suffix} is what goes beside them, so give another --out")
    read = [weights, config.cfg, config.names]
    if weights.suffix != ".safetensors":
        read += [beside(weights, ".cfg"), beside(weights, ".names")]
    for file in files:
        if any(source and source.exists() and file.exists() and file.samefile(source) for source in read):
            raise UserError(f"{file}: is what is read; give another --out")
    return out


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    what = f"Convert a network to {', '.join(get_args(Format))}."
    config = parse(ExportConfig, argv, "python -m yolov2.export", what)
    weights = config.weights or newest_weights()
    imgsz = None if config.imgsz is None else config.imgsz[0] if len(config.imgsz) == 1 else config.imgsz
    try:
        model = load(
            weights,
            config.cfg,
            config.names,
            device="cpu",
            imgsz=imgsz,  # type: ignore[arg-type]
            resize=config.resize,
            reorg=config.reorg,
            strict=config.strict,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None
    out = _place(config, weights)
    out.parent.mkdir(parents=True, exist_ok=True)
    files, line = [out], ""
    options: dict[str, Any] = {key: getattr(config, key) for key in ("detections", "conf", "iou", "max_det")}
    try:
        match config.format:
            case "safetensors":
                model.save(out)
            case "darknet":
                with reading(weights):  # what a checkpoint says of training comes to light now
                    files = export_darknet(model, out, config.cutoff)
            case "onnx":
                line = export_onnx(model, out, dynamic_size=config.dynamic_size, **options)
            case "torch":
                line = export_program(model, out, **options)
    except ValueError as error:
        raise UserError(f"{weights}: {error}") from None
    for file in files:
        print(f"{file} ({file.stat().st_size / 1e6:,.1f} MB)")
    if line:
        print(line)


if __name__ == "__main__":
    raise SystemExit(run(main))

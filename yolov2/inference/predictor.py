"""`yolov2.Predictor`: a model made ready to run, and everything between pictures and results around it."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fast._launch import use_triton
from fast.letterbox import Packed, letterbox_packed, pack
from reference.region import TreeRule
from yolov2.inference.ahead import ahead
from yolov2.inference.engines import EngineName, Precision, open_engine
from yolov2.inference.pipeline import Pending, Pipeline, capacity_for, on_device
from yolov2.letterbox import network_input, pixels
from yolov2.results import Results
from yolov2.sources import Frame, Order, Source, open_source

if TYPE_CHECKING:
    from yolov2.model import Model, Options, Picture

#: captured graphs that are kept, each with memory for all maps of its batch
PIPELINES = 8
#: pictures that calibrate int8, evenly taken from all
CALIBRATION = 100

Size = tuple[int, int]


class Prepared(NamedTuple):
    """A group of pictures on its way."""

    pictures: Sequence["Picture"]
    size: Size  # of the network's input: (width, height)
    options: "Options"
    images: Tensor | Packed  # the input, or on GPUs the bytes that it is made of there
    seconds: float  # that took


class Started(NamedTuple):
    """A group whose results are computed, or being computed on a GPU."""

    finish: Callable[[], list[Any]]
    seconds: float


class Predictor:
    """A model made ready to run: folded, packed or captured, and fed without waiting.

    Parameters
    ----------
    model : Detector, Classifier, str or Path
        The model, on its device, or a file for `yolov2.load`. Weights that change afterwards are not seen.
    engine : {"auto", "eager", "compile", "onnxruntime", "openvino"}
        What runs the network, see `yolov2.inference.engines.open_engine`.
    precision : {"auto", "float32", "float16", "bfloat16", "int8"}
        "auto" is float16 on CUDA GPUs and float32 elsewhere.
    calibration : anything `yolov2.sources.open_source` takes, optional
        Pictures like those to come; for "int8".

    Raises
    ------
    UserError
        If a package or the calibration is missing, or the engine cannot do that here.
    ValueError
        If an option has no meaning.

    Notes
    -----
    Any number of threads may use one predictor. On a CUDA GPU letterbox, network and detections are one CUDA
    graph for each batch and size, captured when first needed or by `warmup`; on a tree of classes the graph
    ends with the network.

    Examples
    --------
    >>> predictor = yolov2.Predictor("yolov2-voc.weights", engine="onnxruntime")
    >>> predictor.warmup()
    >>> for result in predictor.predict("pictures", stream=True):
    ...     print(result.path, result.boxes.xyxy)
    """

    def __init__(
        self,
        model: "Model | str | Path",
        engine: EngineName = "auto",
        precision: Precision = "auto",
        calibration: Any = None,
    ):
        if isinstance(model, str | Path):
            from yolov2.loading import load

            model = load(model)
        self.model: Any = model
        self.device = model.device
        inputs = None if calibration is None else self._calibration(calibration)
        self.run, self.dtype = open_engine(model.network, self.device, engine, precision, inputs)
        #: whether bytes are packed, and the input made from them on the device; quicker on a GPU only
        self._channels_last = not getattr(self.run, "planes", False)
        self._packs = self.device.type == "cuda" and use_triton(torch.empty(0, device=self.device))
        self._pipelines: OrderedDict[Any, Pipeline] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(
        self,
        pictures: Sequence["Picture"],
        conf: float = 0.25,
        iou: float = 0.45,
        max_det: int = 100,
        imgsz: int | tuple[int, int] | None = None,
        tree_threshold: float = 0.5,
        tree_rule: TreeRule = "darknet",
    ) -> list[Any]:
        """What a call of the model returns for a detector: a `yolov2.detector.Found` per picture.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image or ndarray, uint8 (H, W, 3)
            RGB, any sizes; one batch.
        conf, iou, max_det, imgsz, tree_threshold, tree_rule
            As of `predict`.

        Returns
        -------
        list
            Of a classifier, Tensors of its probabilities.
        """
        from yolov2.model import Options

        if not len(pictures):
            return []
        size = self._size(imgsz)
        options = Options(conf, iou, max_det, tree_threshold, tree_rule)
        return self._start(self._prepare(pictures, size, options)).finish()

    def stream(
        self, pictures: Iterable["Picture"], batch: int = 16, **options: Any
    ) -> Iterator[tuple["Picture", Any]]:
        """Detections of any number of pictures, `batch` at a time; `options` as in a call.

        `pictures` is iterated on a thread of its own. On a GPU results come when the next batch has been
        read, unless a batch is one picture.
        """
        from yolov2.model import Options

        size = self._size(options.pop("imgsz", None))
        for group, found, _ in self._groups(iter(pictures), size, Options(**options), batch, lag=batch > 1):
            yield from zip(group, found, strict=True)

    def warmup(
        self,
        batch: int = 1,
        imgsz: int | tuple[int, int] | None = None,
        picture: Size | None = None,
        **options: Any,
    ) -> "Predictor":
        """Do now what the first pictures would wait for: pack, compile or capture.

        Parameters
        ----------
        batch : int
            Pictures at a time.
        imgsz : int or tuple of int (height, width), optional
            Size of the network's input, in pixels.
        picture : (width, height), optional
            The largest pictures to come, in pixels, whose bytes a GPU keeps room for; by default those of the
            input.
        **options
            conf, iou, ... of the calls to come, which are part of a graph.

        Returns
        -------
        Predictor
            This one.
        """
        width, height = picture or self._size(imgsz)
        blank = np.zeros((height, width, 3), np.uint8)
        self([blank] * batch, imgsz=imgsz, **options)
        return self

    def predict(
        self,
        source: Any,
        conf: float = 0.25,
        iou: float = 0.45,
        max_det: int = 100,
        imgsz: int | tuple[int, int] | None = None,
        batch: int = 16,
        order: Order = "rgb",
        stream: bool = False,
        progress: bool = True,
        tree_threshold: float = 0.5,
        tree_rule: TreeRule = "darknet",
    ) -> list[Results] | Iterator[Results]:
        """What is in pictures; all parameters, results and errors as of `yolov2.model.Model.predict`."""
        from yolov2.model import Options, check_options

        check_options(conf, iou, max_det, batch, tree_threshold)
        options = Options(conf, iou, max_det, tree_threshold, tree_rule)
        size = self._size(imgsz)
        pictures = source if isinstance(source, Source) else open_source(source, order)
        results = self._results(pictures, size, options, batch, progress)
        return results if stream or pictures.streaming else list(results)

    def _size(self, imgsz: int | tuple[int, int] | None) -> Size:
        from yolov2.model import input_size

        if imgsz is not None:
            self.model.check_size(imgsz)
        return input_size(self.model.imgsz if imgsz is None else imgsz)

    def _results(
        self, source: Source, size: Size, options: "Options", batch: int, bar: bool
    ) -> Iterator[Results]:
        named = dict(enumerate(self.model.names))
        shown = tqdm(total=source.count, desc="predicting", unit="img", delay=2, leave=False, disable=not bar)
        batch = 1 if source.streaming else batch
        # a camera's frame is told of before the next one is waited for
        groups = self._groups(iter(source), size, options, batch, lag=not source.streaming)
        with shown, closing(groups):
            for frames, found, speed in groups:
                for frame, what in zip(frames, found, strict=True):
                    yield self.model._result(what, frame.picture, named, frame.path, speed)
                shown.update(len(frames))

    def _groups(
        self, items: Iterator[Any], size: Size, options: "Options", batch: int, lag: bool
    ) -> Generator[tuple[list[Any], list[Any], dict[str, float]], None, None]:
        """Groups of frames or pictures, what was found in them, and the milliseconds a picture.

        With `lag` on a GPU the results of a group are fetched when the next group is on its way.
        """

        def prepared() -> Iterator[tuple[list[Any], Prepared]]:
            fill = 0  # the last group is filled up where that saves capturing a graph for it
            while group := list(islice(items, batch)):
                pictures = [i.picture if isinstance(i, Frame) else i for i in group]
                yield group, self._prepare(pictures, size, options, fill)
                fill = len(group)

        lag = lag and self._packs
        waiting: list[tuple[list[Any], Prepared, Started]] = []
        with closing(ahead(prepared(), 1)) as groups:
            try:
                for group, ready in groups:
                    waiting.append((group, ready, self._start(ready)))
                    if len(waiting) > lag:
                        yield _finished(*waiting.pop(0))
            except Exception:  # of the source: what was read before is told first
                while waiting:
                    yield _finished(*waiting.pop(0))
                raise
        for pending in waiting:
            yield _finished(*pending)

    def close(self) -> None:
        """Wait for what runs, and let go of the captured graphs and their memory; later calls make others."""
        with self._lock:
            while self._pipelines:
                self._pipelines.popitem()[1].drain()

    def _prepare(
        self, pictures: Sequence["Picture"], size: Size, options: "Options", fill: int = 0
    ) -> Prepared:
        """The host's part before the network; `fill` repeats the last picture up to so many, for a graph."""
        start = time.perf_counter()
        mode = self.model.resize
        images: Tensor | Packed
        if self._packs:
            tensors = [pixels(p) for p in pictures]
            tensors += [tensors[-1][:1, :1]] * (fill - len(tensors))
            images = pack(tensors, *size, mode, pin=self.device.type == "cuda")
        else:
            with torch.inference_mode():
                # on the host: a thread of its own must not touch what another one computes on
                host = torch.device("cpu")
                images = network_input(pictures, *size, mode, host, self._channels_last).to(self.dtype)
        return Prepared(pictures, size, options, images, time.perf_counter() - start)

    def _start(self, ready: Prepared) -> Started:
        """Begin to compute; on a CPU it is over when this returns."""
        pictures, size, options, images, _ = ready
        start = time.perf_counter()
        if isinstance(images, Packed):
            pending = self._submit(images, options)
            return Started(lambda: self._read(pending, pictures, size, options), time.perf_counter() - start)
        with torch.inference_mode():
            outputs = self.run(images.to(self.device))
        seconds = time.perf_counter() - start

        def finish() -> list[Any]:
            with torch.inference_mode():
                return self.model._interpret(outputs, pictures, size, options)

        return Started(finish, seconds)

    def _submit(self, packed: Packed, options: "Options") -> Pending:
        """On a GPU: into the pipeline of this shape, made where there is none with room for the bytes."""
        shape = packed.pictures, packed.width, packed.height
        fixed = self.model.has_rows((packed.width, packed.height))
        key = (shape, options if fixed and self.model.heeds_options else None)

        def run(on_gpu: Packed) -> Tensor:
            outputs = self.run(letterbox_packed(on_gpu, self.dtype, channels_last=True))
            return self.model._rows(outputs, options) if fixed else outputs

        with self._lock, on_device(self.device):
            pipeline = self._pipelines.get(key)
            if pipeline is None or pipeline.capacity < len(packed.buffer):
                capacity = capacity_for(len(packed.buffer))
                if pipeline is not None:
                    pipeline.drain()
                pipeline = self._pipelines[key] = Pipeline(run, *shape, capacity, self.device, fixed)
            self._pipelines.move_to_end(key)
            while len(self._pipelines) > PIPELINES:
                self._pipelines.popitem(last=False)[1].drain()
            return pipeline.submit(packed)

    def _read(
        self, pending: Pending, pictures: Sequence["Picture"], size: Size, options: "Options"
    ) -> list[Any]:
        results = pending.wait()[: len(pictures)]
        if self.model.has_rows(size):
            return self.model._read_rows(results.numpy(), pictures, size)
        with torch.inference_mode():
            return self.model._interpret(results, pictures, size, options)

    def _calibration(self, source: Any) -> Iterator[Tensor]:
        """Inputs from pictures evenly taken from a source."""
        frames = source if isinstance(source, Source) else open_source(source)
        step = 1 if frames.count is None else max(1, -(-frames.count // CALIBRATION))
        for frame in islice(islice(frames, 0, None, step), CALIBRATION):
            yield network_input([frame.picture], *self._size(None), self.model.resize, self.device)


def _finished(
    group: list[Any], ready: Prepared, started: Started
) -> tuple[list[Any], list[Any], dict[str, float]]:
    """Results of a started group, and the milliseconds a picture of each step."""
    start = time.perf_counter()
    found = started.finish()
    spent = ready.seconds, started.seconds, time.perf_counter() - start
    speed = {
        name: 1000 * seconds / len(group)
        for name, seconds in zip(("preprocess", "inference", "postprocess"), spent, strict=True)
    }
    return group, found, speed

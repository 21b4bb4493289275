"""A network with all it takes to use it, as `yolov2.load` returns it: names, input size, resize mode."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from reference.layers import Connected, Grid, Head, Layer, Local, Softmax, output_shapes
from reference.region import TreeRule
from yolov2.checkpoint import Checkpoint, load_checkpoint, load_state, reading, save_checkpoint
from yolov2.errors import UserError
from yolov2.inference.engines import EngineName, Precision
from yolov2.inference.predictor import Predictor
from yolov2.letterbox import Letterbox, Mode, network_input
from yolov2.network import BatchNormForm, Network
from yolov2.results import Results
from yolov2.sources import Order

Picture = Image.Image | np.ndarray
FIXED = (Connected, Local, Grid)  # records made for one size of input


def pick_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one.

    Raises
    ------
    UserError
        If there is no such device, or not here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # torch knows more names (hpu, meta, ...): nothing here runs on those
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?|mps", name):
        raise UserError(f"--device {name}: not one of auto, cpu, cuda, cuda:1, ..., mps; try cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from None
    return device


class Options(NamedTuple):
    """What counts as a detection; classifiers know none.

    Attributes
    ----------
    conf : float
        Detections must score above this.
    iou : float
        NMS threshold.
    max_det : int
        At most so many detections a picture.
    tree_threshold : float
        On a tree of classes: how sure a node must be to be named in place of its parent.
    tree_rule : {"darknet", "paper"}
        Whether that is asked of the product of the absolute probabilities on the path, so that depth counts
        twice (SPEC 8), or of the absolute probability itself.
    """

    conf: float = 0.25
    iou: float = 0.45
    max_det: int = 100
    tree_threshold: float = 0.5
    tree_rule: TreeRule = "darknet"


@dataclass(repr=False)
class Model(ABC):
    """A network and its conventions; `Detector` and `Classifier` say what its outputs mean.

    Parameters
    ----------
    network : Network
        Ends in one of `HEADS`.
    names : tuple of str
        Class names, as many as there are classes.
    imgsz : int, or tuple of int (height, width)
        Size of the network's input, in pixels; one number if it is square.
    resize : {"letterbox", "stretch"}
        How pictures are brought to that size.
    config : dict
        The training configuration, or what a cfg file says about training, for the record.
    progress : dict
        Where training stood; "seen" counts pictures. "darknet_version" is that of the weights file a network
        came from.

    Raises
    ------
    ValueError
        If the network ends in something else, or there are not as many names as classes.
    """

    network: Network
    names: tuple[str, ...]
    imgsz: int | tuple[int, int]
    resize: Mode = "letterbox"
    config: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    _predictors: dict[Any, Any] = field(default_factory=dict, init=False, compare=False)

    #: the head records it knows the meaning of
    HEADS: ClassVar[tuple[type[Head], ...]]

    def __post_init__(self):
        if not isinstance(self.network.head, self.HEADS):
            heads = " or ".join(head.__name__.lower() for head in self.HEADS)
            raise ValueError(f"a {type(self).__name__.lower()} ends in a {heads} layer")
        if len(self.names) != self.classes:
            raise ValueError(f"{len(self.names)} class names for {self.classes} classes")

    def __repr__(self) -> str:
        size = "x".join(map(str, input_size(self.imgsz)))
        return f"<{type(self).__name__}: {len(self.names)} classes, {size}, {self.resize}, {self.device}>"

    @classmethod
    def build(
        cls,
        layers: Iterable[Layer],
        names: Sequence[str],
        imgsz: int | tuple[int, int],
        resize: Mode = "letterbox",
        config: dict[str, Any] | None = None,
        batch_norm: BatchNormForm = "cudnn",
    ) -> Self:
        """A new network with random weights."""
        width, height = input_size(imgsz)
        network = Network(list(layers), (3, height, width), batch_norm)
        # on CPUs and tensor cores alike, convolutions are faster when channels lie together
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, tuple(names), imgsz, resize, config or {})

    @classmethod
    def load(cls, path: Path | str, device: torch.device | str = "cpu") -> Self:
        """Read a checkpoint of this library; `yolov2.load` reads Darknet's files too.

        Raises
        ------
        UserError
            If the file is missing, damaged or not of this library, or holds another kind of network.
        """
        checkpoint = load_checkpoint(Path(path))
        return cls.from_checkpoint(checkpoint, Path(path)).to(device)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, path: Path) -> Self:
        """The model described by a checkpoint that was read from `path`.

        Raises
        ------
        UserError
            If the network cannot be built, is not of this kind, or the tensors are not of that network.
        """
        c = checkpoint
        if not isinstance(c.head, cls.HEADS):
            heads = " nor ".join(head.__name__.lower() for head in cls.HEADS)
            raise UserError(f"{path}: no {cls.__name__.lower()}, its network ends in no {heads} layer")
        with reading(path):
            model = cls.build(c.layers, c.names, c.imgsz, c.resize, c.config, c.batch_norm)
            shapes = {name: p.shape for name, p in model.network.named_parameters()}
            if c.momentum and {name: m.shape for name, m in c.momentum.items()} != shapes:
                raise ValueError("the momentum is not of these weights")
        model.progress = c.progress
        load_state(model.network, checkpoint, path)
        model.network.eval()
        return model

    def save(
        self,
        path: Path | str,
        progress: dict[str, Any] | None = None,
        extra: dict[str, Tensor] | None = None,
    ) -> None:
        """Write a checkpoint; `extra` tensors (``momentum/...``) ride along."""
        checkpoint = Checkpoint(
            layers=tuple(self.network.layers),
            names=self.names,
            imgsz=self.imgsz,
            resize=self.resize,
            config=self.config,
            progress=self.progress if progress is None else progress,
            tensors=dict(self.network.state_dict()) | (extra or {}),
            batch_norm=self.network.batch_norm,
        )
        save_checkpoint(Path(path), checkpoint)

    def to(self, device: torch.device | str) -> Self:
        """Move to a device, in place."""
        self.network.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """Where the network lives."""
        return next(self.network.parameters()).device

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes."""

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
        engine: EngineName = "auto",
        precision: Precision = "auto",
    ) -> list[Results] | Iterator[Results]:
        """What is in pictures.

        Parameters
        ----------
        source : str, Path, int, array, tensor, PIL.Image.Image, or a list of these
            Whatever `yolov2.sources.open_source` takes: a picture, folder, glob pattern, .txt list, video,
            stream or camera number; arrays uint8 (H, W, 3); tensors (B, 3, H, W) in [0, 1], RGB.
        conf : float
            Detections must score above this. (Classifiers know no detections: they leave this and the next
            two alone.)
        iou : float
            NMS threshold.
        max_det : int
            At most so many detections a picture.
        imgsz : int or tuple of int (height, width), optional
            Size of the network's input if not its usual one; fully convolutional networks take any multiple
            of their stride.
        batch : int
            Pictures at a time; of a video or camera one at a time.
        order : {"rgb", "bgr"}
            Channels of arrays; OpenCV's are "bgr".
        stream : bool
            Return an iterator that works as it goes instead of a list. Videos and cameras always do.
        progress : bool
            Show a bar when it takes more than two seconds.
        tree_threshold, tree_rule
            How a tree of classes is descended, see `Options`.
        engine, precision
            What runs the network, see `yolov2.inference.predictor.Predictor`, which has more options.

        Returns
        -------
        list of Results, or iterator of Results
            One per picture, in order.

        Raises
        ------
        UserError
            If a source does not exist or cannot be read, or the engine is not usable here.
        ValueError, TypeError
            If an option or a source has no meaning, or the network cannot take that `imgsz`.
        """
        return self.predictor(engine, precision).predict(
            source,
            conf,
            iou,
            max_det,
            imgsz,
            batch,
            order,
            stream,
            progress,
            tree_threshold,
            tree_rule,
        )

    def predictor(self, engine: EngineName = "auto", precision: Precision = "auto") -> Predictor:
        """This model made ready to run, see `yolov2.inference.predictor.Predictor`.

        It is kept, and made anew when the weights have changed since; writing through `Tensor.data` goes
        unnoticed.
        """
        tensors = (*self.network.parameters(), *self.network.buffers())
        versions = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
        state = self.device, tuple(self.network.layers), versions
        known = self._predictors.get((engine, precision))
        if known is None or known[0] != state:
            if known is not None:
                known[1].close()
            known = self._predictors[engine, precision] = state, Predictor(self, engine, precision)
        return known[1]

    def check_size(self, imgsz: int | tuple[int, int]) -> None:
        """Complain about an input that the network cannot take.

        Raises
        ------
        ValueError
            If a layer does not fit, or has weights (a softmax: classes) for one size of its input only.
        """
        width, height = input_size(imgsz)
        layers, usual = self.network.layers, self.network.input_shape
        shape = (usual[0], height, width)
        try:
            inputs = [[s, *output_shapes(layers, s)] for s in (shape, usual)]
        except ValueError as error:
            raise ValueError(f"imgsz: {imgsz}: {error}") from None
        for index, (layer, here, before) in enumerate(zip(layers, *inputs, strict=False)):
            fixed = isinstance(layer, FIXED) or (isinstance(layer, Softmax) and layer is self.network.head)
            if fixed and here != before:
                kind = type(layer).__name__
                raise ValueError(f"imgsz: {imgsz}, but layer {index} ({kind}) is made for {self.imgsz}")

    def _input(self, pictures: Sequence[Picture], size: tuple[int, int]) -> Tensor:
        """The network's input (B, 3, height, width) for pictures of any sizes."""
        return network_input(pictures, *size, self.resize, self.device)

    #: whether thresholds and the like change what is found
    heeds_options: ClassVar[bool] = True

    def has_rows(self, size: tuple[int, int]) -> bool:
        """Whether what is found at that size of input fits a row, which a CUDA graph can write."""
        return True

    def __getstate__(self) -> dict[str, Any]:
        """What copies and pickles take along: not the predictors, which are made of threads and graphs."""
        return self.__dict__ | {"_predictors": {}}

    def _interpret(
        self, outputs: Tensor, pictures: Sequence[Picture], size: tuple[int, int], options: "Options"
    ) -> list[Any]:
        """What raw outputs say about each picture."""
        return self._read_rows(self._rows(outputs, options).cpu().numpy(), pictures, size)

    @abstractmethod
    def _rows(self, outputs: Tensor, options: "Options") -> Tensor:
        """What is found, float32 (B, ...), on the device of the raw outputs; nothing waits for it."""

    @abstractmethod
    def _read_rows(self, rows: np.ndarray, pictures: Sequence[Picture], size: tuple[int, int]) -> list[Any]:
        """What such rows say about each picture, on the host."""

    @abstractmethod
    def _result(
        self, found: Any, picture: Picture, names: dict[int, str], path: str, speed: dict[str, float]
    ) -> Results:
        """That as `Results`."""


def input_size(imgsz: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) of a network's input in pixels: `imgsz` is one number or (height, width).

    Raises
    ------
    ValueError
        If it is neither.
    """
    sides = tuple(imgsz) if isinstance(imgsz, tuple | list) else (imgsz, imgsz)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ValueError(f"imgsz: {imgsz!r} is not a number of pixels, nor (height, width)")
    return sides[1], sides[0]


def letterboxes(pictures: Sequence[Picture], size: tuple[int, int], mode: Mode) -> list[Letterbox]:
    """How each picture meets a network's input of `size` (width, height)."""
    sizes = [p.size if isinstance(p, Image.Image) else (p.shape[1], p.shape[0]) for p in pictures]
    return [Letterbox(width, height, *size, mode) for width, height in sizes]


def check_options(conf: float, iou: float, max_det: int, batch: int, tree_threshold: float = 0.5) -> None:
    """Complain about flags of detection that make no sense.

    Raises
    ------
    ValueError
        With the name of the flag.
    """
    if not 0 <= conf <= 1 or not 0 <= iou <= 1:
        raise ValueError("--conf and --iou must be from 0 to 1")
    if not 0 <= tree_threshold <= 1:
        raise ValueError("--tree-thresh must be from 0 to 1")
    if not 1 <= batch <= 10**6 or not 1 <= max_det <= 10**6:
        raise ValueError("--batch and --max-det must be from 1 to 1000000")

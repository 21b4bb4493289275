"""What was found in one picture, in the shape that code written for ultralytics expects.

One thing differs on purpose: `Results.orig_img` and the drawn picture are RGB, as everywhere in this library.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from yolov2.draw import draw_detections
from yolov2.tree.draw import draw_paths

if TYPE_CHECKING:
    from yolov2.detector import Found, Paths

Array = Tensor | np.ndarray


@dataclass(frozen=True, init=False, eq=False, repr=False)
class _Values:
    """Numbers that can change their place, but not themselves."""

    data: Array

    def _with(self, data: Array) -> Self:
        other = copy(self)
        object.__setattr__(other, "data", data)
        return other

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `data`."""
        return tuple(self.data.shape)

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: torch.device | str) -> Self:
        """The same as tensors on that device."""
        return self._with(torch.as_tensor(self.data).to(device))

    def cpu(self) -> Self:
        """The same in the CPU's memory; arrays stay arrays."""
        return self.to("cpu") if isinstance(self.data, Tensor) else self

    def cuda(self) -> Self:
        """The same as tensors on the GPU."""
        return self.to("cuda")

    def numpy(self) -> Self:
        """The same as NumPy arrays."""
        return self._with(self.data.cpu().numpy()) if isinstance(self.data, Tensor) else self


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Boxes(_Values):
    """Boxes of one picture with scores and classes.

    Every property is a float32 tensor, or an array after `numpy`. `xyxy`, `conf`, `cls` and `data` share
    their memory, so copy before you write to one.

    Parameters
    ----------
    xyxy : Tensor or array (N, 4)
        Left, top, right, bottom in pixels; clipped to the picture.
    conf : Tensor or array (N,)
        Scores.
    cls : Tensor or array (N,)
        Class numbers.
    orig_shape : tuple of int
        (height, width) of the picture, in pixels.
    paths : Paths, optional
        Of detections on a tree: ``nodes`` (N, D) from the root to the class, the rest -1, and their absolute
        ``probabilities`` (N, D).

    Attributes
    ----------
    data : Tensor or ndarray, float32 (N, 6)
        Left, top, right, bottom, score, class.
    paths : Paths or None
        As given; NumPy arrays wherever `data` is.

    Raises
    ------
    ValueError
        If the shapes do not belong together or the picture has no pixels.
    """

    orig_shape: tuple[int, int]
    paths: "Paths | None"
    id: ClassVar[None] = None  # nothing is tracked
    is_track: ClassVar[bool] = False

    def __init__(
        self, xyxy: Any, conf: Any, cls: Any, orig_shape: tuple[int, int], paths: "Paths | None" = None
    ):
        corners = _float32(xyxy)
        if corners.numel() == 0 and corners.ndim < 2:  # an empty list
            corners = corners.reshape(0, 4)
        scores, classes = _float32(conf).to(corners.device), _float32(cls).to(corners.device)
        n = scores.numel()
        if corners.shape != (n, 4) or scores.shape != (n,) or classes.shape != (n,):
            got = ", ".join(str(tuple(v.shape)) for v in (corners, scores, classes))
            raise ValueError(f"boxes are (N, 4), their scores and classes (N,); got {got}")
        height, width = map(int, orig_shape)
        if height < 1 or width < 1:
            raise ValueError(f"orig_shape is (height, width) of a picture, got {tuple(orig_shape)}")
        if paths is not None and not len(paths.nodes) == len(paths.probabilities) == n:
            got = f"{len(paths.nodes)} and {len(paths.probabilities)}"
            raise ValueError(f"paths: {got} rows of nodes and probabilities for {n} boxes")
        corners = corners.clamp(min=0).minimum(corners.new_tensor([width, height, width, height]))
        object.__setattr__(self, "data", torch.cat([corners, scores[:, None], classes[:, None]], 1))
        object.__setattr__(self, "orig_shape", (height, width))
        object.__setattr__(self, "paths", paths)

    @property
    def xyxy(self) -> Array:
        """(N, 4) left, top, right, bottom in pixels."""
        return self.data[:, :4]

    @property
    def xywh(self) -> Array:
        """(N, 4) centre x, centre y, width, height in pixels."""
        low, high = self.data[:, :2], self.data[:, 2:4]
        parts: list[Any] = [(low + high) / 2, high - low]
        return torch.cat(parts, 1) if isinstance(low, Tensor) else np.concatenate(parts, 1)

    @property
    def xyxyn(self) -> Array:
        """(N, 4) left, top, right, bottom as fractions of the picture."""
        return self._fractions(self.xyxy)

    @property
    def xywhn(self) -> Array:
        """(N, 4) centre x, centre y, width, height as fractions of the picture."""
        return self._fractions(self.xywh)

    @property
    def conf(self) -> Array:
        """(N,) scores."""
        return self.data[:, 4]

    @property
    def cls(self) -> Array:
        """(N,) class numbers, as floats."""
        return self.data[:, 5]

    def __getitem__(self, index: Any) -> Self:
        """Some of the boxes: of an int the one, of a slice, mask or list of numbers those."""
        if isinstance(index, list):  # torch and NumPy disagree about lists
            index = np.asarray(index) if index else np.empty(0, np.int64)
        elif isinstance(index, Tensor) and isinstance(self.data, np.ndarray):
            index = index.cpu().numpy()
        if isinstance(index, tuple):
            raise IndexError("boxes have one axis")
        data = self.data[index]
        data = data[None] if data.ndim == 1 else data
        if data.ndim != 2:
            raise IndexError(f"boxes have one axis, their index is of shape {np.shape(index)}")
        some = self._with(data)
        if self.paths is not None:
            rows = np.arange(len(self))[index.cpu().numpy() if isinstance(index, Tensor) else index]
            paths = self.paths._replace(
                nodes=self.paths.nodes[np.atleast_1d(rows)],
                probabilities=self.paths.probabilities[np.atleast_1d(rows)],
            )
            object.__setattr__(some, "paths", paths)
        return some

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        height, width = self.orig_shape
        return f"<Boxes: {len(self)} in a picture of {width}x{height}; .xyxy .xywh .xyxyn .xywhn .conf .cls>"

    def _fractions(self, pixels: Array) -> Array:
        height, width = self.orig_shape
        size = [width, height, width, height]
        if isinstance(pixels, Tensor):
            return pixels / pixels.new_tensor(size)
        return pixels / np.asarray(size, np.float32)


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Probs(_Values):
    """A classifier's opinion of one picture.

    Parameters
    ----------
    data : Tensor or array (C,)
        Probability of every class; kept as float32.

    Raises
    ------
    ValueError
        If it has another shape, or no classes.
    """

    def __init__(self, data: Any):
        data = _float32(data)
        if data.ndim != 1 or len(data) == 0:
            raise ValueError(f"probabilities are (C,), one for every class; got {tuple(data.shape)}")
        object.__setattr__(self, "data", data.clone())

    @property
    def top1(self) -> int:
        """The likeliest class; of equals the first."""
        return self.top5[0]

    @property
    def top5(self) -> list[int]:
        """The five likeliest classes (all of them if there are fewer), best first."""
        return np.argsort(-np.asarray(self.cpu().data), kind="stable")[:5].tolist()

    @property
    def top1conf(self) -> Array:
        """() probability of the likeliest class."""
        return self.data[self.top1]

    @property
    def top5conf(self) -> Array:
        """(5,) probabilities of the five likeliest classes."""
        return self.data[self.top5]

    def __repr__(self) -> str:
        best = float(self.top1conf)
        return (
            f"<Probs: {len(self)} classes, {self.top1} has {best:.2f}; .data .top1 .top5 .top1conf .top5conf>"
        )


class PathNode(NamedTuple):
    """One step of the way from a root of a tree to the class of a detection."""

    node: int
    name: str
    probability: float  # absolute: that it is this, whatever its parents


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """What was found in one picture. Its ``len`` is the number of boxes, of a classifier's that of classes.

    Parameters
    ----------
    orig_img : ndarray, uint8 (H, W, 3)
        The picture, RGB (ultralytics has BGR here).
    path : str
        Where it came from.
    names : dict of int to str
        Name of every class.
    boxes : Boxes, optional
        Of a detector.
    probs : Probs, optional
        Of a classifier.
    speed : dict of str to float
        Milliseconds for this picture: preprocess, inference, postprocess; None is unknown.

    Raises
    ------
    ValueError
        If the picture is of another kind, the boxes are of another picture, or a class has no name.
    """

    orig_img: np.ndarray
    path: str
    names: dict[int, str]
    boxes: Boxes | None = None
    probs: Probs | None = None
    speed: dict[str, float | None] = field(
        default_factory=lambda: {"preprocess": None, "inference": None, "postprocess": None}
    )
    masks: ClassVar[None] = None  # what other networks find
    keypoints: ClassVar[None] = None
    obb: ClassVar[None] = None

    def __post_init__(self):
        shape = self.orig_img.shape
        if self.orig_img.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
            raise ValueError(f"a picture is uint8 (H, W, 3), got {self.orig_img.dtype} {shape}")
        if self.boxes is not None and self.boxes.orig_shape != shape[:2]:
            raise ValueError(f"boxes of a picture of {self.boxes.orig_shape}, but this one is {shape[:2]}")
        classes = self._classes() if self.probs is None else range(len(self.probs))
        paths = None if self.boxes is None else self.boxes.paths
        nodes = set() if paths is None else {*paths.nodes.flat} - {-1}
        if nameless := {*classes, *nodes} - self.names.keys():
            raise ValueError(f"no name for class {min(nameless)}")

    @property
    def orig_shape(self) -> tuple[int, int]:
        """(height, width) of the picture, in pixels."""
        return self.orig_img.shape[0], self.orig_img.shape[1]

    @property
    def paths(self) -> list[list[PathNode]] | None:
        """For every box the nodes from the root of the tree to its class; None if the classes are no tree.

        Boxes of a tree whose nodes are asked for one by one have none either. The arrays are `boxes.paths`.
        """
        if self.boxes is None or self.boxes.paths is None:
            return None
        rows = zip(self.boxes.paths.nodes.tolist(), self.boxes.paths.probabilities.tolist(), strict=True)
        return [
            [PathNode(node, self.names[node], p) for node, p in zip(*row, strict=True) if node >= 0]
            for row in rows
        ]

    def __len__(self) -> int:
        held = self.boxes if self.boxes is not None else self.probs
        return 0 if held is None else len(held)

    def __getitem__(self, index: Any) -> "Results":
        """The same with some of the boxes, see `Boxes`; iterating gives them one by one."""
        if self.boxes is None:
            raise TypeError("results without boxes cannot be indexed")
        return replace(self, boxes=self.boxes[index])

    def to(self, device: torch.device | str) -> "Results":
        """The same with tensors on that device."""
        return self._each("to", device)

    def cpu(self) -> "Results":
        """The same with its numbers in the CPU's memory."""
        return self._each("cpu")

    def cuda(self) -> "Results":
        """The same with tensors on the GPU."""
        return self._each("cuda")

    def numpy(self) -> "Results":
        """The same with NumPy arrays."""
        return self._each("numpy")

    def plot(self, paths: bool = True) -> Image.Image:
        """The picture, RGB, with labelled boxes or a classifier's top five.

        It is as large as it was, except that a tiny one (its shorter side below 120 pixels) is enlarged by a
        whole number, or its labels would cover it.

        Parameters
        ----------
        paths : bool
            Show the paths of detections on a tree beside the picture, which is enlarged below 240 pixels
            then; see `yolov2.tree.draw.draw_paths`.
        """
        beside = self.paths if paths else None
        picture = _readable(Image.fromarray(self.orig_img), 120 if beside is None else 240)
        if self.boxes is not None:
            held, classes = self.boxes.cpu().numpy(), np.asarray(self._classes(), np.int64)
            names = [self.names.get(c, "") for c in range(classes.max(initial=-1) + 1)]
            drawn = draw_detections(picture, np.asarray(held.xywhn), names, classes, np.asarray(held.conf))
            return drawn if beside is None else draw_paths(drawn, beside, held.conf.tolist())
        return picture if self.probs is None else _with_lines(picture, self._top_five("{score:.2f} {name}"))

    def show(self) -> None:
        """Open `plot`'s picture in the desktop's viewer."""
        self.plot().show(title=self.path)

    def save(self, path: Path | str | None = None) -> Path:
        """Write `plot`'s picture.

        Parameters
        ----------
        path : Path or str, optional
            The file, whose suffix chooses the format; folders are made. Of a folder that exists, and of None,
            which is the current one: the first of ``results_NAME.png``, ``results_NAME-2.png``, ... that does
            not exist yet, NAME being that of the picture's own file.

        Returns
        -------
        Path
            The file that was written.

        Raises
        ------
        ValueError
            If the suffix is of no known format.
        OSError
            If it cannot be written.
        """
        drawn = self.plot()
        if path is None or Path(path).is_dir():
            name = re.sub(r"[^\w.-]+", "_", Path(self.path).stem) or "picture"
            endings = chain([""], (f"-{number}" for number in count(2)))
            candidates = (Path(path or ".") / f"results_{name}{ending}.png" for ending in endings)
            path = next(file for file in candidates if not file.exists())
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawn.save(path)
        return path

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:
        """Plain records, in the order of the boxes; of a classifier the top five, which have no box.

        Parameters
        ----------
        normalize : bool
            Boxes as fractions of the picture instead of pixels.
        decimals : int
            Numbers are rounded to so many.

        Returns
        -------
        list of dict
            ``{"name", "class", "confidence", "box": {"x1", "y1", "x2", "y2"}}``; of detections on a tree also
            ``"path": [{"name", "class", "probability"}, ...]`` from the root.
        """
        if self.probs is not None:
            classes, scores = self.probs.top5, self.probs.top5conf.tolist()
            corners: list[list[float]] = []
        elif self.boxes is not None:
            classes, scores = self._classes(), self.boxes.conf.tolist()
            corners = (self.boxes.xyxyn if normalize else self.boxes.xyxy).tolist()
        else:
            return []
        records: list[dict[str, Any]] = [
            {"name": self.names[c], "class": c, "confidence": round(score, decimals)}
            for c, score in zip(classes, scores, strict=True)
        ]
        for record, box in zip(records, corners, strict=False):
            sides = zip(("x1", "y1", "x2", "y2"), box, strict=True)
            record["box"] = {side: round(value, decimals) for side, value in sides}
        for record, path in zip(records, self.paths or [], strict=False):
            record["path"] = [
                {"name": name, "class": node, "probability": round(p, decimals)} for node, name, p in path
            ]
        return records

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as JSON."""
        return json.dumps(self.summary(normalize, decimals), indent=2)

    tojson = to_json  # its older name

    def verbose(self) -> str:
        """One line: "2 dog, 1 person", most first; "dog 0.91, cat 0.05, ..."; or "nothing found"."""
        if self.probs is not None:
            return ", ".join(self._top_five("{name} {score:.2f}"))
        counts = Counter(self.names[c] for c in self._classes())
        return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing found"

    def __repr__(self) -> str:
        height, width = self.orig_shape
        kinds = "".join(
            f" .{kind}" for kind in ("boxes", "paths", "probs") if getattr(self, kind) is not None
        )
        usable = f"{kinds} .names .orig_img .speed .summary() .to_json() .plot() .save()"
        return f"<Results of {self.path or 'a picture'}, {width}x{height}: {self.verbose()};{usable}>"

    def _classes(self) -> list[int]:
        return [] if self.boxes is None else [int(c) for c in self.boxes.cls.tolist()]

    def _each(self, what: str, *args: Any) -> "Results":
        """The same with a method of boxes and probs applied."""
        other = copy(self)  # not `replace`: what was checked once need not come back from a GPU to be checked
        for kind in ("boxes", "probs"):
            if (held := getattr(self, kind)) is not None:
                object.__setattr__(other, kind, getattr(held, what)(*args))
        return other

    def _top_five(self, form: str) -> list[str]:
        assert self.probs is not None
        pairs = zip(self.probs.top5, self.probs.top5conf.tolist(), strict=True)
        return [form.format(name=self.names[c], score=score) for c, score in pairs]


def from_found(
    found: "Found",
    picture: Image.Image | np.ndarray,
    names: Mapping[int, str] | Sequence[str],
    path: str = "",
    speed: dict[str, float | None] | None = None,
) -> Results:
    """A detector's `Found` as `Results`.

    Parameters
    ----------
    found : Found
        Boxes (K, 4) cxcywh as fractions of the picture, scores (K,), classes (K,), paths.
    picture : PIL.Image.Image or ndarray, uint8 (H, W, 3)
        RGB. An array is kept as it is, not copied.
    names : dict of int to str, or sequence of str
        Class names. Of thousands of classes make the dictionary once, for it is kept as it is.
    path : str
        Where the picture came from.
    speed : dict of str to float, optional
        See `Results`.

    Returns
    -------
    Results
        With boxes in pixels, clipped to the picture, in the order of `found`.

    Raises
    ------
    ValueError
        See `Results`.
    """
    image = np.array(picture.convert("RGB")) if isinstance(picture, Image.Image) else picture
    height, width = image.shape[:2]
    boxes = np.asarray(found.boxes, np.float64).reshape(-1, 4)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    corners = np.concatenate([low, high], 1) * [width, height, width, height]
    named = (
        names if isinstance(names, dict) else dict(names if isinstance(names, Mapping) else enumerate(names))
    )
    held = Boxes(corners, found.scores, found.classes, (height, width), found.paths)
    results = Results(image, path, named, held)
    return results if speed is None else replace(results, speed=speed)


def _float32(values: Any) -> Tensor:
    """The values as a tensor that no gradient and no other array hangs on, or only a float32 tensor's."""
    if isinstance(values, Tensor):
        return values.detach().float()
    return torch.from_numpy(np.array(values, np.float32))


def _readable(picture: Image.Image, least: int = 120) -> Image.Image:
    """The picture, one with a side below `least` enlarged by a whole number to about twice that."""
    short, long = sorted(picture.size)
    factor = min(-(-2 * least // short), 640 // long) if short < least else 1
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _with_lines(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    """A copy with lines of text on a dark panel in its upper left corner, as many as there is room for."""
    drawn = picture.copy()
    size = max(10, round(min(picture.size) / 28))
    font, pad, step = ImageFont.load_default(size), size // 2, round(size * 1.35)
    lines = lines[: max(1, (picture.height - pad) // step)]
    widest = max(font.getlength(line) for line in lines)
    panel = min(picture.width, round(widest) + 2 * pad), min(picture.height, len(lines) * step + pad)
    dark = drawn.crop((0, 0, *panel)).point(lambda value: value * 0.3)
    drawn.paste(dark, (0, 0))
    pen = ImageDraw.Draw(drawn)
    for row, line in enumerate(lines):
        pen.text((pad, pad // 2 + (row + 0.5) * step), line, "white", font, anchor="lm")
    return drawn

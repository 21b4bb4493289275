"""A trained detector, YOLOv2, YOLO9000 or YOLOv1: pictures in, boxes out."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fast.decode import decode_candidates, split_head
from fast.detect import Detections, detect
from fast.grid import activate_grid, detect_grid
from fast.nms import batched_nms, multi_label_nms
from fast.wordtree import node_paths
from reference.layers import Grid, head_index, output_shapes
from reference.region import Region, TreeRule
from yolov2.model import Model, Options, Picture, check_options, input_size, letterboxes, pick_device
from yolov2.results import Results, from_found
from yolov2.tree.classes import coco_nodes

__all__ = ["Detector", "Found", "Paths", "check_options", "pick_device"]


#: of a picture; suppressing more waits for the GPU
MOST_BOXES = 8192


class Paths(NamedTuple):
    """The ways from the roots of a tree to the classes of K boxes; D is the depth of the deepest of the tree.

    Rows are padded at their ends, with node -1 of probability 0.
    """

    nodes: np.ndarray  # (K, D) int64, from the root to the box's class
    probabilities: np.ndarray  # (K, D) float32, absolute


class Found(NamedTuple):
    """Detections on one picture, best first. K boxes."""

    boxes: np.ndarray  # (K, 4) float32 x, y, w, h as fractions of the picture, not clipped
    scores: np.ndarray  # (K,) float32
    classes: np.ndarray  # (K,) int64
    paths: Paths | None = None  # where classes are found by descending a tree


@dataclass(repr=False)
class Detector(Model):
    """A network that ends in a Region or a Grid, with its conventions; see `Model` for the parameters.

    Parameters
    ----------
    nodes : tuple of int, optional
        On a tree: the nodes that are looked for, each by itself, in place of the likeliest path; `names` are
        theirs (SPEC 8's detection map, for evaluation). See `for_classes`.
    """

    nodes: tuple[int, ...] | None = None

    HEADS: ClassVar = (Region, Grid)

    @property
    def head(self) -> Region | Grid:
        """Settings of the head."""
        head = self.network.head
        assert isinstance(head, Region | Grid)
        return head

    @property
    def region(self) -> Region:
        """Settings of the head of a YOLOv2.

        Raises
        ------
        ValueError
            If it is a YOLOv1.
        """
        if not isinstance(self.head, Region):
            raise ValueError("this network has YOLOv1's detection layer, not a region layer")
        return self.head

    @property
    def classes(self) -> int:
        """Number of classes, on a tree that of its nodes, or of those that are looked for."""
        return self.head.classes if self.nodes is None else len(self.nodes)

    @property
    def class_nodes(self) -> dict[str, int]:
        """The nodes that detection classes were mapped to in training, by the name of the class."""
        mapped, nodes = self.config.get("mapped"), self.region.class_map or ()
        if isinstance(mapped, list) and len(mapped) == len(nodes):
            return dict(zip(map(str, mapped), nodes, strict=True))
        return coco_nodes(nodes)

    def for_classes(self, names: Sequence[str], nodes: Sequence[int]) -> "Detector":
        """The same network looking for some nodes of its tree, which are called `names`.

        Raises
        ------
        ValueError
            If the network is on no tree, or has no such node.
        """
        if self.region.tree is None:
            raise ValueError("this network's classes are on no tree")
        if not all(0 <= node < self.region.classes for node in nodes):
            raise ValueError(f"nodes: not all among the {self.region.classes} of the tree")
        return replace(self, names=tuple(names), nodes=tuple(nodes))

    @torch.inference_mode()
    def __call__(
        self,
        pictures: Sequence[Picture],
        conf: float = 0.25,
        iou: float = 0.45,
        max_det: int = 100,
        tree_threshold: float = 0.5,
        tree_rule: TreeRule = "darknet",
    ) -> list[Found]:
        """Find objects in pictures.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image or ndarray, uint8 (H, W, 3)
            RGB, any sizes.
        conf : float
            Detections must score above this.
        iou : float
            NMS threshold.
        max_det : int
            At most so many detections a picture.
        tree_threshold, tree_rule
            How a tree of classes is descended, see `Options`.

        Returns
        -------
        list of Found
            One per picture, boxes as fractions of that picture.
        """
        size = input_size(self.imgsz)
        outputs = self.network.eval()(self._input(pictures, size))
        options = Options(conf, iou, max_det, tree_threshold, tree_rule)
        return self._interpret(outputs, pictures, size, options)

    def stream(
        self, pictures: Iterable[Picture], batch: int = 16, **options: Any
    ) -> Iterator[tuple[Picture, Found]]:
        """Detections of any number of pictures, `batch` at a time; `options` as in a call."""
        pictures = iter(pictures)
        while group := list(islice(pictures, batch)):
            yield from zip(group, self(group, **options), strict=True)

    def has_rows(self, size: tuple[int, int]) -> bool:
        """Not where a tree is descended: paths are of any length; nor for more boxes than kernels hold."""
        if isinstance(self.head, Grid):
            return True
        width, height = size
        layers = self.network.layers
        *_, (_, rows, columns) = output_shapes(layers[: head_index(layers)], (3, height, width))
        boxes = rows * columns * len(self.head.anchors)
        return boxes <= MOST_BOXES and (self.head.tree is None or self.nodes is not None)

    def _interpret(
        self, outputs: Tensor, pictures: Sequence[Picture], size: tuple[int, int], options: Options
    ) -> list[Found]:
        if isinstance(self.head, Grid) or self.head.tree is None or self.nodes is not None:
            return super()._interpret(outputs, pictures, size, options)
        found, paths = tree_detections(outputs, self.region, options)
        results = self._read_rows(_as_rows(found).cpu().numpy(), pictures, size)
        return [result._replace(paths=path) for result, path in zip(results, paths, strict=True)]

    def _rows(self, outputs: Tensor, options: Options) -> Tensor:
        conf, iou, max_det, *_ = options
        if self.nodes is not None:
            return _as_rows(detect(outputs, self.region, conf, iou, max_det, detection_map=self.nodes))
        return _as_rows(raw_detections(outputs, self.head, conf, iou, max_det))

    def _read_rows(self, rows: np.ndarray, pictures: Sequence[Picture], size: tuple[int, int]) -> list[Found]:
        results = []
        for box, row in zip(letterboxes(pictures, size, self.resize), rows, strict=True):
            n = int(row[0])
            boxes, scores, classes = np.split(row[1:].reshape(-1, 6)[:n], (4, 5), axis=1)
            results.append(Found(box.undo(boxes), scores[:, 0].copy(), classes[:, 0].astype(np.int64)))
        return results

    def _result(
        self, found: Found, picture: Picture, names: dict[int, str], path: str, speed: dict[str, float]
    ) -> Results:
        return from_found(found, picture, names, path, dict(speed))


def _as_rows(found: Detections) -> Tensor:
    """(B, 1 + 6*max_det) float32: the count, then box, score and class of each; classes are exact to 2^24."""
    fields = (found.boxes.float(), found.scores.float()[..., None], found.classes.float()[..., None])
    return torch.cat([found.count.float()[:, None], torch.cat(fields, 2).flatten(1)], 1)


def raw_detections(
    outputs: Tensor, head: Region | Grid, conf: float = 0.25, iou: float = 0.45, max_det: int = 100
) -> Detections:
    """Final detections of a network's raw outputs, whichever head it has.

    Parameters
    ----------
    outputs : Tensor (B, channels, H, W)
        Of ``Network.forward``.
    head : Region or Grid
        Their meaning.
    conf, iou : float
        Least score and NMS threshold.
    max_det : int
        At most so many detections a picture.

    Returns
    -------
    Detections
        Boxes as fractions of the input.
    """
    if isinstance(head, Region):
        return detect(outputs, head, conf, iou, max_det)
    flat = outputs.flatten(1)
    flat = flat if flat.dtype == torch.float64 else flat.float()  # decoding has no room for half precision
    boxes, _, scores = detect_grid(activate_grid(flat, head), head, conf)
    index, label, score, count = multi_label_nms(boxes, scores, iou, max_det, conf)
    found = boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4))
    return Detections(found.where(index[..., None] >= 0, 0), score, label, count)


def tree_detections(outputs: Tensor, region: Region, options: Options) -> tuple[Detections, list[Paths]]:
    """What `fast.detect.detect` finds on a tree, and how each class was come to.

    Parameters
    ----------
    outputs : Tensor (B, channels, H, W)
        Of ``Network.forward``.
    region : Region
        Settings of the head, with a tree.
    options : Options
        Thresholds.

    Returns
    -------
    (Detections, list of Paths)
        Boxes as fractions of the input; the paths of every image, K = `count` of them.
    """
    assert region.tree is not None
    conf, iou, max_det, threshold, rule = options
    B, _, H, W = outputs.shape
    slots = len(region.anchors) * H * W
    some = decode_candidates(outputs, region, conf, slots, threshold, rule)
    index, count = batched_nms(some.boxes, some.scores, iou, max_det, some.classes, conf)
    kept, row = index >= 0, index.clamp(min=0)
    boxes = some.boxes.gather(1, row[..., None].expand(-1, -1, 4)).where(kept[..., None], 0)
    scores, classes, location = (x.gather(1, row) for x in (some.scores, some.classes, some.locations))
    found = Detections(boxes, scores.where(kept, 0), classes.where(kept, -1), count)

    image = torch.arange(B, device=index.device)[:, None].expand_as(index)[kept]
    where = location[kept]
    at = (image, where // (H * W), where // W % H, where % W)
    rows = split_head(outputs, region).movedim(2, -1)[..., 5:][at]
    nodes, probabilities = node_paths(rows, region.tree, classes[kept])
    parts = (x.cpu().split(count.tolist()) for x in (nodes, probabilities.float()))
    return found, [Paths(*(x.numpy() for x in of_image)) for of_image in zip(*parts, strict=True)]

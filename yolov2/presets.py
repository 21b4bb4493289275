"""The published networks as tables of layer records, and small ones of this project for CPUs, the two `nano`.

Every table is a function of what it ends in (anchors and classes, cells and boxes, or classes alone), so that
it serves any data set. The tests hold the published ones to Darknet's own files, record for record, and to
the tables of SPEC 21 (shapes, BFLOP, parameters).

`NETWORKS` has all of them by name, `PRESETS` the detectors that ``python -m yolov2.train`` trains, and
`CLASSIFIERS` what ``python -m yolov2.pretrain`` trains before.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from reference.layers import (
    Activation,
    AvgPool,
    Connected,
    Conv,
    Cost,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Softmax,
)
from reference.region import Region, WordTree
from yolov2.errors import UserError

Anchors = tuple[tuple[float, float], ...]
Classes = int | WordTree  # what a classifier tells apart: so many classes, or the nodes of a tree

# anchors in cells of 32 pixels, from the original cfg files
VOC_ANCHORS: Anchors = (
    (1.3221, 1.73145),
    (3.19275, 4.00944),
    (5.05587, 8.09892),
    (9.47112, 4.84053),
    (11.2364, 10.0071),
)
COCO_ANCHORS: Anchors = (
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
)
TINY_VOC_ANCHORS: Anchors = ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52))
YOLO9000_ANCHORS: Anchors = ((0.77871, 1.14074), (3.00525, 4.31277), (9.22725, 9.61974))

# Darknet-19 without its classifier (paper 2, table 6): 18 convolutions, 5 max pools
DARKNET19_TRUNK: list[Layer] = [
    *(Conv(32), MaxPool()),
    *(Conv(64), MaxPool()),
    *(Conv(128), Conv(64, 1), Conv(128), MaxPool()),
    *(Conv(256), Conv(128, 1), Conv(256), MaxPool()),
    *(Conv(512), Conv(256, 1), Conv(512), Conv(256, 1), Conv(512), MaxPool()),
    *(Conv(1024), Conv(512, 1), Conv(1024), Conv(512, 1), Conv(1024)),
]
# six halvings shared by both tiny networks, the last pool keeping 13x13
TINY_TRUNK: list[Layer] = [
    *(Conv(16), MaxPool()),
    *(Conv(32), MaxPool()),
    *(Conv(64), MaxPool()),
    *(Conv(128), MaxPool()),
    *(Conv(256), MaxPool()),
    *(Conv(512), MaxPool(2, 1)),
]
# `nano` up to where its passthrough begins
NANO_TRUNK: list[Layer] = [
    *(Conv(16, 3, 2), MaxPool()),
    *(Conv(24), Conv(24), MaxPool()),
    *(Conv(48), Conv(48), MaxPool()),
    *(Conv(96), Conv(96), MaxPool()),
    Conv(160),
]

# the first 20 convolutions of YOLOv1 (paper 1, figure 3), on ImageNet by themselves "extraction"
EXTRACTION_TRUNK: list[Layer] = [
    *(Conv(64, 7, 2), MaxPool()),
    *(Conv(192), MaxPool()),
    *(Conv(128, 1), Conv(256), Conv(256, 1), Conv(512), MaxPool()),
    *(Conv(256, 1), Conv(512)) * 4,
    *(Conv(512, 1), Conv(1024), MaxPool()),
    *(Conv(512, 1), Conv(1024)) * 2,
]


def region_head(region: Region) -> list[Layer]:
    """The linear 1x1 convolution that feeds a region layer, and the layer."""
    return [Conv(region.channels, 1, batch_norm=False, activation="linear"), region]


def grid_head(grid: Grid) -> list[Layer]:
    """The connected layer that feeds YOLOv1's detection layer, and the layer."""
    return [Connected(grid.outputs), grid]


def softmax_head(classes: Classes, activation: Activation = "linear") -> list[Layer]:
    """A class a channel, the mean over the map, and softmax: over all, or per sibling group of a tree."""
    tree = classes if isinstance(classes, WordTree) else None
    filters = len(classes.parents) if isinstance(classes, WordTree) else classes
    return [Conv(filters, 1, batch_norm=False, activation=activation), AvgPool(), Softmax(tree)]


def yolov2(region: Region) -> list[Layer]:
    """yolov2.cfg and yolov2-voc.cfg: Darknet-19, passthrough from 26x26, 31 layers (paper 2, sec. 2)."""
    return [
        *DARKNET19_TRUNK,
        *(Conv(1024), Conv(1024)),
        *(Route((-9,)), Conv(64, 1), Reorg(2), Route((-1, -4))),
        Conv(1024),
        *region_head(region),
    ]


def yolov2_tiny_voc(region: Region) -> list[Layer]:
    """yolov2-tiny-voc.cfg."""
    return [*TINY_TRUNK, Conv(1024), Conv(1024), *region_head(region)]


def yolov2_tiny(region: Region) -> list[Layer]:
    """yolov2-tiny.cfg, whose last 3x3 is half as wide as that of the VOC one."""
    return [*TINY_TRUNK, Conv(1024), Conv(512), *region_head(region)]


def nano(region: Region) -> list[Layer]:
    """YOLOv2 in small, for CPUs and tests: the same plan with passthrough, a fortieth of the work."""
    return [
        *NANO_TRUNK,
        *(Route((-3,)), Conv(32, 1), Reorg(2), Route((-1, -4))),
        Conv(160),
        *region_head(region),
    ]


def yolo9000(region: Region) -> list[Layer]:
    """yolo9000.cfg: Darknet-19 and nothing but a head of three anchors (paper 2, sec. 4)."""
    return [*DARKNET19_TRUNK, *region_head(region)]


def yolov1(grid: Grid) -> list[Layer]:
    """yolov1.cfg: 24 convolutions, then a layer whose weights differ at every place (paper 1, figure 3)."""
    return [
        *EXTRACTION_TRUNK,
        *(Conv(1024), Conv(1024, 3, 2), Conv(1024), Conv(1024)),
        *(Local(256), Dropout()),
        *grid_head(grid),
    ]


def yolov1_tiny(grid: Grid) -> list[Layer]:
    """yolov1-tiny.cfg: the tiny trunk, whose last pool halves here too."""
    return [*TINY_TRUNK[:-1], MaxPool(), Conv(1024), Conv(256), *grid_head(grid)]


def yolov1_nano(grid: Grid) -> list[Layer]:
    """YOLOv1 in small, for CPUs and tests: the first layers of `nano` under the head of yolov1.cfg."""
    return [*NANO_TRUNK, Local(64), *grid_head(grid)]


def darknet19(classes: Classes = 1000) -> list[Layer]:
    """darknet19.cfg and darknet19_448.cfg: the ImageNet classifier (paper 2, table 6)."""
    return [*DARKNET19_TRUNK, *softmax_head(classes)]


def darknet9000(classes: Classes = 9418) -> list[Layer]:
    """darknet9000.cfg: the same on the nodes of a tree, of which a picture's label may name any."""
    return [*darknet19(classes), Cost("masked")]


def tiny(classes: Classes = 1000) -> list[Layer]:
    """tiny.cfg: a classifier of small squeezes and expansions."""
    return [
        *(Conv(16), MaxPool()),
        *(Conv(32), MaxPool()),
        *(Conv(16, 1), Conv(128)) * 2,
        MaxPool(),
        *(Conv(32, 1), Conv(256)) * 2,
        MaxPool(),
        *(Conv(64, 1), Conv(512)) * 2,
        Conv(128, 1),
        *softmax_head(classes),
    ]


def extraction(classes: Classes = 1000) -> list[Layer]:
    """extraction.cfg: the classifier that YOLOv1 starts from; its class scores are leaky."""
    return [*EXTRACTION_TRUNK, *softmax_head(classes, "leaky")]


def tiny_trunk(classes: Classes = 1000) -> list[Layer]:
    """A classifier on the first seven convolutions of the tiny detectors, for these to start from."""
    return [*TINY_TRUNK, Conv(1024), *softmax_head(classes)]


def nano_trunk(classes: Classes = 1000) -> list[Layer]:
    """A classifier on the first eight convolutions of `nano`, for it to start from."""
    return [*NANO_TRUNK, *softmax_head(classes)]


@dataclass(frozen=True)
class Preset:
    """A network's table with the input and the head that its cfg file has.

    Parameters
    ----------
    table : callable
        The head -> the list of layers.
    imgsz : int
        Side of the input in pixels.
    head : Region, Grid, int or WordTree
        What the table is made for; for a classifier, its classes.
    """

    table: Callable[[Any], list[Layer]]
    imgsz: int
    head: Region | Grid | Classes

    def build(self, head: Region | Grid | Classes | None = None) -> list[Layer]:
        """The layers, for the preset's own head or another one of its kind."""
        return self.table(self.head if head is None else head)


@dataclass(frozen=True)
class Recipe(Preset):
    """A detector that `yolov2.train` trains, and how.

    Parameters
    ----------
    head : Region or Grid
        As for a `Preset`.
    jitter : float
        Largest change of a picture's sides while training, as a fraction of them.
    lr : float
        Learning rate, for an update on `nominal_batch` pictures.
    nominal_batch : int
        Pictures per update.
    multi_scale : (smallest, largest), optional
        Range of the input's side while training, in pixels; None trains at one size.
    milestones : tuple of float
        Shares of training after which the rate drops.
    """

    head: Region | Grid
    jitter: float
    lr: float = 0.001
    nominal_batch: int = 64
    multi_scale: tuple[int, int] | None = None
    milestones: tuple[float, ...] = (0.5, 0.75)

    @property
    def region(self) -> Region:
        """The head of a YOLOv2.

        Raises
        ------
        UserError
            If it is a YOLOv1.
        """
        if isinstance(self.head, Grid):
            raise UserError("--model: this one is a YOLOv1, which has cells but no anchors; choose another")
        return self.head


@dataclass(frozen=True)
class ClassifierRecipe(Preset):
    """A classifier that `yolov2.pretrain` trains, and how (SPEC 18); its sizes are those of the first stage.

    Parameters
    ----------
    head : int or WordTree
        As for a `Preset`.
    epochs : int
        Times over the data.
    finetune : float
        Epochs of the second stage, as a share of these.
    nominal_batch : int
        Pictures per update.
    lr : float
        Learning rate, for an update on `nominal_batch` pictures.
    zoom : (smallest, largest)
        The shorter side of a picture before its crop, as multiples of the input.
    """

    epochs: int = 160
    finetune: float = 10 / 160
    nominal_batch: int = 128
    lr: float = 0.1
    zoom: tuple[float, float] = (128 / 256, 448 / 256)


PRESETS: dict[str, Recipe] = {
    "yolov2-voc": Recipe(yolov2, 416, Region(VOC_ANCHORS, 20), 0.3, multi_scale=(320, 608)),
    "yolov2": Recipe(yolov2, 608, Region(COCO_ANCHORS, 80), 0.3, multi_scale=(320, 608)),
    "yolov2-tiny-voc": Recipe(
        yolov2_tiny_voc, 416, Region(TINY_VOC_ANCHORS, 20), 0.2, multi_scale=(320, 608)
    ),
    "yolov2-tiny": Recipe(
        yolov2_tiny, 416, Region(COCO_ANCHORS, 80, rescore=False), 0.2, multi_scale=(320, 608)
    ),
    # trained with --tree: its classes are the nodes of one. Without it the layers, costs and parameters are
    # those of Darknet's file, but the classes know nothing of each other
    "yolo9000": Recipe(
        yolo9000,
        544,
        Region(YOLO9000_ANCHORS, 9418, class_activation="logistic"),
        0.2,
        multi_scale=(320, 608),
        milestones=(0.8, 0.9),
    ),
    "nano": Recipe(nano, 416, Region(VOC_ANCHORS, 20), 0.2, 0.01, 8, milestones=(0.7, 0.9)),
    # the rates of the published ones are those that their files rise to in the first 600 and 800 updates
    "yolov1": Recipe(yolov1, 448, Grid(), 0.2, 0.005),
    "yolov1-tiny": Recipe(yolov1_tiny, 448, Grid(boxes=2), 0.2, 0.01),
    "yolov1-nano": Recipe(yolov1_nano, 224, Grid(boxes=2), 0.2, 0.002, 8, milestones=(0.7, 0.9)),
}
NETWORKS: dict[str, Preset] = {
    **PRESETS,
    "darknet19": Preset(darknet19, 256, 1000),
    "darknet19_448": Preset(darknet19, 448, 1000),
    "darknet9000": Preset(darknet9000, 448, 9418),
    "tiny": Preset(tiny, 224, 1000),
    "extraction": Preset(extraction, 224, 1000),
}
# by their own names, or that of the detectors whose first layers they have
CLASSIFIERS: dict[str, ClassifierRecipe] = {
    "darknet19": ClassifierRecipe(darknet19, 224, 1000),
    "yolov2-tiny": ClassifierRecipe(tiny_trunk, 224, 1000),
    # For few pictures and CPUs. So small a network learns little of crops that show half an object, and an
    # epoch or two do not move it to another size: top-1 on the built-in set fell from .949 to .789
    "nano": ClassifierRecipe(
        nano_trunk, 128, 1000, epochs=30, finetune=0.0, nominal_batch=32, lr=0.05, zoom=(0.9, 1.4)
    ),
    "tiny": ClassifierRecipe(tiny, 224, 1000),
    "extraction": ClassifierRecipe(extraction, 224, 1000),
    # Darknet-19 once more, at 448 from the start, on a tree of the user's (SPEC 13.5): it takes the place of
    # the second stage, and of ImageNet's 1.3 million pictures 10 epochs are its 100,000 updates
    "darknet9000": ClassifierRecipe(
        darknet9000, 448, 9418, epochs=10, finetune=0.0, lr=0.001, zoom=(448 / 448, 512 / 448)
    ),
}

"""The published networks as tables of layer records, and `nano`, a small one of this project for CPUs.

Every preset is a function of the number of classes and the anchors, so that the same table serves any data
set. The published ones are proven against the tables of SPEC 21 (shapes, BFLOP, parameters) in the tests.
"""

from collections.abc import Callable
from dataclasses import dataclass

from reference.layers import AvgPool, Conv, Layer, MaxPool, Reorg, Route, Softmax
from reference.region import Region

Anchors = tuple[tuple[float, float], ...]

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


def region_head(region: Region) -> list[Layer]:
    """The linear 1x1 convolution that feeds a region layer, and the layer."""
    return [Conv(region.channels, 1, batch_norm=False, activation="linear"), region]


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
        *(Conv(16, 3, 2), MaxPool()),
        *(Conv(24), Conv(24), MaxPool()),
        *(Conv(48), Conv(48), MaxPool()),
        *(Conv(96), Conv(96), MaxPool()),
        Conv(160),
        *(Route((-3,)), Conv(32, 1), Reorg(2), Route((-1, -4))),
        Conv(160),
        *region_head(region),
    ]


def darknet19(classes: int = 1000) -> list[Layer]:
    """darknet19.cfg: the ImageNet classifier."""
    head = Conv(classes, 1, batch_norm=False, activation="linear")
    return [*DARKNET19_TRUNK, head, AvgPool(), Softmax()]


@dataclass(frozen=True)
class Preset:
    """A detector's table with the settings it was published with."""

    build: Callable[[Region], list[Layer]]
    imgsz: int
    region: Region
    jitter: float
    lr: float = 0.001


PRESETS: dict[str, Preset] = {
    "yolov2-voc": Preset(yolov2, 416, Region(VOC_ANCHORS, 20), 0.3),
    "yolov2": Preset(yolov2, 416, Region(COCO_ANCHORS, 80), 0.3),
    "yolov2-tiny-voc": Preset(yolov2_tiny_voc, 416, Region(TINY_VOC_ANCHORS, 20), 0.2),
    "yolov2-tiny": Preset(yolov2_tiny, 416, Region(COCO_ANCHORS, 80, rescore=False), 0.2),
    "nano": Preset(nano, 416, Region(VOC_ANCHORS, 20), 0.2, lr=0.01),
}

"""Inputs that look like real ones: never time on zeros, nor NMS on random logits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.timing import DEVICE
from reference.region import Region, WordTree
from yolov2.presets import PRESETS

VOC = PRESETS["yolov2-voc"].region
COCO = PRESETS["yolov2"].region


def truths(batch: int, classes: int, most: int = 12, rows: int = 30, seed: int = 0) -> Tensor:
    """Label lists (batch, rows, 5): 1 to `most` boxes of mixed sizes an image."""
    g = torch.Generator().manual_seed(seed)
    truth = torch.zeros(batch, rows, 5)
    for image in truth:
        n = int(torch.randint(1, most + 1, (), generator=g))
        image[:n, :2] = torch.rand(n, 2, generator=g) * 0.96 + 0.02
        image[:n, 2:4] = torch.exp(torch.randn(n, 2, generator=g) * 0.7 - 1.4).clamp(0.02, 0.9)
        image[:n, 4] = torch.randint(0, classes, (n,), generator=g)
    return truth


def trained_head(batch: int, region: Region = VOC, grid: int = 13, objects: int = 8, seed: int = 0) -> Tensor:
    """A raw head (batch, A*(5+C), grid, grid) as a trained network writes it.

    Nearly every prediction is quiet; around each object a few neighbours fire with overlapping boxes and
    agree about the class, so that thresholds and NMS have their usual work.
    """
    g = torch.Generator().manual_seed(seed)
    A, C = len(region.anchors), region.classes
    head = torch.randn(batch, A, 5 + C, grid, grid, generator=g) * 0.5
    head[:, :, 4] -= 6.0
    for image in head:
        for _ in range(objects):
            row, col = torch.randint(1, grid - 1, (2,), generator=g).tolist()
            anchor, label = (int(torch.randint(0, n, (), generator=g)) for n in (A, C))
            image[anchor, 4, row - 1 : row + 2, col - 1 : col + 2] = torch.randn(3, 3, generator=g) + 0.5
            image[anchor, 4, row, col] = 3.0
            image[:, 5 + label, row - 1 : row + 2, col - 1 : col + 2] += 5.0
    return head.flatten(1, 2)


def head_in(form: str, head: Tensor) -> Tensor:
    """`head` on the device that is timed, in a dtype and layout such as "fp16 nhwc"."""
    dtype, layout = form.split()
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    form_of = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}[layout]
    return head.to(DEVICE, wanted).contiguous(memory_format=form_of)


def close(got: Any, want: Any) -> None:
    """Whole numbers are equal, others nearly so: right first, then quick; the proofs are in tests/."""
    got = got.float().cpu().numpy() if isinstance(got, Tensor) else got
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6)


def word_tree(nodes: int = 9418, widest: int = 149, seed: int = 0) -> WordTree:
    """A tree of words shaped like YOLO9000's: five siblings a group on average, one group of `widest`."""
    g = torch.Generator().manual_seed(seed)
    parents, parent = [-1] * min(nodes, 12), 0
    while len(parents) < nodes:
        size = int(torch.randn((), generator=g).add(1).exp()) + 1 if parent else widest
        parents += [parent] * min(size, widest, nodes - len(parents))
        parent += int(torch.randint(1, 8, (), generator=g))
    return WordTree(("",) * nodes, tuple(parents))

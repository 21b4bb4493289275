"""Raw head to final detections in one launch: decode, threshold, class, suppression (SPEC 8).

One program holds one image. Its 845 boxes at 416 x 416 (1805 at 608) fit the registers of 4 to 16 warps, so
there is no sort, no scratch memory, nothing atomic and no second launch. Every box carries its best remaining
class as its candidate; the program takes the best candidate of all, drops those it suppresses and lets their
boxes fall back to their next class, until nothing above the threshold is left.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import anchor_tensor, empty, launch
from fast.kernels.boxes import iou
from fast.kernels.decode import cell_strides, first_candidate, load_box, next_candidate, tree_arguments
from reference.region import Region, TreeRule

MAX_BOXES = 2048  # boxes of an image that one program holds
MAX_KEPT = 1024
MAX_CLASSES = 2**20  # what a key has room for
UNROLL = 2


@triton.jit
def candidate_key(score, rank, label):
    """One int64 to find who is next with one reduction; 0 is nobody.

    The bits of a positive score order as it does (31 bits), then the higher rank, that is the smaller
    location, comes first (11 bits), and the class rides along (20 bits).
    """
    bits = score.to(tl.int32, bitcast=True).to(tl.int64)
    return (bits << 31) | (rank.to(tl.int64) << 20) | label.to(tl.int64)


@triton.jit(do_not_specialize=["A", "C", "H", "W", "max_det", "roots"])
def _detect_kernel(
    pred, stride_b, stride_c, stride_cell, anchors, table, boxes, scores, classes, counts,
    A, C, H, W, conf, threshold, max_det, roots, tree_threshold,
    LOCATION: tl.constexpr, ACTIVATION: tl.constexpr, BACKGROUND: tl.constexpr, PAPER: tl.constexpr,
    MULTI_LABEL: tl.constexpr, AGNOSTIC: tl.constexpr, BOXES: tl.constexpr, KEPT: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Everything for one image. Grid: (images,).

    Bytes: five channels of all slots, classes of those whose objectness passes, max_det rows out.
    """
    image = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BOXES)
    inside = n < A * H * W
    anchor, cell = n // (H * W), n % (H * W)
    head = pred + image * stride_b
    slot = anchor * (5 + C) * stride_c + cell * stride_cell
    score, label, left = first_candidate(
        head, slot, stride_c, inside, C, conf, table, roots, tree_threshold,
        ACTIVATION, BACKGROUND, PAPER, UNROLL,
    )  # fmt: skip
    anchor_w = tl.load(anchors + 2 * anchor, score > 0, other=1)
    anchor_h = tl.load(anchors + 2 * anchor + 1, score > 0, other=1)
    x, y, w, h = load_box(
        head, slot, stride_c, score > 0, cell % W, cell // W, anchor_w, anchor_h, W, H, LOCATION
    )

    k = tl.arange(0, KEPT)
    kept_x, kept_y = tl.zeros((KEPT,), tl.float32), tl.zeros((KEPT,), tl.float32)
    kept_w, kept_h = tl.zeros((KEPT,), tl.float32), tl.zeros((KEPT,), tl.float32)
    kept_score, kept_label = tl.zeros((KEPT,), tl.float32), tl.full((KEPT,), -1, tl.int32)
    count = 0

    best = tl.max(tl.where(score > 0, candidate_key(score, BOXES - 1 - n, label), 0))
    while (best != 0) & (count < max_det):
        its_label = (best & 0xFFFFF).to(tl.int32)
        i = BOXES - 1 - ((best >> 20) & 0x7FF).to(tl.int32)
        its_score = (best >> 31).to(tl.int32).to(tl.float32, bitcast=True)
        # decoded once more from cache: cheaper than four reductions over the registers of the program
        its_anchor, its_cell = i // (H * W), i % (H * W)
        its_w, its_h = tl.load(anchors + 2 * its_anchor), tl.load(anchors + 2 * its_anchor + 1)
        bx, by, bw, bh = load_box(
            head, its_anchor * (5 + C) * stride_c + its_cell * stride_cell, stride_c, True,
            its_cell % W, its_cell // W, its_w, its_h, W, H, LOCATION,
        )  # fmt: skip

        # A box's first candidate was in sight of every suppressor; a later one was not, so ask those kept.
        suppressed = 0
        if MULTI_LABEL:
            over = (iou(kept_x, kept_y, kept_w, kept_h, bx, by, bw, bh) > threshold) & (k < count)
            if not AGNOSTIC:
                over &= kept_label == its_label
            suppressed = tl.max(over.to(tl.int32))
        here = k == tl.where(suppressed != 0, -1, count)
        kept_x, kept_y = tl.where(here, bx, kept_x), tl.where(here, by, kept_y)
        kept_w, kept_h = tl.where(here, bw, kept_w), tl.where(here, bh, kept_h)
        kept_score, kept_label = tl.where(here, its_score, kept_score), tl.where(here, its_label, kept_label)
        count += 1 - suppressed

        bar = tl.where(suppressed != 0, float("inf"), threshold)
        drop = (score > 0) & (iou(x, y, w, h, bx, by, bw, bh) > bar)
        if not AGNOSTIC:
            drop &= label == its_label
        drop |= n == i
        dropped_score = score
        score = tl.where(drop, 0.0, score)
        if MULTI_LABEL:
            # without regard to class, a suppressed box is out with all of its classes
            again = (n == tl.where(suppressed != 0, -1, i) if AGNOSTIC else drop) & (left > 1)
            if tl.max(again.to(tl.int32)) > 0:
                t_o = tl.load(head + (slot + 4 * stride_c), again, other=float("-inf")).to(tl.float32)
                next_score, next_label, next_left = next_candidate(
                    head, slot, stride_c, again, t_o, C, conf, dropped_score, label,
                    ACTIVATION, BACKGROUND, UNROLL,
                )  # fmt: skip
                score, label = tl.where(again, next_score, score), tl.where(again, next_label, label)
                left = tl.where(again, next_left, left)
        best = tl.max(tl.where(score > 0, candidate_key(score, BOXES - 1 - n, label), 0))

    row = image * max_det + k
    asked = k < max_det
    tl.store(boxes + 4 * row, kept_x, asked)
    tl.store(boxes + 4 * row + 1, kept_y, asked)
    tl.store(boxes + 4 * row + 2, kept_w, asked)
    tl.store(boxes + 4 * row + 3, kept_h, asked)
    tl.store(scores + row, kept_score, asked)
    tl.store(classes + row, kept_label.to(tl.int64), asked)
    tl.store(counts + image, count)


def fits(pred: Tensor, region: Region, max_det: int) -> bool:
    """Whether one program can hold an image."""
    _, _, H, W = pred.shape
    boxes = len(region.anchors) * H * W
    return boxes <= MAX_BOXES and max_det <= MAX_KEPT and region.classes <= MAX_CLASSES


def detect(
    pred: Tensor,
    region: Region,
    conf: float,
    threshold: float,
    max_det: int,
    multi_label: bool,
    class_agnostic: bool,
    tree_threshold: float,
    tree_rule: TreeRule,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes (B, max_det, 4), scores and classes (B, max_det), counts (B,) of a head that `fits`."""
    B, _, H, W = pred.shape
    pred, *strides = cell_strides(pred)
    boxes = empty((B, max_det, 4), pred, torch.float32)
    scores = empty((B, max_det), pred, torch.float32)
    classes, counts = empty((B, max_det), pred, torch.int64), empty((B,), pred, torch.int64)
    table, roots = tree_arguments(region, pred)
    lanes = triton.next_power_of_2(len(region.anchors) * H * W)
    launch(
        _detect_kernel,
        (B,),
        pred, *strides, anchor_tensor(region.settings, pred.device), table, boxes, scores, classes, counts,
        len(region.anchors), region.classes, H, W, float(max(conf, 0)), float(threshold), max_det, roots,
        float(tree_threshold),
        LOCATION=region.location, ACTIVATION=region.class_activation, BACKGROUND=region.background,
        PAPER=tree_rule == "paper", MULTI_LABEL=multi_label and region.tree is None, AGNOSTIC=class_agnostic,
        BOXES=lanes, KEPT=triton.next_power_of_2(max(max_det, 1)), UNROLL=UNROLL,
        # at 2048 boxes 16 warps would leave a thread too few registers
        warps=4 if lanes <= 512 else 8, alone=True,
    )  # fmt: skip
    return boxes, scores, classes, counts

"""Raw head to boxes and probabilities, dense or thresholded (SPEC 1, 8).

The head is seen as (image, anchor, 5 + C, cell) through three strides, so NCHW (cells contiguous) and
channels_last (channels contiguous) are the same code; Triton specialises the stride that is 1. Within an
image a slot is a 32-bit offset: a pointer would take two registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import anchor_tensor, empty, launch
from fast.wordtree import tree_table
from reference.region import Region, TreeRule

CELLS, CLASSES, TILE = 64, 128, 4096  # most cells, classes and products of both in a dense program
CHUNK = 64  # classes a pass where they do not fit one tile
SLOTS = 1024  # slots that a program of `decode_candidates` looks at in one go
UNROLL = 2  # classes whose loads are in flight together


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), with the quick division: no threshold is exact behind an exponential."""
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def load_box(head, slot, stride_c, mask, col, row, anchor_w, anchor_h, W, H, LOCATION: tl.constexpr):
    """Boxes of slots, fractions of the input (SPEC 1.3). ``head + slot`` points to their t_x."""
    t_x = tl.load(head + slot, mask, other=0).to(tl.float32)
    t_y = tl.load(head + (slot + stride_c), mask, other=0).to(tl.float32)
    t_w = tl.load(head + (slot + 2 * stride_c), mask, other=0).to(tl.float32)
    t_h = tl.load(head + (slot + 3 * stride_c), mask, other=0).to(tl.float32)
    if LOCATION == "cell":
        p_x, p_y = sigmoid(t_x), sigmoid(t_y)
    else:
        p_x, p_y = 0.5 + t_x * anchor_w, 0.5 + t_y * anchor_h
    x = (col + p_x) / W
    y = (row + p_y) / H
    w = anchor_w * tl.exp(t_w) / W
    h = anchor_h * tl.exp(t_h) / H
    return x, y, w, h


@triton.jit
def online_softmax(top, total, new_top, e_sum):
    """Take more scores into a running maximum and sum; e_sum is the sum of exp(score - new_top) over them."""
    return total * tl.where(top == new_top, 1.0, tl.exp(top - new_top)) + e_sum


@triton.jit
def exp_below(x, top):
    """exp(x - top) where -inf means "not there", also if all is -inf."""
    return tl.where(x == float("-inf"), 0.0, tl.exp(x - top))


@triton.jit
def softmax_statistics(head, slot, stride_c, alive, t_o, C, BACKGROUND: tl.constexpr, UNROLL: tl.constexpr):
    """Largest class score of alive slots and sum of exponentials below it, one pass over their scores."""
    top = t_o if BACKGROUND else tl.full(t_o.shape, float("-inf"), tl.float32)
    total = exp_below(top, top)
    end = tl.where(alive, C, 0)
    for first in range(0, C, UNROLL):
        for u in tl.static_range(UNROLL):
            c = first + u
            x = tl.load(head + (slot + (5 + c) * stride_c), c < end, other=float("-inf")).to(tl.float32)
            new_top = tl.maximum(top, x)
            total = online_softmax(top, total, new_top, exp_below(x, new_top))
            top = new_top
    return top, total


@triton.jit
def next_candidate(
    head, slot, stride_c, alive, t_o, C, conf, last_score, last_class,
    ACTIVATION: tl.constexpr, BACKGROUND: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Of each alive slot the best class after (last_score, last_class) with a score above `conf`.

    Scores descend, and of equal ones the lower class comes first. Returns score (0: none), class, and how
    many candidates there were. Class scores are read for alive slots only, twice, the second time from cache.
    """
    p_o = tl.full(t_o.shape, 1.0, tl.float32) if BACKGROUND else sigmoid(t_o)
    if ACTIVATION == "softmax":
        top, total = softmax_statistics(head, slot, stride_c, alive, t_o, C, BACKGROUND, UNROLL)
    else:
        top, total = t_o, t_o
    best = tl.zeros(t_o.shape, tl.float32)
    label = tl.full(t_o.shape, 0, tl.int32)
    left = tl.full(t_o.shape, 0, tl.int32)
    end = tl.where(alive, C, 0)
    for first in range(0, C, UNROLL):
        for u in tl.static_range(UNROLL):
            c = first + u
            x = tl.load(head + (slot + (5 + c) * stride_c), c < end, other=float("-inf")).to(tl.float32)
            p = tl.exp(x - top) / total if ACTIVATION == "softmax" else sigmoid(x)
            score = p_o * p
            after = (score < last_score) | ((score == last_score) & (c > last_class))
            counts = (c < end) & after & (score > conf)
            left += counts.to(tl.int32)
            better = counts & (score > best)
            best = tl.where(better, score, best)
            label = tl.where(better, c, label)
    return best, label, left


@triton.jit
def descend(head, slot, stride_c, alive, table, roots, threshold, PAPER: tl.constexpr):
    """The node each alive slot reaches on the way down its tree (SPEC 13.3, 8), reading only groups on it.

    Darknet descends on absolute probabilities, so `reached`, their product, punishes depth twice; the PAPER's
    is the absolute probability itself. The best member's conditional one is exp(0) over its group's sum.
    """
    node = tl.where(alive, -1, 0)
    start, size = tl.where(alive, 0, 0), tl.where(alive, roots, 0)
    absolute = tl.where(alive, 1.0, 1.0)
    reached = absolute
    active = alive
    while tl.max(active.to(tl.int32)) > 0:
        top = tl.full(absolute.shape, float("-inf"), tl.float32)
        total = tl.zeros(absolute.shape, tl.float32)
        best = start
        for k in range(tl.max(tl.where(active, size, 0))):
            member = active & (k < size)
            x = tl.load(head + (slot + (5 + start + k) * stride_c), member, other=float("-inf"))
            x = x.to(tl.float32)
            new_top = tl.maximum(top, x)
            shrink = tl.where(top == new_top, 1.0, tl.exp(top - new_top))
            best = tl.where(shrink < 1, start + k, best)  # a later member wins only if it is likelier
            total = total * shrink + exp_below(x, new_top)
            top = new_top
        absolute *= 1.0 / total
        best = tl.where(absolute > 0, best, 0)
        reached = absolute if PAPER else reached * absolute
        accept = active & (reached > threshold)
        node = tl.where(accept | (active & (node < 0)), best, node)
        start = tl.load(table + best * 5 + 3, accept, other=-1)
        size = tl.load(table + best * 5 + 4, accept, other=0)
        active = accept & (start >= 0)
    return node


@triton.jit
def first_candidate(
    head, slot, stride_c, inside, C, conf, table, roots, tree_threshold,
    ACTIVATION: tl.constexpr, BACKGROUND: tl.constexpr, PAPER: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Best score above `conf`, its class, and the number of classes above `conf` of each slot; 0 for none.

    No class probability exceeds 1, so slots with an objectness not above `conf` are never read further.
    """
    t_o = tl.load(head + (slot + 4 * stride_c), inside, other=float("-inf")).to(tl.float32)
    alive = inside if BACKGROUND else inside & (sigmoid(t_o) > conf)
    if ACTIVATION == "tree":
        label = descend(head, slot, stride_c, alive, table, roots, tree_threshold, PAPER)
        score = tl.where(alive, sigmoid(t_o), 0.0)
        left = alive.to(tl.int32)
    else:
        infinite = tl.full(t_o.shape, float("inf"), tl.float32)
        nobody = tl.full(t_o.shape, -1, tl.int32)
        score, label, left = next_candidate(
            head, slot, stride_c, alive, t_o, C, conf, infinite, nobody, ACTIVATION, BACKGROUND, UNROLL
        )
    return score, label, left


@triton.jit(do_not_specialize=["A", "span", "C", "H", "W"])  # a program for every size, not one for each
def _decode_kernel(
    pred, stride_b, stride_c, stride_cell, anchors, boxes, objectness, probs,
    A, span, C, H, W, conf,
    LOCATION: tl.constexpr, ACTIVATION: tl.constexpr, BACKGROUND: tl.constexpr, SCORES: tl.constexpr,
    CELLS: tl.constexpr, CLASSES: tl.constexpr, ONE_TILE: tl.constexpr,
):  # fmt: skip
    """CELLS cells of one anchor, every class. Grid: (tiles of cells, anchors, images).

    Bytes: 5 + C values in and 5 + C float32 out per slot, each once if the classes fit one tile (read three
    times otherwise, twice from cache). With SCORES the classes leave as objectness * probability, 0 where
    not above `conf`. An anchor has `span` channels; C classes are written.
    """
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    anchor, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    inside = cell < H * W
    head = pred + image * stride_b
    slot = anchor * span * stride_c + cell * stride_cell
    out = (image * A + anchor) * (H * W) + cell

    anchor_w, anchor_h = tl.load(anchors + 2 * anchor), tl.load(anchors + 2 * anchor + 1)
    x, y, w, h = load_box(
        head, slot, stride_c, inside, cell % W, cell // W, anchor_w, anchor_h, W, H, LOCATION
    )
    tl.store(boxes + 4 * out, x, inside)
    tl.store(boxes + 4 * out + 1, y, inside)
    tl.store(boxes + 4 * out + 2, w, inside)
    tl.store(boxes + 4 * out + 3, h, inside)
    t_o = tl.load(head + (slot + 4 * stride_c), inside, other=0).to(tl.float32)

    c = tl.arange(0, CLASSES)[None, :]
    at = slot[:, None] + (5 + c) * stride_c
    there = inside[:, None] & (c < C)
    score = tl.load(head + at, there, other=float("-inf")).to(tl.float32)
    if ACTIVATION == "softmax":
        top = tl.max(score, 1)
        if BACKGROUND:
            top = tl.maximum(top, t_o)
        total = tl.sum(exp_below(score, top[:, None]), 1)
        if BACKGROUND:
            total += exp_below(t_o, top)
        if not ONE_TILE:
            for first in range(CLASSES, C, CLASSES):
                more = inside[:, None] & (first + c < C)
                score = tl.load(head + (at + first * stride_c), more, other=float("-inf")).to(tl.float32)
                new_top = tl.maximum(top, tl.max(score, 1))
                total = online_softmax(top, total, new_top, tl.sum(exp_below(score, new_top[:, None]), 1))
                top = new_top
    p_o = tl.exp(t_o - top) / total if BACKGROUND else sigmoid(t_o)
    if not SCORES:
        tl.store(objectness + out, p_o, inside)
    if SCORES and BACKGROUND:
        p_o = tl.full(p_o.shape, 1.0, tl.float32)

    target = probs + out[:, None] * C + c
    for first in range(0, C, CLASSES):
        there = inside[:, None] & (first + c < C)
        if not ONE_TILE:
            score = tl.load(head + (at + first * stride_c), there, other=float("-inf")).to(tl.float32)
        p = tl.exp(score - top[:, None]) / total[:, None] if ACTIVATION == "softmax" else sigmoid(score)
        if SCORES:
            p *= p_o[:, None]
            p = tl.where(p > conf, p, 0.0)
        tl.store(target + first, p, there)


@triton.jit(do_not_specialize=["A", "C", "H", "W", "capacity", "roots"])
def _candidates_kernel(
    pred, stride_b, stride_c, stride_cell, anchors, table, boxes, scores, classes, locations, counts,
    A, C, H, W, conf, capacity, roots, tree_threshold,
    LOCATION: tl.constexpr, ACTIVATION: tl.constexpr, BACKGROUND: tl.constexpr, PAPER: tl.constexpr,
    SLOTS: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Slots above `conf` of one image, moved together in the order of their locations. Grid: (images,).

    A prefix sum gives every survivor its row, so the order is the same every time and nothing is atomic.
    Bytes: t_o of all slots, the rest only of those it lets through.
    """
    image = tl.program_id(0).to(tl.int64)
    head = pred + image * stride_b
    found = 0
    for first in range(0, A * H * W, SLOTS):
        n = first + tl.arange(0, SLOTS)
        inside = n < A * H * W
        anchor, cell = n // (H * W), n % (H * W)
        slot = anchor * (5 + C) * stride_c + cell * stride_cell
        score, label, _ = first_candidate(
            head, slot, stride_c, inside, C, conf, table, roots, tree_threshold,
            ACTIVATION, BACKGROUND, PAPER, UNROLL,
        )  # fmt: skip
        keep = score > conf
        place = found + tl.cumsum(keep.to(tl.int32), 0) - 1
        fits = keep & (place < capacity)
        anchor_w = tl.load(anchors + 2 * anchor, fits, other=1)
        anchor_h = tl.load(anchors + 2 * anchor + 1, fits, other=1)
        x, y, w, h = load_box(
            head, slot, stride_c, fits, cell % W, cell // W, anchor_w, anchor_h, W, H, LOCATION
        )
        row = image * capacity + place
        tl.store(boxes + 4 * row, x, fits)
        tl.store(boxes + 4 * row + 1, y, fits)
        tl.store(boxes + 4 * row + 2, w, fits)
        tl.store(boxes + 4 * row + 3, h, fits)
        tl.store(scores + row, score, fits)
        tl.store(classes + row, label.to(tl.int64), fits)
        tl.store(locations + row, n.to(tl.int64), fits)
        found += tl.sum(keep.to(tl.int32))
    tl.store(counts + image, found)
    for first in range(0, capacity, SLOTS):
        place = first + tl.arange(0, SLOTS)
        empty = (place >= found) & (place < capacity)
        row = image * capacity + place
        for k in tl.static_range(4):
            tl.store(boxes + 4 * row + k, tl.zeros((SLOTS,), tl.float32), empty)
        tl.store(scores + row, tl.zeros((SLOTS,), tl.float32), empty)
        tl.store(classes + row, tl.full((SLOTS,), -1, tl.int64), empty)
        tl.store(locations + row, tl.full((SLOTS,), -1, tl.int64), empty)


def cell_strides(pred: Tensor) -> tuple[Tensor, int, int, int]:
    """The head, copied if rows do not follow each other, with the strides of image, channel and cell."""
    _, _, H, W = pred.shape
    b, c, y, x = pred.stride()
    if H > 1 and W > 1 and y != W * x:
        pred = pred.contiguous()
        b, c, y, x = pred.stride()
    return pred, b, c, y if W == 1 else x


def tree_arguments(region: Region, pred: Tensor) -> tuple[Tensor, int]:
    """Device table and number of roots of the region's tree; without one, something never read."""
    if region.tree is None:
        return anchor_tensor(region.settings, pred.device), 0
    return tree_table(region.tree, pred.device), region.tree.group_sizes[0]


def decode(
    pred: Tensor, region: Region, conf: float = 0.0, scores: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (B, A, H, W, 4), objectness (B, A, H, W) and class probabilities (B, A, H, W, C), float32.

    With `scores` the last are scores above `conf` or 0, and objectness is empty. On a tree C is 0: its
    probabilities are `fast.wordtree.tree_softmax`.
    """
    B, _, H, W = pred.shape
    A, C = len(region.anchors), 0 if region.tree is not None else region.classes
    pred, *strides = cell_strides(pred)
    boxes = empty((B, A, H, W, 4), pred, torch.float32)
    objectness = empty((0,) if scores else (B, A, H, W), pred, torch.float32)
    probs = empty((B, A, H, W, C), pred, torch.float32)
    classes = triton.next_power_of_2(max(C, 1)) if C <= CLASSES else min(CLASSES, CHUNK)
    # two more copies of a chunk are alive where passes follow each other
    cells = max(1, min(CELLS, (TILE if classes >= C else TILE // 2) // classes))
    launch(
        _decode_kernel,
        (triton.cdiv(H * W, cells), A, B),
        pred, *strides, anchor_tensor(region.settings, pred.device), boxes, objectness, probs,
        A, 5 + region.classes, C, H, W, float(conf),
        LOCATION=region.location, ACTIVATION=region.class_activation, BACKGROUND=region.background,
        SCORES=scores, CELLS=cells, CLASSES=classes, ONE_TILE=classes >= C,
    )  # fmt: skip
    return boxes, objectness, probs


def decode_candidates(
    pred: Tensor, region: Region, conf: float, capacity: int, tree_threshold: float, tree_rule: TreeRule
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, classes, locations (B, capacity, ...) and counts (B,), see `fast.decode`."""
    B, _, H, W = pred.shape
    pred, *strides = cell_strides(pred)
    boxes = empty((B, capacity, 4), pred, torch.float32)
    scores = empty((B, capacity), pred, torch.float32)
    classes, locations = (empty((B, capacity), pred, torch.int64) for _ in range(2))
    counts = empty((B,), pred, torch.int64)
    table, roots = tree_arguments(region, pred)
    launch(
        _candidates_kernel,
        (B,),
        pred, *strides, anchor_tensor(region.settings, pred.device), table,
        boxes, scores, classes, locations, counts,
        len(region.anchors), region.classes, H, W, float(conf), capacity, roots, float(tree_threshold),
        LOCATION=region.location, ACTIVATION=region.class_activation, BACKGROUND=region.background,
        PAPER=tree_rule == "paper", UNROLL=UNROLL,
        SLOTS=min(SLOTS, triton.next_power_of_2(len(region.anchors) * H * W)), warps=8,
    )  # fmt: skip
    return boxes, scores, classes, locations, counts

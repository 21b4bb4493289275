"""Greedy suppression without a sort, an atomic or a wait (SPEC 8.2).

`_nms_kernel` keeps a whole image in the registers of one program and repeats "take the best, drop what it
overlaps": one reduction a kept box. Where one box carries many classes, as in evaluation, its place is the
same for all of them: `_mask_kernel` compares every pair of boxes once an image, and `_masked_kernel` lets
each (image, class) walk those bits.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import empty, launch
from fast.kernels.boxes import iou

MAX_BOXES = 4096  # boxes of an image that one program of `_nms_kernel` holds
MAX_MASKED = 8192  # boxes that one program of `_masked_kernel` holds
MAX_KEPT = 1024  # kept boxes that a program holds
ROWS, COLUMNS = 32, 128  # tile of pairs of a program of `_mask_kernel`

DEAD = tl.constexpr(-(2**63))  # the key of nobody


@triton.jit
def sortable(x):
    """int32 in the order of float32 `x`; -0 counts as 0."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def unsortable(key):
    """The float32 that `sortable` made `key` of."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def ranked(score, place, last):
    """One int64 to compare: larger scores first, of equal ones the smaller place (at most `last`)."""
    return (sortable(score).to(tl.int64) << 32) | (last - place).to(tl.int64)


@triton.jit(do_not_specialize=["N", "max_det"])
def _nms_kernel(
    boxes, scores, classes, kept, counts, N, max_det, conf, threshold,
    CLASSES: tl.constexpr, BOXES: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    """All boxes of one image, in registers: 4 coordinates, class and key. Grid: (images,)."""
    image = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BOXES)
    inside = n < N
    box = boxes + (image * N + n) * 4
    x, y = tl.load(box, inside, other=0), tl.load(box + 1, inside, other=0)
    w, h = tl.load(box + 2, inside, other=0), tl.load(box + 3, inside, other=0)
    score = tl.load(scores + image * N + n, inside, other=float("-inf"))
    if CLASSES:
        label = tl.load(classes + image * N + n, inside, other=-1)
    key = tl.where(inside & (score > conf), ranked(score, n, BOXES - 1), DEAD)

    slot = tl.arange(0, KEPT)
    index = tl.full((KEPT,), -1, tl.int64)
    count = 0
    best = tl.max(key)
    while (best != DEAD) & (count < max_det):
        i = BOXES - 1 - (best & 0xFFFFFFFF)
        one = boxes + (image * N + i) * 4
        drop = iou(x, y, w, h, tl.load(one), tl.load(one + 1), tl.load(one + 2), tl.load(one + 3)) > threshold
        if CLASSES:
            drop &= label == tl.load(classes + image * N + i)
        key = tl.where(drop | (n == i), DEAD, key)
        index = tl.where(slot == count, i, index)
        count += 1
        best = tl.max(key)
    tl.store(kept + image * max_det + slot, index, slot < max_det)
    tl.store(counts + image, count)


@triton.jit(do_not_specialize=["N", "words"])
def _mask_kernel(
    boxes, classes, mask, N, words, threshold,
    CLASSES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Bit c of row r: the boxes overlap by more than the threshold. Grid: (row tiles, column tiles, images).

    Bytes out: N * N / 8 an image, 90 kB for 845 boxes, so every later question is answered from cache.
    """
    image = tl.program_id(2).to(tl.int64)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    c = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    a, b = boxes + (image * N + r) * 4, boxes + (image * N + c) * 4
    at, bt = r < N, c < N
    overlap = iou(
        tl.load(a, at, other=0)[:, None], tl.load(a + 1, at, other=0)[:, None],
        tl.load(a + 2, at, other=0)[:, None], tl.load(a + 3, at, other=0)[:, None],
        tl.load(b, bt, other=0)[None, :], tl.load(b + 1, bt, other=0)[None, :],
        tl.load(b + 2, bt, other=0)[None, :], tl.load(b + 3, bt, other=0)[None, :],
    )  # fmt: skip
    over = (overlap > threshold) & bt[None, :]
    if CLASSES:
        same = tl.load(classes + image * N + r, at, other=-1)[:, None]
        over &= same == tl.load(classes + image * N + c, bt, other=-2)[None, :]
    bits = over.to(tl.int32) << (tl.arange(0, COLUMNS) % 32)[None, :]
    word = tl.sum(tl.reshape(bits, (ROWS, COLUMNS // 32, 32)), 2)  # distinct bits: their sum is their union
    w = tl.program_id(1) * (COLUMNS // 32) + tl.arange(0, COLUMNS // 32)
    tl.store(mask + (image * N + r[:, None]) * words + w[None, :], word, at[:, None] & (w < words)[None, :])


@triton.jit(do_not_specialize=["N", "C", "words", "max_det"])
def _masked_kernel(
    scores, mask, keys, N, C, words, conf, max_det,
    BOXES: tl.constexpr,
):  # fmt: skip
    """One class of one image: N scores in, N keys out, DEAD where suppressed. Grid: (classes, images).

    A key ranks (score, box, class) among all survivors of its image, so the best `max_det` are a top-k.
    """
    label = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    n = tl.arange(0, BOXES)
    inside = n < N
    score = tl.load(scores + (image * N + n) * C + label, inside, other=float("-inf"))
    key = tl.where(inside & (score > conf), ranked(score, n, BOXES - 1), DEAD)
    survivor = tl.full((BOXES,), 0, tl.int32)
    count = 0
    best = tl.max(key)
    while (best != DEAD) & (count < max_det):
        i = BOXES - 1 - (best & 0xFFFFFFFF)
        word = tl.load(mask + (image * N + i) * words + n // 32, inside, other=0)
        survivor = tl.where(n == i, 1, survivor)
        key = tl.where((((word >> (n % 32)) & 1) != 0) | (n == i), DEAD, key)
        count += 1
        best = tl.max(key)
    place = n * C + label
    final = tl.where(survivor != 0, ranked(score, place, 0x7FFFFFFF), DEAD)
    tl.store(keys + (image * C + label) * N + n, final, inside)


def fits(boxes: int, max_det: int) -> bool:
    """Whether one program can hold an image of `_nms_kernel`."""
    return boxes <= MAX_BOXES and max_det <= MAX_KEPT


def _warps(lanes: int) -> int:
    """Four to eight elements a thread and a vector, at most 16 warps."""
    return min(16, max(4, lanes // 128))


def batched_nms(
    boxes: Tensor, scores: Tensor, threshold: float, max_det: int, classes: Tensor | None, conf: float
) -> tuple[Tensor, Tensor]:
    """Kept rows (B, max_det) int64 and counts (B,) of boxes (B, N, 4) with scores (B, N), both float32."""
    B, N, _ = boxes.shape
    if not fits(N, max_det):
        kept, _, count = masked_nms(boxes, scores[..., None], threshold, max_det, classes, conf)
        return kept, count
    kept, counts = empty((B, max_det), boxes, torch.int64), empty((B,), boxes, torch.int64)
    lanes = triton.next_power_of_2(max(N, 1))
    launch(
        _nms_kernel,
        (B,),
        boxes, scores, boxes if classes is None else classes, kept, counts, N, max_det,
        float(conf), float(threshold),
        CLASSES=classes is not None, BOXES=lanes, KEPT=triton.next_power_of_2(max(max_det, 1)),
        warps=_warps(lanes), alone=True,
    )  # fmt: skip
    return kept, counts


def masked_nms(
    boxes: Tensor, scores: Tensor, threshold: float, max_det: int, classes: Tensor | None, conf: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress every class on its own, boxes (B, N, 4) with scores (B, N, C) of them, both float32.

    Returns
    -------
    places (B, max_det) int64, scores (B, max_det), counts (B,)
        ``box * C + class`` of the best survivors, best first; -1 and 0 past the count.
    """
    B, N, C = scores.shape
    words = triton.cdiv(N, 32)
    mask = empty((B, N, words), boxes, torch.int32)
    launch(
        _mask_kernel,
        (triton.cdiv(N, ROWS), triton.cdiv(N, COLUMNS), B),
        boxes, boxes if classes is None else classes, mask, N, words, float(threshold),
        CLASSES=classes is not None, ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
    keys = empty((B, C * N), boxes, torch.int64)
    lanes = triton.next_power_of_2(max(N, 1))
    launch(
        _masked_kernel,
        (C, B),
        scores, mask, keys, N, C, words, float(conf), max_det,
        BOXES=lanes, warps=_warps(lanes),
    )  # fmt: skip
    # no two keys are equal, so the best are the same every time
    best = keys.topk(min(max_det, C * N), dim=1).values
    found = best != DEAD.value
    places = torch.where(found, 0x7FFFFFFF - (best & 0xFFFFFFFF), -1)
    bits = (best >> 32).to(torch.int32)
    score = torch.where(found, (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), 0)
    counts = found.sum(1)
    if short := max_det - best.shape[1]:
        places = torch.nn.functional.pad(places, (0, short), value=-1)
        score = torch.nn.functional.pad(score, (0, short))
    return places, score, counts

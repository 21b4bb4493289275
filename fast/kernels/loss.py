"""Target assignment, every term of the region loss and its gradient in one pass over the logits (SPEC 3-7).

Each program owns some cells of one anchor of one image and meets all truths of the image, of which there are
few: which truth claims a cell is a maximum over row numbers ("the last one wins"), whether a prediction is
excused is an "any". So nothing is written that another program needs, nothing is atomic, and the same input
gives the same bits. Class scores are read only where a truth was assigned; elsewhere the gradient is 0.

Bytes of a head of 5 + C channels: 5 in and 5 + C out for every slot, C more in for every truth. The backward
pass reads that gradient once and writes it once, scaled.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fast._launch import anchor_tensor, class_map_tensor, empty, empty_strided, launch
from fast.kernels.boxes import iou
from fast.kernels.decode import cell_strides, exp_below, load_box, online_softmax, sigmoid, tree_arguments
from reference.region import Region

CELLS, CLASSES, TRUTHS = 64, 128, 32  # most cells, classes and truths in one tile
TILE = 4096  # elements of a tile of classes, by cells or by truths
MAX_TRUTHS = 256  # rows of an image that one program of `_labels_kernel` compares
ROWS = 128  # partial sums that are added in one go

CLASS_ONLY = tl.constexpr(100000.0)  # x and y beyond this mark a classification-only image


@triton.jit
def read_list(truth, T, TREE: tl.constexpr, TRUTHS: tl.constexpr):
    """Rows of an image's list before the first with x == 0, and the first classification-only one or T."""
    end, only = T, T
    for first in range(0, T, TRUTHS):
        t = first + tl.arange(0, TRUTHS)
        x = tl.load(truth + 5 * t, t < T, other=1)
        end = tl.minimum(end, tl.min(tl.where(x == 0, t, T)))
        if TREE:
            y = tl.load(truth + 5 * t + 1, t < T, other=0)
            only = tl.minimum(only, tl.min(tl.where((x > CLASS_ONLY) & (y > CLASS_ONLY), t, T)))
    return end, only


@triton.jit
def class_of(truth, t, mask, known):
    """Classes of rows `t`, -1 where they are not below `known`. A GPU would convert NaN to class 0."""
    given = tl.load(truth + 5 * t + 4, mask, other=-1)
    return tl.where((given > -1) & (given < known), given, -1.0).to(tl.int32)


@triton.jit
def match(
    truth, t, end, head, stride_c, stride_cell, anchors, class_map, A, C, H, W, known,
    BIAS_MATCH: tl.constexpr, MAP: tl.constexpr,
):  # fmt: skip
    """Rows `t` of a list: their boxes, classes, slots, and whether they are truths at all (SPEC 3.2 C).

    A row with an impossible class or box is none: raising would mean to wait for the device.
    """
    listed = t < end
    x, y = tl.load(truth + 5 * t, listed, other=0), tl.load(truth + 5 * t + 1, listed, other=0)
    w, h = tl.load(truth + 5 * t + 2, listed, other=0), tl.load(truth + 5 * t + 3, listed, other=0)
    given = class_of(truth, t, listed, known)
    valid = (x >= 0) & (x < 1) & (y >= 0) & (y < 1) & (w > 0) & (h > 0) & (given >= 0)
    label = tl.load(class_map + given, valid, other=0) if MAP else given
    cell = tl.where(valid, (y * H).to(tl.int32) * W + (x * W).to(tl.int32), 0)

    zero = tl.zeros(x.shape, tl.float32)
    best, anchor = zero - 1, tl.zeros(x.shape, tl.int32)
    for k in range(A):
        if BIAS_MATCH:
            shape_w = tl.div_rn(tl.load(anchors + 2 * k), W * 1.0) + zero
            shape_h = tl.div_rn(tl.load(anchors + 2 * k + 1), H * 1.0) + zero
        else:
            slot = k * (5 + C) * stride_c + cell * stride_cell
            anchor_w, anchor_h = tl.load(anchors + 2 * k), tl.load(anchors + 2 * k + 1)
            # where it lies does not matter
            _, _, shape_w, shape_h = load_box(
                head, slot, stride_c, valid, 0, 0, anchor_w, anchor_h, W, H, "cell"
            )
        overlap = iou(zero, zero, shape_w, shape_h, zero, zero, w, h)
        overlap = tl.where(overlap == overlap, overlap, 0.0)  # NaN is no overlap
        anchor = tl.where(overlap > best, k, anchor)  # the first one wins a tie
        best = tl.maximum(best, overlap)
    return x, y, w, h, label, anchor * (H * W) + cell, valid


@triton.jit
def answer_of(beliefs, places, image, parts, PARTS: tl.constexpr):
    """The slot of a classification-only image that believes most, the first of equals."""
    k = tl.arange(0, PARTS)
    belief = tl.load(beliefs + image * parts + k, k < parts, other=0.0)
    place = tl.load(places + image * parts + k, k < parts, other=0x7FFFFFFF)
    key = (belief.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (0x7FFFFFFF - place).to(tl.int64)
    return 0x7FFFFFFF - (tl.max(key) & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def _region_loss_kernel(
    pred, stride_b, stride_c, stride_cell, truth, anchors, class_map, beliefs, places,
    grad, grad_b, grad_c, grad_cell, slots, sums,
    A, C, H, W, T, known, parts, object_scale, noobject_scale, class_scale, coord_scale, ignore_threshold,
    wh_weight, rescore, prior_scale, assumed_iou,
    LOCATION: tl.constexpr, ACTIVATION: tl.constexpr, BACKGROUND: tl.constexpr, SQUARED: tl.constexpr,
    BIAS_MATCH: tl.constexpr, MAP: tl.constexpr, CELLS: tl.constexpr, CLASSES: tl.constexpr,
    TRUTHS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """CELLS cells of one anchor: all but classes that are not a softmax. Grid: (tiles, anchors, images).

    `slots` becomes 2 * row of the responsible truth (-1: none) + whether the prediction is excused, `sums`
    the six terms of this program.
    """
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    a, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    inside = cell < H * W
    head, truth = pred + image * stride_b, truth + image * T * 5
    slot = a * (5 + C) * stride_c + cell * stride_cell
    anchor_w, anchor_h = tl.load(anchors + 2 * a), tl.load(anchors + 2 * a + 1)
    x, y, w, h = load_box(
        head, slot, stride_c, inside, cell % W, cell // W, anchor_w, anchor_h, W, H, LOCATION
    )

    # who is responsible, who is excused
    end, only = read_list(truth, T, ACTIVATION == "tree", TRUTHS)
    class_only = (only < end).to(tl.int32) if ACTIVATION == "tree" else 0
    index = tl.full((CELLS,), -1, tl.int32)
    excused = tl.zeros((CELLS,), tl.int32)
    overlap_own = tl.zeros((CELLS,), tl.float32)
    for first in range(0, end * (1 - class_only), TRUTHS):
        t = first + tl.arange(0, TRUTHS)
        bx, by, bw, bh, _, place, valid = match(
            truth, t, end, head, stride_c, stride_cell, anchors, class_map, A, C, H, W, known, BIAS_MATCH, MAP
        )
        overlap = iou(
            x[:, None], y[:, None], w[:, None], h[:, None], bx[None, :], by[None, :], bw[None, :], bh[None, :]
        )
        over = (overlap > ignore_threshold) & valid[None, :]
        excused = tl.maximum(excused, tl.max(over.to(tl.int32), 1))
        hit = ((a * (H * W) + cell)[:, None] == place[None, :]) & valid[None, :]
        last = tl.max(tl.where(hit, t[None, :], -1), 1)
        own = tl.sum(tl.where(hit & (t[None, :] == last[:, None]), overlap, 0.0), 1)
        overlap_own = tl.where(last >= 0, own, overlap_own)
        index = tl.maximum(index, last)  # rows ascend from tile to tile
    index = tl.where(inside, index, -1)
    owner = index >= 0
    tl.store(slots + (image * A + a) * (H * W) + cell, 2 * index + excused, inside)

    # the truth each owner answers for
    row = truth + 5 * index
    bx, by = tl.load(row, owner, other=0), tl.load(row + 1, owner, other=0)
    bw, bh = tl.load(row + 2, owner, other=1), tl.load(row + 3, owner, other=1)
    place_x, place_y = bx * W, by * H
    target_x, target_y = place_x - place_x.to(tl.int32), place_y - place_y.to(tl.int32)
    target_w, target_h = tl.log(bw * W / anchor_w), tl.log(bh * H / anchor_h)
    weight = coord_scale * (1 + wh_weight * (1 - bw * bh))

    # coordinates: x and y in sigmoid space or in anchors, w and h in log space; the others are pulled to
    # their anchor
    t_w = tl.load(head + (slot + 2 * stride_c), inside, other=0).to(tl.float32)
    t_h = tl.load(head + (slot + 3 * stride_c), inside, other=0).to(tl.float32)
    t_x = tl.load(head + slot, inside, other=0).to(tl.float32)
    t_y = tl.load(head + (slot + stride_c), inside, other=0).to(tl.float32)
    pull = tl.where(inside, prior_scale * (1 - class_only), 0.0)
    scale = tl.where(owner, weight, pull)
    if LOCATION == "cell":
        p_x, p_y = sigmoid(t_x), sigmoid(t_y)
        off_x, off_y = p_x - tl.where(owner, target_x, 0.5), p_y - tl.where(owner, target_y, 0.5)
        grad_x, grad_y = scale * off_x * p_x * (1 - p_x), scale * off_y * p_y * (1 - p_y)
    else:
        target_x, target_y = (target_x - 0.5) / anchor_w, (target_y - 0.5) / anchor_h
        off_x, off_y = t_x - tl.where(owner, target_x, 0.0), t_y - tl.where(owner, target_y, 0.0)
        grad_x, grad_y = scale * off_x, scale * off_y
    off_w, off_h = t_w - tl.where(owner, target_w, 0.0), t_h - tl.where(owner, target_h, 0.0)
    counts = scale != 0  # 0 * NaN would not be 0
    to = grad + image * grad_b + a * (5 + C) * grad_c + cell * grad_cell
    tl.store(to, tl.where(counts, grad_x, 0.0), inside)
    tl.store(to + grad_c, tl.where(counts, grad_y, 0.0), inside)
    tl.store(to + 2 * grad_c, tl.where(counts, scale * off_w, 0.0), inside)
    tl.store(to + 3 * grad_c, tl.where(counts, scale * off_h, 0.0), inside)
    half = scale * 0.5
    xy = tl.where(counts, half * (off_x * off_x + off_y * off_y), 0.0)
    wh = tl.where(counts, half * (off_w * off_w + off_h * off_h), 0.0)

    # classes of a softmax: 0 where nobody owns the slot, whose scores are then not even read
    t_o = tl.load(head + (slot + 4 * stride_c), inside, other=0).to(tl.float32)
    c = tl.arange(0, CLASSES)[None, :]
    at = slot[:, None] + (5 + c) * stride_c
    to_c = to[:, None] + (5 + c) * grad_c
    loss = tl.zeros((CELLS,), tl.float32)
    p_o = sigmoid(t_o)
    if ACTIVATION == "softmax":
        asked = inside if BACKGROUND else owner
        top = t_o if BACKGROUND else tl.full((CELLS,), float("-inf"), tl.float32)
        total = exp_below(top, top)
        for first in range(0, C, CLASSES):
            score = tl.load(
                head + (at + first * stride_c), asked[:, None] & (first + c < C), other=float("-inf")
            ).to(tl.float32)
            new_top = tl.maximum(top, tl.max(score, 1))
            total = online_softmax(top, total, new_top, tl.sum(exp_below(score, new_top[:, None]), 1))
            top = new_top
        if BACKGROUND:
            p_o = tl.exp(t_o - top) / total
        label = tl.load(row + 4, owner, other=0).to(tl.int32)
        if MAP:
            label = tl.load(class_map + label, owner, other=0)
        along = tl.zeros((CELLS,), tl.float32)
        if SQUARED:
            for first in range(0, C, CLASSES):
                there = owner[:, None] & (first + c < C)
                score = tl.load(head + (at + first * stride_c), there, other=float("-inf")).to(tl.float32)
                p = tl.where(there, tl.exp(score - top[:, None]) / total[:, None], 0.0)
                off = p - tl.where(there & (first + c == label[:, None]), 1.0, 0.0)
                loss += 0.5 * tl.sum(off * off, 1)
                along += tl.sum(off * p, 1)
        else:
            own_score = tl.load(head + (slot + (5 + label) * stride_c), owner, other=0).to(tl.float32)
            loss = top + tl.log(total) - own_score
        for first in range(0, C, CLASSES):
            there = owner[:, None] & (first + c < C)
            score = tl.load(head + (at + first * stride_c), there, other=float("-inf")).to(tl.float32)
            p = tl.exp(score - top[:, None]) / total[:, None]
            off = p - tl.where(first + c == label[:, None], 1.0, 0.0)
            if SQUARED:
                off = p * (off - along[:, None])
            tl.store(
                to_c + first * grad_c,
                tl.where(there, class_scale * off, 0.0),
                inside[:, None] & (first + c < C),
            )
    else:
        for first in range(0, C, CLASSES):
            zero = tl.zeros((CELLS, CLASSES), tl.float32)
            tl.store(to_c + first * grad_c, zero, inside[:, None] & (first + c < C))
    classes = tl.where(owner, class_scale * loss, 0.0)

    # objectness
    quiet = inside & (index < 0) & (excused == 0)
    wanted = tl.where(rescore != 0, overlap_own, 1.0)
    off_o = p_o - (tl.where(owner, 0.0, 1.0) if BACKGROUND else tl.where(owner, wanted, 0.0))
    scale = tl.where(owner, object_scale, tl.where(quiet, noobject_scale, 0.0))
    if ACTIVATION == "tree":
        # who answers for the class of a whole image is believed to be near an object
        answer = tl.where(class_only != 0, answer_of(beliefs, places, image, parts, PARTS), -1)
        answers = inside & (a * (H * W) + cell == answer)
        off_o = tl.where(answers, p_o - assumed_iou, off_o)
        scale = tl.where(answers, tl.where(off_o < 0, object_scale, 0.0), scale)
    counts = scale != 0
    slope = 1.0 if BACKGROUND else p_o * (1 - p_o)
    tl.store(to + 4 * grad_c, tl.where(counts, scale * off_o * slope, 0.0), inside)
    seen = tl.where(counts, 0.5 * scale * off_o * off_o, 0.0)

    out = sums + ((image * A + a) * tl.num_programs(0) + tl.program_id(0)) * 6
    tl.store(out, tl.sum(tl.where(owner, xy, 0.0)))
    tl.store(out + 1, tl.sum(tl.where(owner, wh, 0.0)))
    tl.store(out + 2, tl.sum(tl.where(owner, seen, 0.0)))
    tl.store(out + 3, tl.sum(tl.where(owner, 0.0, seen)))
    tl.store(out + 4, tl.sum(tl.where(owner, 0.0, xy + wh)))
    tl.store(out + 5, tl.sum(classes))


@triton.jit
def _belief_kernel(
    pred, stride_b, stride_c, stride_cell, truth, table, beliefs, places, A, C, H, W, T,
    CELLS: tl.constexpr, TRUTHS: tl.constexpr,
):  # fmt: skip
    """Where a classification-only image believes most in its label, tile by tile. Grid as above.

    Reads the groups on the label's path only. Images with boxes have nothing to do.
    """
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    a, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    inside = cell < H * W
    head, truth = pred + image * stride_b, truth + image * T * 5
    slot = a * (5 + C) * stride_c + cell * stride_cell
    end, only = read_list(truth, T, True, TRUTHS)
    belief = sigmoid(tl.load(head + (slot + 4 * stride_c), inside, other=0).to(tl.float32))
    node = -1
    if only < end:
        node = class_of(truth, only, True, C)
    while node >= 0:
        start, size = tl.load(table + 5 * node + 1), tl.load(table + 5 * node + 2)
        top = tl.full((CELLS,), float("-inf"), tl.float32)
        total = tl.zeros((CELLS,), tl.float32)
        for k in range(size):
            x = tl.load(head + (slot + (5 + start + k) * stride_c), inside, other=0).to(tl.float32)
            new_top = tl.maximum(top, x)
            total = online_softmax(top, total, new_top, exp_below(x, new_top))
            top = new_top
        x = tl.load(head + (slot + (5 + node) * stride_c), inside, other=0).to(tl.float32)
        belief *= tl.exp(x - top) / total
        node = tl.load(table + 5 * node)
    belief = tl.where(inside & (belief == belief), belief, 0.0)
    best = tl.max(belief)
    out = (image * A + a) * tl.num_programs(0) + tl.program_id(0)
    tl.store(beliefs + out, best)
    tl.store(places + out, tl.min(tl.where(inside & (belief == best), a * (H * W) + cell, 0x7FFFFFFF)))


@triton.jit
def _labels_kernel(
    pred, stride_b, stride_c, stride_cell, truth, anchors, class_map, table, beliefs, places,
    grad, grad_b, grad_c, grad_cell, sums,
    A, C, H, W, T, known, parts, class_scale,
    ACTIVATION: tl.constexpr, SQUARED: tl.constexpr, BIAS_MATCH: tl.constexpr, MAP: tl.constexpr,
    CLASSES: tl.constexpr, TRUTHS: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Classes that are no softmax: those of one truth, at its slot. Grid: (truths, images).

    Logistic classes collect the labels of all truths of a slot; the last truth writes them. On a tree each
    softmax on a truth's path learns its member, unless a later truth of the slot passes through it too.
    """
    mine, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    head, truth = pred + image * stride_b, truth + image * T * 5
    end, only = read_list(truth, T, ACTIVATION == "tree", TRUTHS)
    t = tl.arange(0, TRUTHS)
    _, _, _, _, label, place, valid = match(
        truth, t, end, head, stride_c, stride_cell, anchors, class_map, A, C, H, W, known, BIAS_MATCH, MAP
    )
    my_place = tl.sum(tl.where(t == mine, place, 0))
    my_label = tl.sum(tl.where(t == mine, label, 0))
    active = tl.max(tl.where((t == mine) & valid, 1, 0))
    rival = valid & (place == my_place)
    if ACTIVATION == "tree":
        if only < end:
            # no boxes: the one row that says so answers where the image believes in it most, without a map
            my_place = answer_of(beliefs, places, image, parts, PARTS)
            my_label = class_of(truth, mine, True, C)
            active = ((mine == only) & (my_label >= 0)).to(tl.int32)
            rival = rival & (t < 0)
    anchor, cell = my_place // (H * W), my_place % (H * W)
    slot = head + anchor * (5 + C) * stride_c + cell * stride_cell
    to = grad + image * grad_b + anchor * (5 + C) * grad_c + cell * grad_cell
    c = tl.arange(0, CLASSES)
    loss = tl.zeros((CLASSES,), tl.float32)
    later = tl.max(tl.where(rival & (t > mine), 1, 0))

    if ACTIVATION == "logistic":
        if (active != 0) & (later == 0):
            for first in range(0, C, CLASSES):
                there = first + c < C
                x = tl.load(slot + (5 + first + c) * stride_c, there, other=0).to(tl.float32)
                named = rival[None, :] & (label[None, :] == (first + c)[:, None])
                y = tl.max(named.to(tl.int32), 1)
                p = sigmoid(x)
                off = p - y
                if SQUARED:
                    loss += tl.where(there, 0.5 * off * off, 0.0)
                    off = off * p * (1 - p)
                else:
                    z = tl.where(y != 0, -x, x)  # softplus(z), without an overflow
                    loss += tl.where(there, tl.maximum(z, 0.0) + tl.log(1 + tl.exp(-tl.abs(z))), 0.0)
                tl.store(to + (5 + first + c) * grad_c, class_scale * off, there)
    else:
        node = tl.where(active != 0, my_label, -1)
        while node >= 0:
            start, size = tl.load(table + 5 * node + 1), tl.load(table + 5 * node + 2)
            taken = 0
            if later != 0:
                other = tl.where(rival & (t > mine), label, -1)
                while tl.max(other) >= 0:
                    through = (other >= start) & (other < start + size)
                    taken = tl.maximum(taken, tl.max(through.to(tl.int32)))
                    other = tl.load(table + 5 * other, other >= 0, other=-1)
            if taken == 0:
                top, total = float("-inf"), 0.0
                for first in range(0, size, CLASSES):
                    x = tl.load(
                        slot + (5 + start + first + c) * stride_c, first + c < size, other=float("-inf")
                    )
                    x = x.to(tl.float32)
                    new_top = tl.maximum(top, tl.max(x))
                    total = online_softmax(top, total, new_top, tl.sum(exp_below(x, new_top)))
                    top = new_top
                along = 0.0
                if SQUARED:
                    for first in range(0, size, CLASSES):
                        there = first + c < size
                        x = tl.load(slot + (5 + start + first + c) * stride_c, there, other=float("-inf"))
                        p = tl.where(there, tl.exp(x.to(tl.float32) - top) / total, 0.0)
                        off = p - tl.where(start + first + c == node, 1.0, 0.0)
                        along += tl.sum(off * p)
                for first in range(0, size, CLASSES):
                    there = first + c < size
                    x = tl.load(slot + (5 + start + first + c) * stride_c, there, other=float("-inf"))
                    x = x.to(tl.float32)
                    p = tl.exp(x - top) / total
                    own = start + first + c == node
                    off = p - tl.where(own, 1.0, 0.0)
                    if SQUARED:
                        loss += tl.where(there, 0.5 * off * off, 0.0)
                        off = p * (off - along)
                    else:
                        loss += tl.where(own, top + tl.log(total) - x, 0.0)
                    tl.store(to + (5 + start + first + c) * grad_c, class_scale * off, there)
            node = tl.load(table + 5 * node)
    loss_here = class_scale * tl.sum(loss)
    tl.store(sums + image * T + mine, loss_here)
    tl.store(sums + (tl.num_programs(1) + image) * T + mine, tl.where(only < end, loss_here, 0.0))


@triton.jit
def _sum_kernel(sums, rows, labels, more, terms, ROWS: tl.constexpr):
    """Terms of all programs (rows, 6) and class terms (2, more) in a fixed order. Grid: (1,).

    The second row has only those of classification-only images.
    """
    k = tl.arange(0, 8)[None, :]
    acc = tl.zeros((ROWS, 8), tl.float32)
    for first in range(0, rows, ROWS):
        r = first + tl.arange(0, ROWS)
        acc += tl.load(sums + 6 * r[:, None] + k, (r[:, None] < rows) & (k < 6), other=0.0)
    extra, labelled = tl.zeros((ROWS,), tl.float32), tl.zeros((ROWS,), tl.float32)
    for first in range(0, more, ROWS):
        r = first + tl.arange(0, ROWS)
        extra += tl.load(labels + r, r < more, other=0.0)
        labelled += tl.load(labels + more + r, r < more, other=0.0)
    term = tl.sum(acc, 0) + tl.where(tl.arange(0, 8) == 5, tl.sum(extra), 0.0)
    tl.store(terms, tl.sum(term))
    tl.store(terms + 1 + tl.arange(0, 8), term, tl.arange(0, 8) < 6)
    tl.store(terms + 7, tl.sum(labelled))


@triton.jit
def _backward_kernel(
    grad, grad_b, grad_c, grad_cell, out, slots, dterms, A, C, cells,
    CELLS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """Each entry of the gradient times what flows into its own term. Grid: (tiles, anchors, images)."""
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    a, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    inside = cell < cells
    owner = tl.load(slots + (image * tl.num_programs(1) + a) * cells + cell, inside, other=-1) >= 0
    total = tl.load(dterms)
    xy, wh = total + tl.load(dterms + 1), total + tl.load(dterms + 2)
    seen, unseen = total + tl.load(dterms + 3), total + tl.load(dterms + 4)
    prior, classes = total + tl.load(dterms + 5), total + tl.load(dterms + 6)
    at = image * grad_b + a * (5 + C) * grad_c + cell * grad_cell
    for k in tl.static_range(5):
        mine = xy if k < 2 else wh if k < 4 else seen
        value = tl.load(grad + (at + k * grad_c), inside, other=0).to(tl.float32)
        value *= tl.where(owner, mine, prior if k < 4 else unseen)
        tl.store(out + (at + k * grad_c), value, inside)
    c = tl.arange(0, CLASSES)[None, :]
    for first in range(0, C, CLASSES):
        there = inside[:, None] & (first + c < C)
        place = at[:, None] + (5 + first + c) * grad_c
        tl.store(out + place, tl.load(grad + place, there, other=0).to(tl.float32) * classes, there)


def fits(truth: Tensor, region: Region) -> bool:
    """Whether the kernels cover this; logistic classes and trees compare all rows of an image at once."""
    return region.class_activation == "softmax" or truth.shape[1] <= MAX_TRUTHS


def _tiles(C: int, cells: int) -> tuple[int, int, int]:
    """Cells and classes of a tile, and how many tiles cover the cells."""
    classes = min(CLASSES, triton.next_power_of_2(C))
    tile = min(CELLS, max(1, TILE // classes), triton.next_power_of_2(cells))
    return tile, classes, triton.cdiv(cells, tile)


def region_loss(
    pred: Tensor, truth: Tensor, region: Region, prior: bool, grad_dtype: torch.dtype, channels_last: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Terms (8,), the gradient of their total, and slots (B, A, H, W), see `fast.loss`."""
    B, channels, H, W = pred.shape
    A, C, T = len(region.anchors), region.classes, truth.shape[1]
    pred, *strides = cell_strides(pred)
    truth = truth.to(torch.float32).contiguous()
    grad_stride = (1, W * channels, channels) if channels_last else (H * W, W, 1)
    grad = empty_strided(pred.shape, (channels * H * W, *grad_stride), pred, grad_dtype)
    grad_strides = (channels * H * W, grad_stride[0], grad_stride[2])
    slots = empty((B, A, H, W), pred, torch.int32)
    terms = empty((8,), pred, torch.float32)

    cells, classes, tiles = _tiles(C, H * W)
    truths = min(TRUTHS, triton.next_power_of_2(max(T, 1)))
    parts = A * tiles
    sums = empty((B, parts, 6), pred, torch.float32)
    anchors, (table, _) = anchor_tensor(region.settings, pred.device), tree_arguments(region, pred)
    mapped = region.class_map is not None
    class_map = class_map_tensor(region.settings, pred.device) if mapped else anchors
    known = len(region.class_map) if region.class_map is not None else C
    beliefs, places = sums, slots  # never read without a tree
    grid = (tiles, A, B)
    if region.tree is not None:
        beliefs, places = empty((B, parts), pred, torch.float32), empty((B, parts), pred, torch.int32)
        launch(
            _belief_kernel, grid,
            pred, *strides, truth, table, beliefs, places, A, C, H, W, T,
            CELLS=cells, TRUTHS=truths,
        )  # fmt: skip
    options = {
        "ACTIVATION": region.class_activation,
        "SQUARED": region.class_loss == "squared_error",
        "BIAS_MATCH": region.bias_match,
        "MAP": mapped,
        "PARTS": triton.next_power_of_2(parts),
    }
    launch(
        _region_loss_kernel, grid,
        pred, *strides, truth, anchors, class_map, beliefs, places, grad, *grad_strides, slots, sums,
        A, C, H, W, T, known, parts,
        region.object_scale, region.noobject_scale, region.class_scale, region.coord_scale,
        region.ignore_threshold, 1.0 if region.box_weight == "2-wh" else 0.0, int(region.rescore),
        region.prior_scale if prior else 0.0, region.assumed_iou,
        **options, LOCATION=region.location, BACKGROUND=region.background,
        CELLS=cells, CLASSES=classes, TRUTHS=truths,
        warps=8 if cells * classes >= TILE else 4, alone=True,
    )  # fmt: skip
    labels, more = sums, 0
    if region.class_activation != "softmax" and T:
        all_truths = triton.next_power_of_2(T)
        labels, more = empty((2, B, T), pred, torch.float32), B * T
        launch(
            _labels_kernel, (T, B),
            pred, *strides, truth, anchors, class_map, table, beliefs, places, grad, *grad_strides, labels,
            A, C, H, W, T, known, parts, region.class_scale,
            **options, CLASSES=max(16, min(classes, TILE // all_truths)), TRUTHS=all_truths,
        )  # fmt: skip
    launch(_sum_kernel, (1,), sums, B * parts, labels, more, terms, ROWS=ROWS)
    return terms, grad, slots


def backward(grad: Tensor, slots: Tensor, dterms: Tensor, dtype: torch.dtype, classes: int) -> Tensor:
    """The gradient (B, A*(5+C), H, W) times (8,) what flows into the terms, laid out alike."""
    B, A, H, W = slots.shape
    grad, *strides = cell_strides(grad)
    out = empty_strided(grad.shape, grad.stride(), grad, dtype)
    cells, chunk, tiles = _tiles(classes, H * W)
    launch(
        _backward_kernel, (tiles, A, B),
        grad, *strides, out, slots, dterms.contiguous(), A, classes, H * W,
        CELLS=cells, CLASSES=chunk,
    )  # fmt: skip
    return out

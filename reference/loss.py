"""The loss of a region layer, as Darknet trains it and as the papers print it (SPEC 3-7).

For every output o of a slot (p_x, p_y, t_w, t_h, p_o and class probabilities) Darknet writes
delta = weight * (target - o). So the whole layer is two arrays, weight and target, filled in the order of
SPEC 3.2; loss, delta, gradient and cost are then read from them. With ``location="anchor"``, which Darknet
does not have, the first two outputs are t_x and t_y themselves.
"""

from typing import NamedTuple

import numpy as np

from reference.assign import Match, assign_matches, match_truths
from reference.boxes import box_iou_broadcast
from reference.decode import activate_region, by_slot, decode, encode
from reference.region import Region


class RegionLoss(NamedTuple):
    """Scalars, SUMS over the images of the batch."""

    total: np.floating
    xy: np.floating
    wh: np.floating
    objectness: np.floating  # of responsible slots
    noobject: np.floating
    prior: np.floating
    classification: np.floating
    labelled: np.floating  # what classification-only images have in `classification`


class Targets(NamedTuple):
    """What every slot should output and how much it matters."""

    weight: np.ndarray  # (B, A, H, W, 5+C)
    value: np.ndarray  # (B, A, H, W, 5+C)
    responsible: np.ndarray  # (B, A, H, W) bool, the slot answers for a box
    class_only: np.ndarray  # (B,) bool, the image has a class and no boxes


class RegionStatistics(NamedTuple):
    """The numbers Darknet prints (SPEC 7.3); means over the truths of the batch, NaN without truths."""

    iou: float  # of the responsible prediction with its truth
    true_class: float  # probability of the truth's class
    objectness: float  # at responsible slots
    noobject: float  # mean over all predictions
    recall: float  # fraction of truths with IoU > 0.5
    truths: int  # truths with boxes


def region_targets(pred: np.ndarray, truth: np.ndarray, region: Region, seen: int) -> Targets:
    """Targets and weights at the current predictions: constants of the loss.

    Parameters and errors are those of `region_loss`.
    """
    decoded = decode(pred, region)
    boxes = decoded.boxes
    matches = match_truths(decoded, truth, region)
    assignment = assign_matches(matches, boxes, truth, region)
    truth = truth.astype(pred.dtype)
    weight = np.zeros_like(by_slot(pred, region))
    value = np.zeros_like(weight)
    responsible = assignment.index >= 0

    weight[..., 4] = np.where(assignment.ignore, 0, region.noobject_scale)
    value[..., 4] = 1 if region.background else 0  # background: channel 4 means "nothing here"
    if seen < region.prior_images:
        weight[..., :4] = region.prior_scale
        # the anchor itself, in the middle of its cell; t_w = t_h = 0
        value[..., :2] = 0.5 if region.location == "cell" else 0
        for match in matches:
            if match.class_only:
                weight[match.slot[0], ..., :4] = 0

    taken: set[tuple[int, ...]] = set()
    for match in matches:
        image, *slot = match.slot
        w, v = weight[match.slot], value[match.slot]
        if match.class_only:
            below = decoded.objectness[match.slot] < region.assumed_iou
            w[4], v[4] = (region.object_scale, region.assumed_iou) if below else (0, 0)
        else:
            box = truth[image, match.row, :4]
            w[:4] = region.coord_scale * (2 - box[2] * box[3] if region.box_weight == "2-wh" else 1)
            v[:4] = encode(box, (slot[0], slot[1], slot[2]), boxes.shape[2:4], region)
            w[4] = region.object_scale
            v[4] = box_iou_broadcast(boxes[match.slot], box) if region.rescore else 1
            if region.background:
                v[4] = 0
        _class_targets(w[5:], v[5:], match, region, repeated=match.slot in taken)
        taken.add(match.slot)
    class_only = np.zeros(len(pred), bool)
    class_only[[match.slot[0] for match in matches if match.class_only]] = True
    return Targets(weight, value, responsible, class_only)


def _class_targets(weight: np.ndarray, value: np.ndarray, match: Match, region: Region, repeated: bool):
    """Write the class part (C,) of a slot: SPEC 4, on a tree SPEC 5."""
    if region.tree is not None:
        # every softmax on the way to the root learns its member of the path, all others are left alone:
        # what an earlier truth wrote into them stays
        for node in region.tree.path(match.label):
            group = region.tree.group_of[node]
            start = region.tree.group_offsets[group]
            members = slice(start, start + region.tree.group_sizes[group])
            weight[members], value[members] = region.class_scale, 0
            value[node] = 1
    else:
        # Darknet asks whether the delta of class 0 is non-zero, its proxy for "an earlier truth is here"
        if not (region.class_activation == "logistic" and repeated):
            weight[:], value[:] = region.class_scale, 0
        value[match.label] = 1


def _log_softmax(x: np.ndarray) -> np.ndarray:
    """ln softmax along the last axis, finite for finite scores."""
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def _cross_entropy(raw: np.ndarray, y: np.ndarray, region: Region) -> np.ndarray:
    """Contribution of every class to the cross entropy, from raw slots (..., 5+C) and targets (..., C)."""
    scores = raw[..., 5:]
    if region.class_activation == "logistic":
        return np.logaddexp(0, np.where(y == 1, -scores, scores))  # -ln p or -ln(1-p)
    if region.tree is not None:
        groups = np.split(scores, region.tree.group_offsets[1:], axis=-1)
        log_p = np.concatenate([_log_softmax(group) for group in groups], axis=-1)
    elif region.background:
        log_p = _log_softmax(raw[..., 4:])[..., 1:]
    else:
        log_p = _log_softmax(scores)
    return np.where(y == 1, -log_p, 0)


def _where_counted(weight: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values that have a weight; Darknet never touches the others, be they infinite or NaN."""
    return np.where(weight == 0, 0, values)


def loss_against(pred: np.ndarray, targets: Targets, region: Region) -> RegionLoss:
    """The loss of `pred` (B, A*(5+C), H, W) with its targets held constant (SPEC 7.2)."""
    output = by_slot(activate_region(pred, region), region)
    error = _where_counted(targets.weight, targets.weight * (output - targets.value) ** 2 / 2)
    box, rest = targets.responsible, ~targets.responsible
    xy, wh = error[box][:, :2].sum(), error[box][:, 2:4].sum()
    objectness, noobject = error[box][:, 4].sum(), error[rest][:, 4].sum()
    prior = error[rest][:, :4].sum()
    if region.class_loss == "squared_error":
        classes = error[..., 5:]
    else:
        entropy = _cross_entropy(by_slot(pred, region), targets.value[..., 5:], region)
        classes = _where_counted(targets.weight[..., 5:], targets.weight[..., 5:] * entropy)
    classification, labelled = classes.sum(), classes[targets.class_only].sum()
    total = xy + wh + objectness + noobject + prior + classification
    return RegionLoss(total, xy, wh, objectness, noobject, prior, classification, labelled)


def region_loss(pred: np.ndarray, truth: np.ndarray, region: Region, seen: int) -> RegionLoss:
    """Loss of a region layer, the scalar of SPEC 7.2.

    Parameters
    ----------
    pred : ndarray (B, A*(5+C), H, W)
        Raw head.
    truth : ndarray (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list. On
        a tree, a row with x and y above 100000 makes its image classification-only (SPEC 6): it trains the
        path of its class where the image believes in it most, and "nothing here" everywhere else.
    region : Region
        Settings of the head. ``class_loss="squared_error"`` is the loss the papers print: half the squared
        error of the classes of a responsible slot (on a tree: of the groups on the label's path).
    seen : int
        Images seen so far, these included: the prior term acts while ``seen < region.prior_images``.

    Returns
    -------
    RegionLoss
        Sums over the batch: divide by B for the training loss, as Darknet's optimiser does. It is not the
        cost that Darknet prints, which is the sum of squares of `region_delta`.

    Raises
    ------
    ValueError
        If the channels do not fit the region, a truth's class is not one of the head's, or its box is empty
        or centred outside the picture; the message names the image and the row.
    """
    return loss_against(pred, region_targets(pred, truth, region, seen), region)


def region_delta(pred: np.ndarray, truth: np.ndarray, region: Region, seen: int) -> np.ndarray:
    """What Darknet's layer writes: weight * (target - output), a DESCENT direction (SPEC 3.2-6).

    Parameters, shape of the result and errors are those of `region_loss_grad`. Coordinates and objectness are
    with respect to the activated output; with cross entropy the classes are with respect to raw scores.
    """
    targets = region_targets(pred, truth, region, seen)
    output = by_slot(activate_region(pred, region), region)
    delta = _where_counted(targets.weight, targets.weight * (targets.value - output))
    return _to_head(delta, pred)


def region_loss_grad(pred: np.ndarray, truth: np.ndarray, region: Region, seen: int) -> np.ndarray:
    """Closed form of d total / d pred, with assignment, mask and IoU targets constant (SPEC 7.1).

    Parameters
    ----------
    pred, truth, region, seen
        As for `region_loss`.

    Returns
    -------
    ndarray (B, A*(5+C), H, W)
        Minus what Darknet hands to the layer below. With ``region.background`` Darknet passes the deltas of
        the joint softmax on without its derivative; that is what is returned, and no scalar has it as its
        gradient.

    Raises
    ------
    ValueError
        As `region_loss`.
    """
    targets = region_targets(pred, truth, region, seen)
    output = by_slot(activate_region(pred, region), region)
    grad = targets.weight * (output - targets.value)  # minus the delta
    # SPEC 7.1: sigma' for t_x, t_y, t_o only
    if region.location == "cell":
        grad[..., :2] *= output[..., :2] * (1 - output[..., :2])
    if not region.background:
        grad[..., 4] *= output[..., 4] * (1 - output[..., 4])
    if region.class_loss == "squared_error":
        grad[..., 5:] = _through_activation(grad[..., 5:], output[..., 5:], region)
    return _to_head(_where_counted(targets.weight, grad), pred)


def _through_activation(grad: np.ndarray, p: np.ndarray, region: Region) -> np.ndarray:
    """Gradient with respect to class scores from that with respect to class probabilities, (..., C)."""
    if region.class_activation == "logistic":
        return grad * p * (1 - p)
    # a softmax over members m: d/ds_j = p_j (g_j - sum_m g_m p_m)
    tree = region.tree
    starts, sizes = (tree.group_offsets, tree.group_sizes) if tree is not None else ((0,), (p.shape[-1],))
    return p * (grad - np.repeat(np.add.reduceat(grad * p, starts, axis=-1), sizes, axis=-1))


def _to_head(slots: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Undo `by_slot`: (B, A, H, W, 5+C) to the shape of `pred`."""
    return np.moveaxis(slots, -1, 2).reshape(pred.shape)


def region_statistics(pred: np.ndarray, truth: np.ndarray, region: Region) -> RegionStatistics:
    """The line Darknet prints while training, computed before any update (SPEC 7.3).

    Parameters and errors are those of `region_loss`.
    """
    decoded = decode(pred, region)
    matches = match_truths(decoded, truth, region)
    ious: list[float] = []
    objects: list[float] = []
    true_class, taken = 0.0, set()
    ordinary = np.ones(len(pred), dtype=bool)
    for match in matches:
        probs = decoded.class_probs[match.slot]
        if region.tree is not None:
            true_class += float(probs[region.tree.path(match.label)].prod())
        elif region.class_activation == "softmax" or match.slot not in taken:
            true_class += float(probs[match.label])  # a repeated logistic truth adds nothing
        taken.add(match.slot)
        if match.class_only:
            ordinary[match.slot[0]] = False
        else:
            box = truth[match.slot[0], match.row, :4].astype(pred.dtype)
            ious.append(float(box_iou_broadcast(decoded.boxes[match.slot], box)))
            objects.append(float(decoded.objectness[match.slot]))
    nan = float("nan")
    return RegionStatistics(
        iou=sum(ious) / len(ious) if ious else nan,
        true_class=true_class / len(matches) if matches else nan,
        objectness=sum(objects) / len(ious) if ious else nan,
        noobject=float(decoded.objectness[ordinary].sum() / decoded.objectness.size),
        recall=sum(iou > 0.5 for iou in ious) / len(ious) if ious else nan,
        truths=len(ious),
    )

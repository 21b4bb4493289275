"""The region loss: assignment, every term and its gradient in closed form (SPEC 3-7)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast._launch import DTYPES, layout, operator, region_of, use_triton
from fast.assign import Matches, Truths, match, read_truths
from fast.decode import class_probabilities, decode_boxes, split_head
from fast.wordtree import tree_log_softmax, tree_tensors
from reference.region import Region, WordTree


class RegionLoss(NamedTuple):
    """Terms of the loss, each summed over the batch; 0-dimensional tensors."""

    total: Tensor
    xy: Tensor
    wh: Tensor
    objectness: Tensor
    noobject: Tensor
    prior: Tensor
    classification: Tensor
    labelled: Tensor  # what classification-only images have in `classification`; has no gradient of its own


def region_loss(pred: Tensor, truth: Tensor, region: Region, seen: int) -> RegionLoss:
    """Loss of a region layer, the scalar of SPEC 7.2.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions, any strides. float16 and bfloat16 are computed in float32.
    truth : Tensor (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list. On
        a tree, a row with x and y above 100000 makes its image classification-only (SPEC 6).
    region : Region
        Settings of the head.
    seen : int
        Pictures seen so far, these included: the prior term acts while ``seen < region.prior_images``.

    Returns
    -------
    RegionLoss
        SUMS over the batch: divide by B for the loss that Darknet's optimiser descends; float64 for float64,
        otherwise float32. Every term has its gradient: each entry of d loss / d pred belongs to one of them.
        The assignment, the ignore mask and the IoU used as objectness target are constants. With
        ``region.background`` the gradient is Darknet's, which is not the derivative of the value. NaN and
        infinite logits make the terms they enter NaN or infinite, and no gradient but their own slot's.

    Raises
    ------
    ValueError
        If the channels do not fit the region; on the CPU also if a truth is impossible, see
        `fast.assign.read_truths`. On a GPU, which would have to be waited for, such a row counts for nothing.

    Notes
    -----
    The forward pass computes the gradient, the backward pass scales it. The kernels, and torch on a CPU, add
    in an order that does not change: the same input gives the same bits. (Torch on a GPU, which float64 and
    lists of more than 256 truths on logistic classes or a tree take, does not promise that.) Derivatives of
    the gradient do not exist.
    """
    split_head(pred, region)
    if truth.ndim != 3 or truth.shape[0] != pred.shape[0] or truth.shape[2] != 5:
        raise ValueError(f"truth: shape {tuple(truth.shape)}, needs ({pred.shape[0]}, T, 5)")
    terms, _, _ = _region_loss(pred, truth, region.settings, seen < region.prior_images)
    return RegionLoss(*terms.unbind())


def _precision(x: Tensor) -> torch.dtype:
    """What is computed in."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _kept_precision(x: Tensor) -> torch.dtype:
    """What the gradient is kept in until the backward pass; unscaled, it would vanish in float16."""
    return torch.float32 if x.dtype == torch.float16 else x.dtype


@operator("yolov2::region_loss")
def _region_loss(pred: Tensor, truth: Tensor, settings: str, prior: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Terms (8,), d total / d pred, and slots (B, A, H, W) int32.

    A slot holds 2 * row of its truth (-1: none) + whether the prediction is excused from "nothing here".
    """
    region, kept = region_of(settings), _kept_precision(pred)
    if use_triton(pred) and pred.dtype in DTYPES:
        from fast.kernels import loss as kernels

        if kernels.fits(truth, region):
            last = layout(pred) == torch.channels_last
            return kernels.region_loss(pred, truth, region, prior, kept, last)
    grad = torch.zeros_like(pred, dtype=kept, memory_format=layout(pred))
    head, head_grad = split_head(pred, region), split_head(grad, region)
    terms, slots = _loss_and_gradient(head, truth.to(_precision(pred)), region, prior, head_grad)
    return terms, grad, slots


@_region_loss.register_fake
def _(pred, truth, settings, prior):
    A = len(region_of(settings).anchors)
    B, _, H, W = pred.shape
    return (
        pred.new_empty(8, dtype=_precision(pred)),
        torch.empty_like(pred, dtype=_kept_precision(pred), memory_format=layout(pred)),
        pred.new_empty((B, A, H, W), dtype=torch.int32),
    )


@operator("yolov2::region_loss_backward")
def _scaled(grad: Tensor, slots: Tensor, dterms: Tensor, dtype: torch.dtype, classes: int) -> Tensor:
    """Every entry of the gradient times what flows into the total and into the term it belongs to."""
    if use_triton(grad) and grad.dtype in DTYPES:
        from fast.kernels.loss import backward as kernel

        return kernel(grad, slots, dterms, dtype, classes)
    total, xy, wh, objectness, noobject, prior, classification, _ = dterms.unbind()
    responsible = slots >= 0
    by_term = [(xy, prior), (xy, prior), (wh, prior), (wh, prior), (objectness, noobject)]
    factors = [torch.where(responsible, total + own, total + other) for own, other in by_term]
    scaled = torch.empty_like(grad, dtype=dtype, memory_format=layout(grad))
    head, out = (x.unflatten(1, (-1, 5 + classes)) for x in (grad, scaled))
    for anchor, result in zip(head.unbind(1), out.unbind(1), strict=True):
        # one pass over all channels, right for the classes
        if grad.dtype == dtype:
            torch.mul(anchor, total + classification, out=result)
        else:  # rounded from a copy
            result.copy_(anchor * (total + classification))
    out[:, :, :5] = head[:, :, :5] * torch.stack(factors, 2)
    return scaled


@_scaled.register_fake
def _(grad, slots, dterms, dtype, classes):
    return torch.empty_like(grad, dtype=dtype, memory_format=layout(grad))


def _setup(ctx, inputs, output):
    pred, _, settings, _ = inputs
    _, grad, slots = output
    ctx.save_for_backward(grad, slots)
    ctx.dtype, ctx.classes = pred.dtype, region_of(settings).classes
    ctx.set_materialize_grads(False)  # else a head of zeros is written for `grad` each time


def _backward(ctx, dterms, *_):
    if dterms is None:
        return None, None, None, None
    grad, slots = ctx.saved_tensors
    return _scaled(grad, slots, dterms, ctx.dtype, ctx.classes), None, None, None


_region_loss.register_autograd(_backward, setup_context=_setup)


def _loss_and_gradient(
    head: Tensor, truth: Tensor, region: Region, prior: bool, grad: Tensor
) -> tuple[Tensor, Tensor]:
    """The terms and slots, in torch. The gradient of their total by the head is written into `grad`.

    Both are (B, A, 5+C, H, W), the gradient all zero before. Thousands of classes are read at the few slots
    that answer for a truth: of a head in half precision nothing else is copied to float32.
    """
    B, A, _, H, W = head.shape
    truths = read_truths(truth, region)
    boxes = head[:, :, :5].to(truth.dtype)  # and objectness
    assignment, matches = match(decode_boxes(boxes, region), truths, region)
    responsible = assignment.index >= 0  # (B, A, H, W)
    quiet = ~responsible & ~assignment.ignore  # slots that must say "nothing here"
    class_slot = matches.slot
    answering = torch.zeros_like(quiet)
    if region.tree is not None:
        # a classification-only image answers at the one place that believes in its class most
        place = _most_believed(head, truths, region.tree)  # (B, T), used where truths.only
        class_slot = torch.where(truths.only, place, class_slot)
        answers = torch.zeros(B, A * H * W, dtype=torch.int32, device=head.device)
        answers.scatter_reduce_(1, place, truths.only.int(), "amax")
        answering = (answers > 0).view(B, A, H, W)

    # rows of the head at the chosen slots, one per truth: (B, T, 5+C)
    image = torch.arange(B, device=head.device)[:, None]
    by_slot, by_slot_grad = head.movedim(2, -1), grad.movedim(2, -1)
    at = (image, matches.slot // (H * W), matches.slot // W % H, matches.slot % W)
    chosen, wins = by_slot[at].to(truth.dtype), matches.wins

    # coordinates: x, y in sigmoid space or in anchors, w, h in log space
    size, wanted = boxes.new_tensor([W, H]), truths.boxes.where(wins[..., None], 1)
    anchors = boxes.new_tensor(region.anchors)[at[1]]  # (B, T, 2), cells
    place_xy = wanted[..., :2] * size
    weight = torch.full_like(matches.iou, region.coord_scale)
    if region.box_weight == "2-wh":
        weight = weight * (2 - wanted[..., 2] * wanted[..., 3])
    weight = weight[..., None]
    in_cell = place_xy - place_xy.trunc()
    if region.location == "cell":
        p_xy = chosen[..., :2].sigmoid()
        off_xy = p_xy - in_cell
        grad_xy = weight * off_xy * p_xy * (1 - p_xy)
    else:
        off_xy = chosen[..., :2] - (in_cell - 0.5) / anchors
        grad_xy = weight * off_xy
    off_wh = chosen[..., 2:4] - (wanted[..., 2:] * size / anchors).log()
    xy = (weight * off_xy.square()).where(wins[..., None], 0).sum() / 2
    wh = (weight * off_wh.square()).where(wins[..., None], 0).sum() / 2
    rows = [grad_xy, weight * off_wh]

    # objectness
    if region.background:
        p_o = head[:, :, 4:].to(truth.dtype).softmax(2)[:, :, 0]
        slope = torch.ones_like(p_o)  # Darknet passes the delta of the joint softmax on as it is
        object_target, empty_target = torch.zeros_like(matches.iou), 1.0
    else:
        p_o = boxes[:, :, 4].sigmoid()
        slope = p_o * (1 - p_o)
        object_target = matches.iou if region.rescore else torch.ones_like(matches.iou)
        empty_target = 0.0
    miss = p_o[at] - object_target
    objectness = region.object_scale / 2 * miss.square().where(wins, 0).sum()
    # who answers for the class of a whole image is believed to be near an object
    noise = p_o - torch.full_like(p_o, empty_target).masked_fill(answering, region.assumed_iou)
    strength = torch.full_like(p_o, region.noobject_scale).where(quiet, 0)
    strength = torch.where(answering, region.object_scale * (noise < 0), strength)
    noobject = (strength / 2 * noise.square()).where(strength != 0, 0).sum()
    grad[:, :, 4] = (strength * noise * slope).where(strength != 0, 0)
    rows.append((region.object_scale * miss * slope[at])[..., None])

    # prior: early in training every unclaimed prediction is pulled to its anchor in the cell's middle
    prior_term = boxes.new_zeros(())
    if prior:
        unclaimed = (~responsible & ~truths.only.any(1)[:, None, None, None])[:, :, None]
        offset = boxes[:, :, :4].where(unclaimed, 0)
        slope_xy: Tensor | float = 1.0
        if region.location == "cell":
            p = offset[:, :, :2].sigmoid()
            offset[:, :, :2], slope_xy = p - 0.5, p * (1 - p)
        prior_term = region.prior_scale / 2 * offset.square().sum()
        offset[:, :, :2] *= slope_xy
        grad[:, :, :4] = region.prior_scale * offset

    class_at = (image, class_slot // (H * W), class_slot // W % H, class_slot % W)
    raw = by_slot[class_at].to(truth.dtype)
    classes = matches._replace(slot=class_slot, wins=wins | truths.only)
    class_losses, class_rows = _class_terms(raw, truths, classes, region)
    classification = region.class_scale * class_losses.sum()
    labelled = region.class_scale * class_losses.where(truths.only, 0).sum()

    # one truth writes the box part of a slot; the class parts of several (tree) do not meet
    box_rows, class_rows = torch.cat(rows, -1).where(wins[..., None], 0), region.class_scale * class_rows
    by_slot_grad[..., :5].index_put_(at, box_rows.to(grad.dtype), accumulate=True)
    by_slot_grad[..., 5:].index_put_(class_at, class_rows.to(grad.dtype), accumulate=True)
    total = xy + wh + objectness + noobject + prior_term + classification
    terms = torch.stack([total, xy, wh, objectness, noobject, prior_term, classification, labelled])
    return terms, 2 * assignment.index + assignment.ignore.int()


def _class_terms(raw: Tensor, truths: Truths, matches: Matches, region: Region) -> tuple[Tensor, Tensor]:
    """Class terms (B, T) (SPEC 4, 5) of truths with `raw` (B, T, 5+C) at their slots; their gradient.

    Both, the gradient (B, T, C) too, are 0 in rows that another truth overrules.
    """
    scores, squared = raw[..., 5:], region.class_loss == "squared_error"
    if region.tree is not None:
        return _tree_class_terms(scores, truths, matches.slot, region.tree, squared)
    hot = F.one_hot(truths.label, region.classes).to(raw.dtype)
    if region.class_activation == "logistic":
        # several truths of one slot are several labels of one box: the winner's row collects them
        same_slot = (matches.slot[:, :, None] == matches.slot[:, None]) & truths.valid[:, None]
        hot = (same_slot.to(raw.dtype) @ hot).clamp_(max=1)
        probs = class_probabilities(scores, region)
        entropy = F.softplus(torch.where(hot > 0, -scores, scores), threshold=100).sum(-1)
    else:
        joint = raw[..., 4:].log_softmax(-1)[..., 1:] if region.background else scores.log_softmax(-1)
        probs = joint.exp()
        entropy = -joint.gather(-1, truths.label[..., None])[..., 0]
    off = probs - hot
    loss = off.square().sum(-1) / 2 if squared else entropy
    if squared and region.class_activation == "logistic":
        off = off * probs * (1 - probs)
    elif squared:
        off = probs * (off - (off * probs).sum(-1, keepdim=True))
    return loss.where(matches.wins, 0), off.where(matches.wins[..., None], 0)


def _tree_class_terms(
    scores: Tensor, truths: Truths, slot: Tensor, tree: WordTree, squared: bool
) -> tuple[Tensor, Tensor]:
    """One softmax per group on the path of each truth; a later truth of a slot takes over shared groups."""
    B, T, C = scores.shape
    tensors = tree_tensors(tree, scores.device)
    path = tensors.path_nodes[truths.label]  # (B, T, D) nodes, -1 padded
    counted = truths.valid | truths.only
    node = path.clamp(min=0)
    group = tensors.group_of[node]
    on_path = (path >= 0) & counted[..., None]

    # a step of a path is overruled if a later truth of the same slot passes through the same group
    later = torch.ones(T, T, dtype=torch.bool, device=scores.device).triu(1)
    rival = (slot[:, :, None] == slot[:, None]) & counted[:, None] & later  # (B, T, T)
    same_group = group[:, :, :, None, None] == group[:, None, None]  # (B, T, D, T, D)
    overruled = (same_group & on_path[:, None, None] & rival[:, :, None, :, None]).flatten(3).any(3)
    counts = on_path & ~overruled

    covered = torch.zeros(B, T, len(tree.group_sizes), dtype=torch.int32, device=scores.device)
    covered.scatter_reduce_(-1, group, counts.int(), "amax")
    learns = covered.gather(-1, tensors.group_of.expand(B, T, C)) > 0
    aims = torch.zeros(B, T, C, dtype=torch.int32, device=scores.device)
    aims.scatter_reduce_(-1, node, counts.int(), "amax")
    log_probs = tree_log_softmax(scores, tree)
    probs = log_probs.exp()
    off = (probs - aims).where(learns, 0)
    if not squared:
        return -log_probs.gather(-1, node).where(counts, 0).sum(-1), off
    along = torch.zeros_like(covered, dtype=scores.dtype)
    along.scatter_add_(-1, tensors.group_of.expand(B, T, C), off * probs)
    gradient = probs * (off - along.gather(-1, tensors.group_of.expand(B, T, C)))
    return off.square().sum(-1) / 2, gradient.where(learns, 0)


def _most_believed(head: Tensor, truths: Truths, tree: WordTree) -> Tensor:
    """The slot (B, T) where objectness * P(node) is largest, the first on a tie; 0 unless `truths.only`."""
    place = torch.zeros_like(truths.label)
    for image in truths.only.any(1).nonzero()[:, 0].tolist():
        row = int(truths.only[image].int().argmax())
        belief = head[image, :, 4].to(_precision(head)).sigmoid()
        # the groups on the path, not the probabilities of all nodes
        for node in tree.path(int(truths.label[image, row])):
            group = tree.group_of[node]
            start, size = 5 + tree.group_offsets[group], tree.group_sizes[group]
            members = head[image, :, start : start + size].to(belief.dtype).softmax(1)
            belief = belief * members[:, 5 + node - start]
        place[image, row] = belief.flatten().nan_to_num(0).argmax()
    return place

"""The region loss: assignment and every term vectorised, differentiable by autograd (SPEC 3-7)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fast.assign import Matches, Truths, match, read_truths
from fast.decode import class_probabilities, decode_boxes, split_head
from fast.wordtree import absolute_probability, tree_log_softmax, tree_softmax, tree_tensors
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


def region_loss(pred: Tensor, truth: Tensor, region: Region, seen: int) -> RegionLoss:
    """Loss of a region layer, the scalar of SPEC 7.2.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions. float16 and bfloat16 are computed in float32.
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
        SUMS over the batch: divide by B for the loss that Darknet's optimiser descends. The assignment,
        the ignore mask and the IoU used as objectness target are constants to autograd. With
        ``region.background`` the gradient is Darknet's, which is not the derivative of the value.

    Raises
    ------
    ValueError
        If the channels do not fit the region.
    """
    if pred.dtype in (torch.float16, torch.bfloat16):
        pred = pred.float()
    head = split_head(pred, region)
    B, A, _, H, W = head.shape
    truths = read_truths(truth.to(head.dtype), region)
    with torch.no_grad():
        assignment, matches = match(decode_boxes(head, region), truths, region)
    responsible = assignment.index >= 0  # (B, A, H, W)
    quiet = ~responsible & ~assignment.ignore  # slots that must say "nothing here"
    class_slot = matches.slot
    if region.tree is not None:
        # a classification-only image answers at the one place that believes in its class most
        place = _most_believed(head.detach(), truths, region.tree)  # (B, T), used where truths.only
        class_slot = torch.where(truths.only, place, class_slot)
        answers = torch.zeros(B, A * H * W, dtype=torch.int32, device=pred.device)
        answers.scatter_reduce_(1, place, truths.only.int(), "amax")
        quiet = quiet & (answers == 0).view(B, A, H, W)

    # rows of the head at the chosen slots, one per truth: (B, T, 5+C)
    anchor, cell = matches.slot // (H * W), matches.slot % (H * W)
    image = torch.arange(B, device=pred.device)[:, None]
    chosen = head[image, anchor, :5, cell // W, cell % W]
    wins = matches.wins

    # coordinates: x, y in sigmoid space, w, h in log space
    size, wanted = head.new_tensor([W, H]), truths.boxes.where(wins[..., None], 1)
    anchors = head.new_tensor(region.anchors)[anchor]  # (B, T, 2), cells
    place_xy = wanted[..., :2] * size
    target_xy = place_xy - place_xy.trunc()
    target_wh = (wanted[..., 2:] * size / anchors).log()
    weight = torch.full_like(matches.iou, region.coord_scale)
    if region.box_weight == "2-wh":
        weight = weight * (2 - wanted[..., 2] * wanted[..., 3])
    weight = torch.where(wins, weight, 0)[..., None]
    xy = (weight * (chosen[..., :2].sigmoid() - target_xy).square()).sum() / 2
    wh = (weight * (chosen[..., 2:4] - target_wh).square()).sum() / 2

    # objectness
    if region.background:
        # Darknet passes delta on without a derivative: a straight-through estimate has that gradient
        joint = head[:, :, 4:].softmax(2)[:, :, 0].detach()
        p_o = joint + (head[:, :, 4] - head[:, :, 4].detach())
        object_target, empty_target = torch.zeros_like(matches.iou), 1.0
    else:
        p_o = head[:, :, 4].sigmoid()
        object_target = matches.iou if region.rescore else torch.ones_like(matches.iou)
        empty_target = 0.0
    miss = p_o.flatten(1).gather(1, matches.slot) - object_target
    objectness = region.object_scale / 2 * miss.square().where(wins, 0).sum()
    noobject = region.noobject_scale / 2 * (empty_target - p_o).square().where(quiet, 0).sum()

    # prior: early in training every unclaimed prediction is pulled to its anchor in the cell's middle
    prior = head.new_zeros(())
    if seen < region.prior_images:
        unclaimed = ~responsible & ~truths.only.any(1)[:, None, None, None]
        offset = (head[:, :, :2].sigmoid() - 0.5).square().sum(2) + head[:, :, 2:4].square().sum(2)
        prior = region.prior_scale / 2 * offset.where(unclaimed, 0).sum()

    anchor, cell = class_slot // (H * W), class_slot % (H * W)
    scores = head[image, anchor, 5:, cell // W, cell % W]  # (B, T, C)
    rest = head[image, anchor, 4, cell // W, cell % W] if region.background else None
    classes = matches._replace(slot=class_slot, wins=wins | truths.only)
    classification = region.class_scale * _class_loss(scores, rest, truths, classes, region)
    total = xy + wh + objectness + noobject + prior + classification
    return RegionLoss(total, xy, wh, objectness, noobject, prior, classification)


def _class_loss(
    scores: Tensor, background: Tensor | None, truths: Truths, matches: Matches, region: Region
) -> Tensor:
    """Sum of the class terms (SPEC 4, 5) over truths with `scores` (B, T, C) at their slots."""
    squared = region.class_loss == "squared_error"
    if region.tree is not None:
        return _tree_class_loss(scores, truths, matches.slot, region.tree, squared)

    hot = F.one_hot(truths.label, region.classes).to(scores.dtype)
    if region.class_activation == "logistic":
        # several truths of one slot are several labels of one box: the winner's row collects them
        same_slot = (matches.slot[:, :, None] == matches.slot[:, None]) & truths.valid[:, None]
        hot = (same_slot.to(scores.dtype) @ hot).clamp_(max=1)
    if squared:
        if background is not None:
            probs = torch.cat([background.detach()[..., None], scores], -1).softmax(-1)[..., 1:]
        else:
            probs = class_probabilities(scores, region)
        loss = (probs - hot).square().sum(-1) / 2
    elif region.class_activation == "logistic":
        loss = F.binary_cross_entropy_with_logits(scores, hot, reduction="none").sum(-1)
    else:
        if background is not None:
            log_probs = torch.cat([background.detach()[..., None], scores], -1).log_softmax(-1)[..., 1:]
        else:
            log_probs = scores.log_softmax(-1)
        loss = -(log_probs * hot).sum(-1)
    return loss.where(matches.wins, 0).sum()


def _tree_class_loss(scores: Tensor, truths: Truths, slot: Tensor, tree: WordTree, squared: bool) -> Tensor:
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
    if squared:
        probs = tree_softmax(scores, tree)
        groups = len(tree.group_sizes)
        energy = scores.new_zeros(B, T, groups)
        energy = energy.scatter_add(-1, tensors.group_of.expand(B, T, C), probs.square())
        step = (energy.gather(-1, group) - 2 * probs.gather(-1, node) + 1) / 2
    else:
        step = -tree_log_softmax(scores, tree).gather(-1, node)
    return step.where(counts, 0).sum()


def _most_believed(head: Tensor, truths: Truths, tree: WordTree) -> Tensor:
    """The slot (B, T) where objectness * P(node) is largest, the first on a tie; 0 unless `truths.only`."""
    place = torch.zeros_like(truths.label)
    images = truths.only.any(1).nonzero()[:, 0]
    if len(images):
        head, only = head[images], truths.only[images]
        absolute = absolute_probability(tree_softmax(head[:, :, 5:], tree, dim=2), tree, dim=2)
        node = truths.label[images][only]  # one per image
        belief = head[:, :, 4].sigmoid() * absolute[torch.arange(len(images), device=head.device), :, node]
        place[images] = torch.where(only, belief.flatten(1).argmax(1, keepdim=True), 0)
    return place

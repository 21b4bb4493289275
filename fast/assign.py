"""Which truth each prediction answers for (SPEC 3.2): vectorised, no loop over images, cells or truths."""

from typing import NamedTuple

import torch
from torch import Tensor

from fast._launch import DTYPES, layout, operator, region_of, use_triton
from fast.boxes import box_iou_broadcast
from fast.decode import decode_boxes, split_head
from reference.region import Region

CLASS_ONLY = 100000  # x and y beyond this mark a classification-only image; the loader writes 999999


class Assignment(NamedTuple):
    """B images, A anchors, H x W cells. The field `index` hides the tuple's method, hence the ignore."""

    index: Tensor  # type: ignore[assignment]  # (B, A, H, W) int32, row of the responsible truth, -1 for none
    ignore: Tensor  # (B, A, H, W) bool, best IoU with any truth exceeds the ignore threshold


class Truths(NamedTuple):
    """The truths of a batch, read. B images, T rows."""

    boxes: Tensor  # (B, T, 4) x, y, w, h as fractions of the input
    label: Tensor  # (B, T) int64, class of the head; of a tree's classification-only row its node
    valid: Tensor  # (B, T) bool, a box: before the end of its list, not of a classification-only image
    only: Tensor  # (B, T) bool, the one row that makes its image classification-only (SPEC 6)


class Matches(NamedTuple):
    """The assignment seen from the truths. B images, T truths."""

    slot: Tensor  # (B, T) int64, a*H*W + row*W + col of the chosen prediction
    iou: Tensor  # (B, T), overlap of the chosen prediction with the truth
    wins: Tensor  # (B, T) bool, no later truth of the list chose the same slot


def read_truths(truth: Tensor, region: Region) -> Truths:
    """Tell boxes, classification-only rows and padding apart, and map classes (SPEC 2, 6).

    Parameters
    ----------
    truth : Tensor (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list.
    region : Region
        Settings of the head.

    Raises
    ------
    ValueError
        On the CPU, if a class is not one of the head's, a box is empty or its centre lies outside. A GPU
        would have to be waited for: there such a row counts for nothing.
    """
    T = truth.shape[1]
    boxes = truth[..., :4]
    listed = (truth[..., 0] != 0).cumprod(1).bool()
    only = torch.zeros_like(listed)
    if region.tree is not None:
        tagged = (boxes[..., :2] > CLASS_ONLY).all(2) & listed
        only = tagged & (tagged.cumsum(1) == 1)
    valid = listed & ~only.any(1, keepdim=True)
    given = truth[..., 4].long()
    known = region.classes if region.class_map is None else len(region.class_map)
    wrong = valid & ((given < 0) | (given >= known)) | only & ((given < 0) | (given >= region.classes))
    place, size = boxes[..., :2], boxes[..., 2:]
    wrong |= valid & ~((place >= 0) & (place < 1) & (size > 0)).all(2)
    valid, only = valid & ~wrong, only & ~wrong
    if truth.device.type == "cpu" and wrong.any():
        image, row = divmod(int(wrong.flatten().int().argmax()), T)
        raise ValueError(
            f"truth: image {image}, row {row}: in {truth[image, row].tolist()} the class is not one of "
            f"{known} (head: {region.classes}), or the box is empty or centred outside"
        )
    label = given.clamp(0, known - 1)
    if region.class_map is not None:
        label = torch.where(only, given, torch.tensor(region.class_map, device=truth.device)[label])
    return Truths(boxes, label.clamp(0, region.classes - 1), valid, only)


def match(boxes: Tensor, truths: Truths, region: Region) -> tuple[Assignment, Matches]:
    """Assign truths to decoded boxes (B, A, H, W, 4)."""
    B, A, H, W, _ = boxes.shape
    truth_box, valid = truths.boxes, truths.valid
    T = valid.shape[1]
    device = boxes.device
    flat = boxes.flatten(1, 3)  # (B, A*H*W, 4)

    # B.3: the mask is (B, A*H*W, T) wide for a moment; NaN (two empty boxes) compares false
    overlap = box_iou_broadcast(flat[:, :, None], truth_box[:, None])
    ignore = ((overlap > region.ignore_threshold) & valid[:, None]).any(2).view(B, A, H, W)

    # C.1, C.2: the cell holds the centre, the anchor fits the shape best, the first one on a tie
    size = boxes.new_tensor([W, H])
    col, row = (truth_box[..., :2] * size).where(valid[..., None], 0).long().unbind(-1)
    if region.bias_match:
        shapes = (boxes.new_tensor(region.anchors) / size).expand(B, T, A, 2)
    else:
        image = torch.arange(B, device=device)[:, None]
        shapes = boxes[image, :, row, col, 2:]
    centred = torch.cat([torch.zeros_like(shapes), shapes], -1)
    wanted = torch.cat([torch.zeros_like(truth_box[..., 2:]), truth_box[..., 2:]], -1)
    anchor = box_iou_broadcast(centred, wanted[:, :, None]).nan_to_num(0).argmax(2)
    slot = (anchor * H + row) * W + col  # (B, T)

    # "the last truth of the list wins a slot" is a maximum over rows, so the order of writes is irrelevant
    rows = torch.arange(T, device=device).where(valid, -1)
    index = torch.full((B, A * H * W), -1, device=device)
    index.scatter_reduce_(1, slot, rows, "amax")
    chosen = flat.gather(1, slot[..., None].expand(B, T, 4))
    matches = Matches(
        slot=slot,
        iou=box_iou_broadcast(chosen, truth_box),
        wins=valid & (index.gather(1, slot) == rows),
    )
    return Assignment(index.int().view(B, A, H, W), ignore), matches


def assign_targets(pred: Tensor, truth: Tensor, region: Region) -> Assignment:
    """Assign truths to predictions as Darknet's region layer does.

    Parameters
    ----------
    pred : Tensor (B, A*(5+C), H, W)
        Raw predictions.
    truth : Tensor (B, T, 5)
        Rows x, y, w, h, class; fractions of the input. The first row with x == 0 ends an image's list.
    region : Region
        Settings of the head.

    Returns
    -------
    Assignment
        Row of the responsible truth per prediction (-1 none), and the predictions that overlap some truth
        by more than ``region.ignore_threshold``. A classification-only image of a tree has neither.

    Raises
    ------
    ValueError
        If the channels do not fit the region, and as `read_truths`.
    """
    split_head(pred, region)
    slots = _assign_targets(pred, truth, region.settings)
    return Assignment(slots >> 1, (slots & 1).bool())


@operator("yolov2::assign_targets")
def _assign_targets(pred: Tensor, truth: Tensor, settings: str) -> Tensor:
    """Slots (B, A, H, W) int32: 2 * row of the truth (-1: none) + whether the prediction is excused."""
    region = region_of(settings)
    if use_triton(pred) and pred.dtype in DTYPES:
        from fast.kernels import loss as kernels

        if kernels.fits(truth, region):  # the assignment falls out of the loss
            last = layout(pred) == torch.channels_last
            return kernels.region_loss(pred, truth, region, False, torch.float32, last)[2]
    pred = pred if pred.dtype == torch.float64 else pred.float()
    boxes = decode_boxes(split_head(pred, region), region)
    assignment, _ = match(boxes, read_truths(truth.to(boxes.dtype), region), region)
    return 2 * assignment.index + assignment.ignore.int()


@_assign_targets.register_fake
def _(pred, truth, settings):
    B, _, H, W = pred.shape
    return pred.new_empty((B, len(region_of(settings).anchors), H, W), dtype=torch.int32)

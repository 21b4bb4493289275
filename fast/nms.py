"""Greedy non-maximum suppression (SPEC 8.2): one list, batches of lists, and many classes of one box."""

from typing import NamedTuple

import torch
from torch import Tensor

from fast._launch import operator, use_triton
from fast.boxes import box_iou


class Kept(NamedTuple):
    """Surviving boxes of every image, best first; rows past `count` are -1."""

    index: Tensor  # type: ignore[assignment]  # (B, max_det) int64 rows of the input; hides tuple.index
    count: Tensor  # type: ignore[assignment]  # (B,) int64; hides tuple.count


class KeptLabels(NamedTuple):
    """Surviving (box, class) pairs of every image, best first; rows past `count` are -1 and score 0."""

    index: Tensor  # type: ignore[assignment]  # (B, max_det) int64 rows of the input; hides tuple.index
    classes: Tensor  # (B, max_det) int64
    scores: Tensor  # (B, max_det)
    count: Tensor  # type: ignore[assignment]  # (B,) int64; hides tuple.count


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Keep the best boxes, dropping each that overlaps a better kept one by more than `iou_threshold`.

    Parameters
    ----------
    boxes : Tensor (N, 4)
        x, y, w, h in any unit.
    scores : Tensor (N,)
        Higher is better; of equal scores the lower index comes first. NaN and -inf take no part.
    iou_threshold : float
        Compared strictly: an IoU equal to it survives.

    Returns
    -------
    Tensor (K,) int64
        Indices of the kept boxes in descending score order. K is data: on a GPU this waits for the device,
        which `batched_nms` does not.
    """
    index, count = batched_nms(boxes[None], scores[None], iou_threshold, boxes.shape[0], conf=-torch.inf)
    return index[0, : int(count)]


def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_det: int,
    classes: Tensor | None = None,
    conf: float = 0.0,
) -> Kept:
    """Suppress the boxes of every image of a batch; the result has a fixed size.

    On a GPU nothing waits for float32 inputs of up to 8,192 boxes an image; others take the torch code.

    Parameters
    ----------
    boxes : Tensor (B, N, 4)
        x, y, w, h in any unit. NaN coordinates overlap nothing.
    scores : Tensor (B, N)
        Higher is better; of equal scores the lower index comes first.
    iou_threshold : float
        Compared strictly: an IoU equal to it survives.
    max_det : int
        The best that many boxes of an image are kept.
    classes : Tensor (B, N) integer, optional
        Boxes suppress only boxes of their own class, as in Darknet; without it, all.
    conf : float
        Rows that do not score above this (strictly; NaN never does) take no part, e.g. padding of score 0.

    Returns
    -------
    Kept
        Rows of the kept boxes in descending score order.

    Raises
    ------
    ValueError
        If the shapes do not go together.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.shape != boxes.shape[:2]:
        raise ValueError(
            f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}: need (B, N, 4) and (B, N)"
        )
    if classes is not None and classes.shape != scores.shape:
        raise ValueError(f"classes {tuple(classes.shape)}: need the shape of scores, {tuple(scores.shape)}")
    return Kept(*_batched_nms(boxes, scores, iou_threshold, max_det, classes, conf))


def multi_label_nms(
    boxes: Tensor,
    scores: Tensor,
    iou_threshold: float,
    max_det: int,
    conf: float = 0.0,
    class_agnostic: bool = False,
) -> KeptLabels:
    """Suppress where each box carries a score for every class, as in evaluation.

    All classes of a box share its place, so overlaps are computed once an image, whatever the number of
    classes.

    Parameters
    ----------
    boxes : Tensor (B, N, 4)
        x, y, w, h in any unit.
    scores : Tensor (B, N, C)
        Score of every class of every box.
    iou_threshold, max_det, conf
        As for `batched_nms`; `max_det` counts (box, class) pairs of all classes together.
    class_agnostic : bool
        Pairs suppress each other across classes. On a GPU this waits for the device.

    Returns
    -------
    KeptLabels
        In descending score order, equal scores by box, then class.

    Raises
    ------
    ValueError
        If the shapes do not go together.
    """
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[:2] != boxes.shape[:2]:
        raise ValueError(
            f"boxes {tuple(boxes.shape)}, scores {tuple(scores.shape)}: need (B, N, 4) and (B, N, C)"
        )
    return KeptLabels(*_multi_label_nms(boxes, scores, iou_threshold, max_det, conf, class_agnostic))


def _packed_overlap(boxes: Tensor, iou_threshold: float) -> list[int]:
    """Of each box (N, 4) the boxes it overlaps by more than the threshold, as the bits of one integer."""
    N = boxes.shape[0]
    width = -(-N // 8)
    weights = 2 ** torch.arange(8, dtype=torch.uint8, device=boxes.device)
    rows = []
    for part in boxes.split(64):  # the few arrays between boxes and bits stay in cache
        over = torch.zeros(len(part), 8 * width, dtype=torch.bool, device=boxes.device)
        over[:, :N] = box_iou(part, boxes) > iou_threshold
        packed = (over.view(len(part), width, 8) * weights).sum(2, dtype=torch.uint8).cpu()
        rows.append(packed.numpy().tobytes())
    memory = b"".join(rows)
    return [int.from_bytes(memory[i * width : (i + 1) * width], "little") for i in range(N)]


def _walk(boxes: Tensor, location: Tensor, group: Tensor, iou_threshold: float, max_det: int) -> list[int]:
    """Which of M candidates, best first, survive: candidate k is box `location[k]` in class `group[k]`.

    One pass over the candidates; whom the kept ones of a class suppress is one integer with a bit a box.
    """
    used, row = location.unique(return_inverse=True)
    overlap = _packed_overlap(boxes[used], iou_threshold)
    removed: dict[int, int] = {}
    kept: list[int] = []
    for k, (r, g) in enumerate(zip(row.tolist(), group.tolist(), strict=True)):
        out = removed.get(g, 0)
        if not out >> r & 1:
            kept.append(k)
            if len(kept) == max_det:
                break
            removed[g] = out | overlap[r]
    return kept


@operator("yolov2::batched_nms")
def _batched_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_det: int, classes: Tensor | None, conf: float
) -> tuple[Tensor, Tensor]:
    B = scores.shape[0]
    if _kernels(boxes, scores):
        from fast.kernels.nms import batched_nms as kernel

        classes = classes if classes is None else classes.contiguous()
        return kernel(boxes.contiguous(), scores.contiguous(), iou_threshold, max_det, classes, conf)
    index = torch.full((B, max_det), -1, device=boxes.device)
    count = torch.zeros(B, dtype=torch.int64, device=boxes.device)
    for image in range(B if max_det else 0):
        order = scores[image].argsort(descending=True, stable=True)
        order = order[scores[image, order] > conf]
        group = torch.zeros_like(order) if classes is None else classes[image, order]
        kept = _walk(boxes[image], order, group, iou_threshold, max_det)
        index[image, : len(kept)] = order[kept]
        count[image] = len(kept)
    return index, count


@_batched_nms.register_fake
def _(boxes, scores, iou_threshold, max_det, classes, conf):
    B = boxes.shape[0]
    return boxes.new_empty((B, max_det), dtype=torch.int64), boxes.new_empty((B,), dtype=torch.int64)


@operator("yolov2::multi_label_nms")
def _multi_label_nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, max_det: int, conf: float, class_agnostic: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, _, C = scores.shape
    if _kernels(boxes, scores) and not class_agnostic:
        from fast.kernels.nms import masked_nms as kernel

        place, score, count = kernel(
            boxes.contiguous(), scores.contiguous(), iou_threshold, max_det, None, conf
        )
        index = torch.where(place < 0, -1, place // C)
        return index, torch.where(place < 0, -1, place % C), score, count
    index, label = (torch.full((B, max_det), -1, device=boxes.device) for _ in range(2))
    score = scores.new_zeros(B, max_det)
    count = torch.zeros(B, dtype=torch.int64, device=boxes.device)
    for image in range(B if max_det else 0):
        location, classes = (scores[image] > conf).nonzero(as_tuple=True)  # by box, then class
        value, order = scores[image, location, classes].sort(descending=True, stable=True)
        location, classes = location[order], classes[order]
        group = torch.zeros_like(classes) if class_agnostic else classes
        kept = _walk(boxes[image], location, group, iou_threshold, max_det)
        n = len(kept)
        index[image, :n], label[image, :n] = location[kept], classes[kept]
        score[image, :n], count[image] = value[kept], n
    return index, label, score, count


@_multi_label_nms.register_fake
def _(boxes, scores, iou_threshold, max_det, conf, class_agnostic):
    shape = (boxes.shape[0], max_det)
    whole = {"dtype": torch.int64}
    return (
        boxes.new_empty(shape, **whole),
        boxes.new_empty(shape, **whole),
        scores.new_empty(shape),
        boxes.new_empty(boxes.shape[0], **whole),
    )


def _kernels(boxes: Tensor, scores: Tensor) -> bool:
    """Whether the kernels can: float32, and few enough boxes for the registers of one program."""
    if not use_triton(boxes) or boxes.dtype != torch.float32 or scores.dtype != torch.float32:
        return False
    from fast.kernels.nms import MAX_MASKED

    return boxes.shape[1] <= MAX_MASKED

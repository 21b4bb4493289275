"""Small calls that together launch every kernel of `fast.kernels` in each of its variants.

The compile tier records what they launch and compiles it without a GPU; a sanitizer runs them on one:

    compute-sanitizer --tool memcheck python -m benchmarks.every_kernel

To add a kernel, write a function like `reorg_cases` that yields (name, call) and put it into FAMILIES;
`tests/test_compile_tier.py` fails while a kernel is launched by none of them. What the calls return is
checked elsewhere (tests/equivalence): here only the launches count, so inputs are as small as a variant
allows.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.inputs import COCO, VOC, trained_head, truths, word_tree
from fast import _launch
from fast.augment import Placed, augment
from fast.decode import decode, decode_candidates
from fast.detect import detect
from fast.letterbox import letterbox_packed, pack
from fast.loss import region_loss
from fast.nms import batched_nms, multi_label_nms
from fast.reorg import reorg, reorg_grad
from fast.stem import stem
from fast.wordtree import absolute_probability, tree_softmax
from reference.region import Region, WordTree

Case = tuple[str, Callable[[], object]]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
FORMS = [f"{dtype} {layout}" for dtype in DTYPES for layout in LAYOUTS]
#: where variants multiply: the form that needs most registers, and one that the networks run in
FEW_FORMS = ["fp32 nchw", "bf16 nhwc"]


def shaped(x: Tensor, form: str, device: str) -> Tensor:
    """`x` in a dtype and memory layout, e.g. "fp16 nhwc", on a device."""
    dtype, layout = form.split()
    return x.to(device, DTYPES[dtype]).contiguous(memory_format=LAYOUTS[layout])


def reorg_cases(device: str) -> Iterator[Case]:
    """Both orders, there and back."""
    for form in FORMS:
        # 64 channels of 26x26 as in YOLOv2's passthrough, and sizes that no power of two divides
        for shape in ((1, 64, 26, 26), (2, 12, 6, 10)):
            x = shaped(torch.randn(shape), form, device)
            for order in ("darknet", "space_to_depth"):
                at = f"reorg {order} {shape[1]}x{shape[2]}x{shape[3]} {form}"
                yield at, partial(reorg, x, 2, order)
                yield f"{at} gradient", partial(reorg_grad, reorg(x, 2, order), 2, order)


def stem_cases(device: str) -> Iterator[Case]:
    """Filters of YOLOv2 and of the tiny networks; sizes that leave rests everywhere."""
    for dtype in DTYPES:
        for filters, height, width in ((32, 32, 64), (16, 64, 32), (40, 7, 35)):
            x, weights = (
                shaped(torch.randn(n, 3, h, w), f"{dtype} nhwc", device)
                for n, h, w in ((2, height, width), (filters, 3, 3))
            )
            at = f"stem {filters} filters {width}x{height} {dtype}"
            yield at, partial(stem, x, weights, torch.randn(filters).to(x))


REGIONS = {
    "voc": VOC,
    "coco": COCO,
    "200 classes": replace(VOC, classes=200),  # more than one tile of classes
    "logistic": replace(VOC, class_activation="logistic"),
    "offsets": replace(VOC, location="anchor"),
    "200 logistic": replace(VOC, classes=200, class_activation="logistic"),
    "background": replace(VOC, background=True),
    "200 background": replace(VOC, classes=200, background=True),
    "tree": replace(VOC, classes=150, class_activation="tree", tree=word_tree(150, 20)),
}


def heads(
    device: str, names: Iterable[str] = REGIONS, side: int = 13
) -> Iterator[tuple[str, Tensor, Region]]:
    """(name, raw head, region): YOLOv2-VOC at 416 in every form, all else in few."""
    for name in names:
        region = REGIONS[name]
        head = trained_head(2, region, side)
        for form in FORMS if name == "voc" and side == 13 else FEW_FORMS:
            yield f"{name} {side}x{side} {form}", shaped(head, form, device), region


def decode_cases(device: str) -> Iterator[Case]:
    """Dense and compacted, every activation."""
    for name, head, region in heads(device):
        yield f"decode {name}", partial(decode, head, region)
        yield f"candidates {name}", partial(decode_candidates, head, region, 0.25, 300)
    small = shaped(trained_head(1, VOC, 5), "fp32 nchw", device)
    yield "candidates voc 5x5", partial(decode_candidates, small, VOC, 0.25, 300)


def detect_cases(device: str) -> Iterator[Case]:
    """Detection in one launch, evaluation in three, images that no program can hold."""
    for name, head, region in heads(device):
        if not name.startswith("200"):  # these differ in nothing that a kernel of detection sees
            yield f"detect {name}", partial(detect, head, region)
            yield f"detect one label {name}", partial(detect, head, region, multi_label=False)
        yield f"evaluate {name}", partial(detect, head, region, 0.005)
    for name, head, region in heads(device, ("voc", "logistic")):
        yield f"detect agnostic {name}", partial(detect, head, region, class_agnostic=True)
        at = f"detect agnostic one label {name}"
        yield at, partial(detect, head, region, multi_label=False, class_agnostic=True)
    activations = ("voc", "logistic", "background", "tree")
    for side, max_det, names in ((19, 100, activations), (19, 1024, ("voc",)), (5, 10, ("voc",))):
        for name, head, region in heads(device, names, side):
            at = f"{name} max_det {max_det}"
            yield f"detect {at}", partial(detect, head, region, max_det=max_det)
            yield f"detect one label {at}", partial(detect, head, region, multi_label=False, max_det=max_det)
    for name, head, region in heads(device, ("voc",), 26):
        yield f"detect {name}", partial(detect, head, region)
        yield f"detect one label {name}", partial(detect, head, region, multi_label=False)


def nms_cases(device: str) -> Iterator[Case]:
    """Boxes of one and of many classes, from one program an image to the packed overlaps."""
    for boxes, max_det in ((100, 100), (845, 100), (1805, 300), (3000, 1024), (5000, 100), (16384, 300)):
        g = torch.Generator().manual_seed(boxes)
        box = torch.rand(1, boxes, 4, generator=g).to(device) * 0.3
        score = torch.rand(1, boxes, generator=g).to(device)
        label = torch.randint(0, 20, (1, boxes), generator=g).to(device)
        at = f"{boxes} boxes max_det {max_det}"
        yield f"nms {at}", partial(batched_nms, box, score, 0.45, max_det)
        yield f"nms classes {at}", partial(batched_nms, box, score, 0.45, max_det, label)
        if boxes <= 1805:
            scores = torch.rand(1, boxes, 20, generator=g).pow(8).to(device)
            yield f"nms labels {at}", partial(multi_label_nms, box, scores, 0.45, max_det, 0.005)


def letterbox_cases(device: str) -> Iterator[Case]:
    """Pictures of mixed sizes, every dtype and layout."""
    g = torch.Generator().manual_seed(0)
    sizes = ((375, 500), (48, 36), (97, 61))
    pictures = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=g) for size in sizes]
    for form in FORMS:
        dtype, layout = form.split()
        for width, height in ((416, 416), (160, 96)):
            packed = pack(pictures, width, height).to(device)
            last = layout == "nhwc"
            yield f"letterbox {width}x{height} {form}", partial(letterbox_packed, packed, DTYPES[dtype], last)


def augment_cases(device: str) -> Iterator[Case]:
    """Pictures of mixed sizes, reaching beyond the canvas and turned; every dtype and layout."""
    g = torch.Generator().manual_seed(0)
    rows = [
        Placed(0, 375, 500, 500, 416, -60, 0, mirror=True),
        Placed(375 * 500 * 3, 48, 36, 200, 90, 100, 50, transpose=True),
        Placed(375 * 500 * 3 + 48 * 36 * 3, 97, 61, 0, 40, 3, 3, flip_vertical=True),
    ]
    size = rows[-1].start + rows[-1].rows * rows[-1].columns * 3
    buffer = torch.randint(0, 256, (size,), dtype=torch.uint8, generator=g).to(device)
    table, colour = torch.tensor(rows).to(device), torch.tensor([[0.1, 1.5, 0.7]] * len(rows)).to(device)
    for form in FORMS:
        dtype, layout = form.split()
        for width, height in ((416, 416), (160, 96)):
            settings = width, height, DTYPES[dtype], layout == "nhwc"
            yield f"augment {width}x{height} {form}", partial(augment, buffer, table, colour, *settings)


def tree_cases(device: str) -> Iterator[Case]:
    """Groups of 1 to 149 siblings; scores as a head has them in both layouts, and rows of their own."""
    tree = word_tree(1500)
    for form in FORMS:
        rows = shaped(torch.randn(2, 1500, 5, 5), form, device)
        for name, x, dim in (("head", rows, 1), ("rows", rows[0].flatten(1).t().contiguous(), -1)):
            yield f"tree softmax {name} {form}", partial(tree_softmax, x, tree, dim)
            yield f"tree absolute {name} {form}", partial(absolute_probability, x, tree, dim)
            yield f"tree gradient {name} {form}", partial(_gradient, x, tree, dim)
    small = shaped(torch.randn(1, 150, 3, 3), "fp32 nchw", device)
    yield "tree softmax narrow", partial(tree_softmax, small, word_tree(150, 20), 1)
    yield "tree absolute narrow", partial(absolute_probability, small, word_tree(150, 20), 1)


def _gradient(scores: Tensor, tree: WordTree, dim: int) -> Tensor:
    scores = scores.detach().requires_grad_()
    return torch.autograd.grad(tree_softmax(scores, tree, dim).square().sum(), scores)[0]


def loss_cases(device: str) -> Iterator[Case]:
    """Loss and gradient: every activation, both class losses, ways to match and to map, lists of truths."""
    settings = {
        **REGIONS,
        "squared": replace(VOC, class_loss="squared_error"),
        "squared logistic": replace(REGIONS["logistic"], class_loss="squared_error"),
        "squared background": replace(REGIONS["background"], class_loss="squared_error"),
        "squared tree": replace(REGIONS["tree"], class_loss="squared_error"),
        "matched by predictions, mapped": replace(VOC, bias_match=False, class_map=tuple(range(20))),
        "tree mapped": replace(REGIONS["tree"], class_map=tuple(range(20))),
    }
    for name, region in settings.items():
        head = trained_head(2, region)
        truth = truths(2, 20).to(device)
        if region.tree is not None:
            truth[1, 0, :2], truth[1, 1:] = 200_000.0, 0.0  # the second image has a class and no box
        forms = FORMS if name == "voc" else FEW_FORMS if name in REGIONS else FEW_FORMS[:1]
        for form in forms:
            yield f"loss {name} {form}", partial(_loss, shaped(head, form, device), truth, region)
    head = shaped(trained_head(2, VOC, 5), "fp32 nchw", device)
    for rows in (1, 50, 200):
        yield f"loss {rows} truths", partial(_loss, head, truths(2, 20, rows, rows).to(device), VOC)
    logistic = REGIONS["logistic"]
    yield "loss logistic 50 truths", partial(_loss, head, truths(2, 20, 50, 50).to(device), logistic)


def _loss(pred: Tensor, truth: Tensor, region: Region) -> Tensor:
    pred = pred.detach().requires_grad_()
    loss = region_loss(pred, truth, region, 1)
    # the total alone, and terms weighted by hand
    (grad,) = torch.autograd.grad(loss.total, pred, retain_graph=True)
    return grad + torch.autograd.grad(loss.xy + 2 * loss.classification, pred)[0]


FAMILIES = (
    reorg_cases,
    stem_cases,
    decode_cases,
    detect_cases,
    nms_cases,
    letterbox_cases,
    augment_cases,
    tree_cases,
    loss_cases,
)


def cases(device: str) -> Iterator[Case]:
    """(name, call) of every case, its inputs on `device`."""
    torch.manual_seed(0)
    for family in FAMILIES:
        yield from family(device)


def main() -> int:
    """Run the cases one after another; the name of a failing one is printed."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains this")
    parser.add_argument("--one-of", type=int, default=1, metavar="N", help="every Nth case")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no case after this long")
    args = parser.parse_args()
    if not cuda:
        os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when the first kernel is imported
    device = "cuda" if cuda else "cpu"
    start, count, late = time.perf_counter(), 0, 0
    chosen = [c for c in cases(device) if args.only in c[0]][:: args.one_of]
    for name, call in chosen:
        if time.perf_counter() - start > args.seconds:
            late += 1
            continue
        try:
            with _launch.use_backend("triton"):
                call()
            if cuda:
                torch.cuda.synchronize()
        except BaseException:
            print(f"FAILED: {name}", flush=True)
            raise
        count += 1
    rest = f", {late} left out for lack of time" if late else ""
    print(f"{count} cases on {device} in {time.perf_counter() - start:.1f} s{rest}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

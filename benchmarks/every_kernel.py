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
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks.inputs import word_tree
from fast import _launch
from fast.letterbox import letterbox_packed, pack
from fast.reorg import reorg, reorg_grad
from fast.wordtree import absolute_probability, tree_softmax
from reference.region import WordTree

Case = tuple[str, Callable[[], object]]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
FORMS = [f"{dtype} {layout}" for dtype in DTYPES for layout in LAYOUTS]


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


FAMILIES = (reorg_cases, letterbox_cases, tree_cases)


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

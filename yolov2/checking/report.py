"""What ``python -m yolov2.check`` found, as text for a terminal of 100 columns."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from reference.kmeans import mean_best_iou
from yolov2.checking.boxes import BoxFit
from yolov2.checking.classes import class_counts
from yolov2.checking.problems import Problem
from yolov2.data.dataset import Dataset
from yolov2.data.files import shown

BAR = 20  # columns of the longest bar
NAMED = 10  # problems of a kind that are printed
ROWS = 100  # classes that are printed
NAME = 24  # columns of a class name
EDGES = (0, 8, 16, 32, 64, 128, 256, 512)  # of the histogram of sizes, in pixels


def table(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    """Lines of cells, padded so that columns stand under each other; columns in `left` begin at the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def bar(value: float, largest: float) -> str:
    """A bar of as many # as fit its share of the largest; what is there at all has one."""
    return "#" * max(round(BAR * value / largest), 1) if value else ""


def sizes(pixels: Sequence[tuple[int, int]]) -> str:
    """The sizes of pictures in a few words."""
    kinds, counts = np.unique(np.array(pixels).reshape(-1, 2), axis=0, return_counts=True)
    if not len(kinds):
        return "-"
    if len(kinds) <= 3:
        return ", ".join(f"{w}x{h}" for w, h in kinds[np.argsort(-counts, kind="stable")])
    low, high = kinds.min(axis=0), kinds.max(axis=0)
    w, h = kinds[counts.argmax()]
    return f"{low[0]}-{high[0]} x {low[1]}-{high[1]}, often {w}x{h}"


def split_table(splits: Mapping[str, Dataset], boxed: bool = True) -> list[str]:
    """Pictures of every split, their sizes and, if `boxed`, their boxes."""
    rows: list[tuple[str, ...]] = []
    for name, dataset in splits.items():
        boxes = np.array([len(item.boxes) for item in dataset.items], int)
        difficult = sum(int(item.difficult.sum()) for item in dataset.items)
        spread = f"{boxes.min()} / {np.median(boxes):g} / {boxes.max()}" if len(boxes) else "-"
        numbers = (str((boxes == 0).sum()), str(boxes.sum()), str(difficult), spread)
        pixels = sizes([(item.width, item.height) for item in dataset.items])
        rows.append((name, str(len(dataset)), *(numbers if boxed else ()), pixels))
    head = ("background", "boxes", "difficult", "per picture") if boxed else ()
    lines = table([("split", "pictures", *head, "sizes"), *rows], left=(0, 2 + len(head)))
    remark = "(background: pictures without boxes; per picture: least / median / most)"
    return lines + [remark] * boxed


def class_table(splits: Mapping[str, Dataset], what: str = "boxes") -> list[str]:
    """The histogram of classes, the most frequent first, a column of bars for every split."""
    counts = class_counts(splits)
    names = sorted(next(iter(counts.values())), key=lambda name: -sum(c[name] for c in counts.values()))
    most = {split: max(c.values(), default=0) for split, c in counts.items()}
    rows = [["class", *(text for split in counts for text in (f"{what} of {split}", ""))]]
    for name in names[:ROWS]:
        numbers = [(c[name], most[split]) for split, c in counts.items()]
        cells = [text for n, top in numbers for text in (str(n or "none"), bar(n, top))]
        rows.append([shown(name if len(name) <= NAME else f"{name[: NAME - 3]}..."), *cells])
    lines = table(rows, left=(0, *range(2, 2 * len(counts) + 1, 2)))
    return lines + [f"... and {len(names) - ROWS} more"] * (len(names) > ROWS)


def anchor_table(found: BoxFit, model: str, split: str, resize: str) -> list[str]:
    """Boxes by size, and the anchors that they fit."""
    count, pixels = len(found.wh), found.wh * found.stride
    title = f"boxes of {split} at {found.imgsz}x{found.imgsz} pixels ({resize}), cells of {found.stride}"
    if not count:
        return [f"{title}: none"]
    side = np.sqrt(pixels.prod(axis=1))
    counts = np.histogram(side, [*EDGES, np.inf])[0]
    rows = [("side (pixels)", "boxes", "share", "")]
    for low, high, n in zip(EDGES, (*EDGES[1:], None), counts, strict=True):
        if n or (counts[: EDGES.index(low)].any() and counts[EDGES.index(low) :].any()):
            name = f"{low} - {high}" if high else f"{low} -"
            rows.append((name, str(n), f"{n / count:.1%}", bar(n, counts.max())))
    lines = [title, *table(rows, left=(0, 3)), "(side: the root of width times height)", ""]
    fits = [(f"anchor of {model}", "in pixels", "boxes", "share", "mean IoU", "")]
    for (w, h), won, iou in zip(found.anchors, found.won, found.iou, strict=True):
        size, scaled = f"{w:.2f} x {h:.2f} cells", f"{w * found.stride:.0f} x {h * found.stride:.0f}"
        mean = f"{iou:.3f}" if won else "-"
        fits.append((size, scaled, str(won), f"{won / count:.1%}", mean, bar(won, found.won.max())))
    got, best = mean_best_iou(found.wh, found.anchors), mean_best_iou(found.wh, found.best_anchors)
    own = ", ".join(f"{w:.4g},{h:.4g}" for w, h in found.best_anchors)
    return [
        *lines,
        *table(fits, left=(0, 5)),
        f"mean IoU {got:.3f}; {best:.3f} with {len(found.best_anchors)} anchors by k-means on these boxes:",
        f"  {own}",
        f"below half a cell or 8 pixels: {found.small.sum()} boxes ({found.small.mean():.1%})",
        f"share cell and anchor with another one, so that a network learns one of them: {found.lost} boxes "
        f"({found.lost / count:.1%})",
    ]


def problem_list(problems: Sequence[Problem], data: Path) -> Iterator[str]:
    """Problems by kind, errors first; names begin at the data set's folder."""
    folder = f"{data}/" if data.name else ""  # the current one is nowhere to be seen
    for level in ("error", "hint"):
        kinds = defaultdict(list)
        for problem in problems:
            if problem.level == level:
                kinds[problem.kind].append(problem)
        if kinds:
            yield ""
            yield f"{level}s"
        for kind, some in sorted(kinds.items(), key=lambda pair: -len(pair[1])):
            yield f"  {kind}: {len(some)}"
            for problem in some[:NAMED]:
                where = problem.where.replace(folder, "")
                yield "    " + shown(f"{problem.split}: {where}" if problem.split else where)
            if len(some) > NAMED:
                yield f"    ... and {len(some) - NAMED} more"

"""How well anchors fit the boxes of a data set: paper 2's table 1 and figure 2 on real boxes.

    python -m benchmarks.anchors --boxes voc0712_boxes.npz --out runs/anchors
    python -m benchmarks.anchors --data data/BCCD --out runs/anchors       # on any data set

A file of boxes has ``image`` (P, 4), a row a picture: year, split (0 train, 1 val, 2 test), width and height
in pixels; ``box_image`` (N,): the row of `image` that a box belongs to; ``box_xyxy`` (N, 4): left, top, right
and bottom in pixels; ``difficult`` (N,): 0 or 1.

The paper says neither whether difficult boxes count, nor how pictures become square, nor what stands for a
cluster. Here difficult boxes are left out, a picture is letterboxed (one factor for both sides), and a
cluster is represented by its median, or by its mean where the distance is the squared error; the columns
beside show what other choices change. Anchors made by hand have sizes in pixels, so they need pictures of a
known size: those that Faster R-CNN, whose anchors the paper means, puts into its network.
"""

import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.timing import environment
from reference.kmeans import mean_best_iou
from yolov2 import plots
from yolov2.anchors import METHODS, RATIOS, SCALES, box_cells, hand_made, read_boxes
from yolov2.cli import option, parse, run
from yolov2.errors import UserError

SHORT, LONG = 600, 1000  # pixels of the shorter side, and at most of the longer: Faster R-CNN's input
YEAR = 2007  # the paper's table names VOC 2007 alone


class Generation(NamedTuple):
    """A row of the table: how anchors are made, and the paper's mean IoU."""

    name: str
    method: Literal["sse", "iou", "hand"]
    anchors: int
    paper: float


#: paper 2, table 1
TABLE = (
    Generation("cluster SSE", "sse", 5, 0.587),
    Generation("cluster IoU", "iou", 5, 0.610),
    Generation("made by hand", "hand", 9, 0.609),
    Generation("cluster IoU", "iou", 9, 0.672),
)


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of ``python -m benchmarks.anchors``."""

    boxes: Path | None = option("an .npz of boxes", default=None)
    data: Path | None = option("a data set of any format instead", default=None)
    split: str | None = option("pictures to use; none is trainval of --boxes, train of --data", default=None)
    seeds: tuple[int, ...] = option("of the random starts; the first one draws the curve", default=(0, 1, 2))
    restarts: int = option("random starts a seed, of which the best is kept", default=3)
    largest: int = option("number of anchors at which the curve ends", default=15)
    out: Path = option("folder for the numbers", default=Path("runs/anchors"))
    plot: Path | None = option("the figure; none is anchors.png beside the numbers", default=None)

    def __post_init__(self):
        if (self.boxes is None) == (self.data is None):
            raise ValueError("give one of --boxes and --data")
        if not self.seeds or self.restarts < 1 or self.largest < 1:
            raise ValueError("seeds, restarts, largest: at least one of each")


def in_pixels(fractions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Boxes in pixels of Faster R-CNN's input, (N, 2) float64; arguments are what `read_boxes` returns."""
    scale = np.minimum(SHORT / sizes.min(axis=1), LONG / sizes.max(axis=1))
    return fractions * sizes * scale[:, None]


def of_year(path: Path, year: int, split: str) -> tuple[np.ndarray, np.ndarray] | None:
    """As `read_boxes`, of a file's pictures of one year; None where all are of it, or none is."""
    with np.load(path) as archive:
        arrays = dict(archive)
    chosen = arrays["image"][:, 0] == year
    if chosen.all() or not chosen.any():
        return None
    arrays["image"][~chosen, 1] = -1  # in no split
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / path.name, **arrays)
        return read_boxes(Path(folder) / path.name, split)


def mean_ious(
    fractions: np.ndarray, sizes: np.ndarray, resize: Literal["letterbox", "stretch"], config: BenchmarkConfig
) -> list[list[float]]:
    """Mean IoU of every row of the table, for each seed; those made by hand need none, and no `resize`."""
    wh = box_cells(fractions, sizes, 1, resize)
    by_hand = mean_best_iou(in_pixels(fractions, sizes), hand_made())
    return [
        [METHODS[row.method](wh, row.anchors, seed, restarts=config.restarts)[1] for seed in config.seeds]
        if row.method in METHODS
        else [by_hand]
        for row in TABLE
    ]


def measure(config: BenchmarkConfig) -> dict[str, Any]:
    """The table and the curve.

    Returns
    -------
    dict
        ``protocol``: in words. ``table``: a dict a row of name, method, anchors, paper, ``here`` (median over
        the seeds), ``seeds`` (each of them) and ``others`` (medians by other choices). ``curve``: lists
        ``k``, ``iou`` and ``sse`` of equal length.

    Raises
    ------
    UserError
        If the boxes cannot be read, or there are none.
    """
    path = config.boxes or config.data
    assert path is not None
    split = config.split or ("trainval" if config.boxes else "train")
    boxes = read_boxes(path, split)
    here = mean_ious(*boxes, "letterbox", config)
    others = {"stretched": mean_ious(*boxes, "stretch", config)}
    if config.boxes and (chosen := of_year(config.boxes, YEAR, split)):
        others[f"only {YEAR}"] = mean_ious(*chosen, "letterbox", config)
    table = [
        row._asdict()
        | {"here": median(here[i]), "seeds": here[i]}
        | {"others": {name: median(rows[i]) for name, rows in others.items()}}
        for i, row in enumerate(TABLE)
    ]
    wh, ks = box_cells(*boxes, 1, "letterbox"), range(1, config.largest + 1)
    curve: dict[str, list] = {"k": [*ks]}
    for name, kmeans in METHODS.items():
        curve[name] = [kmeans(wh, k, config.seeds[0], restarts=config.restarts)[1] for k in ks]
    protocol = {
        "boxes": f"{len(wh):,} of {path.name}, {split}, without difficult ones",
        "unit": "the longer side of a box's picture (letterbox); stretched: each side by its own",
        "metric": "mean over boxes of the IoU with the best anchor, both centred on one point",
        "k-means": f"of {config.restarts} random starts that of least mean distance; median over the seeds",
        "seeds": ", ".join(map(str, config.seeds)),
        "made by hand": f"areas {SCALES} squared, width to height {RATIOS}; the shorter side of a picture is "
        f"{SHORT}, the longer at most {LONG}",
    }
    return {"protocol": protocol, "table": table, "curve": curve}


def report(results: dict[str, Any]) -> str:
    """Protocol and table as text."""
    lines = [f"{name}: {text}" for name, text in results["protocol"].items()]
    others = results["table"][0]["others"]
    head = f"{'mean IoU':<12} {'k':>2} {'paper':>6} {'here':>6} {'over seeds':>13}"
    lines += ["", head + "".join(f" {name:>9}" for name in others)]
    for row in results["table"]:
        seeds = f"{min(row['seeds']):.4f}-{max(row['seeds']):.4f}"
        line = f"{row['name']:<12} {row['anchors']:>2} {row['paper']:>6.3f} {row['here']:>6.3f} {seeds:>13}"
        lines.append(line + "".join(f" {value:>9.3f}" for value in row["others"].values()))
    return "\n".join(lines)


def draw(results: dict[str, Any], out: Path) -> None:
    """Mean IoU against the number of anchors (paper 2, fig. 2, left), and the paper's table in it."""
    axes = plots._panels(1)
    if axes is None:
        return
    axis, curve = axes[0], results["curve"]
    colours = {"iou": "C0", "sse": "C1", "hand": "black"}
    for method, name in (("iou", "1 - IoU"), ("sse", "squared error")):
        line = {"color": colours[method], "label": f"k-means, {name}"}
        axis.plot(curve["k"], curve[method], marker="o", markersize=3, **line)
    for row in results["table"]:
        if row["method"] == "hand":
            square = {"edgecolors": colours["hand"], "facecolors": "none", "label": "nine made by hand"}
            axis.scatter(row["anchors"], row["here"], marker="s", s=50, **square)
        axis.scatter(row["anchors"], row["paper"], marker="x", color=colours[row["method"]], zorder=3)
    axis.scatter([], [], marker="x", color="grey", label="the paper's table, on VOC")
    axis.set(xlabel="number of anchors", ylabel="mean IoU with the best anchor", xticks=curve["k"])
    axis.legend(frameon=False, loc="lower right")
    plots._save(axes, out)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, write it as json with how it was made, and draw the curve."""
    argv = sys.argv[1:] if argv is None else argv
    about = "How well anchors fit the boxes of a data set, beside the paper's table."
    config = parse(BenchmarkConfig, argv, "python -m benchmarks.anchors", about)
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.anchors", *argv]),
        "environment": environment(),
    }
    try:
        results |= measure(config)
    except ValueError as error:  # fewer shapes of boxes than anchors
        raise UserError(f"{config.boxes or config.data}: {error}") from error
    print(report(results))
    file = config.out / f"anchors-{results['environment']['date'][:10]}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    print(f"wrote {file}", file=sys.stderr)
    draw(results, config.plot or config.out / "anchors.png")


if __name__ == "__main__":
    raise SystemExit(run(main))

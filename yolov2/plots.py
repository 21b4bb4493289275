"""Figures of a run. They need matplotlib (the extra ``plot``); where it is missing a line says so and no
figure is written. Figures are drawn without pyplot, so no display and no global state is involved.
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from yolov2.errors import UserError

NO_PART = ("epoch", "step", "seen", "lr", "loss", "seconds")  # the others are parts of the loss
LISTED = 10  # of the best and of the worst curves; matplotlib has as many colours
LONGEST = 26  # letters of a class in a legend


def training_curves(results: Path, out: Path, metric: str = "map50", label: str = "mAP at IoU .5") -> None:
    """Loss parts and learning rate per epoch, and the measure of every evaluation.

    Parameters
    ----------
    results : Path
        The ``results.csv`` of a run: epoch, step, seen, lr, loss, the parts of the loss, the measure (empty
        in epochs without evaluation), seconds.
    out : Path
        The figure; its suffix chooses the format.
    metric, label : str
        Column of the measure, a number from 0 to 1, and its name.

    Raises
    ------
    UserError
        If the file has no epochs or lacks a column.
    """
    with open(results, newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    parts = [name for name in reader.fieldnames or () if name not in (*NO_PART, metric)]
    wanted = ("epoch", "lr", "loss", *parts, metric)
    missing = [name for name in wanted if not rows or rows[0].get(name) is None]
    if missing:
        raise UserError(f"{results}: no rows with columns {', '.join(missing)}")
    columns = {name: np.array([float(row[name] or "nan") for row in rows]) for name in wanted}
    axes = _panels(3)
    if axes is None:
        return
    losses, precision, rate = axes
    epoch = columns["epoch"]
    losses.plot(epoch, columns["loss"], color="black", linewidth=2, label="loss")
    for name in parts:
        if (columns[name] > 0).any():  # the prior term ends early, a logarithmic axis has no place for 0
            losses.plot(epoch, np.where(columns[name] > 0, columns[name], np.nan), label=name)
    losses.set(xlabel="epoch", ylabel="loss per picture", yscale="log")
    losses.legend(frameon=False, fontsize="small")
    evaluated = ~np.isnan(columns[metric])
    precision.plot(epoch[evaluated], columns[metric][evaluated], marker="o", markersize=3)
    precision.set(xlabel="epoch", ylabel=label, ylim=(0, 1))
    rate.plot(epoch, columns["lr"])
    rate.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    _save(axes, out)


def precision_recall_curves(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], average_precision: Mapping[str, float], out: Path
) -> None:
    """Precision against recall, one line per class.

    Of more than twenty classes the best ten and the worst ten have colours and names.

    Parameters
    ----------
    curves : mapping of class name to (recall, precision)
        As `reference.average_precision.precision_recall` returns them.
    average_precision : mapping of class name to float
        Written into the legend; the same names.
    out : Path
        The figure.
    """
    if not curves:
        print("no figure of precision: there is no truth to find", file=sys.stderr)
        return
    axes = _panels(1)
    if axes is None:
        return
    order = sorted(curves, key=lambda name: -average_precision[name])
    between = order[LISTED : max(LISTED, len(order) - LISTED)]
    for rank, name in enumerate(order[:LISTED] + order[LISTED + len(between) :]):
        if rank == LISTED and between:
            axes[0].plot([], [], color="lightgrey", label=f"{len(between)} between these")
        short = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
        style = {"color": f"C{rank % LISTED}", "linestyle": "-" if rank < LISTED else "--"}
        axes[0].plot(*curves[name], **style, label=f"{short} {average_precision[name]:.3f}")
    for name in between:
        axes[0].plot(*curves[name], color="lightgrey", linewidth=0.7, zorder=1)
    axes[0].set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    axes[0].legend(frameon=False, fontsize="x-small", bbox_to_anchor=(1, 1), loc="upper left")
    _save(axes, out)


def confusion_matrix(counts: np.ndarray, names: Sequence[str], title: str, out: Path) -> None:
    """Truths downwards, predictions to the right; the darker, the greater the share of the row.

    Parameters
    ----------
    counts : (C + 1, C + 1) int
        As in `yolov2.confusion.Confusion`.
    names : sequence of str
        C names of classes.
    title : str
        Above it.
    out : Path
        The figure.
    """
    axes = _panels(1)
    if axes is None:
        return
    axis, side = axes[0], len(counts)
    axis.figure.set_size_inches(*[max(5.0, min(30.0, 2 + 0.3 * side))] * 2)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.set_xticks(range(side), [*names, "missed"], rotation=90)
    axis.set_yticks(range(side), [*names, "background"])
    axis.set(xlabel="prediction", ylabel="truth", title=title)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.5 else "black"
        style = {"ha": "center", "va": "center", "fontsize": 7, "color": colour}
        axis.text(column, row, str(counts[row, column]), **style)
    _save(axes, out)


def box_sizes(wh: np.ndarray, anchors: np.ndarray, out: Path) -> None:
    """How many boxes there are of every size, and boxes and anchors in the plane of width and height.

    Parameters
    ----------
    wh, anchors : (N, 2), (k, 2) float
        Widths and heights in pixels of the network's input, all positive.
    out : Path
        The figure.
    """
    axes = _panels(2)
    if axes is None:
        return
    sizes, plane = axes
    side = np.sqrt(wh.prod(axis=1))
    low, high = np.floor(2 * np.log2(side.min())), np.ceil(2 * np.log2(side.max())) + 1
    sizes.hist(side, 2 ** np.arange(low / 2, high / 2 + 0.01, 0.25), color="C0", alpha=0.7)
    for size in np.sqrt(anchors.prod(axis=1)):
        sizes.axvline(size, color="black", linewidth=1, linestyle=":")
    sizes.set_xscale("log", base=2)
    sizes.xaxis.set_major_formatter("{x:.4g}")
    sizes.set(xlabel="root of width times height (pixels); dotted: anchors", ylabel="boxes")
    plane.scatter(*wh.T, s=3, alpha=min(1, 0.1 + 100 / len(wh)), linewidths=0, rasterized=True)
    plane.scatter(*anchors.T, marker="x", color="black", label="anchors", zorder=3)
    limit = 1.05 * max(wh.max(), anchors.max())
    plane.set(
        xlabel="width (pixels)", ylabel="height (pixels)", xlim=(0, limit), ylim=(0, limit), aspect="equal"
    )
    plane.legend(frameon=False)
    _save(axes, out)


def anchor_shapes(wh: np.ndarray, anchors: np.ndarray, out: Path) -> None:
    """The boxes as points and the anchors as crosses in the plane of width and height.

    Parameters
    ----------
    wh, anchors : (N, 2), (k, 2) float
        Widths and heights in cells.
    out : Path
        The figure.
    """
    axes = _panels(1)
    if axes is None:
        return
    axes[0].scatter(*wh.T, s=2, alpha=0.1, linewidths=0, rasterized=True)
    axes[0].scatter(*anchors.T, marker="x", color="black")
    limit = 1.02 * wh.max()
    axes[0].set(
        xlabel="width (cells)", ylabel="height (cells)", xlim=(0, limit), ylim=(0, limit), aspect="equal"
    )
    _save(axes, out)


def anchor_curve(ks: Sequence[int], iou: Sequence[float], sse: Sequence[float], out: Path) -> None:
    """Mean IoU against the number of anchors (paper 2, fig. 2, left).

    Parameters
    ----------
    ks : sequence of int
        Numbers of anchors.
    iou, sse : sequences of float
        Mean IoU by either distance.
    out : Path
        The figure.
    """
    axes = _panels(1)
    if axes is None:
        return
    axes[0].plot(ks, iou, marker="o", label="k-means with 1 - IoU")
    axes[0].plot(ks, sse, marker="o", label="k-means with squared error")
    axes[0].set(xlabel="number of anchors", ylabel="mean IoU")
    axes[0].legend(frameon=False)
    _save(axes, out)


def _panels(count: int):
    """A row of empty axes, or None where matplotlib is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no figure: matplotlib is missing; python -m pip install matplotlib", file=sys.stderr)
        return None
    figure = Figure(figsize=(5 * count, 4), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.3)
    return axes


def _save(axes, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        axes[0].figure.savefig(out, dpi=150)
    except ValueError as error:  # a suffix that is no format of pictures
        raise UserError(f"{out}: {error}") from None
    print(f"wrote {out}", file=sys.stderr)

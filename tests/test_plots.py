"""Figures of evaluation: curves that can be told apart, of however many classes."""

import warnings

import numpy as np
import pytest
from PIL import Image

from yolov2 import plots

pytest.importorskip("matplotlib", reason="MATPLOTLIB ABSENT: no figures are drawn")


@pytest.mark.parametrize("classes", [1, 3, 20, 21, 80])
def test_a_legend_has_room_beside_the_curves(classes, tmp_path, monkeypatch):
    """Of eighty classes, one with a long name, it used to leave no room for the curves."""
    drawn, save = [], plots._save
    monkeypatch.setattr(plots, "_save", lambda axes, out: (drawn.append(axes[0]), save(axes, out)))
    names = [f"class {i}" for i in range(classes - 1)] + ["Great White Heron, Ardea occidentalis " * 2]
    precision = {name: (7 * i % classes + 1) / classes for i, name in enumerate(names)}
    curve = np.linspace(0, 1, 9), np.linspace(1, 0.5, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots.precision_recall_curves(dict.fromkeys(names, curve), precision, tmp_path / "curves.png")
    (axes,) = drawn
    with Image.open(tmp_path / "curves.png") as figure:
        assert axes.get_window_extent().width > 0.4 * axes.figure.bbox.width and figure.width > 500
    assert sum(len(line.get_xdata()) > 0 for line in axes.lines) == classes  # all are drawn
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    shown = [float(label.split()[-1]) for label in labels if "between" not in label]
    order = sorted(precision.values(), reverse=True)
    wanted = order if classes <= 20 else order[:10] + order[-10:]
    assert shown == pytest.approx(wanted, abs=0.001)
    styles = {(line.get_color(), line.get_linestyle()) for line in axes.get_legend().get_lines()}
    assert len(styles) == len(labels)
    if classes > 20:
        assert labels[10] == f"{classes - 20} between these"

"""The boxes of one picture, as every format's reader gathers them: checked, and what is wrong counted."""

import math
from pathlib import Path

import numpy as np

from yolov2.data.dataset import Item
from yolov2.errors import Complaints

Corners = tuple[float, float, float, float]


class Boxes:
    """Boxes of a picture of `width` x `height` pixels, added one by one."""

    def __init__(self, width: int, height: int, complaints: Complaints) -> None:
        self.width, self.height = width, height
        self._complaints = complaints
        self._rows: dict[tuple[int, Corners], bool] = {}

    def add(self, corners: Corners, number: int, difficult: bool, where: str) -> None:
        """Keep a box, clipped to the picture, unless it is empty, no box at all, or there already.

        Parameters
        ----------
        corners : tuple of 4 float
            xmin, ymin, xmax, ymax in pixels; 0, 0 is the picture's top left edge.
        number : int
            Its class.
        difficult : bool
            See `Item`.
        where : str
            File and line, for complaints.
        """
        if not all(map(math.isfinite, corners)):
            self._complaints.add("boxes without four numbers dropped", where)
            return
        xmin, ymin, xmax, ymax = corners
        if xmin > xmax or ymin > ymax:
            self._complaints.add("boxes with min and max swapped turned round", where)
            xmin, xmax, ymin, ymax = *sorted((xmin, xmax)), *sorted((ymin, ymax))
        width, height = self.width, self.height
        # a pixel of rounding is no mistake
        if xmin < -1 or ymin < -1 or xmax > width + 1 or ymax > height + 1:
            self._complaints.add("boxes reaching outside clipped to the picture", where)
        xmin, xmax = max(0.0, xmin), min(float(width), xmax)
        ymin, ymax = max(0.0, ymin), min(float(height), ymax)
        if xmax <= xmin or ymax <= ymin:
            self._complaints.add("empty boxes dropped", where)
        elif (row := (number, (xmin, ymin, xmax, ymax))) in self._rows:
            self._complaints.add("repeated boxes dropped", where)
        else:
            self._rows[row] = difficult

    def item(self, id: str, path: Path) -> Item:
        """The picture with the boxes that were kept."""
        corners = np.array([box for _, box in self._rows], np.float64).reshape(-1, 4)
        low, high = corners[:, :2], corners[:, 2:]
        boxes = np.hstack([(low + high) / 2, high - low]) / np.tile([self.width, self.height], 2)
        return Item(
            id=id,
            width=self.width,
            height=self.height,
            boxes=boxes.astype(np.float32),
            classes=np.array([number for number, _ in self._rows], np.int64),
            difficult=np.array(list(self._rows.values()), bool),
            path=path,
        )

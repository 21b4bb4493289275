"""COCO's measure, computed by pycocotools (the extra ``coco``) where it is installed, else by the oracle."""

import contextlib
import io

import numpy as np

from reference.average_precision import DetectionTable, TruthTable
from reference.coco_metric import CocoMetric
from reference.coco_metric import coco_metric as oracle


def has_pycocotools() -> bool:
    """Whether COCO's own program is installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError:
        return False
    return True


def coco_metric(detections: DetectionTable, truths: TruthTable, classes: int) -> CocoMetric:
    """Average precision and recall of every class by COCO's rules; see `reference.coco_metric.coco_metric`.

    Whoever computes it, the numbers are equal to rounding.
    """
    if not has_pycocotools():
        return oracle(detections, truths, classes)
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pictures = np.union1d(detections.picture, truths.picture).tolist()
    head = {"images": [{"id": i} for i in pictures], "categories": [{"id": c} for c in range(classes)]}
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it tells the story of its life
        for table in (truths, detections):
            side = COCO()
            side.dataset = head | {"annotations": _annotations(table)}
            side.createIndex()
            sides.append(side)
        program = COCOeval(*sides, "bbox")
        program.evaluate()
        program.accumulate()
    precision, recall = program.eval["precision"].mean(axis=1), program.eval["recall"]
    return CocoMetric(*(np.where(values < 0, np.nan, values) for values in (precision, recall)))


def _annotations(table: DetectionTable | TruthTable) -> list[dict]:
    boxes = table.boxes.astype(np.float64)
    xywh = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)
    columns = {
        "image_id": table.picture,
        "category_id": table.classes,
        "bbox": xywh,
        "area": boxes[:, 2] * boxes[:, 3],
    }
    if isinstance(table, DetectionTable):
        columns |= {"score": table.scores, "iscrowd": np.zeros(len(boxes), int)}
    else:
        columns |= {"iscrowd": table.difficult.astype(int)}
        if table.area is not None:
            columns["area"] = table.area
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    # 0 is no identity: it is how the program marks what has no partner
    return [{"id": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows, 1)]

"""Golden checks of the region layer: training, detection, NMS and box arithmetic (SPEC 1-8)."""

import numpy as np

from reference.boxes import box_intersection, box_iou_broadcast, box_rmse, box_union
from reference.decode import activate_region
from reference.detect import region_detections
from reference.loss import region_delta, region_loss_grad, region_statistics
from reference.nms import nms_objectness, nms_per_class
from reference.region import Region
from tests.golden import check, compare
from tests.golden.tree import golden_tree

SUPPRESS = {"per class (sort)": nms_per_class, "objectness": nms_objectness}


def golden_region(case) -> Region:
    """Settings of a golden case; keys a detection case does not have keep their defaults."""
    c = case.config
    tree = golden_tree(c["tree"]) if c["tree"] else None
    same = ("object_scale", "noobject_scale", "class_scale", "coord_scale")
    return Region(
        anchors=tuple((float(w), float(h)) for w, h in case["anchors"].reshape(-1, 2)),
        classes=c["classes"],
        class_activation="tree" if tree else "softmax" if c["softmax"] else "logistic",
        tree=tree,
        background=bool(c["background"]),
        rescore=bool(c.get("rescore", 1)),
        bias_match=bool(c.get("bias_match", 1)),
        ignore_threshold=c["thresh"],
        class_map=tuple(case["class_map"].tolist()) if "class_map" in case else None,
        **{key: c[key] for key in same if key in c},
    )


@check("region_train")
def region_train(case):
    region = golden_region(case)
    pred, truth, seen = case["input"], case["truth"], case.config["seen"]
    delta = region_delta(pred, truth, region, seen)
    yield compare("output", activate_region(pred, region), case["output"], atol=1e-6)
    yield compare("delta", delta, case["delta"], atol=1e-6)
    yield compare("cost", [(delta.astype(np.float64) ** 2).sum()], case["cost"], rtol=1e-4)
    yield compare("statistics", region_statistics(pred, truth, region), case["stats"], atol=1e-6)
    if "grad" in case:
        yield compare("gradient", -region_loss_grad(pred, truth, region, seen), case["grad"], atol=1e-6)


@check("region_detect")
def region_detect(case):
    region, c = golden_region(case), case.config
    yield compare("output", activate_region(case["input"], region), case["output"], atol=1e-6)
    boxes, objectness, probs = (
        dense[0]
        for dense in region_detections(
            case["input"],
            region,
            c["thresh"],
            picture=(c["image_w"], c["image_h"]),
            network=(c["net_w"], c["net_h"]),
            relative=bool(c["relative"]),
            tree_threshold=c["tree_thresh"],
            detection_map=tuple(case["det_map"].tolist()) if "det_map" in case else None,
            flip_test=c["batch"] == 2,
        )
    )
    yield compare("boxes", boxes, case["boxes"], rtol=1e-5)
    yield compare("objectness", objectness, case["objectness"], atol=1e-6)
    if "probs_rows" in case:
        rows, cols = np.nonzero(probs)
        yield compare("rows of scores", rows, case["probs_rows"])
        yield compare("classes of scores", cols, case["probs_cols"])
        yield compare("scores", probs[rows, cols], case["probs_vals"], atol=1e-6)
    else:
        yield compare("scores", probs, case["probs"], atol=1e-6)
    if c["nms"] in SUPPRESS:
        kept = SUPPRESS[c["nms"]](boxes, objectness, probs, c["nms_thresh"])
        yield compare("order after NMS", kept.order, case["nms_index"])
        yield compare("boxes after NMS", boxes[kept.order], case["nms_boxes"], rtol=1e-5)
        yield compare("objectness after NMS", kept.objectness, case["nms_objectness"], atol=1e-6)
        yield compare("scores after NMS", kept.probs, case["nms_probs"], atol=1e-6)


@check("nms")
def nms(case):
    suppress = SUPPRESS[case.config["kind"]]
    kept = suppress(case["boxes"], case["objectness"], case["probs"], case.config["thresh"])
    yield compare("order", kept.order, case["out_index"])
    yield compare("objectness", kept.objectness, case["out_objectness"])
    yield compare("scores", kept.probs, case["out_probs"])


@check("box")
def box(case):
    a, b = case["a"], case["b"]
    yield compare("iou", box_iou_broadcast(a, b), case["iou"], atol=1e-6)
    yield compare("intersection", box_intersection(a, b), case["intersection"], atol=1e-6)
    yield compare("union", box_union(a, b), case["union"], atol=1e-6)
    yield compare("rmse", box_rmse(a, b), case["rmse"], atol=1e-6)

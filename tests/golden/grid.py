"""YOLOv1's detection layer against golden numbers."""

import numpy as np

from reference.grid import activate_grid, detect_grid, grid_loss_grad, grid_statistics
from reference.layers import Grid
from tests.golden import check, compare


def golden_grid(config: dict) -> Grid:
    flags = {name: bool(config.get(name, 0)) for name in ("sqrt", "softmax", "rescore", "forced")}
    scales = {name: value for name, value in config.items() if name.endswith("_scale")}
    return Grid(config["side"], config["num"], config["classes"], **flags, **scales)


@check("yolov1_train")
def train_case(case):
    grid = golden_grid(case.config)
    output = activate_grid(case["input"], grid)
    grad = grid_loss_grad(output, case["truth"], grid)
    yield compare("output", output, case["output"], atol=1e-6)
    yield compare("delta", -grad, case["delta"], atol=1e-6)
    yield compare("cost", [(grad**2).sum()], case["cost"], rtol=1e-4)
    # six printed decimals
    yield compare("statistics", grid_statistics(output, case["truth"], grid), case["stats"], atol=2e-6)


@check("yolov1_detect")
def detect_case(case):
    grid = golden_grid(
        case.config
    )  # `input` plays the part of the layer's output here: no softmax comes in between
    boxes, confidence, scores = detect_grid(case["input"][None], grid, case.config["thresh"])
    w, h = case.config["image_w"], case.config["image_h"]
    yield compare("boxes", boxes[0] * np.array([w, h, w, h]), case["boxes"], rtol=1e-5)
    yield compare("objectness", confidence[0], case["objectness"], atol=1e-6)
    yield compare("probs", scores[0], case["probs"], atol=1e-6)

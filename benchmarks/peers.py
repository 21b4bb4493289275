"""What a user would take instead, with the libraries at hand; None where a library is missing."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast.assign import match, read_truths
from fast.decode import decode, decode_boxes, split_head
from fast.wordtree import tree_tensors
from reference.region import Region, WordTree

#: why no CUDA graph can hold an operation
WAITS = "waits for the host"
COPIES = "copies from the host"

torchvision: Any
try:
    import torchvision

    torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
except Exception:  # absent, or built for another torch, which shows in many ways and at the latest here
    torchvision = None


def corners(boxes: Tensor) -> Tensor:
    """Centre and size to left, top, right, bottom."""
    half = boxes[..., 2:] / 2
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)


def decode_then_torchvision(pred: Tensor, region: Region, conf: float, iou: float) -> tuple[Tensor, ...]:
    """Image, box, score and class of all detections of a batch, best first (no `max_det`)."""
    decoded = decode(pred, region)
    scores = decoded.objectness.flatten(1)[..., None] * decoded.class_probs.flatten(1, 3)
    image, box, label = (scores > conf).nonzero(as_tuple=True)
    score = scores[image, box, label]
    boxes = decoded.boxes.flatten(1, 3)[image, box]
    keep = torchvision.ops.batched_nms(corners(boxes), score, image * region.classes + label, iou)
    return image[keep], boxes[keep], score[keep], label[keep]


def interpolate_each(
    pictures: list[Tensor], places: list[tuple[int, int, int, int]], side: int, dtype: torch.dtype
) -> Tensor:
    """Letterbox of pictures (H, W, 3) uint8, one F.interpolate each, at (width, height, x, y)."""
    out = pictures[0].new_full((len(pictures), 3, side, side), 0.5, dtype=dtype)
    for canvas, picture, (w, h, x, y) in zip(out, pictures, places, strict=True):
        planes = picture.permute(2, 0, 1)[None].float() / 255
        canvas[:, y : y + h, x : x + w] = F.interpolate(planes, (h, w), mode="bilinear", align_corners=True)[
            0
        ]
    return out


def autograd_loss(
    pred: Tensor,
    truth: Tensor,
    region: Region,
    seen: int,
    tree_log_softmax: Callable[[Tensor, WordTree, int], Tensor] | None = None,
    everywhere: bool = True,
) -> Tensor:
    """The region loss of a softmax head as one writes it in torch: vectorised, backward by autograd.

    On a tree `tree_log_softmax` does the groups, `everywhere` or where a truth is; every truth has a box, and
    a slot of its own.
    """
    head = split_head(pred.float(), region)  # (B, A, 5+C, H, W)
    B, _, _, H, W = head.shape
    truths = read_truths(truth.to(head.dtype), region)
    with torch.no_grad():
        assignment, matches = match(decode_boxes(head, region), truths, region)
    responsible, wins = assignment.index >= 0, matches.wins
    image = torch.arange(B, device=pred.device)[:, None]
    anchor = matches.slot // (H * W)
    chosen = head[image, anchor, :, matches.slot // W % H, matches.slot % W]  # (B, T, 5+C)

    size, wanted = head.new_tensor([W, H]), truths.boxes.where(wins[..., None], 1)
    place = wanted[..., :2] * size
    shape = (wanted[..., 2:] * size / head.new_tensor(region.anchors)[anchor]).log()
    off = torch.cat([chosen[..., :2].sigmoid() - (place - place.trunc()), chosen[..., 2:4] - shape], -1)
    weight = region.coord_scale * (2 - wanted[..., 2] * wanted[..., 3])
    coordinates = (weight[..., None] * off.square()).where(wins[..., None], 0).sum() / 2

    p_o = head[:, :, 4].sigmoid()
    miss = (p_o.flatten(1).gather(1, matches.slot) - matches.iou).square().where(wins, 0).sum()
    noise = p_o.square().where(~responsible & ~assignment.ignore, 0).sum()
    objectness = (region.object_scale * miss + region.noobject_scale * noise) / 2
    label = truths.label[..., None]
    if region.tree is None or tree_log_softmax is None:
        log_prob = chosen[..., 5:].log_softmax(-1).gather(-1, label)[..., 0]
    else:
        if everywhere:
            log_probs = tree_log_softmax(head[:, :, 5:], region.tree, 2)
            rows = log_probs[image, anchor, :, matches.slot // W % H, matches.slot % W]
        else:
            rows = tree_log_softmax(chosen[..., 5:], region.tree, 2)
        path = tree_tensors(region.tree, pred.device).path_nodes[truths.label]
        log_prob = rows.gather(-1, path.clamp(min=0)).where(path >= 0, 0).sum(-1)
    classes = region.class_scale * -log_prob
    total = coordinates + objectness + classes.where(wins, 0).sum()
    if seen < region.prior_images:
        offset = (head[:, :, :2].sigmoid() - 0.5).square().sum(2) + head[:, :, 2:4].square().sum(2)
        total = total + region.prior_scale / 2 * offset.where(~responsible, 0).sum()
    return total


# ---------------------------------------------------------------- a network's raw output, on a CPU

Forward = Callable[[], np.ndarray]


def frozen(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """torch.compile with the weights as constants, which is its best on a CPU; compiled at the first call."""
    compiled = torch.compile(network, dynamic=False, options={"freezing": True})
    return torch.no_grad()(lambda x: compiled(x))  # freezing knows no inference mode


def in_onnxruntime(model: bytes, images: np.ndarray) -> Forward | None:
    """An ONNX file in onnxruntime, as a user opens it."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"images": images})[0]


def in_openvino(model: bytes, images: np.ndarray) -> Forward | None:
    """The same in OpenVINO, asked for low latency and held to float32."""
    try:
        import openvino
    except ImportError:
        return None
    core = openvino.Core()
    read = core.read_model(model)
    read.reshape(list(images.shape))
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(read, "CPU", hints).create_infer_request()
    return lambda: next(iter(request.infer({"images": images}).values()))


def in_opencv(model: bytes, images: np.ndarray) -> Forward | None:
    """The same in OpenCV."""
    try:
        import cv2
    except ImportError:
        return None
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model, np.uint8))

    def run() -> np.ndarray:
        network.setInput(images)
        return network.forward()

    return run


#: names a folder with an OpenCV that reads Darknet's files: of pip install --target DIR "opencv-python<5"
OPENCV4 = "YOLOV2_OPENCV4"
_OPENCV4 = """
import pickle, sys
sys.path[:0] = sys.argv[1:2]
import cv2
network = cv2.dnn.readNetFromDarknet(*sys.argv[2:])
raw = [n for n in network.getLayerNames() if n.startswith(("conv_", "avgpool_"))][-1]
images = pickle.load(sys.stdin.buffer)
while sys.stdin.buffer.read(1):
    network.setInput(images)
    pickle.dump(network.forward(raw), sys.stdout.buffer)
    sys.stdout.buffer.flush()
"""


def in_opencv4(cfg: Path, weights: Path, images: np.ndarray) -> Forward | None:
    """Darknet's files in OpenCV before version 5, in a process of its own: two OpenCVs do not fit into one.

    A call costs the way of the result through a pipe besides, less than a millisecond.
    """
    folder = os.environ.get(OPENCV4, "")
    if not folder and (opencv_version() or 5) >= 5:
        return None
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    child = subprocess.Popen([sys.executable, "-c", _OPENCV4, folder, str(cfg), str(weights)], **pipes)
    assert child.stdin is not None and child.stdout is not None
    to, back = child.stdin, child.stdout
    pickle.dump(images, to)

    def run() -> np.ndarray:
        to.write(b".")
        to.flush()
        return pickle.load(back)

    return run


def opencv_version() -> int | None:
    """The OpenCV that this process would import: 4, 5, ..."""
    for package in ("opencv-python-headless", "opencv-python", "opencv-contrib-python"):
        try:
            return int(version(package).split(".")[0])
        except PackageNotFoundError:
            pass
    return None

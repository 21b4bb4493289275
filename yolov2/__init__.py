"""YOLOv2, YOLO9000 and Darknet-19 in torch: ``yolov2.load`` opens a network, the modules are the commands.

``yolov2.Predictor`` is a network made ready to run fast, with a choice of engines.
"""

import os
from typing import TYPE_CHECKING, Any

# Read by libgomp when torch is imported: so often its threads spin after a parallel loop before they sleep.
# Its own ten times as many would take a core from onnxruntime, or from the thread that reads pictures.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

if TYPE_CHECKING:
    from yolov2.inference.predictor import Predictor
    from yolov2.loading import load

__all__ = ["Predictor", "load"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; who only wants yolov2.weights shall not wait for it
    if name == "load":
        from yolov2.loading import load

        return load
    if name == "Predictor":
        from yolov2.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

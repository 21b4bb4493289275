"""The six animals of Pascal VOC 2012, as far as a machine comes in the time it is given.

    python -m benchmarks.animals --data data/VOC2012 --seconds 500 --model yolov2-voc --imgsz 416 --epochs 60
    python -m benchmarks.animals --data data/VOC2012 --pretrain    # first a classifier of the cut-out objects

A run that is not finished goes on where it stood when the command is called again, so it fits into any slice
of time. Flags that are not its own are those of `yolov2.train`. At the end it prints the mean of the six
classes' average precision, 11 points, on the official val list.
"""

import argparse
import signal
import subprocess
import sys
from pathlib import Path

ANIMALS = "dog,cat,person,horse,sheep,cow"


def call(module: str, *flags: str, seconds: float | None = None) -> bool:
    """Run a command; False if its time was over, of which it is told in good time to save."""
    process = subprocess.Popen([sys.executable, "-m", module, *flags])
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        process.wait()
        return False
    if code:
        raise SystemExit(code)
    return True


def finished(folder: Path) -> bool:
    """Whether a run has nothing left to do: it drew its curves."""
    return (folder / "val_sheet.png").exists()


def train(module: str, folder: Path, flags: list[str], seconds: float | None) -> bool:
    """Begin a run or go on with it; whether it is finished."""
    if finished(folder):
        return True
    if (folder / "last.safetensors").exists():
        return call(module, "--resume", str(folder), seconds=seconds)
    where = ["--project", str(folder.parent), "--name", folder.name]
    return call(module, *where, *flags, seconds=seconds)


def main() -> None:
    """Train, or go on, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, help="stop after so long, to be called again")
    parser.add_argument("--pretrain", action="store_true", help="start from a classifier of cut-out objects")
    parser.add_argument("--pretrain-epochs", default="30")
    parser.add_argument("--pretrain-imgsz", default="128")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    args, others = parser.parse_known_args()
    data = ["--data", str(args.data)]
    first = args.runs / f"animals-{args.model}-crops"
    detector = args.runs / f"animals-{args.model}{'-from-crops' if args.pretrain else ''}"
    flags = [*data, "--model", args.model, *others]
    if args.pretrain:
        classifier = {"yolov2": "darknet19", "yolov2-voc": "darknet19"}.get(args.model, args.model)
        sizes = ["--imgsz", args.pretrain_imgsz, "--epochs", args.pretrain_epochs, "--finetune-epochs", "0"]
        crops = [*data, "--crops", "--model", classifier, *sizes]
        if not train("yolov2.pretrain", first, crops, args.seconds):
            return
        flags += ["--weights", str(first / "best.safetensors")]
    if train("yolov2.train", detector, flags, args.seconds):
        weights = ["--weights", str(detector / "best.safetensors")]
        call("yolov2.evaluate", *weights, *data, "--method", "voc11", "--classes", ANIMALS)


if __name__ == "__main__":
    main()

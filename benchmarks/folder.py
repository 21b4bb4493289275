"""A folder of pictures from its files to results, beside what the bare network does in the same time.

    python -m benchmarks.folder FOLDER --model yolov2-voc        # random weights
    python -m benchmarks.folder FOLDER --weights x.safetensors --engine onnxruntime

It is what `python -m yolov2.detect FOLDER --no-save` does: JPEGs are read and letterboxed on a thread while
the network computes. The bare network gets one batch of those pictures, prepared, again and again; slices of
both are timed in turns, so that a slow moment of the machine hits both.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmarks.timing import THREADS, environment
from yolov2.inference.predictor import Predictor
from yolov2.letterbox import network_input
from yolov2.loading import load
from yolov2.model import input_size
from yolov2.profile import random_model
from yolov2.sources import find_pictures, open_source


def race(predictor: Predictor, paths: list[Path], batch: int, slices: int) -> tuple[list[float], list[float]]:
    """Pictures a second of each slice of the folder, and of the bare network beside it."""
    model = predictor.model
    first = [frame.picture for frame in open_source(list(paths[:batch]))]
    images = network_input(first, *input_size(model.imgsz), model.resize, model.device).to(predictor.dtype)
    length = -(-len(paths) // slices)
    whole, bare = [], []
    with torch.inference_mode():
        predictor.run(images)
    for start in range(0, len(paths), length):
        part = paths[start : start + length]
        begin = time.perf_counter()
        count = sum(1 for _ in predictor.predict(list(part), batch=batch, stream=True, progress=False))
        whole.append(count / (time.perf_counter() - begin))
        begin, calls = time.perf_counter(), max(1, length // batch)
        with torch.inference_mode():
            for _ in range(calls):
                predictor.run(images)
        bare.append(calls * len(first) / (time.perf_counter() - begin))
    return whole, bare


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="yolov2-voc")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--imgsz", type=int)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--slices", type=int, default=12)
    parser.add_argument("--most", type=int, help="only so many pictures")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    model = load(args.weights, device="cpu") if args.weights else random_model(args.model, args.imgsz)
    paths = find_pictures([args.folder])[: args.most]
    whole, bare = race(Predictor(model, args.engine), paths, args.batch, args.slices)
    share = statistics.median(a / b for a, b in zip(whole, bare, strict=True))
    about = f"{len(paths)} pictures, {model}, batch {args.batch}, {THREADS} threads"
    print(f"{about}: {statistics.median(whole):.1f} pictures/s, bare network {statistics.median(bare):.1f}")
    print(f"share of the bare network's rate, median of {len(whole)} slices: {100 * share:.1f} %")
    if args.json:
        row = {"case": about, "whole": whole, "bare": bare, "share": share, "engine": args.engine}
        args.json.write_text(json.dumps({"environment": environment(), "rows": [row]}, indent=1) + "\n")


if __name__ == "__main__":
    main()

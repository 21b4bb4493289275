"""Training pictures at 416 px: decoded, placed, recoloured, mirrored; pictures per second of one CPU core.

Seconds are those of the process, not of the wall, so that they mean the same on a busy machine. Pictures come
from ``../shared/data`` (or ``$YOLOV2_SHARED/data``) where that is, and are also drawn here.
"""

import os
import statistics
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import timing
from reference.augment import Draws, detection_example
from reference.image import load_normalise
from yolov2 import raster
from yolov2.augment import Augment, integers
from yolov2.data import pictures
from yolov2.data.dataset import Dataset, Item
from yolov2.data.loader import batches

SIZE = 416
COUNT = 96
DATA = Path(os.environ.get("YOLOV2_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"
SOURCES = {"bccd": "bccd_416.zip", "voc": "voc2012_animals_320.zip", "drawn": ""}
#: pictures a CPU second that are asked for
TARGETS = {"extra speed": 400, "Pillow": 80}


@pytest.fixture(scope="module", params=SOURCES)
def data(request, tmp_path_factory):
    """A data set of JPEG files, eight boxes in each picture."""
    folder = tmp_path_factory.mktemp(request.param)
    rng = np.random.default_rng(0)
    if not SOURCES[request.param]:
        for number in range(COUNT):
            few = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
            smooth = np.asarray(few.resize((500, 375), Image.Resampling.BICUBIC))
            noisy = (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(folder / f"{number:03d}.jpg", quality=85)
    elif (DATA / SOURCES[request.param]).is_file():
        with zipfile.ZipFile(DATA / SOURCES[request.param]) as archive:
            for name in [n for n in archive.namelist() if n.endswith(".jpg")][:COUNT]:
                (folder / Path(name).name).write_bytes(archive.read(name))
    else:
        pytest.skip(f"{DATA / SOURCES[request.param]} is absent")
    boxes = np.concatenate([rng.uniform(0.3, 0.7, (8, 2)), rng.uniform(0.1, 0.3, (8, 2))], 1)
    classes, easy = np.zeros(8, np.int64), np.zeros(8, bool)
    items = []
    for path in sorted(folder.iterdir()):
        size = pictures.upright_size(path)
        items.append(Item(path.stem, *size, boxes.astype(np.float32), classes, easy, path))
    return Dataset(("object",), items)


@pytest.fixture(params=TARGETS)
def library(request, monkeypatch):
    """With OpenCV and simplejpeg, and without."""
    if request.param == "Pillow":
        monkeypatch.setattr(raster, "opencv", lambda: None)
        monkeypatch.setattr(pictures, "simplejpeg", lambda: None)
    elif raster.opencv() is None or pictures.simplejpeg() is None:
        pytest.skip('pip install "yolov2[speed]"')
    return request.param


@pytest.mark.parametrize("workers", [0, 2])
def test_training_pictures(benchmark, data, library, workers, request):
    check(data)
    quick = timing.effort.compile == 0
    samples = []

    def epoch():
        cpu, wall = time.process_time(), time.perf_counter()
        made = sum(len(batch.images) for batch in stream(data, workers))
        assert made == len(data)
        samples.append((made / (time.process_time() - cpu), made / (time.perf_counter() - wall)))

    benchmark.pedantic(epoch, rounds=1 if quick else 5, warmup_rounds=0 if quick else 1)
    per_cpu, per_wall = (statistics.median(column) for column in zip(*samples, strict=True))
    benchmark.extra_info.update(pictures_per_cpu_second=per_cpu, pictures_per_second=per_wall)
    name = request.node.callspec.params["data"]
    print(
        f"\n{name} at {SIZE}, {library}, {workers} workers: {per_cpu:.0f} pictures per CPU second "
        f"(target {TARGETS[library]}), {per_wall:.0f} per second"
    )


def stream(data, workers=0):
    return batches(data, 32, SIZE, Augment(), workers=workers)


def check(data):
    """The first pictures are the oracle's."""
    first = next(stream(data))
    for index in range(3):
        image = load_normalise(np.asarray(data.picture(index)))
        labels = np.concatenate([data.items[index].classes[:, None], data.items[index].boxes], 1)
        draws = Draws(integers(np.random.default_rng([0, 0, index])))
        want, truth = detection_example(image, labels.astype(np.float32), draws, SIZE, SIZE)
        assert (first.images[index].float() / 255 - torch.from_numpy(want)).abs().mean() < 1 / 255
        np.testing.assert_array_equal(first.truth[index], truth[: first.truth.shape[1]])

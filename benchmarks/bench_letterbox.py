"""Pictures of mixed sizes to the network's input, from pictures that are on the device already."""

import numpy as np
import pytest
import torch

import reference.image
import reference.letterbox
from benchmarks.peers import interpolate_each
from benchmarks.timing import BATCHES, CUDA, DEVICE, Race, nbytes
from fast.letterbox import letterbox_packed, pack, placement

SIDE = 416
#: height and width of pictures as VOC, COCO and cameras have them
SIZES = ((375, 500), (500, 375), (333, 500), (480, 640), (427, 640), (640, 480), (720, 1280), (500, 500))


@pytest.mark.parametrize("form", ["fp32 nchw", "fp16 nhwc"] if CUDA else ["fp32 nchw", "fp32 nhwc"])
@pytest.mark.parametrize("batch", BATCHES)
def test_letterbox(benchmark, batch, form):
    dtype = torch.float16 if form.startswith("fp16") else torch.float32
    rng = np.random.default_rng(0)
    # smooth pictures with some noise, not pure noise
    pictures = []
    for i in range(batch):
        h, w = SIZES[i % len(SIZES)]
        rows, columns = np.mgrid[:h, :w]
        waves = 96 * np.sin(rows / 37 + i)[..., None] * np.cos(columns[..., None] / (29, 31, 43)) + 128
        pictures.append(
            torch.from_numpy((waves + rng.normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8))
        )
    few = sorted({0, 1, batch - 1} & set(range(batch)))
    want = np.stack([by_oracle(pictures[i].numpy()) for i in few])
    on_device = [p.to(DEVICE) for p in pictures]
    packed = pack(on_device, SIDE, SIDE)
    places = [tuple(placement((p.shape[1], p.shape[0]), (SIDE, SIDE))) for p in pictures]

    def check(got):
        assert got.shape == (batch, 3, SIDE, SIDE) and got.dtype == dtype
        tolerance = 1e-3 if dtype == torch.float16 else 1e-5
        np.testing.assert_allclose(got[few].float().cpu().numpy(), want, atol=tolerance)

    target = "20x per-image interpolate" if batch == 64 else ""
    race = Race("letterbox to 416x416", f"mixed sizes, B{batch}, {form}", batch, check, target)
    race.ours(lambda: letterbox_packed(packed, dtype, "nhwc" in form), torch_graph="reads its table")
    race.peer("interpolate each", lambda: interpolate_each(on_device, places, SIDE, dtype))
    if not CUDA and batch == 1:
        pixels = pictures[0].numpy()
        race.peer("oracle", lambda: torch.from_numpy(by_oracle(pixels))[None])
    race.run(benchmark, nbytes(*pictures) + batch * 3 * SIDE * SIDE * dtype.itemsize)


def by_oracle(pixels):
    return reference.letterbox.letterbox(reference.image.load_normalise(pixels), SIDE, SIDE)

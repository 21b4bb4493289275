"""Training batches from decoded pictures that are on the device already, as `--cache device` makes them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks.peers import COPIES
from benchmarks.timing import BATCHES, CUDA, DEVICE, Race, nbytes
from fast.augment import Placed, _distort, augment
from reference.augment import Draws
from reference.image import GREY, distort, flip, load_normalise, place
from yolov2.augment import Augment, plan

SIDE = 416
#: height and width of pictures as VOC has them
SIZES = ((375, 500), (500, 375), (333, 500), (375, 500), (500, 333), (281, 500), (500, 500), (334, 500))


@pytest.mark.parametrize("form", ["fp32 nhwc", "fp16 nhwc", "fp16 nchw"] if CUDA else ["fp32 nhwc"])
@pytest.mark.parametrize("batch", BATCHES)
def test_augment(benchmark, batch, form):
    dtype = torch.float16 if form.startswith("fp16") else torch.float32
    rng, draws = np.random.default_rng(0), Draws.from_generator(np.random.default_rng(1))
    pictures, rows, colours, start = [], [], [], 0
    for i in range(batch):
        h, w = SIZES[i % len(SIZES)]
        down, across = np.mgrid[:h, :w]
        # smooth pictures with some noise, not pure noise
        waves = 96 * np.sin(down / 37 + i)[..., None] * np.cos(across[..., None] / (29, 31, 43)) + 128
        pictures.append((waves + rng.normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8))
        p = plan(draws, (w, h), (SIDE, SIDE), np.zeros((0, 5), np.float32), Augment())
        rows.append(Placed(start, h, w, p.width, p.height, p.x, p.y, p.mirror))
        colours.append((p.hue, p.saturation, p.exposure))
        start += pictures[-1].size
    buffer = torch.from_numpy(np.concatenate([p.ravel() for p in pictures])).to(DEVICE)
    table, colour = torch.tensor(rows).to(DEVICE), torch.tensor(colours).to(DEVICE)
    few = sorted({0, 1, batch - 1} & set(range(batch)))
    want = np.stack([by_oracle(pictures[i], rows[i], colours[i]) for i in few])

    def check(got):
        assert got.shape == (batch, 3, SIDE, SIDE) and got.dtype == dtype
        tolerance = 2e-3 if dtype == torch.float16 else 1e-4
        np.testing.assert_allclose(got[few].float().cpu().numpy(), want, atol=tolerance)

    race = Race("training pictures at 416x416", f"VOC sizes, B{batch}, {form}", batch, check)
    race.ours(
        lambda: augment(buffer, table, colour, SIDE, SIDE, dtype, "nhwc" in form),
        torch_graph="reads its table",
    )
    on_device = [torch.from_numpy(p).to(DEVICE) for p in pictures]
    race.peer("grid_sample each", lambda: sample_each(on_device, rows, colour, dtype), COPIES)
    if not CUDA and batch == 1:
        race.peer("oracle", lambda: torch.from_numpy(by_oracle(pictures[0], rows[0], colours[0])[None]))
    # every byte is seen: without a zoom no picture reaches beyond a square canvas
    race.run(benchmark, nbytes(buffer, table, colour) + batch * 3 * SIDE * SIDE * dtype.itemsize)


def sample_each(pictures, rows, colour, dtype):
    """What a torch user would write: a grid_sample for every picture, the colours of all at once."""
    out = pictures[0].new_full((len(pictures), 3, SIDE, SIDE), 127.5, dtype=torch.float32)
    for canvas, picture, at in zip(out, pictures, rows, strict=True):
        x, y = (
            torch.arange(size, device=picture.device) * (2 * n / size / max(n - 1, 1)) - 1
            for size, n in ((at.width, at.columns), (at.height, at.rows))
        )
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)[None]
        planes = picture.permute(2, 0, 1)[None].float()
        drawn = F.grid_sample(planes, grid, align_corners=True)[0]
        canvas[:, at.y : at.y + at.height, at.x : at.x + at.width] = drawn
    hue, saturation, exposure = colour.T[:, :, None, None]
    out = _distort(out.transpose(0, 1), hue, saturation, exposure / 255).transpose(0, 1)
    mirrored = torch.tensor([at.mirror for at in rows], device=out.device)[:, None, None, None]
    return torch.where(mirrored, out.flip(3), out).to(dtype)


def by_oracle(pixels, at, colour):
    canvas = np.full((3, SIDE, SIDE), GREY, np.float32)
    picture = distort(place(load_normalise(pixels), at.width, at.height, at.x, at.y, canvas), *colour)
    return flip(picture) if at.mirror else picture

"""The passthrough of YOLOv2: reorg of 64x26x26, a copy that moves every byte once."""

import numpy as np
import pytest
import torch

import reference.reorg
from benchmarks.timing import BATCHES, CUDA, DEVICE, Race, nbytes, plain
from fast import reorg as ops
from fast.reorg import reorg


@pytest.mark.parametrize("form", ["fp32 nchw", "fp16 nhwc"] if CUDA else ["fp32 nchw", "fp32 nhwc"])
@pytest.mark.parametrize("batch", BATCHES)
def test_reorg(benchmark, batch, form):
    dtype, layout = form.split()
    x = torch.randn(batch, 64, 26, 26).to(torch.float16 if dtype == "fp16" else torch.float32)
    want = reference.reorg.reorg(x.float().numpy(), 2)
    x = x.to(DEVICE).contiguous(
        memory_format=torch.channels_last if layout == "nhwc" else torch.contiguous_format
    )

    def check(got):
        np.testing.assert_array_equal(got.float().cpu().numpy(), want)

    race = Race("reorg", f"64x26x26, B{batch}, {form}", batch, check)
    race.ours(lambda: reorg(x))
    if CUDA or (batch == 1 and layout == "nchw"):
        race.compiled(plain(ops._reorg), x, 2, True, False)
    if not CUDA:
        floats = x.numpy()
        race.peer("oracle", lambda: torch.from_numpy(reference.reorg.reorg(floats, 2)))
    race.run(benchmark, 2 * nbytes(x))

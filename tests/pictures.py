"""Pictures for tests of what becomes of pictures."""

import numpy as np
import pytest
from PIL import Image

from yolov2 import raster


@pytest.fixture(params=("opencv", "pillow"))
def backend(request, monkeypatch):
    """Every way of warping and recolouring; its name."""
    if request.param == "pillow":
        monkeypatch.setattr(raster, "opencv", lambda: None)
    elif raster.opencv() is None:
        pytest.skip("NOT CHECKED WITH OpenCV: it is not installed")
    return request.param


def photograph(width, height, seed=0):
    """uint8 (height, width, 3): smooth colours, edges and some noise, as in photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (2 + height // 16, 2 + width // 16, 3)).astype(np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return (smooth + rng.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8)


def levels(got, want):
    """Differences, in levels of 255, of a uint8 (H, W, 3) picture from a float (3, H, W) one."""
    assert got.dtype == np.uint8 and got.shape == (*want.shape[1:], 3)
    return np.abs(got - want.transpose(1, 2, 0).astype(np.float64) * 255)

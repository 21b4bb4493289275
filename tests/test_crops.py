"""Training pictures of a classifier: Darknet's crops, draw for draw."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference.augment import Draws, classification_example
from reference.image import centre_crop, load_normalise
from tests.golden import GOLDEN, cases
from tests.pictures import backend, levels, photograph  # noqa: F401 (a fixture)
from yolov2.crops import CropAugment, centre_example, crop_example, plan_crop, render_crop

GOLDEN_CASES = [c for c in cases() if c.group == "augment" and c.config["kind"] == "classification"]
MANY = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"NOT CHECKED AGAINST DARKNET: {GOLDEN} is absent")
def test_darknets_training_crops(backend):  # noqa: F811
    assert len(GOLDEN_CASES) == 2
    for case in GOLDEN_CASES:
        c, log = case.config, iter(case["draws"])
        names = ("angle", "aspect", "hue", "saturation", "exposure")
        size = c["size"]
        options = CropAugment(c["min_crop"] / size, c["max_crop"] / size, *(c[name] for name in names))
        pixels = case["image_u8"]
        plan = plan_crop(Draws(log), pixels.shape[1::-1], size, options, centre=bool(c["center"]))
        assert not list(log)
        error = levels(render_crop(pixels, plan, size), case["output"])
        assert error.max() < 4 and error.mean() < (0.6 if backend == "opencv" else 1)


@MANY
@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(2, 60), st.sampled_from([16, 33]))
def test_as_the_oracle_does_it(backend, seed, width, height, size):  # noqa: F811
    pixels, image = photograph(width, height, seed), load_normalise(photograph(width, height, seed))
    got = crop_example(pixels, size, CropAugment(), np.random.default_rng(seed))
    draws = Draws.from_generator(np.random.default_rng(seed))
    want = classification_example(image, draws, size, round(size / 2), round(1.75 * size))
    assert np.quantile(levels(got, want), 0.99) < (4 if backend == "opencv" else 6)
    assert levels(centre_example(pixels, size), centre_crop(image, size, size)).max() < 1.01


def test_a_picture_of_one_pixel_has_crops():
    pixels = np.full((1, 1, 3), 99, np.uint8)
    for seed in range(20):
        assert crop_example(pixels, 8, CropAugment(), np.random.default_rng(seed)).shape == (8, 8, 3)
    assert (centre_example(pixels, 8) == 99).all()


@pytest.mark.parametrize("wrong", [{"smallest": 0}, {"smallest": 2}, {"hue": 2}, {"aspect": 0}], ids=str)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError):
        CropAugment(**wrong)

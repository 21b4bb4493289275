"""Pictures, label geometry and whole augmentation pipelines against golden numbers."""

import numpy as np

from reference import image as im
from reference.augment import (
    Draws,
    classification_example,
    correct_boxes,
    detection_example,
    truth_rows,
)
from reference.letterbox import letterbox
from tests.golden import check, compare


@check("image")
def image_case(case):
    yield from _photograph(case) if "image_u8" in case else _small(case)


def _photograph(case):
    picture = im.load_normalise(case["image_u8"])
    box = letterbox(picture, 416, 416)
    yield compare("mean", picture.mean(axis=(1, 2), dtype=np.float64), case["chw_mean"], atol=1e-6)
    yield compare("slice", picture[:, 100:108, 200:216], case["chw_slice"])
    yield compare("resize", im.resize(picture, 104, 88), case["resize_104x88"], atol=1e-5)
    for name, width, height in (("104", 104, 104), ("160x96", 160, 96), ("96x160", 96, 160)):
        got = letterbox(picture, width, height)
        yield compare(f"letterbox {name}", got, case[f"letterbox_{name}"], atol=1e-5)
    stats = [box.mean(dtype=np.float64), (box.astype(np.float64) ** 2).sum()]
    yield compare("letterbox 416 statistics", stats, case["letterbox_416_stats"], rtol=1e-6)
    yield compare("letterbox 416", box[:, 40:120:4, ::4], case["letterbox_416_slice"], atol=1e-5)


def _small(case):
    c, picture = case.config, case["input"]
    p, r = c["place"], c["rotate_crop"]
    canvas = np.full((3, p["ch"], p["cw"]), im.GREY, np.float32)
    got = {
        "up": im.resize(picture, *c["up_wh"]),
        "down": im.resize(picture, *c["down_wh"]),
        "one_col": im.resize(picture[:, :, :1], 5, 7),
        "letterbox": letterbox(picture, *c["letterbox_wh"]),
        "letterbox_up": letterbox(picture, *c["letterbox_up_wh"]),
        "place": im.place(picture, p["w"], p["h"], p["dx"], p["dy"], canvas),
        "crop": im.crop(picture, *c["crop_dx_dy_w_h"]),
        "center_crop": im.centre_crop(picture, *c["center_crop_wh"]),
        "rotate_crop": im.rotate_crop(
            picture, r["rad"], r["s"], r["w"], r["h"], r["dx"], r["dy"], r["aspect"]
        ),
        "distort": im.distort(picture, *c["distort_hue_sat_exp"]),
        "hsv": im.rgb_to_hsv(picture),
        "hsv_back": im.hsv_to_rgb(im.rgb_to_hsv(picture)),
        "flip": im.flip(picture),
    }
    # The original divides 0/0 for the hue of a grey that is not black; it is 0 here.
    got["hsv"][0, (np.ptp(picture, axis=0) == 0) & (picture[0] > 0)] = np.nan
    for name, array in got.items():
        exact = name in ("crop", "flip")
        yield compare(name, array, case[name], atol=0 if exact else 1e-5)


@check("correct_boxes")
def correct_boxes_case(case):
    # The original subtracts its dx and dy; shifts are added here.
    c = case.config
    geometry = (c["sx"], c["sy"]), (-c["dx"], -c["dy"]), bool(c["flip"])
    if "boxes" in case:
        yield compare("boxes", correct_boxes(case["boxes"], *geometry), case["out"], atol=1e-6)
        return
    got = truth_rows(case["labels"].astype(np.float32), *geometry, max_labels=c["num_boxes"])

    # The golden rows are shuffled by a generator whose draws were not logged: compare as sets.
    def in_order(rows):
        return rows[np.lexsort(rows.round(4).T)]

    yield compare("truth as a set", in_order(got), in_order(case["truth"]), atol=1e-6)


@check("augment")
def augment_case(case):
    c, log = case.config, iter(case["draws"])
    draws = Draws(log)
    picture = im.load_normalise(case["image_u8"])
    colour = {name: c[name] for name in ("hue", "saturation", "exposure")}
    if c["kind"] == "detection":
        draws.integer(1)  # the loader's choice of the picture
        labels = case["labels"].astype(np.float32)
        got, truth = detection_example(
            picture,
            labels,
            draws,
            c["net_w"],
            c["net_h"],
            jitter=c["jitter"],
            max_labels=c["num_boxes"],
            **colour,
        )
        yield compare("truth", truth, case["truth"], atol=1e-6)
    else:
        got = classification_example(
            picture,
            draws,
            c["size"],
            c["min_crop"],
            c["max_crop"],
            angle=c["angle"],
            aspect=c["aspect"],
            centre=bool(c["center"]),
            **colour,
        )
    yield compare("picture", got, case["output"], atol=1e-5)
    yield compare("draws left over", len(list(log)), 0)

"""One data set in every format is one data set."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.test_voc import xml
from yolov2.data.sources import detect_format, open_train_val, read_split, splits_of
from yolov2.errors import Complaints, UserError

WIDTH, HEIGHT, NAMES = 128, 64, ("cat", "hot dog")
BOXES = st.lists(
    st.tuples(st.integers(0, 1), *[st.integers(0, 31)] * 2, *[st.integers(1, 32)] * 2), min_size=1, max_size=4
).filter(lambda boxes: {b[0] for b in boxes} == {0, 1})


def write_all(root, pictures):
    """Pictures with their boxes (class, xmin, ymin, width, height; pixels), in a folder for every format."""
    images, annotations = [], []
    for n, boxes in enumerate(pictures):
        folders = ("voc/train", "coco/train", "yolo/images/train", "darknet/obj_train_data")
        for folder in (root / name for name in folders):
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(folder / f"{n}.png")
        (root / "yolo/labels/train").mkdir(parents=True, exist_ok=True)
        objects = [(NAMES[c], (x, y, x + w, y + h)) for c, x, y, w, h in boxes]
        (root / f"voc/train/{n}.xml").write_text(xml(objects, (WIDTH, HEIGHT)))
        rows = "".join(
            f"{c} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"
            for c, x, y, w, h in boxes
        )
        (root / f"yolo/labels/train/{n}.txt").write_text(rows)
        (root / f"darknet/obj_train_data/{n}.txt").write_text(rows)
        images.append({"id": n, "file_name": f"{n}.png", "width": WIDTH, "height": HEIGHT})
        annotations += [
            {"id": len(annotations) + k, "image_id": n, "category_id": 5 + 3 * c, "bbox": [x, y, w, h]}
            for k, (c, x, y, w, h) in enumerate(boxes)
        ]
    categories = [{"id": 8, "name": NAMES[1]}, {"id": 5, "name": NAMES[0]}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "coco/train/_annotations.coco.json").write_text(json.dumps(content))
    (root / "yolo/data.yaml").write_text(f"train: images/train\nnames: {list(NAMES)}\n")
    # as CVAT exports it: the folder data of its paths is not there
    lines = "".join(f"data/obj_train_data/{n}.png\n" for n in range(len(pictures)))
    (root / "darknet/train.txt").write_text(lines)
    (root / "darknet/obj.names").write_text("\n".join(NAMES) + "\n")
    (root / "darknet/obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")


@settings(max_examples=10)
@given(st.lists(BOXES, min_size=2, max_size=3))
def test_the_same_boxes_come_out_of_every_format(pictures):
    with tempfile.TemporaryDirectory() as folder:
        write_all(Path(folder), pictures)
        datasets = {}
        for format in ("voc", "coco", "yolo", "darknet"):
            assert detect_format(Path(folder) / format) == format
            assert splits_of(Path(folder) / format) == ("train",)
            datasets[format] = read_split(Path(folder) / format, "train", complaints=Complaints())
        for data in datasets.values():
            assert data.names == NAMES and len(data) == len(pictures)
            for item, boxes in zip(data.items, pictures, strict=True):
                kept = np.array(list(dict.fromkeys(boxes)), float)
                centres = (kept[:, 1:3] + kept[:, 3:] / 2) / (WIDTH, HEIGHT)
                want = np.hstack([centres, kept[:, 3:] / (WIDTH, HEIGHT)])
                np.testing.assert_array_equal(item.boxes, want.astype(np.float32))
                np.testing.assert_array_equal(item.classes, kept[:, 0])
                assert (item.width, item.height) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("format", ["voc", "coco", "yolo", "darknet"])
def test_conventions_are_the_same_in_every_format(tmp_path, capsys, format):
    write_all(tmp_path, [[(0, 1, 2, 30, 30), (1, 5, 5, 20, 20)]] * 11)
    data = tmp_path / format
    train, val = open_train_val(data, ("hot-dog", "bird", "Cat"), Complaints(), format)
    assert (len(train), len(val)) == (9, 2) and train.names == val.names == ("hot-dog", "bird", "Cat")
    assert train.items[0].classes.tolist() == [2, 0]
    notes = capsys.readouterr().err
    assert "every tenth training picture is held out" in notes and "'hot dog' is taken for 'hot-dog'" in notes
    with pytest.raises(UserError, match=r"class 'hot dog' is not among the 2 known ones \(cat, hot doge\)"):
        open_train_val(data, ("cat", "hot doge"), Complaints())
    with pytest.raises(UserError, match="no split 'test'"):
        read_split(data, "test")

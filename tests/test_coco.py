"""COCO's json as COCO, Roboflow and CVAT lay it out, and what may be wrong in one."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from yolov2.data.coco import read_coco
from yolov2.data.sources import detect_format, open_dataset, open_train_val, splits_of
from yolov2.errors import Complaints, UserError

CATEGORIES = ({"id": 18, "name": "dog"}, {"id": 3, "name": "cat"})  # of 100x80 pixels: a cat, a crowd of dogs
BOXES = ((3, (10, 20, 20, 40), 0), (18, (50, 40, 50, 40), 1))


def content(stems="ab", boxes=BOXES, categories=CATEGORIES, **image):
    """A json's content with the same boxes for every picture."""
    images = [
        {"id": n, "file_name": f"{stem}.jpg", "width": 100, "height": 80} | image
        for n, stem in enumerate(stems)
    ]
    annotations = [
        {
            "id": 100 * n + k,
            "image_id": n,
            "category_id": c,
            "bbox": box,
            "iscrowd": crowd,
            "segmentation": [[1]],
        }
        for n in range(len(stems))
        for k, (c, box, crowd) in enumerate(boxes)
    ]
    return {"images": images, "annotations": annotations, "categories": list(categories)}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def pictures(folder, stems):
    folder.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        Image.new("RGB", (100, 80), "teal").save(folder / f"{stem}.jpg")


def one(folder, **changes):
    """The single item of a json, and the complaints about it."""
    pictures(folder, "a")
    complaints = Complaints()
    return read_coco(write(folder / "a.json", content("a", **changes)), "train", complaints).items[
        0
    ], complaints


def test_categories_are_numbered_by_id_and_crowds_are_difficult(tmp_path):
    pictures(tmp_path, "ab")
    data = read_coco(write(tmp_path / "any.json", content()), "train", complaints := Complaints())
    assert data.names == ("cat", "dog") and [item.id for item in data.items] == ["0", "1"]
    item = data.items[1]
    np.testing.assert_array_equal(item.boxes, np.float32([[0.2, 0.5, 0.2, 0.5], [0.75, 0.75, 0.5, 0.5]]))
    assert item.boxes.dtype == np.float32 and item.classes.dtype == np.int64
    assert item.classes.tolist() == [0, 1] and item.difficult.tolist() == [False, True]
    assert data.picture(1).size == (100, 80) and not complaints.counts


@pytest.mark.parametrize(
    "json_of, pictures_of",
    [
        ("annotations/instances_{0}2017.json", "{0}2017"),
        ("annotations/instances_{0}2017.json", "images/{0}2017"),
        ("annotations/instances_{0}.json", "images"),
        ("annotations/{0}.json", "images/{0}"),
        ("{0}/_annotations.coco.json", "{0}"),
        ("{0}.json", "JPEGImages"),
        ("packed/{0}_annotations.coco.json", "packed/{0}"),
    ],
)
def test_layouts(tmp_path, json_of, pictures_of):
    for split, stems in (("train", "ab"), ("val", "c")):
        write(tmp_path / json_of.format(split), content(stems))
        pictures(tmp_path / pictures_of.format(split), stems)
    if json_of.startswith("annotations/inst"):
        write(tmp_path / "annotations" / "captions_train2017.json", {})
    assert detect_format(tmp_path) == "coco" and splits_of(tmp_path) == ("train", "val")
    train, val = open_train_val(tmp_path, None, complaints := Complaints())
    assert (len(train), len(val)) == (2, 1) and not complaints.counts


def test_one_json_is_divided_unless_its_name_says_its_split(tmp_path, capsys):
    stems = [f"p{n}" for n in range(20)]
    pictures(tmp_path, stems)
    write(tmp_path / "annotations" / "instances_default.json", content(stems))
    write(tmp_path / "annotations" / "instances_val.json", content(stems))
    with pytest.raises(UserError, match="no split 'train', there is val"):
        open_dataset(tmp_path / "annotations" / "instances_val.json", "train")
    assert len(open_dataset(tmp_path / "annotations" / "instances_val.json", "val")) == 20
    (tmp_path / "annotations" / "instances_val.json").unlink()
    train, val = open_train_val(tmp_path, None, Complaints())
    assert (len(train), len(val)) == (18, 2) and "held out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes, kind, place",
    [
        ({"boxes": [(3, (10, 20, 0, 40), 0)]}, "empty boxes dropped", "(image 0, annotation 0)"),
        (
            {"boxes": [(3, (90, 20, 30, 40), 0)]},
            "boxes reaching outside clipped to the picture",
            "annotation 0",
        ),
        ({"boxes": [BOXES[0], BOXES[0]]}, "repeated boxes dropped", "annotation 1"),
        ({"boxes": [(7, (10, 20, 20, 40), 0)]}, "annotations of unknown categories dropped", "annotation 0"),
        ({"boxes": [(3, (10, 20, 20), 0)]}, "boxes without four numbers dropped", "annotation 0"),
        ({"boxes": [(3, "box", 0)]}, "boxes without four numbers dropped", "annotation 0"),
        ({"boxes": [(3, (float("nan"), 1, 2, 3), 0)]}, "boxes without four numbers dropped", "annotation 0"),
        ({"boxes": [(3, (10**400, 1, 2, 3), 0)]}, "boxes without four numbers dropped", "annotation 0"),
        ({"width": 80}, "wrong width and height replaced by the picture's own", "(image 0)"),
    ],
)
def test_what_is_wrong_is_counted_with_its_id(tmp_path, changes, kind, place):
    item, complaints = one(tmp_path, **changes)
    ((got, where),) = complaints
    assert got == kind and place in where and "a.json" in where
    assert len(item.boxes) == ("clipped" in kind or "repeated" in kind or 2 * ("width" in kind))


def test_pictures_and_images_that_do_not_fit(tmp_path):
    pictures(tmp_path, "a")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no more")
    os.mkfifo(tmp_path / "fifo.jpg")  # would hang who opens it
    made = content(["a", "absent", "broken", "fifo"])
    made["images"] += [{"id": 0, "file_name": "a.jpg"}, {"id": None}, 5]
    made["annotations"] += [{"image_id": 99}, "text"]
    data = read_coco(write(tmp_path / "x.json", made), "train", complaints := Complaints())
    assert [item.path.name for item in data.items] == ["a.jpg"]
    assert complaints.counts == {
        "annotations without an image_id dropped": 1,
        "listed pictures without files left out": 2,
        "unreadable pictures left out": 1,
        "repeated images left out": 1,
        "images without id or file_name left out": 2,
        "boxes of images that are not listed": 1,
    }


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/secret.jpg", "..\\..\\secret.jpg"])
def test_a_file_name_cannot_leave_the_set(tmp_path, name):
    pictures(tmp_path, ["secret"])
    pictures(tmp_path / "sets" / "mine", "a")
    made = content("ab")
    made["images"][1]["file_name"] = name
    path = write(tmp_path / "sets" / "mine" / "annotations" / "instances_train.json", made)
    with pytest.raises(UserError, match=r"instances_train\.json: file_name .* leads out of"):
        read_coco(path.parent.parent, "train", Complaints())


@pytest.mark.parametrize(
    "made, message",
    [
        ("{", r"any\.json:1: not a json file"),
        ("[" * 100_000, "not a json file"),
        ("9" * 5000, "not a json file"),
        ("[]", "no list of 'images'"),
        (content(categories=[]), "no class names"),
        (content(categories=[{"id": 1, "name": "a\x1b[31m"}]), "name of class 0 is not one line of text"),
        (content(categories=[{"id": 1, "name": "a"}] * 2), "two categories with the id 1"),
        (content(categories=[{"id": "1", "name": "a"}]), "without a whole number"),
        (content(["absent"]), r"no usable picture among 1; looked for absent\.jpg in .*images"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, made, message):
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match=message) as caught:
        read_coco(write(tmp_path / "any.json", made), "train", Complaints())
    assert str(caught.value).isprintable()


def test_json_beyond_the_limit_is_refused_unread(tmp_path):
    with (tmp_path / "big.json").open("wb") as file:
        file.truncate((1 << 30) + 1)  # a hole, no bytes on the disk
    with pytest.raises(UserError, match=r"big\.json: 1,024.0 MiB, too much"):
        read_coco(tmp_path / "big.json", "train", Complaints())


def test_names_in_another_order_and_spelling(tmp_path, capsys):
    pictures(tmp_path, "ab")
    path = write(
        tmp_path / "any.json", content(categories=[{"id": 3, "name": "Traffic light"}, CATEGORIES[0]])
    )
    data = open_dataset(path, "train", names=("dog", "zebra", "traffic_light"))
    assert data.names == ("dog", "zebra", "traffic_light") and data.items[0].classes.tolist() == [2, 0]
    assert "'Traffic light' is taken for 'traffic_light'" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"class 'dog' is not among the 2 .* did you mean 'dogs'"):
        open_dataset(path, "train", names=("dogs", "traffic light"))

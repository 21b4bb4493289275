"""Pictures with one class each: class folders, Darknet's lists, crops of objects."""

from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from tests.golden import DATA
from yolov2.data.class_folders import object_crops, open_classification
from yolov2.data.dataset import Dataset, Item
from yolov2.errors import Complaints, UserError

COLOURS = {"cat": (200, 0, 0), "dog": (0, 200, 0)}


def add(folder, name, count):
    """Pictures of a class in its colour, with a file that is none."""
    (folder / name).mkdir(parents=True)
    (folder / name / "notes.txt").touch()
    for n in range(count):
        Image.new("RGB", (20, 10), COLOURS.get(name, "blue")).save(folder / name / f"{n:02}.png")


def test_folders_of_splits(tmp_path):
    for split, counts in (("train", (3, 2)), ("Valid", (1, 4))):
        for name, count in zip(("dog", "cat"), counts, strict=True):
            add(tmp_path / "set" / split, name, count)
    train, val = (open_classification(tmp_path, split) for split in ("train", "val"))
    assert train.names == val.names == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 1, 1, 1] and train.labels.dtype == np.int64
    assert val.labels.tolist() == [0, 0, 0, 0, 1] and len(val) == 5
    for index, label in enumerate(train.labels):
        picture = train.picture(index)
        assert picture.mode == "RGB" and picture.getpixel((0, 0)) == COLOURS[train.names[label]]


def test_without_splits_every_tenth_of_each_class_is_held_out(tmp_path, capsys):
    add(tmp_path, "cat", 21)
    add(tmp_path, "dog", 2)
    add(tmp_path, "rare", 1)
    train, val = (open_classification(tmp_path, split) for split in ("train", "val"))
    assert "every tenth picture of each class is held out" in capsys.readouterr().err
    assert np.bincount(train.labels).tolist() == [18, 1, 1] and np.bincount(val.labels).tolist() == [3, 1]
    assert not {*train.paths} & {*val.paths} and len({*train.paths, *val.paths}) == 24


def test_classes_of_a_network_are_found_by_name(tmp_path, capsys):
    add(tmp_path / "train", "hot_dog", 2)
    add(tmp_path / "train", "cat", 1)
    add(tmp_path / "test", "cat", 1)
    data = open_classification(tmp_path, "train", ("Hot dog", "bird", "cat"))
    assert data.labels.tolist() == [2, 0, 0]
    assert "'hot_dog' is taken for 'Hot dog'" in capsys.readouterr().err
    assert len(open_classification(tmp_path, "val", ("Hot dog", "bird", "cat"))) == 1
    assert "its test split takes that place" in capsys.readouterr().err
    with pytest.raises(UserError, match="hot_dog: class 'hot_dog' is not among the 1"):
        open_classification(tmp_path, "train", ("cat",))


def test_classes_that_a_split_lacks_are_counted(tmp_path):
    add(tmp_path / "train", "cat", 1)
    add(tmp_path / "train", "empty", 0)
    add(tmp_path / "val", "dog", 1)
    data = open_classification(tmp_path, "train", complaints=(complaints := Complaints()))
    assert data.names == ("cat", "dog", "empty") and len(data) == 1
    assert complaints.counts == {"classes of val that train lacks": 1, "class folders without pictures": 1}


def test_what_cannot_work_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        open_classification(tmp_path / "absent", "train")
    with pytest.raises(UserError, match="no class folders"):
        open_classification(tmp_path, "train")
    add(tmp_path, "Annotations", 1)
    add(tmp_path, "JPEGImages", 1)
    with pytest.raises(UserError, match="detection set are cut out with crops"):
        open_classification(tmp_path, "train")
    add(tmp_path / "set" / "train", "cat", 1)
    with pytest.raises(UserError, match="no split 'test', there is train"):
        open_classification(tmp_path / "set", "test")
    (tmp_path / "set" / "train" / "cat" / "00.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"00\.png: cannot be read as a picture"):
        open_classification(tmp_path / "set", "train").picture(0)


def test_darknets_lists(tmp_path):
    """A label is a part of the path as it is listed (SPEC 18), and has to be the only one."""
    add(tmp_path / "cat_pictures", "n01", 3)
    add(tmp_path / "cat_pictures", "n02", 1)
    add(tmp_path / "cat_pictures", "n01n02", 1)
    add(tmp_path / "cat_pictures", "other", 1)
    (tmp_path / "labels.txt").write_text("n02\nn01\n")
    (tmp_path / "names.txt").write_text("dog\ncat\n")
    rows = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png"))
    (tmp_path / "train.list").write_text("\n".join(rows))
    (tmp_path / "valid.list").write_text(rows[0])
    path = tmp_path / "a.data"
    lines = [
        "classes=2",
        "labels = labels.txt",
        "train = train.list",
        "valid = valid.list",
        "names = names.txt",
    ]
    path.write_text("\n".join(lines))
    data = open_classification(path, "train", complaints=(complaints := Complaints()))
    assert data.names == ("dog", "cat") and data.labels.tolist() == [0, 1, 1, 1]
    assert [p.parent.name for p in data.paths] == ["n02", "n01", "n01", "n01"]
    assert complaints.counts == {
        "pictures with several labels in their path left out": 1,
        "pictures with none of the labels in their path left out": 1,
    }
    assert len(open_classification(path, "val")) == 1


def item(boxes, difficult):
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[20:60, 40:120] = 255
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    classes = np.arange(len(boxes)) % 2
    return Item("a", 200, 100, boxes, classes, np.array(difficult, bool), pixels=pixels)


def test_objects_are_cut_out_with_a_margin():
    # pixels 40..120 x 20..60; the whole picture; too small; difficult
    boxes = [(0.4, 0.4, 0.4, 0.4), (0.5, 0.5, 1, 1), (0.5, 0.5, 0.05, 0.5), (0.5, 0.5, 0.5, 0.5)]
    data = Dataset(("a", "b"), [item([], []), item(boxes, [0, 0, 0, 1])])
    crops = object_crops(data, margin=0.25)
    assert crops.names == ("a", "b") and crops.labels.tolist() == [0, 1] and crops.items.tolist() == [1, 1]
    # 80x40 pixels and a quarter of that on every side; the picture ends the other
    assert crops.corners.tolist() == [[20, 10, 140, 70], [0, 0, 200, 100]]
    picture = np.asarray(crops.picture(0))
    assert picture.shape == (60, 120, 3) and picture.dtype == np.uint8
    assert (picture[10:50, 20:100] == 255).all() and picture[:10].max() == picture[:, :20].max() == 0
    with pytest.raises(UserError, match="no object of 16 pixels"):
        object_crops(Dataset(("a",), [item([], [])]))


def test_crops_of_detection_sets_are_opened_by_one_call(small_data):
    crops = open_classification(small_data, "train", crops=True)
    assert crops.names == ("blue", "red") and crops.labels.tolist() == [0, 1] * 3
    for index, label in enumerate(crops.labels):
        centre = np.asarray(crops.picture(index))[15, 15]
        assert centre[0 if label else 2] == 230


@pytest.mark.skipif(not DATA.is_dir(), reason=f"REAL DATA NOT CHECKED: {DATA} is absent")
def test_real_pictures_of_imagenet(tmp_path):
    with ZipFile(DATA / "imagenet_sample_160.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if "/n020" in name])
    data = open_classification(tmp_path, "train")
    assert len(data) == len(data.names) == 83
    assert data.picture(0).mode == "RGB" and data.labels.tolist() == list(range(len(data)))

"""Label files a picture each: data.yaml, folders, Darknet's .data; rows, paths, and what may be wrong."""

import os
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.golden import DATA
from yolov2.data.boxes import Boxes
from yolov2.data.files import unpacked
from yolov2.data.labels import add_rows, label_paths, unique_ids
from yolov2.data.sources import detect_format, open_dataset, open_train_val, read_split, splits_of
from yolov2.data.yolo import read_yaml
from yolov2.errors import Complaints, UserError

ROW = "1 .2 .5 .2 .5\n"


def add(folder, stem, rows=ROW, labels=None, size=(100, 80)):
    """A picture and its label file: in `labels`, or where the folder images becomes labels."""
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(folder / f"{stem}.jpg")
    if rows is not None:
        labels = labels or Path(str(folder).replace("images", "labels"))
        labels.mkdir(parents=True, exist_ok=True)
        (labels / f"{stem}.txt").write_bytes(rows if isinstance(rows, bytes) else rows.encode())


def add_splits(root, pictures="images/{0}"):
    for split, stem in (("train", "a"), ("train", "b"), ("val", "c")):
        add(root / pictures.format(split), stem)


@pytest.fixture
def yolo(tmp_path):
    """A set with a data.yaml, in a folder of its own."""
    root = tmp_path / "mine"
    add_splits(root)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 2\nnames: [cat, no]\n")
    return root


def rows(text, classes=2):
    """Boxes of a label file for a picture of 100x80, and the complaints about it."""
    complaints = Complaints()
    boxes = Boxes(100, 80, complaints)
    add_rows(boxes, text.split("\n"), classes, Path("a.txt"), complaints)
    return boxes.item("a", Path("a.jpg")), list(complaints)


def test_a_yaml_and_its_folder(yolo):
    for data in (yolo, yolo / "data.yaml"):
        assert detect_format(data) == "yolo" and splits_of(data) == ("train", "val")
        train, val = open_train_val(data, None, complaints := Complaints())
        assert train.names == val.names == ("cat", "no")  # the yaml's no is a name, not false
        assert [item.id for item in train.items] == ["a", "b"] and not complaints.counts
        np.testing.assert_array_equal(val.items[0].boxes, np.float32([[0.2, 0.5, 0.2, 0.5]]))
        assert val.items[0].classes.tolist() == [1] and not val.items[0].difficult.any()


@pytest.mark.parametrize(
    "text",
    [
        "path: mine\ntrain: images/train\nvalid: [images/val]\nnames: {0: cat, 1: dog}",
        "path: {root}/mine\ntrain: images/train\nval: [images/val]\nnames:\n  1: dog\n  0: cat",
        "path: mine\ntrain: train.txt\nval: {root}/mine/images/val\ntest:\nnames: [cat, dog]",
        "train: mine/images/train\nval: ../mine/images/val\nnames: [cat, dog]",  # as Roboflow writes
    ],
)
def test_what_yamls_say(yolo, text):
    (yolo / "train.txt").write_text("./images/train/a.jpg\n\nimages/train/b.jpg\n")
    path = yolo.parent / "set.yml"
    path.write_text(text.format(root=yolo.parent) if "{root}" in text else text)
    train, val = open_train_val(path, None, complaints := Complaints())
    assert train.names == ("cat", "dog") and (len(train), len(val)) == (2, 1) and not complaints.counts


@pytest.mark.parametrize(
    "text, message",
    [
        ("names: [a]\ntrain: /etc", "train: /etc leads out of"),
        ("names: [a]\ntrain: ../../etc", "leads out of"),
        ("names: [a]\ntrain: images/absent", "absent is no folder"),
        ("names: [a]\ntrain: {a: b}", "have to be paths"),
        ("names: [a]\npath: [a]\ntrain: images", "have to be paths"),
        ("names: [a]\npath: absent\ntrain: images", "absent is no folder"),
        ("names: {0: a, 2: b}\ntrain: images", "are not 0 to 1"),
        ("names: [[a]]\ntrain: images", "name of class 0"),
        ("names: [a]\nnc: 2\ntrain: images", "1 names, but nc is 2"),
        ("names: [a]\nnc: [2]\ntrain: images", "nc is not a number"),
        ("train: images", "no names"),
        ("names: [a\ntrain: images", r"data\.yaml:2: not a yaml file"),
        ("names: !!python/object/apply:os.system [a]\ntrain: {a: b}", "have to be paths"),
        ("[" * 5000, "not a yaml file"),
        ("- a", "not a yaml of keys"),
        ("names: [a]\nval: images/val", "no split 'train', there is val"),
    ],
)
def test_yamls_that_cannot_work_are_one_line(yolo, text, message):
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        open_dataset(yolo / "data.yaml", "train")
    assert "data.yaml" in str(caught.value) and str(caught.value).isprintable()


def test_aliases_of_aliases_stay_small(tmp_path):
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))]
    merged = [f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}" for n in range(1, 30)]
    path = tmp_path / "data.yaml"
    path.write_text("\n".join([*lines, "m0: &m0 {a: b}", *merged, "names: *a29", "train: ."]))
    assert len(read_yaml(path)) == 62
    with pytest.raises(UserError, match="name of class 0"):
        open_dataset(path, "train")


@pytest.mark.parametrize("pictures", ["images/{0}", "images/{0}2017", "{0}/images", "packed/images/{0}"])
def test_folders_without_a_yaml(tmp_path, pictures, capsys):
    add_splits(tmp_path, pictures)
    assert detect_format(tmp_path) == "yolo" and set(splits_of(tmp_path)) == {"train", "val"}
    train, val = open_train_val(tmp_path, None, Complaints())
    assert train.names == ("class0", "class1") and (len(train), len(val)) == (2, 1)
    assert "no data.yaml or classes.txt; its 2 classes are called class0 to class1" in capsys.readouterr().err
    (tmp_path / "README.md").touch()
    (unpacked(tmp_path) / "classes.txt").write_text("cat\ndog\n\n")
    assert open_dataset(tmp_path, "val").names == ("cat", "dog")


def test_pictures_beside_their_labels(tmp_path, capsys):
    for n in range(20):
        add(tmp_path / "set", f"p{n}")
    (tmp_path / "set" / "classes.txt").write_text("cat\ndog")
    train, val = open_train_val(tmp_path / "set", None, Complaints())
    assert (len(train), len(val)) == (18, 2) and "held out" in capsys.readouterr().err


def test_roboflows_darknet_export(tmp_path):
    for split in ("train", "valid"):
        add(tmp_path / split, "a")
        (tmp_path / split / "_darknet.labels").write_text("cat\ndog\n")
    train, val = open_train_val(tmp_path, None, complaints := Complaints())
    assert (len(train), len(val), train.names) == (1, 1, ("cat", "dog")) and not complaints.counts


def test_the_labels_of_a_picture():
    paths = [str(path) for path in label_paths(Path("/images/x/images/some/a.b.jpg"))]
    assert paths == [
        "/images/x/labels/some/a.b.txt",
        "/labels/x/images/some/a.b.txt",
        "/images/x/images/some/a.b.txt",
    ]
    assert str(next(label_paths(Path("VOC/JPEGImages/a.jpg")))) == "VOC/labels/a.txt"
    assert "mylabels/a.txt" in map(
        str, label_paths(Path("myimages/a.png"))
    )  # Darknet replaces any part (SPEC 15)


def test_pictures_without_labels_are_background(yolo, capsys):
    add(yolo / "images" / "train", "bare", None)
    add(yolo / "images" / "train", "empty", "")
    data = open_dataset(yolo, "train", complaints=(complaints := Complaints()))
    assert [len(item.boxes) for item in data.items] == [1, 1, 0, 0] and not complaints.counts
    err = capsys.readouterr().err
    assert err.count("note: ") == 1 and "1 of 4 pictures of train have no label file" in err
    for path in (yolo / "labels" / "val").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no picture of 'val' has a label file"):
        open_dataset(yolo, "val")


@pytest.mark.parametrize(
    "text, kept, kind, line",
    [
        ("0 .5 .5 .2 .2\n\n1 .5 .5 .2 .2\n\n\n", 2, "blank lines in label files passed over", 2),
        ("0 .5 .5 .2 0", 0, "empty boxes dropped", 1),
        ("0 .5 .5 1.2 .2", 1, "boxes reaching outside clipped to the picture", 1),
        ("0 5 5 1 1", 0, "boxes reaching outside clipped to the picture", 1),  # pixels
        ("0 .5 .5 .2 .2\n0.0 .50 .5 .2 .2", 1, "repeated boxes dropped", 2),
        ("2 .5 .5 .2 .2", 0, "rows of other classes than 0 to 1 dropped", 1),
        ("-1 .5 .5 .2 .2", 0, "rows of other classes than 0 to 1 dropped", 1),
        (".5 .5 .5 .2 .2", 0, "rows of other classes than 0 to 1 dropped", 1),
        ("nan .5 .5 .2 .2", 0, "rows of other classes than 0 to 1 dropped", 1),
        ("0 .5 .5 .2", 0, "rows without class x y w h dropped", 1),
        ("0 .5 .5 .2 .2 .9", 0, "rows without class x y w h dropped", 1),
        ("cat .5 .5 .2 .2", 0, "rows of what is no number dropped", 1),
        ("0 .5 nan .2 .2", 0, "boxes without four numbers dropped", 1),
        ("0 .5 inf .2 .2", 0, "boxes without four numbers dropped", 1),
        ("0 1e308 1e308 1e308 1e308", 0, "boxes without four numbers dropped", 1),
        ("0 .1 .2 .3 .2 .3 .6", 1, "polygons replaced by the boxes around them", 1),
    ],
)
def test_rows(text, kept, kind, line):
    item, complaints = rows(text)
    assert len(item.boxes) == kept and complaints[0] == (kind, f"a.txt:{line}")
    if "polygons" in kind:
        np.testing.assert_allclose(item.boxes, [[0.2, 0.4, 0.2, 0.4]], rtol=1e-6)


@given(st.lists(st.tuples(*[st.integers(0, 1)], *[st.integers(16, 48)] * 2, *[st.integers(1, 16)] * 2)))
def test_whole_boxes_come_back_as_they_were_written(found):
    """On the 1/64 grid, in float32, in order, the first of equal ones."""
    text = "\n".join(f"{c} {x / 64} {y / 64} {w / 64} {h / 64}" for c, x, y, w, h in found)
    item, _ = rows(text)
    want = np.array(list(dict.fromkeys(found)), float).reshape(-1, 5)
    np.testing.assert_array_equal(item.boxes, np.float32(want[:, 1:] / 64))
    np.testing.assert_array_equal(item.classes, want[:, 0])


@given(st.text(max_size=200))
def test_any_text_as_labels_is_counted(text):
    item, complaints = rows(text)
    lines = [line for line in text.rstrip().split("\n") if text.strip()]
    assert len(item.boxes) + len(complaints) >= len(lines) * (len(complaints) > 0)
    assert np.isfinite(item.boxes).all()


def test_a_label_file_of_gigabytes_and_a_fifo_are_left_out(yolo):
    with (yolo / "labels" / "train" / "a.txt").open("wb") as file:
        file.truncate(5 << 30)
    (yolo / "images" / "train" / "b.jpg").unlink()
    os.mkfifo(yolo / "images" / "train" / "b.jpg")
    add(yolo / "images" / "train", "c")
    data = open_dataset(yolo, "train", complaints=(complaints := Complaints()))
    assert [item.id for item in data.items] == ["c"]
    assert complaints.counts == {
        "pictures with unreadable labels left out": 1,
        "unreadable pictures left out": 1,
    }
    assert any("a.txt: 5,120.0 MiB" in where for _, where in complaints)


def darknet_set(root, text="", lists=("train", "valid")):
    """A folder like Darknet's: cfg/a.data, data/a.names, data/train.txt, and pictures elsewhere."""
    add_splits(root / "pictures")
    (root / "cfg").mkdir()
    (root / "data").mkdir()
    (root / "data" / "a.names").write_text("cat\ndog\n")
    for key, stems in (("train", ("train/a", "train/b")), ("valid", ("val/c",))):
        rows = [str(root / "pictures" / "images" / f"{stem}.jpg") for stem in stems]
        (root / "data" / f"{key}.txt").write_text("\n".join(rows) + "\n")
    lines = [
        "classes= 2",
        *(f"{key}  = data/{key}.txt" for key in lists),
        "names = data/a.names",
        "backup = /x",
    ]
    path = root / "cfg" / "a.data"
    path.write_text(text or "\n".join(["# of mine", ";", *lines, "train = second"]) + "\n")
    return path


def test_darknets_data_files(tmp_path):
    path = darknet_set(tmp_path / "darknet")
    for data in (path, path.parent):
        assert detect_format(data) == "darknet" and splits_of(data) == ("train", "val")
    train, val = open_train_val(path, None, complaints := Complaints())
    assert train.names == ("cat", "dog") and (len(train), len(val)) == (2, 1) and not complaints.counts
    train, _ = open_train_val(path, ("dog", "bird", "cat"), Complaints())
    assert train.items[0].classes.tolist() == [0]


def test_lists_are_searched_from_several_folders_and_what_is_wrong_is_counted(tmp_path, monkeypatch):
    root = tmp_path / "darknet"
    path = darknet_set(root, lists=("train",))
    lines = ["pictures/images/train/a.jpg", "", "pictures/images/train/a.jpg", "absent.jpg", "here.jpg", "\0"]
    (root / "data" / "train.txt").write_text("\n".join(lines))
    add(tmp_path / "elsewhere", "here")
    monkeypatch.chdir(tmp_path / "elsewhere")
    data = read_split(path, "train", complaints=(complaints := Complaints()))
    assert [item.path.name for item in data.items] == ["a.jpg", "here.jpg"]
    assert complaints.counts == {
        "listed pictures without files left out": 2,
        "repeated names in a list dropped": 1,
    }
    assert any("train.txt:3" in where for _, where in complaints)


@pytest.mark.parametrize(
    "text, message",
    [
        ("classes", r"a\.data:1: not a line of the form"),
        ("names = data/a.names", r"a\.data: no split 'train'"),
        ("train = data/train.txt", "no line names = FILE"),
        ("train = data/train.txt\nnames = absent", "absent: no such file"),
        ("train = data/train.txt\nnames = data/a.names\nclasses = 3", "classes = 3, but there are 2 names"),
        ("train = data/a.names\nnames = data/a.names", "no picture that it names is there, e.g. cat"),
        ("train = /dev/zero\nnames = data/a.names", "no such file"),
        ("train = data/train.txt\nnames = /etc/passwd", "passwd: not called like a list of names"),
    ],
)
def test_data_files_that_cannot_work_are_one_line(tmp_path, text, message):
    path = darknet_set(tmp_path / "darknet", text)
    with pytest.raises(UserError, match=message):
        read_split(path, "train")


def test_a_list_reads_nothing_but_pictures(tmp_path):
    path = darknet_set(tmp_path / "darknet")
    (tmp_path / "secret").write_text("password")
    (path.parent.parent / "data" / "train.txt").write_text(f"{tmp_path}/secret\n/dev/zero\n")
    with pytest.raises(UserError, match="no usable picture among 1"):
        read_split(path, "train")


def test_programs_and_gigabytes_are_no_pictures(yolo):
    """Pillow would have Ghostscript run the one, and read all of the other."""
    folder = yolo / "images" / "train"
    (folder / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    Image.new("RGB", (9, 9)).save(folder / "b.jpg", "WEBP")
    os.truncate(folder / "b.jpg", 5 << 30)
    add(folder, "c")
    data = open_dataset(yolo, "train", complaints=(complaints := Complaints()))
    assert [item.id for item in data.items] == ["c"]
    assert complaints.counts == {"unreadable pictures left out": 2}


def test_several_formats_in_one_folder(yolo, capsys):
    darknet_set(yolo / "more").replace(yolo / "a.data")
    assert open_dataset(yolo, "train").names == ("cat", "no")
    assert "read as yolo; it holds darknet too, see --format" in capsys.readouterr().err
    (yolo / "other.yaml").write_text("train: x")
    with pytest.raises(UserError, match="several data sets, name one"):
        open_dataset(yolo, "train", format="yolo")
    with pytest.raises(UserError, match=r"looked for Pascal VOC .* COCO .* YOLO .* Darknet"):
        detect_format(yolo.parent / "mine" / "images" / "train")


def test_ids_are_unique():
    assert unique_ids([Path("/x/a/1.jpg"), Path("/x/b/1.jpg")]) == ["a/1", "b/1"]
    assert unique_ids([Path("/x/1.jpg"), Path("/x/1.png")]) == ["1.jpg", "1.png"]
    assert unique_ids([Path("/x/1.jpg"), Path("/x/2.png")]) == ["1", "2"]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"REAL DATA NOT CHECKED: {DATA} is absent")
def test_real_coco128_opens_as_it_lies(tmp_path):
    with ZipFile(DATA / "coco128_416.zip") as archive:
        archive.extractall(tmp_path)
    train, val = open_train_val(tmp_path, None, complaints := Complaints())
    assert (len(train), len(val), len(train.names)) == (128, 128, 80) and not complaints.counts
    assert sum(len(item.boxes) for item in train.items) == 929
    assert train.names[0] == "person" and sum(not len(item.boxes) for item in train.items) == 2

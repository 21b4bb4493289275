"""python -m yolov2.check: every kind of problem is planted once and has to be found, with its place."""

import csv
import json
import os
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from tests.commands import assert_refused, command, make_voc
from tests.golden import SHARED
from tests.pictures import photograph
from yolov2 import check
from yolov2.checking import pictures
from yolov2.checking.boxes import fit
from yolov2.checking.classes import alike
from yolov2.checking.mosaic import choose
from yolov2.checking.pictures import fingerprint, lookalikes, repeated
from yolov2.checking.problems import complained
from yolov2.checking.report import table
from yolov2.data.dataset import Dataset, Item
from yolov2.errors import Complaints

BOX = "0 .5 .5 .4 .4\n"
ANCHORS = ((1.0, 1.0), (3.0, 3.0))


def add(folder, split, stem, rows=BOX, seed=0, **save):
    """A picture of a YOLO data set and its rows; None leaves the label file out."""
    path = folder / "images" / split / (stem if "." in stem else f"{stem}.png")
    labels = folder / "labels" / split / f"{path.stem}.txt"
    for parent in (path.parent, labels.parent):
        parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photograph(64, 48, seed)).save(path, **save)
    if rows is not None:
        labels.write_text(rows)
    return path


def checked(capsys, data, *flags, out):
    """Status, what was printed, and the rows of problems.csv; of paths only the name is left."""
    capsys.readouterr()
    status = command(check.main, data, "--out", out, "--imgsz", 416, "--mosaic", 4, *flags)
    text = capsys.readouterr().out
    with open(out / "problems.csv", newline="") as file:
        rows = [{**row, "file": os.path.basename(row["file"])} for row in csv.DictReader(file)]
    return status, text, [tuple(row.values()) for row in rows]


def places(rows):
    return sorted(row[:5] for row in rows)


@pytest.fixture
def clean(tmp_path):
    """A data set in which nothing is wrong."""
    folder = tmp_path / "set"
    for i in range(4):
        add(folder, "train", f"t{i}", BOX + "1 .2 .2 .3 .3\n", seed=i)
        add(folder, "val", f"v{i}", "1 .5 .5 .4 .4\n0 .2 .2 .3 .3\n", seed=10 + i)
    (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


def test_nothing_is_wrong(clean, tmp_path, capsys):
    status, text, rows = checked(capsys, clean, out=tmp_path / "out")
    assert status == 0 and rows == []
    assert text.splitlines()[:3] == [
        "split  pictures  background  boxes  difficult  per picture  sizes",
        "train         4           0      8          0    2 / 2 / 2  64x48",
        "val           4           0      8          0    2 / 2 / 2  64x48",
    ]
    assert "errors: 0, hints: 0" in text and "\nerrors\n" not in text and "\nhints\n" not in text
    assert Image.open(tmp_path / "out" / "mosaic.png").size[0] > 4 * 300
    assert Image.open(tmp_path / "out" / "boxes.png").size[0] > 500


def test_every_kind_of_problem_is_found_with_file_and_line(clean, tmp_path, capsys):
    rows = {
        "zero": "0 .5 .5 0 .4\n",
        "outside": "0 .9 .5 .6 .4\n",
        "double": "1 .5 .5 .4 .4\n",
        "unknown": "7 .5 .5 .4 .4\n",
        "blank": "\n0 .3 .3 .2 .2\n",
        "short": "0 .5 .5 .4\n",
        "words": "cat .5 .5 .4 .4\n",
        "infinite": "0 .5 .5 inf .4\n",
        "negative": "0 .2 .2 -.3 .3\n",
    }
    for i, (stem, row) in enumerate(rows.items()):
        add(clean, "train", stem, "1 .5 .5 .4 .4\n" + row, seed=20 + i)
    add(clean, "train", "bare", None, seed=40)
    add(clean, "train", "broken", seed=41).write_bytes(b"no picture")
    cut = add(clean, "train", "cut.jpg", seed=42)
    cut.write_bytes(cut.read_bytes()[:-400])
    add(clean, "train", "again", seed=0)  # the picture of t0
    add(clean, "val", "bytes", seed=20)  # of zero
    add(clean, "val", "pixels.bmp", seed=21)  # of outside
    add(clean, "val", "look.jpg", seed=22, quality=60)  # of double
    (clean / "classes.txt").write_text("dining table\ndiningtable\nlamp\n")

    status, text, found = checked(capsys, clean, out=tmp_path / "out")
    want = [
        ("error", "empty boxes dropped", "train", "zero.txt", "2"),
        ("error", "boxes reaching outside clipped to the picture", "train", "outside.txt", "2"),
        ("error", "repeated boxes dropped", "train", "double.txt", "2"),
        ("error", "rows of other classes than 0 to 2 dropped", "train", "unknown.txt", "2"),
        ("error", "blank lines in label files passed over", "train", "blank.txt", "2"),
        ("error", "rows without class x y w h dropped", "train", "short.txt", "2"),
        ("error", "rows of what is no number dropped", "train", "words.txt", "2"),
        ("error", "boxes without four numbers dropped", "train", "infinite.txt", "2"),
        ("error", "boxes with min and max swapped turned round", "train", "negative.txt", "2"),
        ("error", "unreadable pictures left out", "train", "broken.png", ""),
        ("error", "pictures that cannot be decoded", "train", "cut.jpg", ""),
        ("error", "pictures twice in a split", "train", "t0.png", ""),  # "again" comes before it
        ("error", "pictures of an earlier split", "val", "bytes.png", ""),
        ("error", "pictures of an earlier split", "val", "pixels.bmp", ""),
        ("hint", "pictures that look like one of an earlier split", "val", "look.jpg", ""),
        ("hint", "pictures without boxes", "train", "bare.png", ""),
        ("error", "class names that are probably one", "", "", ""),
        ("hint", "classes that a split lacks", "train", "", ""),
        ("hint", "classes that a split lacks", "val", "", ""),
    ]
    assert status == 1
    assert places(found) == sorted(want)
    reasons = {row[3]: row[5] for row in found if row[3]}
    folder = clean / "images" / "train"
    assert reasons["bytes.png"] == f"the same bytes as {folder / 'zero.png'}"
    assert reasons["pixels.bmp"] == f"the same pixels as {folder / 'outside.png'}"
    assert reasons["look.jpg"].startswith(f"like {folder / 'double.png'}")
    assert "train: labels/train/zero.txt:2\n" in text  # from the data set's folder on
    assert "dining table / diningtable" in text


def test_pascal_voc_names_the_line_of_the_object(tmp_path, capsys):
    data = make_voc(tmp_path / "voc", train=3)
    path = data / "train" / "train1.xml"
    path.write_text(path.read_text().replace("<object>", "\n<object>").replace("</xmax>", "</xmax>\n"))
    path.write_text(path.read_text().replace("<xmax>33<", "<xmax>9<"))
    _, _, rows = checked(capsys, data, out=tmp_path / "out")
    assert ("error", "empty boxes dropped", "train", "train1.xml", "2", "red") in rows


def test_the_same_box_twice_in_voc(tmp_path, capsys):
    data = make_voc(tmp_path / "voc")
    path = data / "val" / "val0.xml"
    whole = path.read_text()
    thing = whole[whole.index("<object>") : whole.index("</annotation>")]
    path.write_text(whole.replace("</annotation>", f"{thing}</annotation>"))
    status, _, rows = checked(capsys, data, out=tmp_path / "out")
    assert status == 1
    assert places(rows) == [("error", "repeated boxes dropped", "val", "val0.xml", "1")]


def coco(folder, split, names, boxes):
    images = [{"id": i, "file_name": f"{split}{i}.png", "width": 64, "height": 48} for i in range(2)]
    annotations = [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i, box in enumerate(boxes)]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    for i in range(2):
        add(folder, split, f"{split}{i}", None, seed=i + 10 * len(split))
    (folder / "annotations").mkdir(exist_ok=True)
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


def test_splits_that_call_a_class_otherwise(tmp_path, capsys):
    coco(tmp_path / "set", "train", ["tv monitor", "cat"], [[5, 5, 20, 20], [5, 5, 0, 20]])
    coco(tmp_path / "set", "val", ["tvmonitor", "cat"], [[5, 5, 20, 20], [5, 5, 20, 20]])
    status, text, rows = checked(capsys, tmp_path / "set", out=tmp_path / "out")
    kinds = {(row[1], row[3], row[5]) for row in rows if row[0] == "error"}
    assert status == 1 and kinds == {
        ("empty boxes dropped", "instances_train.json", "image 1, annotation 1"),
        ("class names that are probably one", "", "tv monitor / tvmonitor"),
        ("class names that differ between splits", "", "tv monitor: known in train, not in val"),
        ("class names that differ between splits", "", "tvmonitor: known in val, not in train"),
    }
    assert "tvmonitor" in text and "none" in text


def test_a_list_that_names_a_training_picture_for_val(clean, tmp_path, capsys):
    for split in ("train", "val"):
        paths = sorted((clean / "images" / split).iterdir())
        (clean / f"{split}.txt").write_text("\n".join(map(str, paths)))
    with open(clean / "val.txt", "a") as file:
        file.write(f"\n{clean / 'images' / 'train' / 't1.png'}")
    (clean / "data.yaml").write_text("train: train.txt\nval: val.txt\nnames: [cat, dog]\n")
    status, _, rows = checked(capsys, clean, out=tmp_path / "out")
    assert status == 1
    assert rows == [
        ("error", "pictures of an earlier split", "val", "t1.png", "", "the same file as in train")
    ]


def test_class_folders(tmp_path, capsys):
    for split, seeds in (("train", (1, 2, 3)), ("val", (4, 5, 2))):
        for i, seed in enumerate(seeds):
            folder = tmp_path / "set" / split / ("cat" if i else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph(40, 30, seed)).save(folder / f"{i}.png")
    (tmp_path / "set" / "val" / "cat" / "1.png").write_bytes(b"GIF")
    status, text, rows = checked(capsys, tmp_path / "set", out=tmp_path / "out")
    assert status == 1
    assert places(rows) == [
        ("error", "pictures of an earlier split", "val", "2.png", ""),
        ("error", "pictures that cannot be decoded", "val", "1.png", ""),
    ]
    assert text.startswith("split  pictures  sizes\ntrain         3  40x30\n")
    assert "pictures of train" in text and "anchor" not in text
    assert not (tmp_path / "out" / "boxes.png").exists() and (tmp_path / "out" / "mosaic.png").exists()


def test_class_folders_without_val_are_cut_and_remarked_once(tmp_path, capsys):
    for i in range(20):
        folder = tmp_path / "set" / ("cat" if i < 10 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(40, 30, i)).save(folder / f"{i:02}.png")
    assert command(check.main, tmp_path / "set", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert printed.err.count("no val split") == 1
    assert "train        18" in printed.out and "val           2" in printed.out


def test_ten_of_a_kind_are_printed_and_all_are_written(clean, tmp_path, capsys):
    (clean / "labels" / "train" / "t0.txt").write_text("0 .5 .5 0 0\n" * 25 + BOX)
    _, text, rows = checked(capsys, clean, out=tmp_path / "out")
    assert "empty boxes dropped: 25\n" in text and "... and 15 more" in text
    assert sum(row[1] == "empty boxes dropped" for row in rows) == 25
    assert text.count("t0.txt:") == 10


def test_names_of_files_give_the_terminal_no_orders(clean, tmp_path, capsys):
    evil = "\x1b[2J"
    add(clean, "train", f"a{evil}", seed=50).write_bytes(b"no picture")
    add(clean, "val", f"b{evil}", seed=0)
    add(clean, "val", os.fsdecode(b"no UTF-8 \xff"), seed=51)
    _, text, rows = checked(capsys, clean, "--mosaic", 20, out=tmp_path / "out")
    assert "\x1b" not in text and "b\\x1b[2J.png" in text
    assert len(rows) == 2


def test_only_some_splits(clean, tmp_path, capsys):
    add(clean, "val", "copy", seed=0)
    status, text, rows = checked(capsys, clean, "--split", "val", out=tmp_path / "out")
    assert status == 0 and not rows and "boxes of val at 416x416" in text and "train" not in text


def test_refusals(clean, tmp_path, capsys):
    assert_refused(capsys, check.main, tmp_path / "nowhere", names=("nowhere", "no such folder"))
    assert_refused(capsys, check.main, clean, "--split", "night", names=("night",))
    assert_refused(capsys, check.main, clean, "--model", "yolov9", names=("yolov9",))
    assert_refused(capsys, check.main, clean, "--anchors", "auto", names=("--anchors auto",))
    assert_refused(capsys, check.main, clean, "--imgsz", "100", names=("--imgsz 100",))
    assert_refused(capsys, check.main, clean, clean, names=("2 data sets",))
    (tmp_path / "empty").mkdir()
    assert_refused(capsys, check.main, tmp_path / "empty", names=("empty", "known format", "class folders"))


# ---- pictures -------------------------------------------------------------------------------------------


def saved(folder, name, pixels, **options):
    path = folder / name
    Image.fromarray(pixels).save(path, **options)
    return path


def found(splits):
    prints = pictures.fingerprints([path for paths in splits.values() for path in paths])
    same = [(p.kind, p.split, os.path.basename(p.file)) for p in repeated(splits, prints)]
    return same, [(p.split, os.path.basename(p.file)) for p in lookalikes(splits, prints)]


def test_a_copy_is_known_by_its_bytes_its_pixels_or_its_look(tmp_path):
    originals = [photograph(120, 90, seed) for seed in range(6)]
    train = [saved(tmp_path, f"{i}.png", pixels) for i, pixels in enumerate(originals)]
    exif = Image.Exif()
    exif[0x010E] = "another description"
    half = np.asarray(Image.fromarray(originals[3]).resize((60, 45), Image.Resampling.LANCZOS))
    val = [
        saved(tmp_path, "exif.png", originals[0], exif=exif),
        saved(tmp_path, "lossless.bmp", originals[1]),
        saved(tmp_path, "worse.jpg", originals[2], quality=30),
        saved(tmp_path, "half.jpg", half, quality=85),
        saved(tmp_path, "stranger.png", photograph(120, 90, 99)),
        saved(tmp_path, "mirrored.png", originals[4][:, ::-1]),
    ]
    same, like = found({"train": train, "val": val})
    assert [name for _, _, name in same] == ["exif.png", "lossless.bmp"]
    assert like == [("val", "worse.jpg"), ("val", "half.jpg")]


def test_shots_without_contrast_look_like_nothing(tmp_path):
    """Two nights, two fogs: equal looks mean something only where there is something to be seen."""
    rng = np.random.default_rng(0)
    nights = [rng.integers(0, 3, (40, 60, 3), np.uint8) for _ in range(2)]
    train, val = ([saved(tmp_path, f"{i}.png", pixels)] for i, pixels in enumerate(nights))
    assert found({"train": train, "val": val}) == ([], [])


def test_pictures_of_equal_pixels_and_other_size_differ(tmp_path):
    a = saved(tmp_path, "a.png", np.zeros((10, 20, 3), np.uint8))
    b = saved(tmp_path, "b.png", np.zeros((20, 10, 3), np.uint8))
    assert found({"train": [a, b]}) == ([], [])


def test_every_picture_is_decoded_once(tmp_path, monkeypatch):
    paths = [saved(tmp_path, f"{i}.png", photograph(30, 20, i)) for i in range(3)]
    decoded = []
    monkeypatch.setattr(pictures, "fingerprint", lambda path: decoded.append(path) or fingerprint(path))
    prints = pictures.fingerprints([*paths, *paths], workers=2)
    assert sorted(decoded) == paths and list(prints) == paths
    assert prints[paths[0]].size == (30, 20)


def test_of_three_splits_the_first_owns_a_picture(tmp_path):
    paths = [saved(tmp_path, f"{i}.png", photograph(30, 20)) for i in range(4)]
    same, _ = found({"train": paths[:1], "val": paths[1:2], "test": paths[2:]})
    assert [(split, name) for _, split, name in same] == [
        ("val", "1.png"), ("test", "2.png"), ("test", "3.png"),
    ]  # fmt: skip


# ---- boxes ----------------------------------------------------------------------------------------------


def dataset(*boxes, difficult=(), size=(416, 416)):
    """One picture of 416x416 with boxes cxcywh in pixels."""
    flags = np.isin(np.arange(len(boxes)), difficult)
    fractions = (np.array(boxes, np.float64).reshape(-1, 4) / np.tile(size, 2)).astype(np.float32)
    return Dataset(("cat",), [Item("a", *size, fractions, np.zeros(len(boxes), np.int64), flags)])


def test_boxes_meet_their_anchor_and_each_other():
    # cells of 32 pixels; anchors of 1x1 and 3x3 cells
    data = dataset(
        (40, 40, 32, 32),  # is anchor 0, in cell 1, 1
        (50, 50, 16, 32),  # half of anchor 0, in the same cell: one of the two is lost
        (50, 50, 96, 96),  # anchor 1 in that cell
        (70, 50, 32, 32),  # the next cell
        (41, 41, 32, 32),  # would be lost too, but is difficult
        difficult=(4,),
    )
    got = fit(data, ANCHORS, 416, 32, "letterbox")
    np.testing.assert_array_equal(got.won, [3, 1])
    np.testing.assert_allclose(got.iou, [(1 + 0.5 + 1) / 3, 1], rtol=1e-6)
    assert got.lost == 1 and len(got.wh) == 4
    np.testing.assert_allclose(got.wh[1], [0.5, 1], rtol=1e-6)


def test_small_is_below_half_a_cell_or_eight_pixels():
    data = dataset((50, 50, 15, 15), (90, 90, 7, 200), (200, 200, 16, 16), (300, 300, 8, 20))
    got = fit(data, ANCHORS, 416, 32, "letterbox")
    assert got.small.tolist() == [True, True, False, False]
    hint = next(p for p in got.problems() if "half a cell" in p.kind)
    assert hint.level == "hint" and hint.reason == "50.0% at 416 pixels; --imgsz 480 leaves less than 1%"


def test_letterbox_and_stretch_measure_as_training_does():
    wide = dataset((416, 104, 64, 64), size=(832, 208))
    np.testing.assert_allclose(fit(wide, ANCHORS, 416, 32, "letterbox").wh, [[1, 1]], rtol=1e-6)
    np.testing.assert_allclose(fit(wide, ANCHORS, 416, 32, "stretch").wh, [[1, 4]], rtol=1e-6)


@pytest.mark.parametrize(
    "anchors, wrong",
    [
        (((32.0, 32.0), (96.0, 96.0)), True),
        (((16.0, 30.0), (373.0, 326.0)), True),  # of YOLOv3
        (((1.08, 1.19), (3.42, 4.41), (16.62, 10.52)), False),  # yolov2-tiny-voc: wider than the input
        (((20.0, 20.0),), False),  # large, but these boxes are large
    ],
)
def test_anchors_in_pixels_are_told_from_large_ones(anchors, wrong):
    data = dataset((200, 200, 400, 400)) if anchors[0] == (20, 20) else dataset((40, 40, 30, 40))
    kinds = [p.kind for p in fit(data, anchors, 416, 32, "letterbox").problems() if p.level == "error"]
    assert kinds == ["anchors in pixels instead of cells"] * wrong


def test_anchors_in_pixels_set_the_status(clean, tmp_path, capsys):
    status, text, _ = checked(capsys, clean, "--anchors", "26,26,99,99", out=tmp_path / "out")
    assert status == 1 and "anchors in pixels instead of cells" in text


def test_no_picture_at_all(tmp_path, capsys):
    cut = add(tmp_path / "set", "train", "cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-400])
    (tmp_path / "set" / "classes.txt").write_text("cat\n")
    status, text, rows = checked(capsys, tmp_path / "set", out=tmp_path / "out")
    assert status == 1 and ("error", "pictures that cannot be decoded") in [row[:2] for row in rows]
    assert text.splitlines()[1].startswith("train         0")


def test_no_boxes_at_all(tmp_path, capsys):
    assert not list(fit(dataset(), ANCHORS, 416, 32, "letterbox").problems())
    add(tmp_path / "set", "train", "a", " \n")
    (tmp_path / "set" / "classes.txt").write_text("cat\n")
    status, text, _ = checked(capsys, tmp_path / "set", out=tmp_path / "out")
    assert status == 0 and "pixels (letterbox), cells of 32: none" in text


# ---- words ----------------------------------------------------------------------------------------------


def test_names_alike():
    assert alike(["dining table", "cat", "Dining_Table", "hot-dog", "dog"]) == [
        ["Dining_Table", "dining table"]
    ]


@pytest.mark.parametrize(
    "name, place",
    [
        ("a/b.txt:3", ("a/b.txt", "3", "")),
        ("list.txt:12 (no such.jpg)", ("list.txt", "12", "no such.jpg")),
        ("img (1).xml:5 (dog)", ("img (1).xml", "5", "dog")),
        ("img (1).xml (not well-formed (invalid token): line 1)",
         ("img (1).xml", "", "not well-formed (invalid token): line 1")),
        ("t.json (image 5, annotation 7)", ("t.json", "", "image 5, annotation 7")),
        ("cell", ("cell", "", "")),
    ],
)  # fmt: skip
def test_places_of_complaints(name, place):
    complaints = Complaints()
    complaints.add("kind", name)
    (problem,) = complained(complaints, "train")
    assert problem == ("error", "kind", "train", *place)
    assert problem.where == name


def test_columns_stand_under_each_other():
    assert table([("a", "bb", "#"), ("ccc", "1", "##")], left=(0, 2)) == ["a    bb  #", "ccc   1  ##"]


def test_the_sheet_has_the_crowded_the_small_and_all_splits():
    def item(name, count, side):
        boxes = np.tile(np.float32([0.5, 0.5, side, side]), (count, 1))
        return Item(name, 100, 100, boxes, np.zeros(count, int), np.zeros(count, bool))

    train = [item(f"t{i}", 1, 0.5) for i in range(50)] + [item("crowd", 30, 0.3), item("speck", 1, 0.01)]
    val = [item(f"v{i}", 0, 0.5) for i in range(20)]
    picks = choose({"train": Dataset(("cat",), train), "val": Dataset(("cat",), val)}, 12)
    names = [pick.item.id for pick in picks]
    assert len(set(names)) == 12
    assert {"crowd", "speck", "t0", "v19"} <= set(names)
    assert sum(pick.split == "val" for pick in picks) in (2, 3)
    assert len(choose({"val": Dataset(("cat",), val)}, 100)) == 20


def test_bccd_has_a_scene_in_two_splits(tmp_path, capsys):
    """Seen with the eye: 37, for val, and 38, for train, show the same cells, one of them out of focus."""
    archive = SHARED / "data" / "bccd_416.zip"
    if not archive.exists():
        pytest.skip(f"NOT CHECKED: {archive} is absent")
    with ZipFile(archive) as file:
        file.extractall(tmp_path / "bccd")
    status, _, rows = checked(capsys, tmp_path / "bccd", out=tmp_path / "out")
    hints = [row for row in rows if row[0] == "hint"]
    assert [row[3] for row in hints] == ["BloodImage_00037.jpg"] and "BloodImage_00038" in hints[0][5]
    assert status == 1 and {row[1] for row in rows if row[0] == "error"} == {"empty boxes dropped"}

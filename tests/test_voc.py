"""Pascal VOC folders in every shape they are met in, made of tiny files."""

import os
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.golden import DATA
from yolov2.data.dataset import open_upright, upright_size, verify
from yolov2.data.sources import open_dataset, open_train_val
from yolov2.data.voc import read_voc, splits_available
from yolov2.errors import Complaints, UserError

BOX = (10, 20, 30, 60)


def xml(objects=(("cat", BOX),), size=(100, 80), database="Unknown", difficult=None, filename="wrong.jpg"):
    """The text of an annotation."""
    rows = "".join(
        f"<object><name>{name}</name>"
        + (f"<difficult>{difficult}</difficult>" if difficult is not None else "")
        + "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
        + "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for name, box in objects
    )
    tag = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    source = f"<source><database>{database}</database></source>" if database else ""
    return f"<annotation><filename>{filename}</filename>{source}{tag}{rows}</annotation>"


def add(folder, stem, text=None, suffix=".jpg", format="JPEG", size=(100, 80), side_by_side=False):
    """A picture and its annotation."""
    pictures = folder if side_by_side else folder / "JPEGImages"
    annotations = folder if side_by_side else folder / "Annotations"
    for path in (pictures, annotations):
        path.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "teal").save(pictures / (stem + suffix), format)
    (annotations / f"{stem}.xml").write_text(text or xml(), encoding="utf-8")


def split(folder, **lists):
    """The files of ImageSets/Main."""
    main = folder / "ImageSets" / "Main"
    main.mkdir(parents=True, exist_ok=True)
    for name, stems in lists.items():
        (main / f"{name}.txt").write_text("\n".join(stems) + "\n")


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "some" / "blood"
    add(folder, "a")
    add(folder, "b", xml([("dog", BOX), ("cat", BOX)]))
    split(folder, train=["a"], val=["b"])
    return folder


def one(folder, text, **options):
    """The single item of a folder with this annotation, and the complaints about it."""
    add(folder, "a", text, **options)
    split(folder, train=["a"])
    complaints = Complaints()
    return read_voc(folder, "train", ["cat"], complaints).items[0], complaints


def test_boxes_are_fractions_of_the_picture(voc):
    data = read_voc(voc, "val")
    assert data.names == ("cat", "dog")  # all splits together, sorted
    assert data.items[0].classes.tolist() == [1, 0]
    # 10..30 of 100 wide: centre .2, width .2; 20..60 of 80 high: centre .5, height .5
    np.testing.assert_array_equal(data.items[0].boxes[0], np.float32([0.2, 0.5, 0.2, 0.5]))
    assert data.items[0].boxes.dtype == np.float32 and data.items[0].classes.dtype == np.int64
    assert data.picture(0).mode == "RGB" and data.picture(0).size == (100, 80)


@pytest.mark.parametrize("database, inside", [("The VOC2008 Database", "x"), ("", "VOC2012")])
def test_official_pixels_count_from_one(tmp_path, database, inside):
    item, _ = one(tmp_path / inside, xml(database=database))
    # Darknet: x = ((10 + 30)/2 - 1)/100, y = ((20 + 60)/2 - 1)/80, sizes as they are (SPEC 15)
    np.testing.assert_allclose(item.boxes, [[0.19, 39 / 80, 0.2, 0.5]], rtol=1e-6)


def test_folder_may_be_the_parent(voc):
    assert len(read_voc(voc.parent, "train")) == 1
    assert len(read_voc(voc.parent.parent, "train")) == 1


def test_years_of_voc_are_joined_and_other_neighbours_are_not(tmp_path):
    for year, stem in (("VOC2007", "a"), ("VOC2012", "b")):
        add(tmp_path / "VOCdevkit" / year, stem)
        split(tmp_path / "VOCdevkit" / year, train=[stem])
    assert [item.id for item in read_voc(tmp_path / "VOCdevkit", "train").items] == ["a", "b"]
    add(tmp_path / "VOCdevkit" / "mine", "c")
    with pytest.raises(UserError, match="name one"):
        read_voc(tmp_path / "VOCdevkit", "train")


def test_class_lists_and_columns_of_the_official_lists(voc):
    split(voc, dog_train=["a -1"], train=["a  1", "b.jpg"])
    assert splits_available(voc) == ("train", "val")
    assert len(read_voc(voc, "train")) == 2


@pytest.mark.parametrize(
    "line, stem",
    [
        ("cell 1", "cell 1"),  # a known name, no column
        ("cell  1", "cell"),
        ("cell -1", "cell"),
        ("JPEGImages/cell.jpg", "cell"),
        ("./cell", "cell"),
        ("data\\cell.JPG  1", "cell"),
        ("../x/cell 1.png", "cell 1"),
        ("v1.2", "v1.2"),
        ("v1.2.jpg", "v1.2"),
    ],
)
def test_lines_of_lists(tmp_path, line, stem):
    for known in ("cell", "cell 1", "v1.2"):
        add(tmp_path, known)
    split(tmp_path, train=[line])
    assert [item.id for item in read_voc(tmp_path, "train").items] == [stem]


@pytest.mark.parametrize("only", ["default", "trainval"])
def test_a_single_list_of_another_name_is_divided(tmp_path, only, capsys):
    stems = [f"p{n}" for n in range(30)]
    for stem in [*stems, "unlisted"]:
        add(tmp_path, stem)
    split(tmp_path, **{only: stems, f"cat_{only}": ["p0 -1"]})
    train, val = open_train_val(tmp_path, None, Complaints())
    assert sorted(item.id for item in (*train.items, *val.items)) == sorted(stems)
    assert 2 <= len(val) <= 12 and len(read_voc(tmp_path, only)) == 30
    err = capsys.readouterr().err
    assert f"no split but {only!r}; {len(train)} pictures are for train and {len(val)} for val" in err


def test_trainval_beside_test_is_for_training(tmp_path, capsys):
    for stem in "abc":
        add(tmp_path, stem)
    split(tmp_path, trainval=["a", "b", "c"], test=["c"])
    train, val = open_train_val(tmp_path, None, Complaints())
    assert [[item.id for item in part.items] for part in (train, val)] == [["a", "b"], ["c"]]
    assert "'trainval' takes that place" in capsys.readouterr().err


@pytest.mark.parametrize(
    "lists", [{}, {"default": ["a", "b"]}, {"trainval": ["a"], "val": ["b"]}, {"train": "ab"}]
)
def test_a_note_is_printed_once_per_command(tmp_path, lists, capsys):
    for stem in "ab":
        add(tmp_path, stem)
    if lists:
        split(tmp_path, **lists)
    open_train_val(tmp_path, None, Complaints())
    assert capsys.readouterr().err.count("note:") == 1
    open_dataset(tmp_path, "val")
    assert capsys.readouterr().err.count("note:") == 1


def test_repetitions_are_counted(voc):
    add(voc, "a", suffix=".png", format="PNG")
    split(voc, train=["a", "a.jpg", "b", "a"], val=["b"])
    complaints = Complaints()
    train, val = open_train_val(voc, None, complaints)
    assert [item.id for item in train.items] == ["a", "b"] and [item.id for item in val.items] == ["b"]
    assert train.items[0].path.name == "a.jpg"
    assert complaints.counts == {
        "repeated names in a list dropped": 2,
        "pictures beside one of the same name left out": 1,
        "pictures of val that are in train too": 1,
    }


def test_equal_names_in_folders_of_their_own_are_no_repetition(tmp_path):
    for part in ("train", "val"):
        add(tmp_path / part, "0001")
    complaints = Complaints()
    open_train_val(tmp_path, None, complaints)
    assert not complaints.counts


@pytest.mark.parametrize("side_by_side", [False, True])
def test_folders_named_after_splits(tmp_path, side_by_side):
    for part, stem in (("train", "a"), ("valid", "b"), ("Test", "c")):
        add(tmp_path / part, stem, side_by_side=side_by_side)
    assert set(splits_available(tmp_path)) == {"train", "val", "test"}
    assert read_voc(tmp_path, "val").items[0].id == "b"
    assert read_voc(tmp_path, "valid").items[0].id == "b"


@pytest.mark.parametrize("side_by_side", [False, True])
def test_without_any_split_a_hash_decides(tmp_path, side_by_side, capsys):
    for n in range(30):
        add(tmp_path, f"p{n}", side_by_side=side_by_side)
    train, val = ({i.id for i in read_voc(tmp_path, s).items} for s in ("train", "val"))
    assert len(train | val) == 30 and not train & val and 2 <= len(val) <= 12
    assert "chosen by name" in capsys.readouterr().err
    add(tmp_path, "more", side_by_side=side_by_side)
    assert {i.id for i in read_voc(tmp_path, "train").items} >= train  # nobody changes sides


def test_a_very_small_set_without_split_still_has_a_val(tmp_path):
    add(tmp_path, "one")
    add(tmp_path, "two")
    assert len(read_voc(tmp_path, "train")) == len(read_voc(tmp_path, "val")) == 1


@pytest.mark.parametrize(
    "suffix, format", [(".JPG", "JPEG"), (".jpeg", "JPEG"), (".PNG", "PNG"), (".jpg", "PNG")]
)
def test_suffixes_in_any_case_and_contents_that_differ(tmp_path, suffix, format):
    add(tmp_path, "a", suffix=suffix, format=format)
    split(tmp_path, train=["a"])
    assert read_voc(tmp_path, "train").picture(0).size == (100, 80)


@pytest.mark.parametrize("suffix, format", [(".jpg", "JPEG"), (".png", "PNG"), (".tif", "TIFF")])
@pytest.mark.parametrize("orientation, corner", [(1, "left"), (3, "right"), (6, "right"), (8, "left")])
def test_pictures_are_turned_upright(tmp_path, suffix, format, orientation, corner):
    turned = orientation > 4
    width, height = (80, 100) if turned else (100, 80)
    add(tmp_path, "a", xml(size=(width, height)), suffix, format)
    split(tmp_path, train=["a"])
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[:40, :50] = 255  # stored at the top left
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / "JPEGImages" / f"a{suffix}"
    Image.fromarray(pixels).save(path, format, exif=exif)
    complaints = Complaints()
    data = read_voc(tmp_path, "train", complaints=complaints)
    item, picture = data.items[0], data.picture(0)
    assert (item.width, item.height) == picture.size == upright_size(path) == (width, height)
    assert not complaints.counts  # <size> is that of the upright picture
    # 10..30 and 20..60 pixels of the upright picture
    np.testing.assert_allclose(item.boxes, [[20 / width, 40 / height, 20 / width, 40 / height]], rtol=1e-6)
    # 3: half a turn; 6: to be turned clockwise, top left comes to the top right; 8: counterclockwise
    bright = np.argwhere(np.asarray(open_upright(path))[:, :, 0] > 128).mean(0)
    assert (bright[1] > width / 2) == (corner == "right")
    assert (bright[0] > height / 2) == (orientation in (3, 8))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_pillows_own(tmp_path, format, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "a"
    Image.fromarray(pixels).save(path, format, exif=exif)
    with Image.open(path) as file:
        want = ImageOps.exif_transpose(file).convert("RGB")
    np.testing.assert_array_equal(np.asarray(open_upright(path)), np.asarray(want))
    assert upright_size(path) == want.size


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_pictures_with_damaged_exif_are_still_pictures(tmp_path, format, exif):
    path = tmp_path / "a"
    Image.new("RGB", (7, 5)).save(path, format, exif=exif)
    assert open_upright(path).size == upright_size(path) == (7, 5)


@pytest.mark.parametrize("size", [None, (0, 0), (640, 480), ("", "x")])
def test_the_size_of_the_picture_itself_counts(tmp_path, size):
    item, complaints = one(tmp_path, xml(size=size))
    assert (item.width, item.height) == (100, 80)
    np.testing.assert_allclose(item.boxes, [[0.2, 0.5, 0.2, 0.5]], rtol=1e-6)
    assert sum(complaints.counts.values()) == (size == (640, 480))


def test_coordinates_may_be_floats(tmp_path):
    item, complaints = one(tmp_path, xml([("cat", ("10.5", " 20.25", "30.5", "60.25"))]))
    np.testing.assert_allclose(item.boxes, [[0.205, 40.25 / 80, 0.2, 0.5]], rtol=1e-6)
    assert not complaints.counts


@pytest.mark.parametrize(
    "box, want, complaint",
    [
        ((30, 60, 10, 20), (0.2, 0.5, 0.2, 0.5), "swapped"),
        ((-20, 20, 30, 60), (0.15, 0.5, 0.3, 0.5), "outside"),
        ((90, 20, 130, 90), (0.95, 0.625, 0.1, 0.75), "outside"),
        ((10, 20, 30, 80.5), (0.2, 0.625, 0.2, 0.75), None),  # half a pixel of rounding is nothing to report
        ((10, 20, 10, 60), None, "empty"),
        ((200, 20, 230, 60), None, "empty"),
        (("nan", 20, 30, 60), None, "without four numbers"),
        (("", 20, 30, 60), None, "without four numbers"),
    ],
)
def test_bad_boxes(tmp_path, box, want, complaint):
    item, complaints = one(tmp_path, xml([("cat", box)]))
    np.testing.assert_allclose(item.boxes, np.reshape(want or (), (-1, 4)), rtol=1e-6)
    assert len(item.classes) == len(item.difficult) == len(item.boxes)
    assert (complaint is None and not complaints.counts) or complaint in " ".join(complaints.counts)


@pytest.mark.parametrize("flag, want", [(None, False), ("0", False), ("1", True), (" 1 ", True)])
def test_difficult(tmp_path, flag, want):
    item, _ = one(tmp_path, xml(difficult=flag))
    assert item.difficult.tolist() == [want]


def test_pictures_of_background_are_kept(voc):
    (voc / "Annotations" / "a.xml").write_text(xml([]))
    item = read_voc(voc, "train").items[0]
    assert item.boxes.shape == (0, 4) and item.classes.shape == item.difficult.shape == (0,)


def test_halves_of_pairs_and_broken_files_are_counted(voc, capsys):
    Image.new("RGB", (9, 9)).save(voc / "JPEGImages" / "lonely.jpg")
    (voc / "Annotations" / "orphan.xml").write_text(xml())
    add(voc, "bad", "<annotation><object>")
    add(voc, "empty")
    (voc / "JPEGImages" / "empty.jpg").write_bytes(b"")
    split(voc, train=["a", "lonely", "orphan", "bad", "nowhere", "empty"])
    data = read_voc(voc, "train")
    assert [item.id for item in data.items] == ["a"]
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 5 and all("1 (" in line for line in err)
    for name in ("lonely.jpg", "orphan.xml", "bad.xml", "nowhere", "empty.jpg"):
        assert any(name in line for line in err)


def test_five_are_named_and_all_are_counted():
    complaints = Complaints()
    for n in range(7):
        complaints.add("empty boxes dropped", f"{n}.xml")
    assert complaints.summary() == (
        "warning: empty boxes dropped: 7 (0.xml, 1.xml, 2.xml, 3.xml, 4.xml, ...)"
    )


def test_truncated_pictures_are_found_when_decoded(voc):
    path = voc / "JPEGImages" / "a.jpg"
    add(voc, "c")
    split(voc, train=["a", "c"])
    Image.effect_noise((100, 80), 90).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:1500])
    data = read_voc(voc, "train")
    assert len(data) == 2  # the header is whole
    with pytest.raises(UserError, match=r"a\.jpg.*replace"):
        data.picture(0)
    complaints = Complaints()
    assert [item.id for item in verify(data, complaints).items] == ["c"]
    assert sum(complaints.counts.values()) == 1


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda f: f / "nowhere", "no such folder"),
        (lambda f: f / "JPEGImages", "not a Pascal VOC"),
        (lambda f: split(f, train=[]) or f, "no usable picture"),
        (lambda f: (f / "Annotations" / "a.xml").write_text("<") and f, "invalid XML"),
    ],
)
def test_what_cannot_work_is_told_in_one_line(voc, spoil, message):
    folder = spoil(voc)
    with pytest.raises(UserError, match=message) as caught:
        read_voc(folder, "train")
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_nothing_but_background_is_an_error(voc):
    for stem in "ab":
        (voc / "Annotations" / f"{stem}.xml").write_text(xml([]))
    with pytest.raises(UserError, match="<name>"):
        read_voc(voc, "train")


def test_unknown_split_and_unknown_class_name_what_there_is(voc):
    with pytest.raises(UserError, match=r"no split 'test', there is train, val"):
        read_voc(voc, "test")
    with pytest.raises(UserError, match=r"b\.xml:1: class 'dog'"):
        read_voc(voc, "val", names=["cat"])


def test_classes_of_a_network_are_found_by_name(tmp_path, capsys):
    item, _ = one(tmp_path, xml([("Cat", BOX)]))
    assert item.classes.tolist() == [0]
    assert "class 'Cat' is taken for 'cat'" in capsys.readouterr().err
    add(tmp_path, "a", xml([("diningtabel", BOX)]))
    with pytest.raises(UserError, match=r"did you mean 'diningtable'\?"):
        read_voc(tmp_path, "train", ("cat", "diningtable"))


BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 20))


@pytest.mark.parametrize(
    "text, reason",
    [
        (
            f"<!DOCTYPE a [<!ENTITY a0 'x'>{BOMB}]><annotation>&a19;</annotation>",
            "line 1: declares a document",
        ),
        ("<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>", "line 1: declares a document"),
        ("\n<annotation>&nbsp;</annotation>", "line 2: undefined entity"),
        ("\n\n" + "<a>" * 100_000, "line 3: more than 50 tags in tags"),
        ("<?xml version='1.0' encoding='rot13'?><a/>", "line 1: "),
        ("<?xml version='1.0' encoding='utf-7'?><a/>", "line 1: "),
        ("\0<annotation/>", "line 1: "),
    ],
)
def test_xml_that_does_harm_is_left_out(voc, text, reason):
    add(voc, "bad", text)
    split(voc, train=["a", "bad"])
    read_voc(voc, "train", complaints=(complaints := Complaints()))
    ((kind, where),) = complaints
    assert kind == "annotations of invalid XML left out" and f"bad.xml ({reason}" in where


def test_files_that_are_too_large_or_never_end_are_left_out(voc):
    for stem in ("big", "fifo", "endless"):
        add(voc, stem)
    with (voc / "Annotations" / "big.xml").open("wb") as file:
        file.truncate(5 << 30)  # a hole, no bytes on the disk
    for path in (voc / "Annotations" / "fifo.xml", voc / "JPEGImages" / "fifo.jpg"):
        path.unlink()
        os.mkfifo(path)
    (voc / "JPEGImages" / "endless.jpg").unlink()
    (voc / "JPEGImages" / "endless.jpg").symlink_to("/dev/zero")
    (voc / "JPEGImages" / "loop.jpg").symlink_to(voc / "JPEGImages" / "loop.jpg")
    split(voc, train=["a", "big", "fifo", "endless"])
    read_voc(voc, "train", complaints=(complaints := Complaints()))
    assert complaints.counts == {
        "unreadable annotations left out": 1,
        "listed names without files left out": 1,
        "annotations without a picture left out": 1,
    }


def test_complaints_name_the_line(tmp_path):
    text = xml([("cat", BOX), ("cat", BOX), ("", BOX)]).replace("<object>", "\n<object>")
    _, complaints = one(tmp_path, text)
    where = tmp_path / "Annotations" / "a.xml"
    assert list(complaints) == [
        ("repeated boxes dropped", f"{where}:3 (cat)"),
        ("objects without a <name> dropped", f"{where}:4"),
    ]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"REAL DATA NOT CHECKED: {DATA} is absent")
def test_real_blood_cells(tmp_path):
    with ZipFile(DATA / "bccd_416.zip") as archive:
        archive.extractall(tmp_path)
    complaints = Complaints()
    sizes = {s: len(read_voc(tmp_path, s, complaints=complaints)) for s in splits_available(tmp_path)}
    assert sizes == {"train": 205, "val": 87, "test": 72}
    assert complaints.counts == {"empty boxes dropped": 2}


@pytest.mark.skipif(not DATA.is_dir(), reason=f"REAL DATA NOT CHECKED: {DATA} is absent")
def test_real_animals(tmp_path):
    with ZipFile(DATA / "voc2012_animals_320.zip") as archive:
        archive.extractall(tmp_path)
    train, val = open_train_val(tmp_path, None, complaints := Complaints())
    assert (len(train), len(val), len(train.names)) == (1697, 1729, 19) and not complaints.counts
    assert [sum(len(item.boxes) for item in data.items) for data in (train, val)] == [3625, 3543]

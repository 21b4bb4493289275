"""Files of detections: the forms of Darknet and of VOC's development kit, there and back, and real ones."""

import gzip
import json
import lzma
import zipfile
from unittest.mock import Mock

import numpy as np
import pytest

from reference.average_precision import match_detections, precision_recall
from tests.commands import assert_refused, command, make_voc
from tests.golden import DATA
from yolov2.data.dataset import Item
from yolov2.data.detections import boxes_to_corners, corners_to_boxes, read_detections, write_detections
from yolov2.data.sources import open_dataset
from yolov2.data.voc import read_voc
from yolov2.detector import Detector, Found
from yolov2.errors import Complaints, UserError
from yolov2.evaluate import compare, evaluate, main
from yolov2.names import VOC_NAMES

NAMES = ("bear", "teddy_bear")


def item(id, width=100, height=50):
    return Item(id, width, height, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


ITEMS = [item("a"), item("b c", 64, 64), item("d")]


def read(path, text=None, items=ITEMS, complaints=None):
    if text is not None:
        path.write_text(text)
    return read_detections(path, items, NAMES, complaints or Complaints())


def noisy(dataset, seed=0):
    """Detections near the truths of a data set, some of the wrong class, and some anywhere."""
    draw = np.random.default_rng(seed)
    found = []
    for one in dataset.items:
        boxes = np.concatenate([one.boxes.repeat(3, axis=0), draw.uniform(0.2, 0.8, (2, 4))])
        boxes = (boxes + draw.normal(0, 0.05, boxes.shape)).clip(0.01).astype(np.float32)
        scores = draw.choice(np.float32([0.01, 1 / 3, 0.5, 0.7]), len(boxes))
        order = np.argsort(-scores, kind="stable")
        classes = draw.integers(0, len(dataset.names), len(boxes))
        found.append(Found(boxes[order], scores[order], classes[order]))
    return found


class TestCorners:
    def test_by_hand(self):
        """The whole of a picture of 100 x 50 reaches from 0 to 100, which files call 1 to 101."""
        boxes = np.array([(0.5, 0.5, 1, 1), (0.25, 0.5, 0.1, 0.2)])
        corners = boxes_to_corners(boxes, np.array([100, 50]))
        np.testing.assert_allclose(corners, [(1, 1, 101, 51), (21, 21, 31, 31)])
        np.testing.assert_allclose(corners_to_boxes(corners, np.array([100, 50])), boxes)

    def test_labels_of_official_voc_get_their_own_corners(self, tmp_path):
        """The .xml's numbers, through the reader that subtracts 1 (SPEC 15)."""
        corners = [(1, 1, 30, 64), (7, 9, 40, 33)]
        data = make_voc(tmp_path, train=1, val=1)
        for xml in data.rglob("*.xml"):
            rows = "".join(
                f"<object><name>blue</name><bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin>"
                f"<xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
                for b in corners
            )
            source = "<source><database>The VOC2012 Database</database></source>"
            xml.write_text(f"<annotation>{source}{rows}</annotation>")
        one = read_voc(data, "val").items[0]
        got = boxes_to_corners(one.boxes, np.array([one.width, one.height]))
        np.testing.assert_allclose(got, corners, atol=1e-5)  # the boxes are float32 fractions

    def test_clipped_away(self):
        boxes = corners_to_boxes(np.array([(1.0, 4, -7, 9)]), np.array([100, 50]))
        np.testing.assert_allclose(boxes, [(0, 5.5 / 50, 0, 0.1)])


class TestReading:
    def test_a_file_by_hand(self, tmp_path):
        text = "a 1 0.25 11 6 31 26\nb c 0 1e-1 1 1 65 65\n\na 0 0.5 1 1 51 26.0\n"
        first, second, third = read(tmp_path / "found.txt", text)
        assert first.scores.tolist() == [0.5, 0.25] and first.classes.tolist() == [0, 1]  # surest first
        np.testing.assert_allclose(first.boxes, [(0.25, 0.25, 0.5, 0.5), (0.2, 0.3, 0.2, 0.4)])
        np.testing.assert_allclose(second.boxes, [(0.5, 0.5, 1, 1)])
        assert second.scores.tolist() == [0.1] and third.boxes.shape == (0, 4) and len(third.classes) == 0

    def test_equal_scores_keep_their_order(self, tmp_path):
        lines = [f"a 0 0.{5 + i % 2} {i + 1} 1 51 26\n" for i in range(40)]
        scores, left = np.array([0.6, 0.5]).repeat(20), [*range(1, 40, 2), *range(0, 40, 2)]
        found = read(tmp_path / "found.txt", "".join(lines))[0]
        np.testing.assert_array_equal(found.scores, scores)
        np.testing.assert_allclose(boxes_to_corners(found.boxes, np.array([100, 50]))[:, 0] - 1, left)

    @pytest.mark.parametrize(("suffix", "opener"), [(".xz", lzma.open), (".gz", gzip.open)])
    def test_compressed(self, tmp_path, suffix, opener):
        path = tmp_path / f"found.txt{suffix}"
        with opener(path, "wt") as file:
            file.write("d 1 0.5 1 1 51 26\n" * 1000)
        assert [len(f.scores) for f in read(path)] == [0, 0, 1000]
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(UserError, match=rf"found\.txt\{suffix}: damaged"):
            read(path)

    def test_a_folder(self, tmp_path):
        """The longest name counts, and what is no .txt is nobody's business."""
        (tmp_path / "comp4_det_test_teddy_bear.txt").write_text("b c 0.5 1 1 65 65\n")
        (tmp_path / "comp4_det_test_bear.txt").write_text("b c 0.75 1 1 33 33\na 0.5 1 1 51 26\n")
        (tmp_path / "notes.md").write_text("")
        complaints = Complaints()
        first, second, _ = read(tmp_path, complaints=complaints)
        assert first.classes.tolist() == [0] and second.classes.tolist() == [0, 1]
        assert not complaints.counts
        (tmp_path / "comp4_det_test_bear.txt").rename(tmp_path / "comp4_det_test_lion.txt")
        read(tmp_path, complaints=complaints)
        assert sorted(complaints.counts) == [
            "classes without a file of detections",
            "files of detections of no known class passed over",
        ]

    def test_pictures_that_are_not_in_the_data(self, tmp_path):
        complaints = Complaints()
        text = "a 0 0.5 1 1 51 26\n" + "x 0 0.5 1 1 51 26\n" * 3 + "y 0 0.5 1 1 51 26\n"
        assert [len(f.scores) for f in read(tmp_path / "f.txt", text, complaints=complaints)] == [1, 0, 0]
        assert complaints.summary() == (
            "warning: pictures that the data does not have, their detections left out: 2 (x, y)"
        )
        with pytest.raises(UserError, match=r"on 1 pictures, none of them .* 'x', where the data has 'a'"):
            read(tmp_path / "f.txt", "x 0 0.5 1 1 51 26\n")

    def test_nothing_found(self, tmp_path):
        assert [len(f.scores) for f in read(tmp_path / "f.txt", "")] == [0, 0, 0]

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("a 0 0.5 1 1 51", "6 fields"),
            ("a", "1 fields"),
            ("a bear 0.5 1 1 51 26", "invalid literal"),
            ("a 2 0.5 1 1 51 26", "class 2 where there are 2"),
            ("a -1 0.5 1 1 51 26", "class -1"),
            ("a 0 0.5 1 1 51 2O", "could not convert"),
            ("a 0 nan 1 1 51 26", "not finite"),
            ("a 0 0.5 1 1 inf 26", "not finite"),
        ],
    )
    def test_malformed(self, tmp_path, line, why):
        with pytest.raises(UserError, match=rf"f\.txt, line 3: .*{why}.*expected 'id class score xmin") as e:
            read(tmp_path / "f.txt", f"a 0 0.5 1 1 51 26\n\n{line}\n")
        assert repr(line) in str(e.value)

    def test_malformed_in_a_folder(self, tmp_path):
        path = tmp_path / "comp4_det_val_bear.txt"
        path.write_text("a 0.5 1 1 51\n")
        with pytest.raises(UserError, match=r"_bear\.txt, line 1: 5 fields; expected 'id score xmin"):
            read(tmp_path)
        path.write_text("")
        (tmp_path / "comp3_det_val_bear.txt").write_text("")
        with pytest.raises(UserError, match=r"two files of class 'bear', comp3_.* and comp4_"):
            read(tmp_path)
        for file in tmp_path.iterdir():
            file.unlink()
        with pytest.raises(UserError, match=r"no files \*_CLASS.txt, e.g. comp4_det_val_bear.txt"):
            read(tmp_path)


def test_there_and_back(small_data, tmp_path):
    """Files with one line per detection give the same tables, and the same numbers to the last digit."""
    dataset = open_dataset(small_data, "train")
    found = noisy(dataset)
    write_detections(tmp_path / "new" / "folder", "train", dataset.items, found, dataset.names)
    files = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert files == ["comp4_det_train_blue.txt", "comp4_det_train_red.txt"]
    again = read_detections(tmp_path / "new" / "folder", dataset.items, dataset.names, Complaints())
    for overlap in ("inclusive", "continuous"):
        for method in ("voc11", "voc_all"):
            numbers = [
                compare(dataset, f, dataset.names, method, overlap=overlap).precision.per_class
                for f in (found, again)
            ]
            assert numbers[0].min() > 0 and numbers[0].max() < 1
            np.testing.assert_array_equal(*numbers)


class TestCommand:
    """A network that is none: it finds what `noisy` says."""

    @pytest.fixture
    def network(self, small_data, monkeypatch):
        dataset = open_dataset(small_data, "train")

        def stream(pictures, batch, **_):
            yield from zip(pictures, noisy(dataset), strict=True)

        detector = Mock(spec=Detector, names=dataset.names, config={}, stream=stream, imgsz=64)
        detector.resize = "letterbox"
        monkeypatch.setattr("yolov2.evaluate.load", lambda *_, **__: detector)
        return detector

    def test_save_and_read(self, network, small_data, tmp_path, capsys):
        names, numbers = tmp_path / "some.names", tmp_path / "numbers.json"
        names.write_text("\n".join(network.names))
        folder, flags = tmp_path / "results", ("--data", small_data, "--split", "train", "--json", numbers)
        run = ("--weights", "some", "--overlap", "inclusive", "--save-detections", folder)
        assert command(main, *flags, *run) == 0
        first, said = json.loads(numbers.read_text()), capsys.readouterr().out
        assert command(main, *flags, "--detections", folder, "--names", names) == 0
        again = capsys.readouterr().out
        read = json.loads(numbers.read_text())
        same = ("map50", "per_class", "method", "overlap", "pictures", "split")
        assert [read[key] for key in same] == [first[key] for key in same] and 0 < first["map50"] < 1
        table, conditions = said[said.index("class") :].split(", 64x64 letterbox")
        assert f"{table})" in again and "conf .005" in conditions and "x64" not in again
        assert "(VOC all-point, inclusive overlap, mean of 2 classes" in table
        assert "pictures/s" in said and "pictures/s" not in again
        flags = (*flags, "--names", names, "--detections", folder, "--overlap", "continuous")
        assert command(main, *flags, "--classes", "red") == 0
        want = evaluate(network, open_dataset(small_data, "train"), classes=["red"])
        assert json.loads(numbers.read_text())["per_class"] == {"red": want.map50}

    def test_save_where_one_cannot(self, network, small_data, tmp_path, capsys):
        (tmp_path / "file").write_text("")
        network.stream = None  # not even asked
        flags = ("--weights", "some", "--data", small_data, "--save-detections", tmp_path / "file")
        assert_refused(capsys, main, *flags, names=(tmp_path / "file",))

    def test_refused(self, small_data, tmp_path, capsys):
        path, names = tmp_path / "found.txt", tmp_path / "some.names"
        path.write_text("val0 0 1.5\n")
        names.write_text("blue\nred\n")
        flags = ("--detections", path, "--data", small_data)
        assert_refused(capsys, main, *flags, "--names", names, names=(f"{path}, line 1",))
        assert_refused(capsys, main, *flags, names=("class", "20 known ones"))  # VOC's names, other data
        assert_refused(capsys, main, *flags, "--names", tmp_path / "no", names=(tmp_path / "no",))
        assert_refused(capsys, main, *flags, "--classes", "bird,unicorn", names=("no unicorn",))
        gone = ("--detections", tmp_path / "gone.txt", "--data", small_data, "--names", names)
        assert_refused(capsys, main, *gone, names=(tmp_path / "gone.txt",))
        assert_refused(capsys, main, "--detections", path, names=("--detections", "--data"))
        assert_refused(capsys, main, *flags, "--weights", path, names=("--detections", "--weights"))


# Darknet on the animals of VOC2012: average precision by the development kit's rules, computed elsewhere
EXPECTED = {
    "dog": 0.5242,
    "cat": 0.5581,
    "person": 0.4277,
    "horse": 0.5178,
    "cow": 0.3273,
    "sheep": 0.2787,
}
FILE = DATA / "yolo-lite" / "val_detections_trial3.txt.xz"
CLOSE = 0.0005


@pytest.fixture(scope="session")
def animals(tmp_path_factory):
    archive = DATA / "voc2012_animals_320.zip"
    for path in (archive, FILE):
        if not path.exists():
            pytest.skip(f"REAL DATA ABSENT: {path}; Darknet's detections are not evaluated")
    folder = tmp_path_factory.mktemp("animals")
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    return folder / "VOC2012"


class TestDarknet:
    """What Darknet found on real pictures."""

    def test_command(self, animals, tmp_path, capsys):
        numbers, folder = tmp_path / "numbers.json", tmp_path / "results"
        flags = ("--data", animals, "--classes", ",".join(EXPECTED), "--json", numbers)
        flags = (*flags, "--method", "voc11_numpy")
        assert command(main, *flags, "--detections", FILE, "--save-detections", folder) == 0
        captured = capsys.readouterr()
        assert "on 1729 pictures" in captured.out and "warning" not in captured.err
        got = json.loads(numbers.read_text())
        assert got["map50"] == pytest.approx(0.4390, abs=CLOSE)
        assert got["per_class"] == pytest.approx(EXPECTED, abs=CLOSE)
        assert command(main, *flags, "--detections", folder) == 0
        assert json.loads(numbers.read_text()) == got | {"source": str(folder)}
        # 216 of 360 horses is a recall of .6, which counts unless .6 is taken for 6 * .1
        assert command(main, *flags, "--detections", FILE, "--method", "voc11") == 0
        got = json.loads(numbers.read_text())
        assert got["map50"] == pytest.approx(0.4390, abs=CLOSE)
        assert got["per_class"] == pytest.approx(EXPECTED | {"horse": 0.5186}, abs=CLOSE)
        assert command(main, *flags, "--detections", FILE, "--overlap", "continuous") == 0
        assert json.loads(numbers.read_text())["map50"] == pytest.approx(0.4337, abs=0.001)

    def test_from_the_pictures(self, animals, tmp_path, capsys):
        """The same network, run by this library from the picture files to the number.

        Pillow decodes JPEGs otherwise than Darknet, by up to three levels of 255 in a pixel.
        """
        numbers = tmp_path / "numbers.json"
        flags = ("--data", animals, "--classes", ",".join(EXPECTED), "--json", numbers)
        flags = (*flags, "--method", "voc11_numpy", "--overlap", "inclusive", "--max-det", 1000)
        weights = DATA / "yolo-lite" / "tiny-yolov2-trial3.weights"
        assert command(main, *flags, "--weights", weights, "--device", "cpu") == 0
        got = json.loads(numbers.read_text())
        assert got["map50"] == pytest.approx(0.4390, abs=0.002)
        assert got["per_class"] == pytest.approx(EXPECTED, abs=0.006)

    def test_curves(self, animals):
        """All six numbers from the curves, on numpy.linspace's grid and with overlap of more than half."""
        dataset = open_dataset(animals, "val", VOC_NAMES)
        found = read_detections(FILE, dataset.items, VOC_NAMES, Complaints())
        result = compare(dataset, found, VOC_NAMES, "voc11", classes=tuple(EXPECTED), overlap="inclusive")
        more = np.nextafter(0.5, 1)
        for c, (name, want) in enumerate(EXPECTED.items()):
            tables = (t.where(t.classes == c) for t in (result.detections, result.truths))
            matches = match_detections(*tables, more)
            recall, precision = precision_recall(matches.hit, matches.positives)
            grid = [precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 11)]
            assert np.mean(grid) == pytest.approx(want, abs=CLOSE), name

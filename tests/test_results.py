"""Results have the shape that other libraries' code expects, and say what was found."""

import copy
import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.models import TREE
from yolov2.detector import Found, Paths
from yolov2.results import Boxes, Probs, Results, from_found

WHY = 'NO PROOF WITH SUPERVISION: pip install -e ".[test]"'
supervision = pytest.importorskip("supervision", reason=WHY)

NAMES = {0: "person", 1: "dog", 2: "bus"}
SHAPE = (40, 100)  # high, wide
XYXY = [[10, 5, 30, 25], [0, 0, 100, 40], [50, 10, 60, 11.5]]


def boxes():
    return Boxes(XYXY, [0.9, 0.5, 0.25], [1, 0, 1], SHAPE)


def picture(shape=SHAPE):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


def results(held=None, **options):
    return Results(picture(), "folder/street.jpg", NAMES, boxes() if held is None else held, **options)


def classified(values=(0.1, 0.7, 0.2)):
    return Results(picture(), "street.jpg", NAMES, probs=Probs(values))


def equal(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-6)


class TestBoxes:
    def test_by_hand(self):
        b = boxes()
        equal(b.xyxy, XYXY)
        equal(b.xywh, [[20, 15, 20, 20], [50, 20, 100, 40], [55, 10.75, 10, 1.5]])
        equal(b.xyxyn[0], [0.1, 0.125, 0.3, 0.625])
        equal(b.xywhn[1], [0.5, 0.5, 1, 1])
        equal(b.conf, [0.9, 0.5, 0.25])
        equal(b.cls, [1, 0, 1])
        equal(b.data, [[*box, s, c] for box, s, c in zip(XYXY, (0.9, 0.5, 0.25), (1, 0, 1), strict=True)])
        assert (b.shape, len(b), b.orig_shape, b.id, b.is_track) == ((3, 6), 3, SHAPE, None, False)
        for name in ("data", "xyxy", "xywh", "xyxyn", "xywhn", "conf", "cls"):
            assert isinstance(getattr(b, name), torch.Tensor) and getattr(b, name).dtype == torch.float32

    @pytest.mark.parametrize("kind", [list, np.float64, torch.float16, torch.int64])
    def test_takes_any_kind_of_numbers(self, kind):
        given = ([[1, 2, 3, 4]], [1], [2])
        if kind is np.float64:
            given = [np.array(v, kind) for v in given]
        elif kind is not list:
            given = [torch.tensor(v, dtype=kind) for v in given]
        equal(Boxes(*given, SHAPE).data, [[1, 2, 3, 4, 1, 2]])

    def test_clipped_to_the_picture(self):
        b = Boxes([[-5, -1, 300, 41], [200, 50, 300, 60]], [1, 1], [0, 0], SHAPE)
        equal(b.xyxy, [[0, 0, 100, 40], [100, 40, 100, 40]])

    def test_what_came_in_is_neither_changed_nor_kept(self):
        corners = torch.tensor([[-5.0, 1, 2, 3]], requires_grad=True)
        b = Boxes(corners, torch.ones(1), torch.ones(1), SHAPE)
        b.xyxy[0, 1] = 9
        assert corners.tolist() == [[-5, 1, 2, 3]] and not b.data.requires_grad

    def test_immutable(self):
        for name in ("data", "orig_shape", "xyxy", "id", "new"):
            with pytest.raises(AttributeError):
                setattr(boxes(), name, 1)

    @pytest.mark.parametrize("turned", [lambda b: b, Boxes.numpy], ids=["tensor", "array"])
    def test_indexing(self, turned):
        b = turned(boxes())
        for index in (
            1,
            -2,
            np.int64(1),
            torch.tensor(1),
            [1],
            slice(1, 2),
            np.array([1]),
            torch.tensor([1]),
        ):
            equal(b[index].data, b.data[1:2])
            assert type(b[index].data) is type(b.data)
        mask = np.array([True, False, True])
        for index in (mask, torch.from_numpy(mask), mask.tolist(), [0, 2], slice(None, None, 2), b.cls == 1):
            equal(b[index].conf, [0.9, 0.25])
        for index in (b.conf > 2, [], slice(3, None)):
            equal(b[index].data, np.empty((0, 6)))
        one = b[:1]
        assert (len(one[one.conf > 2]), len(one[one.conf > 0])) == (0, 1)  # a mask of one is no number
        with pytest.raises(IndexError):
            b[3]
        for index in ((0, 0), (slice(None), 0), [[0], [1]]):
            with pytest.raises(IndexError):
                b[index]

    def test_iterating_gives_boxes_of_one(self):
        assert [(len(one), int(one.cls), float(one.conf)) for one in boxes()] == [
            (1, 1, pytest.approx(0.9)),
            (1, 0, 0.5),
            (1, 1, 0.25),
        ]

    @pytest.mark.parametrize("held", [boxes(), Probs([0.25, 0.75])], ids=["boxes", "probs"])
    def test_places(self, held):
        array = held.numpy()
        assert isinstance(array.data, np.ndarray) and array.data.dtype == np.float32
        assert array.numpy() is array and array.cpu() is array
        for back in (array.to("cpu"), array.to(torch.device("cpu")), held.cpu(), copy.deepcopy(held)):
            assert isinstance(back.data, torch.Tensor) and torch.equal(back.data, held.data)
        assert torch.equal(pickle.loads(pickle.dumps(held)).data, held.data)
        assert type(array) is type(held)
        assert held.to("meta").data.device.type == "meta"

    def test_arrays_give_the_same_numbers(self):
        for name in ("data", "xyxy", "xywh", "xyxyn", "xywhn", "conf", "cls"):
            array = getattr(boxes().numpy(), name)
            assert isinstance(array, np.ndarray) and array.dtype == np.float32
            np.testing.assert_array_equal(array, getattr(boxes(), name).numpy())

    @pytest.mark.parametrize("none", [[], np.empty((0, 4)), torch.empty(0, 4)])
    def test_none(self, none):
        b = Boxes(none, [], [], SHAPE)
        assert (len(b), b.shape, b.xywhn.shape, list(b)) == (0, (0, 6), (0, 4), [])

    @pytest.mark.parametrize(
        "wrong",
        [
            ([1, 2, 3, 4], [1], [1]),
            ([[1, 2, 3]], [1], [1]),
            ([[1, 2, 3, 4]], [1, 2], [1]),
            ([[1, 2, 3, 4]], [1], [[1]]),
            ([[1, 2, 3, 4]], [], []),
            (3, 1, 1),
        ],
    )
    def test_wrong_shapes(self, wrong):
        with pytest.raises(ValueError, match=r"\(N, 4\)"):
            Boxes(*wrong, SHAPE)

    def test_wrong_picture(self):
        with pytest.raises(ValueError, match="height, width"):
            Boxes([], [], [], (0, 5))

    def test_repr(self):
        assert repr(boxes()).startswith("<Boxes: 3 in a picture of 100x40; .xyxy")


@st.composite
def corners(draw):
    """(height, width) and boxes that reach beyond such a picture."""
    height, width = draw(st.integers(1, 4000)), draw(st.integers(1, 4000))
    sides = st.tuples(*(st.floats(-50, 4050, width=32) for _ in range(4)))
    rows = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in draw(st.lists(sides, max_size=5))]
    return (height, width), np.array(rows, np.float32).reshape(-1, 4)


@given(corners())
def test_box_formats_agree(case):
    """Centres and sizes give the corners back; fractions are fractions; nothing is outside the picture."""
    (height, width), given_corners = case
    n = len(given_corners)
    b = Boxes(given_corners, np.zeros(n), np.zeros(n), (height, width)).numpy()
    size = np.array([width, height, width, height])
    np.testing.assert_array_equal(b.xyxy, given_corners.clip(0, size))
    x, y, w, h = b.xywh.T
    # each of the three roundings on the way is at most half a unit in the last place of a number below 4096
    np.testing.assert_allclose(np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), b.xyxy, atol=1e-3)
    for fractions, pixels in ((b.xyxyn, b.xyxy), (b.xywhn, b.xywh)):
        np.testing.assert_allclose(fractions * size, pixels, rtol=1e-6, atol=1e-6)
        assert ((fractions >= 0) & (fractions <= 1)).all()


class TestProbs:
    def test_by_hand(self):
        p = Probs([0.05, 0.3, 0.05, 0.3, 0.1, 0.2])
        assert (p.top1, p.top5, len(p), p.shape) == (1, [1, 3, 5, 4, 0], 6, (6,))
        equal(p.top5conf, [0.3, 0.3, 0.2, 0.1, 0.05])
        assert float(p.top1conf) == pytest.approx(0.3)
        assert repr(p).startswith("<Probs: 6 classes, 1 has 0.30")
        assert (p.numpy().top1, p.numpy().top5) == (1, [1, 3, 5, 4, 0])
        equal(p.numpy().top5conf, p.top5conf)

    def test_fewer_than_five(self):
        assert Probs([0.4, 0.6]).top5 == [1, 0]

    def test_immutable(self):
        values = torch.tensor([0.5, 0.5])
        p = Probs(values)
        values[0] = 0
        assert p.data.tolist() == [0.5, 0.5]
        with pytest.raises(dataclasses.FrozenInstanceError):
            p.data = values

    @pytest.mark.parametrize("wrong", [[], [[0.5, 0.5]], 1.0])
    def test_wrong_shape(self, wrong):
        with pytest.raises(ValueError, match=r"\(C,\)"):
            Probs(wrong)


class TestResults:
    def test_attributes(self):
        r = results()
        assert (len(r), r.orig_shape, r.path, r.names) == (3, SHAPE, "folder/street.jpg", NAMES)
        assert (r.probs, r.masks, r.keypoints, r.obb) == (None,) * 4
        assert r.speed == {"preprocess": None, "inference": None, "postprocess": None}
        np.testing.assert_array_equal(r.orig_img, picture())

    def test_lengths(self):
        assert len(results(Boxes([], [], [], SHAPE))) == 0
        assert len(classified()) == 3
        assert len(Results(picture(), "", NAMES)) == 0

    def test_some_of_the_boxes(self):
        assert [one.verbose() for one in results()] == ["1 dog", "1 person", "1 dog"]
        sure = results()[results().boxes.conf > 0.4]
        assert (len(sure), sure.path) == (2, "folder/street.jpg")
        with pytest.raises(TypeError, match="without boxes"):
            classified()[0]

    def test_places(self):
        for r in (results(), results(Boxes([], [], [], SHAPE)), classified()):
            kind = "boxes" if r.probs is None else "probs"
            assert isinstance(getattr(r.numpy(), kind).data, np.ndarray)
            assert getattr(r.to("meta"), kind).data.device.type == "meta"
            assert torch.equal(getattr(r.numpy().to("cpu").cpu(), kind).data, getattr(r, kind).data)
            assert r.numpy().to_json() == r.to_json() and r.numpy().verbose() == r.verbose()

    def test_summary_by_hand(self):
        first, *_, last = results().summary()
        box = {"x1": 10.0, "y1": 5.0, "x2": 30.0, "y2": 25.0}
        assert first == {"name": "dog", "class": 1, "confidence": 0.9, "box": box}
        assert last["box"]["y2"] == 11.5
        box = {"x1": 0.1, "y1": 0.12, "x2": 0.3, "y2": 0.62}
        assert results().summary(normalize=True, decimals=2)[0]["box"] == box
        assert results(Boxes([], [], [], SHAPE)).summary() == Results(picture(), "", NAMES).summary() == []
        assert classified().summary() == [
            {"name": "dog", "class": 1, "confidence": 0.7},
            {"name": "bus", "class": 2, "confidence": 0.2},
            {"name": "person", "class": 0, "confidence": 0.1},
        ]

    def test_json(self):
        assert json.loads(results().to_json()) == results().summary()
        assert results().tojson(True, 2) == results().to_json(normalize=True, decimals=2)
        assert json.loads(results(Boxes([], [], [], SHAPE)).to_json()) == []

    def test_verbose(self):
        assert results().verbose() == "2 dog, 1 person"
        assert results(Boxes([], [], [], SHAPE)).verbose() == "nothing found"
        assert Results(picture(), "", NAMES).verbose() == "nothing found"
        assert classified().verbose() == "dog 0.70, bus 0.20, person 0.10"

    def test_repr(self):
        assert repr(results()).startswith(
            "<Results of folder/street.jpg, 100x40: 2 dog, 1 person; .boxes .names"
        )
        assert "; .probs .names" in repr(classified()) and "; .boxes .paths .names" in repr(on_a_tree())
        assert repr(Results(picture(), "", NAMES)).startswith("<Results of a picture, 100x40: nothing found;")

    @pytest.mark.parametrize(
        "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8)]
    )
    def test_wrong_picture(self, image):
        with pytest.raises(ValueError, match="uint8"):
            Results(image, "", NAMES)

    def test_boxes_of_another_picture(self):
        with pytest.raises(ValueError, match="this one"):
            results(Boxes([], [], [], (100, 40)))

    def test_nameless_class(self):
        with pytest.raises(ValueError, match="class 7"):
            results(Boxes([[0, 0, 1, 1]], [1], [7], SHAPE))
        with pytest.raises(ValueError, match="class 3"):
            classified([0.1] * 5)


class TestFromFound:
    FOUND = Found(
        np.array([[0.5, 0.5, 0.5, 0.5], [0.1, 1.0, 0.4, 0.2]], np.float32),
        np.array([0.75, 0.5], np.float32),
        np.array([1, 0]),
    )

    def test_by_hand(self):
        # as in test_detect_command: from 25 to 75 of 100 and 10 to 30 of 40; the second is clipped
        image, speed = picture(), {"preprocess": 1.0, "inference": 2.0, "postprocess": 3.0}
        r = from_found(self.FOUND, image, NAMES, "a.jpg", speed)
        equal(r.boxes.data, [[25, 10, 75, 30, 0.75, 1], [0, 36, 30, 40, 0.5, 0]])
        assert (r.path, r.speed, r.boxes.orig_shape) == ("a.jpg", speed, SHAPE)
        assert r.orig_img is image and r.names is NAMES

    def test_kinds_of_pictures_and_names(self):
        rgb = Image.fromarray(picture())
        r = from_found(self.FOUND, rgb, ("person", "dog", "bus"))
        np.testing.assert_array_equal(r.orig_img, picture())
        r.orig_img[0, 0] = 0  # third-party code draws into it
        assert (r.names, r.path) == (NAMES, "")
        grey = from_found(self.FOUND, rgb.convert("L"), NAMES).orig_img
        np.testing.assert_array_equal(grey[..., 0], np.asarray(rgb.convert("L")))

    def test_nothing(self):
        nothing = Found(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
        r = from_found(nothing, picture(), NAMES)
        assert (len(r), r.boxes.shape, r.verbose()) == (0, (0, 6), "nothing found")


DOG = [(0, "animal", 1.0), (2, "dog", 0.5)]
THING = [(1, "thing", 0.75)]
CAR = [(1, "thing", 0.875), (5, "car", 0.25)]


def on_a_tree(size=SHAPE, boxes=3):
    """Results with `DOG`, `THING` and `CAR`."""
    corners = np.array([[0.2, 0.375, 0.2, 0.5], [0.5, 0.5, 1, 1], [0.55, 0.3, 0.1, 0.1]], np.float32)
    nodes = np.array([[0, 2], [1, -1], [1, 5]])
    probabilities = np.array([[1, 0.5], [0.75, 0], [0.875, 0.25]], np.float32)
    values = (corners, np.array([0.9, 0.5, 0.25], np.float32), np.array([2, 1, 5]))
    values = (part[:boxes] for part in values)
    found = Found(*values, Paths(nodes[:boxes], probabilities[:boxes]))
    return from_found(found, picture(size), TREE.names, "street.jpg")


class TestPaths:
    def test_by_hand(self):
        assert on_a_tree().paths == [DOG, THING, CAR]
        last = on_a_tree().paths[2][-1]
        assert (last.node, last.name, last.probability) == (5, "car", 0.25)
        assert on_a_tree(boxes=0).paths == []
        assert results().paths is None and classified().paths is None

    @pytest.mark.parametrize("turned", [lambda r: r, Results.numpy], ids=["tensor", "array"])
    def test_they_stay_with_their_boxes(self, turned):
        r = turned(on_a_tree())
        assert [one.paths for one in r] == [[DOG], [THING], [CAR]]
        for index in (
            2,
            -1,
            np.int64(2),
            torch.tensor(2),
            [2],
            slice(2, None),
            torch.tensor([2]),
            r.boxes.cls == 5,
        ):
            assert r[index].paths == [CAR]
        assert r[[2, 0]].paths == [CAR, DOG] and r[[2, 0]][1].paths == [DOG]
        assert r[[]].paths == r[r.boxes.conf > 2].paths == []
        assert r.boxes[1].paths.nodes.tolist() == [[1, -1]]

    def test_places(self):
        r = on_a_tree()
        for other in (r.to("meta"), r.cpu(), r.numpy(), r.numpy().to("cpu"), pickle.loads(pickle.dumps(r))):
            assert other.paths == r.paths

    def test_records(self):
        car = on_a_tree().summary()[2]
        assert car.pop("path") == [
            {"name": "thing", "class": 1, "probability": 0.875},
            {"name": "car", "class": 5, "probability": 0.25},
        ]
        assert car.keys() == results().summary()[0].keys()
        assert json.loads(on_a_tree().to_json()) == on_a_tree().summary()
        assert on_a_tree().summary(decimals=2)[2]["path"][0]["probability"] == 0.88
        assert on_a_tree().verbose() == "1 dog, 1 thing, 1 car" and on_a_tree(boxes=0).summary() == []

    def test_another_library_reads_them(self):
        d = supervision.Detections.from_ultralytics(on_a_tree())
        assert d.data["class_name"].tolist() == ["dog", "thing", "car"]

    def test_drawn_beside(self):
        for size in ((300, 400), (160, 160)):
            plain, drawn = on_a_tree(size).plot(paths=False), on_a_tree(size).plot()
            assert plain.size == size[::-1] and drawn.width > plain.width
            none = on_a_tree(size, boxes=0).plot()  # a video's next frame
            assert none.size == drawn.size and none != drawn
        # the larger one is not enlarged
        assert on_a_tree((300, 400)).plot().crop((0, 0, 400, 300)) == on_a_tree((300, 400)).plot(paths=False)

    def test_wrong_ones(self):
        nodes, probabilities = np.array([[0, 2]]), np.array([[1, 0.5]], np.float32)
        for paths in (Paths(nodes, probabilities[:0]), Paths(nodes.repeat(2, 0), probabilities.repeat(2, 0))):
            with pytest.raises(ValueError, match="paths"):
                Boxes([[0, 0, 1, 1]], [1], [2], SHAPE, paths)
        held = Boxes([[0, 0, 1, 1]], [1], [2], SHAPE, Paths(nodes + 7, probabilities))
        with pytest.raises(ValueError, match="class 7"):
            results(held)


class TestSupervision:
    """The other library itself reads the results."""

    @pytest.mark.parametrize("turned", [lambda r: r, Results.numpy], ids=["tensor", "array"])
    def test_boxes(self, turned):
        d = supervision.Detections.from_ultralytics(turned(results()))
        equal(d.xyxy, XYXY)
        equal(d.confidence, [0.9, 0.5, 0.25])
        np.testing.assert_array_equal(d.class_id, [1, 0, 1])
        assert d.data["class_name"].tolist() == ["dog", "person", "dog"]
        assert d.mask is None and d.tracker_id is None
        assert len(d[d.class_id == 1]) == 2

    def test_its_annotators_draw_them(self):
        d = supervision.Detections.from_ultralytics(results())
        drawn = supervision.BoxAnnotator().annotate(picture(), d)
        assert (drawn != picture()).any()

    @pytest.mark.parametrize("none", [results(Boxes([], [], [], SHAPE)), Results(picture(), "", NAMES)])
    def test_nothing(self, none):
        d = supervision.Detections.from_ultralytics(none)
        assert len(d) == 0 and d.xyxy.shape == (0, 4) and len(d.data["class_name"]) == 0

    def test_classifications(self):
        c = supervision.Classifications.from_ultralytics(classified())
        np.testing.assert_array_equal(c.class_id, [0, 1, 2])
        equal(c.confidence, [0.1, 0.7, 0.2])


class TestPlot:
    def test_boxes_are_drawn_where_they_are(self):
        image = np.zeros((200, 300, 3), np.uint8)
        r = Results(image, "", NAMES, Boxes([[100, 50, 200, 150]], [0.9], [1], (200, 300)))
        drawn = r.plot()
        assert (drawn.mode, drawn.size) == ("RGB", (300, 200))
        rows, columns = np.asarray(drawn).any(2).nonzero()
        assert columns.min() == 100 and 198 <= columns.max() <= 200
        assert rows.min() < 50 and 148 <= rows.max() <= 150  # the label is above
        assert not image.any()

    def test_channels_are_not_swapped(self):
        image = np.full((200, 300, 3), (200, 10, 30), np.uint8)
        for r in (Results(image, "", NAMES), Results(image, "", NAMES, Boxes([], [], [], (200, 300)))):
            np.testing.assert_array_equal(np.asarray(r.plot()), image)

    def test_classifier(self):
        image = np.full((400, 600, 3), 200, np.uint8)
        drawn = np.asarray(Results(image, "", NAMES, probs=Probs([0.1, 0.7, 0.2])).plot()).astype(int)
        assert drawn.shape == image.shape
        dark = (drawn == 60).all(2)
        assert dark[0, 0] and not dark[-1].any() and not dark[:, -1].any()
        assert (drawn == 255).all(2).any()  # white text
        assert not (drawn - image)[200:].any()  # only the corner

    def test_a_tiny_picture_grows(self):
        r = Results(picture((30, 40)), "", NAMES, Boxes([[5, 5, 20, 20]], [0.9], [1], (30, 40)))
        assert r.plot().size == (320, 240)
        assert Results(picture((30, 40)), "", NAMES, probs=Probs([1])).plot().size == (320, 240)

    @pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (7, 90), (119, 120)])
    def test_any_shape(self, shape):
        h, w = shape
        for held in ({"boxes": Boxes([[0, 0, w, h]], [0.9], [1], shape)}, {"probs": Probs([0.2, 0.8])}):
            drawn = Results(picture(shape), "", NAMES, **held).plot()
            assert drawn.width * h == drawn.height * w and max(drawn.size) <= 3000

    def test_classes_without_a_name_in_between(self):
        r = Results(picture(), "", {5: "dog"}, Boxes([[0, 0, 50, 20]], [0.9], [5], SHAPE))
        assert r.plot().size == (600, 240)

    def test_show(self, monkeypatch):
        shown = []
        monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append((self.size, title)))
        results().show()
        assert shown == [(results().plot().size, "folder/street.jpg")]


class TestSave:
    def test_to_a_file(self, tmp_path):
        path = results().save(tmp_path / "new" / "a.png")
        assert path == tmp_path / "new" / "a.png"
        with Image.open(path) as saved:
            np.testing.assert_array_equal(np.asarray(saved), np.asarray(results().plot()))
        assert results().save(str(path)) == path  # what is named is written over
        with Image.open(results().save(tmp_path / "b.jpg")) as saved:
            assert saved.format == "JPEG"

    def test_default_names(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        names = [results().save().name for _ in range(3)]
        assert names == ["results_street.png", "results_street-2.png", "results_street-3.png"]
        assert all((tmp_path / name).is_file() for name in names)
        (tmp_path / "out").mkdir()
        assert results().save("out") == results().save("out").parent / "results_street.png"

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("", "results_picture.png"),
            ("rtsp://camera:554/live?user=a&x=1", "results_live_user_a_x_1.png"),
            ("camera0", "results_camera0.png"),
            ("clip.mp4", "results_clip.png"),
        ],
    )
    def test_name_by_path(self, path, name, tmp_path):
        assert Results(picture(), path, NAMES).save(tmp_path) == tmp_path / name

    def test_unknown_format(self, tmp_path):
        with pytest.raises(ValueError, match="xyz"):
            results().save(tmp_path / "a.xyz")

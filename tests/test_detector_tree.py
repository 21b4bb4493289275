"""A detector on a tree: classes and their paths, some nodes by themselves, checkpoints, Darknet's files."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import yolov2
from fast.detect import detect
from reference.decode import by_slot, decode
from reference.detect import detect as oracle
from reference.layers import Conv, MaxPool
from reference.region import Region
from reference.wordtree import absolute_probability, tree_softmax
from tests.models import PASSTHROUGH, YOLOV1, check_equal, feeding, noise, rows
from tests.strategies import TREE
from yolov2.detector import Detector, tree_detections
from yolov2.export import export_darknet
from yolov2.letterbox import Letterbox, network_input
from yolov2.model import Options
from yolov2.names import COCO_NAMES

ANIMAL, DOG, TRAM = 0, 3, 7  # nodes of TREE, which has three levels
NAMES = tuple(f"a {name}" for name in TREE.names)
REGION = Region(((1.0, 1.0), (3.0, 2.0)), len(NAMES), "tree", TREE, class_map=(TRAM, DOG))
LAYERS = (Conv(8), MaxPool(), MaxPool(), MaxPool(), feeding(REGION.channels), REGION)
PICTURES = [noise(64, 64, 0), noise(90, 40, 1)]
RULES = pytest.mark.parametrize("rule", ["darknet", "paper"])


def on_tree(region=REGION, **config) -> Detector:
    """A network that is of many minds about classes, and has boxes not far from its anchors."""
    torch.manual_seed(0)
    model = Detector.build([*LAYERS[:-1], region], NAMES, 64, config=config)
    for parameter in model.network.blocks[-2].parameters():
        torch.nn.init.normal_(parameter, std=1.5).data.unflatten(0, (2, 15))[:, :4] *= 0.1
    return model


@pytest.fixture(scope="module")
def model():
    return on_tree(mapped=["Strassenbahn", "Hund"])


@pytest.fixture(scope="module")
def outputs(model):
    with torch.inference_mode():
        return model.network.eval()(network_input(PICTURES, 64, 64, "letterbox", model.device))


def letterbox_of(image):
    height, width, _ = PICTURES[image].shape
    return Letterbox(width, height, 64, 64, "letterbox")


def slots(found, outputs, image):
    """Of detections on a picture the slots (K,) that they come from, by their boxes: a*H*W + row*W + col."""
    decoded = decode(outputs.numpy(), REGION).boxes[image].reshape(-1, 4)
    boxes = letterbox_of(image).undo(torch.from_numpy(decoded)).numpy()
    off = np.abs(boxes[None] - found.boxes[:, None]).sum(2)
    assert off.min(1, initial=1).max(initial=0) < 1e-5
    return off.argmin(1)


def probabilities(outputs, image):
    """Objectness (A*H*W,) and absolute probabilities (A*H*W, nodes), by the oracle."""
    raw = by_slot(outputs.double().numpy(), REGION)[image].reshape(-1, 5 + REGION.classes)
    return 1 / (1 + np.exp(-raw[:, 4])), absolute_probability(tree_softmax(raw[:, 5:], TREE), TREE)


class TestPaths:
    @RULES
    @pytest.mark.parametrize("options", [(0.3, 0.4, 100, 0.2), (0.01, 1.0, 999, 0.5), (0.05, 0.45, 3, 0.0)])
    def test_they_are_products_of_conditionals_along_the_way(self, model, outputs, options, rule):
        conf, iou, most, threshold = options
        want = oracle(outputs.numpy(), REGION, conf, iou, most, tree_threshold=threshold, tree_rule=rule)
        depths = set()
        for image, found in enumerate(model(PICTURES, *options, tree_rule=rule)):
            count = want.count[image]
            assert found.classes.tolist() == want.classes[image, :count].tolist() and count > 2
            np.testing.assert_allclose(found.scores, want.scores[image, :count], rtol=1e-4)
            _, absolute = probabilities(outputs, image)
            for k, slot in enumerate(slots(found, outputs, image)):
                way = TREE.path(found.classes[k])[::-1]
                depths.add(len(way))
                left = 3 - len(way)
                assert found.paths.nodes[k].tolist() == way + [-1] * left
                wanted = [*absolute[slot, way], *[0] * left]
                np.testing.assert_allclose(found.paths.probabilities[k], wanted, rtol=1e-4)
        assert len(depths) > 1 or threshold == 0

    @RULES
    def test_the_detections_are_those_of_the_fast_wing(self, model, outputs, rule):
        want = detect(outputs, REGION, 0.2, 0.5, 50, tree_threshold=0.3, tree_rule=rule)
        found, _ = tree_detections(outputs, REGION, Options(0.2, 0.5, 50, 0.3, rule))
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))
        for image, one in enumerate(model(PICTURES, 0.2, 0.5, 50, tree_threshold=0.3, tree_rule=rule)):
            n = int(want.count[image])
            assert np.array_equal(one.boxes, letterbox_of(image).undo(want.boxes[image, :n]))
            assert np.array_equal(one.scores, want.scores[image, :n])
            assert np.array_equal(one.classes, want.classes[image, :n])

    def test_pictures_without_detections_have_none(self, model):
        for found in model(PICTURES, conf=1.0):
            assert found.boxes.shape == (0, 4) and len(found.scores) == len(found.classes) == 0
            assert [(x.shape, x.dtype) for x in found.paths] == [((0, 3), "int64"), ((0, 3), "float32")]

    def test_of_several_pictures_each_has_its_own(self):
        raw = torch.zeros(4, REGION.channels, 2, 2)
        raw[:, 4], raw[:, 19] = -9, -9  # objectness
        raw[1, 4, 0, 1], raw[3, 19, 1, 0], raw[3, 5 + 15 + TRAM, 1, 0], raw[3, 5 + 15 + 1, 1, 0] = 5, 5, 9, 9
        found, paths = tree_detections(raw, REGION, Options(tree_threshold=0.5))
        assert found.count.tolist() == [0, 1, 0, 1]
        assert [p.nodes.tolist() for p in paths] == [[], [[ANIMAL, -1, -1]], [], [[1, TRAM, -1]]]
        assert paths[1].probabilities.tolist() == [[pytest.approx(1 / 3), 0, 0]]


class TestSomeNodes:
    NODES, CALLED = (DOG, ANIMAL, TRAM), ("Hund", "Tier", "Tram")

    def test_each_by_itself(self, model, outputs):
        """Objectness times the absolute probability: an animal is at least as likely as a dog."""
        looking = model.for_classes(self.CALLED, self.NODES)
        assert (looking.names, looking.classes, looking.network) == (self.CALLED, 3, model.network)
        for image, found in enumerate(looking(PICTURES, conf=0.001, iou=1, max_det=999)):
            objectness, absolute = probabilities(outputs, image)
            want = objectness[:, None] * absolute[:, self.NODES]
            got = want[slots(found, outputs, image), found.classes]
            np.testing.assert_allclose(found.scores, got, rtol=1e-4)
            assert len(found.scores) == (want > 0.001).sum() and found.paths is None
        assert model.nodes is None and model.names == NAMES
        (result, _) = looking.predict(PICTURES, conf=0.3, progress=False)
        assert result.names == dict(enumerate(self.CALLED)) and result.paths is None

    def test_refused(self, model):
        with pytest.raises(ValueError, match="nodes"):
            model.for_classes(("x",), (10,))
        with pytest.raises(ValueError, match="2 class names for 1"):
            model.for_classes(("x", "y"), (1,))
        with pytest.raises(ValueError, match="no tree"):
            Detector.build(PASSTHROUGH, ("a", "b", "c"), 32).for_classes(("x",), (0,))
        with pytest.raises(ValueError, match="YOLOv1"):
            Detector.build(YOLOV1, ("a", "b", "c", "d"), (20, 14)).for_classes(("x",), (0,))

    def test_by_the_names_of_classes(self, model):
        assert model.class_nodes == {"Strassenbahn": TRAM, "Hund": DOG}
        assert on_tree(mapped=["Hund"]).class_nodes == {} == on_tree().class_nodes  # whose they are is lost
        assert on_tree(replace(REGION, class_map=None), mapped=["Hund"]).class_nodes == {}
        coco = on_tree(replace(REGION, class_map=(*[DOG] * 79, TRAM)))  # as Darknet's files have them
        assert list(coco.class_nodes) == list(COCO_NAMES) and coco.class_nodes["toothbrush"] == TRAM


class TestFiles:
    @pytest.mark.parametrize("file", ["net.safetensors", "net.weights"])
    def test_nothing_is_lost(self, model, tmp_path, file):
        """But by Darknet, which has no names for what was mapped, and another batch norm."""
        exact = file == "net.safetensors"
        if exact:
            model.save(tmp_path / file)
        else:
            written = export_darknet(model, tmp_path / file)
            assert {p.suffix for p in written} == {".weights", ".cfg", ".names", ".tree", ".map"}
        other = yolov2.load(tmp_path / file, device="cpu")
        assert other.region == REGION and other.names == NAMES and other.imgsz == 64
        assert other.class_nodes == (model.class_nodes if exact else {})
        for rule in ("darknet", "paper"):
            options = {"conf": 0.1, "tree_threshold": 0.3, "tree_rule": rule, "progress": False}
            before, after = (m.predict(PICTURES, **options) for m in (model, other))
            assert min(len(r.boxes) for r in before) > 3
            check_equal(rows(after), rows(before), *((0, 0) if exact else (0.05, 1e-4)))
            for a, b in zip(before, after, strict=True):
                assert [[s.node for s in p] for p in a.paths] == [[s.node for s in p] for p in b.paths]
                assert {s.name for p in a.paths for s in p} <= set(NAMES)

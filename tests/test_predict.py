"""`predict`: every kind of source, options, all heads against the oracle, and a trained network."""

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

import yolov2
from reference.detect import detect
from reference.grid import detect_grid
from reference.image import load_normalise, resize
from reference.layers import Grid, Reorg
from reference.letterbox import letterbox, undo_letterbox
from reference.network import forward
from reference.nms import multi_label_nms
from reference.wordtree import absolute_probability
from tests.commands import command
from tests.golden import DATA, GOLDEN
from tests.models import (
    CLASSIFIERS,
    DETECTORS,
    GRID,
    NETWORKS,
    TREE,
    check_equal,
    noise,
    rows,
    some_parameters,
    write_darknet,
)
from yolov2 import detect as detect_command
from yolov2.network import get_parameters

WHY = 'NO PROOF OF VIDEOS: this needs opencv, pip install -e ".[test]"'
PICTURES = [noise(70, 40, 0), noise(33, 64, 1), noise(48, 32, 2), noise(200, 90, 3), noise(9, 12, 4)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of every small network; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    return {name: yolov2.load(write_darknet(folder / name, name), device="cpu") for name in NETWORKS}


@pytest.fixture
def model(models):
    return models["region"]


def predict(model, source, conf=0.6, **options):
    return model.predict(source, conf=conf, **{"progress": False} | options)


@pytest.fixture
def folder(tmp_path):
    """Pictures 0.png to 4.png in a folder."""
    for number, picture in enumerate(PICTURES):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    return tmp_path


# ---------------------------------------------------------------- sources


def test_every_kind_of_source_gives_the_same(model, folder):
    want = rows(predict(model, PICTURES))
    assert all(len(found) > 3 for found in want)
    files = sorted(folder.iterdir())
    (folder / "list.txt").write_text("".join(f"{file.name}\n" for file in files))
    sources = {
        "a folder": folder,
        "a pattern": str(folder / "*.png"),
        "a text file": folder / "list.txt",
        "paths": files,
        "strings": tuple(map(str, files)),
        "Pillow": [Image.open(file) for file in files],
        "a mix": [files[0], PICTURES[1], Image.fromarray(PICTURES[2]), str(files[3]), files[4]],
    }
    for source in sources.values():
        check_equal(rows(predict(model, source)), want)
    check_equal(rows(predict(model, [p[..., ::-1] for p in PICTURES], order="bgr")), want)
    assert not np.array_equal(rows(predict(model, PICTURES[0], order="bgr"))[0], want[0])


@pytest.mark.parametrize("kind", ["path", "string", "array", "grey", "alpha", "Pillow"])
def test_one_picture_is_a_list_of_one(model, folder, kind):
    source = {
        "path": folder / "0.png",
        "string": str(folder / "0.png"),
        "array": PICTURES[0],
        "grey": PICTURES[0][..., 1],
        "alpha": np.dstack([PICTURES[0], PICTURES[0][..., 0]]),
        "Pillow": Image.fromarray(PICTURES[0]),
    }[kind]
    found = predict(model, source)
    assert isinstance(found, list) and len(found) == 1
    other = PICTURES[0] if kind != "grey" else np.repeat(source[..., None], 3, 2)
    check_equal(rows(found), rows(predict(model, [other])))


def test_batches_of_arrays_and_tensors(model):
    batch = np.stack([noise(48, 40, seed) for seed in range(3)])
    want = rows(predict(model, list(batch)))
    tensor = torch.from_numpy(batch).permute(0, 3, 1, 2)
    check_equal(rows(predict(model, batch)), want)
    for source in (tensor, tensor.float() / 255, tensor.double() / 255):
        check_equal(rows(predict(model, source)), want)
    check_equal(rows(predict(model, tensor[1])), want[1:2])


def test_results_are_in_order_whatever_the_batch(model, folder):
    want = predict(model, folder, batch=1)
    assert [r.path for r in want] == [str(folder / f"{number}.png") for number in range(5)]
    assert [r.orig_shape for r in want] == [picture.shape[:2] for picture in PICTURES]
    for r, picture in zip(want, PICTURES, strict=True):
        np.testing.assert_array_equal(r.orig_img, picture)
        assert r.names == {0: "class0", 1: "class1", 2: "class2"}
        assert set(r.speed) == {"preprocess", "inference", "postprocess"} and min(r.speed.values()) >= 0
    for batch in (2, 3, 5, 100):
        # convolutions of a larger batch may sum in another order
        check_equal(rows(predict(model, folder, batch=batch)), rows(want), 1e-3, 1e-5)


def test_nothing_in_nothing_out(model, models):
    assert predict(model, []) == [] and list(predict(models["tree"], [], stream=True)) == []


def test_a_stream_works_as_it_goes(model):
    seen = []
    hook = model.network.register_forward_hook(lambda network, inputs, output: seen.append(len(output)))
    try:
        stream = predict(model, PICTURES, stream=True, batch=2)
        assert isinstance(stream, Iterator) and seen == []
        found = [next(stream)]
        assert seen == [2]
        found += stream
        assert seen == [2, 2, 1]
    finally:
        hook.remove()
    check_equal(rows(found), rows(predict(model, PICTURES, batch=2)))


def test_a_video_is_a_stream_of_its_frames(model, tmp_path):
    cv2 = pytest.importorskip("cv2", reason=WHY)
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for seed in range(4):
        writer.write(noise(64, 48, seed)[..., ::-1])
    writer.release()

    frames = []
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    capture.release()
    assert len(frames) == 4 and not np.array_equal(frames[0], frames[1])

    seen = []
    hook = model.network.register_forward_hook(lambda network, inputs, output: seen.append(len(output)))
    try:
        stream = predict(model, path)
        assert isinstance(stream, Iterator) and not isinstance(stream, list) and seen == []
        found = [next(stream)]
        assert seen == [1]  # frames of a camera come one at a time: nobody waits for the sixteenth
        found += stream
    finally:
        hook.remove()
    assert [r.path for r in found] == [str(path)] * 4
    check_equal(rows(found), rows(predict(model, frames, batch=1)))


def test_a_stream_may_be_left_early(model, tmp_path):
    stream = predict(model, PICTURES, stream=True, batch=1)
    next(stream)
    stream.close()
    assert len(predict(model, PICTURES)) == 5


# ---------------------------------------------------------------- options


def test_another_size_for_one_call(models, tmp_path):
    for name, imgsz in (("region", (64, 32)), ("region", 80), ("softmax", (20, 32)), ("tree", 31)):
        path = write_darknet(tmp_path / name, name)
        other = yolov2.load(path, device="cpu", imgsz=imgsz)
        before, got = models[name].imgsz, predict(models[name], PICTURES, imgsz=imgsz)
        for a, b, c in zip(
            rows(got), rows(predict(other, PICTURES)), rows(predict(models[name], PICTURES)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
            assert not np.array_equal(a, c)
        assert models[name].imgsz == before


@pytest.mark.parametrize(
    "name, imgsz, message",
    [
        ("grid", 20, r"imgsz: 20, but layer 2 \(Local\) is made for \(20, 14\)"),
        ("region", 34, r"imgsz: 34: layer 7 \(Reorg\)"),
        ("region", (2, 2), r"imgsz: \(2, 2\): layer 7 \(Reorg\)"),
        ("softmax", 0, "imgsz: 0 is not a number of pixels"),
        ("softmax", (4, 4, 3), r"imgsz: \(4, 4, 3\)"),
        ("softmax", "32", "imgsz: '32'"),
        ("softmax", 32.0, "imgsz: 32.0"),
    ],
)
def test_sizes_that_are_refused(models, name, imgsz, message):
    with pytest.raises((ValueError, TypeError), match=message):
        predict(models[name], PICTURES, imgsz=imgsz)


def test_the_usual_size_is_taken_by_all(models):
    for model in models.values():
        assert len(predict(model, PICTURES[:1], imgsz=model.imgsz)) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        ({"conf": -0.1}, "conf"),
        ({"conf": 1.5}, "conf"),
        ({"conf": float("nan")}, "conf"),
        ({"iou": 2}, "iou"),
        ({"max_det": 0}, "max-det"),
        ({"batch": 0}, "batch"),
        ({"order": "grb"}, "order"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_options_without_meaning(model, options, message, stream):
    """Said when `predict` is called, not when its stream is read."""
    with pytest.raises(ValueError, match=message):
        predict(model, PICTURES, stream=stream, **options)


def test_thresholds(model):
    (all_of_them,) = rows(predict(model, PICTURES[0], conf=0.5, iou=1.0, max_det=1000))
    assert len(all_of_them) > 20
    assert (np.diff(all_of_them[:, 4]) <= 0).all() and all_of_them[:, 4].min() > 0.5
    (few,) = rows(predict(model, PICTURES[0], conf=0.5, iou=1.0, max_det=7))
    np.testing.assert_array_equal(few, all_of_them[:7])
    (sparse,) = rows(predict(model, PICTURES[0], conf=0.5, iou=0.2, max_det=1000))
    assert 3 < len(sparse) < len(all_of_them)
    (none,) = predict(model, PICTURES[0], conf=1.0)
    assert len(none) == 0 and none.boxes.xyxy.shape == (0, 4)


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("name", NETWORKS)
def test_numbers_are_ordinary_float32_tensors(models, name):
    """Nobody who goes on with them meets torch's inference mode."""
    (result,) = predict(models[name], PICTURES[0], conf=0.2)
    held = result.probs if name in CLASSIFIERS else result.boxes
    assert held.data.dtype == torch.float32 and not held.data.requires_grad
    held.data.add_(1)
    (held.data * torch.ones(1, requires_grad=True)).sum().backward()


@pytest.mark.parametrize("name", DETECTORS)
def test_boxes_are_clipped_and_in_pixels(models, name):
    for result, picture in zip(predict(models[name], PICTURES, conf=0.2), PICTURES, strict=True):
        height, width = picture.shape[:2]
        boxes = result.boxes.xyxy.numpy()
        assert len(boxes) > 0 and (boxes >= 0).all() and (boxes <= [width, height, width, height]).all()
        assert (boxes[:, :2] <= boxes[:, 2:]).all()
        np.testing.assert_allclose(result.boxes.xyxyn, boxes / [width, height, width, height], atol=1e-6)


def test_supervision_reads_them(model):
    supervision = pytest.importorskip("supervision", reason="NO PROOF that supervision reads results")
    for result in (predict(model, PICTURES[0])[0], predict(model, PICTURES[0], conf=1.0)[0]):
        found = supervision.Detections.from_ultralytics(result)
        np.testing.assert_array_equal(found.xyxy, result.boxes.xyxy)
        np.testing.assert_array_equal(found.confidence, result.boxes.conf)
        np.testing.assert_array_equal(found.class_id, result.boxes.cls)
        assert list(found["class_name"]) == [result.names[int(c)] for c in result.boxes.cls]
    assert len(found) == 0


def oracle_input(model, picture):
    """The network's input of a picture, computed by the oracle."""
    _, height, width = model.network.input_shape
    image = load_normalise(picture)
    return (resize if model.resize == "stretch" else letterbox)(image, width, height)[None]


def corners(boxes, picture):
    """cxcywh as fractions to clipped pixels."""
    height, width = picture.shape[:2]
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    return (np.concatenate([low, high], 1) * [width, height, width, height]).clip(
        0, [width, height, width, height]
    )


def oracle_boxes(model, picture, conf, iou, max_det):
    """(K, 6) left, top, right, bottom, score, class, from the first pixel to the last by the oracle."""
    layers = list(model.network.layers)
    shape = model.network.input_shape
    outputs = forward(layers, some_parameters(layers, shape), oracle_input(model, picture))
    if isinstance(layers[-1], Grid):
        boxes, _, scores = detect_grid(outputs[-1].reshape(1, -1), GRID, conf)
        kept = multi_label_nms(boxes, scores, iou, max_det)
        n = int(kept.count[0])
        boxes, scores, classes = boxes[0, kept.index[0, :n]], kept.scores[0, :n], kept.classes[0, :n]
    else:
        found = detect(outputs[-2], layers[-1], conf, iou, max_det)
        n = int(found.count[0])
        size = picture.shape[1], picture.shape[0]
        boxes = undo_letterbox(found.boxes[0, :n], size, (shape[2], shape[1]))
        scores, classes = found.scores[0, :n], found.classes[0, :n]
    return np.concatenate([corners(boxes, picture), scores[:, None], classes[:, None]], 1)


@pytest.mark.parametrize("conf, iou, max_det", [(0.2, 0.45, 100), (0.15, 0.3, 8), (0.1, 0.7, 300)])
@pytest.mark.parametrize("name", DETECTORS)
def test_detections_are_those_of_the_oracle(models, name, conf, iou, max_det):
    got = rows(predict(models[name], PICTURES, conf, iou=iou, max_det=max_det))
    want = [oracle_boxes(models[name], picture, conf, iou, max_det) for picture in PICTURES]
    assert min(len(found) for found in want) >= 2
    # float32 throughout, sums in another order: thousandths of a pixel, YOLOv1's scores are not below 1
    check_equal(got, want, pixels=0.01, score=1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_probabilities_are_those_of_the_oracle(models, name):
    model = models[name]
    layers = list(model.network.layers)
    parameters = some_parameters(layers, model.network.input_shape)
    for result, picture in zip(predict(model, PICTURES), PICTURES, strict=True):
        want = forward(layers, parameters, oracle_input(model, picture))[-1].reshape(-1)
        if name == "tree":
            want = absolute_probability(want, TREE, only_leaves=True)
            assert result.probs.data[:2].tolist() == [0, 0] and set(result.probs.top5[:4]) == {2, 3, 4, 5}
        np.testing.assert_allclose(result.probs.data, want, atol=1e-5)
        assert float(result.probs.data.sum()) == pytest.approx(1, abs=1e-5)
        assert result.boxes is None and len(result) == len(want) and result.probs.top1 == want.argmax()


# ---------------------------------------------------------------- a trained network


@pytest.fixture(scope="module")
def trained():
    """YOLO-LITE trial 3, loaded as a user does, and the numbers that Darknet computed with it."""
    folder = DATA / "yolo-lite"
    if not folder.is_dir():
        pytest.skip(f"TRAINED NETWORK ABSENT ({folder}): predict is proven with random parameters only")
    with np.load(folder / "trial3_golden.npz") as golden:
        return yolov2.load(folder / "tiny-yolov2-trial3.weights", device="cpu"), dict(golden)


def golden_rows(golden, picture, width, height):
    """Darknet's detections, best first, as `rows` has them."""
    want = golden[f"{picture}_dets"].astype(np.float64)
    want = want[np.argsort(-want[:, 1], kind="stable")]
    found = corners(want[:, 2:], np.empty((height, width, 3)))
    return np.concatenate([found, want[:, 1:2], want[:, :1]], 1)


def test_trained_on_files(trained):
    """Pillow's JPEGs are not Darknet's (`yolov2.data.stb`): a score at the threshold may cross it."""
    model, golden = trained
    pictures = [DATA / "darknet" / "data" / f"{name}.jpg" for name in ("dog", "person")]
    for result in predict(model, pictures, conf=0.24 - 0.01, iou=0.3):
        name = "dog" if "dog" in result.path else "person"
        want = golden_rows(golden, name, *result.orig_shape[::-1])
        assert result.boxes.cls[: len(want)].tolist() == want[:, 5].tolist()
        assert (result.boxes.conf[len(want) :] < 0.24 + 0.01).all()
        assert {model.names[int(label)] for label in want[:, 5]} >= {
            "dog",
            "bicycle" if name == "dog" else "person",
        }


def test_trained_on_the_pixels_that_darknet_saw(trained):
    model, golden = trained
    path = GOLDEN / "image" / "dog.npz"
    if not path.is_file():
        pytest.skip(f"GOLDEN NUMBERS ABSENT ({path})")
    with np.load(path) as archive:
        picture = archive["image_u8"]
    (images,) = model._input([picture], (224, 224))
    np.testing.assert_allclose(images, golden["dog_input"], rtol=0, atol=1e-5)
    got = rows(predict(model, picture, conf=0.24, iou=0.3))
    check_equal(got, [golden_rows(golden, "dog", 768, 576)], pixels=0.05, score=1e-4)


def test_trained_by_the_command(trained, tmp_path, capsys):
    _, golden = trained
    weights, dog = DATA / "yolo-lite" / "tiny-yolov2-trial3.weights", DATA / "darknet" / "data" / "dog.jpg"
    flags = ("--weights", weights, "--conf", "0.24", "--iou", "0.3", "--device", "cpu", "--project", tmp_path)
    assert command(detect_command.main, dog, *flags) == 0
    (entry,) = json.loads((tmp_path / "detect" / "detections.json").read_text())["pictures"]
    want = golden_rows(golden, "dog", 768, 576)
    assert [d["class"] for d in entry["detections"]] == ["bicycle", "car", "car", "dog", "car"]
    for got, row in zip(entry["detections"], want, strict=True):
        # what another JPEG decoder moves, see `tests.test_network.TestTrial3`
        assert got["score"] == pytest.approx(row[4], abs=0.01)
        np.testing.assert_allclose(got["box"], row[:4], atol=0.003 * 768)
    with Image.open(tmp_path / "detect" / entry["drawn"]) as drawn:
        assert drawn.size == (768, 576)
    assert "dog.jpg: bicycle 0.79, car 0.6" in capsys.readouterr().out


def test_parameters_of_the_models_are_those_of_the_files(models):
    """Or the comparisons with the oracle would be of something else."""
    for name, (layers, shape) in NETWORKS.items():
        for got, want in zip(
            get_parameters(models[name].network), some_parameters(list(layers), shape), strict=True
        ):
            for key in want:
                np.testing.assert_array_equal(got[key].reshape(want[key].shape), want[key])
        assert any(isinstance(layer, Reorg) for layer in layers) == (name == "region")

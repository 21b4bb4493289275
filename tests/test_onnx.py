"""ONNX models against the torch network, the oracle and `fast.detect`, in ONNX Runtime and in OpenCV."""

import json
import sys
from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fast.detect import Detections, detect
from fast.grid import activate_grid, detect_grid, split_grid
from fast.nms import multi_label_nms
from reference.layers import (
    AvgPool,
    BatchNorm,
    Connected,
    Conv,
    Cost,
    Crop,
    Dropout,
    Grid,
    Layer,
    Local,
    MaxPool,
    Reorg,
    Route,
    Shortcut,
    Softmax,
    Upsample,
    head_index,
    output_shape,
)
from reference.network import forward
from reference.region import Region, WordTree
from tests.golden import DATA, GOLDEN, cases
from tests.golden.layers import recipe, torch_outputs
from tests.strategies import predictions, regions
from yolov2.cfg import read_cfg
from yolov2.errors import UserError
from yolov2.network import Network, SoftmaxOfAll, get_parameters, load_parameters
from yolov2.onnx_graph import to_onnx
from yolov2.presets import PRESETS, darknet19
from yolov2.weights import parameter_shapes, read_weights

WHY = 'NO PROOF OF ONNX FILES: this needs onnx, onnxruntime and opencv, pip install -e ".[test]"'
onnx = pytest.importorskip("onnx", reason=WHY)
ort = pytest.importorskip("onnxruntime", reason=WHY)
cv2 = pytest.importorskip("cv2", reason=WHY)

REGION = Region(((1.0, 1.5), (2.0, 0.5)), 3)
TREE = WordTree(("a", "b", "c", "d", "e", "f"), (-1, -1, 0, 0, 0, 1))
TO_REGION = Conv(REGION.channels, 1, batch_norm=False, activation="linear")
NETWORKS = {
    "nearly every record": (
        [
            *(Crop(16, 16), Conv(8), BatchNorm(), MaxPool(), Conv(8, groups=2, activation="relu")),
            *(Shortcut(-2, "leaky", 0.5, 2.0), Reorg(2), Upsample(2, 0.5), Route((-1, -3))),
            *(Reorg(2, order="space_to_depth"), Reorg(2, reverse=True)),
            *(Conv(6, 1, activation="logistic"), Local(4, 3, 2), Dropout()),
            *(Connected(20, "leaky", batch_norm=True), Softmax(), Connected(28), Grid(2, 1, 2), Cost()),
        ],
        (3, 19, 20),
    ),
    "a classifier": ([Conv(7), Conv(5, 1, batch_norm=False), AvgPool(), Softmax()], (3, 5, 7)),
    "a classifier on a tree": ([Conv(6), AvgPool(), Softmax(TREE)], (3, 5, 7)),
    "a softmax of a map": ([Conv(6), MaxPool(), Softmax(), Conv(2)], (3, 6, 8)),
    "pools": ([MaxPool(2, 1), MaxPool(3, 2), MaxPool(3, 1, 1), MaxPool(2, 2, 0), MaxPool(5, 3)], (2, 29, 23)),
    "borders": ([Conv(4, 2, 1, 0), Conv(4, 5, 2), Conv(4, 1, 1, 2), Conv(4, 3, 1, 3)], (1, 9, 11)),
    "Darknet's passthrough": (
        [Conv(4), MaxPool(), Conv(8), Route((-3,)), Conv(4, 1), Reorg(2), Route((-1, -4)), TO_REGION, REGION],
        (3, 12, 8),
    ),
    "textbook passthrough": (
        [Conv(3), Reorg(2, order="space_to_depth"), Conv(4), Route((0,)), Conv(4, 3, 2), Route((-1, 2, 1))],
        (3, 12, 8),
    ),
    "the way back": ([Conv(8), Reorg(2, reverse=True), Upsample(3), Conv(2)], (3, 6, 4)),
    "Darknet's order by 3": ([Conv(18), Reorg(3)], (3, 9, 6)),
    "two changes of shape in a row": ([Connected(16), Reorg(1), Conv(3, 1)], (2, 3, 4)),
    "nothing at all": ([Dropout(), Cost()], (3, 4, 5)),
    "an earlier layer once more": ([Conv(2), Conv(3), Route((0,))], (3, 4, 5)),
}
OPEN = [  # may be given pictures of other sizes
    name
    for name, (layers, _) in NETWORKS.items()
    if not any(isinstance(r, Connected | Local) for r in layers)
]


def in_onnxruntime(model):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"images": x})


def in_opencv(model):
    network = cv2.dnn.readNetFromONNX(np.frombuffer(model.SerializeToString(), np.uint8))

    def run(x):
        network.setInput(x, "images")
        return network.forward([output.name for output in model.graph.output])

    return run


both_engines = pytest.mark.parametrize("engine", [in_onnxruntime, in_opencv], ids=["onnxruntime", "opencv"])


def settled(layers, shape, form="darknet"):
    """A random network whose batch norm has seen pictures, so that all maps are of the order of 1."""
    torch.manual_seed(0)
    network = Network(layers, shape, form)
    for name, parameter in network.named_parameters():
        if "norm" in name and name.endswith("weight"):
            torch.nn.init.uniform_(parameter, 0.7, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.rand(3, *shape))
    return network.eval()


@torch.inference_mode()
def wanted(network, x):
    """What a model without detections has to put out."""
    raw = network(torch.from_numpy(x))
    if isinstance(network.head, Softmax):
        raw = SoftmaxOfAll(network.head)(raw)
    return (raw.flatten(1) if isinstance(network.head, Softmax | Grid) else raw).numpy()


def written(network, **options):
    options = {"names": (), "batch_norm": network.batch_norm} | options
    return to_onnx(network.layers, get_parameters(network), network.input_shape, **options)


def pictures(*shape, seed=1):
    return np.random.default_rng(seed).random(shape, np.float32)


def check(got, want, tolerance=1e-4):
    assert got.shape == want.shape
    assert np.abs(got - want).max() < tolerance


@both_engines
@pytest.mark.parametrize("name", NETWORKS)
def test_small_networks(name, engine):
    network = settled(*NETWORKS[name])
    x = pictures(2, *network.input_shape)
    (got,) = engine(written(network))(x)
    check(got, wanted(network, x))


def test_every_record_is_among_them():
    there = {type(layer) for layers, _ in NETWORKS.values() for layer in layers}
    assert there == set(get_args(Layer))


@both_engines
@pytest.mark.parametrize("name", OPEN)
def test_pictures_of_any_size(name, engine):
    """One file, several sizes: Darknet's order too needs no size of its own."""
    network = settled(*NETWORKS[name])
    channels, h, w = network.input_shape
    run = engine(written(network, dynamic_size=True))
    for batch, height, width in ((1, h, w), (2, 2 * h, 3 * w), (1, 4 * h, w)):
        x = pictures(batch, channels, height, width)
        (got,) = run(x)
        check(got, wanted(network, x))


@both_engines
def test_a_crop_makes_any_size_one_size(engine):
    """And then even layers with a weight for every place fit."""
    layers = [Conv(3), Crop(6, 4, adjust=False), Connected(5)]
    network = settled(layers, (2, 8, 9))
    run = engine(written(network, dynamic_size=True))
    for height, width in ((8, 9), (6, 4), (11, 12)):
        x = pictures(2, 2, height, width)
        check(run(x)[0], wanted(network, x))


@both_engines
@pytest.mark.parametrize("dynamic_size", [False, True])
def test_any_number_of_pictures(engine, dynamic_size):
    network = settled(*NETWORKS["Darknet's passthrough"])
    run = engine(written(network, dynamic_size=dynamic_size))
    for batch in (1, 2, 5):
        x = pictures(batch, *network.input_shape)
        check(run(x)[0], wanted(network, x))


def test_one_picture():
    model = written(settled(*NETWORKS["Darknet's passthrough"]), dynamic_batch=False)
    for tensor in (*model.graph.input, *model.graph.output):
        assert tensor.type.tensor_type.shape.dim[0].dim_value == 1


def shrunken(layers):
    """The same plan with an eighth of the filters; what feeds the head keeps its number."""
    inner = [isinstance(layer, Conv) and layer.activation != "linear" for layer in layers]
    return [replace(a, filters=a.filters // 8) if b else a for a, b in zip(layers, inner, strict=True)]


def build(name):
    return PRESETS[name].build(PRESETS[name].region)


PUBLISHED = {
    "yolov2-voc, an eighth": (shrunken(build("yolov2-voc")), (3, 224, 160)),
    "yolov2-tiny-voc": (build("yolov2-tiny-voc"), (3, 416, 416)),
    "nano": (build("nano"), (3, 416, 416)),
    "darknet19": (darknet19(), (3, 224, 224)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name):
    network = settled(*PUBLISHED[name])
    model = written(network)
    x = pictures(1, *network.input_shape)
    want = wanted(network, x)
    for engine in (in_onnxruntime, in_opencv):
        check(engine(model)(x)[0], want)


FULL = [case for case in cases() if case.group == "network_full"]


@pytest.mark.skipif(not FULL, reason=f"GOLDEN NUMBERS ABSENT: {GOLDEN} does not exist; no full-size ONNX run")
@pytest.mark.parametrize("case", FULL, ids=lambda case: case.name)
def test_full_size_networks_of_the_original(case):
    """yolov2-voc and yolov2-tiny-voc with the golden weights: as far from torch as from Darknet itself."""
    layers, parameters, x = recipe(case)
    want = torch_outputs(layers, parameters, x)[-2]
    model = to_onnx(layers, parameters, x.shape[1:], names=())
    for engine in (in_onnxruntime, in_opencv):
        got = engine(model)(x)[0]
        check(got, want)
        check(got.ravel()[case["output_idx"]], case["raw_vals"])


@both_engines
@pytest.mark.parametrize("form", ["darknet", "cudnn"])
def test_batch_norm_is_folded_in_its_own_form(form, engine):
    """Small variances tell the forms apart: here they differ by half."""
    network = settled([Conv(4), BatchNorm(), Conv(3)], (2, 5, 5), form)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.fill_(1e-5)
            module.running_mean.fill_(0.1)
            module.weight.data.mul_(1e-3)
    x = pictures(1, 2, 5, 5)
    (got,) = engine(written(network))(x)
    check(got, wanted(network, x))
    other = "darknet" if form == "cudnn" else "cudnn"
    assert np.abs(engine(written(network, batch_norm=other))(x)[0] - got).max() > 1e-2


def test_folding_rounds_once():
    network = settled([Conv(8, 1)], (4, 3, 3))
    (p,) = get_parameters(network)
    folded = {t.name: onnx.numpy_helper.to_array(t) for t in written(network).graph.initializer}
    p = {name: array.astype(np.float64) for name, array in p.items()}
    scale = p["scales"] / (np.sqrt(p["rolling_variance"]) + 1e-6)
    weights = (p["weights"] * scale[:, None, None, None]).astype(np.float32)
    biases = (p["biases"] - p["rolling_mean"] * scale).astype(np.float32)
    np.testing.assert_array_equal(folded["layer0_conv_weights"], weights)
    np.testing.assert_array_equal(folded["layer0_conv_biases"], biases)


# ---------------------------------------------------------------- detections

HEADS = {
    "softmax": Region(((1.0, 1.5), (2.0, 0.5), (3.0, 3.0)), 4),
    "one class": Region(((1.0, 1.5), (2.0, 2.5)), 1, class_activation="logistic"),
    "logistic": Region(((1.0, 1.5), (2.0, 0.5), (3.0, 3.0)), 4, class_activation="logistic"),
    "background": Region(((1.0, 1.5), (2.0, 0.5), (3.0, 3.0)), 4, background=True),
    "offsets": Region(((1.0, 1.5), (2.0, 0.5), (3.0, 3.0)), 4, location="anchor"),
}


def head_model(region, h=5, w=6, **options):
    """A model that is nothing but a head."""
    shape = (region.channels, h, w)
    return to_onnx([region], [{}], shape, names=(), detections=True, **options)


def raw_heads(region, batch=2, h=5, w=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1.5, (batch, region.channels, h, w)).astype(np.float32)


def check_detections(got, want: Detections):
    boxes, scores, classes, count = got
    assert (boxes.dtype, scores.dtype) == (np.float32, np.float32)
    assert (classes.dtype, count.dtype) == (np.int64, np.int64)
    np.testing.assert_array_equal(count, want.count)
    np.testing.assert_array_equal(classes, want.classes)
    np.testing.assert_allclose(scores, want.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(boxes, want.boxes, rtol=1e-5, atol=1e-5)


@both_engines
@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("batch", [1, 3])
def test_detections(name, batch, engine):
    region = HEADS[name]
    run = engine(head_model(region, conf=0.1, max_det=40))
    for seed in range(3):
        pred = raw_heads(region, batch, seed=seed)
        want = detect(torch.from_numpy(pred), region, 0.1, 0.45, 40)
        assert want.count.min() > 3
        check_detections(run(pred), want)


@pytest.mark.parametrize("name", HEADS)
def test_detections_of_any_size(name):
    """Places of cells and the size of the grid are read off the map (in ONNX Runtime; OpenCV refuses)."""
    region = HEADS[name]
    run = in_onnxruntime(head_model(region, conf=0.2, max_det=20, dynamic_size=True))
    for batch, h, w in ((2, 5, 6), (1, 9, 4), (3, 1, 1)):
        pred = raw_heads(region, batch, h, w)
        check_detections(run(pred), detect(torch.from_numpy(pred), region, 0.2, 0.45, 20))


@both_engines
@pytest.mark.parametrize(
    "conf, iou, max_det",
    [
        (1.0, 0.45, 10),  # nothing is found
        (0.999, 0.45, 1),
        (0.05, 0.9, 7),  # far more is found than asked for
        (0.0, 0.45, 30),
        (-1.0, 0.45, 30),
        (0.2, 0.0, 50),
        (0.2, 1.0, 50),  # nothing is suppressed
        (0.2, 0.45, 1000),  # more places than the head has
    ],
)
def test_options_of_detection(conf, iou, max_det, engine):
    region = HEADS["softmax"]
    pred = raw_heads(region)
    want = detect(torch.from_numpy(pred), region, conf, iou, max_det)
    check_detections(engine(head_model(region, conf=conf, iou=iou, max_det=max_det))(pred), want)


@settings(max_examples=50)
@given(st.data())
def test_detections_of_any_head(data):
    """Values lie on a grid of 1/8, so equal scores abound; no overlap is exactly the threshold."""
    activation = data.draw(st.sampled_from(["softmax", "logistic"]))
    region = data.draw(regions(class_activation=activation))
    h, w = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))
    pred = data.draw(predictions(region, data.draw(st.integers(1, 3)), h, w))
    options = {"conf": data.draw(st.sampled_from([0.01, 0.21, 0.63])), "iou": 0.4321}
    options["max_det"] = data.draw(st.integers(1, 40))
    run = in_onnxruntime(head_model(region, h, w, dynamic_size=data.draw(st.booleans()), **options))
    check_detections(run(pred), detect(torch.from_numpy(pred), region, **options))


@both_engines
def test_equal_scores_are_in_the_order_of_location_then_class(engine):
    region = Region(((0.5, 0.5), (0.25, 0.25)), 2)
    pred = np.zeros((1, region.channels, 2, 3), np.float32)  # every class of every box scores 1/4
    got = engine(head_model(region, 2, 3, conf=0.2, max_det=10))(pred)
    check_detections(got, detect(torch.from_numpy(pred), region, 0.2, 0.45, 10))
    assert got[2].tolist() == [[0, 1] * 5]


def test_nan_and_infinity():
    """A NaN scores nothing; a box of NaN or infinite size that scores is there, and overlaps nothing."""
    region = HEADS["softmax"]
    pred = raw_heads(region, 3, seed=5)
    head = pred.reshape(3, 3, 9, 5, 6)
    head[0, 1, 4, 2] = np.nan
    head[1, 0, 2, 3] = 200.0
    head[2, 2, 0, 1] = np.nan
    want = detect(torch.from_numpy(pred), region, 0.1, 0.45, 60)
    assert not torch.isfinite(want.boxes).all() and torch.isfinite(want.scores).all()
    check_detections(in_onnxruntime(head_model(region, conf=0.1, max_det=60))(pred), want)


@both_engines
@pytest.mark.parametrize("grid", [Grid(3, 2, 4), Grid(4, 1, 1, sqrt=False), Grid(2, 3, 5, softmax=True)])
def test_detections_of_a_grid(grid, engine):
    model = to_onnx([grid], [{}], (grid.outputs, 1, 1), names=(), detections=True, conf=0.1, max_det=20)
    flat = np.random.default_rng(0).uniform(-0.2, 1, (3, grid.outputs)).astype(np.float32)
    sizes = split_grid(torch.from_numpy(flat), grid).boxes[..., 2:]  # a view
    sizes.abs_()  # what a negative size overlaps, every engine decides for itself
    output = activate_grid(torch.from_numpy(flat), grid)
    boxes, _, scores = detect_grid(output, grid, 0.1)
    index, label, score, count = multi_label_nms(boxes, scores, 0.45, 20)
    rows = boxes.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, 4)).where(index[..., None] >= 0, 0)
    check_detections(engine(model)(flat[:, :, None, None]), Detections(rows, score, label, count))


@both_engines
def test_detections_of_a_whole_network(engine):
    network = settled(*NETWORKS["Darknet's passthrough"])
    x = pictures(3, *network.input_shape)
    with torch.inference_mode():
        want = detect(network(torch.from_numpy(x)), REGION, 0.1, 0.45, 12)
    assert want.count.min() > 0
    check_detections(engine(written(network, detections=True, conf=0.1, max_det=12))(x), want)


# ---------------------------------------------------------------- a trained network


@pytest.fixture(scope="module")
def trained():
    """YOLO-LITE trial 3 in torch, and the pictures that its golden numbers are of."""
    folder = DATA / "yolo-lite"
    if not folder.is_dir():
        pytest.skip(f"TRAINED NETWORK ABSENT ({folder}): ONNX is proven with random parameters only")
    config = read_cfg(folder / "tiny-yolov2-trial3.cfg")
    path = folder / "tiny-yolov2-trial3.weights"
    _, parameters = read_weights(path, config.layers, config.net.input_shape)
    network = Network(config.layers, config.net.input_shape, "darknet").eval()
    load_parameters(network, parameters)
    with np.load(folder / "trial3_golden.npz") as golden:
        return network, np.stack([golden["dog_input"], golden["person_input"]])


@both_engines
def test_trained_network(trained, engine):
    network, x = trained
    check(engine(written(network))(x)[0], wanted(network, x))


@both_engines
@pytest.mark.parametrize("conf", [0.24, 0.01])
def test_detections_of_the_trained_network(trained, engine, conf):
    network, x = trained
    with torch.inference_mode():
        want = detect(network(torch.from_numpy(x)), network.head, conf, 0.45, 100)
    assert want.count.min() > 1
    model = written(network, detections=True, conf=conf)
    check_detections(engine(model)(x), want)
    check_detections(engine(model)(x[:1]), Detections(*(part[:1] for part in want)))


# ---------------------------------------------------------------- the file itself


def test_metadata():
    network = settled(*NETWORKS["Darknet's passthrough"])
    names = ("cat", "dog", "größer")
    model = written(network, names=names, metadata={"source": "a test"}, resize="stretch", detections=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(facts["names"]) == list(names)
    assert json.loads(facts["anchors"]) == [[1.0, 1.5], [2.0, 0.5]]
    assert facts["input_size"] == "8x12"
    assert facts["input_format"] == "RGB, 0..1"
    assert facts["reorg_order"] == "darknet"
    assert facts["resize"] == "stretch"
    assert facts["batch_norm"] == "darknet, folded"
    assert (facts["conf"], facts["iou"], facts["max_det"]) == ("0.25", "0.45", "100")
    assert facts["source"] == "a test"
    assert model.producer_name == "yolov2" and model.producer_version
    assert "float32 (batch, channels, height, width), RGB, 0..1" in model.doc_string
    assert model.opset_import[0].version == 13 and model.ir_version == 7
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == facts


@pytest.mark.parametrize("detections", [False, True])
def test_every_tensor_has_a_shape_and_every_node_a_name(detections):
    layers, shape = NETWORKS["nearly every record"]
    model = written(settled(layers, shape), detections=detections)
    onnx.checker.check_model(model, full_check=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and all(names)
    assert {"layer1_conv", "layer1_conv_leaky", "layer3_maxpool", "layer8_route"} <= set(names)
    known = {v.name for v in (*model.graph.value_info, *model.graph.output)}
    assert {name for node in model.graph.node for name in node.output} <= known
    dims = {
        t.name: [d.dim_param or d.dim_value for d in t.type.tensor_type.shape.dim] for t in model.graph.output
    }
    if detections:
        assert dims == {
            "boxes": ["batch", 100, 4],
            "scores": ["batch", 100],
            "classes": ["batch", 100],
            "count": ["batch"],
        }
    else:
        assert dims == {"output": ["batch", 28]}


def test_equal_networks_make_equal_files():
    network = settled(*NETWORKS["nearly every record"])
    assert written(network).SerializeToString() == written(network).SerializeToString()


@pytest.mark.parametrize(
    "layers, options, message",
    [
        ([Conv(3)], {"batch_norm": "torch"}, "batch_norm: 'torch' is not one of"),
        ([TO_REGION, REGION], {"names": ("a",)}, "names: 1 for 3 classes"),
        ([Conv(6), AvgPool(), Softmax(TREE)], {"names": ("a",)}, "names: 1 for 6 classes"),
        ([TO_REGION, REGION], {"detections": True, "max_det": 0}, "max_det: 0"),
        ([Conv(3)], {"detections": True}, "does not end in a Region or a Grid; export without"),
        ([Conv(3), AvgPool(), Softmax()], {"detections": True}, "export without"),
        (
            [Conv(11, 1), Region(((1.0, 1.0),), 6, class_activation="tree", tree=TREE)],
            {"detections": True},
            "tree of classes; export without",
        ),
        ([Conv(3), Connected(3)], {"dynamic_size": True}, r"layer 1 \(Connected\): needs an input of fixed"),
        ([Local(3)], {"dynamic_size": True}, r"layer 0 \(Local\): needs an input of fixed size"),
        ([TO_REGION, REGION, Conv(3)], {}, r"layer 1 \(Region\): only supported as the last one"),
        ([MaxPool(2, 2, 2)], {}, r"layer 0 \(MaxPool\): padding 2 is not in 0..1"),
        ([Conv(3), Reorg(2)], {}, r"layer 1 \(Reorg\)"),
    ],
)
def test_what_cannot_be_written(layers, options, message):
    shape = (3, 4, 4)
    try:
        arrays = [{n: np.ones(s) for n, s in shapes.items()} for shapes in parameter_shapes(layers, shape)]
    except ValueError:
        arrays = [{} for _ in layers]
    with pytest.raises(ValueError, match=message):
        to_onnx(layers, arrays, shape, **{"names": (), **options})


def test_parameters_that_are_missing_or_of_another_network():
    network = settled([Conv(3)], (3, 4, 4))
    (arrays,) = get_parameters(network)
    with pytest.raises(ValueError, match="parameters of 2 layers for a network of 1"):
        to_onnx([Conv(3)], [arrays, {}], (3, 4, 4), names=())
    with pytest.raises(ValueError, match=r"layer 0 \(Conv\): 81 weights, needs \(4, 3, 3, 3\)"):
        four = dict.fromkeys(arrays, np.ones(4)) | {"weights": arrays["weights"]}
        to_onnx([Conv(4)], [four], (3, 4, 4), names=())
    del arrays["rolling_mean"]
    with pytest.raises(ValueError, match=r"layer 0 \(Conv\): no rolling_mean"):
        to_onnx([Conv(3)], [arrays], (3, 4, 4), names=())


def test_without_onnx(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r'pip install "yolov2\[onnx\]"'):
        to_onnx([], [], (3, 4, 4), names=())


# ---------------------------------------------------------------- any network

small = st.integers(1, 3)
activations = st.sampled_from(["linear", "leaky", "relu", "logistic"])
records = st.one_of(
    st.builds(
        Conv,
        st.sampled_from([1, 2, 4, 8]),
        small,
        small,
        st.sampled_from([None, 0, 1, 2]),
        st.booleans(),
        activations,
        st.sampled_from([1, 1, 2, 4]),
    ),
    st.builds(MaxPool, small, small, st.sampled_from([None, 0])),
    st.builds(Route, st.lists(st.integers(-3, 2), min_size=1, max_size=3).map(tuple)),
    st.builds(Reorg, small, st.booleans(), st.sampled_from(["darknet", "space_to_depth"])),
    st.builds(Upsample, small, st.sampled_from([1.0, 0.5])),
    st.builds(
        Shortcut, st.integers(-3, 2), activations, st.sampled_from([1.0, 2.0]), st.sampled_from([1.0, -1.0])
    ),
    st.builds(BatchNorm),
    st.builds(Crop, small, small, adjust=st.booleans()),
    st.builds(AvgPool),
    st.builds(Dropout),
    st.builds(Softmax),
    st.builds(Connected, st.integers(1, 6), activations, st.booleans()),
    st.builds(Local, st.integers(1, 4), st.just(3), small, st.sampled_from([0, 1]), activations),
)


@st.composite
def networks(draw):
    """Layers that fit each other, and the input they fit."""
    shape = draw(st.sampled_from([1, 3, 4, 8])), draw(st.integers(1, 12)), draw(st.integers(1, 12))
    layers, shapes = [], []
    for record in draw(st.lists(records, min_size=1, max_size=10)):
        try:
            out = output_shape(record, shapes, shape)
        except ValueError:
            continue
        if np.prod(out) <= 3000:
            layers.append(record)
            shapes.append(out)
    assume(layers)
    return layers, shape


@settings(max_examples=100)
@given(networks(), st.booleans(), st.integers(1, 3), st.integers(0, 1000))
def test_any_network_equals_the_oracle(case, dynamic_size, batch, seed):
    layers, shape = case
    rng = np.random.default_rng(seed)
    parameters = []
    for shapes in parameter_shapes(layers, shape):
        parameters.append({n: rng.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()})
        if "rolling_variance" in shapes:
            parameters[-1]["rolling_variance"] = np.abs(parameters[-1]["rolling_variance"]) + 0.1
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    want = forward(layers, parameters, x)[-1]
    try:
        model = to_onnx(layers, parameters, shape, names=(), dynamic_size=dynamic_size)
    except ValueError as error:
        assert dynamic_size and "fixed size" in str(error)
        return
    (got,) = in_onnxruntime(model)(x)
    if head_index(layers) is not None:
        got = got.reshape(want.shape)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * max(1, np.abs(want).max()))

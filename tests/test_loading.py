"""`yolov2.load`: files found beside the weights, names, options that last, and every file that is refused."""

import dataclasses
import json
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import yolov2
from reference.layers import Connected, Conv, Reorg, Softmax
from reference.network import forward
from tests.models import (
    DETECTORS,
    NETWORKS,
    REGION,
    TREE,
    check_equal,
    feeding,
    noise,
    rows,
    some_parameters,
    write_darknet,
    write_network,
)
from yolov2 import presets
from yolov2.cfg import read_cfg
from yolov2.classifier import Classifier
from yolov2.detector import Detector
from yolov2.errors import UserError
from yolov2.export import export_darknet
from yolov2.names import COCO_NAMES, VOC_NAMES, default_names, read_names
from yolov2.weights import initial_parameters, write_weights

PICTURE = noise(70, 40)


def load(*args, **options):
    return yolov2.load(*args, device="cpu", **options)


def seen_by(model):
    return rows(model.predict(PICTURE, conf=0.5, progress=False))


def raw(model, x):
    with torch.inference_mode():
        return model.network(x)


# ---------------------------------------------------------------- what comes out


@pytest.mark.parametrize("name", NETWORKS)
def test_every_head(name, tmp_path):
    layers, (_, height, width) = NETWORKS[name]
    model = load(write_darknet(tmp_path, name))
    assert type(model) is (Detector if name in DETECTORS else Classifier)
    assert model.network.layers == list(layers) and not model.network.training
    assert model.imgsz == (width if width == height else (height, width))
    assert model.resize == ("stretch" if name == "grid" else "letterbox")
    assert len(model.names) == model.classes
    assert model.progress == {"seen": 6400, "darknet_version": [0, 2, 0]}
    assert model.device == torch.device("cpu")

    x = np.random.default_rng(0).random((2, 3, height, width), np.float32)
    outputs = forward(list(layers), some_parameters(list(layers), (3, height, width)), x)
    head = model.network._head
    np.testing.assert_allclose(raw(model, torch.from_numpy(x)), outputs[head - 1], rtol=1e-4, atol=1e-4)


def test_the_module_imports_no_torch_and_knows_no_other_names():
    code = (
        "import sys, yolov2; assert 'torch' not in sys.modules and yolov2.__all__ == ['Predictor', 'load'];"
        "import yolov2.weights, yolov2.cfg; assert 'torch' not in sys.modules;"
        "assert yolov2.load.__module__ == 'yolov2.loading' and 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="module 'yolov2' has no attribute 'laod'"):
        yolov2.laod  # noqa: B018
    with pytest.raises(ImportError):
        from yolov2 import laod  # noqa: F401


# ---------------------------------------------------------------- files beside the weights


@pytest.mark.parametrize("cfg_in, names_in", [("", ""), ("cfg", "data"), ("data", "cfg")])
@pytest.mark.parametrize("called", ["net.weights", "net.conv.23", "net.backup"])
def test_found_beside(tmp_path, cfg_in, names_in, called):
    path = write_darknet(tmp_path, "region").rename(tmp_path / called)
    for folder in ("cfg", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "net.cfg").rename(tmp_path / cfg_in / "net.cfg")
    (tmp_path / names_in / "net.names").write_text("ant\nbee\ncat\n\n")
    assert load(path).names == ("ant", "bee", "cat")


def test_a_cfg_of_the_whole_name_comes_first(tmp_path):
    path = write_darknet(tmp_path, "region", "net.2").rename(tmp_path / "net.2.backup")
    write_darknet(tmp_path, "grid", "net")
    assert load(path).network.head == REGION


def test_a_config_in_place_of_a_file(tmp_path):
    path = write_darknet(tmp_path / "a", "region")
    config = read_cfg(path.with_suffix(".cfg"))
    model = load(path.rename(tmp_path / "alone.weights"), config, ["a", "b", "c"])
    assert (model.names, model.network.layers) == (("a", "b", "c"), config.layers)


def with_classes(folder, classes, **options):
    region = dataclasses.replace(REGION, classes=classes, **options)
    return write_network(folder, [feeding(region.channels), region], (3, 4, 4))


@pytest.mark.parametrize(
    "classes, first, last",
    [(20, "aeroplane", "tvmonitor"), (80, "person", "toothbrush"), (2, "class0", "class1")],
)
def test_names_by_default(tmp_path, classes, first, last):
    names = load(with_classes(tmp_path, classes)).names
    assert (names[0], names[-1], len(names)) == (first, last, classes)
    assert names == default_names(classes)


def test_default_names_have_no_slips():
    assert [len(set(names)) for names in (VOC_NAMES, COCO_NAMES)] == [20, 80]
    assert all(name == name.strip() and name for name in VOC_NAMES + COCO_NAMES)
    assert set(VOC_NAMES) <= set(
        COCO_NAMES
    )  # COCO has all classes of VOC, and Darknet gives them VOC's names


@pytest.mark.parametrize("name", ["tree", "region on a tree"])
def test_names_of_a_tree(tmp_path, name):
    path = write_darknet(tmp_path, name)
    assert load(path).names == TREE.names
    assert load(path, names=list("uvwxyz")).names == tuple("uvwxyz")


def test_names_from_a_list_or_file(tmp_path):
    path = write_darknet(tmp_path, "region")
    (tmp_path / "file.txt").write_text("\ufeffhot dog\r\n größe \r\nc", "utf-8")
    for names in (tmp_path / "file.txt", str(tmp_path / "file.txt"), ["hot dog", "größe", "c"]):
        assert load(path, names=names).names == ("hot dog", "größe", "c")


def test_a_longer_list_is_for_classifiers(tmp_path):
    """Darknet's list for ImageNet has 21,842 lines, its classes are the first 1,000."""
    (tmp_path / "shortnames.list").write_text("".join(f"name {i}\n" for i in range(50)))
    path = write_darknet(tmp_path / "a", "softmax")
    assert load(path, names=tmp_path / "shortnames.list").names == tuple(f"name {i}" for i in range(7))
    with pytest.raises(UserError, match=r"shortnames\.list: 50 class names for 3 classes"):
        load(write_darknet(tmp_path / "b", "region"), names=tmp_path / "shortnames.list")


@pytest.mark.parametrize(
    "names, message",
    [
        (["a", "b"], "^names: 2 class names for 3 classes$"),
        ([], "^names: 0 class names for 3 classes$"),
        ({0: "a", 1: "b", 2: "c"}, "^names: a class name is no text$"),
        (b"a\nb\n", r"other\.names: 2 class names for 3 classes"),
        (b"a\n\nb\nc\n", r"other\.names: line 2 is empty; a name is missing"),
        (b"a\nb\nc\n\xff", r"other\.names: not a text file in UTF-8"),
        (b"a\0", r"other\.names: not a list of names"),
        (None, r"other\.names: cannot be read \(No such file"),
    ],
)
def test_names_that_do_not_fit(tmp_path, names, message):
    path = write_darknet(tmp_path, "region")
    if not isinstance(names, list | dict):
        if names is not None:
            (tmp_path / "other.names").write_bytes(names)
        names = tmp_path / "other.names"
    with pytest.raises(UserError, match=message):
        load(path, names=names)


def test_names_beside_that_do_not_fit_are_named(tmp_path):
    path = write_darknet(tmp_path, "region")
    (tmp_path / "net.names").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"net\.names: 2 class names for 3 classes"):
        load(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_names(tmp_path)


def test_classes_of_a_softmax_on_a_map_and_of_two(tmp_path):
    """Every value of the map is a class; of two softmax layers the last is the head."""
    layers = [Conv(5), Softmax(), feeding(2), Softmax()]
    model = load(write_network(tmp_path, layers, (3, 2, 3)))
    assert model.classes == len(model.names) == 2 * 2 * 3
    (result,) = model.predict(PICTURE, progress=False)
    assert len(result.probs) == 12


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    "options, kept",
    [
        ({"imgsz": (40, 24)}, {"imgsz": (40, 24)}),
        ({"imgsz": [64, 64]}, {"imgsz": 64}),
        ({"imgsz": 64}, {"imgsz": 64}),
        ({"resize": "stretch"}, {"resize": "stretch"}),
        ({"reorg": "space_to_depth"}, {}),
    ],
)
def test_options_change_the_result_and_last(tmp_path, options, kept):
    path = write_darknet(tmp_path, "region")
    plain, model = load(path), load(path, **options)
    before, after = seen_by(plain), seen_by(model)
    assert len(after[0]) > 3 and not np.array_equal(before[0], after[0])
    for key, value in kept.items():
        assert getattr(model, key) == value
    if "reorg" in options:
        assert [x.order for x in model.network.layers if isinstance(x, Reorg)] == ["space_to_depth"]

    plain.save(tmp_path / "plain.safetensors")
    model.save(tmp_path / "new.safetensors")
    again = load(tmp_path / "new.safetensors")
    assert (again.imgsz, again.resize, again.network.layers) == (
        model.imgsz,
        model.resize,
        model.network.layers,
    )
    assert again.network.input_shape == model.network.input_shape
    for other in (again, load(tmp_path / "plain.safetensors", **options)):
        check_equal(seen_by(other), after)


def test_a_cfg_without_sizes_needs_imgsz(tmp_path):
    path = write_darknet(tmp_path, "region", width=0, height=0)
    with pytest.raises(UserError, match=r"net\.cfg: says no width and height; give imgsz"):
        load(path)
    model = load(path, imgsz=(32, 48))
    check_equal(seen_by(model), seen_by(load(write_darknet(tmp_path / "b", "region"))))


@pytest.mark.parametrize("suffix", [".weights", ".safetensors"])
@pytest.mark.parametrize(
    "name, imgsz, message",
    [
        ("region", 33, r"imgsz: 33: layer 7 \(Reorg\) .*not divisible by stride 2"),
        ("grid", 28, r"imgsz: 28, but layer 2 \(Local\) is made for \(20, 14\)"),
        ("map", (4, 3), r"imgsz: \(4, 3\), but layer 1 \(Softmax\) is made for 2"),
        ("flat", 3, r"imgsz: 3, but layer 0 \(Connected\) is made for 2"),
    ],
)
def test_sizes_that_the_network_cannot_take(tmp_path, name, imgsz, message, suffix):
    small = {"map": [Conv(5), Softmax()], "flat": [Connected(REGION.channels), REGION]}
    path = write_network(tmp_path, small[name], (3, 2, 2)) if name in small else write_darknet(tmp_path, name)
    model = load(path)
    if suffix == ".safetensors":
        path = tmp_path / "net.safetensors"
        model.save(path)
    with pytest.raises(UserError, match=rf"net\{suffix}: {message}"):
        load(path, imgsz=imgsz)
    with pytest.raises(ValueError, match=message):
        model.predict(PICTURE, imgsz=imgsz)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"imgsz": 0}, "imgsz: 0 is not a number of pixels"),
        ({"imgsz": (32, -1)}, r"imgsz: \(32, -1\)"),
        ({"imgsz": (32, 32, 3)}, r"imgsz: \(32, 32, 3\)"),
        ({"imgsz": "416"}, "imgsz: '416'"),
        ({"resize": "strecth"}, "resize: 'strecth' is not one of letterbox, stretch"),
        ({"reorg": "torch"}, "reorg: 'torch' is not one of darknet, space_to_depth"),
    ],
)
def test_options_without_meaning(tmp_path, options, message):
    path = write_darknet(tmp_path, "softmax")
    with pytest.raises(ValueError, match=message):
        load(path, **options)


def test_device(tmp_path):
    path = write_darknet(tmp_path, "region")
    assert yolov2.load(path).device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert yolov2.load(path, device=torch.device("cpu")).device.type == "cpu"
    with pytest.raises(UserError, match="tpu: not one of auto, cpu"):
        yolov2.load(path, device="tpu")


# ---------------------------------------------------------------- files too short, too long, damaged


def test_files_of_a_wrong_length(tmp_path):
    path = write_darknet(tmp_path, "region")
    model, data = load(path), path.read_bytes()

    path.write_bytes(data + b"more")
    with pytest.raises(UserError, match=r"net\.weights: too long: 4 bytes are left"):
        load(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_equal(seen_by(load(path, strict=False)), seen_by(model))

    first = 20 + 4 * (4 * 4 + 4 * 3 * 9)  # one convolution of four
    path.write_bytes(data[: first + 40])
    with pytest.raises(UserError, match=r"net\.weights: too short: layer 2 \(Conv\) needs"):
        load(path)
    with pytest.warns(UserWarning, match=r"net\.weights: fills 1 layers; 4 start at random") as seen:
        partial = load(path, strict=False)
    assert seen[0].filename == __file__  # the line that called
    weights = [m.network.blocks[0].conv.weight for m in (partial, model)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert raw(partial, torch.rand(1, 3, 32, 48)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "value"), [("rolling_mean", np.nan), ("biases", np.inf), ("rolling_variance", -1e-3)]
)
def test_weights_that_cannot_be(tmp_path, name, value):
    layers, shape = NETWORKS["region"]
    parameters = some_parameters(list(layers), shape)
    parameters[2][name][3] = value
    path = write_darknet(tmp_path, "region")
    write_weights(path, layers, parameters)
    with pytest.raises(UserError, match=r"net\.weights: damaged: a weight is no finite number, or a"):
        load(path)


CONTENT = {
    "lfs.weights": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 203934260\n",
    "page.weights": b"<!DOCTYPE html>\n<html><title>Not found",
    "error.weights": b'{"error": "not found", "status": 404}',
    "packed.weights": b"\x1f\x8b" + 40 * b"\0",
    "empty.weights": b"",
    "picture.weights": b"\x89PNG\r\n\x1a\n" + 40 * b"\0",
    "pickle.pt": b"\x80\x02" + 40 * b"}",
    "net.cfg": b"[net]\nwidth=32\nheight=32\n",
    "text.safetensors": b"hello",
}


@pytest.mark.parametrize(
    "name, message",
    [
        ("lfs.weights", "Git LFS"),
        ("page.weights", "a web page"),
        ("error.weights", "JSON"),
        ("packed.weights", "gzip"),
        ("empty.weights", "0 bytes are too few"),
        ("picture.weights", "begins with version"),
        ("pickle.pt", "begins with version"),
        ("net.cfg", "a network file holds no weights; give it as cfg, and the weights first"),
        ("text.safetensors", "damaged checkpoint"),
        ("model.pt", "a PyTorch file, which may run code when it is opened; it is not read here"),
        ("other.weights", "not a weights file but a zip archive or a PyTorch file"),
        ("foreign.safetensors", "not a checkpoint of this library"),
        ("renamed.weights", "too (short|long)"),
        ("gone.weights", "no such file"),
        ("gone.safetensors", "no such checkpoint"),
        ("folder", "a folder"),
        ("folder.safetensors", "a folder"),
    ],
)
def test_files_that_are_no_weights(tmp_path, name, message):
    """Each is one line that names the file and says what it is."""
    path = tmp_path / name
    cfg = (
        None
        if path.suffix == ".safetensors"
        else write_darknet(tmp_path / "net", "region").with_suffix(".cfg")
    )
    if name in CONTENT:
        path.write_bytes(CONTENT[name])
    elif name in ("model.pt", "other.weights"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", "x")
    elif name in ("foreign.safetensors", "renamed.weights"):
        save_file({"weight": torch.zeros(3)}, path)
    elif name.startswith("folder"):
        path.mkdir()
    with pytest.raises(UserError, match=message) as error:
        load(path, cfg)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_checkpoint_needs_no_cfg(tmp_path):
    path = write_darknet(tmp_path, "region")
    load(path).save(tmp_path / "net.safetensors")
    for options in ({"cfg": path.with_suffix(".cfg")}, {"names": ["a", "b", "c"]}):
        with pytest.raises(
            UserError, match=r"net\.safetensors: a checkpoint knows its own network and names"
        ):
            load(tmp_path / "net.safetensors", **options)


def test_kinds_are_not_mixed_up(tmp_path):
    for name, kind in (("region", Classifier), ("softmax", Detector)):
        load(write_darknet(tmp_path / name, name)).save(tmp_path / f"{name}.safetensors")
        with pytest.raises(
            UserError, match=rf"{name}\.safetensors: no {kind.__name__.lower()}, its network ends"
        ):
            kind.load(tmp_path / f"{name}.safetensors")


def cfg(sections, net="width=32\nheight=32\nchannels=3"):
    return f"[net]\n{net}\n" + sections


CONV = "[convolutional]\nfilters=16\nsize=1\nactivation=linear\n"
REGION_OF_3 = "[region]\nanchors=1,1,2,2\nnum=2\nclasses=3\nsoftmax=1\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (cfg(CONV), r"ends in no region, detection or softmax layer"),
        (cfg(CONV + "[avgpool]\n[cost]\n"), r"ends in no region, detection or softmax layer"),
        (cfg(CONV + REGION_OF_3, "width=32\nheight=32\nchannels=1"), r"channels=1; only networks for RGB"),
        (cfg(CONV + REGION_OF_3, "channels=3"), r"says no width and height; give imgsz"),
        (cfg(CONV + REGION_OF_3.replace("=3", "=4")), r"line 6, \[convolutional\]: filters=16, but"),
        (cfg(CONV + "[yolo]\n"), r"line 9, \[yolo\]: unknown layer type"),
        ("hello", r"line 1: 'hello' is not a \[section\]"),
        ("\0", r"not a text file"),
    ],
)
def test_networks_that_are_refused(tmp_path, text, message):
    path = write_darknet(tmp_path, "region")
    path.with_suffix(".cfg").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        load(path)
    assert str(error.value).startswith(str(path.with_suffix(".cfg"))) and "\n" not in str(error.value)


def test_a_cfg_that_cannot_be_opened_or_is_of_another_network(tmp_path):
    path = write_darknet(tmp_path, "region")
    with pytest.raises(UserError, match=r"gone\.cfg: cannot be read \(No such file"):
        load(path, tmp_path / "gone.cfg")
    with pytest.raises(UserError, match=r": cannot be read \(Is a directory"):
        load(path, tmp_path)
    other = write_darknet(tmp_path / "other", "softmax").with_suffix(".cfg")
    with pytest.raises(UserError, match=r"net\.weights: too long"):
        load(path, other)
    path.with_suffix(".cfg").unlink()
    with pytest.raises(UserError, match=r"net\.weights: which network is it of\? Give its cfg file"):
        load(path)


def test_keys_that_nothing_reads_are_told(tmp_path):
    path = write_darknet(tmp_path, "region")
    cfg = path.with_suffix(".cfg")
    cfg.write_text(cfg.read_text().replace("[net]\n", "[net]\nletter_box=1\n"))
    with pytest.warns(UserWarning) as told:
        load(path)
    (warning,) = told
    assert str(warning.message) == f"{cfg}: line 2, [net]: letter_box is not used"
    assert warning.filename == __file__


# ---------------------------------------------------------------- there and back


@pytest.mark.parametrize("version", [(0, 1, 0), (0, 2, 5), (1001, 0, 0)], ids=["16", "20", "transposed"])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_to_model_to_weights_are_the_same_bytes(tmp_path, name, version):
    path = write_darknet(tmp_path, name, version=version, seen=123456, batch=4, momentum=0.8, hue=0.1)
    model = load(path)
    model.save(tmp_path / "kept.safetensors")
    config = read_cfg(path.with_suffix(".cfg"))
    for stem, source in (("direct", model), ("kept", load(tmp_path / "kept.safetensors"))):
        files = export_darknet(source, tmp_path / f"{stem}.weights")
        on_tree = {".tree"} if "tree" in name else set()
        assert {file.suffix for file in files} == {".weights", ".cfg", ".names"} | on_tree
        assert (tmp_path / f"{stem}.weights").read_bytes() == path.read_bytes()
        assert read_cfg(tmp_path / f"{stem}.cfg") == config
        assert read_names(tmp_path / f"{stem}.names") == model.names
        check = load(tmp_path / f"{stem}.weights")
        for a, b in zip(seen_by(check), seen_by(model), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_checkpoint_gives_the_same_outputs_to_the_last_bit(tmp_path, name):
    """In Darknet's form of batch norm, of which the checkpoint tells."""
    model = load(write_darknet(tmp_path, name))
    model.save(tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert model.network.batch_norm == again.network.batch_norm == "darknet"
    assert (again.names, again.imgsz, again.resize) == (model.names, model.imgsz, model.resize)
    assert again.progress == model.progress and json.dumps(again.config) == json.dumps(model.config)
    x = torch.rand(2, *NETWORKS[name][1])
    assert torch.equal(raw(again, x), raw(model, x))


def test_published_networks_need_no_cfg(tmp_path):
    """nano.weights are of `nano`; others are of the network that is named."""
    preset = presets.NETWORKS["nano"]
    layers = preset.build()
    shape = (3, preset.imgsz, preset.imgsz)
    parameters = initial_parameters(layers, shape, np.random.default_rng(0))
    for path, cfg in ((tmp_path / "nano.weights", None), (tmp_path / "x.weights", "nano")):
        write_weights(path, layers, parameters)
        model = yolov2.load(path, cfg, device="cpu")
        assert model.network.layers == layers and model.imgsz == preset.imgsz and model.names == VOC_NAMES
    with pytest.raises(UserError, match=r"yolo9000: needs the tree that its cfg file names"):
        yolov2.load(tmp_path / "x.weights", "yolo9000")

"""python -m yolov2.export: every format, of checkpoints and of Darknet's files, run where it will be."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import yolov2
from reference.layers import Conv, Reorg, Softmax
from reference.region import Region
from tests.commands import assert_refused, command
from tests.models import DETECTORS, NETWORKS, check_equal, noise, rows, write_darknet
from yolov2.cfg import read_cfg
from yolov2.detector import raw_detections
from yolov2.export import ExportConfig, export_darknet, main
from yolov2.names import read_names
from yolov2.network import SoftmaxOfAll
from yolov2.weights import parameter_shapes, read_weights

needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxruntime"))),
    reason='NO PROOF OF ONNX FILES: this needs onnx and onnxruntime, pip install -e ".[test]"',
)
ONNX = pytest.param("onnx", marks=needs_onnx)
PICTURES = [noise(70, 40, 0), noise(64, 64, 1)]


def load(path, **options):
    return yolov2.load(path, device="cpu", **options)


def found(model, conf=0.5, **options):
    return rows(model.predict(PICTURES, conf=conf, progress=False, **options))


def export(*argv):
    assert command(main, *argv) == 0


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def weights(tmp_path):
    """Darknet's files of a network with reorg."""
    return write_darknet(tmp_path / "in", "region")


@pytest.fixture
def checkpoint(small_run, tmp_path):
    """A checkpoint of a training, with momentum."""
    return shutil.copy(small_run / "last.safetensors", tmp_path / "run.safetensors")


def images_for(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    _, height, width = model.network.input_shape
    return torch.rand(batch, 3, height, width, generator=generator)


def outputs_of(model, images, detections=None):
    """What an exported file has to put out, by the network and the library's own operators."""
    with torch.inference_mode():
        raw, head = model.network.eval()(images), model.network.head
        if detections is not None:
            return [part.numpy() for part in raw_detections(raw, head, *detections)]
        raw = SoftmaxOfAll(head)(raw) if isinstance(head, Softmax) else raw
        return [(raw if isinstance(head, Region) else raw.flatten(1)).numpy()]


# ---------------------------------------------------------------- safetensors


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpoint_of_darknets_files(tmp_path, capsys, name):
    path = write_darknet(tmp_path, name)
    export("--weights", path)
    assert f"{tmp_path / 'net.safetensors'} (0." in capsys.readouterr().out
    a, b = load(path), load(tmp_path / "net.safetensors")
    assert torch.equal(*(m.network(images_for(a)) for m in (a, b)))
    assert (a.names, a.imgsz, a.resize, a.config) == (b.names, b.imgsz, b.resize, b.config)


def test_what_the_flags_say_is_in_the_checkpoint(weights, tmp_path):
    (tmp_path / "names").write_text("ant\nbee\ncat\n")
    flags = (
        "--reorg",
        "space_to_depth",
        "--imgsz",
        "64,32",
        "--resize",
        "stretch",
        "--names",
        tmp_path / "names",
    )
    export("--weights", weights, "--cfg", weights.with_suffix(".cfg"), *flags, "--out", tmp_path / "new")
    model = load(tmp_path / "new.safetensors")
    assert [x.order for x in model.network.layers if isinstance(x, Reorg)] == ["space_to_depth"]
    assert (model.imgsz, model.resize, model.names) == ((64, 32), "stretch", ("ant", "bee", "cat"))
    options = {"reorg": "space_to_depth", "imgsz": (64, 32), "resize": "stretch"}
    check_equal(found(model), found(load(weights, **options)))


def test_the_momentum_of_a_training_is_left_out(checkpoint, tmp_path):
    export("--weights", checkpoint, "--out", tmp_path / "small.safetensors")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.6 * checkpoint.stat().st_size
    check_equal(found(load(tmp_path / "small.safetensors"), 0.001), found(load(checkpoint), 0.001))


# ---------------------------------------------------------------- Darknet


def test_darknets_files_of_a_training(checkpoint, tmp_path, capsys):
    """Darknet's batch norm has its epsilon elsewhere: sqrt(v) + 1e-6 where torch has sqrt(v + 1e-5).

    That changes what a layer puts out by up to 1e-5/(2 v) of itself.
    """
    export("--weights", checkpoint, "--format", "darknet")
    assert left_in(tmp_path) == ["run.cfg", "run.names", "run.safetensors", "run.weights"]
    assert capsys.readouterr().out.count(" MB)") == 3
    before, after = load(checkpoint), load(tmp_path / "run.weights")
    assert (before.network.batch_norm, after.network.batch_norm) == ("cudnn", "darknet")
    assert after.names == ("blue", "red") and after.network.layers == before.network.layers
    assert after.progress["seen"] == before.progress["seen"] > 0
    assert (after.imgsz, after.resize) == (64, before.resize)

    config = read_cfg(tmp_path / "run.cfg")
    assert (config.net.batch, config.net.schedule.learning_rate) == (2, before.config["lr"])
    for a, b in zip(before.network.parameters(), after.network.parameters(), strict=True):
        assert torch.equal(a, b)
    variances = torch.cat([v for name, v in before.network.named_buffers() if name.endswith("running_var")])
    change = (torch.sqrt(variances + 1e-5) / (torch.sqrt(variances) + 1e-6) - 1).abs().max()
    blocks = sum(isinstance(layer, Conv) and layer.batch_norm for layer in before.network.layers)
    images = images_for(before)
    a, b = (outputs_of(model, images)[0] for model in (before, after))
    # every layer hands on what came in changed and adds its own; measured .84 of their sum
    assert 0 < np.abs(a - b).max() < 3 * float(blocks * change) * np.abs(a).max()
    want = found(before, 0.01)
    assert min(map(len, want)) > 1
    check_equal(found(after, 0.01), want, pixels=0.1, score=1e-4)


def test_by_way_of_a_checkpoint_nothing_is_lost(weights, tmp_path):
    export("--weights", weights, "--out", tmp_path / "between.safetensors")
    export(
        "--weights", tmp_path / "between.safetensors", "--format", "darknet", "--out", tmp_path / "new/net"
    )
    assert left_in(tmp_path / "new") == ["net.cfg", "net.names", "net.weights"]
    assert (tmp_path / "new/net.weights").read_bytes() == weights.read_bytes()
    assert read_cfg(tmp_path / "new/net.cfg") == read_cfg(weights.with_suffix(".cfg"))
    assert read_names(tmp_path / "new/net.names") == ("class0", "class1", "class2")
    check_equal(found(load(tmp_path / "new/net.weights")), found(load(weights)))


def test_the_order_of_reorg_and_the_size_are_in_the_cfg(weights, tmp_path):
    flags = ("--format", "darknet", "--reorg", "space_to_depth", "--imgsz", "64")
    export("--weights", weights, *flags, "--out", tmp_path / "new.weights")
    assert "order=space_to_depth" in (tmp_path / "new.cfg").read_text()
    model = load(tmp_path / "new.weights")
    assert model.imgsz == 64
    check_equal(found(model), found(load(weights, imgsz=64, reorg="space_to_depth")))


@pytest.mark.parametrize("name", ["tree", "region on a tree"])
def test_a_tree_is_written_beside(tmp_path, name):
    path = write_darknet(tmp_path / "in", name)
    export("--weights", path, "--format", "darknet", "--out", tmp_path / "out")
    assert left_in(tmp_path) == ["in", "out.cfg", "out.names", "out.tree", "out.weights"]
    assert load(tmp_path / "out.weights").network.layers == load(path).network.layers


def test_the_first_layers(weights, tmp_path):
    """For starting other networks, as `darknet partial` writes them."""
    out = tmp_path / "net.conv.3"
    export("--weights", weights, "--format", "darknet", "--cutoff", "3", "--out", out)
    assert left_in(tmp_path) == ["in", "net.conv.3"]
    layers, shape = NETWORKS["region"]
    header, arrays = read_weights(out, layers, shape, cutoff=3)
    assert (header.seen, header.filled_layers, header.leftover_bytes) == (0, 2, 0)
    assert [bool(a) for a in arrays[:4]] == [True, False, True, False]
    with pytest.warns(UserWarning, match=r"net\.conv\.3: fills 2 layers; 3 start at random"):
        partial = yolov2.load(out, weights.with_suffix(".cfg"), strict=False)
    whole = load(weights)
    for index in (0, 2):
        assert torch.equal(*(m.network.blocks[index].conv.weight.cpu() for m in (partial, whole)))


def test_a_network_that_a_file_fills_in_part(weights, tmp_path, capsys):
    weights.write_bytes(weights.read_bytes()[:-40])
    flags = ("--weights", weights, "--out", tmp_path / "net.safetensors")
    assert_refused(capsys, main, *flags, names=("net.weights: too short: layer 9 (Conv)",))
    with pytest.warns(UserWarning, match="fills 4 layers; 1 start at random"):
        export(*flags, "--no-strict")
    assert load(tmp_path / "net.safetensors").classes == 3


# ---------------------------------------------------------------- ONNX


def onnx_session(path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@needs_onnx
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx(tmp_path, capsys, name):
    path = write_darknet(tmp_path, name)
    export("--weights", path, "--format", "onnx")
    out = capsys.readouterr().out
    assert " MB)\nimages (batch, 3, " in out and "from the network on noise in onnxruntime" in out
    assert float(out.split("at most ")[1].split()[0]) < 1e-4
    session, model = onnx_session(tmp_path / "net.onnx"), load(path)
    for batch in (1, 3):
        images = images_for(model, batch)
        (got,) = session.run(None, {"images": images.numpy()})
        (want,) = outputs_of(model, images)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["names"]) == list(model.names)
    assert facts["resize"] == model.resize and facts["batch_norm"] == "darknet, folded"
    head = model.network.head
    assert json.loads(facts.get("anchors", "[]")) == [list(a) for a in getattr(head, "anchors", ())]
    assert facts.get("reorg_order") == ("darknet" if name == "region" else None)


@needs_onnx
@pytest.mark.parametrize("name", ["region", "grid"])
def test_onnx_with_detections(tmp_path, capsys, name):
    path = write_darknet(tmp_path, name)
    flags = ("--detections", "--conf", "0.3", "--iou", "0.4", "--max-det", "20")
    export("--weights", path, "--format", "onnx", *flags, "--out", tmp_path)  # a folder: the name stays
    assert "boxes (batch, 20, 4), scores (batch, 20)" in capsys.readouterr().out
    session, model = onnx_session(tmp_path / "net.onnx"), load(path)
    images = images_for(model, 3)
    got = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        want = raw_detections(model.network(images), model.network.head, 0.3, 0.4, 20)
    assert want.count.min() > 1
    np.testing.assert_array_equal(got[3], want.count)
    np.testing.assert_array_equal(got[2], want.classes)
    np.testing.assert_allclose(got[1], want.scores, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got[0], want.boxes, rtol=1e-4, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["conf"], facts["iou"], facts["max_det"]) == ("0.3", "0.4", "20")


@needs_onnx
def test_onnx_of_any_size_in_the_other_order(weights, tmp_path):
    flags = ("--dynamic-size", "--reorg", "space_to_depth", "--imgsz", "64,96", "--resize", "stretch")
    export("--weights", weights, "--format", "onnx", *flags, "--out", tmp_path / "net.onnx")
    session = onnx_session(tmp_path / "net.onnx")
    model = load(weights, reorg="space_to_depth")
    for size in ((2, 3, 64, 96), (1, 3, 32, 48), (1, 3, 16, 40)):
        images = torch.rand(size)
        (got,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(got, outputs_of(model, images)[0], rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert (facts["reorg_order"], facts["resize"]) == ("space_to_depth", "stretch")
    assert facts["input_size"] == "96x64 or any other"


@needs_onnx
def test_onnx_of_a_training(checkpoint, tmp_path):
    export("--weights", checkpoint, "--format", "onnx")
    images = images_for(load(checkpoint))
    (got,) = onnx_session(tmp_path / "run.onnx").run(None, {"images": images.numpy()})
    np.testing.assert_allclose(got, outputs_of(load(checkpoint), images)[0], rtol=0, atol=1e-4)


@needs_onnx
def test_onnx_without_onnxruntime(weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    export("--weights", weights, "--format", "onnx")
    assert "; not run, for onnxruntime is not installed" in capsys.readouterr().out


def test_without_onnx(weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnx", None)
    flags = ("--weights", weights, "--format", "onnx")
    assert_refused(capsys, main, *flags, names=('pip install "yolov2[onnx]"',))
    assert left_in(weights.parent) == ["net.cfg", "net.weights"]


# ---------------------------------------------------------------- torch.export


def test_programs_run_with_torch_alone(tmp_path):
    """In a process that knows nothing of this library; any number of pictures."""
    wanted = {}
    for name, flags in (("region", ()), ("other", ("--reorg", "space_to_depth")), ("grid", ()), ("tree", ())):
        path = write_darknet(tmp_path / "in", name if name != "other" else "region", name)
        export("--weights", path, "--format", "torch", *flags, "--out", tmp_path / name)
        model = load(path, **({"reorg": "space_to_depth"} if flags else {}))
        for batch in (1, 3):
            images = images_for(model, batch)
            wanted[f"{name}_{batch}"] = outputs_of(model, images)[0]
            np.save(tmp_path / f"{name}_{batch}.in.npy", images)
    code = (
        "import sys, glob, numpy as np, torch\n"
        "for path in glob.glob('*.pt2'):\n"
        "    program = torch.export.load(path).module()\n"
        "    for batch in '13':\n"
        "        case = path[:-4] + '_' + batch\n"
        "        with torch.no_grad():\n"
        "            np.save(case, program(torch.from_numpy(np.load(case + '.in.npy'))).numpy())\n"
        "assert not {'yolov2', 'fast', 'reference'} & {name.split('.')[0] for name in sys.modules}\n"
    )
    assert len(list(tmp_path.glob("*.pt2"))) == 4
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    for case, want in wanted.items():
        np.testing.assert_allclose(np.load(tmp_path / f"{case}.npy"), want, rtol=0, atol=1e-5)
    assert not np.allclose(wanted["region_1"], wanted["other_1"], atol=1e-2)


@pytest.mark.parametrize("name", DETECTORS)
def test_programs_with_detections(tmp_path, capsys, name):
    path = write_darknet(tmp_path, name)
    flags = ("--detections", "--conf", "0.2", "--max-det", "20")
    export("--weights", path, "--format", "torch", *flags)
    out = capsys.readouterr().out
    assert "-> boxes, scores, classes, count; at most 0.0e+00 from the network on noise" in out
    model = load(path)
    for batch in (1, 3):
        images = images_for(model, batch)
        got = torch.export.load(tmp_path / "net.pt2").module()(images)
        want = outputs_of(model, images, (0.2, 0.45, 20))
        assert want[3].min() > 0
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a.detach(), b, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--detections",), "--detections: only of --format onnx or torch"),
        (("--detections", "--format", "darknet"), "--detections: only of --format onnx or torch"),
        (("--dynamic-size", "--format", "torch"), "--dynamic-size: only of --format onnx"),
        (("--cutoff", "3"), "--cutoff: a number of layers, with --format darknet"),
        (("--cutoff", "0", "--format", "darknet"), "--cutoff: a number of layers"),
        (("--format", "caffe"), "--format"),
        (("--reorg", "torch"), "--reorg"),
        (("--resize", "crop"), "--resize"),
        (("--imgsz", "1,2,3"), "--imgsz: one side, or height,width"),
        (("--imgsz", "0"), "imgsz: 0 is not a number of pixels"),
        (("--imgsz", "34"), "imgsz: 34: layer 7 (Reorg)"),
        (("--conf", "2"), "--conf"),
        (("--cfg", "gone.cfg"), "gone.cfg: cannot be read"),
        (("--names", "gone.names"), "gone.names: cannot be read"),
        (("--weights", "gone.weights"), "gone.weights: no such file"),
    ],
)
def test_flags_that_make_no_sense(weights, capsys, flags, message):
    assert message in assert_refused(capsys, main, "--weights", weights, *flags)
    assert left_in(weights.parent) == ["net.cfg", "net.weights"]


@needs_onnx
@pytest.mark.parametrize(
    "name, flags, message",
    [
        ("region on a tree", ("--detections", "--format", "onnx"), "not supported on a tree of classes"),
        ("softmax", ("--detections", "--format", "onnx"), "export without"),
        ("softmax", ("--detections", "--format", "torch"), "a classifier makes none; export without"),
        ("grid", ("--dynamic-size", "--format", "onnx"), "layer 2 (Local): needs an input of fixed size"),
    ],
)
def test_networks_that_have_no_such_form(tmp_path, capsys, name, flags, message):
    path = write_darknet(tmp_path, name)
    before = left_in(tmp_path)
    assert message in assert_refused(capsys, main, "--weights", path, *flags, names=(path,))
    assert left_in(tmp_path) == before


def test_what_is_read_is_not_overwritten(weights, checkpoint, tmp_path, capsys):
    folder = weights.parent
    (folder / "net.names").write_text("a\nb\nc\n")
    other = shutil.copy(weights, tmp_path / "other.weights")
    cases = [
        (weights, "--format", "darknet"),
        (weights, "--format", "darknet", "--cutoff", "2"),
        (weights, "--format", "darknet", "--out", folder / "net.backup"),  # its net.cfg and net.names
        (weights, "--format", "onnx", "--out", weights),
        (other, "--format", "darknet", "--cfg", folder / "net.cfg", "--out", folder / "net"),
        (
            other,
            "--format",
            "darknet",
            "--cfg",
            folder / "net.cfg",
            "--out",
            folder / ".." / "in" / "net.new",
        ),
        (checkpoint,),
        (checkpoint, "--out", tmp_path),
    ]
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for case in cases:
        assert_refused(capsys, main, "--weights", *case, names=("is what is read; give another --out",))
    for suffix in (".cfg", ".names", ".tree", ".map"):
        flags = ("--format", "darknet", "--out", tmp_path / f"x{suffix}")
        assert_refused(capsys, main, "--weights", weights, *flags, names=(f"x{suffix}", "give another --out"))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("format", ["safetensors", "darknet", ONNX, "torch"])
def test_folders_that_cannot_be(weights, tmp_path, capsys, format):
    (tmp_path / "file").write_text("a file")
    out = tmp_path / "file" / "net.out"
    assert_refused(
        capsys, main, "--weights", weights, "--format", format, "--out", out, names=(tmp_path / "file",)
    )
    assert left_in(tmp_path) == ["file", "in"]


@pytest.mark.parametrize("format", ["safetensors", "darknet", ONNX, "torch"])
def test_a_disk_that_is_full(weights, tmp_path, capsys, monkeypatch, format):
    """The old file stays, and no half of the new one is left."""

    def full(self, *args):
        raise OSError(28, os.strerror(28), str(self))

    out = tmp_path / "out" / f"net.{format}"
    out.parent.mkdir()
    out.write_text("old")
    monkeypatch.setattr("pathlib.Path.replace", full)
    monkeypatch.setattr("os.replace", lambda source, target: full(target))
    assert_refused(
        capsys, main, "--weights", weights, "--format", format, "--out", out, names=("No space left",)
    )
    assert left_in(out.parent) == [out.name] and out.read_text() == "old"


def test_a_network_that_fails_on_the_way_leaves_nothing(weights, tmp_path, capsys, monkeypatch):
    def fails(*args, **options):
        raise ValueError("no such form")

    monkeypatch.setattr("torch.export.export", fails)
    flags = ("--weights", weights, "--format", "torch", "--out", tmp_path / "x.pt2")
    assert_refused(capsys, main, *flags, names=(weights, "no such form"))
    assert left_in(tmp_path) == ["in"]


def test_a_record_of_training_that_is_damaged(weights, tmp_path, capsys):
    model = load(weights)
    path = tmp_path / "net.safetensors"
    for damage in ({"net": {"type": "Nte"}}, {"net": {"type": "Net", "sides": 3}}, {"net": 3}):
        model.config = model.config | damage
        model.save(path)
        assert_refused(capsys, main, "--weights", path, "--format", "darknet", names=(path, "damaged"))
        assert left_in(tmp_path) == ["in", "net.safetensors"]


def test_the_newest_run_is_exported(small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert_refused(capsys, main, names=("no run with a best.safetensors",))
    (tmp_path / "runs" / "train").mkdir(parents=True)
    shutil.copy(small_run / "best.safetensors", tmp_path / "runs" / "train")
    export("--format", "darknet")
    assert (tmp_path / "runs" / "train" / "best.weights").is_file()
    assert ExportConfig().format == "safetensors"


def test_a_count_that_does_not_fit_the_old_header(tmp_path):
    model = load(write_darknet(tmp_path, "region", version=(0, 1, 0)))
    model.progress["seen"] = 2**40
    with pytest.raises(ValueError, match="does not fit"):
        export_darknet(model, tmp_path / "new.weights")
    assert left_in(tmp_path) == ["net.cfg", "net.weights"]


def test_the_count_of_parameters_is_that_of_the_file(weights):
    layers, shape = NETWORKS["region"]
    count = sum(int(np.prod(s)) for shapes in parameter_shapes(list(layers), shape) for s in shapes.values())
    assert weights.stat().st_size == 20 + 4 * count and isinstance(layers[-1], Region)

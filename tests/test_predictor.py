"""`yolov2.Predictor`: engines, precisions, the way of a GPU rehearsed on the CPU, threads, memory."""

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

import yolov2
from benchmarks import endurance
from tests.models import CLASSIFIERS, NETWORKS, noise, write_darknet
from yolov2.errors import UserError
from yolov2.inference.predictor import PIPELINES, Predictor

PICTURES = [noise(70, 40, 0), noise(33, 64, 1), noise(48, 32, 2), noise(200, 90, 3), noise(9, 12, 4)]
#: what keeps some of what random weights find; classifiers are not asked
CONF: dict[str, dict[str, float]] = {name: {} if name in CLASSIFIERS else {"conf": 0.6} for name in NETWORKS}
ENGINES = ["eager", "onnxruntime", "openvino"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model of every small network; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    return {name: yolov2.load(write_darknet(folder / name, name), device="cpu") for name in NETWORKS}


@pytest.fixture
def model(models):
    return models["region"]


def needs(engine):
    if engine not in ("eager", "compile") and not (find_spec(engine) and find_spec("onnx")):
        pytest.skip(f'NO PROOF OF {engine}: pip install "yolov2[{engine}]"')


def rows(found):
    """Everything that is found in one picture, as one array."""
    if not hasattr(found, "boxes"):
        return np.asarray(found)
    return np.column_stack([found.boxes, found.scores, found.classes])


def same(got, want, exact=True):
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        if exact:
            np.testing.assert_array_equal(rows(one), rows(other))
        else:
            np.testing.assert_allclose(rows(one), rows(other), rtol=1e-3, atol=1e-4)


class TestEngines:
    @pytest.mark.parametrize("engine", ENGINES)
    @pytest.mark.parametrize("name", NETWORKS)
    def test_all_find_the_same(self, models, name, engine):
        needs(engine)
        want = models[name](PICTURES, **CONF[name])
        same(Predictor(models[name], engine)(PICTURES, **CONF[name]), want, exact=False)

    @pytest.mark.slow
    def test_compiled(self, models):
        model = models["softmax"]
        same(Predictor(model, "compile")(PICTURES), model(PICTURES), exact=False)

    @pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
    def test_another_size(self, model, engine):
        needs(engine)
        want = [r.boxes.data for r in Predictor(model).predict(PICTURES, conf=0.6, imgsz=(64, 96))]
        predictor = Predictor(model, engine)
        got = [r.boxes.data for r in predictor.predict(PICTURES, conf=0.6, imgsz=(64, 96), batch=2)]
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("precision", ["bfloat16", "float16"])
    def test_half_precision_is_near(self, model, precision):
        got = Predictor(model, precision=precision).run(
            torch.rand(1, 3, 32, 48).to(getattr(torch, precision))
        )
        assert got.dtype == getattr(torch, precision)

    def test_int8_keeps_to_its_size(self, model):
        needs("onnxruntime")
        quantised = Predictor(model, precision="int8", calibration=[np.array(p) for p in PICTURES])
        with pytest.raises(UserError, match="int8 was calibrated for 48x32"):
            quantised(PICTURES, imgsz=64)

    def test_16_bits_of_grey_are_not_white(self, model):
        grey = Image.fromarray(np.full((32, 48), 20000, np.uint16))
        want = Predictor(model)([np.full((32, 48, 3), 20000 // 257, np.uint8)], 0.6)
        same(Predictor(model)([grey], 0.6), want)

    def test_int8_is_near(self, model):
        needs("onnxruntime")
        x = torch.rand(4, 3, *model.network.input_shape[1:])
        quantised = Predictor(model, precision="int8", calibration=[np.array(p) for p in PICTURES])
        with torch.inference_mode():
            want, got = model.network.eval()(x), quantised.run(x)
        assert not torch.equal(got, want)
        assert (got - want).abs().mean() < 0.05 * want.std()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"engine": "tensorrt"}, "engine: 'tensorrt' is not one of auto, eager"),
            ({"precision": "int4"}, "precision: 'int4' is not one of"),
            ({"precision": "int8"}, "int8 needs --calibration"),
            ({"precision": "int8", "engine": "eager"}, "int8 needs --engine onnxruntime"),
            ({"precision": "float16", "engine": "onnxruntime"}, "float32 or int8, not float16"),
            ({"precision": "int8", "calibration": "nowhere"}, "nowhere: no such picture"),
        ],
    )
    def test_mistakes(self, model, options, message):
        with pytest.raises((UserError, ValueError), match=message):
            Predictor(model, **options)

    @pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
    def test_a_missing_package_is_named(self, model, engine, monkeypatch):
        monkeypatch.setitem(sys.modules, engine, None)
        with pytest.raises(UserError, match=rf'{engine}: not installed; pip install "yolov2\[{engine}\]"'):
            Predictor(model, engine)


class TestKeptByTheModel:
    def test_made_once(self, model):
        assert model.predictor() is model.predictor()
        assert model.predictor() is not model.predictor(precision="bfloat16")

    def test_copies_and_pickles_leave_it(self, models):
        model = models["region"]
        want = model.predict(PICTURES[0], conf=0.6, progress=False)[0].boxes.data
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            got = other.predict(PICTURES[0], conf=0.6, progress=False)[0].boxes.data
            np.testing.assert_array_equal(got, want)

    def test_new_weights_are_seen(self, tmp_path):
        model = yolov2.load(write_darknet(tmp_path, "region"), device="cpu")
        before = model.predict(PICTURES[0], conf=0.0, progress=False)[0].boxes.data
        with torch.no_grad():
            for p in model.network.parameters():
                p.mul_(1.5)
        after = model.predict(PICTURES[0], conf=0.0, progress=False)[0].boxes.data
        fresh = Predictor(model).predict(PICTURES[0], conf=0.0)[0].boxes.data
        assert not np.array_equal(before, after)
        np.testing.assert_array_equal(after, fresh)


class TestPipeline:
    """The way of a GPU, with calls in place of graphs."""

    @pytest.fixture
    def predictor(self, model):
        predictor = Predictor(model)
        predictor._packs = True
        return predictor

    @pytest.mark.parametrize("name", NETWORKS)
    def test_same_results(self, models, name):
        plain, packed = Predictor(models[name]), Predictor(models[name])
        packed._packs = True
        # the rounding of a matrix product may change with the batch and its layout
        for group in (PICTURES[:1], PICTURES, PICTURES[2:3], PICTURES[1:]):
            same(packed(group, 0.6), plain(group, 0.6), exact=False)
        streams = (one.stream(PICTURES, 2, conf=0.6) for one in (packed, plain))
        for got, want in zip(*streams, strict=True):
            assert got[0] is want[0]
            same([got[1]], [want[1]], exact=False)

    def test_paths_down_a_tree(self, models):
        model = models["region on a tree"]
        packed = Predictor(model)
        packed._packs = True
        for got, want in zip(packed(PICTURES, 0.5), model(PICTURES, 0.5), strict=True):
            np.testing.assert_array_equal(got.paths.nodes, want.paths.nodes)

    def test_a_larger_picture_makes_room(self, predictor):
        small, large = noise(30, 30, 1), noise(900, 700, 2)
        first = predictor([small], 0.6)
        same(predictor([large], 0.6), Predictor(predictor.model)([large], 0.6))
        same(predictor([small], 0.6), first)
        assert len(predictor._pipelines) == 1

    def test_not_more_pipelines_than_allowed(self, predictor):
        for batch in range(1, PIPELINES + 4):
            predictor([PICTURES[0]] * batch)
        assert len(predictor._pipelines) == PIPELINES

    def test_what_a_broken_source_gave_before_is_told(self, predictor):
        def pictures():
            yield from PICTURES[:4]
            raise OSError("unplugged")

        got = []
        with pytest.raises(OSError, match="unplugged"):
            got.extend(predictor.stream(pictures(), 2, conf=0.6))
        assert [picture for picture, _ in got] == PICTURES[:4]

    def test_one_at_a_time_waits_for_nothing_more(self, predictor):
        asked = []

        def pictures():
            for picture in PICTURES:
                asked.append(picture)
                yield picture

        for number, _ in enumerate(predictor.stream(pictures(), 1), 1):
            assert len(asked) <= number + 3  # what is read ahead

    def test_more_boxes_than_kernels_hold(self, predictor):
        side = 4 * 68  # 68 x 68 cells of two anchors
        assert predictor.model.has_rows((4 * 64, 4 * 64)) and not predictor.model.has_rows((side, side))
        same(
            predictor([PICTURES[0]], 0.9, imgsz=side),
            Predictor(predictor.model)([PICTURES[0]], 0.9, imgsz=side),
        )

    def test_the_last_group_is_filled_up(self, predictor):
        got = [found for _, found in predictor.stream(PICTURES, 2, conf=0.6)]
        same(got, Predictor(predictor.model)(PICTURES, 0.6))
        assert {shape[0] for shape, _ in predictor._pipelines} == {2}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: its graphs are not shown to be right")
class TestOnGpu:
    """Graphs find what the CPU finds; `python -m benchmarks.gpu --stage predictor` runs this."""

    @pytest.fixture(scope="class")
    def on_gpu(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("on_gpu")
        return {name: yolov2.load(write_darknet(folder / name, name), device="cuda") for name in NETWORKS}

    @pytest.mark.parametrize("name", NETWORKS)
    def test_float32_is_the_cpus(self, models, on_gpu, name):
        predictor = Predictor(on_gpu[name], precision="float32")
        for group in (PICTURES[:1], PICTURES, PICTURES[1:3], PICTURES[:1]):
            same(predictor(group, **CONF[name]), models[name](group, **CONF[name]), exact=False)

    @pytest.mark.parametrize("precision", ["float16", "bfloat16"])
    @pytest.mark.parametrize("name", NETWORKS)
    def test_half_runs(self, on_gpu, name, precision):
        got = Predictor(on_gpu[name], precision=precision)(PICTURES, **CONF[name])
        assert len(got) == len(PICTURES)

    def test_streams_are_in_order(self, models, on_gpu):
        predictor = Predictor(on_gpu["region"], precision="float32")
        many = PICTURES * 9
        got = [found for _, found in predictor.stream(many, 4, conf=0.6)]
        same(got, models["region"](PICTURES, 0.6) * 9, exact=False)

    def test_nothing_waits_but_for_the_rows(self, on_gpu):
        predictor = Predictor(on_gpu["region"]).warmup(2, conf=0.6)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            predictor(PICTURES[:2], 0.6)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_eight_threads(self, on_gpu):
        predictor = Predictor(on_gpu["region"], precision="float32")
        groups = [PICTURES[i % 5 : i % 5 + 1 + i % 2] for i in range(48)]
        want = [predictor(group, 0.6) for group in groups]
        with ThreadPoolExecutor(8) as pool:
            for got, one in zip(pool.map(lambda group: predictor(group, 0.6), groups), want, strict=True):
                same(got, one)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("engine", ["eager", "onnxruntime"])
def test_eight_threads(model, engine, packs):
    needs(engine)
    predictor = Predictor(model, engine)
    predictor._packs = packs
    groups = [PICTURES[i % 5 : i % 5 + 1 + i % 2] for i in range(48)]
    want = [Predictor(model, engine)(group, 0.6) for group in groups]
    with ThreadPoolExecutor(8) as pool:
        for got, one in zip(pool.map(lambda group: predictor(group, 0.6), groups), want, strict=True):
            same(got, one)


def test_memory_stays_flat(capsys):
    """A short run of what `python -m benchmarks.endurance` measures over 10,000 predictions."""
    assert endurance.main(["--count", "300", "--imgsz", "96"]) == 0
    assert "8 threads: 0 of 300 calls differ" in capsys.readouterr().out


def test_warm_up(model):
    predictor = Predictor(model).warmup(2, (64, 96))
    assert len(predictor([], 0.5)) == 0


def test_speed_is_told(model):
    (result,) = Predictor(model).predict(PICTURES[0])
    assert set(result.speed) == {"preprocess", "inference", "postprocess"}
    assert all(value > 0 for value in result.speed.values())

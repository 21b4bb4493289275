"""Layers, schedules and whole networks: convolution, batch norm, pooling, reorg, softmax, activations."""

import numpy as np
import torch

from reference.activation import activate, activate_grad, cross_entropy, softmax
from reference.batchnorm import batch_norm, batch_norm_grad, batch_norm_train
from reference.conv import conv2d, conv2d_grad
from reference.detect import region_detections
from reference.grid import detect_grid
from reference.layers import Conv, Grid
from reference.network import forward
from reference.nms import nms_per_class
from reference.pool import max_pool, max_pool_grad, max_pool_winners
from reference.reorg import reorg, reorg_grad
from reference.schedule import learning_rate
from tests.golden import GOLDEN, check, compare
from yolov2.cfg import read_cfg
from yolov2.network import Network, load_parameters
from yolov2.weights import parameter_shapes, read_weights


@check("conv")
def conv(case):
    o = case.config
    geometry = (o["stride"], o["pad"], o["groups"])
    x, weights, biases = case["input"], case["weights"], case["biases"]
    raw = conv2d(x, weights, *geometry)
    if not o["batch_normalize"]:
        output = activate(raw + biases[:, None, None], o["activation"])
    else:
        statistics = case["scales"], biases, case["rolling_mean"], case["rolling_variance"]
        if o["train"]:
            norm = batch_norm_train(raw, *statistics)
            output = activate(norm.output, o["activation"])
            yield from _statistics(norm, case)
        else:
            output = activate(batch_norm(raw, *statistics), o["activation"])
    yield compare("output", output, case["output"], atol=1e-5 if o["train"] else 1e-4)
    if not o["train"]:
        return
    d = case["dout"] * activate_grad(output, o["activation"])
    if o["batch_normalize"]:
        d, dscales, dbiases = batch_norm_grad(d, raw, case["scales"], norm.mean, norm.variance)
        yield compare("dscales", dscales, case["dscales"], atol=1e-5)
    else:
        dbiases = d.sum(axis=(0, 2, 3))
    din, dweights = conv2d_grad(d, x, weights, *geometry)
    yield compare("dbiases", dbiases, case["dbiases"], atol=1e-5)
    yield compare("dweights", dweights, case["dweights"], atol=1e-5)
    yield compare("din", din, case["din"], atol=1e-5)


@check("batchnorm")
def batchnorm(case):
    x, scales = case["input"], case["scales"]
    statistics = scales, case["biases"], case["rolling_mean"], case["rolling_variance"]
    if not case.config["train"]:
        yield compare("output", batch_norm(x, *statistics), case["output"], atol=1e-5)
        return
    norm = batch_norm_train(x, *statistics)
    yield from _statistics(norm, case)
    yield compare("output", norm.output, case["output"], atol=1e-5)
    gradients = batch_norm_grad(case["dout"], x, scales, norm.mean, norm.variance)
    for name, got in zip(("din", "dscales", "dbiases"), gradients, strict=True):
        yield compare(name, got, case[name], atol=1e-5, rtol=1e-5)


def _statistics(norm, case):
    yield compare("batch_mean", norm.mean, case["batch_mean"], atol=1e-6)
    yield compare("batch_variance", norm.variance, case["batch_variance"], rtol=1e-5)
    yield compare("rolling_mean", norm.rolling_mean, case["rolling_mean_after"], atol=1e-6)
    yield compare("rolling_variance", norm.rolling_variance, case["rolling_variance_after"], rtol=1e-5)


@check("maxpool")
def maxpool(case):
    x, window = case["input"], [case.config[k] for k in ("size", "stride", "padding")]
    yield compare("output", max_pool(x, *window), case["output"])
    yield compare("index", max_pool_winners(x, *window), case["index"])
    yield compare("din", max_pool_grad(case["dout"], x, *window), case["din"], atol=1e-6)


@check("reorg")
def reorg_case(case):
    how = (case.config["stride"], "darknet", bool(case.config["reverse"]))
    yield compare("output", reorg(case["input"], *how), case["output"])
    yield compare("din", reorg_grad(case["dout"], *how), case["din"])


@check("softmax")
def softmax_case(case):
    x = case["input"]
    if "truth" not in case:
        yield compare("output_t1", softmax(x), case["output_t1"], atol=1e-6)
        yield compare("output_t25", softmax(x / np.float32(2.5)), case["output_t25"], atol=1e-6)
        return
    cost, delta = cross_entropy(softmax(x), case["truth"])
    yield compare("output", softmax(x), case["output"], atol=1e-6)
    yield compare("delta", delta, case["delta"], atol=1e-6)
    yield compare("cost", [cost], case["cost"], rtol=1e-4)


@check("activation")
def activation(case):
    for name in ("logistic", "relu", "linear", "leaky"):
        yield compare(name, activate(case["x"], name), case[name], atol=1e-7, rtol=1e-6)


@check("schedule")
def schedule(case):
    o = case.config
    net = read_cfg(f"[net]\nbatch={o['batch']}\nsubdivisions={o['subdivisions']}\n{o['cfg']}").net
    seen, batch_nums, rates = np.array(o["rows"]).T
    yield compare("batch number", seen // o["batch"], batch_nums)
    got = [learning_rate(net.schedule, int(n), unsigned_quirk=True) for n in batch_nums]
    yield compare("rate", got, rates, rtol=2e-4)


def torch_outputs(layers, parameters, x):
    """Every layer's output by the product's network, with the batch norm of Darknet's CPU build."""
    network = Network(layers, x.shape[1:], batch_norm="darknet").eval()
    load_parameters(network, parameters)
    with torch.inference_mode():
        return [y.numpy() for y in network.layer_outputs(torch.from_numpy(x))]


@check("network_small")
def network_small(case):
    o = case.config
    config = read_cfg(GOLDEN / o["cfg"])
    x = case["input"][None]
    for key in ("weights", "weights_transposed"):
        if key not in o:
            continue
        header, parameters = read_weights(GOLDEN / o[key], config.layers, config.net.input_shape)
        yield compare(f"{key}: unfilled, left over", [header.unfilled_layers, header.leftover_bytes], [0, 0])
        if "seen" in o:
            yield compare(f"{key}: seen", header.seen, o["seen"])
        outputs = forward(config.layers, parameters, x)
        for wing, found in {"": outputs, "torch ": torch_outputs(config.layers, parameters, x)}.items():
            for index, output in enumerate(found):
                if f"layer{index}" in case:
                    want = case[f"layer{index}"]
                    yield compare(f"{wing}{key}: layer{index}", output.reshape(want.shape), want, atol=1e-5)
        if isinstance(config.layers[-1], Grid):
            yield from _grid_detections(outputs[-1], config.layers[-1], case)
        else:
            network = config.net.width, config.net.height
            yield from _region_detections(outputs[-2], config.layers[-1], network, case)


def _grid_detections(output, grid, case):
    boxes, confidence, scores = detect_grid(output.reshape(1, -1), grid, case.config["thresh"])
    size = [case.config[side] for side in ("image_w", "image_h")]
    yield compare("boxes", boxes[0] * np.array(size * 2), case["boxes"], atol=1e-4, rtol=1e-5)
    yield compare("objectness", confidence[0], case["objectness"], atol=1e-5)
    yield compare("scores", scores[0], case["probs"], atol=1e-5)


def _region_detections(raw, region, network, case):
    dense, kept = _dense_and_kept(raw, region, network, case.config)
    yield compare("boxes", dense.boxes[0], case["boxes"], atol=1e-6, rtol=1e-5)
    yield compare("objectness", dense.objectness[0], case["objectness"], atol=1e-5)
    yield compare("scores", dense.probs[0], case["probs"], atol=1e-5)
    yield compare("order after NMS", kept.order, case["nms_index"])
    yield compare("boxes after NMS", dense.boxes[0][kept.order], case["nms_boxes"], atol=1e-6, rtol=1e-5)
    yield compare("objectness after NMS", kept.objectness, case["nms_objectness"], atol=1e-5)
    yield compare("scores after NMS", kept.probs, case["nms_probs"], atol=1e-5)


def _dense_and_kept(raw, region, network, config):
    """All predictions of the one picture as Darknet lists them, and what NMS leaves of them."""
    picture = config["image_w"], config["image_h"]
    dense = region_detections(raw, region, config["thresh"], picture, network)
    return dense, nms_per_class(dense.boxes[0], dense.objectness[0], dense.probs[0], config["nms"])


def recipe(case):
    """Layers, parameters and input (1, 3, H, W) of a full-size network, which config.recipe describes."""
    o = case.config
    layers, shape = read_cfg(GOLDEN / o["cfg"]).layers, (3, o["height"], o["width"])
    x = _stream(o["input_seed"], 0, int(np.prod(shape))).astype(np.float32).reshape(1, *shape)
    return layers, _recipe_parameters(layers, shape, o["seed"]), x


@check("network_full")
def network_full(case):
    o = case.config
    layers, parameters, x = recipe(case)
    yield compare("input", x.ravel()[:64], case["input_slice"])
    for wing, run in {"": forward, "torch ": torch_outputs}.items():
        outputs = run(layers, parameters, x)
        raw, output = outputs[-2].ravel(), outputs[-1].ravel()
        yield compare(f"{wing}raw", raw[case["output_idx"]], case["raw_vals"], atol=1e-4)
        yield compare(f"{wing}output", output[case["output_idx"]], case["output_vals"], atol=1e-4)
        yield compare(f"{wing}raw statistics", _describe(raw), case["raw_stats"], atol=1e-4, rtol=1e-5)
        got = _describe(output)
        yield compare(f"{wing}output statistics", got, case["output_stats"], atol=1e-4, rtol=1e-5)
        got = [(y.mean(dtype=np.float64), np.sqrt(np.square(y, dtype=np.float64).mean())) for y in outputs]
        yield compare(f"{wing}layers", got, case["layer_stats"], atol=1e-5)

    dense, kept = _dense_and_kept(outputs[-2], layers[-1], (o["width"], o["height"]), o)
    yield compare("scores after NMS", np.count_nonzero(kept.probs), case["n_nonzero"][0])
    best = np.argsort(-kept.probs.max(axis=1), kind="stable")[: len(case["scores"])]
    yield compare("best scores", kept.probs[best].max(axis=1), case["scores"], atol=1e-4)
    yield compare("their classes", kept.probs[best].argmax(axis=1), case["classes"])
    # raw sizes are off by up to 1e-4, which exp() makes a relative error
    yield compare("their boxes", dense.boxes[0][kept.order[best]], case["boxes"], atol=1e-5, rtol=1e-4)


def _describe(values):
    values = values.astype(np.float64)
    return [values.mean(), np.square(values).sum(), values.min(), values.max()]


def _stream(seed, start, count):
    """Numbers start + 1 ... start + count of the uniform stream that config.recipe describes."""
    z = np.arange(start + 1, start + count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)) / 2**24


def _recipe_parameters(layers, shape, seed):
    """Parameters made of the stream, by config.recipe."""
    parameters, used = [], 0
    for layer, shapes in zip(layers, parameter_shapes(layers, shape), strict=True):
        arrays = {}
        for name, array_shape in shapes.items():
            count = int(np.prod(array_shape))
            u = _stream(seed, used, count)
            used += count
            match name:
                case "biases" | "rolling_mean":
                    u = (u - 0.5) * 0.2
                case "scales":
                    u = 0.8 + 0.4 * u
                case "rolling_variance":
                    u = 0.5 + u
                case "weights":
                    assert isinstance(layer, Conv)
                    fan_in = np.prod(array_shape[1:])
                    u = (2 * u - 1) * np.sqrt((6 if layer.activation == "leaky" else 3) / fan_in)
            arrays[name] = u.astype(np.float32).reshape(array_shape)
        parameters.append(arrays)
    return parameters

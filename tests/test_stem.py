"""The stem: its definition in loops, a case by hand, and the layers of a network that it stands for."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fast.stem
from reference.layers import Conv, MaxPool
from reference.stem import stem
from yolov2.network import Network, get_parameters


def by_loops(x, weights, bias):
    """One picture (3, H, W), output by output."""
    _, H, W = x.shape
    out = np.full((len(weights), (H + 1) // 2, (W + 1) // 2), -np.inf)
    for f, row, column in np.ndindex(len(weights), H, W):
        total = bias[f]
        for c, ky, kx in np.ndindex(3, 3, 3):
            y, x_ = row + ky - 1, column + kx - 1
            if 0 <= y < H and 0 <= x_ < W:
                total += x[c, y, x_] * weights[f, c, ky, kx]
        place = f, row // 2, column // 2
        out[place] = max(out[place], total if total > 0 else 0.1 * total)
    return out


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_it_is_its_definition(height, width, filters, seed):
    rng = np.random.default_rng(seed)
    x, weights, bias = (rng.normal(size=s) for s in ((2, 3, height, width), (filters, 3, 3, 3), filters))
    np.testing.assert_allclose(stem(x, weights, bias), [by_loops(p, weights, bias) for p in x], atol=1e-12)


def test_by_hand():
    """One filter that takes the red of the pixel to the right; the last windows see two pixels and one."""
    weights = np.zeros((1, 3, 3, 3))
    weights[0, 0, 1, 2] = 2
    x = np.zeros((1, 3, 3, 3))
    x[0, 0] = [[9, -1, -5], [9, -4, -2], [9, -3, 6]]
    x[0, 1:] = 7
    # twice the right neighbour, less 1: -3 -11 -1 / -9 -5 -1 / -7 11 -1
    np.testing.assert_allclose(stem(x, weights, np.array([-1.0])), [[[[-0.3, -0.1], [11, -0.1]]]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(8, 12), (7, 9)])
def test_it_is_what_a_network_begins_with(size, dtype):
    """Pooling before leaky changes no bit, in any precision."""
    torch.manual_seed(0)
    network = Network([Conv(5, batch_norm=False), MaxPool()], (3, *size)).eval()
    torch.nn.init.normal_(network.blocks[0].conv.bias)
    x = torch.randn(2, 3, *size)
    parameters = {k: torch.from_numpy(v) for k, v in get_parameters(network)[0].items()}
    network.to(dtype, memory_format=torch.channels_last)
    with torch.inference_mode():
        want = network(x.to(dtype, memory_format=torch.channels_last))
        got = fast.stem.stem(x.to(dtype), parameters["weights"].to(dtype), parameters["biases"].to(dtype))
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_what_does_not_go_together_is_refused():
    x, weights, bias = torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3), torch.zeros(2)
    for wrong in (
        (x[:, :1], weights, bias),
        (x, weights[:, :, :1], bias),
        (x, weights, bias[:1]),
        (x[0], weights, bias),
    ):
        with pytest.raises(ValueError, match=r"are not \(B, 3, H, W\), \(F, 3, 3, 3\) and \(F,\)"):
            fast.stem.stem(*wrong)
    with pytest.raises(ValueError, match=r"pictures are torch.float16, weights torch.float32"):
        fast.stem.stem(x.half(), weights, bias)

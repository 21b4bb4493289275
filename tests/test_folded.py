"""Folded and packed networks compute what the network computes."""

import pytest
import torch
from torch import nn

from reference.region import Region
from tests.models import NETWORKS
from yolov2.inference.folded import FoldedConv, PackedConv, PooledConv, can_pack, fold, pack, pool_first
from yolov2.network import Network
from yolov2.presets import nano

ANCHORED = Region(((1.0, 2.0), (2.0, 1.0)), 3)
CASES = {**NETWORKS, "nano": (tuple(nano(ANCHORED)), (3, 96, 64))}


def trained(name: str, batch_norm: str = "cudnn") -> Network:
    """A network with statistics as if it had seen something."""
    layers, shape = CASES[name]
    torch.manual_seed(1)
    network = Network(list(layers), shape, batch_norm).eval()  # type: ignore[arg-type]
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.3, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    return network


def images(name: str, batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, *CASES[name][1]).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("batch_norm", ["cudnn", "darknet"])
@pytest.mark.parametrize("name", CASES)
def test_same_outputs(name, batch_norm):
    network = trained(name, batch_norm)
    x = images(name)
    with torch.inference_mode():
        want = network.double()(x.double())
        network.float()
        error = (network(x) - want).abs().max()  # what rounding costs anyway
        folded = fold(network)
        scale = 1e-6 * want.abs().max()
        assert (folded(x) - want).abs().max() <= 4 * error + scale
        assert (pool_first(folded)(x) - want).abs().max() <= 4 * error + scale
        if can_pack():
            assert (pack(folded, x)(x) - want).abs().max() <= 4 * error + scale


@pytest.mark.skipif(not can_pack(), reason="NO PROOF OF PACKED WEIGHTS: no oneDNN on an x86 CPU here")
def test_packed_takes_other_sizes_and_batches():
    network = fold(trained("nano"))
    packed = pack(network, images("nano"))
    assert any(isinstance(block, PackedConv) for block in packed.blocks)
    for shape in [(1, 3, 96, 64), (5, 3, 32, 160)]:
        x = torch.rand(shape)
        with torch.inference_mode():
            torch.testing.assert_close(packed(x), network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_pooling_first_changes_no_bit_but_those_of_the_bias(dtype):
    """Without a bias the pool and the activation commute exactly; maps that are routed away are left."""
    folded = fold(trained("nano"), dtype)
    for block in folded.blocks:
        if hasattr(block, "bias"):
            block.bias.zero_()
    pooled = pool_first(folded)
    assert sum(isinstance(block, PooledConv) for block in pooled.blocks) >= 3
    x = images("nano").to(dtype)
    with torch.inference_mode():
        assert torch.equal(pooled(x), folded(x))
    assert 2 in trained("region")._wanted  # in front of a pool, and routed
    assert isinstance(pool_first(fold(trained("region"))).blocks[2], FoldedConv)


def test_the_network_is_left_alone():
    network = trained("nano").train()
    before = {name: t.clone() for name, t in network.state_dict().items()}
    folded = fold(network, torch.bfloat16)
    assert network.training and not folded.training
    assert all(torch.equal(t, network.state_dict()[name]) for name, t in before.items())
    assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
    assert not {p.data_ptr() for p in folded.parameters()} & {p.data_ptr() for p in network.parameters()}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())

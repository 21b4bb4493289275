"""torch.compile without a graph break, torch.export, and inference mode: every operation as a user meets it.

The compiled function runs the same operators, so results are equal to the last bit; inductor needs a C++
compiler, which not every machine has, and adds nothing to what is asked here.
"""

import numpy as np
import pytest
import torch
from torch import nn

from fast.assign import assign_targets
from fast.decode import decode, decode_candidates
from fast.detect import detect
from fast.loss import region_loss
from fast.nms import batched_nms, multi_label_nms
from fast.reorg import reorg
from reference.region import Region
from tests.backends import each_backend
from tests.strategies import TREE

SOFTMAX = Region(((1.0, 2.0), (2.0, 1.0)), 3)
LOGISTIC = Region(((1.0, 2.0), (2.0, 1.0)), 3, "logistic")
TREES = Region(((1.0, 2.0), (2.0, 1.0)), len(TREE.parents), "tree", TREE)

TRUTH = torch.tensor([[[0.3, 0.6, 0.25, 0.25, 1.0]], [[0.0] * 5]])


def by_nms(pred: torch.Tensor, region: Region):
    """Decode, then both forms of suppression: functions as a user writes them."""
    found = decode(pred, region)
    boxes, scores = found.boxes.flatten(1, 3), found.objectness.flatten(1)
    kept = batched_nms(boxes, scores, 0.45, 4, found.class_probs.flatten(1, 3).argmax(2), 0.1)
    labels = multi_label_nms(boxes, scores[..., None] * found.class_probs.flatten(1, 3), 0.45, 4, 0.1)
    return (*kept, *labels)


FUNCTIONS = {
    "decode": lambda pred, region: tuple(decode(pred, region)),
    "decode_candidates": lambda pred, region: tuple(decode_candidates(pred, region, 0.2, 5)),
    "detect": lambda pred, region: tuple(detect(pred, region, 0.2, max_det=5)),
    "detect all labels": lambda pred, region: tuple(detect(pred, region, 0.01, max_det=5)),
    "nms": by_nms,
    "assign_targets": lambda pred, region: tuple(assign_targets(pred, TRUTH.to(pred.device), region)),
    "region_loss": lambda pred, region: tuple(region_loss(pred, TRUTH.to(pred.device), region, 1)),
    "reorg": lambda pred, region: (reorg(pred, order="space_to_depth"), reorg(pred[:, :12])),
}


def head(region: Region) -> torch.Tensor:
    return torch.randn(2, region.channels, 2, 4, generator=torch.Generator().manual_seed(0))


def same(got, want) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert a.stride() == b.stride()


@each_backend
@pytest.mark.parametrize("region", [SOFTMAX, LOGISTIC, TREES], ids=["softmax", "logistic", "tree"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile(backend, region, name):
    torch._dynamo.reset()
    with backend, torch.no_grad():
        pred = backend.tensor(head(region))
        compiled = torch.compile(FUNCTIONS[name], fullgraph=True, backend="aot_eager")
        same(compiled(pred, region), FUNCTIONS[name](pred, region))


@each_backend
@pytest.mark.parametrize("region", [SOFTMAX, TREES], ids=["softmax", "tree"])
def test_compiled_training_step(backend, region):
    """Forward and backward through a network and the loss; the image counter does not recompile anything."""
    torch._dynamo.reset()
    with backend:
        picture = backend.tensor(torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(1)))
        layer = nn.Conv2d(3, region.channels, 1).to(picture.device)
        truth = TRUTH.to(picture.device)

        def step(seen):
            return region_loss(layer(picture), truth, region, seen).total

        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(step, fullgraph=True, backend=counter)
        for seen in (1, 65, 129):
            gradients = []
            for function in (step, compiled):
                layer.zero_grad()
                function(seen).backward()
                gradients.append(layer.weight.grad.clone())
            torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)
        assert counter.frame_count <= 2  # once for the first counter, once for any


class Head(nn.Module):
    """A network of one convolution with everything behind it that a program may hold."""

    def __init__(self, region: Region, device: torch.device):
        super().__init__()
        self.region = region
        self.layer = nn.Conv2d(3, region.channels, 1, device=device)

    def forward(self, picture):
        pred = self.layer(picture)
        return (
            *detect(pred, self.region, 0.1, max_det=5),
            *decode(pred, self.region),
            reorg(picture[:, :1], order="space_to_depth"),
        )


@each_backend
@pytest.mark.parametrize("region", [SOFTMAX, LOGISTIC, TREES], ids=["softmax", "logistic", "tree"])
def test_export(backend, region, tmp_path):
    """The program holds its settings itself: saved, loaded and run it gives the same."""
    torch.manual_seed(0)
    with backend, torch.no_grad():
        module = Head(region, backend.device).eval()
        picture = backend.tensor(torch.randn(2, 3, 4, 4))
        batch = torch.export.Dim("batch", min=1, max=8)
        program = torch.export.export(module, (picture,), dynamic_shapes=({0: batch},))
        torch.export.save(program, tmp_path / "head.pt2")
        loaded = torch.export.load(tmp_path / "head.pt2").module()
        same(loaded(picture), module(picture))
        same(loaded(picture[:1]), module(picture[:1]))


@each_backend
def test_inference_mode(backend):
    with backend, torch.inference_mode():
        pred = backend.tensor(head(SOFTMAX))
        for function in FUNCTIONS.values():
            assert all(not x.requires_grad for x in function(pred, SOFTMAX))


def test_gradcheck_of_the_loss():
    """Central differences in float64, assignment and targets held: the closed form in torch."""
    region = Region(((1.0, 2.0),), 3, rescore=False, ignore_threshold=1.0)
    pred = torch.randn(1, 8, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    truth = TRUTH[:1].double()
    for settings in ({}, {"class_loss": "squared_error"}, {"class_activation": "logistic"}):
        given = Region(**{**vars_of(region), **settings})
        assert torch.autograd.gradcheck(
            lambda p, given=given: tuple(region_loss(p, truth, given, 1)), (pred.clone().requires_grad_(),)
        )


def vars_of(region: Region) -> dict:
    import dataclasses

    return {f.name: getattr(region, f.name) for f in dataclasses.fields(region)}


def test_numpy_is_not_needed_to_trace():
    """An operator's fake form never looks at values."""
    with torch._subclasses.FakeTensorMode():
        pred = torch.empty(2, SOFTMAX.channels, 2, 2)
        assert detect(pred, SOFTMAX).boxes.shape == (2, 100, 4)
        assert np.prod(region_loss(pred, torch.empty(2, 3, 5), SOFTMAX, 1).total.shape) == 1

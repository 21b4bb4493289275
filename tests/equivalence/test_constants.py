"""Tensors that operations keep for later calls: it does not matter in which mode the first call ran."""

from contextlib import nullcontext

import pytest
import torch

from fast import _launch
from fast.detect import detect
from fast.loss import region_loss
from fast.wordtree import absolute_probability, descend, tree_log_softmax, tree_softmax
from reference.region import Region, WordTree
from tests.backends import each_backend, each_kernel_backend
from tests.equivalence.test_compile import FUNCTIONS, LOGISTIC, SOFTMAX, TREES, TRUTH, head


def new_tree() -> WordTree:
    """A tree that no test has used yet: one more root each time."""
    new_tree.roots += 1
    return WordTree(("",) * (new_tree.roots + 2), (-1,) * new_tree.roots + (0, 0))


new_tree.roots = 40


@each_backend
def test_first_in_inference_mode(backend):
    """A tensor of inference mode could not be saved for a backward pass."""
    tree = new_tree()
    with backend:
        scores = backend.tensor(torch.randn(3, len(tree.parents), generator=torch.Generator().manual_seed(0)))
        with torch.inference_mode():
            tree_log_softmax(scores, tree)
            tree_softmax(scores, tree)
        one, other = (scores.clone().requires_grad_() for _ in range(2))
        tree_log_softmax(one, tree).exp().square().sum().backward()
        tree_softmax(other, tree).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)


@each_backend
def test_first_in_a_trace(backend):
    """A tensor of a trace is none outside of it, nor the other way round."""
    for first in ("trace", "call"):
        tree = new_tree()
        scores = torch.rand(3, len(tree.parents), generator=torch.Generator().manual_seed(0))
        with backend:
            scores = backend.tensor(scores)
            if first == "call":
                descend(scores, tree, 0.5)
            with torch._subclasses.FakeTensorMode() as mode:
                assert descend(mode.from_tensor(scores), tree, 0.5).shape == (3,)
            assert descend(scores, tree, 0.0).tolist() == descend(scores.double(), tree, 0.0).tolist()
            absolute_probability(scores, tree)


@each_backend
def test_made_once_by_another_thread(backend):
    """Memory pools belong to threads: not the calling one's, which may be about to record a CUDA graph."""
    region = Region(((1.0, 2.0), (2.0, 1.5)), 2, object_scale=3.25)
    with backend, torch.inference_mode():
        detect(backend.tensor(torch.zeros(1, 14, 2, 2)), region)
        anchors = _launch.anchor_tensor(region.settings, backend.device)
        assert anchors is _launch.anchor_tensor(region.settings, backend.device)
    assert not anchors.is_inference()
    torch.testing.assert_close(anchors.cpu(), torch.tensor(region.anchors))


WAITS = {"aten::lift_fresh", "aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero"}


@each_kernel_backend
@pytest.mark.parametrize("name", [*FUNCTIONS, "detection map", "training"])
def test_nothing_waits(backend, name):
    """No call but the first makes tensors of numbers (a GPU would wait for the copy) or reads one back."""
    function = {
        **FUNCTIONS,
        "detection map": lambda pred, region: detect(pred, region, 0.01, max_det=5, detection_map=(3, 0, 9)),
        "training": train,
    }[name]
    for region in (TREES,) if name == "detection map" else (SOFTMAX, LOGISTIC, TREES):
        with backend:
            pred = backend.tensor(head(region))
            with torch.no_grad() if name != "training" else nullcontext():
                function(pred, region)
                with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                    function(pred, region)
        assert not WAITS & {event.name for event in profile.events()}


def train(pred: torch.Tensor, region: Region) -> None:
    """Forward and backward."""
    pred = pred.detach().requires_grad_()
    region_loss(pred, TRUTH.to(pred.device), region, 1).total.backward()


def test_an_error_is_the_callers():
    """What the other thread raises is raised here, and nothing is kept."""

    @_launch.once
    def wrong(number):
        raise ValueError(f"no {number}")

    for _ in range(2):
        with pytest.raises(ValueError, match="no 7"):
            wrong(7)

"""What the head of YOLO9000 takes of the memory: 9,418 classes at 867 places are 33 MB a picture already."""

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.inputs import truths, word_tree
from fast import _launch
from fast.detect import detect
from fast.loss import region_loss
from fast.wordtree import absolute_probability, tree_softmax
from reference.region import Region
from reference.wordtree import read_tree
from tests.backends import LAYOUTS
from tests.golden import DATA
from yolov2.presets import YOLO9000_ANCHORS

FILE = DATA / "darknet" / "data" / "9k.tree"
TREE = read_tree(FILE) if FILE.exists() else word_tree()
REGION = Region(YOLO9000_ANCHORS, len(TREE.parents), "tree", TREE)
BATCH = 2

each_layout = pytest.mark.parametrize("layout", LAYOUTS, ids=["nchw", "channels_last"])


@pytest.fixture
def head():
    """A head of 544 x 544 pixels: boxes at five per cent of the places."""
    torch.manual_seed(0)
    head = torch.randn(BATCH, REGION.channels, 17, 17)
    head.unflatten(1, (len(YOLO9000_ANCHORS), -1))[:, :, 4] -= 2.7
    return head


@pytest.fixture
def truth():
    """A picture with boxes, and one of which only a label is known."""
    truth = truths(BATCH, REGION.classes)
    truth[1, 0] = torch.tensor([999999, 999999, 0, 0, 5000])
    return truth


@pytest.fixture
def peak(tmp_path):
    """A function that calls another and tells how many bytes were allocated at once, its result included.

    All of torch's, those of operators' insides too: its profiler sees every allocation.
    """

    def measured(call) -> int:
        call()  # tables of the tree are made once
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
            kept = call()
        watched.export_chrome_trace(str(tmp_path / "trace.json"))
        del kept
        trace = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        events = sorted((e for e in trace if e["name"] == "[memory]"), key=lambda e: e["ts"])
        held = most = 0
        for event in events:
            held += event["args"]["Bytes"]
            most = max(most, held)
        return most

    return measured


def nbytes(x: torch.Tensor) -> int:
    return x.numel() * x.element_size()


def step(head: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """A forward and backward pass."""
    head = head.detach().requires_grad_()
    return torch.autograd.grad(region_loss(head, truth, REGION, seen=1).total, head)[0]


def test_the_measure(peak, head):
    assert 1 <= peak(lambda: head * 2) / nbytes(head) < 1.001
    assert 2 <= peak(lambda: (head * 2 + 1).sum()) / nbytes(head) < 2.001  # no more than two of three at once


@each_layout
@pytest.mark.parametrize(
    ("dtype", "copies"),
    [
        # the gradient, and the gradient scaled by what flows into the loss, which is handed back
        (torch.float32, 2.1),
        (torch.bfloat16, 2.1),
        # kept in float32 until it is scaled, or it would vanish
        (torch.float16, 3.7),
    ],
    ids=str,
)
def test_loss_and_gradient(peak, head, truth, layout, dtype, copies):
    head = head.to(dtype).contiguous(memory_format=layout)
    assert peak(lambda: step(head, truth)) <= copies * nbytes(head)


@each_layout
@pytest.mark.parametrize("nodes", [None, tuple(range(100, 9000, 111))], ids=["descent", "80 nodes"])
def test_detection_copies_no_head(peak, head, layout, nodes):
    """Classes are read where there is an object; of a map, only the groups on the way to its nodes."""
    head = head.contiguous(memory_format=layout)
    alive = (head.unflatten(1, (3, -1))[:, :, 4].sigmoid() > 0.25).sum()
    assert 0.05 < alive / (BATCH * 867) < 0.06 and detect(head, REGION, 0.25).count.min() > 20
    assert peak(lambda: detect(head, REGION, 0.25, detection_map=nodes)) <= nbytes(head)


@each_layout
@pytest.mark.parametrize("operation", [tree_softmax, absolute_probability], ids=lambda f: f.__name__)
def test_probabilities_take_one_copy(peak, head, layout, operation):
    """The result, and groups of one size or one level at a time."""
    scores = head.contiguous(memory_format=layout).unflatten(1, (3, -1))[:, :, 5:]
    assert peak(lambda: operation(scores, TREE, 2)) <= 1.2 * nbytes(scores)


@each_layout
@pytest.mark.parametrize(
    ("dtype", "copies"), [(torch.float32, 2.1), (torch.bfloat16, 2.1), (torch.float16, 3.1)]
)
def test_kernels_take_two_copies(monkeypatch, head, truth, layout, dtype, copies):
    """Everything that is allocated for kernels; float16 keeps its gradient in float32 until it is scaled."""
    if not _launch.triton_installed():
        pytest.skip("TRITON IS NOT INSTALLED: no launch can be recorded")
    allocated = []

    def counted(shape, stride, **options):
        allocated.append(torch.empty_strided(shape, stride, **options))
        return allocated[-1]

    monkeypatch.setattr(_launch, "allocate", counted)
    head = head.to(dtype).contiguous(memory_format=layout)
    with _launch.recording():  # launches are noted and nothing runs
        step(head, truth)
        assert 2 <= sum(map(nbytes, allocated)) / nbytes(head) <= copies
        allocated.clear()
        detect(head, REGION)
        assert sum(map(nbytes, allocated)) <= 0.1 * nbytes(head)

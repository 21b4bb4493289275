"""Softmax per sibling group and its gradient, absolute probabilities, and the descent of a tree."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fast.wordtree
import reference.loss
import reference.wordtree
from fast._launch import triton_installed
from fast.loss import region_loss
from reference.region import Region, WordTree
from tests.backends import KERNELS, each_backend, each_kernel_backend, equivalence
from tests.equivalence import close, equal
from tests.golden import GOLDEN, cases
from tests.golden.tree import golden_tree
from tests.strategies import TREE, trees

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
K = 4  # exp, the sum, a division and the last rounding

# NumPy's view of what infinities and the interpreter's unused lanes do
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.fixture(params=["tuned", "small"])
def tiles(request, monkeypatch):
    """Tiles as tuned, and so small that tiny trees take several programs and passes over wide groups."""
    if request.param == "small" and triton_installed() and KERNELS:
        import fast.kernels.wordtree as kernels

        monkeypatch.setattr(kernels, "TILES", ((2, 4), (4, 8)))
        monkeypatch.setattr(kernels, "STEPS", 2)
    return request.param


class Place(NamedTuple):
    """Where in memory the values of a tree's nodes are."""

    rows: tuple[int, ...]  # sizes of the other dimensions
    dim: int  # of the nodes
    order: tuple[int, ...]  # dimensions from the outermost in memory to the innermost
    before: int  # channels ahead of the nodes, as the box and the objectness of a head
    sparse: bool  # whether every other row is somebody else's, so that no two dimensions merge
    dtype: torch.dtype

    def tensor(self, backend, x: np.ndarray) -> torch.Tensor:
        """`x` put there, with NaN in between."""
        step = [1 + (self.sparse and d != self.dim) for d in range(x.ndim)]
        start = [self.before * (d == self.dim) for d in range(x.ndim)]
        mine = tuple(slice(a, None, n) for a, n in zip(start, step, strict=True))
        head = np.full([a + n * size for a, n, size in zip(start, step, x.shape, strict=True)], np.nan)
        head[mine] = x
        memory = backend.tensor(head.transpose(self.order)).to(self.dtype)
        return memory.permute(*np.argsort(self.order).tolist())[mine]

    def shape(self, tree: WordTree) -> tuple[int, ...]:
        return (*self.rows[: self.dim], len(tree.parents), *self.rows[self.dim :])


@st.composite
def places(draw) -> Place:
    """NCHW and channels_last heads among them, and stranger permutations."""
    rows = draw(st.lists(st.integers(1, 3), max_size=4).map(tuple).filter(lambda r: math.prod(r) <= 8))
    dims = len(rows) + 1
    plain = tuple(range(dims))
    return Place(
        rows=rows,
        dim=draw(st.integers(0, dims - 1)),
        order=draw(st.sampled_from([plain, None]) | st.permutations(plain).map(tuple)) or plain[::-1],
        before=draw(st.sampled_from([0, 0, 5])),
        sparse=draw(st.booleans()),
        dtype=draw(st.sampled_from(DTYPES)),
    )


#: groups of 1 to 9 nodes, the last one with three ancestors: more than small tiles and steps take at once
WIDE = WordTree.from_structure("[[-1,2],[0,9],[1,3],[2,5],[14,2],[11,1]]")

#: what kernels do with rows, each thing for certain
AWKWARD = [
    Place((3,), 0, (0, 1), 0, False, torch.float32),  # rows are neighbours, and one more than a tile has
    Place((2, 3), 1, (0, 1, 2), 5, False, torch.float32),
    Place((2, 2, 3), 1, (0, 1, 2, 3), 0, True, torch.float32),  # three dimensions that do not merge
    Place((2, 2, 3), 3, (2, 0, 1, 3), 5, True, torch.float32),
    Place((2, 1, 2, 2, 2), 2, (3, 0, 5, 1, 2, 4), 0, True, torch.float32),  # four: rows are copied first
]


def normal(seed: int, shape: tuple[int, ...], spread: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(scale=spread, size=shape)


def both(function, dtype: torch.dtype, *values: torch.Tensor):
    """An oracle's float64 answer for these very values, and the one in a backend's precision."""
    exact = [v.detach().double().cpu().numpy() for v in values]
    twins = exact if dtype == torch.float64 else [v.astype(np.float32) for v in exact]
    return function(*exact), function(*twins)


def group_sums(x: np.ndarray, tree: WordTree, axis: int) -> np.ndarray:
    """Every node's sum over its siblings."""
    return np.repeat(np.add.reduceat(x, tree.group_offsets, axis), tree.group_sizes, axis)


def softmax_grad(p: np.ndarray, g: np.ndarray, tree: WordTree, axis: int) -> np.ndarray:
    """dL/d(scores) from p = tree_softmax(scores) and g = dL/dp."""
    return p * (g - group_sums(p * g, tree, axis))


def check_softmax(backend, x: np.ndarray, tree: WordTree, place: Place) -> torch.Tensor:
    scores = place.tensor(backend, x)
    got = fast.wordtree.tree_softmax(scores, tree, place.dim)
    want, twin = both(lambda s: reference.wordtree.tree_softmax(s, tree, place.dim), place.dtype, scores)
    close(got, want, twin, K)
    assert got.dtype == scores.dtype and got.stride() == torch.empty_like(scores).stride()
    return got


def check_gradient(backend, tree: WordTree, place: Place, other: bool, seed: int) -> None:
    shape = place.shape(tree)
    scores = place.tensor(backend, normal(seed, shape, 2.0)).detach().requires_grad_()
    g = place.tensor(backend, normal(seed + 1, shape, 1.0))
    g = g.contiguous() if other else g  # a layout of its own, as autograd may hand in
    p = fast.wordtree.tree_softmax(scores, tree, place.dim)
    (got,) = torch.autograd.grad(p, scores, g)
    # of the rounded probabilities: with those before rounding, sums that cancel would differ by more
    want, twin = both(lambda p, g: softmax_grad(p, g, tree, place.dim), place.dtype, p, g)
    # g beside it: sums of the size of g may cancel to a small gradient, but their roundings do not
    exact = g.double().cpu().numpy()
    close(torch.stack([got, g]), np.stack([want, exact]), np.stack([twin, exact]), K)
    assert got.dtype == scores.dtype


def check_absolute(backend, tree: WordTree, place: Place, seed: int, powers: bool) -> None:
    """Bit for bit: factors are multiplied in one order everywhere."""
    rng = np.random.default_rng(seed)
    x = 2.0 ** -rng.integers(0, 3, place.shape(tree)) if powers else rng.random(place.shape(tree))
    conditional = place.tensor(backend, x)
    got = fast.wordtree.absolute_probability(conditional, tree, place.dim)
    exact, want = both(
        lambda c: reference.wordtree.absolute_probability(c, tree, place.dim), place.dtype, conditional
    )
    if backend.name == "triton-interpret" and place.dtype == torch.bfloat16:
        close(got, exact, want, 2)  # Triton's interpreter cuts bfloat16 off where others round
    else:
        equal(got.double(), torch.from_numpy(want).to(place.dtype).double().numpy())
    if powers:  # nothing to round, in no precision
        equal(got.double(), exact)
    assert got.dtype == conditional.dtype and got.stride() == torch.empty_like(conditional).stride()


@pytest.mark.usefixtures("tiles")
@equivalence(
    examples=120,
    tree=trees(),
    place=places(),
    seed=st.integers(0, 2**32 - 1),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_softmax(backend, tree, place, seed, spread):
    p = check_softmax(backend, normal(seed, place.shape(tree), spread), tree, place)
    sums = group_sums(p.double().cpu().numpy(), tree, place.dim)
    # at most five roundings of numbers below 1, each by half an eps
    np.testing.assert_allclose(sums, 1, atol=2.5 * torch.finfo(place.dtype).eps)


@pytest.mark.usefixtures("tiles")
@equivalence(
    examples=120,
    tree=trees(),
    place=places(),
    seed=st.integers(0, 2**32 - 1),
    rare=st.lists(st.sampled_from([np.inf, -np.inf, np.nan, 1e4, -1e4]), min_size=1, max_size=3),
)
def test_softmax_of_extremes(backend, tree, place, seed, rare):
    """An infinity or a NaN spoils its group as in the oracle, and no other."""
    x = normal(seed, place.shape(tree), 1.0)
    rng = np.random.default_rng(seed)
    for value in rare:
        x[rng.random(x.shape) < 0.3] = value
    check_softmax(backend, x, tree, place)


@pytest.mark.usefixtures("tiles")
@equivalence(examples=80, tree=trees(), place=places(), other=st.booleans(), seed=st.integers(0, 2**32 - 1))
def test_softmax_gradient(backend, tree, place, other, seed):
    check_gradient(backend, tree, place, other, seed)


@pytest.mark.usefixtures("tiles")
@equivalence(
    examples=120,
    tree=trees(),
    place=places(),
    seed=st.integers(0, 2**32 - 1),
    powers=st.booleans(),
)
def test_absolute_probability(backend, tree, place, seed, powers):
    check_absolute(backend, tree, place, seed, powers)


@each_backend
@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("place", AWKWARD, ids=lambda p: f"{p.rows} {p.order}")
def test_awkward_layouts(backend, place):
    with backend:
        check_softmax(backend, normal(0, place.shape(WIDE), 2.0), WIDE, place)
        check_gradient(backend, WIDE, place, True, 1)
        check_absolute(backend, WIDE, place, 2, False)


@equivalence(examples=100, tree=trees(), seed=st.integers(0, 2**32 - 1), absolute=st.booleans())
def test_descend(backend, tree, seed, absolute):
    """Values on a grid of eighths, so that ties, zeros and products at a threshold are common."""
    values = np.random.default_rng(seed).integers(0, 9, (4, len(tree.parents))) / 8
    if absolute:
        values = reference.wordtree.absolute_probability(values, tree)
    values = values.astype(np.float32)
    for threshold in (0.0, 0.25, 0.5, 0.75):
        want = [reference.wordtree.descend(row, tree, threshold) for row in values]
        equal(fast.wordtree.descend(backend.tensor(values), tree, threshold), np.array(want))


@each_backend
@pytest.mark.skipif(not cases(), reason=f"GOLDEN NUMBERS ABSENT: {GOLDEN}")
@pytest.mark.parametrize("name", [c.name for c in cases() if c.group == "tree"])
def test_golden(backend, name):
    """Darknet's numbers, of YOLO9000's own 9418 nodes too, in rows of nodes and in rows of boxes."""
    case = next(c for c in cases() if c.group == "tree" and c.name == name)
    tree, conditional = golden_tree(case.config["tree"]), case["scores"]
    rows, columns = (
        Place((len(conditional),), 1, order, 0, False, torch.float32) for order in ((0, 1), (1, 0))
    )
    with backend:
        for place in (rows, columns):
            x = place.tensor(backend, conditional)
            equal(fast.wordtree.absolute_probability(x, tree), case["absolute"])
            scores = normal(1, conditional.shape, 3.0)
            p = check_softmax(backend, scores, tree, place)
            np.testing.assert_allclose(group_sums(p.cpu().numpy(), tree, 1), 1, atol=1e-5)
            g = place.tensor(backend, normal(2, conditional.shape, 1.0))
            dx = fast.wordtree._tree_softmax_grad(p, g, tree.structure, 1)
            close(dx, *both(lambda p, g: softmax_grad(p, g, tree, 1), torch.float32, p, g), K)
        for name, rows in (("top", conditional), ("top_abs", case["absolute"])):
            for column, threshold in enumerate(case["thresholds"].tolist()):
                got = fast.wordtree.descend(backend.tensor(rows), tree, threshold)
                equal(got, case[name][:, column])


@each_backend
def test_no_rows(backend):
    with backend:
        x = backend.tensor(np.zeros((0, 10, 3), np.float32))
        for function in (fast.wordtree.tree_softmax, fast.wordtree.absolute_probability):
            assert function(x, TREE, 1).shape == (0, 10, 3)


@each_backend
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (0, 3, 4, 1, 2)], ids=["nchw", "channels_last"])
def test_operators_are_well_formed(backend, order):
    place = Place((1, 2, 2, 3), 2, order, 5, False, torch.float32)
    with backend:
        x, g = (place.tensor(backend, normal(seed, place.shape(TREE), 1.0)) for seed in (1, 2))
        arguments = (TREE.structure, 2)
        torch.library.opcheck(fast.wordtree._tree_softmax.op, (x, *arguments))
        torch.library.opcheck(fast.wordtree._tree_softmax.op, (x.detach().requires_grad_(), *arguments))
        torch.library.opcheck(fast.wordtree._tree_softmax_grad.op, (x, g, *arguments))
        torch.library.opcheck(fast.wordtree._absolute_probability.op, (x, *arguments))


class Probabilities(torch.nn.Module):
    """A head (B, 2 * (5 + 10), H, W) to absolute probabilities and a number to train."""

    def forward(self, head):
        p = fast.wordtree.tree_softmax(head.unflatten(1, (2, -1))[:, :, 5:], TREE, 2)
        return fast.wordtree.absolute_probability(p.detach(), TREE, 2), p.square().sum()


@each_backend
def test_it_compiles_and_exports_in_one_piece(backend):
    with backend:
        head = backend.tensor(normal(0, (2, 30, 2, 3), 1.0).astype(np.float32)).requires_grad_()
        want = Probabilities()(head)
        (want_grad,) = torch.autograd.grad(want[1], head)
        got = torch.compile(Probabilities(), fullgraph=True, backend="aot_eager")(head)
        torch.testing.assert_close(got, want, rtol=0, atol=0)
        torch.testing.assert_close(torch.autograd.grad(got[1], head)[0], want_grad, rtol=0, atol=0)
        batch = {"head": {0: torch.export.Dim("batch")}}
        exported = torch.export.export(Probabilities(), (head.detach(),), dynamic_shapes=batch).module()
        more = torch.cat([head.detach()] * 3)
        torch.testing.assert_close(exported(more), Probabilities()(more), rtol=0, atol=0)


@each_kernel_backend
def test_small_tiles_reach_every_path(backend, tiles):
    """The tests above see groups of several tiles, and fewer groups and rows than a program takes."""
    from fast import _launch

    if tiles == "tuned":
        pytest.skip("about the small tiles")
    with _launch.recording() as launches:
        fast.wordtree.tree_softmax(torch.zeros(3, 22), WIDE)
        fast.wordtree.tree_softmax(torch.zeros(22, 3), WIDE, 0)
    tiles = [tuple(x.constants[name] for name in ("WIDTH", "WIDER", "GROUPS", "ROWS")) for x in launches]
    assert tiles == [(2, False, 2, 1), (4, True, 2, 1), (2, False, 1, 2), (4, True, 1, 2)]


def test_softmax_is_differentiable_in_double():
    scores = torch.randn(2, 10, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: fast.wordtree.tree_softmax(s, TREE, 1), (scores,))


def lesson(tree: WordTree, seed: int) -> tuple[Region, np.ndarray, np.ndarray]:
    """A head of two cells and a picture for each of two labels, one of them without a box."""
    rng = np.random.default_rng(seed)
    region = Region(
        ((1.0, 1.0),),
        len(tree.parents),
        "tree",
        tree,
        class_loss=("cross_entropy", "squared_error")[seed % 2],
    )
    boxed, only = rng.integers(0, region.classes, 2)
    truth = np.array([[[0.25, 0.5, 0.5, 0.5, boxed]], [[999999, 999999, 0, 0, only]]], np.float32)
    return region, rng.normal(size=(2, region.channels, 1, 2)).astype(np.float32), truth


@equivalence(examples=60, tree=trees(), seed=st.integers(0, 2**32 - 1))
def test_loss_of_any_tree(backend, tree, seed):
    region, pred, truth = lesson(tree, seed)
    head = backend.tensor(pred).requires_grad_()
    got = region_loss(head, backend.tensor(truth), region, 10**6).total
    (grad,) = torch.autograd.grad(got, head)
    for ours, oracle in (
        (got, lambda *x: reference.loss.region_loss(*x).total),
        (grad, reference.loss.region_loss_grad),
    ):
        twin = oracle(pred, truth, region, 10**6)
        close(ours, oracle(pred.astype(float), truth.astype(float), region, 10**6), twin, K)


@settings(max_examples=20)
@given(trees(), st.integers(0, 2**32 - 1))
def test_loss_of_any_tree_is_differentiable_in_double(tree, seed):
    """Every class score by central differences."""
    region, pred, truth = lesson(tree, seed)
    head = torch.from_numpy(pred).double()

    def classification(scores):
        whole = torch.cat([head[:, :5], scores], 1)
        return region_loss(whole, torch.from_numpy(truth), region, 10**6).classification

    assert torch.autograd.gradcheck(classification, (head[:, 5:].clone().requires_grad_(),))


def test_what_is_refused():
    x = torch.zeros(2, 9, requires_grad=True)
    with pytest.raises(ValueError, match="9 values along dim -1 for a tree of 10 nodes"):
        fast.wordtree.tree_softmax(x, TREE)
    with pytest.raises(ValueError, match="2 values along dim 0"):
        fast.wordtree.absolute_probability(x, TREE, 0)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        fast.wordtree.absolute_probability(torch.zeros(2, 10, requires_grad=True), TREE).sum().backward()


@pytest.mark.usefixtures("tiles")
@equivalence(examples=30, tree=trees())
def test_tables(backend, tree):
    """A tree comes back from its structure; the table says of a node what its tree does."""
    assert WordTree.from_structure(tree.structure).parents == tree.parents
    table = fast.wordtree.tree_table(tree, backend.device)
    assert table.shape == (len(tree.parents), 5) and table.dtype == torch.int32
    for node, (parent, first, siblings, child, children) in enumerate(table.tolist()):
        assert parent == tree.parents[node]
        below = [n for n, p in enumerate(tree.parents) if p == node]
        assert below == list(range(child, child + children)) if below else (child, children) == (-1, 0)
        same = [n for n, group in enumerate(tree.group_of) if group == tree.group_of[node]]
        assert same == list(range(first, first + siblings))

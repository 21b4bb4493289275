"""The tree of words: a tree of seven names by hand, and what holds for every tree."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis.extra.numpy import arrays

from reference.loss import region_loss, region_loss_grad
from reference.region import Region, WordTree
from reference.wordtree import (
    IGNORED,
    absolute_probability,
    complete_labels,
    descend,
    read_tree,
    tree_softmax,
)
from tests.strategies import trees

#     animal          vehicle
#    dog   cat       car   bus
#  terrier
LINES = ["animal -1", "vehicle -1", "dog 0", "cat 0", "car 1", "bus 1", "terrier 2"]
TREE = read_tree(LINES)
CONDITIONAL = np.array([0.75, 0.25, 0.5, 0.5, 0.125, 0.875, 1.0])
#: five levels, nobody with a sibling; and a root with nothing below
LINE = WordTree.from_structure("[[-1,1],[0,1],[1,1],[2,1],[3,1]]")
ROOT = WordTree.from_structure("[[-1,1]]")


@st.composite
def trees_with_scores(draw):
    tree = draw(trees())
    return tree, draw(arrays(float, (3, len(tree.parents)), elements=st.floats(-50, 50)))


def test_read_tree(tmp_path):
    assert TREE.names[6] == "terrier" and TREE.parents == (-1, -1, 0, 0, 1, 1, 2)
    assert TREE.group_offsets == (0, 2, 4, 6) and TREE.child_group == (1, 2, 3, -1, -1, -1, -1)
    path = tmp_path / "small.tree"
    path.write_text("\n".join(LINES) + "\n")
    assert read_tree(path) == read_tree(str(path)) == TREE


@pytest.mark.parametrize(
    "lines, message",
    [
        (["a -1", "b"], "line 2"),
        (["a -1", "b x"], "line 2"),
        (["a 0"], "does not precede"),
        (["a -1", "b 0", "c -1"], "not contiguous"),
    ],
)
def test_read_tree_refuses(lines, message):
    with pytest.raises(ValueError, match=message):
        read_tree(lines)


def test_softmax_by_hand():
    # in pairs: 1 / (1 + e^-ln 3) = 3/4; 1/2; 1/(1 + 7) = 1/8; alone: 1
    scores = np.array([np.log(3), 0, 5, 5, 0, np.log(7), -40])
    np.testing.assert_allclose(tree_softmax(scores, TREE), CONDITIONAL)


def test_absolute_by_hand():
    # dog = cat = 3/4 * 1/2; car = 1/4 * 1/8; bus = 1/4 * 7/8; terrier = dog
    absolute = [0.75, 0.25, 0.375, 0.375, 0.03125, 0.21875, 0.375]
    np.testing.assert_array_equal(absolute_probability(CONDITIONAL, TREE), absolute)
    leaves = [0, 0, 0, 0.375, 0.03125, 0.21875, 0.375]
    np.testing.assert_array_equal(absolute_probability(CONDITIONAL, TREE, only_leaves=True), leaves)


@pytest.mark.parametrize(
    "threshold, want",
    [
        (0.3, "terrier"),  # .75 * .5 * 1 = .375 (dog before cat: the first of equals)
        (0.375, "animal"),  # not MORE than .375
        (0.74, "animal"),
    ],
)
def test_descend_conditionals_by_hand(threshold, want):
    assert TREE.names[descend(CONDITIONAL, TREE, threshold)] == want


def test_descend_without_a_likely_root_is_the_likeliest():
    assert descend(CONDITIONAL, TREE, 0.9) == 0  # animal, .75


def test_descend_absolute_values_is_stricter():
    # .75, then .75 * .375 = .28 < .3: stops at the animal, where the conditionals reach the terrier
    assert TREE.names[descend(absolute_probability(CONDITIONAL, TREE), TREE, 0.3)] == "animal"


def test_descend_refuses_a_negative_threshold():
    with pytest.raises(ValueError, match="negative"):
        descend(CONDITIONAL, TREE, -0.1)


def test_complete_labels_by_hand():
    terrier, bus = np.eye(7)[6], np.eye(7)[5]
    completed = complete_labels(np.stack([terrier, bus]), TREE)
    assert completed.tolist() == [
        [1, 0, 1, 0, IGNORED, IGNORED, 1],
        [0, 1, IGNORED, IGNORED, 0, 1, IGNORED],
    ]


@given(trees_with_scores())
def test_groups_sum_to_one(case):
    tree, scores = case
    conditional = tree_softmax(scores, tree)
    sums = np.add.reduceat(conditional, tree.group_offsets, axis=-1)
    np.testing.assert_allclose(sums, 1, rtol=1e-12)
    np.testing.assert_array_equal(tree_softmax(scores.T, tree, axis=0), conditional.T)


@given(trees_with_scores())
def test_a_child_is_no_likelier_than_its_parent(case):
    tree, scores = case
    conditional = tree_softmax(scores, tree)
    absolute = absolute_probability(conditional, tree)
    for node, parent in enumerate(tree.parents):
        if parent >= 0:
            assert (absolute[:, node] <= absolute[:, parent]).all()
        np.testing.assert_allclose(
            absolute[:, node], conditional[:, tree.path(node)].prod(axis=1), rtol=1e-12
        )
    np.testing.assert_array_equal(absolute_probability(conditional.T, tree, axis=0), absolute.T)
    leaves = absolute_probability(conditional, tree, only_leaves=True)
    np.testing.assert_allclose(leaves.sum(axis=1), 1, rtol=1e-12)


@given(trees_with_scores())
@example((LINE, np.linspace(-50, 50, 15).reshape(3, 5)))
@example((ROOT, np.zeros((3, 1))))
def test_children_share_what_their_parent_has(case):
    tree, scores = case
    conditional = tree_softmax(scores, tree)
    absolute = absolute_probability(conditional, tree)
    np.testing.assert_allclose(absolute[:, : tree.group_sizes[0]].sum(1), 1, rtol=1e-12)  # the roots
    for start, size in zip(tree.group_offsets, tree.group_sizes, strict=True):
        if (parent := tree.parents[start]) >= 0:
            children = absolute[:, start : start + size].sum(1)
            np.testing.assert_allclose(children, absolute[:, parent], rtol=1e-12)
        if size == 1:  # nothing to choose from
            assert (conditional[:, start] == 1).all()


@given(trees_with_scores(), st.floats(0, 1), st.floats(0, 1), st.booleans())
@example((LINE, np.zeros((3, 5))), 0.5, 1.0, False)
def test_descent_is_one_way_down_and_a_threshold_says_how_far(case, low, high, absolute):
    tree, scores = case
    low, high = sorted((low, high))
    for values in tree_softmax(scores, tree):
        if absolute:
            values = absolute_probability(values, tree)
        near, far = (descend(values, tree, threshold) for threshold in (high, low))
        assert near in tree.path(far)  # the same node, or one above it
        for node in tree.path(far):  # the best of its siblings at every step
            start = tree.group_offsets[tree.group_of[node]]
            assert node == start + values[start : start + tree.group_sizes[tree.group_of[node]]].argmax()


@given(trees_with_scores(), st.floats(0, 1))
def test_descend_stops_where_the_path_is_likely_enough(case, threshold):
    tree, scores = case
    for conditional in tree_softmax(scores, tree):
        node = descend(conditional, tree, threshold)
        assert tree.parents[node] < 0 or conditional[tree.path(node)].prod() > threshold * (1 - 1e-12)
        if threshold == 0 and (conditional > 0).all():
            assert tree.child_group[node] < 0


@given(trees(), st.data())
def test_completed_labels(tree, data):
    node = data.draw(st.integers(0, len(tree.parents) - 1))
    completed = complete_labels(np.eye(len(tree.parents))[node], tree)
    assert set(np.flatnonzero(completed == 1)) == set(tree.path(node))
    known = {tree.group_of[n] for n in tree.path(node)}
    assert all((completed[n] == IGNORED) == (g not in known) for n, g in enumerate(tree.group_of))


@given(trees_with_scores(), st.booleans(), st.integers(0, 99))
@example((LINE, np.zeros((3, 5))), False, 4)
def test_a_label_teaches_the_path_to_it(case, boxed, which):
    """The loss of a node is -ln of its absolute probability; the gradient by central differences."""
    tree, scores = case
    node = which % len(tree.parents)
    region = Region(((1.0, 1.0),), len(tree.parents), "tree", tree)
    truth = np.array([[[0.5, 0.5, 0.5, 0.5, node] if boxed else [999999, 999999, 0, 0, node]]])
    scores = scores[0] / 10  # where 1e-6 of it can be told

    def loss(scores):
        return -np.log(absolute_probability(tree_softmax(scores, tree), tree)[..., node])

    pred = np.concatenate([np.zeros(5), scores])[None, :, None, None]
    classification = region_loss(pred, truth, region, 10**6).classification
    np.testing.assert_allclose(classification, loss(scores), rtol=1e-12, atol=1e-12)
    steps = 1e-6 * np.eye(len(scores))
    difference = (loss(scores + steps) - loss(scores - steps)) / 2e-6
    got = region_loss_grad(pred, truth, region, 10**6)[0, 5:, 0, 0]
    np.testing.assert_allclose(got, difference, atol=1e-8)
    taught = {tree.group_of[step] for step in tree.path(node)}
    assert all(got[n] == 0 for n, group in enumerate(tree.group_of) if group not in taught)


def test_dtype_is_kept():
    for dtype in (np.float32, np.float64):
        scores = np.zeros((2, 7), dtype)
        results = (
            tree_softmax(scores, TREE),
            absolute_probability(scores, TREE),
            complete_labels(scores, TREE),
        )
        assert {r.dtype for r in results} == {np.dtype(dtype)}

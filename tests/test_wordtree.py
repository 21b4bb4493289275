"""The tree of words: a tree of seven names by hand, and what holds for every tree."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays

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


def test_dtype_is_kept():
    for dtype in (np.float32, np.float64):
        scores = np.zeros((2, 7), dtype)
        results = (
            tree_softmax(scores, TREE),
            absolute_probability(scores, TREE),
            complete_labels(scores, TREE),
        )
        assert {r.dtype for r in results} == {np.dtype(dtype)}

"""Hierarchical accuracy: a tree of seven names by hand, and what holds for every tree."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.wordtree import read_tree
from tests.strategies import trees
from yolov2.tree.accuracy import VERDICTS, HierarchicalAccuracy, on_path, root_paths

#     animal          vehicle
#    dog   cat       car   bus
#  terrier
TREE = read_tree(["animal -1", "vehicle -1", "dog 0", "cat 0", "car 1", "bus 1", "terrier 2"])
ANIMAL, VEHICLE, DOG, CAT, CAR, BUS, TERRIER = range(7)
# label, greedy leaf, where the descent stopped, and what that is
SEEN = (
    (TERRIER, TERRIER, TERRIER, "exact"),
    (TERRIER, TERRIER, DOG, "coarser"),
    (TERRIER, CAT, ANIMAL, "coarser"),
    (TERRIER, CAT, CAT, "wrong"),
    (DOG, TERRIER, TERRIER, "finer"),
    (BUS, CAR, CAR, "wrong"),
    (BUS, -1, -1, "nothing"),
    (ANIMAL, CAT, ANIMAL, "exact"),
)


@pytest.fixture
def accuracy():
    labels, greedy, reached = (np.array(column) for column in list(zip(*SEEN, strict=True))[:3])
    return HierarchicalAccuracy(TREE, tuple(n.title() for n in TREE.names), labels, reached, 0.5, greedy)


def test_verdicts_by_hand(accuracy):
    assert [VERDICTS[v] for v in accuracy.verdicts()] == [row[3] for row in SEEN]
    assert accuracy.counts().tolist() == [2, 2, 1, 2, 1]
    nodes, counts = accuracy.per_class()
    assert nodes.tolist() == [ANIMAL, DOG, BUS, TERRIER]
    assert counts.tolist() == [[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1], [1, 2, 0, 1, 0]]


def test_depths_by_hand(accuracy):
    counts, right = accuracy.by_depth()
    # all but the bus that was not found; without the animal, two cats and the car; terriers
    assert counts.tolist() == [8, 7, 4] and right.tolist() == [7, 3, 2]


def test_without_greedy_paths_nothing_is_right_below_what_was_reached(accuracy):
    counts, right = HierarchicalAccuracy(TREE, TREE.names, accuracy.labels, accuracy.reached, 0.5).by_depth()
    assert counts.tolist() == [8, 7, 4] and right.tolist() == [7, 3, 1]


def test_table(accuracy):
    assert accuracy.table(most=2).splitlines() == [
        "depth   labels   right   share",
        "    0        8       7   0.875",
        "    1        7       3   0.429",
        "    2        4       2   0.500",
        "",
        "descent at 0.5",
        "exact          2   0.250  the label",
        "coarser        2   0.250  right, above the label",
        "finer          1   0.125  below the label",
        "wrong          2   0.250",
        "nothing        1   0.125  no node at all",
        "",
        "most missed    exact  coarser    finer    wrong  nothing",
        "Bus                0        0        0        1        1",
        "Terrier            1        2        0        1        0",
    ]
    assert str(accuracy) == (
        "exact 0.2500, coarser 0.2500, finer 0.1250, wrong 0.2500, nothing 0.1250 of 8, descent at 0.5"
    )


def test_files(accuracy, tmp_path):
    accuracy.save(tmp_path / "tree.csv")
    with (tmp_path / "tree.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["word"] for row in rows] == ["animal", "dog", "bus", "terrier"]
    assert list(rows[3].values()) == ["6", "terrier", "Terrier", "2", "1", "2", "0", "1", "0"]
    accuracy.save(tmp_path / "tree.json")
    whole = json.loads((tmp_path / "tree.json").read_text())
    assert whole["by_depth"][1] == {"labels": 7, "right": 3} and whole["descent"]["nothing"] == 1
    assert [str(c["node"]) for c in whole["classes"]] == [row["node"] for row in rows]
    with pytest.raises(ValueError, match=r"tree\.txt"):
        accuracy.save(tmp_path / "tree.txt")


def test_nothing_to_measure():
    none = np.empty(0, np.int64)
    empty = HierarchicalAccuracy(TREE, TREE.names, none, none, 0.5, none)
    assert [len(x) for x in empty.by_depth()] == [0, 0] and empty.counts().tolist() == [0] * 5
    assert "exact          0   0.000" in empty.table() and "of 0" in str(empty)


@pytest.mark.parametrize(
    "labels, reached, names, words",
    [
        ([0], [0, 1], TREE.names, "reached: shape"),
        ([-1], [0], TREE.names, "labels: not all"),
        ([0], [7], TREE.names, "reached: not all"),
        ([0], [0], ("a",), "1 names for 7"),
    ],
)
def test_refused(labels, reached, names, words):
    with pytest.raises(ValueError, match=words):
        HierarchicalAccuracy(TREE, names, np.array(labels), np.array(reached), 0.5)


@given(trees())
def test_paths_of_every_tree(tree):
    for node, row in enumerate(root_paths(tree).tolist()):
        path = tree.path(node)[::-1]
        assert row == path + [-1] * (len(row) - len(path))


@given(trees(), st.data())
def test_every_verdict_is_what_the_paths_say(tree, data):
    """And a path that is right at a depth is right at all depths above."""
    nodes = len(tree.parents)
    drawn = st.lists(
        st.tuples(st.integers(0, nodes - 1), st.integers(-1, nodes - 1)), min_size=1, max_size=12
    )
    labels, reached = np.array(data.draw(drawn)).T
    accuracy = HierarchicalAccuracy(tree, tree.names, labels, reached, 0.5)
    for label, node, verdict in zip(labels, reached, accuracy.verdicts(), strict=True):
        above, below = tree.path(label), tree.path(node)
        cases = (node == label, node in above, label in below, node >= 0, True)
        assert verdict == cases.index(True)
        assert on_path(tree, node, label) == (node in above)
    counts, right = accuracy.by_depth()
    assert counts[0] == len(labels) and (np.diff(right) <= 0).all() and (np.diff(counts) <= 0).all()
    at_depth = [
        sum(
            len(tree.path(a)) > d and len(tree.path(b)) > d and tree.path(a)[~d] == tree.path(b)[~d]
            for a, b in zip(labels, reached, strict=True)
        )
        for d in range(len(counts))
    ]
    assert right.tolist() == at_depth

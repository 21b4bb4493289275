"""Settings of a region layer: what has no meaning is refused, and the message names it."""

import pytest

from reference.region import Region, WordTree
from tests.strategies import TREE

ONE = ((1.0, 1.0),)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"anchors": ()}, "anchors: at least one"),
        ({"anchors": ((1.0, 0.0),)}, r"anchors: \(1.0, 0.0\) is not a positive finite size"),
        ({"anchors": ((float("inf"), 1.0),)}, "anchors: "),
        ({"classes": 0}, "classes: 0"),
        ({"class_activation": "relu"}, "class_activation: 'relu' is not one of softmax"),
        ({"class_loss": "hinge"}, "class_loss: 'hinge'"),
        ({"box_weight": "area"}, "box_weight: 'area'"),
        ({"location": "grid"}, "location: 'grid' is not one of cell, anchor"),
        ({"class_activation": "tree"}, "tree: needed by"),
        ({"tree": TREE}, "tree: needed by"),
        ({"class_activation": "tree", "tree": TREE}, "tree: 10 nodes for 2 classes"),
        ({"background": True, "class_activation": "logistic"}, "background: only"),
        ({"class_map": (0, 1, 2)}, "class_map: entry 2, class 2, is not one of 2"),
        ({"class_map": (-1,)}, "class_map: entry 0, class -1, is not one of 2"),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Region(**{"anchors": ONE, "classes": 2, **settings})


def test_a_map_may_repeat_classes_and_be_longer_than_the_layer():
    assert Region(ONE, 2, class_map=(1, 0, 1)).class_map == (1, 0, 1)


@pytest.mark.parametrize(
    ("names", "parents", "message"),
    [
        (("a",), (-1, -1), "1 names for 2 parents"),
        (("a",), (0,), r"node 0 \(a\): parent 0 does not precede it"),
        (("a", "b", "c", "d"), (-1, 0, -1, 0), "not contiguous"),
    ],
)
def test_trees_out_of_order_are_refused(names, parents, message):
    with pytest.raises(ValueError, match=message):
        WordTree(names, parents)

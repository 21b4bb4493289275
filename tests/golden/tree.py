"""The tree of words against golden numbers."""

import numpy as np

from reference.wordtree import absolute_probability, complete_labels, descend, read_tree
from tests.golden import DATA, GOLDEN, check, compare


def golden_tree(name: str):
    """A tree named in a golden config: one of the small ones, or the 9418 nodes of YOLO9000."""
    small = GOLDEN / "trees" / name
    return read_tree(small if small.exists() else DATA / "darknet" / "data" / name)


@check("tree")
def tree_case(case):
    tree = golden_tree(case.config["tree"])
    yield compare("parents", tree.parents, case["parent"])
    yield compare("child groups", tree.child_group, case["child"])
    yield compare("groups", tree.group_of, case["group"])
    yield compare("leaves", np.array(tree.child_group) < 0, case["leaf"])
    yield compare("group sizes", tree.group_sizes, case["group_size"])
    yield compare("group offsets", tree.group_offsets, case["group_offset"])

    conditional, thresholds = case["scores"], case["thresholds"]
    absolute = absolute_probability(conditional, tree)
    yield compare("absolute", absolute, case["absolute"])
    leaves = absolute_probability(conditional, tree, only_leaves=True)
    yield compare("absolute leaves", leaves, case["absolute_leaves"])
    # The original multiplies from the node up to its root here, so the last bits may differ.
    yield compare("path product", absolute[:, case["prob_nodes"]], case["prob"], rtol=1e-6)
    for name, rows in (("top", conditional), ("top_abs", absolute)):
        nodes = [[descend(row, tree, t) for t in thresholds] for row in rows]
        yield compare(name, nodes, case[name])
    yield compare("completed labels", complete_labels(case["fill_in"], tree), case["fill_out"])

"""A tree as text for a terminal: its measures, its problems, and where words stand in it."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from reference.region import WordTree
from yolov2.checking.report import NAMED, bar, table
from yolov2.data.files import shown
from yolov2.tree.check import KINDS, TreeProblem

WIDEST = 5  # groups that are printed
LEVELS = 40  # levels that are printed


def measures(tree: WordTree) -> str:
    """The size of a tree in one line."""
    leaves = tree.child_group.count(-1)
    return (
        f"{len(tree.parents):,} nodes in {len(tree.group_sizes):,} groups of siblings, {leaves:,} leaves, "
        f"{tree.group_sizes[0]} root{'s' * (tree.group_sizes[0] > 1)}, {max(levels(tree)) + 1} levels"
    )


def levels(tree: WordTree) -> list[int]:
    """The level of every node; that of roots is 0."""
    found: list[int] = []
    for parent in tree.parents:
        found.append(0 if parent < 0 else found[parent] + 1)
    return found


def level_table(tree: WordTree) -> Iterator[str]:
    """Nodes and leaves of every level."""
    nodes: defaultdict[int, int] = defaultdict(int)
    leaves = nodes.copy()
    for level, child_group in zip(levels(tree), tree.child_group, strict=True):
        nodes[level] += 1
        leaves[level] += child_group < 0
    most = max(nodes.values())
    rows = [("level", "nodes", "leaves", "")]
    rows += [(str(n), str(nodes[n]), str(leaves[n]), bar(nodes[n], most)) for n in sorted(nodes)[:LEVELS]]
    yield from table(rows, left=(3,))
    if len(nodes) > LEVELS:
        yield f"... and {len(nodes) - LEVELS} more"


def widest_table(tree: WordTree, names: Sequence[str]) -> list[str]:
    """The groups with the most siblings: a softmax each."""
    groups = sorted(range(len(tree.group_sizes)), key=lambda group: -tree.group_sizes[group])
    rows = [("children", "of")]
    for group in groups[:WIDEST]:
        parent = tree.parents[tree.group_offsets[group]]
        rows.append((str(tree.group_sizes[group]), "(roots)" if parent < 0 else title(tree, names, parent)))
    return table(rows, left=(1,))


def problem_table(problems: Iterable[TreeProblem]) -> Iterator[str]:
    """Problems by kind, with what they mean."""
    kinds = defaultdict(list)
    for problem in problems:
        kinds[problem.kind].append(problem)
    for kind in [kind for kind in KINDS if kind in kinds]:
        some = kinds[kind]
        yield f"{kind}: {len(some)} ({KINDS[kind]})"
        for problem in some[:NAMED]:
            yield f"  line {problem.line}: {problem.reason}"
        if len(some) > NAMED:
            yield f"  ... and {len(some) - NAMED} more"


def title(tree: WordTree, names: Sequence[str], node: int) -> str:
    """A node's own name, and what people call it if that is something else."""
    own, called = tree.names[node], names[node]
    return shown(own if called in (own, own.replace("_", " ")) else f"{own} {called}", 100)


def outline(
    tree: WordTree, names: Sequence[str], wanted: Iterable[int], below: bool = False
) -> Iterator[str]:
    """The ways from the roots down to some nodes, marked by a star, a line per node.

    Parameters
    ----------
    tree : WordTree
        The tree.
    names : sequence of str
        What people call its nodes.
    wanted : iterable of int
        The nodes.
    below : bool
        Show the children of these nodes too.
    """
    wanted = set(wanted)
    visible = {above for node in wanted for above in tree.path(node)}
    if below:
        visible |= {node for node, parent in enumerate(tree.parents) if parent in wanted}
    for way in sorted(tree.path(node)[::-1] for node in visible):
        group = tree.child_group[way[-1]]
        size = tree.group_sizes[group] if group >= 0 else 0
        children = f" ({size} {'child' if size == 1 else 'children'})" if size else ""
        star = " *" if way[-1] in wanted else ""
        yield f"{'  ' * (len(way) - 1)}{title(tree, names, way[-1])}{children}{star}"

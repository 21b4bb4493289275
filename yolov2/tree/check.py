"""What is wrong with a file of a tree: everything at once, each with its line (SPEC 13.1)."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from yolov2.data.files import shown
from yolov2.errors import shortened

#: every kind of problem, and what it means
KINDS = {
    "not 'name parent'": "a node is a name without spaces and the number of its parent, -1 for a root",
    "orphan": "the parent is no line of the file; the first line is number 0, a root's parent is -1",
    "cycle": "these nodes are above each other, so none of them hangs on a root",
    "late parent": "a parent must stand above its children, or its probability is not known in time",
    "torn siblings": "the children of a node must follow each other: they share one softmax",
    "repeated name": "nobody can tell these nodes apart by name; Darknet would not mind",
}


class TreeProblem(NamedTuple):
    """One thing that is wrong with a tree: the number of its line from 1, its kind, and what stands there."""

    line: int
    kind: str
    reason: str


def tree_problems(lines: Sequence[str]) -> list[TreeProblem]:
    """All that keeps lines from being a tree, in the order of the lines; beyond that, repeated names.

    Parameters
    ----------
    lines : sequence of str
        "name parent" each. There are other problems than repeated names exactly where
        `reference.wordtree.read_tree` refuses the lines.

    Returns
    -------
    list of TreeProblem
    """
    if not lines:
        return [TreeProblem(1, "not 'name parent'", "there is no node")]
    nodes = [_node(line) for line in lines]
    parents = [node[1] if node else None for node in nodes]
    on_cycle: dict[int, list[int]] = {}
    for cycle in _cycles(parents):
        on_cycle |= dict.fromkeys(cycle, cycle)
    problems = []
    first_of: dict[str, int] = {}  # line of a name
    last_child: dict[int, int] = {}  # of a parent
    for line, node in enumerate(nodes, start=1):
        if node is None:
            problems.append(TreeProblem(line, "not 'name parent'", shown(lines[line - 1], 60)))
            continue
        name, parent = shown(node[0], 60), node[1]
        if not -1 <= parent < len(lines):
            problems.append(TreeProblem(line, "orphan", f"{name}: parent {parent} of {len(lines)} nodes"))
        elif line - 1 in on_cycle:
            if (cycle := on_cycle[line - 1])[0] == line - 1:
                circle = shortened([shown(nodes[n][0], 60) for n in (*cycle, cycle[0])], 10)  # type: ignore[index]
                problems.append(TreeProblem(line, "cycle", circle))
        elif parent >= line:
            problems.append(TreeProblem(line, "late parent", f"{name}: its parent is in line {parent + 1}"))
        if last_child.setdefault(parent, line - 1) != line - 1:
            before = f"{name}: a sibling is in line {last_child[parent]}, others are between"
            problems.append(TreeProblem(line, "torn siblings", before))
        last_child[parent] = line
        if first_of.setdefault(node[0], line) != line:
            problems.append(TreeProblem(line, "repeated name", f"{name}: also in line {first_of[node[0]]}"))
    return problems


def _node(line: str) -> tuple[str, int] | None:
    """Name and parent of a line; None if it is not of that form."""
    fields = line.split()
    if len(fields) != 2 or not fields[0].isprintable() or not re.fullmatch(r"-?[0-9]{1,9}", fields[1]):
        return None
    return fields[0], int(fields[1])


def _cycles(parents: Sequence[int | None]) -> Iterator[list[int]]:
    """Every cycle of nodes, each from its first node up."""
    seen: set[int] = set()
    for start in range(len(parents)):
        walk: list[int] = []
        node: int | None = start
        while node is not None and 0 <= node < len(parents) and node not in seen:
            seen.add(node)
            walk.append(node)
            node = parents[node]
        if node in walk:
            cycle = walk[walk.index(node) :]
            first = cycle.index(min(cycle))
            yield cycle[first:] + cycle[:first]

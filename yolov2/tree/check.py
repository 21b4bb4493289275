"""What is wrong with a file of a tree: everything at once, each with its line (SPEC 13.1)."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from yolov2.data.files import shown

MAX_LEVELS = 200  # WordNet has 20 of nouns; work and memory of a detection's path grow with them

#: every kind of problem, and what it means
KINDS = {
    "not 'name parent'": "a node is a name without spaces and the number of its parent, -1 for a root",
    "orphan": "the parent is no line of the file; the first line is number 0, a root's parent is -1",
    "cycle": "these nodes are above each other, so none of them hangs on a root",
    "late parent": "a parent must stand above its children, or its probability is not known in time",
    "torn siblings": "the children of a node must follow each other: they share one softmax",
    "too deep": f"at most {MAX_LEVELS} levels are supported",
    "repeated name": "nobody can tell these nodes apart by name; Darknet would not mind",
}


class TreeProblem(NamedTuple):
    """One thing that is wrong with a tree: the number of its line from 1, its kind, and what stands there."""

    line: int
    kind: str
    reason: str


def tree_problems(lines: Sequence[str]) -> list[TreeProblem]:
    """All that is wrong with the lines of a tree, in their order.

    Parameters
    ----------
    lines : sequence of str
        "name parent" each. Where `reference.wordtree.read_tree` refuses them there are problems; it does not
        mind a tree that is too deep, or has repeated names.

    Returns
    -------
    list of TreeProblem
    """
    if not lines:
        return [TreeProblem(1, "not 'name parent'", "there is no node")]
    nodes = [_node(line) for line in lines]
    names = [node[0] if node else "" for node in nodes]
    parents = [node[1] if node else -1 for node in nodes]
    cycles = {node: cycle for cycle in _cycles(parents) for node in cycle}
    problems = []
    first_of: dict[str, int] = {}  # line of a name
    last_child: dict[int, int] = {}  # line of the last child of a parent
    levels: list[int] = []

    def complain(kind: str, reason: str) -> None:
        problems.append(TreeProblem(line, kind, reason))

    for line, (node, parent) in enumerate(zip(nodes, parents, strict=True), start=1):
        levels.append(levels[parent] + 1 if 0 <= parent < line - 1 else 0)
        if node is None:
            complain("not 'name parent'", shown(lines[line - 1], 60))
            continue
        name = shown(node[0], 60)
        if not -1 <= parent < len(lines):
            complain("orphan", f"{name}: parent {parent} of {len(lines)} nodes")
        elif (cycle := cycles.get(line - 1)) and cycle[0] == line - 1:
            complain("cycle", circle([names[n] for n in (*reversed(cycle), cycle[-1])]))
        elif parent >= line and not cycle:
            complain("late parent", f"{name}: its parent is in line {parent + 1}")
        if last_child.setdefault(parent, line - 1) != line - 1:
            complain("torn siblings", f"{name}: others are between it and line {last_child[parent]}")
        last_child[parent] = line
        if levels[-1] == MAX_LEVELS:
            complain("too deep", f"{name}: {MAX_LEVELS} nodes are above it")
        if first_of.setdefault(node[0], line) != line:
            complain("repeated name", f"{name}: also in line {first_of[node[0]]}")
    return problems


def circle(words: Sequence[str], most: int = 20) -> str:
    """A cycle for a message, from above to below: "a > b > a"."""
    return " > ".join([*(shown(word, 60) for word in words[:most]), *["..."] * (len(words) > most)])


def _node(line: str) -> tuple[str, int] | None:
    """Name and parent of a line; None if it is not of that form."""
    fields = line.split()
    if len(fields) != 2 or not fields[0].isprintable() or not re.fullmatch(r"-?[0-9]{1,9}", fields[1]):
        return None
    return fields[0], int(fields[1])


def _cycles(parents: Sequence[int]) -> Iterator[list[int]]:
    """Every cycle of nodes, each from its first node up."""
    seen: set[int] = set()
    for start in range(len(parents)):
        walk: list[int] = []
        node = start
        while 0 <= node < len(parents) and node not in seen:
            seen.add(node)
            walk.append(node)
            node = parents[node]
        if node in walk:
            cycle = walk[walk.index(node) :]
            first = cycle.index(min(cycle))
            yield cycle[first:] + cycle[:first]

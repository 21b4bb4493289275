"""A tree over the labels of several data sets, as YOLO9000's WordTree (paper 2, sec. 4; SPEC 13.1)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from typing import NamedTuple

from reference.region import WordTree
from yolov2.checking.classes import alike
from yolov2.data.files import shown
from yolov2.errors import Complaints
from yolov2.tree.tables import Hypernyms, LabelSet

Parents = Mapping[str, Sequence[str]]


class Built(NamedTuple):
    """A tree, the nodes that the labels of each set mean (coco9k.map), and what people call its nodes."""

    tree: WordTree
    maps: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]


def build_tree(
    label_sets: Sequence[LabelSet],
    hypernyms: Hypernyms,
    complaints: Complaints,
    word_names: Mapping[str, str] | None = None,
) -> Built:
    """Merge label sets into one tree.

    First come the words with one way up to a root, then the others one by one, each by the way that adds the
    fewest words; of several such ways by the shortest, then by the one that the table names first. So a tree
    has one way up from every word although the table may have many. Words above no label are left out.

    Parameters
    ----------
    label_sets : sequence of LabelSet
        A label may mean an inner node ("dog" of COCO above the breeds of ImageNet).
    hypernyms : Hypernyms
        What is above what, without cycles.
    complaints : Complaints
        Told of labels of one set that mean the same node. Training can use them, but no detector tells them
        apart. Also of words that are spelled alike and so are probably one.
    word_names : mapping of str to str, optional
        What people call words; of any words, also of such that do not come into the tree.

    Returns
    -------
    Built
        Of a node's names, `tree.names` has the word of the table. `names` has the first label that has
        another word than itself; else what `word_names` calls it; else the word with spaces for underscores.
        Nodes, level by level, are in the order of the labels.

    Raises
    ------
    UserError
        If the table does not know the word of a label; it names the line.
    ValueError
        If there is a cycle (`read_hypernyms` returns none).
    """
    called: dict[str, str] = {}
    needed: dict[str, None] = {}
    meant: list[list[str]] = []
    for labels in label_sets:
        first: dict[str, str] = {}
        meant.append([])
        for line, (label, name) in enumerate(zip(labels.labels, labels.words, strict=True), start=1):
            word = hypernyms.word(name, f"{labels.path}: line {line}", complaints.note)
            if (other := first.setdefault(word, label)) != label:
                reason = f"{shown(labels.path)}:{line} ({other} and {label})"
                complaints.add("labels of one set that mean the same node", reason)
            if label != word:
                called.setdefault(word, label)
            needed[word] = None
            meant[-1].append(word)
    chosen = _choose_parents(needed, hypernyms.parents)
    order = _in_order(needed, chosen)
    for group in alike(order):
        complaints.add("words of the table that are probably one", " / ".join(group))
    node = {word: number for number, word in enumerate(order)}
    tree = WordTree(tuple(order), tuple(-1 if (p := chosen[word]) is None else node[p] for word in order))
    called = {**(word_names or {}), **called}
    names = tuple(called.get(word, word.replace("_", " ")) for word in order)
    return Built(tree, tuple(tuple(node[word] for word in words) for words in meant), names)


def _choose_parents(words: Iterable[str], parents: Parents) -> dict[str, str | None]:
    """One parent, or None of a root, for every word of the tree: `words` and those above them."""
    ways: dict[str, int] = {}  # up to a root; 2 stands for more, which may be exponentially many
    for word in TopologicalSorter(parents).static_order():
        ways[word] = min(sum(ways[above] for above in parents[word]) or 1, 2)
    chosen: dict[str, str | None] = {}
    depth: dict[str | None, int] = {None: -1}  # of the tree so far; None is above the roots
    for word in sorted(words, key=lambda word: ways[word]):
        if word not in depth:
            above, added = _cheapest_way(word, parents, depth)
            for below in added:
                chosen[below], depth[below] = above, depth[above] + 1
                above = below
    return chosen


def _cheapest_way(
    word: str, parents: Parents, depth: Mapping[str | None, int]
) -> tuple[str | None, list[str]]:
    """Where in the tree a word should hang, and the words that this adds, downwards, itself the last.

    Every new word costs the same, and once in the tree there is but one way up. So the cheapest way is found
    breadth first, looking at every word once however many ways there are.
    """
    below: dict[str, str | None] = {word: None}
    level = [word]
    while True:
        ends = [(above, new) for new in level for above in parents[new] or (None,) if above in depth]
        if ends:
            break
        level_above = []
        for new in level:
            for above in parents[new]:
                if above not in below:
                    below[above] = new
                    level_above.append(above)
        level = level_above
    end, top = min(ends, key=lambda end: depth[end[0]])  # the first of the shortest
    added = [top]
    while (step := below[added[-1]]) is not None:
        added.append(step)
    return end, added


def _in_order(words: Iterable[str], chosen: Mapping[str, str | None]) -> list[str]:
    """The words of the tree level by level, siblings in the order in which `words` first need them."""
    children: defaultdict[str | None, list[str]] = defaultdict(list)
    seen: set[str] = set()
    for word in words:
        needed: str | None = word
        while needed is not None and needed not in seen:
            seen.add(needed)
            children[chosen[needed]].append(needed)
            needed = chosen[needed]
    order = list(children[None])
    for word in order:  # which grows meanwhile
        order += children.get(word, ())
    return order

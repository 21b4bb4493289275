"""The nodes that words mean: "dog", n02084071, "hot dog" for a folder hot_dog."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches

from reference.region import WordTree
from yolov2.data.classes import letters
from yolov2.data.files import shown
from yolov2.errors import Complaints, UserError, shortened

LISTED = 5  # nodes of one name that a message lists


class NodeIndex:
    """Nodes of a tree by name.

    A word is looked for among the tree's own names, then among what people call the nodes; if neither has it,
    again in that order, without regard to case, spaces, underscores and hyphens, and a note says so.

    Parameters
    ----------
    tree : WordTree
        The tree.
    names : sequence of str
        What people call its nodes, see `yolov2.tree.files.open_node_names`.
    note : callable
        Takes the remark, e.g. `Complaints.note`.
    """

    def __init__(self, tree: WordTree, names: Sequence[str], note: Callable[[str], None]) -> None:
        self.tree = tree
        self.names = tuple(names)
        self._note = note
        self._exact = _by_name(tree.names), _by_name(names)
        self._spelled = _by_name(map(letters, tree.names)), _by_name(map(letters, names))

    def nodes(self, name: str) -> list[int]:
        """All nodes that a word may mean; none if the tree does not know it."""
        for tables, word in ((self._exact, name), (self._spelled, letters(name))):
            for table in tables:
                if found := table.get(word):
                    return found
        return []

    def node(self, name: str, where: object) -> int:
        """The node that a word means.

        Raises
        ------
        UserError
            If it is unknown or means several; it names `where`, and the nodes that look alike or are meant.
        """
        found = self.nodes(name)
        if not found:
            known = dict.fromkeys((*self.names, *self.tree.names))
            near = get_close_matches(name[:200], known, n=3)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UserError(
                f"{shown(where)}: {shown(name)!r} is none of the {len(self.names)} nodes of the tree{hint}"
            )
        if len(found) > 1:
            paths = shortened([f"{self.tree.names[node]} ({self.path(node)})" for node in found], LISTED)
            raise UserError(
                f"{shown(where)}: {shown(name)!r} may be {len(found)} nodes; give the name of one: {paths}"
            )
        if not any(name in table for table in self._exact):
            self._note(f"{shown(name)!r} is taken for {self.names[found[0]]!r}")
        return found[0]

    def path(self, node: int) -> str:
        """A node and those above it in words: "animal > dog"; of a long path the lower end."""
        above = self.tree.path(node)
        words = [shown(self.names[n], 60) for n in above[:4]]
        return " > ".join([*["..."] * (len(above) > 4), *reversed(words)])


def nodes_of(
    names: Iterable[str], tree: WordTree, node_names: Sequence[str], where: object, complaints: Complaints
) -> tuple[int, ...]:
    """The nodes that the classes of a data set mean.

    Parameters
    ----------
    names : iterable of str
        The classes.
    tree : WordTree
        The tree.
    node_names : sequence of str
        What people call its nodes.
    where : object
        The file or folder that the classes come from, for messages.
    complaints : Complaints
        Told of classes that are spelled otherwise, or mean the same node as another one: they are then one
        class to the tree.

    Returns
    -------
    tuple of int
        A node per class.

    Raises
    ------
    UserError
        If a class is no node of the tree, or may be several.
    """
    index = NodeIndex(tree, node_names, complaints.note)
    first: dict[int, str] = {}
    nodes = []
    for name in names:
        node = index.node(name, where)
        if (other := first.setdefault(node, name)) != name:
            complaints.add("classes that are one node of the tree", f"{shown(where)} ({other} and {name})")
        nodes.append(node)
    return tuple(nodes)


def _by_name(names: Iterable[str]) -> dict[str, list[int]]:
    nodes = defaultdict(list)
    for node, name in enumerate(names):
        nodes[name].append(node)
    return dict(nodes)

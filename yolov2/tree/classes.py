"""Which nodes of a tree the classes of a detection set are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from reference.region import WordTree
from yolov2.data.classes import letters
from yolov2.data.files import shown
from yolov2.errors import Complaints, UserError
from yolov2.names import COCO_NAMES
from yolov2.tree.files import open_map
from yolov2.tree.nodes import nodes_of


def class_nodes(
    names: Sequence[str],
    tree: WordTree,
    node_names: Sequence[str],
    where: object,
    complaints: Complaints,
    class_map: Path | None = None,
    known: Mapping[str, int] | None = None,
) -> tuple[int, ...]:
    """A node for every class.

    Parameters
    ----------
    names : sequence of str
        The classes.
    tree : WordTree
        The tree.
    node_names : sequence of str
        What people call its nodes.
    where : object
        The file or folder that the classes come from, for messages.
    complaints : Complaints
        Told which classes are found by their names.
    class_map : Path, optional
        A file that says it, a line per class.
    known : mapping of str to int, optional
        What a network was trained with, or its cfg file says; it goes before the names of the nodes.

    Raises
    ------
    UserError
        If a class is no node or may be several, or the map is of another number of classes.
    """
    if class_map is not None:
        nodes = open_map(class_map, len(tree.parents))
        if len(nodes) != len(names):
            raise UserError(
                f"{shown(class_map)}: {len(nodes)} lines, but {shown(where)} has {len(names)} classes"
            )
        return nodes
    spelled = {letters(name): node for name, node in (known or {}).items()}
    fresh = [name for name in names if letters(name) not in spelled]
    try:
        found = dict(zip(fresh, nodes_of(fresh, tree, node_names, where, complaints), strict=True))
    except UserError as error:
        raise UserError(f"{error}. A --map has the node of every class") from None
    return tuple(found[name] if name in found else spelled[letters(name)] for name in names)


def coco_nodes(class_map: Sequence[int]) -> dict[str, int]:
    """The nodes of COCO's classes by a cfg file's map, which has no names; none if it is not of as many."""
    return dict(zip(COCO_NAMES, class_map, strict=True)) if len(class_map) == len(COCO_NAMES) else {}

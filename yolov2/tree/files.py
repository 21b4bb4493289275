"""The files of a tree of words: the tree itself, maps to its nodes, what people call them (SPEC 13.1)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from reference.region import WordTree
from reference.wordtree import read_tree
from yolov2.cfg_sections import MAX_BYTES
from yolov2.data.files import checked_names, is_regular, read_lines, shown
from yolov2.errors import UserError
from yolov2.names import read_names
from yolov2.tree.check import tree_problems


def open_tree(path: Path | str) -> WordTree:
    """Read a tree, one "name parent" per line.

    Raises
    ------
    UserError
        If it cannot be read, is too large or no tree; it names the first line that is wrong.
    """
    lines = text_lines(path)
    _refuse(path, lines)
    return read_tree(lines)


def _refuse(path: Path | str, lines: list[str]) -> None:
    """Raise `UserError` if lines are no tree. Names may be repeated: no network minds."""
    wrong = [problem for problem in tree_problems(lines) if problem.kind != "repeated name"]
    if wrong:
        more = f" (and {len(wrong) - 1} more; python -m yolov2.tree check lists them)" if wrong[1:] else ""
        raise UserError(f"{shown(path)}: line {wrong[0].line}: {wrong[0].kind}: {wrong[0].reason}{more}")


def text_lines(path: Path | str) -> list[str]:
    """The lines of a file of at most `MAX_BYTES`, without empty ones at its end. Raises `UserError`."""
    lines = read_lines(Path(path), MAX_BYTES)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def tree_text(tree: WordTree) -> str:
    """A tree in Darknet's form, a "name parent" per line (SPEC 13.1); nameless nodes get a number."""
    rows = enumerate(zip(tree.names, tree.parents, strict=True))
    return "".join(f"{name or f'n{node}'} {parent}\n" for node, (name, parent) in rows)


def save_tree(path: Path | str, tree: WordTree) -> None:
    """Write a tree, so that `open_tree` gives it back.

    Raises
    ------
    UserError
        If `open_tree` would refuse it: a name has spaces, it is too deep or too large.
    """
    text = tree_text(tree)
    _refuse(path, text.split("\n")[:-1])
    write_text(path, text)


def open_map(path: Path | str, nodes: int) -> tuple[int, ...]:
    """Read the node that each class means, one a line, e.g. coco9k.map.

    Parameters
    ----------
    path : Path or str
        The file.
    nodes : int
        How many the tree has.

    Raises
    ------
    UserError
        If it cannot be read, is empty, or a line is not a number from 0 to ``nodes - 1``.
    """
    lines = text_lines(path)
    if not lines:
        raise UserError(f"{shown(path)}: empty; give the number of a node per line")
    for number, line in enumerate(lines, start=1):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", line) or int(line) >= nodes:
            raise UserError(
                f"{shown(path)}: line {number}: {shown(line, 60)!r} is not the number of a node, "
                f"0 to {nodes - 1}"
            )
    return tuple(map(int, lines))


def save_map(path: Path | str, nodes: Iterable[int]) -> None:
    """Write the node that each class means, one a line."""
    write_text(path, "".join(f"{node}\n" for node in nodes))


def open_node_names(
    tree: WordTree, tree_path: Path | str, names_path: Path | str | None = None
) -> tuple[str, ...]:
    """What people call the nodes of a tree: "dog" for n02084071.

    Parameters
    ----------
    tree : WordTree
        The tree.
    tree_path : Path or str
        Its file. A file beside it of the same name but ``.names`` is used if it has a line per node.
    names_path : Path or str, optional
        Another file that has a line per node.

    Returns
    -------
    tuple of str
        A name per node; the tree's own where there is no file.

    Raises
    ------
    UserError
        If `names_path` has another number of lines, or the file cannot be read.
    """
    nodes = len(tree.parents)
    path = Path(names_path) if names_path is not None else Path(tree_path).with_suffix(".names")
    if names_path is None and not is_regular(path):
        return tree.names
    names = read_names(path)
    if len(names) == nodes:
        return checked_names(names, path)
    if names_path is None:
        return tree.names
    raise UserError(f"{shown(path)}: {len(names)} names for the {nodes} nodes of {shown(tree_path)}")


def write_text(path: Path | str, text: str) -> None:
    """Write a file as a whole, or, if that fails, leave what was there.

    Raises
    ------
    UserError
        If it would be too large to be read again.
    """
    data, path = text.encode(), Path(path)
    if len(data) > MAX_BYTES:
        raise UserError(f"{shown(path)}: {len(data):,} bytes are more than the {MAX_BYTES:,} of such a file")
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    os.replace(partial, path)

"""What a tree is built from: label sets, a table of what stands above what, and names for its words."""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from yolov2.data.classes import letters
from yolov2.data.files import is_name, read_lines, shown
from yolov2.errors import UserError
from yolov2.names import MAX_BYTES
from yolov2.tree.check import circle

MAX_ROWS = 500_000  # all nouns of WordNet are 84 thousand
HEADER = ["child", "parent"]


@dataclass(frozen=True)
class LabelSet:
    """The labels of a data set, in order, and the word of the table that each of them means.

    `path` is the file they come from, for messages.
    """

    path: Path
    labels: tuple[str, ...]
    words: tuple[str, ...]


@dataclass(frozen=True)
class Hypernyms:
    """Words and those above them, which may be several ("dog": "canine", "domestic animal").

    Parameters
    ----------
    path : Path
        The file they come from, for messages.
    parents : dict
        Every word -> the words directly above it; of a root none. Words have no spaces.
    """

    path: Path
    parents: dict[str, tuple[str, ...]]

    def word(self, name: str, where: object, note: Callable[[str], None]) -> str:
        """The word that a name means: itself, or the one that is spelled alike, of which a note tells.

        Raises
        ------
        UserError
            If there is none or there are several; it names `where`.
        """
        if name in self.parents:
            return name
        alike = self._spelled.get(letters(name), [])
        if len(alike) == 1:
            note(f"{shown(name)!r} is taken for {alike[0]!r}")
            return alike[0]
        near = alike or get_close_matches(name, self.parents, n=3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "give LABEL,WORD or add a row"
        raise UserError(f"{shown(where)}: {shown(name)!r} is no word of {shown(self.path)}; {hint}")

    @cached_property
    def _spelled(self) -> dict[str, list[str]]:
        words = defaultdict(list)
        for word in self.parents:
            words[letters(word)].append(word)
        return words


def read_labels(path: Path | str) -> LabelSet:
    """Read a label set: a line per label, "label", or "label,word" where the table has another word for it.

    Raises
    ------
    UserError
        If it cannot be read, a line is empty or has more than two fields, or a label is there twice.
    """
    path = Path(path)
    lines: dict[str, int] = {}
    words = []
    for line, fields in _rows(path):
        if len(fields) not in (1, 2):
            raise UserError(f"{shown(path)}: line {line}: expected LABEL or LABEL,WORD; a comma needs quotes")
        if (first := lines.setdefault(fields[0], line)) != line:
            raise UserError(f"{shown(path)}: line {line}: {fields[0]!r} is in line {first} too")
        words.append("_".join(fields[-1].split()))
    return LabelSet(path, tuple(lines), tuple(words))


def read_hypernyms(path: Path | str) -> Hypernyms:
    """Read a table of "child,parent", a word with several parents in as many rows (csv).

    The first row may be "child,parent" itself. What has no row is a root. In a word, spaces and underscores
    are the same, as the names in the file of a tree have no spaces.

    Raises
    ------
    UserError
        If it cannot be read, a row has not two fields, or a word is above itself; it names the line.
    """
    path = Path(path)
    above: dict[str, dict[str, int]] = {}  # word: {parent: line}
    for line, fields in _rows(path):
        if len(fields) != 2:
            raise UserError(f"{shown(path)}: line {line}: expected CHILD,PARENT; a comma needs quotes")
        if line == 1 and [field.lower() for field in fields] == HEADER:
            continue
        child, parent = ("_".join(field.split()) for field in fields)
        if child == parent:
            raise UserError(f"{shown(path)}: line {line}: {child!r} is above itself; a root needs no row")
        above.setdefault(child, {}).setdefault(parent, line)
        above.setdefault(parent, {})
    try:
        TopologicalSorter(above).prepare()
    except CycleError as error:
        cycle: list[str] = error.args[1]  # from above to below, the first word again at its end
        line = above[cycle[1]][cycle[0]]
        raise UserError(f"{shown(path)}: line {line}: a word is above itself: {circle(cycle)}") from None
    return Hypernyms(path, {word: tuple(parents) for word, parents in above.items()})


def read_word_names(path: Path | str) -> dict[str, str]:
    """Read what people call words, "word,name" per line: n02084071 is "dog".

    Raises
    ------
    UserError
        If it cannot be read, a line has not two fields, or a word is there twice; it names the line.
    """
    path = Path(path)
    names: dict[str, str] = {}
    for line, fields in _rows(path):
        if len(fields) != 2:
            raise UserError(f"{shown(path)}: line {line}: expected WORD,NAME; a comma needs quotes")
        word = "_".join(fields[0].split())
        if word in names:
            raise UserError(f"{shown(path)}: line {line}: {word!r} already has a name, {names[word]!r}")
        names[word] = fields[1]
    return names


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line and fields of every row, at least one. None goes on in the next line, so errors stay in theirs."""
    lines = read_lines(path, MAX_BYTES)
    while lines and not lines[-1].strip():
        lines.pop()
    if not 0 < len(lines) <= MAX_ROWS:
        raise UserError(f"{shown(path)}: {len(lines):,} lines; expected 1 to {MAX_ROWS:,}")
    for number, line in enumerate(lines, start=1):
        try:
            fields = next(csv.reader([line], skipinitialspace=True, strict=True)) or [""]
        except csv.Error as error:
            raise UserError(f"{shown(path)}: line {number}: {error}") from None
        fields = [field.strip() for field in fields]
        for field in fields:
            if not is_name(field) or "\ufffd" in field:  # what was no UTF-8
                raise UserError(f"{shown(path)}: line {number}: '{shown(field, 60)}' is no word or label")
        yield number, fields

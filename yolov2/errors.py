"""What may go wrong with the user's files: one line to stop with, or a counted complaint to go on with."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence


class UserError(Exception):
    """A mistake in the user's files or arguments, told in one line that names the file and what to do.

    The commands print it and leave with exit status 2, without a traceback.
    """


def shortened(names: Sequence[str], most: int = 5) -> str:
    """The first names of a list, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


class Complaints:
    """Recoverable problems (a box outside its picture, a broken picture), by kind.

    All are kept, for `python -m yolov2.check`; a summary names the first few. Iterating gives the pairs
    (kind, name), kind by kind.

    Examples
    --------
    >>> complaints = Complaints()
    >>> complaints.add("empty boxes dropped", "a.xml")
    >>> complaints.add("empty boxes dropped", "b.xml")
    >>> print(complaints.summary())
    warning: empty boxes dropped: 2 (a.xml, b.xml)
    >>> list(complaints)
    [('empty boxes dropped', 'a.xml'), ('empty boxes dropped', 'b.xml')]
    """

    NAMED = 5  # examples named per kind

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._named: defaultdict[str, list[str]] = defaultdict(list)
        self._notes: set[str] = set()

    def add(self, kind: str, name: object) -> None:
        """Count one problem of `kind`; `name` is the file (and object) it was found in."""
        self.counts[kind] += 1
        self._named[kind].append(str(name))

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((kind, name) for kind, names in self._named.items() for name in names)

    def note(self, line: str) -> None:
        """Print a remark to stderr at once, and only once however often it is made."""
        if line not in self._notes:
            self._notes.add(line)
            print(f"note: {line}", file=sys.stderr)

    def summary(self) -> str:
        """One line per kind of problem, naming the first few; empty when there were none."""
        lines = []
        for kind, count in self.counts.items():
            lines.append(f"warning: {kind}: {count} ({shortened(self._named[kind], self.NAMED)})")
        return "\n".join(lines)

    def report(self) -> None:
        """Print the summary to stderr and forget what was counted."""
        if self.counts:
            print(self.summary(), file=sys.stderr)
        self.clear()

    def clear(self) -> None:
        """Forget what was counted; what was remarked is not said again."""
        self.counts.clear()
        self._named.clear()

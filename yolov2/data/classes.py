"""Class names that mean the same: "dining table" in one file is "diningtable" in another."""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from yolov2.data.files import shown
from yolov2.errors import UserError, shortened


class ClassIndex:
    """Numbers of classes by name.

    A name that differs from a known one by nothing but case, spaces, underscores and hyphens is that one, and
    a note says so. Every other difference is a different class.

    Parameters
    ----------
    names : sequence of str
        The known classes, in order.
    note : callable
        Takes the remark, e.g. `Complaints.note`.
    """

    def __init__(self, names: Sequence[str], note: Callable[[str], None]) -> None:
        self.names = tuple(names)
        self._note = note
        self._exact: dict[str, int] = {}
        self._spelled: dict[str, int] = {}
        for number, name in enumerate(names):
            self._exact.setdefault(name, number)
            self._spelled.setdefault(letters(name), number)

    def number(self, name: str, where: object) -> int:
        """The number of a class.

        Raises
        ------
        UserError
            If it is unknown; it names `where` and the classes that look alike.
        """
        number = self._exact.get(name)
        if number is not None:
            return number
        number = self._spelled.get(letters(name))
        if number is None:
            near = get_close_matches(name[:200], self.names, n=3)
            hint = (
                f"did you mean {' or '.join(map(repr, near))}?"
                if near
                else "correct the name or add the class"
            )
            raise UserError(
                f"{shown(where)}: class {shown(name)!r} is not among the {len(self.names)} known ones "
                f"({shortened(list(self.names))}); {hint}"
            )
        self._note(f"class {shown(name)!r} is taken for {self.names[number]!r}")
        self._exact[name] = number
        return number


def letters(name: str) -> str:
    """What of a name counts."""
    return re.sub(r"[\s_-]+", "", name).casefold()

"""Problems of a data set: what they are, where, and how bad."""

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

from yolov2.errors import Complaints

# how readers name a place: a.txt:3, list.txt:3 (b.jpg), a (1).xml (dog), train.json (image 5, annotation 7)
PLACE = re.compile(r"(.+?\.\w+)(?::(\d+))?(?: \((.*)\))?", re.DOTALL)


class Problem(NamedTuple):
    """One thing that is wrong (an error), or that may be meant so (a hint)."""

    level: Literal["error", "hint"]
    kind: str
    split: str = ""
    file: str = ""
    line: str = ""  # of that file, where it has lines
    reason: str = ""

    @property
    def where(self) -> str:
        """The place and the reason in one line."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place} ({self.reason})" if place and self.reason else place or self.reason


def complained(complaints: Complaints, split: str) -> list[Problem]:
    """What the reader of a split complained of; each is an error, as it left out or changed something."""
    problems = []
    for kind, name in complaints:
        found = PLACE.fullmatch(name)
        place = found.groups("") if found else (name,)
        problems.append(Problem("error", kind, split, *place))
    return problems


def write_csv(problems: Iterable[Problem], path: Path) -> None:
    """All problems, one a row under a row of names."""
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(Problem._fields)
        writer.writerows(problems)

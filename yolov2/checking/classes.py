"""Class names: do all splits mean the same ones?"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from yolov2.checking.problems import Problem
from yolov2.data.classes import letters
from yolov2.data.dataset import Dataset


def class_counts(splits: Mapping[str, Dataset]) -> dict[str, dict[str, int]]:
    """Boxes by split and class name; every split has the names of all, in the order they are met."""
    names = list(dict.fromkeys(name for dataset in splits.values() for name in dataset.names))
    counts = {}
    for split, dataset in splits.items():
        numbers = np.concatenate([np.zeros(0, np.int64), *(item.classes for item in dataset.items)])
        found = np.bincount(numbers, minlength=len(dataset.names)).tolist()
        counts[split] = dict.fromkeys(names, 0) | dict(zip(dataset.names, found, strict=True))
    return counts


def alike(names: Sequence[str]) -> list[list[str]]:
    """Groups of names that differ in nothing but case, spaces, underscores and hyphens."""
    ordered = sorted(set(names), key=lambda name: (letters(name), name))
    return [group for _, some in groupby(ordered, letters) if len(group := list(some)) > 1]


def class_problems(splits: Mapping[str, Dataset]) -> Iterator[Problem]:
    """Names that differ between splits or in spelling only, and classes that a split lacks."""
    counts = class_counts(splits)
    names = next(iter(counts.values()), {})
    for group in alike(list(names)):
        yield Problem("error", "class names that are probably one", reason=" / ".join(group))
    first, *others = splits.items()
    for split, dataset in others:
        for name in sorted(set(dataset.names) ^ set(first[1].names)):
            has, lacks = (split, first[0]) if name in dataset.names else (first[0], split)
            reason = f"{name}: known in {has}, not in {lacks}"
            yield Problem("error", "class names that differ between splits", split, reason=reason)
    for split, count in counts.items():
        for name in names:
            if not count[name]:
                yield Problem("hint", "classes that a split lacks", split, reason=f"no {name!r}")

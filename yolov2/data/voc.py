"""Pascal VOC folders, as they are found in the wild.

Accepted layouts::

    VOC2012/                     a folder of one or more of these, e.g. VOCdevkit, will also do
        ImageSets/Main/train.txt, val.txt, ...    one picture a line: a, a.jpg, JPEGImages/a.jpg or "a 1"
        JPEGImages/*.jpg
        Annotations/*.xml
    any/
        train/  val/ (or valid/)  test/           each with pictures and .xml side by side,
                                                  or with JPEGImages and Annotations inside
    any/                                          pictures and .xml side by side or in two sub-folders, and
                                                  no split: a hash of its name sends every fifth to val

Where no list or folder is called train, but one other than val and test is there (CVAT's default.txt, a
trainval.txt), that one is for training: what val and test leave of it, or without these four fifths of it.

An .xml belongs to the picture with the same stem, whatever its <filename> says, and the picture's own size
counts, whatever its <size> says. Boxes refer to the upright picture, turned as its EXIF orientation says.
What cannot be used is counted as a complaint and left out.

Coordinates: official Pascal VOC pixels count from 1, and Darknet's labels subtract that 1 from the centre
(SPEC 15). Annotations that name a "VOC" <database>, or name none inside a folder called VOC20xx, are read so;
all others, drawn with today's tools, count from 0 and are taken as they are.
"""

import math
import os
import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from tqdm import tqdm

from yolov2.data.dataset import BROKEN, Dataset, Item, upright_size
from yolov2.errors import Complaints, UserError, shortened

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"}
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
SPLITS |= {"test": "test", "testing": "test", "trainval": "trainval"}
VOC_FOLDER = re.compile(r"VOC20\d\d", re.IGNORECASE)


@dataclass(frozen=True)
class _Source:
    """What a split's list names: a picture, an annotation, or (one of them missing) a complaint."""

    id: str
    picture: Path | None
    annotation: Path | None
    folder: Path
    others: tuple[Path, ...] = ()  # pictures of the same stem with other suffixes


@dataclass(frozen=True)
class _Annotation:
    """The content of one .xml: per object its name, difficult flag and (xmin, ymin, xmax, ymax) in pixels."""

    objects: list[tuple[str, bool, tuple[float, ...]]]
    width: int
    height: int
    database: str


def splits_available(folder: str | Path) -> tuple[str, ...]:
    """Names of the splits in a Pascal VOC folder, e.g. ("train", "val"); "valid" is called "val".

    Raises
    ------
    UserError
        If the folder is missing or has none of the accepted layouts.
    """
    return tuple(_sources(Path(folder), lambda line: None))  # `read_voc` says what there is to say


def read_voc(
    folder: str | Path,
    split: str,
    names: Iterable[str] | None = None,
    complaints: Complaints | None = None,
) -> Dataset:
    """Read one split of a Pascal VOC folder.

    Parameters
    ----------
    folder : str or Path
        Any of the layouts in the module's docstring.
    split : str
        E.g. "train", "val", "test".
    names : iterable of str, optional
        The classes, in order. By default those met in the annotations of all splits, sorted: a rare class may
        well be in one split only, and every split must number the classes alike.
    complaints : Complaints, optional
        Where problems are counted; by default they are printed to stderr at the end.

    Returns
    -------
    Dataset
        Pictures are not decoded, only their headers are read.

    Raises
    ------
    UserError
        If the folder, the split or every single annotation is unusable, or a class is not among `names`.
    """
    folder = Path(folder)
    collected = Complaints() if complaints is None else complaints
    splits = _sources(folder, collected.note)
    split = _split_name(split)
    if split not in splits:
        raise UserError(f"{folder}: no split {split!r}, there is {', '.join(splits)}")
    if names is None:
        names = _discover(source for sources in splits.values() for source in sources)
    names = tuple(names)
    index = {name: i for i, name in enumerate(names)}
    sources = _once(splits[split], collected)
    if split in ("val", "test"):
        train = set(splits.get("train", ()))
        for source in sources:
            if source in train:
                collected.add(f"pictures of {split} that are in train too", source.id)
    bar = tqdm(sources, f"reading {split}", unit="img", delay=2, leave=False)
    items = [item for source in bar if (item := _item(source, index, collected)) is not None]
    if not items:
        what = f"; {collected.summary().splitlines()[0]}" if collected.counts else ""
        raise UserError(f"{folder}: split {split!r} has no usable picture among {len(splits[split])}{what}")
    if not names:
        raise UserError(f"{folder}: no annotation has an object with a <name>; is this the right folder?")
    if complaints is None:
        collected.report()
    return Dataset(names, items)


def _once(sources: Iterable[_Source], complaints: Complaints) -> list[_Source]:
    """The sources without repetitions, each a complaint."""
    seen: dict[_Source, None] = {}
    for source in sources:
        if source in seen:
            complaints.add("repeated names in a list dropped", source.id)
        seen[source] = None
    return list(seen)


def _sources(folder: Path, note: Callable[[str], None]) -> dict[str, list[_Source]]:
    """All splits of the folder; official years lying side by side (VOC2007, VOC2012) are joined."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; unpack the data set there or correct --data")
    candidates = [folder]
    for _ in range(3):  # the folder, its sub-folders, theirs: VOCdevkit/VOC2012 and one around it
        roots = [root for root in candidates if _is_root(root)]
        if roots:
            break
        candidates = [Path(entry.path) for c in candidates for entry in _entries(c) if entry.is_dir()]
    if not roots:
        raise UserError(
            f"{folder}: not a Pascal VOC data set; it needs JPEGImages/ and Annotations/ with .xml files, "
            "or train/ and val/ with pictures and .xml files"
        )
    if len(roots) > 1 and not all(VOC_FOLDER.fullmatch(root.name) for root in roots):
        raise UserError(f"{folder}: holds several data sets, name one: {', '.join(map(str, roots))}")
    joined: dict[str, list[_Source]] = {}
    for root in roots:
        for split, sources in _read_root(root, note).items():
            joined.setdefault(split, []).extend(sources)
    return joined


def _is_root(folder: Path) -> bool:
    """Whether annotations lie in the folder, in its Annotations or in a sub-folder named after a split."""
    inside = [Path(e.path) for e in _entries(folder) if e.is_dir() and e.name.lower() in SPLITS]
    places = [_child(part, "Annotations") or part for part in (folder, *inside)]
    return any(entry.name.lower().endswith(".xml") for place in places for entry in _entries(place))


def _read_root(root: Path, note: Callable[[str], None]) -> dict[str, list[_Source]]:
    everything = _pairs(root)
    lists = _child(root, "ImageSets")
    lists = lists and (_child(lists, "Main") or lists)
    found = _read_lists(lists, {source.id: source for source in everything}, root) if lists else {}
    if not found:
        inside = [Path(e.path) for e in _entries(root) if e.is_dir() and e.name.lower() in SPLITS]
        found = {_split_name(part.name): _pairs(part) for part in inside}
    if not found:
        return _by_name(everything, f"{root}: no ImageSets/Main and no train/ and val/ folders", note)
    others = [split for split in found if split not in ("val", "test")]
    if len(others) == 1 and others != ["train"] and found[others[0]]:
        whole, rest = found[others[0]], {source for s in ("val", "test") for source in found.get(s, ())}
        if not rest:
            return found | _by_name(whole, f"{root}: no split but {others[0]!r}", note)
        note(f"{root}: no split 'train', {others[0]!r} takes that place but for what is in val or test")
        found["train"] = [source for source in whole if source not in rest]
    return found


def _by_name(sources: list[_Source], why: str, note: Callable[[str], None]) -> dict[str, list[_Source]]:
    """Train and val by the hash of a picture's name, so that none changes sides when others are added."""
    rank = {source.id: zlib.crc32(source.id.encode()) for source in sources}
    val = {id for id in rank if rank[id] % 5 == 0} or {min(rank, key=lambda id: rank[id])}
    note(f"{why}; {len(rank) - len(val)} pictures are for train and {len(val)} for val, chosen by name")
    return {
        "train": [source for source in sources if source.id not in val],
        "val": [source for source in sources if source.id in val],
    }


def _read_lists(folder: Path, known: dict[str, _Source], root: Path) -> dict[str, list[_Source]]:
    """The split lists of ImageSets/Main; those of single classes (dog_train.txt) are passed over."""
    lists = _files(folder, {".txt"})
    splits = {}
    for stem, (path, *_) in lists.items():
        if "_" in stem and stem.rpartition("_")[2] in lists:
            continue
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        ids = [_listed(line.strip(), known) for line in lines if line.strip()]
        splits[_split_name(stem)] = [known.get(id, _Source(id, None, None, root)) for id in ids]
    return splits


def _listed(line: str, known: Container[str]) -> str:
    """The stem that a line of a list means, with or without folders, suffix and the class lists' 1, 0, -1."""
    name = line.replace("\\", "/").rpartition("/")[2]
    names = name, re.sub(r"\s+-?[01]$", "", name)  # "cell 1" may be the whole name
    stems = [n.removesuffix(suffix) for n in names if (suffix := Path(n).suffix).lower() in PICTURES]
    return next((n for n in (*names, *stems) if n in known), (stems or names)[-1])


def _pairs(folder: Path) -> list[_Source]:
    """The pictures and annotations of a folder, paired by stem and sorted."""
    pictures = _files(_child(folder, "JPEGImages") or _child(folder, "images") or folder, PICTURES)
    annotations = _files(_child(folder, "Annotations") or folder, {".xml"})
    found = []
    for stem in sorted(pictures.keys() | annotations.keys()):
        same, xml = pictures.get(stem, []), annotations.get(stem, [])
        found.append(
            _Source(stem, same[0] if same else None, xml[0] if xml else None, folder, tuple(same[1:]))
        )
    return found


def _discover(sources: Iterable[_Source]) -> list[str]:
    """All class names in the annotations, sorted."""
    found: set[str] = set()
    for source in sources:
        try:
            if source.annotation and source.picture:
                found |= {name for name, _, _ in _parse(source.annotation).objects if name}
        except (ElementTree.ParseError, LookupError, OSError, ValueError):
            continue  # counted when the item is read
    return sorted(found)


def _item(source: _Source, index: dict[str, int], complaints: Complaints) -> Item | None:
    """The item of a source, or None (and a complaint) if it cannot be used."""
    for other in source.others:
        complaints.add("pictures beside one of the same name left out", other)
    if source.picture is None:
        what = "annotations without a picture" if source.annotation else "listed names without files"
        complaints.add(f"{what} left out", source.annotation or source.id)
        return None
    if source.annotation is None:
        complaints.add("pictures without an .xml left out", source.picture)
        return None
    try:
        annotation = _parse(source.annotation)
    except (ElementTree.ParseError, LookupError, OSError, ValueError) as error:
        complaints.add("annotations of invalid XML left out", f"{source.annotation} ({error})")
        return None
    try:
        width, height = upright_size(source.picture)
    except BROKEN:
        complaints.add("unreadable pictures left out", source.picture)
        return None
    if annotation.width > 0 and (annotation.width, annotation.height) != (width, height):
        complaints.add("wrong <size> replaced by the picture's own", source.annotation)

    official = "VOC" in annotation.database
    if not annotation.database:
        official = any(VOC_FOLDER.fullmatch(part) for part in source.folder.parts)
    rows = []
    for name, difficult, corners in annotation.objects:
        if not name:
            complaints.add("objects without a <name> dropped", source.annotation)
            continue
        if name not in index:
            raise UserError(
                f"{source.annotation}: class {name!r} is not among the {len(index)} known ones "
                f"({shortened(list(index))}); correct the <name> or add the class"
            )
        box = _box(corners, width, height, float(official), f"{source.annotation} ({name})", complaints)
        if box:
            rows.append((box, index[name], difficult))
    boxes, classes, flags = zip(*rows, strict=True) if rows else ((), (), ())
    return Item(
        id=source.id,
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        difficult=np.array(flags, bool),
        path=source.picture,
    )


def _parse(path: Path) -> _Annotation:
    """Read one .xml; coordinates that are missing or no numbers become NaN."""
    root = ElementTree.parse(path).getroot()

    def number(node: ElementTree.Element, tag: str) -> float:
        try:
            return float(node.findtext(tag, ""))
        except ValueError:
            return math.nan

    corners = [f"bndbox/{side}" for side in ("xmin", "ymin", "xmax", "ymax")]
    objects = [
        (
            node.findtext("name", "").strip(),
            node.findtext("difficult", "0").strip().lower() in ("1", "true"),
            tuple(number(node, corner) for corner in corners),
        )
        for node in root.findall("object")
    ]
    size = [number(root, f"size/{side}") for side in ("width", "height")]
    width, height = (int(n) if math.isfinite(n) else 0 for n in size)
    return _Annotation(objects, width, height, root.findtext("source/database", "").strip())


def _box(
    corners: tuple[float, ...], width: int, height: int, origin: float, name: str, complaints: Complaints
) -> tuple[float, float, float, float] | None:
    """Corners in pixels, counted from `origin`, as cxcywh fractions clipped to the picture; None if empty."""
    if not all(map(math.isfinite, corners)):
        complaints.add("boxes without four numbers dropped", name)
        return None
    xmin, ymin, xmax, ymax = (c - origin for c in corners)
    if xmin > xmax or ymin > ymax:
        complaints.add("boxes with min and max swapped turned round", name)
        xmin, xmax, ymin, ymax = *sorted((xmin, xmax)), *sorted((ymin, ymax))
    if xmin < -1 or ymin < -1 or xmax > width + 1 or ymax > height + 1:  # a pixel of rounding is no mistake
        complaints.add("boxes reaching outside clipped to the picture", name)
    xmin, xmax = max(0.0, xmin), min(float(width), xmax)
    ymin, ymax = max(0.0, ymin), min(float(height), ymax)
    if xmax <= xmin or ymax <= ymin:
        complaints.add("empty boxes dropped", name)
        return None
    return (
        (xmin + xmax) / 2 / width,
        (ymin + ymax) / 2 / height,
        (xmax - xmin) / width,
        (ymax - ymin) / height,
    )


def _split_name(name: str) -> str:
    return SPLITS.get(name.lower(), name)


def _entries(folder: Path) -> list[os.DirEntry]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _child(folder: Path, name: str) -> Path | None:
    """The sub-folder of that name, in any mixture of cases."""
    return next(
        (Path(e.path) for e in _entries(folder) if e.is_dir() and e.name.lower() == name.lower()), None
    )


def _files(folder: Path, suffixes: set[str]) -> dict[str, list[Path]]:
    """Files of the folder with one of the suffixes, in any case, by stem; sorted."""
    found = defaultdict(list)
    for path in (Path(entry.path) for entry in _entries(folder) if entry.is_file()):
        if path.suffix.lower() in suffixes:
            found[path.stem].append(path)
    return found

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
What cannot be used is counted as a complaint and left out; files are opened as `yolov2.data.files` says.

Coordinates: official Pascal VOC pixels count from 1, and Darknet's labels subtract that 1 from the centre
(SPEC 15). Annotations that name a "VOC" <database>, or name none inside a folder called VOC20xx, are read so;
all others, drawn with today's tools, count from 0 and are taken as they are.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from yolov2.data.boxes import Boxes, Corners
from yolov2.data.classes import ClassIndex
from yolov2.data.dataset import Dataset, Item
from yolov2.data.files import (
    LIST_BYTES,
    PICTURES,
    SPLITS,
    child,
    entries,
    is_folder,
    picture_size,
    read_lines,
    shown,
    split_name,
    subfolders,
)
from yolov2.data.voc_xml import XmlError, read_xml
from yolov2.errors import Complaints, UserError

VOC_FOLDER = re.compile(r"VOC20\d\d", re.IGNORECASE)


@dataclass(frozen=True)
class _Source:
    """What a split's list names: a picture, an annotation, or (one of them missing) a complaint."""

    id: str
    picture: Path | None
    annotation: Path | None
    folder: Path
    others: tuple[Path, ...] = ()  # pictures of the same stem with other suffixes


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
    split = split_name(split)
    if split not in splits:
        raise UserError(f"{folder}: no split {split!r}, there is {', '.join(splits)}")
    if names is None:
        names = _discover(source for sources in splits.values() for source in sources)
    names = tuple(names)
    index = ClassIndex(names, collected.note)
    sources = _once(splits[split], collected)
    if split in ("val", "test"):
        train = set(splits.get("train", ()))
        for source in sources:
            if source in train:
                collected.add(f"pictures of {split} that are in train too", source.id)
    bar = tqdm(sources, f"reading {split}", unit="img", delay=2, leave=False)
    items = [item for source in bar if (item := _item(source, index, collected)) is not None]
    if not items:
        what = f"; {shown(collected.summary().splitlines()[0])}" if collected.counts else ""
        raise UserError(f"{folder}: split {split!r} has no usable picture among {len(splits[split])}{what}")
    if not names:
        raise UserError(f"{folder}: no annotation has an object with a <name>; is this the right folder?")
    if complaints is None:
        collected.report()
    return Dataset(names, items)


def holds_voc(folder: Path) -> bool:
    """Whether a folder is one of Pascal VOC's, or has some in it."""
    return bool(_roots(folder))


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
    if not is_folder(folder):
        raise UserError(f"{folder}: no such folder; unpack the data set there or correct --data")
    roots = _roots(folder)
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


def _roots(folder: Path) -> list[Path]:
    """The folder itself, or of its sub-folders or of theirs those that are data sets: VOCdevkit/VOC2012."""
    candidates = [folder]
    for _ in range(3):
        roots = [root for root in candidates if _is_root(root)]
        if roots:
            return roots
        candidates = [inside for candidate in candidates for inside in subfolders(candidate)]
    return []


def _is_root(folder: Path) -> bool:
    """Whether annotations lie in the folder, in its Annotations or in a sub-folder named after a split."""
    inside = [Path(e.path) for e in entries(folder) if e.is_dir() and e.name.lower() in SPLITS]
    places = [child(part, "Annotations") or part for part in (folder, *inside)]
    return any(entry.name.lower().endswith(".xml") for place in places for entry in entries(place))


def _read_root(root: Path, note: Callable[[str], None]) -> dict[str, list[_Source]]:
    everything = _pairs(root)
    lists = child(root, "ImageSets")
    lists = lists and (child(lists, "Main") or lists)
    found = _read_lists(lists, {source.id: source for source in everything}, root) if lists else {}
    if not found:
        inside = [Path(e.path) for e in entries(root) if e.is_dir() and e.name.lower() in SPLITS]
        found = {split_name(part.name): _pairs(part) for part in inside}
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
        lines = read_lines(path, LIST_BYTES)
        ids = [_listed(line.strip(), known) for line in lines if line.strip()]
        splits[split_name(stem)] = [known.get(id, _Source(id, None, None, root)) for id in ids]
    return splits


def _listed(line: str, known: Container[str]) -> str:
    """The stem that a line of a list means, with or without folders, suffix and the class lists' 1, 0, -1."""
    name = line.replace("\\", "/").rpartition("/")[2]
    names = name, re.sub(r"\s+-?[01]$", "", name)  # "cell 1" may be the whole name
    stems = [n.removesuffix(suffix) for n in names if (suffix := Path(n).suffix).lower() in PICTURES]
    return next((n for n in (*names, *stems) if n in known), (stems or names)[-1])


def _pairs(folder: Path) -> list[_Source]:
    """The pictures and annotations of a folder, paired by stem and sorted."""
    pictures = _files(child(folder, "JPEGImages") or child(folder, "images") or folder, PICTURES)
    annotations = _files(child(folder, "Annotations") or folder, {".xml"})
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
                found |= {thing.name for thing in read_xml(source.annotation).objects if thing.name}
        except (XmlError, UserError):
            continue  # counted when the item is read
    return sorted(found)


def _item(source: _Source, index: ClassIndex, complaints: Complaints) -> Item | None:
    """The item of a source, or None (and a complaint) if it cannot be used."""
    for other in source.others:
        complaints.add("pictures beside one of the same name left out", shown(other))
    if source.picture is None:
        what = "annotations without a picture" if source.annotation else "listed names without files"
        complaints.add(f"{what} left out", shown(source.annotation or source.id))
        return None
    if source.annotation is None:
        complaints.add("pictures without an .xml left out", shown(source.picture))
        return None
    try:
        annotation = read_xml(source.annotation)
    except XmlError as error:
        complaints.add("annotations of invalid XML left out", f"{shown(source.annotation)} ({error})")
        return None
    except UserError as error:  # which names the file
        complaints.add("unreadable annotations left out", error)
        return None
    size = picture_size(source.picture)
    if size is None:
        complaints.add("unreadable pictures left out", shown(source.picture))
        return None
    if annotation.width > 0 and (annotation.width, annotation.height) != size:
        complaints.add("wrong <size> replaced by the picture's own", shown(source.annotation))

    official = "VOC" in annotation.database
    if not annotation.database:
        official = any(VOC_FOLDER.fullmatch(part) for part in source.folder.parts)
    boxes = Boxes(*size, complaints)
    for found in annotation.objects:
        where = f"{shown(source.annotation)}:{found.line}"
        if not found.name:
            complaints.add("objects without a <name> dropped", where)
            continue
        number = index.number(found.name, where)
        corners: Corners = found.corners
        if official:
            corners = corners[0] - 1, corners[1] - 1, corners[2] - 1, corners[3] - 1
        boxes.add(corners, number, found.difficult, f"{where} ({shown(found.name)})")
    return boxes.item(source.id, source.picture)


def _files(folder: Path, suffixes: set[str]) -> dict[str, list[Path]]:
    """Files of the folder with one of the suffixes, in any case, by stem; sorted."""
    found = defaultdict(list)
    for path in (Path(entry.path) for entry in entries(folder) if entry.is_file()):
        if path.suffix.lower() in suffixes:
            found[path.stem].append(path)
    return found

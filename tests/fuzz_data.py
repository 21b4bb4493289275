"""Damaged data sets: thousands of small ones in every format, each with a file or two spoilt, opened as
training opens them.

    python -m tests.fuzz_data --count 5000 --seed 0
    python -m tests.fuzz_data --seed 0 --only 4711      # that case again, with its traceback

Case i is a function of (seed, i). It has to end in a valid data set, with complaints perhaps, or in one
`UserError` of one line. Everything else is printed with the case's number: any other exception, more than
`SECONDS`, more than `MEGABYTES` on top, the death of the process.
"""

import argparse
import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz import (
    ADDRESS_SPACE,
    HANG,
    Hang,
    Result,
    Wrong,
    bytes_flipped,
    check_complaint,
    cut,
    hung,
    peak,
)
from yolov2.data.class_folders import open_classification
from yolov2.data.dataset import Dataset, verify
from yolov2.data.sources import open_train_val
from yolov2.errors import Complaints, UserError

SECONDS = 3  # of processor time, for one case
MEGABYTES = 200  # that memory may grow by, over all cases
CHUNK = 250  # cases of one process

XML = """<?xml version="1.0" encoding="utf-8"?>
<annotation>
  <source><database>The VOC2012 Database</database></source>
  <size><width>40</width><height>32</height><depth>3</depth></size>
  <object>
    <name>cat</name><difficult>0</difficult>
    <bndbox><xmin>5</xmin><ymin>6</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
    <part><name>head</name></part>
  </object>
  <object>
    <name>d&#xF6;g</name>
    <bndbox><xmin>1.5</xmin><ymin>1e1</ymin><xmax>40</xmax><ymax>32</ymax></bndbox>
  </object>
</annotation>
"""
ROWS = "0 .5 .5 .25 .5\n1 0.25 0.25 0.1 0.2\n1 .1 .1 .2 .1 .2 .3 .1 .3\n"
YAML = """# of a tool
path: .
train: images/train
val: [images/val]
nc: 2
names:
  0: cat
  1: "d\\xf6g"
"""
DARKNET = """classes = 2
train = train.txt
valid = val.txt
names = a.names
labels = a.names
backup = backup
"""
SPLITS = {"train": "ab", "val": "c"}


def coco_json(stems: str) -> str:
    """The content of a json in COCO's form."""
    images = [
        {"id": n, "file_name": f"{s}.jpg", "width": 40, "height": 32, "license": 1}
        for n, s in enumerate(stems)
    ]
    boxes = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [4, 5, 10.5, 20], "iscrowd": 0, "area": 210}
        for n in range(len(stems))
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dög"}]
    return json.dumps({"images": images, "annotations": boxes, "categories": categories}, indent=1)


@cache
def picture(format: str) -> bytes:
    """A picture of 40x32 pixels, with EXIF."""
    exif = Image.Exif()
    exif[0x112] = 1
    data = io.BytesIO()
    Image.effect_noise((40, 32), 60).convert("RGB").save(data, format, exif=exif)
    return data.getvalue()


def sets(kind: str) -> dict[str, bytes]:
    """The files of a valid data set."""
    files: dict[str, bytes] = {}
    for split, stems in SPLITS.items():
        rows = [f"images/{split}/{stem}.jpg" for stem in stems]
        match kind:
            case "voc":
                files |= {f"JPEGImages/{s}.jpg": b"" for s in stems}
                files |= {f"Annotations/{s}.xml": XML.encode() for s in stems}
                files[f"ImageSets/Main/{split}.txt"] = "".join(f"{s} 1\n" for s in stems).encode()
            case "coco":
                files |= {f"{split}2017/{s}.jpg": b"" for s in stems}
                files[f"annotations/instances_{split}2017.json"] = coco_json(stems).encode()
            case "yolo" | "darknet":
                files |= {f"images/{split}/{s}.jpg": b"" for s in stems}
                files |= {f"labels/{split}/{s}.txt": ROWS.encode() for s in stems}
            case "classes":
                files |= {f"{split}/{name}/{s}.jpg": b"" for s in stems for name in ("cat", "dog")}
        if kind == "darknet":
            files[f"{split}.txt"] = "".join(f"./{row}\n" for row in rows).encode()
    if kind == "yolo":
        files["data.yaml"] = YAML.encode()
    if kind == "darknet":
        files |= {"a.data": DARKNET.encode(), "a.names": b"train\nval\n"}
    return files


NUMBERS = [b"", b"9" * 5000, b"-" + b"9" * 400]
NUMBERS += b"""0 -1 1 2 7 39 41 1e9 2147483648 -2147483649 99999999999999999999 1e308 -1e308 1e999 1e-320 nan
inf -inf NaN Infinity - . 1e 0x10 1_0 ,5 null true [] {} "" "\\ud800" \xd9\xa3 \xff""".split()
PIECES = [b"\0", b"\n\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[31m", b"\xe2\x80\xae", b"\r", b" " * 3000]
PIECES += [b"<a>" * 4000, b"[" * 9000, b'{"a":' * 9000, b"a: " * 500, b"- " * 3000, b"&a [*a]", b"<<: *a\n"]
PIECES += [
    b"../" * 30 + b"etc/passwd\n",
    b"/dev/zero\n",
    b"/dev/stdin\n",
    b"~/x\n",
    b"C:\\x\n",
    b"!!python/name:os.system ",
]
PIECES += [
    b"<object><name>cat</name></object>" * 300,
    b"0 .5 .5 .1 .1\n" * 3000,
    b"5 5 5 5 5\n",
    b"a" * 70_000,
]
PIECES += [b"<!DOCTYPE x>", b"<!-- ", b"<![CDATA[", b"&lol;", b"&#0;", b"&#x10FFFF;", b"%PDF-1.4"]
BOMB = b"<!DOCTYPE a [<!ENTITY a0 'xxxxxxxxxx'>"
BOMB += b"".join(b"<!ENTITY a%d '%s'>" % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 12)) + b"]>"
BOMB += b"<annotation><object><name>&a11;</name></object></annotation>"
ALIASES = b"a0: &a0 [x, x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 9)) for n in range(1, 20)
)
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 32\n(x) run\n"


def png(width: int, height: int) -> bytes:
    """A PNG that announces a size and has but a row of pixels."""
    chunks = [
        (b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" * 121)),
    ]
    made = [struct.pack(">I", len(c)) + n + c + struct.pack(">I", zlib.crc32(n + c)) for n, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(made) + b"\0\0\0\0IEND\xaeB`\x82"


def number_replaced(rng: random.Random, data: bytes) -> bytes:
    places = list(re.finditer(rb"[-+.\deE]*\d[-+.\deE]*", data))
    if not places:
        return data
    place = rng.choice(places)
    return data[: place.start()] + rng.choice(NUMBERS) + data[place.end() :]


def word_replaced(rng: random.Random, data: bytes) -> bytes:
    places = list(re.finditer(rb"[A-Za-z_./]+", data))
    if not places:
        return data
    one, other = rng.choice(places), rng.choice(places)
    return data[: one.start()] + rng.choice([other[0], *PIECES, *NUMBERS]) + data[one.end() :]


def piece_inserted(rng: random.Random, data: bytes) -> bytes:
    place = rng.randrange(len(data) + 1)
    return data[:place] + rng.choice(PIECES) + data[place:]


def lines_changed(rng: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    here, there = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(4):
        case 0:
            del lines[here]
        case 1:
            lines[here:here] = [lines[there]] * rng.choice([1, 1, 500])
        case 2:
            lines[here], lines[there] = lines[there], lines[here]
        case 3:
            lines[here] = rng.choice([b"", b" ", *PIECES])
    return b"\n".join(lines)


def spliced(rng: random.Random, data: bytes) -> bytes:
    other = rng.choice(
        [XML.encode(), ROWS.encode(), YAML.encode(), DARKNET.encode(), coco_json("ab").encode()]
    )
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def encoded_otherwise(rng: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", errors="replace")
    return rng.choice(
        [
            data.replace(b"\n", b"\r\n"),
            data.replace(b"\n", b"\r"),
            text.encode("utf-16"),
            text.encode("utf-32"),
            text.encode("latin-1", errors="replace"),
            data.replace(
                b'"utf-8"', rng.choice([b'"utf-7"', b'"rot13"', b'"cp037"', b'"UTF-16"', b'"big5"'])
            ),
        ]
    )


def something_else(rng: random.Random, data: bytes) -> bytes:
    return rng.choice(
        [b"", b"\0" * 100, rng.randbytes(rng.randrange(2000)), BOMB, ALIASES, POSTSCRIPT, data * 50]
    )


TEXTS: list[Callable[[random.Random, bytes], bytes]] = [
    *[number_replaced] * 4,
    *[word_replaced] * 3,
    *[piece_inserted] * 2,
    *[lines_changed] * 2,
    spliced,
    bytes_flipped,
    cut,
    encoded_otherwise,
    something_else,
]


def picture_spoilt(rng: random.Random) -> bytes:
    data = picture(rng.choice(["JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF", "JPEG2000", "ICO", "TGA"]))
    match rng.randrange(5):
        case 0:
            return cut(rng, data)
        case 1:
            return bytes_flipped(rng, data[:200]) + data[200:]
        case 2:
            return bytes_flipped(rng, data)
        case 3:
            huge = [2**31 - 1, 2**32 - 1, 100_000, 20_000, 0, 1]
            return png(rng.choice(huge), rng.choice(huge))
        case _:
            return rng.choice(
                [POSTSCRIPT, BOMB, rng.randbytes(500), data[: len(data) // 2] + data, XML.encode()]
            )


@dataclass(frozen=True)
class Case:
    """A data set: the content of its files, and those that are something else than files."""

    kind: str
    files: dict[str, bytes]
    odd: dict[str, str]  # "fifo", "zero", "folder", "loop", "missing", "huge"


KINDS = ("voc", "coco", "yolo", "darknet", "classes")


def make(seed: int, number: int) -> Case:
    """The files of a case."""
    rng = random.Random(f"{seed} {number}")
    kind = KINDS[number % len(KINDS)]
    files = sets(kind)
    for name, content in files.items():
        files[name] = content or picture("JPEG")
    odd = {}
    texts = [name for name in files if not name.endswith(".jpg")]
    for _ in range(rng.choice([1, 1, 2, 4])):
        name = rng.choice(sorted(files))
        if texts and rng.random() < 0.6:
            name = rng.choice(texts)
        if rng.random() < 0.06:
            odd[name] = rng.choice(["fifo", "zero", "folder", "loop", "missing", "huge"])
        elif name.endswith(".jpg"):
            files[name] = picture_spoilt(rng)
        else:
            files[name] = rng.choice(TEXTS)(rng, files[name])
    return Case(kind, files, odd)


def write(case: Case, root: Path) -> None:
    """Put a case into an empty folder."""
    for name, content in case.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match case.odd.get(name):
            case None:
                path.write_bytes(content)
            case "fifo":
                os.mkfifo(path)
            case "zero":
                path.symlink_to("/dev/zero")
            case "folder":
                path.mkdir()
            case "loop":
                path.symlink_to(path)
            case "huge":
                path.write_bytes(content)
                os.truncate(path, 3 << 30)  # a hole, no bytes on the disk


def judge(case: Case, root: Path) -> str:
    """Open a case as training does; in a word, what came of it."""
    shutil.rmtree(root, ignore_errors=True)
    write(case, root)
    complaints = Complaints()
    try:
        if case.kind == "classes":
            for split in SPLITS:
                data = open_classification(root, split, complaints=complaints)
                for index in range(len(data)):
                    with contextlib.suppress(UserError):
                        data.picture(index)
        else:
            for part in open_train_val(root, None, complaints):
                check_dataset(part)
                check_dataset(verify(part, complaints))
        if case.kind == "darknet":
            open_classification(root / "a.data", "train", complaints=complaints)
    except UserError as error:
        check_complaint(error, "")
        if str(root) not in str(error) and "/etc/passwd" not in str(error):
            raise Wrong(f"{str(error)[:150]!r} names no file") from error
        return f"{case.kind}: refused"
    for kind, where in complaints:
        if not where.isprintable() or not kind.isprintable() or len(where) > 1000:
            raise Wrong(f"complaint {where[:150]!r} is no line")
    return f"{case.kind}: read, {'with complaints' if complaints.counts else 'whole'}"


def check_dataset(data: Dataset) -> None:
    """What every data set has to be like, whatever it was read from."""
    for item in data.items:
        low, high = item.boxes[:, :2] - item.boxes[:, 2:] / 2, item.boxes[:, :2] + item.boxes[:, 2:] / 2
        if not (np.isfinite(item.boxes).all() and (low > -1e-5).all() and (high < 1 + 1e-5).all()):
            raise Wrong(f"boxes {item.boxes.tolist()}")
        if not (
            item.boxes.dtype == np.float32 and item.classes.dtype == np.int64 and item.difficult.dtype == bool
        ):
            raise Wrong("other types of arrays")
        if not ((item.classes >= 0) & (item.classes < len(data.names))).all():
            raise Wrong(f"classes {item.classes.tolist()} of {len(data.names)}")
        if min(item.width, item.height) < 1 or len(item.boxes) != len(item.classes) != len(item.difficult):
            raise Wrong("an impossible item")
    if len({item.id for item in data.items}) != len(data):
        raise Wrong("two items with one id")
    if not all(name and name.isprintable() for name in data.names):
        raise Wrong("a name of a class that cannot be printed")


def attempt(seed: int, number: int, root: Path, limit: int, trace: bool = False) -> Result:
    """One case, watched. Its peak memory, in kilobytes, may not exceed `limit`."""
    previous = signal.signal(signal.SIGALRM, hung)
    signal.setitimer(signal.ITIMER_REAL, HANG)
    before = time.process_time()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")  # Pillow's
            result = Result(number, judge(make(seed, number), root))
    except (Exception, Hang) as error:
        if trace:
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        result = Result(number, "", f"{type(error).__name__}: {str(error)[:500]} ({where})")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    spent = time.process_time() - before
    if not result.problem and spent > SECONDS:
        result = Result(number, "", f"{spent:.1f} seconds")
    if not result.problem and peak() > limit:
        result = Result(number, "", f"memory grew by {(peak() - limit) // 1024 + MEGABYTES} MB")
    return result


def run(seed: int, numbers: range, root: Path, trace: bool = False) -> Iterator[Result]:
    """The results of cases, in this process."""
    judge(Case("yolo", make(seed, 0).files, {}), root)  # what the libraries take when they start
    limit = peak() + MEGABYTES * 1024
    for number in numbers:
        yield attempt(seed, number, root, limit, trace)
        limit = max(limit, peak())
    shutil.rmtree(root, ignore_errors=True)


def chunk(seed: int, numbers: range, root: Path, trace: bool) -> list[Result]:
    """Cases with a bounded address space."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
    return list(run(seed, numbers, root, trace))


def main(argv: list[str] | None = None) -> int:
    """Run cases, print every problem, then what came of all; status 1 if there were problems."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz_data", description=__doc__.split("\n\n")[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this case alone, with its traceback")
    args = parser.parse_args(argv)
    numbers = range(args.count) if args.only is None else range(args.only, args.only + 1)
    outcomes: Counter[str] = Counter()
    problems, start = 0, time.time()
    with tempfile.TemporaryDirectory() as folder:
        for first in range(numbers.start, numbers.stop, CHUNK):
            some = range(first, min(first + CHUNK, numbers.stop))
            try:
                with ProcessPoolExecutor(1) as executor:
                    results = executor.submit(
                        chunk, args.seed, some, Path(folder) / "set", args.only is not None
                    ).result()
            except BrokenProcessPool:
                results = [Result(first, "", f"the process died in one of the {len(some)} cases from here")]
            for result in results:
                if result.problem:
                    problems += 1
                    print(f"case {result.number}: {result.problem}", flush=True)
                else:
                    outcomes[result.outcome] += 1
    for outcome, count in sorted(outcomes.items()):
        print(f"{count:>6}  {outcome}")
    print(f"{len(numbers)} cases of seed {args.seed} in {time.time() - start:.0f} s, {problems} problems")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())

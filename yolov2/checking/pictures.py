"""Every picture decoded once: can it be read, and is it there twice?

Three fingerprints are taken, from strict to lenient: of the file's bytes; of the pixels, which a copy without
its EXIF data or as another lossless format shares; and a look of 16x16 greys, which survives other JPEG
qualities and sizes. Looks are compared by their mean difference in levels of 255. Measured on VOC, COCO,
BCCD and ImageNet: copies at quality 20 or at half the size differ by at most 2.3, the nearest strangers by
6.9, and two shots of one scene in BCCD (BloodImage_00037, for val, and 00038, for train) by 2.2.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from yolov2.checking.problems import Problem
from yolov2.data.files import NO_PICTURE
from yolov2.data.pictures import read_pixels

SIDE = 16  # of a look
ALIKE = 3.0  # mean difference of two looks that are one, in levels of 255 ...
CONTRAST = 4.0  # ... and of at most this part of their standard deviation: fog looks like any other fog
CANDIDATES = 2000  # looks compared with one: those nearest in brightness
CHUNK = 4096  # pictures handed to the threads at a time

# kinds of problems
TWICE = "pictures twice in a split"
SHARED = "pictures of an earlier split"
SIMILAR = "pictures that look like one of an earlier split"


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a decoded picture.

    Parameters
    ----------
    size : (width, height)
        Of the upright picture, in pixels.
    content, pixels : bytes
        SHA-256 of the file, and of the upright picture with its size.
    look : ndarray, uint8 (256,)
        Mean grey of 16x16 parts, row by row.
    """

    size: tuple[int, int]
    content: bytes
    pixels: bytes
    look: np.ndarray


def fingerprint(path: Path) -> Fingerprint | str:
    """Decode a picture; the reason where that fails."""
    try:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        pixels = read_pixels(path)
    except NO_PICTURE as error:
        return str(error) or type(error).__name__
    height, width, _ = pixels.shape
    digest = hashlib.sha256(f"{width}x{height} ".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    grey = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    return Fingerprint((width, height), content, digest.digest(), np.asarray(grey).reshape(-1))


def fingerprints(paths: Sequence[Path], workers: int | None = None) -> dict[Path, Fingerprint | str]:
    """`fingerprint` of every path, each decoded once however often it is named.

    Parameters
    ----------
    paths : sequence of Path
        Picture files.
    workers : int, optional
        Threads; None takes one per core.
    """
    todo = list(dict.fromkeys(paths))
    found: dict[Path, Fingerprint | str] = {}
    with (
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
        tqdm(total=len(todo), desc="decoding", unit="img", delay=1, leave=False) as bar,
    ):
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start : start + CHUNK]
            for path, result in zip(chunk, pool.map(fingerprint, chunk), strict=True):
                found[path] = result
                bar.update()
    return found


def repeated(splits: Mapping[str, Sequence[Path]], prints: Mapping[Path, Fingerprint]) -> Iterator[Problem]:
    """Pictures that are there twice, within a split or in two of them.

    Parameters
    ----------
    splits : mapping of name to paths
        Those of training first: what a later split shares with an earlier one is reported there.
    prints : mapping of path to Fingerprint
        Paths that are not in it are passed over.
    """
    first: dict[bytes, tuple[str, Path]] = {}
    for split, paths in splits.items():
        for path in paths:
            if path not in prints:
                continue
            mine = prints[path]
            if mine.pixels not in first:
                first[mine.pixels] = split, path
                continue
            earlier, other = first[mine.pixels]
            what = "bytes" if prints[other].content == mine.content else "pixels"
            reason = f"the same {what} as {other}" if other != path else f"the same file as in {earlier}"
            kind = TWICE if earlier == split else SHARED
            yield Problem("error", kind, split, str(path), "", reason)


def lookalikes(splits: Mapping[str, Sequence[Path]], prints: Mapping[Path, Fingerprint]) -> Iterator[Problem]:
    """Pictures that look like one of an earlier split, but are not the same; arguments as for `repeated`."""
    for earlier, later in combinations(splits, 2):
        known = [path for path in splits[earlier] if path in prints]
        looks = np.array([prints[path].look for path in known], np.int16).reshape(-1, SIDE * SIDE)
        order = np.argsort(looks.mean(axis=1), kind="stable")
        looks, bright = looks[order], looks.mean(axis=1)[order]
        exact = {prints[path].pixels for path in known}
        for path in splits[later]:
            if path not in prints or prints[path].pixels in exact:
                continue
            look = prints[path].look.astype(np.int16)
            middle = int(np.searchsorted(bright, look.mean()))
            low, high = np.searchsorted(bright, [look.mean() - ALIKE, look.mean() + ALIKE])
            low, high = max(low, middle - CANDIDATES // 2), min(high, middle + CANDIDATES // 2)
            if low == high:
                continue
            differences = np.abs(looks[low:high] - look).mean(axis=1)
            best = int(differences.argmin())
            if differences[best] <= min(ALIKE, look.std() / CONTRAST):
                like = known[order[low + best]]
                reason = f"like {like}, mean difference {differences[best]:.1f} levels"
                yield Problem("hint", SIMILAR, later, str(path), "", reason)

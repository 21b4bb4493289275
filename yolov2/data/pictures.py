"""From picture files to upright RGB: JPEGs by simplejpeg where it is installed, all others by Pillow.

A file may come from a stranger: its header is read first, and a picture beyond Pillow's limit
(``PIL.Image.MAX_IMAGE_PIXELS``, doubled) is refused before a byte of it is decoded.
"""

import os
import struct
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import ExifTags, Image
from PIL.Image import Transpose

from yolov2.data.stb import decode_jpeg

# What Pillow raises on a broken picture: OSError (truncated, not a picture), SyntaxError (bad PNG chunk) ...
BROKEN = (OSError, SyntaxError, ValueError, MemoryError, Image.DecompressionBombError)
# what is opened, whatever a file calls itself: Pillow would run Ghostscript for PostScript
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")
Image.init()  # or Pillow does not know all of them yet
# EXIF orientation 1 is upright already
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
JPEG = ("JPEG", "MPO")
LARGEST_FILE = 256 << 20  # bytes of a JPEG that are read at once; Pillow reads larger ones bit by bit


@cache
def simplejpeg() -> ModuleType | None:
    """The module, or None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def read_pixels(path: Path) -> np.ndarray:
    """The pixels of a picture file, turned as its EXIF orientation says.

    simplejpeg and Pillow both bring libjpeg-turbo and give the same pixels; the former hands them out without
    a copy, in 2/3 of the time.

    Parameters
    ----------
    path : Path
        See `open_upright`.

    Returns
    -------
    ndarray, uint8 (H, W, 3)
        RGB.

    Raises
    ------
    OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError
        `BROKEN`: if the file is missing, truncated or no picture.
    """
    with Image.open(path, formats=FORMATS) as file:
        pixels = None if _by_stb(file) else _decode(file, path)
        if pixels is not None:
            turn = _turn(file)
            return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
    return np.asarray(open_upright(path))


def _decode(file: Image.Image, path: Path) -> np.ndarray | None:
    """The pixels of a colour JPEG, not turned; None if it is something else or not in order."""
    library = simplejpeg()
    if library is None or file.format not in JPEG or file.mode != "RGB":
        return None
    if path.stat().st_size > LARGEST_FILE:
        return None
    data = path.read_bytes()
    try:
        height, width, *_ = library.decode_jpeg_header(data)
        # Pillow has checked this size; were there two of them in the file, it should not be the other
        return library.decode_jpeg(data, "RGB") if (width, height) == file.size else None
    except ValueError:  # also on what libjpeg only warns of: let Pillow judge
        return None


def open_upright(path: Path, small: bool = False) -> Image.Image:
    """The RGB picture of a file, turned as its EXIF orientation says: a phone writes what its sensor saw.

    Parameters
    ----------
    path : Path
        Opened by its content: a PNG that calls itself .jpg opens all the same. JPEGs are decoded as Darknet
        does if the environment says ``YOLOV2_DECODER=stb``, see `yolov2.data.stb`.
    small : bool
        Decode a JPEG at an eighth of its size. That too reads every byte, but is quicker.

    Raises
    ------
    OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError
        `BROKEN`: if the file is missing, truncated or no picture.
    """
    with Image.open(path, formats=FORMATS) as file:
        if small:
            file.draft("RGB", (1, 1))
        turn = _turn(file)
        picture = decode_jpeg(path) if _by_stb(file) and not small else as_rgb(file)
    picture.info.clear()  # it is upright now: nobody shall turn it again
    return picture if turn is None else picture.transpose(turn)


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB. Pillow itself turns 16-bit grey white where it is brighter than 255."""
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) // 257).astype(np.uint8))
    return picture.convert("RGB")


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) of `open_upright`'s picture in pixels, by the file's header alone; raises `BROKEN`."""
    with Image.open(path, formats=FORMATS) as file:
        swapped = _turn(file) in [TURNS[orientation] for orientation in (5, 6, 7, 8)]
        return file.size[::-1] if swapped else file.size


def _by_stb(file: Image.Image) -> bool:
    return os.environ.get("YOLOV2_DECODER") == "stb" and file.format in JPEG


def _turn(file: Image.Image) -> Transpose | None:
    """What turns a picture that was opened but not yet decoded upright; None if nothing need be done."""
    if file.format == "TIFF":  # Pillow itself turns it
        return None
    try:
        # The base class's method: a PNG's own would decode the picture.
        return TURNS.get(Image.Image.getexif(file).get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, struct.error):  # a picture with damaged EXIF is still a picture
        return None

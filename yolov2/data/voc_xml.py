"""Pascal VOC's .xml of one picture, read without building what it describes.

Expat calls back for every tag, and only the few texts that count are kept. A file that declares a document
type is refused, as that is where entities (bombs, contents of other files) come from. No tool writes one.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from yolov2.data.boxes import Corners
from yolov2.data.files import LABEL_BYTES, is_name, read_bytes

DEEPEST = 50  # tags in tags; a VOC file has five
SIDES = ("xmin", "ymin", "xmax", "ymax")
OF_FILE = {"size/width", "size/height", "source/database"}
OF_OBJECT = {f"object/{tag}" for tag in ("name", "difficult", *(f"bndbox/{side}" for side in SIDES))}


class XmlError(ValueError):
    """What is wrong with an .xml, with its line."""


@dataclass(frozen=True)
class Object:
    """One object; `line` is that of its tag. Corners in pixels, NaN where they are missing or no numbers. A
    name that is no one line of text is empty.
    """

    line: int
    name: str
    difficult: bool
    corners: Corners


@dataclass(frozen=True)
class Annotation:
    """The content of one .xml; 0 for a size that is missing."""

    objects: list[Object]
    width: int
    height: int
    database: str


def read_xml(path: Path) -> Annotation:
    """Read one .xml.

    Raises
    ------
    XmlError
        If it is no XML, declares a document type, or is nested too deeply.
    UserError
        If it cannot be read, or is too large.
    """
    data = read_bytes(path, LABEL_BYTES)
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise XmlError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    except XmlError:
        raise
    except (LookupError, ValueError) as error:
        raise XmlError(f"line 1: {error}") from None  # of its encoding
    texts = reader.texts
    width, height = (_number(texts.get(f"size/{side}", "")) for side in ("width", "height"))
    return Annotation(
        reader.objects,
        int(width) if math.isfinite(width) else 0,
        int(height) if math.isfinite(height) else 0,
        texts.get("source/database", "").strip(),
    )


class _Reader:
    """What of the parser's tags and texts counts; of equal tags the first."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.objects: list[Object] = []
        self.texts: dict[str, str] = {}
        self._tags: list[str] = []  # open ones
        self._object: dict[str, str] = {}
        self._line = 0
        self._text: list[str] = []

    def _doctype(self, *_: object) -> None:
        raise XmlError(f"line {self.parser.CurrentLineNumber}: declares a document type")

    def _start(self, tag: str, _: dict[str, str]) -> None:
        self._tags.append(tag)
        self._text.clear()
        if len(self._tags) > DEEPEST:
            raise XmlError(f"line {self.parser.CurrentLineNumber}: more than {DEEPEST} tags in tags")
        if self._tags[1:] == ["object"]:
            self._object, self._line = {}, self.parser.CurrentLineNumber

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, _: str) -> None:
        key = "/".join(self._tags[1:])
        if key in OF_FILE:
            self.texts.setdefault(key, "".join(self._text))
        elif key in OF_OBJECT:
            self._object.setdefault(key, "".join(self._text))
        elif key == "object":
            self.objects.append(self._finished())
        self._tags.pop()
        self._text.clear()

    def _finished(self) -> Object:
        text = self._object
        xmin, ymin, xmax, ymax = (_number(text.get(f"object/bndbox/{side}", "")) for side in SIDES)
        name = text.get("object/name", "").strip()
        name = name if is_name(name) else ""
        difficult = text.get("object/difficult", "").strip().lower() in ("1", "true")
        return Object(self._line, name, difficult, (xmin, ymin, xmax, ymax))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

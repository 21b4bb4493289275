"""Whatever pictures come from, as one stream of RGB frames: files, folders, arrays, tensors, videos, cameras.

Frames are made when they are asked for, and nothing is kept. Videos, cameras and streams need OpenCV (the
extra ``video``), which is imported when the first of them is named.
"""

import glob
import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from yolov2.data.dataset import BROKEN, TURNS, as_rgb, open_upright
from yolov2.errors import Complaints, UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
VIDEO_SUFFIXES = {
    ".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".mjpg", ".mjpeg",
}  # fmt: skip
STREAM_SCHEMES = {"rtsp", "rtsps", "rtmp", "rtmps", "udp", "tcp"}
ACCEPTED = (
    "a path of a picture, video, folder or .txt list, a glob pattern, a stream's URL, a camera's number, "
    "a PIL image, a uint8 array (H, W, 3), a tensor (3, H, W), a batch of either, or a list of these"
)

Picture = Image.Image | np.ndarray
Pictures = Generator[Picture, None, None]
Order = Literal["rgb", "bgr"]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of a source.

    Parameters
    ----------
    picture : PIL.Image.Image or ndarray, uint8 (H, W, 3)
        RGB, upright.
    path : str
        The file or URL it came from; "camera0" of a camera, "image3" of the fourth frame if it is in no file.
    index : int
        0, 1, 2, ... through the whole source; of a single video, the frame's number.
    """

    picture: Picture
    path: str
    index: int


@dataclass(frozen=True)
class _Part:
    """Pictures that come from one place, made by `frames` as they are asked for."""

    frames: Callable[[], Pictures]
    count: int | None = 1  # None is not known
    path: str = ""


@dataclass(frozen=True)
class Source:
    """Frames of whatever `open_source` was given. Iterating opens it, anew every time.

    ``len(source)`` is `count`; of a source that streams it raises TypeError.
    """

    parts: Sequence[_Part]
    complaints: Complaints | None = None

    @property
    def count(self) -> int | None:
        """Number of frames, broken pictures included; None if a video, stream or camera is among them.

        A video's file does say how many frames it has, but that is a guess.
        """
        counts = [part.count for part in self.parts]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def streaming(self) -> bool:
        """Whether a video, stream or camera is among them: there may be many frames, or no end of them."""
        return self.count is None

    def __len__(self) -> int:
        if self.count is None:
            raise TypeError("a video or stream has no length")
        return self.count

    def __bool__(self) -> bool:
        return self.count != 0

    def __iter__(self) -> Iterator[Frame]:
        """The frames in order.

        A video or camera is released when its frames are exhausted, the iterator is closed or anything fails.

        Raises
        ------
        UserError
            If a single picture or video cannot be read, or, at the end, if none of several could.
        """
        complaints = Complaints() if self.complaints is None else self.complaints
        index, broken, example = 0, 0, ""
        for part in self.parts:
            with closing(part.frames()) as pictures:
                while True:
                    path = part.path or f"image{index}"
                    try:
                        picture = next(pictures, None)
                    except BROKEN as error:
                        kind = "video" if part.count is None else "picture"
                        if len(self.parts) == 1:
                            raise UserError(f"{path}: cannot be read as a {kind} ({error})") from error
                        complaints.add(f"{kind}s cannot be read and were left out", path)
                        broken, example = broken + 1, example or path
                        break
                    if picture is None:
                        break
                    yield Frame(picture, path, index)
                    index += 1
        if self.complaints is None:
            complaints.report()
        if broken and index == 0:
            raise UserError(f"all {broken} files, e.g. {example}: cannot be read as pictures or videos")


def open_source(source: Any, order: Order = "rgb", complaints: Complaints | None = None) -> Source:
    """Anything that holds pictures, as a stream of RGB frames.

    Parameters
    ----------
    source : str, Path, int, array, tensor, PIL.Image.Image, or a list or tuple of these
        - a picture's file, whatever its suffix;
        - a folder, searched for pictures with everything below it;
        - a glob pattern, ``"*.jpg"`` or ``"clips/**/*.mp4"``: of what matches, the pictures and videos;
        - a ``.txt`` file of paths, one a line, relative to that file;
        - a video's file (needs ``pip install "yolov2[video]"``, as do the next two);
        - a stream: ``rtsp://``, ``rtmp://``, or ``http(s)://`` of an ``.m3u8`` or of a video;
        - a camera: 0, 1, ... or ``"0"``;
        - ndarray, uint8 (H, W, 3), (H, W, 4) with alpha, which is dropped, or (H, W), which is grey;
          a batch is (B, H, W, 3) or (B, H, W, 4);
        - Tensor (3, H, W) or (B, 3, H, W), RGB, uint8 or floats in [0, 1], on any device;
        - PIL.Image.Image, turned as its EXIF orientation says;
        - a list or tuple of any of these.
    order : {"rgb", "bgr"}
        Channels of the arrays; "bgr" is what ``cv2.imread`` gives. Nothing else is asked: everything but an
        array knows its own.
    complaints : Complaints, optional
        Counts the broken files of folders, patterns and lists, which are left out. Without it they are
        reported on stderr when all is read.

    Returns
    -------
    Source
        Iterable, of `Frame`.

    Raises
    ------
    UserError
        If a file is missing, a folder or pattern yields nothing, a URL is of another kind, or OpenCV is
        needed and missing. A broken file is found out when it is read, see `Source`.
    TypeError
        If the source or the numbers in it are of another type.
    ValueError
        If an array or tensor is of another shape or range, or the order is unknown.
    """
    if order not in ("rgb", "bgr"):
        raise ValueError(f'order {order!r}: "rgb" or "bgr"')
    return Source(_parts(source, order), complaints)


def find_pictures(sources: Sequence[Path]) -> list[Path]:
    """The picture files named by `sources`; folders are searched with everything below them.

    Raises
    ------
    UserError
        If a source does not exist or nothing is found.
    """
    found: list[Path] = []
    for source in sources:
        if source.is_dir():
            found += sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        elif source.is_file():
            found.append(source)
        else:
            raise UserError(f"{source}: no such picture or folder")
    if not found:
        raise UserError(f"{sources[0]}: holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return found


def _parts(source: Any, order: Order) -> list[_Part]:
    match source:
        case list() | tuple():
            return [part for one in source for part in _parts(one, order)]
        case Image.Image():
            return [_Part(partial(_image, source), path=str(getattr(source, "filename", "")))]
        case np.ndarray():
            return [_array_part(source, order)]
        case Tensor():
            return [_tensor_part(source)]
        case bool():
            raise TypeError(f"a source is not a bool, but {ACCEPTED}")
        case int() | np.integer():
            return [_camera_part(int(source))]
        case str() if source.isdecimal():
            return [_camera_part(int(source))]
        case str() if "://" in source:
            return [_stream_part(source)]
        case str() | Path():
            return _path_parts(source)
    raise TypeError(f"a source is not a {type(source).__name__}, but {ACCEPTED}")


def _path_parts(source: str | Path) -> list[_Part]:
    path = Path(source)
    if not str(source):
        raise UserError("the source is an empty string; '.' is the current folder")
    if path.is_dir():
        return [_file_part(p) for p in find_pictures([path])]
    if path.is_file():
        return _listed(path) if path.suffix.lower() == ".txt" else [_file_part(path)]
    if set(str(source)) & set("*?["):
        matches = (Path(p) for p in sorted(glob.glob(str(source), recursive=True)))
        known = SUFFIXES | VIDEO_SUFFIXES
        found = [_file_part(p) for p in matches if p.suffix.lower() in known and p.is_file()]
        if not found:
            raise UserError(f"{source}: matches no picture or video")
        return found
    raise UserError(f"{source}: no such picture, video or folder")


def _listed(path: Path) -> list[_Part]:
    """What a text file names."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of paths ({error})") from None
    parts = []
    for number, line in enumerate(lines, start=1):
        if name := line.strip():
            file = path.parent / name
            if not file.is_file():
                raise UserError(f"{path}:{number}: {name}: no such picture or video")
            parts.append(_file_part(file))
    if not parts:
        raise UserError(f"{path}: names no pictures; a list has one path a line")
    return parts


def _file_part(path: Path) -> _Part:
    if path.suffix.lower() in VIDEO_SUFFIXES:
        _cv2()
        return _Part(partial(_capture, str(path)), None, str(path))
    return _Part(partial(_upright_file, path), path=str(path))


def _camera_part(number: int) -> _Part:
    if number < 0:
        raise ValueError(f"camera {number}: cameras are numbered from 0")
    _cv2()
    return _Part(partial(_capture, number), None, f"camera{number}")


def _stream_part(url: str) -> _Part:
    parts = urlsplit(url)
    scheme, suffix = parts.scheme.lower(), Path(parts.path).suffix.lower()
    if scheme not in STREAM_SCHEMES and (
        scheme not in ("http", "https") or suffix not in VIDEO_SUFFIXES | {".m3u8"}
    ):
        raise UserError(
            f"{url}: not the URL of a stream (rtsp://, rtmp://, http://....m3u8); pictures are not fetched "
            "from the web: download it and give the file"
        )
    _cv2()
    return _Part(partial(_capture, url), None, url)


def _array_part(array: np.ndarray, order: Order) -> _Part:
    form = "an array of pictures is uint8 (H, W, 3), (H, W, 4), (H, W) or a batch (B, H, W, 3)"
    if array.dtype != np.uint8:
        raise TypeError(f"{form}, got {array.dtype}")
    grey = array.ndim == 2
    if not (grey or (array.ndim in (3, 4) and array.shape[-1] in (3, 4))):
        first = array.ndim in (3, 4) and array.shape[-3] in (3, 4)
        hint = "; move the channels last: np.moveaxis(array, -3, -1)" if first else ""
        raise ValueError(f"{form}, got {array.shape}{hint}")
    batch = array if array.ndim == 4 else array[None]
    _not_empty(batch.shape[1:3], batch.shape)
    return _Part(partial(_rows, batch, order), len(batch))


def _tensor_part(tensor: Tensor) -> _Part:
    form = "a tensor of pictures is uint8 or floats in [0, 1], (3, H, W) or (B, 3, H, W), RGB"
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise TypeError(f"{form}, got {tensor.dtype}")
    if tensor.ndim not in (3, 4) or tensor.shape[-3] != 3:
        last = tensor.ndim in (3, 4) and tensor.shape[-1] == 3
        hint = "; move the channels: tensor.movedim(-1, -3)" if last else ""
        raise ValueError(f"{form}, got {tuple(tensor.shape)}{hint}")
    batch = tensor.detach() if tensor.ndim == 4 else tensor.detach()[None]
    _not_empty(batch.shape[2:], batch.shape)
    if batch.is_floating_point() and len(batch):
        low, high = (float(v) for v in batch.aminmax())
        # resizing may overshoot a little, and rounding forgives half a grey level; NaN is refused too
        if not (low > -0.5 / 255 and high < 1 + 0.5 / 255):
            raise ValueError(f"{form}, got values from {low:g} to {high:g}; divide by 255?")
    return _Part(partial(_planes, batch), len(batch))


def _not_empty(size: Sequence[int], shape: Sequence[int]) -> None:
    if 0 in size:
        raise ValueError(f"a picture has pixels, got {tuple(shape)}")


def _upright_file(path: Path) -> Pictures:
    yield _without_exif(open_upright(path))


def _image(image: Image.Image) -> Pictures:
    image.load()  # a TIFF turns itself now, if ever
    try:
        turn = TURNS.get(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except (SyntaxError, ValueError, struct.error):  # a picture with damaged EXIF is still a picture
        turn = None
    picture = as_rgb(image)
    yield _without_exif(picture if turn is None else picture.transpose(turn))


def _without_exif(picture: Image.Image) -> Image.Image:
    """The same object, rid of the orientation that was heeded: whoever opens it again must not turn it."""
    picture.info.clear()
    return picture


def _rows(batch: np.ndarray, order: Order) -> Pictures:
    """The pictures of (B, H, W, 3), (B, H, W, 4) or (1, H, W); RGB ones are views, not copies."""
    for picture in batch:
        if picture.ndim == 2:
            yield np.repeat(picture[..., None], 3, 2)
        else:
            yield picture[..., :3] if order == "rgb" else np.ascontiguousarray(picture[..., 2::-1])


def _planes(batch: Tensor) -> Pictures:
    """The pictures of (B, 3, H, W)."""
    for picture in batch:
        if picture.is_floating_point():
            picture = (picture.float() * 255).round().clamp(0, 255).to(torch.uint8)
        yield picture.permute(1, 2, 0).contiguous().cpu().numpy()


def _capture(source: str | int) -> Pictures:
    """Frames of a video, stream or camera; an OSError if there is none."""
    cv2 = _cv2()
    capture = cv2.VideoCapture(source)
    try:
        number = 0
        while True:
            there, frame = capture.read() if capture.isOpened() else (False, None)
            if not there:
                break
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            number += 1
        if number == 0:
            raise OSError("OpenCV gets no frame from it")
    finally:
        capture.release()


def _cv2() -> Any:
    try:
        import cv2
    except ImportError:
        raise UserError('videos, streams and cameras need OpenCV: pip install "yolov2[video]"') from None
    return cv2

"""Pictures of mixed sizes to the network's input: resized, normalised, on a grey canvas (SPEC 14 and 8.1).

`pack` puts the bytes of a batch and a table of their places into one buffer, which goes to the GPU in one
copy: a byte for every three or four that normalised pixels would take. `letterbox_packed` makes the input
there, with one launch for the whole batch.
"""

from collections.abc import Sequence
from ctypes import c_float
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from fast._launch import DTYPES, operator, use_triton
from fast.image import resize

Size = tuple[int, int]
Mode = Literal["letterbox", "stretch"]

GREY = 0.5  # what the canvas is filled with


class Placement(NamedTuple):
    """Where a picture lies on the network's input, in pixels of that."""

    width: int
    height: int
    x: int  # left edge
    y: int  # upper edge


class Packed(NamedTuple):
    """A batch of pictures in one buffer, bound for an input of one size."""

    #: (N,) uint8: the table as bytes, then picture after picture; may be longer than they need
    buffer: Tensor
    pictures: int  # B
    width: int  # of the input, in pixels
    height: int

    @property
    def table(self) -> Tensor:
        """(B, 7) int64 view of the buffer: where a picture starts in it; its height, width and placement."""
        return _table(self.buffer, self.pictures)

    def to(self, device: torch.device | str) -> "Packed":
        """The batch on another device; from pinned memory without waiting for the copy."""
        return self._replace(buffer=self.buffer.to(device, non_blocking=True))


FIELDS = 3 + len(Placement._fields)  # of a row of the table


def _table(buffer: Tensor, pictures: int) -> Tensor:
    return buffer[: pictures * FIELDS * 8].view(torch.int64).view(pictures, FIELDS)


def letterbox_size(picture: Size, network: Size) -> Size:
    """Size that a picture has inside a letterbox: as large as fits, aspect ratio kept (SPEC 8.1).

    Parameters
    ----------
    picture, network : (width, height)
        In pixels.

    Returns
    -------
    (width, height)
        In pixels of the network's input; the free side is rounded down, but a line keeps one pixel of it
        (the oracle refuses lines).
    """
    (w, h), (net_w, net_h) = picture, network
    # as the original compares: a quotient of float64 rounded to float32 is float32's own quotient
    if c_float(net_w / w).value < c_float(net_h / h).value:
        return net_w, max(1, h * net_w // w)
    return max(1, w * net_h // h), net_h


def placement(picture: Size, network: Size, mode: Mode = "letterbox") -> Placement:
    """Size and place of a picture on the network's input (SPEC 14).

    Parameters
    ----------
    picture, network : (width, height)
        In pixels.
    mode : {"letterbox", "stretch"}
        "stretch" fills the input and lets the aspect change, as Darknet did until March 2017.

    Returns
    -------
    Placement
        In the middle; an odd pixel of margin goes to the right or below.

    Raises
    ------
    ValueError
        If a size is not positive or the mode is unknown.
    """
    if min(*picture, *network) < 1:
        shapes = "a {}x{} picture on a {}x{} input".format(*picture, *network)
        raise ValueError(f"{shapes}: sizes must be positive")
    if mode not in get_args(Mode):
        raise ValueError(f"mode: {mode!r} is not one of {', '.join(get_args(Mode))}")
    w, h = network if mode == "stretch" else letterbox_size(picture, network)
    return Placement(w, h, (network[0] - w) // 2, (network[1] - h) // 2)


def pack(
    pictures: Sequence[Tensor], width: int, height: int, mode: Mode = "letterbox", pin: bool = False
) -> Packed:
    """Put pictures of any sizes into one buffer.

    Parameters
    ----------
    pictures : sequence of Tensor, uint8 (H, W, 3)
        RGB, any strides, on one device.
    width, height : int
        Size of the network's input, in pixels.
    mode : {"letterbox", "stretch"}
        See `placement`.
    pin : bool
        Into pinned host memory, from which a GPU copies while the host goes on.

    Returns
    -------
    Packed
        On the device of the pictures.

    Raises
    ------
    ValueError
        If a picture is of another kind, or `placement` refuses its size or the mode.
    """
    rows, end = [], len(pictures) * FIELDS * 8
    for p in pictures:
        _check(p)
        rows.append(
            [end, p.shape[0], p.shape[1], *placement((p.shape[1], p.shape[0]), (width, height), mode)]
        )
        end += p.numel()
    device = pictures[0].device if pictures else None
    buffer = torch.empty(end, dtype=torch.uint8, device=device, pin_memory=pin)
    packed = Packed(buffer, len(pictures), width, height)
    if pictures:
        packed.table.copy_(torch.tensor(rows))
    for p, (start, *_) in zip(pictures, rows, strict=True):
        buffer[start : start + p.numel()].view(p.shape).copy_(p)
    return packed


def letterbox_packed(
    packed: Packed, dtype: torch.dtype = torch.float32, channels_last: bool = False
) -> Tensor:
    """The network's input for a batch of pictures.

    On a GPU nothing waits for the host: into a CUDA graph goes a call with a buffer long enough for any
    batch, and before a replay the next batch's buffer is copied to its beginning.

    Parameters
    ----------
    packed : Packed
        From `pack`, on any device.
    dtype : torch.dtype
        float32, float16 or bfloat16. The arithmetic is float32, rounded once.
    channels_last : bool
        Memory layout of the result.

    Returns
    -------
    Tensor (B, 3, height, width)
        Values in [0, 1], planes in the order R, G, B.

    Raises
    ------
    ValueError
        If the dtype is another one.
    """
    _check_dtype(dtype)
    return _letterbox(packed.buffer, packed.pictures, packed.width, packed.height, dtype, channels_last)


def letterbox(
    image: Tensor,
    width: int,
    height: int,
    mode: Mode = "letterbox",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The network's input for one picture; `letterbox_packed` makes many at once.

    Parameters
    ----------
    image : Tensor, uint8 (H, W, 3)
        RGB, any strides.
    width, height : int
        Size of the network's input, in pixels.
    mode, dtype
        See `pack` and `letterbox_packed`, also for what is raised.

    Returns
    -------
    Tensor (3, height, width)
        Values in [0, 1], row-major.
    """
    if use_triton(image):
        return letterbox_packed(pack([image], width, height, mode), dtype)[0]
    _check(image)
    _check_dtype(dtype)
    canvas = torch.empty(3, height, width, device=image.device)
    _draw(canvas, image, placement((image.shape[1], image.shape[0]), (width, height), mode))
    return canvas.to(dtype)


def draw_letterbox(canvas: Tensor, image: Tensor, mode: Mode = "letterbox") -> None:
    """The network's input for one picture, written where it will be read; in torch, for CPUs.

    Parameters
    ----------
    canvas : Tensor, float32 (3, height, width)
        Of any strides, for example a picture of a batch with channels last.
    image : Tensor, uint8 (H, W, 3)
        RGB, any strides.
    mode : {"letterbox", "stretch"}
        See `placement`, also for what is raised.

    Raises
    ------
    ValueError
        If the picture is of another kind.
    """
    _check(image)
    _draw(
        canvas, image, placement((image.shape[1], image.shape[0]), (canvas.shape[2], canvas.shape[1]), mode)
    )


def _check(image: Tensor) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8:
        raise ValueError(f"a picture is uint8 (H, W, 3), got {image.dtype} {tuple(image.shape)}")


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype} is not one of {', '.join(map(str, DTYPES))}")


def _draw(canvas: Tensor, image: Tensor, place: Placement) -> None:
    """One picture in torch, on a float32 canvas (3, height, width)."""
    w, h, x, y = place
    canvas.fill_(GREY)
    picture = image.permute(2, 0, 1).float()  # its channels still lie together: `resize` is quick on that
    torch.mul(resize(picture, w, h), 1 / 255, out=canvas[:, y : y + h, x : x + w])


@operator("yolov2::letterbox")
def _letterbox(
    buffer: Tensor, pictures: int, width: int, height: int, dtype: torch.dtype, channels_last: bool
) -> Tensor:
    shape = pictures, 3, height, width
    if use_triton(buffer):
        from fast.kernels.letterbox import letterbox as kernel

        return kernel(buffer, _table(buffer, pictures), shape, dtype, channels_last, GREY)
    out = torch.empty(shape, device=buffer.device, memory_format=_layout(channels_last))
    for canvas, (start, H, W, *place) in zip(out, _table(buffer, pictures).tolist(), strict=True):
        _draw(canvas, buffer[start : start + H * W * 3].view(H, W, 3), Placement(*place))
    return out.to(dtype)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


@_letterbox.register_fake
def _(buffer, pictures, width, height, dtype, channels_last):
    shape, layout = (pictures, 3, height, width), _layout(channels_last)
    return torch.empty(shape, dtype=dtype, device=buffer.device, memory_format=layout)

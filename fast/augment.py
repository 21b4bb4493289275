"""Training pictures of a detector from pictures that lie on the GPU already (SPEC 14 and 15).

Decoded pictures of a data set stay in one buffer of bytes. `augment` makes a batch of them there with one
launch: each is placed on a grey canvas, recoloured with it and mirrored, as chance has decided on the host.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from fast._launch import DTYPES, operator, use_triton

GREY = 0.5  # what the canvas is filled with, before its colours change
CLASSIFICATION_ONLY = 999999.0  # in all four box fields: the picture has a class but no box (SPEC 6)
SMALLEST = 0.001  # truths narrower or lower than this fraction of the picture are dropped


class Placed(NamedTuple):
    """A row of the table: where a picture lies in the buffer, and what becomes of it.

    It is transposed, placed, recoloured with its canvas and mirrored, in this order.
    """

    start: int  # its first byte in the buffer; bytes R G B of pixel after pixel, row after row
    rows: int  # of the picture, at least 1
    columns: int
    width: int  # on the canvas in pixels, of the transposed picture if it is transposed
    height: int
    x: int  # left edge on the canvas in pixels; may be negative
    y: int  # upper edge
    mirror: bool = False  # left to right
    flip_vertical: bool = False  # upside down
    transpose: bool = False  # rows of the picture become columns


def augment(
    buffer: Tensor,
    table: Tensor,
    colour: Tensor,
    width: int,
    height: int,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Tensor:
    """A batch of training pictures. On a GPU nothing waits for the host.

    Parameters
    ----------
    buffer : Tensor, uint8 (N,)
        Pictures, anywhere in it.
    table : Tensor, int64 (B, 10)
        Rows are `Placed`; on the device of the buffer, like `colour`. A GPU does not check whether a row
        names bytes outside of the buffer.
    colour : Tensor, float32 (B, 3)
        Hue in turns, [-1, 1], to be added; factors of saturation and value (SPEC 14). 0, 1, 1 changes
        nothing.
    width, height : int
        Size of the canvas, the network's input, in pixels.
    dtype : torch.dtype
        float32, float16 or bfloat16. The arithmetic is float32, rounded once.
    channels_last : bool
        Memory layout of the result.

    Returns
    -------
    Tensor (B, 3, height, width)
        Values in [0, 1], planes in the order R, G, B. What Darknet computes, but for pixels whose hue is
        rounded to exactly 1: it turns those magenta, this leaves them red.

    Raises
    ------
    ValueError
        If a tensor is of another kind or the dtype is another one.
    """
    wanted = {"buffer": (buffer, torch.uint8, 1), "table": (table, torch.int64, 2)}
    for name, (x, kind, dims) in (wanted | {"colour": (colour, torch.float32, 2)}).items():
        if x.dtype != kind or x.ndim != dims or not x.is_contiguous():
            raise ValueError(f"{name}: {kind} of {dims} dims is needed, got {x.dtype} {tuple(x.shape)}")
    if table.shape[1] != len(Placed._fields) or colour.shape != (table.shape[0], 3):
        shapes = f"table {tuple(table.shape)}, colour {tuple(colour.shape)}"
        raise ValueError(f"{shapes}: (B, {len(Placed._fields)}) and (B, 3) are needed")
    if dtype not in DTYPES:
        raise ValueError(f"dtype: {dtype} is not one of {', '.join(map(str, DTYPES))}")
    return _augment(buffer, table, colour, width, height, dtype, channels_last)


def detection_example(
    image: Tensor,
    labels: Tensor,
    draws: Any,
    width: int,
    height: int,
    *,
    jitter: float = 0.3,
    hue: float = 0.1,
    saturation: float = 1.5,
    exposure: float = 1.5,
    max_labels: int = 30,
) -> tuple[Tensor, Tensor]:
    """One training picture of a detector, with its truths (SPEC 15, steps 2-6); `augment` makes many at once.

    Parameters
    ----------
    image : Tensor, uint8 (H, W, 3)
        The source picture, RGB.
    labels : Tensor, float32 (N, 5)
        class, cx, cy, w, h as fractions of it.
    draws : reference.augment.Draws
        Consumed as the oracle does.
    width, height, jitter, hue, saturation, exposure, max_labels
        As for the oracle.

    Returns
    -------
    picture : Tensor, float32 (3, height, width)
    truth : Tensor, float32 (max_labels, 5)
        cx, cy, w, h as fractions of the picture, class; unused rows are zero.
    """
    h, w, _ = image.shape
    numerator = w + draws.uniform(-jitter * w, jitter * w)
    aspect = numerator / (h + draws.uniform(-jitter * h, jitter * h))
    new_w, new_h = (height * aspect, height) if aspect < 1 else (width, width / aspect)
    dx, dy = draws.uniform(0, width - new_w), draws.uniform(0, height - new_h)
    colour = draws.uniform(-hue, hue), draws.factor(saturation), draws.factor(exposure)
    row = Placed(0, h, w, int(new_w), int(new_h), int(dx), int(dy), draws.parity())
    table, shades = torch.tensor([row]).to(image.device), torch.tensor([colour]).to(image.device)
    picture = augment(image.reshape(-1), table, shades, width, height)[0]

    order = list(range(len(labels)))
    for i in range(len(labels)):
        j = draws.integer(len(labels))
        order[i], order[j] = order[j], order[i]
    label, centre, size = labels[order][:max_labels].split([1, 2, 2], 1)
    scale, shift = (
        labels.new_tensor([new_w / width, new_h / height]),
        labels.new_tensor([dx / width, dy / height]),
    )
    low, high = (centre - size / 2) * scale + shift, (centre + size / 2) * scale + shift
    if row.mirror:
        low[:, 0], high[:, 0] = 1 - high[:, 0], 1 - low[:, 0]
    low, high = low.clamp(0, 1), high.clamp(0, 1)
    boxes = torch.cat([(low + high) / 2, high - low], 1)
    boxes[(centre == 0).all(1)] = CLASSIFICATION_ONLY
    kept = torch.cat([boxes, label], 1)[(boxes[:, 2:] >= SMALLEST).all(1)]
    return picture, pad(kept, (0, 0, 0, max_labels - len(kept)))


def _visible(start: int, size: int, most: int) -> slice:
    """What lies on a canvas of `most` pixels."""
    return slice(max(0, start), max(0, start, min(start + size, most)))


def _sample(image: Tensor, at: Placed, down: slice, across: slice) -> Tensor:
    """Levels (3, rows, columns) of a picture (H, W, 3) at these pixels of the canvas."""
    H, W, _ = image.shape
    x, y = (
        torch.arange(part.start - start, part.stop - start, device=image.device).float() * (n / max(size, 1))
        for part, start, size, n in ((across, at.x, at.width, W), (down, at.y, at.height, H))
    )
    left, upper = x.long().clamp(max=W - 1), y.long().clamp(max=H - 1)
    dx, dy = (x - left)[:, None], (y - upper)[:, None, None]
    image = pad(image, (0, 0, 0, 1, 0, 1))  # behind the last column and row everything is zero
    rows = image[upper].float().lerp(image[upper + 1].float(), dy)
    return rows[:, left].lerp(rows[:, left + 1], dx).permute(2, 0, 1).contiguous()


def _distort(rgb: Tensor, hue: float, saturation: float, exposure: float) -> Tensor:
    """Change colours (3, ...) as by way of HSV, without a division; `exposure` may scale them besides.

    A channel lies below the largest one by as much as its distance on the hue circle says, between nothing
    and `spread`. With hues in sextants times `spread` the distance needs no quotient, a grey none of its own.
    Unlike Darknet's, a red whose hue was rounded up to 1 stays red.
    """
    r, g, b = rgb
    most = rgb.amax(0)
    spread = most - rgb.amin(0)
    circle = 6 * spread
    sector = torch.where(r == most, g - b, torch.where(g == most, 2 * spread + (b - r), 4 * spread + (r - g)))
    turned = torch.where(sector < 0, sector + circle, sector) + 6 * hue * spread
    turned = torch.where(turned > circle, turned - circle, torch.where(turned < 0, turned + circle, turned))
    fall = torch.stack(
        [
            2 * spread - (turned - 3 * spread).abs(),
            (turned - 2 * spread).abs() - spread,
            (turned - 4 * spread).abs() - spread,
        ]
    ).clamp_(min=0)
    fall = torch.minimum(fall, spread)
    return ((most - saturation * fall) * exposure).clamp_(0, 1)


def _draw(canvas: Tensor, buffer: Tensor, at: Placed, colour: list[float]) -> None:
    """One picture in torch, on a float32 canvas (3, height, width)."""
    hue, saturation, exposure = colour
    image = buffer[at.start : at.start + at.rows * at.columns * 3].view(at.rows, at.columns, 3)
    if at.transpose:
        image = image.transpose(0, 1)
    _, height, width = canvas.shape
    down, across = _visible(at.y, at.height, height), _visible(at.x, at.width, width)
    canvas.fill_(min(GREY * exposure, 1.0))
    canvas[:, down, across] = _distort(_sample(image, at, down, across), hue, saturation, exposure / 255)
    if turned := [2] * at.mirror + [1] * at.flip_vertical:
        canvas.copy_(canvas.flip(turned))


@operator("yolov2::augment")
def _augment(
    buffer: Tensor,
    table: Tensor,
    colour: Tensor,
    width: int,
    height: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    shape = table.shape[0], 3, height, width
    if use_triton(buffer):
        from fast.kernels.augment import augment as kernel

        return kernel(buffer, table, colour, shape, dtype, channels_last, GREY)
    out = torch.empty(shape, device=buffer.device, memory_format=_layout(channels_last))
    for canvas, row, shades in zip(out, table.tolist(), colour.tolist(), strict=True):
        _draw(canvas, buffer, Placed(*row), shades)
    return out.to(dtype)


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


@_augment.register_fake
def _(buffer, table, colour, width, height, dtype, channels_last):
    shape, layout = (table.shape[0], 3, height, width), _layout(channels_last)
    return torch.empty(shape, dtype=dtype, device=buffer.device, memory_format=layout)

"""Pictures of detections, and sheets of such pictures."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Twenty colours far apart in hue and brightness; class 20 starts again.
PALETTE = (
    (230, 57, 70), (46, 134, 222), (38, 166, 91), (255, 159, 28), (142, 68, 173),
    (0, 188, 212), (233, 30, 140), (139, 195, 74), (121, 85, 72), (255, 214, 0),
    (63, 81, 181), (255, 112, 67), (0, 121, 107), (186, 104, 200), (158, 157, 36),
    (128, 222, 234), (183, 28, 28), (244, 164, 180), (84, 110, 122), (165, 214, 167),
)  # fmt: skip
GAP = 8  # between the tiles of a sheet, in pixels

Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
Colour = tuple[int, int, int]


def draw_detections(
    picture: Image.Image,
    boxes: np.ndarray,
    names: Sequence[str],
    classes: np.ndarray,
    scores: np.ndarray | None = None,
) -> Image.Image:
    """A copy of the picture with labelled boxes.

    Parameters
    ----------
    picture : PIL.Image.Image
        The picture, left as it is.
    boxes : array (N, 4)
        cxcywh, fractions of the picture; parts outside it are not drawn.
    names : sequence of str
        Name of every class.
    classes : array of int (N,)
        Class of every box; it also chooses the colour.
    scores : array (N,), optional
        Written after the name. The best is drawn last, on top.

    Returns
    -------
    PIL.Image.Image, mode RGB
    """
    drawn = picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
    pen = ImageDraw.Draw(drawn)
    width, height = drawn.size
    line = max(2, round(min(width, height) / 200))
    font = ImageFont.load_default(max(10, round(min(width, height) / 28)))
    boxes, classes = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(classes).reshape(-1)
    order = range(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable").tolist()

    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    corners = (corners.clip(0, 1) * [width - 1, height - 1, width - 1, height - 1]).round().astype(int)
    for i in order:
        pen.rectangle(corners[i].tolist(), outline=colour_of(classes[i]), width=line)
    for i in order:  # all tags after all boxes: no line through a word
        label = names[int(classes[i])] + ("" if scores is None else f" {float(scores[i]):.2f}")
        _tag(pen, label, corners[i].tolist(), colour_of(classes[i]), font, drawn.size)
    return drawn


def sheet(
    tiles: Sequence[Image.Image], columns: int, captions: Sequence[str] | None = None, side: int = 320
) -> Image.Image:
    """A grid of pictures, each shrunk or enlarged to fit a square of `side` pixels, with captions below.

    Parameters
    ----------
    tiles : sequence of PIL.Image.Image
        Row by row.
    columns : int
        Tiles in a row.
    captions : sequence of str, optional
        One per tile.
    side : int
        Largest width and height of a tile, in pixels.

    Returns
    -------
    PIL.Image.Image, mode RGB

    Raises
    ------
    ValueError
        If there are no tiles or no columns, or not one caption per tile.
    """
    if not tiles or columns < 1 or (captions is not None and len(captions) != len(tiles)):
        raise ValueError(
            f"{len(tiles)} tiles in {columns} columns with {'no' if captions is None else len(captions)} "
            "captions: need tiles, columns and a caption for each tile or none at all"
        )
    font = ImageFont.load_default(15)
    caption_height = 22 if captions else 0
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    fitted = [tile.resize(_fit(tile.size, side), Image.Resampling.LANCZOS) for tile in tiles]
    grid = [fitted[row * columns : (row + 1) * columns] for row in range(rows)]
    cell_w = max(tile.width for tile in fitted)
    heights = [max(tile.height for tile in row) for row in grid]
    page_h = sum(heights) + rows * (caption_height + GAP) + GAP
    page = Image.new("RGB", (columns * (cell_w + GAP) + GAP, page_h), "white")
    pen = ImageDraw.Draw(page)
    y = GAP
    for row, cell_h in enumerate(heights):
        for column, tile in enumerate(grid[row]):
            x = GAP + column * (cell_w + GAP)
            page.paste(tile, (x + (cell_w - tile.width) // 2, y + (cell_h - tile.height) // 2))
            if captions:
                caption = fitted_text(captions[row * columns + column], font, cell_w)
                middle = (x + cell_w / 2, y + cell_h + caption_height / 2 + 2)
                pen.text(middle, caption, (40, 40, 40), font, anchor="mm")
        y += cell_h + caption_height + GAP
    return page


def colour_of(number: int) -> Colour:
    """The colour of a class."""
    return PALETTE[int(number) % len(PALETTE)]


def ink_on(colour: Colour) -> str:
    """Black or white, whichever is easier to read on that colour."""
    bright = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] > 140
    return "black" if bright else "white"


def fitted_text(text: str, font: Font, width: float) -> str:
    """The text, its middle left out if it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    keep = len(text) // 2
    while keep and font.getlength(f"{text[:keep]}...{text[-keep:]}") > width:
        keep -= 1
    return f"{text[:keep]}...{text[-keep:]}" if keep else "..."


def _tag(
    pen: ImageDraw.ImageDraw,
    label: str,
    box: list[int],
    colour: Colour,
    font: Font,
    size: tuple[int, int],
) -> None:
    """A filled label above the box, or inside it where the picture ends; never outside the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), label, font)
    pad = 2
    width, height = int(right - left) + 2 * pad, int(bottom - top) + 2 * pad
    x = max(0, min(box[0], size[0] - width))
    y = max(0, min(box[1] - height if box[1] >= height else box[1], size[1] - height))
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=colour)
    pen.text((x + pad - left, y + pad - top), label, ink_on(colour), font)


def _fit(size: tuple[int, int], side: int) -> tuple[int, int]:
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))

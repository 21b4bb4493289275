"""The built-in data set: six kinds of shapes on cluttered backgrounds, drawn by the program from a seed.

Nothing is downloaded and nothing is stored. Picture number i of a split depends on (seed, split, i) alone, so
any picture can be drawn again by itself, and no picture of "train" is one of "val"; even the background
textures of the two differ.
"""

import math
from colorsys import hsv_to_rgb
from functools import lru_cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageOps
from tqdm import tqdm

from yolov2.data.dataset import Dataset, Item

NAMES = ("circle", "square", "triangle", "star", "cross", "ring")
SPLITS = {"train": 0, "val": 1}
SIZE = 160  # side of the pictures, in pixels, unless another is asked for
MOST_OBJECTS = 5
SMALLEST, LARGEST = 0.25, 0.6  # longer side of a shape, as a fraction of the picture
VISIBLE = 0.8  # at least this share of every shape stays in sight
CONTRAST = 100.0  # least distance of a shape's colour from what it lies on, in RGB of 0..255
SMOOTH = 3  # shapes are drawn this many times larger, then averaged down

BLACK, WHITE = (0, 0, 0), (255, 255, 255)

Rng = np.random.Generator
Colour = tuple[int, int, int]


def shapes(split: str, count: int, seed: int = 0, size: int = SIZE) -> Dataset:
    """Draw a data set.

    Parameters
    ----------
    split : {"train", "val"}
        The two have no picture in common.
    count : int
        Number of pictures; the first n of a longer set are the set of length n.
    seed : int
        Another seed, other pictures.
    size : int
        Side of the square pictures, in pixels.

    Returns
    -------
    Dataset
        Six classes, 1 to 5 shapes per picture. A box is tight around the pixels of its shape in sight.
        Pictures are kept in memory, 3 size^2 bytes each.

    Raises
    ------
    ValueError
        If the split is unknown, or there is no picture or no room to draw in.
    """
    if split not in SPLITS:
        raise ValueError(f"split: {split!r} is not one of {', '.join(SPLITS)}")
    if count < 1 or size < 32:
        raise ValueError(f"{count} pictures of {size} pixels: at least 1 of 32 is needed")
    bar = tqdm(range(count), f"drawing {split} pictures", unit="img", delay=2, leave=False)
    return Dataset(NAMES, [_item(split, index, seed, size) for index in bar])


def _item(split: str, index: int, seed: int, size: int) -> Item:
    rng = np.random.default_rng([seed, SPLITS[split], index])
    picture, owner, classes = draw(rng, _textures(seed, split, size))
    boxes = np.array(
        [_pixels_of(owner, number).getbbox() for number in range(1, len(classes) + 1)], np.float32
    )
    low, high = boxes[:, :2], boxes[:, 2:]
    return Item(
        id=f"{split}-{index:05d}",
        width=size,
        height=size,
        boxes=np.concatenate([(low + high) / 2, high - low], 1) / np.float32(size),
        classes=np.array(classes, np.int64),
        difficult=np.zeros(len(classes), bool),
        pixels=np.asarray(picture),
    )


def draw(rng: Rng, textures: list[Image.Image]) -> tuple[Image.Image, Image.Image, list[int]]:
    """Draw one picture.

    Parameters
    ----------
    rng : numpy.random.Generator
        The only source of chance.
    textures : list of PIL.Image.Image, mode L
        Patterns of twice the picture's size.

    Returns
    -------
    picture : PIL.Image.Image, mode RGB
        The picture.
    owner : PIL.Image.Image, mode L
        At every pixel the number of the shape seen there, from 1; 0 is background.
    classes : list of int
        Class of shape 1, 2, ...
    """
    size = textures[0].width // 2
    picture = _background(rng, textures, size)
    owner = Image.new("L", (size, size))
    classes: list[int] = []
    areas: list[int] = []
    for _ in range(rng.integers(1, MOST_OBJECTS + 1)):
        kind = int(rng.integers(len(NAMES)))
        body, inner = _masks(rng, NAMES[kind], size)
        hard = body.convert("1", dither=Image.Dither.NONE)
        for _ in range(10):  # a crowded picture may have no room left: then it gets one shape less
            x, y = (int(rng.integers(0, size - side + 1)) for side in body.size)
            trial = owner.copy()
            trial.paste(len(classes) + 1, (x, y), hard)
            now = trial.histogram()
            if all(now[number] >= VISIBLE * area for number, area in enumerate(areas, start=1)):
                break
        else:
            continue
        owner = trial
        classes.append(kind)
        areas.append(now[len(classes)])
        _paint(rng, picture, textures, body, inner, (x, y))
    grain = _patch(rng, textures[:1], (size, size))
    return ImageChops.add(picture, Image.merge("RGB", [grain] * 3), 1, -128), owner, classes


def _pixels_of(owner: Image.Image, number: int) -> Image.Image:
    return Image.fromarray(np.asarray(owner) == number)


# ---------------------------------------------------------------------------------------------- shapes


def _outline(rng: Rng, name: str) -> np.ndarray:
    """Corners (N, 2) of a shape about the origin, within the unit circle or nearly so."""
    turn = math.radians(rng.uniform(-18, 18))
    if name in ("circle", "ring"):
        angles = np.linspace(0, 2 * math.pi, 36, endpoint=False)
        radii: np.ndarray | float = 1.0
    elif name == "square":
        angles, radii = np.arange(4) * math.pi / 2 + math.pi / 4, 1.0
    elif name == "triangle":
        angles, radii = np.arange(3) * 2 * math.pi / 3 - math.pi / 2, 1.0
    elif name == "star":
        angles = np.arange(10) * math.pi / 5 - math.pi / 2
        radii = np.where(np.arange(10) % 2, rng.uniform(0.38, 0.5), 1.0)
    else:  # cross: twelve corners, arms of half width a
        a = rng.uniform(0.24, 0.36)
        arm = np.array([[a, -a], [a, -1], [-a, -1]])
        quarter = np.array([[0, -1], [1, 0]])
        corners = np.concatenate([arm @ np.linalg.matrix_power(quarter, n) for n in range(4)])
        angles, radii = np.arctan2(corners[:, 1], corners[:, 0]), np.hypot(*corners.T)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * np.reshape(radii, (-1, 1))
    stretch = math.exp(rng.uniform(-0.28, 0.28))
    points = points * [stretch, 1 / stretch]
    return points @ np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])


def _masks(rng: Rng, name: str, size: int) -> tuple[Image.Image, Image.Image | None]:
    """Masks (mode L, cropped) of a whole shape and of what its border leaves free; None without a border."""
    points = _outline(rng, name)
    # Uniform in the logarithm: as many shapes between 40 and 60 pixels as between 60 and 90.
    side = size * math.exp(rng.uniform(math.log(SMALLEST), math.log(LARGEST)))
    low, high = points.min(0), points.max(0)
    unit = SMOOTH * side / (high - low).max()
    border = int(side * rng.uniform(0.05, 0.1) * SMOOTH) if rng.random() < 0.5 else 0
    margin = border / 2 + SMOOTH
    canvas = tuple(SMOOTH * math.ceil(n / SMOOTH) for n in (high - low) * unit + 2 * margin)
    where = (points - low) * unit + margin
    body = Image.new("L", canvas)
    inner = Image.new("L", canvas) if border else None
    loops = [where]
    if name == "ring":
        centre = where.mean(0)
        loops.append(centre + (where - centre) * rng.uniform(0.5, 0.66))
    for mask in (body, inner):
        if mask is None:
            continue
        pen = ImageDraw.Draw(mask)
        for loop, fill in zip(loops, (255, 0), strict=False):
            pen.polygon(loop.ravel().tolist(), fill=fill)
        for loop in loops if border else []:
            closed = np.concatenate([loop, loop[:2]]).ravel().tolist()
            pen.line(closed, fill=255 if mask is body else 0, width=border, joint="curve")
    return body.reduce(SMOOTH), inner and inner.reduce(SMOOTH)


def _paint(
    rng: Rng,
    picture: Image.Image,
    textures: list[Image.Image],
    body: Image.Image,
    inner: Image.Image | None,
    place: tuple[int, int],
) -> None:
    """Colour a shape, plain or patterned, so that it stands out from what it lies on."""
    x, y = place
    under = picture.crop((x, y, x + body.width, y + body.height)).resize((1, 1), Image.Resampling.BOX)
    while True:
        colour = _colour(rng, (0.3, 1.0), (0.35, 1.0))
        if math.dist(colour, np.asarray(under).ravel()) >= CONTRAST:
            break
    if inner is not None:  # a dark border around a bright shape, a bright one around a dark shape
        picture.paste(_mix(BLACK if sum(colour) > 330 else WHITE, colour, 0.35), place, body)
    fill: Image.Image | Colour = colour
    if rng.random() < 0.4:
        dark, bright = _mix(BLACK, colour, rng.uniform(0.6, 0.85)), _mix(colour, WHITE, rng.uniform(0, 0.35))
        fill = _blend(_patch(rng, textures, body.size), dark, bright)
    picture.paste(fill, place, inner or body)


# ----------------------------------------------------------------------------------------- backgrounds


@lru_cache(maxsize=4)
def _textures(seed: int, split: str, size: int) -> list[Image.Image]:
    """Patterns (mode L, twice the picture's size) to cut patches from; the first is fine grain about 128."""
    rng = np.random.default_rng([seed, SPLITS[split], 2**32])  # no picture has that number
    side = 2 * size
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    patterns = [rng.normal(128, 4, (side, side))]
    for _ in range(12):  # clouds: noise of several scales, coarse or fine
        rough = rng.uniform(0.4, 0.9)
        clouds = np.zeros((side, side))
        for n in range(2, 8):
            noise = Image.fromarray(rng.integers(0, 256, (2**n, 2**n), np.uint8))
            clouds += rough**n * np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), float)
        patterns.append(_stretched(clouds))
    for _ in range(6):  # a slope, straight or round
        angle = rng.uniform(0, 2 * math.pi)
        centre = rng.uniform(-1, 1, 2)
        slope = x * math.cos(angle) + y * math.sin(angle)
        patterns.append(_stretched(slope if rng.random() < 0.5 else np.hypot(x - centre[0], y - centre[1])))
    for _ in range(6):  # stripes and checks, bent a little
        angle, waves = rng.uniform(0, math.pi), rng.uniform(10, 32)
        along = x * math.cos(angle) + y * math.sin(angle) + 0.06 * np.sin(5 * x * y)
        across = y * math.cos(angle) - x * math.sin(angle)
        checks = rng.integers(2)  # 0: the second factor is cos 0
        wave = np.sin(waves * math.pi * along) * np.cos(checks * waves * math.pi * across)
        patterns.append(_stretched(np.clip(3 * wave, -1, 1)))
    return [Image.fromarray(pattern.clip(0, 255).astype(np.uint8)) for pattern in patterns]


def _stretched(pattern: np.ndarray) -> np.ndarray:
    return (pattern - pattern.min()) * (255 / np.ptp(pattern))


def _patch(rng: Rng, textures: list[Image.Image], size: tuple[int, int]) -> Image.Image:
    """A random piece of a random pattern, the right way up or not."""
    texture = textures[rng.integers(len(textures))]
    x, y = (int(rng.integers(0, texture.width - side + 1)) for side in size)
    piece = texture.crop((x, y, x + size[0], y + size[1]))
    return ImageOps.flip(piece) if rng.random() < 0.5 else piece


def _blend(pattern: Image.Image, dark: Colour, bright: Colour) -> Image.Image:
    """Two colours mixed by a pattern: dark where it is 0, bright where it is 255."""
    return Image.composite(
        Image.new("RGB", pattern.size, bright), Image.new("RGB", pattern.size, dark), pattern
    )


def _background(rng: Rng, textures: list[Image.Image], size: int) -> Image.Image:
    """Two patterns in muted colours, one laid over the other, and clutter of no class on top."""

    def layer() -> Image.Image:
        dark, bright = _colour(rng, (0.05, 0.5), (0.1, 0.6)), _colour(rng, (0.05, 0.45), (0.45, 0.95))
        return _blend(_patch(rng, textures[1:], (size, size)), dark, bright)

    ground = Image.blend(layer(), layer(), rng.uniform(0.15, 0.5))
    canvas = ground.resize((2 * size, 2 * size), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 10)):
        _clutter(rng, pen, 2 * size)
    return canvas.reduce(2)


def _clutter(rng: Rng, pen: ImageDraw.ImageDraw, size: int) -> None:
    """One scribble, arc, zigzag, slice or spray of dots: nothing a person would take for a class."""
    colour = _colour(rng, (0.1, 0.9), (0.2, 0.95))
    x, y = rng.uniform(0, size, 2)
    reach, width = size * rng.uniform(0.05, 0.25), int(size * rng.uniform(0.005, 0.016)) + 1
    match rng.integers(5):
        case 0:  # a scribble: a walk with a slowly turning heading
            heading = rng.uniform(0, 2 * math.pi) + np.cumsum(rng.normal(0, 0.5, 12))
            steps = np.stack([np.cos(heading), np.sin(heading)], 1) * (reach / 4)
            pen.line(
                np.add(np.cumsum(steps, 0), (x, y)).ravel().tolist(), fill=colour, width=width, joint="curve"
            )
        case 1:  # an arc of less than half a circle
            start = rng.uniform(0, 360)
            box = (x - reach, y - reach, x + reach, y + reach)
            pen.arc(box, start, start + rng.uniform(40, 160), fill=colour, width=width)
        case 2:  # a zigzag
            offsets = np.stack([np.linspace(0, 2 * reach, 7), reach / 4 * (-1) ** np.arange(7)], 1)
            if rng.random() < 0.5:
                offsets = offsets[:, ::-1]
            pen.line(np.add(offsets, (x, y)).ravel().tolist(), fill=colour, width=width, joint="curve")
        case 3:  # a slice cut off a disc
            start = rng.uniform(0, 360)
            box = (x - reach, y - reach, x + reach, y + reach)
            pen.chord(box, start, start + rng.uniform(80, 150), fill=colour)
        case _:  # dots, much smaller than the smallest circle
            radius = size * 0.012
            for dx, dy in rng.normal(0, reach / 2, (8, 2)):
                dot = (x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius)
                pen.ellipse(dot, fill=colour)


def _colour(rng: Rng, saturation: tuple[float, float], value: tuple[float, float]) -> Colour:
    """A random colour of any hue, its saturation and value within the given ranges."""
    r, g, b = hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value))
    return round(255 * r), round(255 * g), round(255 * b)


def _mix(low: Colour, high: Colour, share: float) -> Colour:
    """The colour `share` of the way from one to another."""
    r, g, b = (round(a + (b - a) * share) for a, b in zip(low, high, strict=True))
    return r, g, b

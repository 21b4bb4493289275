"""The way of every detection down the tree, as a panel beside the drawn picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from yolov2.draw import Font, colour_of, fitted_text, ink_on

# Sizes of the panel, in heights of its letters.
WIDTH = 24
LEAST_HEIGHT = 30  # 20 lines; the longest path of YOLO9000's tree has 17 nodes
LINE = 1.4
BAR = 4  # of probability 1
BLACK, GREY, PALE = (30, 30, 30), (140, 140, 140), (225, 225, 225)

Step = tuple[int, str, float]  # node, its name, its absolute probability


def draw_paths(picture: Image.Image, paths: Sequence[Sequence[Step]], scores: Sequence[float]) -> Image.Image:
    """A drawn picture with the paths of its detections to the right, the best first, as many as fit.

    Each has a title, which is its tag in the picture, and a line for every node from the root down: the name,
    a bar and a number for the absolute probability. Of a path longer than the panel the end is shown.

    Parameters
    ----------
    picture : PIL.Image.Image, mode RGB
        What `yolov2.draw.draw_detections` made, with the same classes and scores.
    paths : sequence of sequences of (int, str, float)
        Of every detection, in any order: node, name and absolute probability from the root to its class.
    scores : sequence of float
        One for each path.

    Returns
    -------
    PIL.Image.Image, mode RGB
        Its size depends on that of the picture alone, for the frames of a video are all of one size.
    """
    em = max(11, round(min(picture.size) / 40))
    panel = _Panel(em, max(picture.height, LEAST_HEIGHT * em))
    order = sorted(range(len(paths)), key=lambda i: -scores[i])
    for rank, i in enumerate(order):
        room = panel.room(last=rank + 1 == len(order))
        if rank and room < len(paths[i]):
            panel.write(f"and {len(order) - rank} more")
            break
        panel.add(paths[i], scores[i], room)
    if not order:
        panel.write("nothing found")
    page = Image.new("RGB", (picture.width + panel.page.width, panel.page.height), "white")
    page.paste(picture, (0, 0))
    page.paste(panel.page, (picture.width, 0))
    return page


class _Panel:
    """A column of lines, filled from the top."""

    def __init__(self, em: int, height: int):
        self.em, self.step = em, round(LINE * em)
        self.font: Font = ImageFont.load_default(em)
        self.page = Image.new("RGB", (WIDTH * em // 2 * 2, height), "white")  # videos like even sizes
        self.pen = ImageDraw.Draw(self.page)
        self.left, self.right = em // 2, self.page.width - em // 2
        self.top, self.gap = em // 2, self.step // 2

    def room(self, last: bool) -> int:
        """Nodes for which there is room below a title; unless it is the last, above a word on the rest."""
        rest = 0 if last else self.gap + self.step
        return (self.page.height - self.top - rest) // self.step - 1

    def write(self, text: str) -> None:
        """One line."""
        self.pen.text((self.left, self.top + self.step / 2), text, GREY, self.font, "lm")
        self.top += self.step

    def add(self, path: Sequence[Step], score: float, most: int) -> None:
        """The title of a detection, and the last `most` nodes of its path."""
        node, name, _ = path[-1]
        colour = colour_of(node)
        self._title(name, f" {score:.2f}", colour)
        numbers = self.right - self.font.getlength("0.00")
        bars = numbers - self.em * (BAR + 0.5)
        indent = min(0.7 * self.em, 0.45 * (bars - self.left) / len(path))
        for depth, (_, name, probability) in list(enumerate(path))[-most:]:
            x, y = self.left + depth * indent, self.top + self.step / 2
            if depth:
                corner = x - 0.7 * indent
                self.pen.line([(corner, y - 0.6 * self.step), (corner, y), (x - 0.2 * indent, y)], GREY)
            name = fitted_text(name, self.font, bars - self.em / 2 - x)
            self.pen.text((x, y), name, BLACK, self.font, "lm")
            for length, fill in ((1.0, PALE), (probability, colour)):
                bar = (bars, y - 0.3 * self.em, bars + BAR * self.em * length, y + 0.3 * self.em)
                self.pen.rectangle(bar, fill)
            self.pen.text((self.right, y), f"{probability:.2f}", BLACK, self.font, "rm")
            self.top += self.step
        self.top += self.gap

    def _title(self, name: str, score: str, colour: tuple[int, int, int]) -> None:
        pad = self.em // 4
        self.pen.rectangle((self.left, self.top, self.right, self.top + self.step - 1), colour)
        space = self.right - self.left - 2 * pad - self.font.getlength(score)
        title = fitted_text(name, self.font, space) + score
        self.pen.text((self.left + pad, self.top + self.step / 2), title, ink_on(colour), self.font, "lm")
        self.top += self.step

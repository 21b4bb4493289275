"""What the tests of the commands share: a tiny data set, and a way to run a command as a user does."""

from pathlib import Path

import numpy as np
from PIL import Image

from yolov2.cli import run

SIDE = 64
TINY = ("--imgsz", "64", "--nominal-batch", "2", "--epochs", "2", "--device", "cpu")


def annotation(objects, side=SIDE):
    """The text of an .xml: objects are (name, (xmin, ymin, xmax, ymax))."""
    rows = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><size><width>{side}</width><height>{side}</height></size>{rows}</annotation>"


def add_picture(folder: Path, stem: str, objects, suffix=".png") -> Path:
    """A noisy picture with a filled rectangle for every object, and its annotation beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(stem)).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    for name, (left, top, right, bottom) in objects:
        pixels[top:bottom, left:right] = (230, 30, 30) if name == "red" else (30, 30, 230)
    path = folder / f"{stem}{suffix}"
    Image.fromarray(pixels).save(path)
    path.with_suffix(".xml").write_text(annotation(objects))
    return path


def make_voc(folder: Path, train: int = 6, val: int = 2) -> Path:
    """A data set of two classes, blue and red, in folders train and val."""
    for split, count in (("train", train), ("val", val)):
        for i in range(count):
            x, y = 4 + 5 * i, 30 - 4 * i
            add_picture(folder / split, f"{split}{i}", [(("blue", "red")[i % 2], (x, y, x + 24, y + 30))])
    return folder


def command(main, *argv) -> int:
    """The exit status of a command."""
    try:
        return run(main, [str(a) for a in argv])
    except SystemExit as stopped:  # argparse leaves this way
        return stopped.code


def assert_refused(capsys, main, *argv, names: tuple[str, ...] = ()) -> str:
    """A command ends with status 2 and one line on stderr, beside warnings and progress, that holds all of
    `names`; returns that line.
    """
    capsys.readouterr()
    status = command(main, *argv)
    err = capsys.readouterr().err.strip()
    assert status == 2, err
    others = ("note: ", "warning: ")
    lines = [line for line in err.splitlines() if not line.startswith(others) and "img/s" not in line]
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    for name in names:
        assert str(name) in lines[0]
    return lines[0]

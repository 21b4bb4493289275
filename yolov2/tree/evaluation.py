"""A detector on a tree shown pictures that have a class and no boxes: is what it is surest of that thing?

Where in a picture the thing is nobody says, so the one detection that counts is the best of the picture.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor
from tqdm import tqdm

from fast.decode import decode_boxes, split_head
from fast.wordtree import descend_scores
from reference.region import Region, TreeRule, WordTree
from yolov2.data.class_folders import ClassificationSet
from yolov2.detector import Detector, tree_detections
from yolov2.draw import PALETTE, draw_detections, fitted_text, sheet
from yolov2.errors import Complaints, UserError
from yolov2.evaluation import readable
from yolov2.letterbox import network_input
from yolov2.model import Options, input_size, letterboxes
from yolov2.tree.accuracy import VERDICTS, HierarchicalAccuracy, root_paths
from yolov2.worst import with_legend

COLOURS = dict(zip(VERDICTS, (2, 1, 5, 0), strict=False))  # places in the palette
SIDE, FRAME, LINE = 300, 4, 20  # of a card: its picture, the coloured frame, a line below; in pixels
COLUMNS = 5
CHANCES = 20  # how many other pictures' detections stand for chance


@dataclass(frozen=True)
class BestDetections:
    """The best detection on each of N pictures that have a class.

    Parameters
    ----------
    hierarchy : HierarchicalAccuracy
        What they are and what they were taken for.
    dataset : ClassificationSet
        The pictures, with those that could not be read.
    indices : ndarray, int64 (N,)
        Their numbers there.
    boxes : ndarray, float32 (N, 4)
        cxcywh, fractions of the picture, not clipped. Of no meaning where nothing is found.
    scores : ndarray, float32 (N,)
        Objectness.
    mapped : tuple of int, optional
        The nodes of the classes that boxes were there for in training, if that is known.
    every : tuple of ndarray, int64
        Per picture, the nodes of all its detections that score above `sure`.
    sure : float
        Least score of those.
    """

    hierarchy: HierarchicalAccuracy
    dataset: ClassificationSet
    indices: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    mapped: tuple[int, ...] | None = None
    every: tuple[np.ndarray, ...] = ()
    sure: float = 0.25

    def near(self) -> np.ndarray:
        """Whether a picture is taken for its label or for the parent of that: bool (N,)."""
        h = self.hierarchy
        parents = np.array(h.tree.parents)[h.labels]
        return (h.reached == h.labels) | ((h.reached == parents) & (parents >= 0))

    def classes(self) -> str:
        """How many classes are `near` in one picture at least, and how many of those without boxes."""
        labels, near = self.hierarchy.labels, self.near()
        every, found = np.unique(labels), np.unique(labels[near])
        text = f"classes found, or their parent, in one picture at least: {len(found)} of {len(every)}"
        if self.mapped is None:
            return text
        without = ~with_boxes(self.hierarchy.tree, self.mapped)
        return (
            f"{text}\n"
            "of those without a box in training (neither a class of the boxes nor above or below one): "
            f"{without[found].sum()} of {without[every].sum()}, "
            f"in {(near & without[labels]).sum()} of {without[labels].sum()} pictures"
        )

    def among_all(self, shift: int = 0) -> np.ndarray:
        """Whether any detection above `sure` is a picture's label or the parent of that: bool (N,).

        With a `shift` the detections are those of a picture so many further: what chance would find.
        """
        tree, n = self.hierarchy.tree, len(self.every)
        wanted = [{label, tree.parents[label]} - {-1} for label in self.hierarchy.labels.tolist()]
        return np.array(
            [not w.isdisjoint(self.every[(i + shift) % n].tolist()) for i, w in enumerate(wanted)]
        )

    def among_all_classes(self) -> str:
        """How many classes are `among_all`, and how many would be with the detections of other pictures."""
        labels = self.hierarchy.labels
        without = np.ones(len(self.hierarchy.tree.parents), bool)
        if self.mapped is not None:
            without = ~with_boxes(self.hierarchy.tree, self.mapped)
        chosen = without[labels]

        def count(shift: int) -> int:
            return len(np.unique(labels[chosen & self.among_all(shift)]))

        shifts = [len(labels) * k // (CHANCES + 1) or 1 for k in range(1, CHANCES + 1)]
        chance = sum(map(count, shifts)) / CHANCES
        text = "" if self.mapped is None else " without a box in training"
        number = np.mean([len(e) for e in self.every])
        return (
            f"among all detections above {self.sure:g} ({number:.1f} a picture): "
            f"{count(0)} of {len(np.unique(labels[chosen]))} classes{text}, or their parent; "
            f"among those of other pictures {chance:.1f}"
        )

    def sheet(self, count: int = 60) -> Image.Image | None:
        """The surest detections, the surest first, each in the colour of its verdict; None if there are none.

        Below a picture are what it is, and the way to what it was taken for.
        """
        h = self.hierarchy
        verdicts = h.verdicts()
        order = [i for i in np.argsort(-self.scores, kind="stable").tolist() if h.reached[i] >= 0]
        if not order:
            return None
        cards = [self._card(i, VERDICTS[verdicts[i]]) for i in order[:count]]
        counts = zip(VERDICTS, h.counts().tolist(), strict=True)
        legend = [(f"{word} {n}", PALETTE[COLOURS[word]]) for word, n in counts if word in COLOURS]
        return with_legend(sheet(cards, COLUMNS, side=cards[0].height), legend)

    def _card(self, i: int, verdict: str) -> Image.Image:
        h, place = self.hierarchy, COLOURS[verdict]
        picture = ImageOps.contain(self.dataset.picture(int(self.indices[i])), (SIDE, SIDE))
        tag = [f"{h.names[h.reached[i]]} {self.scores[i]:.2f}"] * len(PALETTE)
        drawn = draw_detections(picture, self.boxes[[i]], tag, np.array([place]))
        drawn = ImageOps.expand(drawn, FRAME, PALETTE[place])
        side = SIDE + 2 * FRAME
        card = Image.new("RGB", (side, side + 2 * LINE), "white")
        card.paste(drawn, ((side - drawn.width) // 2, side - drawn.height))
        pen, font = ImageDraw.Draw(card), ImageFont.load_default(14)
        words = [h.names[node] for node in h.tree.path(int(h.reached[i]))[::-1]]
        lines = f"is {h.names[h.labels[i]]}", _ending(words, font, side)
        for number, (text, ink) in enumerate(zip(lines, ("black", "dimgrey"), strict=True)):
            middle = side / 2, side + LINE * (number + 0.5)
            pen.text(middle, fitted_text(text, font, side), ink, font, anchor="mm")
        return card

    def save(self, path: Path) -> None:
        """Write a line of csv for every picture."""
        h, verdicts = self.hierarchy, self.hierarchy.verdicts()
        boxed = None if self.mapped is None else with_boxes(h.tree, self.mapped)
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("picture", "word", "name", "boxes", "verdict", "near", "score", "path"))
            for i, near in enumerate(self.near().tolist()):
                label, reached = int(h.labels[i]), int(h.reached[i])
                way = " > ".join(h.names[node] for node in h.tree.path(reached)[::-1]) if reached >= 0 else ""
                has_boxes = "" if boxed is None else int(boxed[label])
                what = h.tree.names[label], h.names[label], has_boxes, VERDICTS[verdicts[i]], int(near)
                file_name = self.dataset.paths[self.indices[i]]
                writer.writerow((file_name, *what, f"{self.scores[i]:.4f}" if reached >= 0 else "", way))


def with_boxes(tree: WordTree, mapped: Sequence[int]) -> np.ndarray:
    """Which nodes are those of classes that have boxes, or above or below one of these.

    Parameters
    ----------
    tree : WordTree
        N nodes.
    mapped : sequence of int
        The nodes of the classes.

    Returns
    -------
    ndarray, bool (N,)
    """
    paths = root_paths(tree)
    return np.isin(np.arange(len(paths)), paths[list(mapped)]) | np.isin(paths, mapped).any(1)


@torch.inference_mode()
def best_detections(
    detector: Detector,
    dataset: ClassificationSet,
    conf: float = 0.005,
    batch: int = 16,
    tree_threshold: float = 0.5,
    tree_rule: TreeRule = "darknet",
    progress: bool = True,
    complaints: Complaints | None = None,
    sure: float = 0.25,
) -> BestDetections:
    """The best detection on every picture, descended as `Detector` does and to the end.

    Parameters
    ----------
    detector : Detector
        On a tree.
    dataset : ClassificationSet
        Opened on the same tree.
    conf : float
        What does not score above this is nothing found.
    batch : int
        Pictures at a time.
    tree_threshold, tree_rule
        How the tree is descended, see `yolov2.model.Options`.
    progress : bool
        Show a bar when it takes more than two seconds.
    complaints : Complaints, optional
        Counts pictures that cannot be read, which are left out. Without it the first one raises.
    sure : float
        Least score of the detections beside the best, after NMS at .45.

    Raises
    ------
    UserError
        If no picture can be read, or, without `complaints`, one.
    """
    tree, size = detector.region.tree, input_size(detector.imgsz)
    assert tree is not None
    pictures = readable(dataset, dataset.paths, complaints)
    indices: list[int] = []
    parts: list[tuple[np.ndarray, ...]] = []
    every: list[np.ndarray] = []
    options = Options(sure, tree_threshold=tree_threshold, tree_rule=tree_rule)
    detector.network.eval()
    with tqdm(
        total=len(dataset), desc="evaluating", leave=False, unit="img", delay=2, disable=not progress
    ) as bar:
        while group := list(islice(pictures, batch)):
            indices += [i for i, _ in group]
            here = [picture for _, picture in group]
            outputs = detector.network(network_input(here, *size, detector.resize, detector.device))
            found = [x.cpu().numpy() for x in surest(outputs, detector.region, tree_threshold, tree_rule)]
            for row, box in enumerate(letterboxes(here, size, detector.resize)):
                found[0][row] = box.undo(found[0][row])
            parts.append(tuple(found))
            _, paths = tree_detections(outputs, detector.region, options)
            every += [path.nodes.max(1, initial=-1) for path in paths]
            bar.update(len(group))
    if not parts:
        raise UserError(f"none of the {len(dataset)} pictures can be read, e.g. {dataset.paths[0]}")
    boxes, scores, reached, greedy = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    nothing = ~(scores > conf)
    reached[nothing], greedy[nothing] = -1, -1
    which = np.array(indices)
    hierarchy = HierarchicalAccuracy(
        tree, detector.names, dataset.labels[which], reached, tree_threshold, greedy
    )
    return BestDetections(
        hierarchy, dataset, which, boxes, scores, detector.region.class_map, tuple(every), sure
    )


def surest(
    outputs: Tensor, region: Region, tree_threshold: float = 0.5, tree_rule: TreeRule = "darknet"
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The box of greatest objectness of every image, which is the best detection whatever NMS does.

    Parameters
    ----------
    outputs : Tensor (B, channels, H, W)
        Of ``Network.forward``.
    region : Region
        Settings of the head, with a tree.
    tree_threshold, tree_rule
        Of the descent.

    Returns
    -------
    boxes : Tensor (B, 4)
        cxcywh, fractions of the input.
    scores : Tensor (B,)
        Objectness.
    reached, greedy : Tensor (B,) int64
        Nodes that a descent at the threshold ends in, and one at 0.
    """
    assert region.tree is not None
    head = split_head(outputs, region)
    boxes, objectness = decode_boxes(head[:, :, :4].float(), region), head[:, :, 4].float().sigmoid()
    scores, place = objectness.flatten(1).max(1)
    at = (torch.arange(len(place), device=place.device), *torch.unravel_index(place, objectness.shape[1:]))
    rows = head.movedim(2, -1)[..., 5:]
    reached = descend_scores(rows, at, region.tree, tree_threshold, tree_rule)
    # either rule turns the same way; absolute probabilities would vanish sooner
    greedy = descend_scores(rows, at, region.tree, 0, "paper")
    return boxes[at], scores, reached, greedy


def _ending(words: Sequence[str], font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: float) -> str:
    """As much of the lower end of a path as fits, at least its last word."""
    for start in range(len(words)):
        text = " > ".join(["..."] * (start > 0) + list(words[start:]))
        if font.getlength(text) <= width:
            break
    return text

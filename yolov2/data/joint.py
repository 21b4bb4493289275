"""Pictures with boxes and pictures that have nothing but a class, together in every batch (paper 2, sec. 4).

Both sets are visited again and again, each in an order of its own that is new every time. A batch takes its
share of either from where the one before it stopped; so it depends on its number alone, and a run that is
resumed, or spread over processes, sees the same batches.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from yolov2.augment import Augment, augment
from yolov2.data.crops_loader import Kept
from yolov2.data.dataset import Dataset
from yolov2.data.epoch import ahead
from yolov2.data.loader import Batch, Sample, assemble, detection_sample
from yolov2.errors import Complaints

CLASS_ONLY = 999999.0  # x and y of a row that names the class of a whole picture (SPEC 6, 15)


class Portions(NamedTuple):
    """Pictures of either kind in a batch."""

    detection: int
    classification: int

    def batches(self, detection: int, classification: int) -> int:
        """Batches until all of so many pictures were seen; those of the smaller set more than once."""
        return max(-(-detection // self.detection), -(-classification // self.classification))


def portions(batch: int, ratio: float) -> Portions:
    """How a batch is divided if there are `ratio` classification pictures to one with boxes.

    Raises
    ------
    ValueError
        If it has not room for one of each.
    """
    if batch < 2:
        raise ValueError(f"a batch of {batch} has no room for a picture of each kind")
    classification = min(max(1, round(batch * ratio / (1 + ratio))), batch - 1)
    return Portions(batch - classification, classification)


class JointBatch(Batch):
    """Pictures with boxes first, then those that have a class only; `indices` of these count on."""

    def split(self, parts: int) -> list[Batch]:
        """So many batches, each with its share of either kind: batch norm is to see both."""
        parts = max(1, min(parts, len(self.images)))
        return [Batch(*(x[part::parts] for x in self)) for part in range(parts)]


class Visit(NamedTuple):
    """A picture of one of the sets, and how often that set was gone through before."""

    source: int  # 0 has boxes, 1 classes
    round: int
    picture: int


def joint_batches(
    detection: Dataset,
    classification: Kept,
    shares: Portions,
    size: Callable[[int], int],
    options: Augment,
    *,
    seed: int,
    epoch: int,
    per_epoch: int,
    workers: int = 0,
    complaints: Complaints | None = None,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
) -> Iterator[JointBatch]:
    """One epoch over two sets; the sister of `yolov2.data.loader.batches`, where the arguments are explained.

    Parameters
    ----------
    detection : Dataset
        Pictures with boxes.
    classification : Kept
        Pictures with a class each: a node of the tree.
    shares : Portions
        Pictures of either in a batch, of all processes together.
    size : callable
        Number of a batch in the epoch -> side of its pictures.
    per_epoch : int
        Batches of an epoch.
    rank, world : int
        Which of how many processes this is; each has its share of either kind, as of `JointBatch.split`.

    Yields
    ------
    JointBatch
        Rows of `truth` have the classes of `detection`; for a picture of `classification` the one row is
        x = y = 999999, w = h = 0, its node (SPEC 6).
    """
    orders: dict[tuple[int, int], np.ndarray] = {}

    def visit(source: int, position: int, pictures: int) -> Visit:
        turn, place = divmod(position, pictures)
        if (source, turn) not in orders:
            orders[source, turn] = np.random.default_rng([seed, source, turn]).permutation(pictures)
        return Visit(source, turn, int(orders[source, turn][place]))

    def visits(source: int, number: int, pictures: int) -> list[Visit]:
        share, batch = shares[source], epoch * per_epoch + number
        return [visit(source, place, pictures) for place in range(batch * share, (batch + 1) * share)]

    def sample(what: Visit, shape: tuple[int, int]) -> Sample:
        if what.source == 0:
            key = [seed, what.round, what.picture]
            return detection_sample(detection, what.picture, shape, options, key, "letterbox")
        chance = np.random.default_rng([seed, what.round, what.picture, 1])
        nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
        picture, *_ = augment(classification.pixels(what.picture), *nothing, shape, options, chance)
        row = np.array([[CLASS_ONLY, CLASS_ONLY, 0, 0]], np.float32)
        return picture, row, classification.labels[[what.picture]], len(detection) + what.picture

    def make(number: int) -> JointBatch:
        whole = [*visits(0, number, len(detection)), *visits(1, number, len(classification))]
        side = size(number)
        # cut as into pieces, so that as many processes see the same batches in batch norm
        return JointBatch(*assemble(whole[rank::world], (side, side), sample, complaints, pin))

    yield from ahead(make, range(start, per_epoch), workers)

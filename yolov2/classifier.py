"""A classifier, Darknet-19 and its family: pictures in, probabilities out; and the loss that it learns by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fast.wordtree import absolute_probability, tree_log_softmax, tree_softmax, tree_tensors
from reference.layers import Softmax, output_shapes
from reference.region import WordTree
from yolov2.model import Model, Options, Picture, input_size
from yolov2.results import Probs, Results


@dataclass(repr=False)
class Classifier(Model):
    """A network that ends in a softmax, with its conventions; see `Model` for the parameters."""

    HEADS: ClassVar = (Softmax,)
    heeds_options: ClassVar = False

    @property
    def classes(self) -> int:
        """Number of classes, or of nodes of the tree."""
        channels, height, width = output_shapes(self.network.layers, self.network.input_shape)[-1]
        return channels * height * width

    @property
    def tree(self) -> WordTree | None:
        """The tree whose nodes are the classes, if they are."""
        assert isinstance(self.network.head, Softmax)
        return self.network.head.tree

    @torch.inference_mode()
    def __call__(self, pictures: Sequence[Picture]) -> np.ndarray:
        """Class probabilities of pictures.

        Parameters
        ----------
        pictures : sequence of PIL.Image.Image or ndarray, uint8 (H, W, 3)
            RGB, any sizes.

        Returns
        -------
        ndarray, float32 (B, C)
            On a tree, as in Darknet, the absolute ones of the leaves (the product of the conditional ones
            from a leaf up to its root), and 0 for inner nodes.
        """
        return self.probabilities(self._input(pictures, input_size(self.imgsz))).cpu().numpy()

    @torch.inference_mode()
    def probabilities(self, images: Tensor) -> Tensor:
        """Class probabilities (B, C), float32, of the network's input (B, 3, height, width) in [0, 1]."""
        return self._probabilities(self.network.eval()(images))

    @torch.inference_mode()
    def conditional(self, images: Tensor) -> Tensor:
        """P(node | parent) of a classifier on a tree, of such an input: (B, N), float32."""
        assert self.tree is not None
        return tree_softmax(self.network.eval()(images).flatten(1).float(), self.tree)

    def _probabilities(self, outputs: Tensor) -> Tensor:
        flat, tree = outputs.flatten(1).float(), self.tree
        return flat.softmax(1) if tree is None else leaf_probability(tree_softmax(flat, tree), tree)

    def _rows(self, outputs: Tensor, options: Options) -> Tensor:
        return self._probabilities(outputs)

    def _read_rows(
        self, rows: np.ndarray, pictures: Sequence[Picture], size: tuple[int, int]
    ) -> list[Tensor]:
        return list(torch.from_numpy(rows.copy()))

    def _result(
        self, found: Tensor, picture: Picture, names: dict[int, str], path: str, speed: dict[str, float]
    ) -> Results:
        image = picture if isinstance(picture, np.ndarray) else np.array(picture.convert("RGB"))
        return Results(image, path, names, probs=Probs(found), speed=dict(speed))


def leaf_probability(conditional: Tensor, tree: WordTree) -> Tensor:
    """Absolute probabilities of the leaves of a tree, and 0 for inner nodes (SPEC 13.4).

    Parameters
    ----------
    conditional : Tensor (B, N)
        P(node | parent).
    tree : WordTree
        The tree of N nodes.

    Returns
    -------
    Tensor (B, N)
        Every row sums to 1.
    """
    leaves = tree_tensors(tree, conditional.device).child_group < 0
    return absolute_probability(conditional, tree).where(leaves, 0)


def label_loss(scores: Tensor, labels: Tensor, tree: WordTree | None = None) -> Tensor:
    """Minus the log of the probability of every picture's class, summed over the pictures (SPEC 10, 13.4).

    On a tree a label says that its ancestors are right too: the loss of a picture is the sum of
    -ln P(node | parent) from its label up to the root. Its gradient is P(node | parent) - truth in the groups
    of siblings on that path, and 0 in all others, also in that of the children of an inner label. In current
    Darknet the [cost] type=masked that follows the softmax in darknet9000.cfg adds it a second time
    (SPEC 13.5); here it counts once, as the paper has it, and as it does without a tree.

    Parameters
    ----------
    scores : Tensor (B, C)
        Raw outputs, float32 or float64.
    labels : Tensor (B,) int64
        A class, or any node of the tree, per picture.
    tree : WordTree, optional
        The tree of C nodes; None are classes that exclude each other.

    Returns
    -------
    Tensor
        A scalar, differentiable.
    """
    if tree is None:
        return F.cross_entropy(scores, labels, reduction="sum")
    paths = tree_tensors(tree, scores.device).path_nodes[labels]  # (B, D): the label, ..., its root, then -1
    logs = tree_log_softmax(scores, tree).gather(1, paths.clamp(min=0))
    return -logs.where(paths >= 0, 0).sum()

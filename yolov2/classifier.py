"""A trained classifier, Darknet-19 and its family: pictures in, probabilities out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fast.wordtree import absolute_probability, tree_softmax
from reference.layers import Softmax, output_shapes
from yolov2.model import Model, Picture, input_size
from yolov2.results import Probs, Results


@dataclass(repr=False)
class Classifier(Model):
    """A network that ends in a softmax, with its conventions; see `Model` for the parameters."""

    HEADS: ClassVar = (Softmax,)

    @property
    def classes(self) -> int:
        """Number of classes, or of nodes of the tree."""
        channels, height, width = output_shapes(self.network.layers, self.network.input_shape)[-1]
        return channels * height * width

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

    def _probabilities(self, outputs: Tensor) -> Tensor:
        head, flat = self.network.head, outputs.flatten(1).float()
        assert isinstance(head, Softmax)
        if head.tree is None:
            return flat.softmax(1)
        leaves = torch.tensor([group < 0 for group in head.tree.child_group], device=flat.device)
        return absolute_probability(tree_softmax(flat, head.tree), head.tree).where(leaves, 0)

    def _interpret(
        self,
        outputs: Tensor,
        pictures: Sequence[Picture],
        size: tuple[int, int],
        conf: float,
        iou: float,
        max_det: int,
    ) -> list[Tensor]:
        return list(self._probabilities(outputs).cpu())

    def _result(
        self, found: Tensor, picture: Picture, names: dict[int, str], path: str, speed: dict[str, float]
    ) -> Results:
        image = picture if isinstance(picture, np.ndarray) else np.array(picture.convert("RGB"))
        return Results(image, path, names, probs=Probs(found), speed=dict(speed))

"""One invertible transform between a picture and the network's input, used by every command."""

from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

Array = TypeVar("Array", np.ndarray, Tensor)
Mode = Literal["letterbox", "stretch"]
GREY = 0.5  # the canvas around a letterboxed picture (SPEC 14)


def pixels(picture: Image.Image | np.ndarray) -> Tensor:
    """The picture as a float32 (3, H, W) tensor, 0..255.

    It stays channel-last in memory, as it came: `resize` is quick on that.
    """
    array = np.array(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 (H, W, 3), got {array.dtype} {array.shape}")
    return torch.from_numpy(array).permute(2, 0, 1).float()


def resize(picture: Tensor, width: int, height: int) -> Tensor:
    """Bilinear with aligned corners and no smoothing, as Darknet does it at any size (SPEC 14).

    Averaging large pictures first would be kinder to the eye, but networks trained with Darknet lose by it:
    on a 768x576 picture and an input of 224 their scores moved by up to .2.
    """
    return interpolate(picture[None], (height, width), mode="bilinear", align_corners=True)[0]


@dataclass(frozen=True)
class Letterbox:
    """Fits a picture into the network's input and takes boxes there and back (SPEC 8.1).

    Parameters
    ----------
    picture_width, picture_height : int
        Size of the picture, in pixels.
    width, height : int
        Size of the network's input, in pixels.
    mode : {"letterbox", "stretch"}
        "stretch" fills the input and lets the aspect change, as Darknet did until March 2017.

    Raises
    ------
    ValueError
        If a size is not positive or the mode is unknown.
    """

    picture_width: int
    picture_height: int
    width: int
    height: int
    mode: Mode = "letterbox"

    def __post_init__(self):
        sizes = self.picture_width, self.picture_height, self.width, self.height
        if min(sizes) < 1:
            raise ValueError(
                f"a {sizes[0]}x{sizes[1]} picture on a {sizes[2]}x{sizes[3]} input: sizes must be positive"
            )
        if self.mode not in ("letterbox", "stretch"):
            raise ValueError(f"mode: {self.mode!r} is not one of letterbox, stretch")

    @property
    def new_size(self) -> tuple[int, int]:
        """(width, height) of the resized picture on the canvas, in pixels."""
        w, h = self.picture_width, self.picture_height
        if self.mode == "stretch":
            return self.width, self.height
        if np.float32(self.width) / np.float32(w) < np.float32(self.height) / np.float32(h):
            return self.width, max(1, h * self.width // w)  # a 1000x1 picture still gets its row
        return max(1, w * self.height // h), self.height

    def picture(self, picture: Image.Image | np.ndarray) -> Tensor:
        """The network's input for this picture.

        Parameters
        ----------
        picture : PIL.Image.Image or ndarray, uint8 (H, W, 3)
            RGB, of the size given to the constructor.

        Returns
        -------
        Tensor, float32 (3, height, width)
            Values in [0, 1], planes in the order R, G, B.
        """
        new_w, new_h = self.new_size
        x, y = (self.width - new_w) // 2, (self.height - new_h) // 2
        canvas = torch.full((3, self.height, self.width), GREY)
        placed = resize(pixels(picture), new_w, new_h)
        torch.mul(placed, 1 / 255, out=canvas[:, y : y + new_h, x : x + new_w])
        return canvas

    def boxes(self, boxes: Array) -> Array:
        """Boxes (..., 4) cxcywh from fractions of the picture to fractions of the input."""
        scale, offset = self._affine(boxes)
        return boxes * scale + offset

    def undo(self, boxes: Array) -> Array:
        """Boxes (..., 4) cxcywh from fractions of the input to fractions of the picture, not clipped."""
        scale, offset = self._affine(boxes)
        return (boxes - offset) / scale

    def _affine(self, like: Array) -> tuple[Array, Array]:
        # The margin is (width - new_w)/2 without the floor that `picture` needs: SPEC 8.1 ignores the
        # half pixel, and the published detections contain it.
        fraction_w, fraction_h = self.new_size[0] / self.width, self.new_size[1] / self.height
        scale = [fraction_w, fraction_h, fraction_w, fraction_h]
        offset = [(1 - fraction_w) / 2, (1 - fraction_h) / 2, 0.0, 0.0]
        if isinstance(like, Tensor):
            return like.new_tensor(scale), like.new_tensor(offset)
        return np.asarray(scale, like.dtype), np.asarray(offset, like.dtype)

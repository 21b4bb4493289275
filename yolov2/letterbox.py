"""One invertible transform between a picture and the network's input, used by every command."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fast.letterbox import Mode, draw_letterbox, letterbox, letterbox_packed, pack, placement
from yolov2.data.pictures import as_rgb

Array = TypeVar("Array", np.ndarray, Tensor)


def pixels(picture: Image.Image | np.ndarray) -> Tensor:
    """The picture as a uint8 (H, W, 3) tensor, RGB."""
    if isinstance(picture, Image.Image) and picture.mode != "RGB":
        picture = as_rgb(picture)
    array = np.array(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(f"a picture is uint8 (H, W, 3), got {array.dtype} {array.shape}")
    return torch.from_numpy(array)


def network_input(
    pictures: Sequence[Image.Image | np.ndarray],
    width: int,
    height: int,
    mode: Mode,
    device: torch.device,
    channels_last: bool = True,
) -> Tensor:
    """The network's input for pictures of any sizes.

    Parameters
    ----------
    pictures : sequence of PIL.Image.Image or ndarray, uint8 (H, W, 3)
        RGB.
    width, height : int
        Size of the network's input, in pixels.
    mode : {"letterbox", "stretch"}
        How pictures are brought to that size, see `Letterbox`.
    device : torch.device
        Where the network is.
    channels_last : bool
        Layout in memory: torch's convolutions are quicker on that, other engines want planes.

    Returns
    -------
    Tensor, float32 (B, 3, height, width)
        Values in [0, 1].
    """
    images = [pixels(p) for p in pictures]
    if device.type == "cuda":  # bytes cross the bus, all at once, and one kernel makes the batch there
        packed = pack(images, width, height, mode, pin=True).to(device)
        return letterbox_packed(packed, channels_last=channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    batch = torch.empty((len(images), 3, height, width), memory_format=layout)
    for canvas, image in zip(batch, images, strict=True):
        draw_letterbox(canvas, image, mode)
    return batch.to(device)


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
        placement((self.picture_width, self.picture_height), (self.width, self.height), self.mode)

    @property
    def new_size(self) -> tuple[int, int]:
        """(width, height) of the resized picture on the canvas, in pixels."""
        size = self.picture_width, self.picture_height
        return placement(size, (self.width, self.height), self.mode)[:2]

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

        Raises
        ------
        ValueError
            If it is of another kind or size.
        """
        image = pixels(picture)
        if image.shape[:2] != (self.picture_height, self.picture_width):
            size = f"{image.shape[1]}x{image.shape[0]}"
            raise ValueError(f"a picture of {size}, announced as {self.picture_width}x{self.picture_height}")
        return letterbox(image, self.width, self.height, self.mode)

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

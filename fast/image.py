"""Pictures as Darknet resizes them (SPEC 14)."""

from torch import Tensor
from torch.nn.functional import interpolate


def resize(image: Tensor, width: int, height: int) -> Tensor:
    """Bilinear resize with aligned corners and no smoothing at any size (SPEC 14).

    Averaging large pictures first would be kinder to the eye, but networks trained with Darknet lose by it:
    on a 768x576 picture and an input of 224 their scores moved by up to .2.

    Parameters
    ----------
    image : Tensor, float (3, H, W)
        The picture, in any range; quickest where the channels of a pixel lie together in memory.
    width, height : int
        New size in pixels.

    Returns
    -------
    Tensor (3, height, width)
        A single column or row copies the last one of the picture.
    """
    # torch would copy the first one
    image = image[..., -1:] if width == 1 else image
    image = image[:, -1:] if height == 1 else image
    return interpolate(image[None], (height, width), mode="bilinear", align_corners=True)[0]

"""Attribution maps as pictures."""

import numpy as np
from numpy.typing import NDArray

# Green and purple: told apart with every common colour blindness, and used for nothing else here.
FOR_COLOUR = (27, 120, 55)
AGAINST_COLOUR = (118, 42, 131)

_GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma
_IMAGE_CONTRAST = 0.25


def shared_scale(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Finds the attribution that is drawn in full colour, one for both maps.

    Args:
        first: signed attributions, any shape.
        second: the same for the other map.

    Returns:
        The 99th percentile of the absolute values, so that one pixel cannot fade all others; the
        largest value where that percentile is 0, and 1 where both maps are 0 everywhere.
    """
    size = np.abs(np.concatenate([first.ravel(), second.ravel()]))
    return float(np.percentile(size, 99)) or float(size.max()) or 1.0


def overlay(image: NDArray[np.uint8], attribution: NDArray[np.float32], *, scale: float) -> NDArray[np.uint8]:
    """Draws a signed attribution over a pale grey copy of its image.

    Args:
        image: shape (H, W, 3), uint8.
        attribution: shape (H, W); positive becomes green, negative purple, 0 stays grey.
        scale: the absolute attribution of full colour, > 0; larger ones are cut to it.

    Returns:
        The picture, shape (H, W, 3), uint8.
    """
    luma = image @ np.asarray(_GREY_WEIGHTS)
    paper = (255 - _IMAGE_CONTRAST * (255 - luma))[..., None]
    strength = np.clip(np.abs(attribution) / scale, 0, 1)[..., None]
    ink = np.where(attribution[..., None] > 0, FOR_COLOUR, AGAINST_COLOUR)
    picture: NDArray[np.uint8] = np.rint(paper * (1 - strength) + ink * strength).astype(np.uint8)
    return picture

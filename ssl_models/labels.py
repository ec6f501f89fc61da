"""Which training images a member may see the labels of, where it is not all of them."""

import math

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError


def labelled_images(labels: NDArray[np.int64], fraction: float, *, seed: int) -> NDArray[np.int64]:
    """Draws a fraction of the images of every class, without replacement.

    Args:
        labels: class indices of all N images, every class at least once.
        fraction: in (0, 1]; of a class of n images ``max(1, round(fraction * n))`` are drawn.
        seed: of the draw. A larger fraction of the same seed contains the smaller one.

    Returns:
        Indices of the images that were drawn, ascending.

    Raises:
        InputError: if so small a fraction holds fewer images than there are classes.
    """
    classes = np.unique(labels)
    if math.ceil(fraction * len(labels)) < len(classes):
        raise InputError(
            f"--label-fraction {fraction:g} of {len(labels)} images is fewer than one for each of the"
            f" {len(classes)} classes: give at least {math.ceil(1e6 * len(classes) / len(labels)) / 1e6:g}"
        )
    order = np.random.default_rng(seed).permutation(len(labels))
    drawn = []
    for label in classes:
        members = order[labels[order] == label]
        drawn.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(drawn))

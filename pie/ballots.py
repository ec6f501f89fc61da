"""Who votes for what on each image, as arrays that can be weighted."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from population.pairing import Design

Labels = NDArray[np.int64]
Ballots = NDArray[np.float32]

_PRODUCTS = 2**22  # float32 entries of a weighted block (16 MiB): larger ones leave the cache
_IMAGES = 2**14  # images that are sorted at a time


def changeable(dense: Labels, compressed: Labels, design: Design) -> NDArray[np.intp]:
    """Positions of the images on which another arrangement of the models could change anything.

    Args:
        dense: predicted classes, shape (K, N).
        compressed: predicted classes, shape (K', N).
        design: paired, these are the images on which a pair differs; independent, those on which any two
            models of either population do.
    """
    if design == "paired":
        return np.flatnonzero((dense != compressed).any(axis=0))
    return np.flatnonzero((dense != dense[0]).any(axis=0) | (compressed != dense[0]).any(axis=0))


def ballot_blocks(
    dense: Labels, compressed: Labels, images: NDArray[np.intp], *, columns: int
) -> Iterator[tuple[NDArray[np.intp], Ballots]]:
    """Lists the votes of both populations in blocks of images with equally many classes.

    Only classes with votes are listed, so that memory does not depend on how many classes there are.

    Args:
        dense: predicted classes, shape (K, N).
        compressed: predicted classes, shape (K', N).
        images: positions to list.
        columns: number of weightings that every ballot will be multiplied with, which sets the block size.

    Yields:
        Positions of b images, shape (b,), and their ballots, shape (b, J, K + K'): 1 where a member votes
        for the j-th, in ascending order, of the J classes that get votes on the image, else 0.
    """
    for start in range(0, len(images), _IMAGES):
        some = images[start : start + _IMAGES]
        votes = np.vstack([dense[:, some], compressed[:, some]]).T
        order = np.argsort(votes, axis=1)
        ordered = np.take_along_axis(votes, order, axis=1)
        rank = np.zeros_like(ordered)
        rank[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(axis=1)
        classes = rank[:, -1] + 1
        np.put_along_axis(rank, order, rank.copy(), axis=1)
        for count in np.unique(classes):
            alike = np.flatnonzero(classes == count)
            step = max(1, _PRODUCTS // (int(count) * columns))
            for first in range(0, len(alike), step):
                block = alike[first : first + step]
                listed = rank[block, None, :] == np.arange(count)[:, None]
                yield some[block], listed.astype(np.float32)


def weighted(ballots: Ballots, weights: NDArray[np.float32]) -> Ballots:
    """Weighted votes of every class: ballots (b, J, M) times weights (M, R), shape (b, J, R)."""
    images, classes, members = ballots.shape
    product: Ballots = (ballots.reshape(-1, members) @ weights).reshape(images, classes, -1)
    return product

"""Which training images a member learns from, where it is not all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError
from population.samples import SampleSet


def drawn_share(n: int, share: float, *, seed: int) -> NDArray[np.int64]:
    """Draws a fixed number of images, as subsampled memorisation has it (arXiv 2008.03703).

    Args:
        n: number of images.
        share: fraction of them, in (0, 1].
        seed: of the draw; a member's own.

    Returns:
        ``round(share * n)`` indices, at least one, ascending, no two alike.
    """
    count = max(1, round(share * n))
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])


def check_shares(samples: SampleSet, share: float, *, seeds: Sequence[int]) -> None:
    """Raises InputError if a draw leaves a class without images, so that no classifier could know it.

    Args:
        samples: the training images.
        share: fraction that is drawn.
        seeds: of the draws.
    """
    present = np.unique(samples.label)
    for seed in seeds:
        drawn = samples.label[drawn_share(len(samples), share, seed=seed)]
        missing = np.setdiff1d(present, drawn)
        if len(missing):
            raise InputError(
                f"--train-share {share:g}: seed {seed} draws no image of class"
                f" {samples.class_names[missing[0]]}; a larger share has some of every class"
            )

"""Permutation test of "compression changes no vote", over all images together and image by image."""

from dataclasses import dataclass
from math import gcd

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from pie.ballots import Labels, ballot_blocks, changeable, weighted
from population.pairing import Design
from population.resampling import partitions, sign_flips

Floats = NDArray[np.float64]

LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class VoteTest:
    """What rearranging the models says.

    Attributes:
        distance: of each image, shape (N,), at least 0.
        p_value: of each image, shape (N,).
        p_adjusted: after Benjamini-Hochberg over the images that could reach ``LEVEL``, shape (N,); 1 for the
            others.
        global_p: of the sum of all distances.
        p_floor: smallest p-value this test can give, globally and per image.
    """

    distance: Floats
    p_value: Floats
    p_adjusted: Floats
    global_p: float
    p_floor: float


def compare_votes(dense: Labels, compressed: Labels, *, design: Design, rng: np.random.Generator) -> VoteTest:
    """Rearranges whole models, so that correlation between images does no harm.

    The distance of an image is sum_c |n_c(dense) - n_c(compressed)| over the vote counts n_c (the taxicab
    distance of Hooker et al. 2020, arXiv 2010.03058); with unequal K, vote shares times the mean of the two K
    take the place of counts, which is the same for equal K. The distances' sum is the global statistic.
    Paired: dense and compressed are swapped within pairs; independent: the models are divided anew. An image
    on which nothing can change has p = 1. Up to 4096 rearrangements are listed in full; else 1999 are drawn
    and p = (1 + number at least as large) / 2000.

    The votes on an image, whichever population they come from, say how small its p can get: where few
    differ, no rearrangement is rare. Images that cannot reach ``LEVEL`` are left out of the adjustment, after
    Gilbert (2005, Applied Statistics 54, 143), who leaves out some more. With them next to nothing is
    found, since a good model's images are nearly all unanimous. Measured on 5000 images with accuracy
    Beta(8, .5), of which 1 % move 70 % of their votes, 200 repeats: with 10 pairs 80 % of those are found,
    with 30 all but .2 %, where all images in the adjustment give none and 8 to 12 %. At most 1.2 % of the
    rejected images were false, in both designs, with models alike or of different quality.

    Args:
        dense: predicted classes, shape (K, N).
        compressed: predicted classes, shape (K', N).
        design: "paired" where compressed member m was made from dense member m, else "independent".
        rng: source of the drawn rearrangements.

    Returns:
        Distances and p-values.
    """
    k, other = len(dense), len(compressed)
    if design == "paired":
        rearrangements = sign_flips(k, rng=rng)
        scale = 1.0
    else:
        rearrangements = partitions(k, other, rng=rng)
        scale = gcd(k, other) * (k + other) / (2 * k * other)  # from whole numbers to shares times the mean K
    # float32 holds all weighted votes exactly: they are whole and at most 2 K K', far below 2^24.
    weights = rearrangements.weights.astype(np.float32)
    columns = weights.shape[1]
    n = dense.shape[1]
    distance, p_value, p_least, total = np.zeros(n), np.ones(n), np.ones(n), np.zeros(columns)
    where = changeable(dense, compressed, design)
    for images, ballots in ballot_blocks(dense, compressed, where, columns=columns):
        signed = ballots[..., k:] - ballots[..., :k] if design == "paired" else ballots
        votes = weighted(signed, weights)
        found = np.abs(votes, out=votes).sum(axis=1)
        total += found.sum(axis=0, dtype=np.float64)
        distance[images] = found[:, 0] * scale
        p_value[images] = np.count_nonzero(found >= found[:, :1], axis=1) / columns
        p_least[images] = np.count_nonzero(found == found.max(axis=1, keepdims=True), axis=1) / columns
    p_adjusted = np.ones(n)
    able = p_least <= LEVEL
    if able.any():
        p_adjusted[able] = false_discovery_control(p_value[able])
    global_p = float((total >= total[0]).mean())
    return VoteTest(distance, p_value, p_adjusted, global_p, rearrangements.p_floor)

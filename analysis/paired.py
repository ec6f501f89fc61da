"""Are the values of some images larger than those of the images they are matched with?"""

from dataclasses import dataclass

import numpy as np

from analysis.attribution.map_similarity import MaskedFloats
from population.errors import InputError
from population.resampling import bootstrap_mean_interval, sign_flips

# Sums of the same numbers in another order differ by rounding; they count as equal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference within pairs of images, first - second.

    Attributes:
        pairs: number of pairs in which both images have a value.
        mean: of the differences, in the unit of the values.
        low: lower end of the 95 % bootstrap interval over pairs.
        high: upper end.
        p_value: two-sided, of the sign-flip test: the chance of a mean at least as far from 0 if in every
            pair the two images could as well be exchanged.
        p_floor: smallest p-value that so many pairs can give.
    """

    pairs: int
    mean: float
    low: float
    high: float
    p_value: float
    p_floor: float


def paired_difference(
    first: MaskedFloats, second: MaskedFloats, *, rng: np.random.Generator
) -> PairedDifference:
    """Tests whether a measure differs between matched images, or between two measures of one image.

    For PIEs against other images of the same dense margin, ``first`` and ``second`` are
    ``values[pairs[:, 0]]`` and ``values[pairs[:, 1]]``. The images are the sample and the networks are given:
    nothing is said about other networks.

    Args:
        first: one value per pair, shape (m,); pairs with a masked value on either side are left out.
        second: the same for the other side, shape (m,).
        rng: source of sign flips and bootstrap draws.

    Returns:
        Mean difference, interval and p-value.

    Raises:
        InputError: if the shapes disagree, or no pair has two values.
    """
    if first.ndim != 1 or first.shape != second.shape:
        raise InputError(f"pairs need two rows of one length, not {first.shape} and {second.shape}")
    differences = np.ma.MaskedArray(first - second).compressed().astype(np.float64)
    if len(differences) == 0:
        raise InputError("there is no pair of images in which both have a value")
    flips = sign_flips(len(differences), rng=rng)
    means = np.abs(differences @ flips.weights) / len(differences)
    slack = _ROUNDING * np.abs(differences).max()
    low, high = bootstrap_mean_interval(differences, rng=rng)
    return PairedDifference(
        pairs=len(differences),
        mean=float(differences.mean()),
        low=float(low),
        high=float(high),
        p_value=float((means >= means[0] - slack).mean()),
        p_floor=flips.p_floor,
    )

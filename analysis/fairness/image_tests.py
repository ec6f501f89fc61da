"""Do the images of a group differ from others, or is it the luck of which images the group has?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, random_table

from analysis.fairness.grouping import Grouping
from analysis.fairness.max_t import step_down
from population.resampling import SAMPLED

Floats = NDArray[np.float64]

P_FLOOR = 1 / (SAMPLED + 1)
"""Smallest p-value."""


@dataclass(frozen=True, eq=False)
class ImageTests:
    """What other images of the same strata would give. All of shape (groups,).

    Attributes:
        expected: mean value of as many images of the same strata, whatever their group.
        p_value: two-sided, of each group by itself.
        p_adjusted: the same by Benjamini-Hochberg.
        p_max_t: adjusted by step-down max-T (family-wise error).
    """

    expected: Floats
    p_value: Floats
    p_adjusted: Floats
    p_max_t: Floats


def image_tests(
    values: Floats, grouping: Grouping, stratum: NDArray[np.int64], *, rng: np.random.Generator
) -> ImageTests:
    """Deals the group labels out again among the images of each stratum.

    Tests over networks ask whether other seeds would say the same of these images; with enough networks any
    set of images differs from any other, one drawn at random too. This asks whether as many images, drawn at
    random from the same strata, would do it as well. With classes as strata, a group is not charged with what
    its classes lose.

    The statistic of a group is the mean over its images of the value less the mean value of the image's
    stratum. 1999 rearrangements are drawn; p = (1 + number at least as large) / 2000. They are drawn as
    tables of groups by values with fixed margins (Patefield 1981, AS 159), so that the time hardly grows with
    the number of images.

    Assumes that group labels could be dealt out anew: images of one person, or of one scene, should not count
    as many.

    Args:
        values: one per image, with few different values, such as a share of K networks, shape (N,).
        grouping: of the N images.
        stratum: index of each image's stratum, shape (N,).
        rng: source of the rearrangements.

    Returns:
        Tests per group; p is 1 for a group that no rearrangement changes.
    """
    size = len(grouping.groups)
    distinct, value = np.unique(values, return_inverse=True)
    excess, expected = np.zeros((SAMPLED + 1, size)), np.zeros(size)
    for images in _strata(stratum):
        code, seen = grouping.code[images], value[images]
        inside, row = np.unique(code, return_inverse=True)
        kinds, column = np.unique(seen, return_inverse=True)
        amounts, mean = distinct[kinds], float(values[images].mean())
        n = np.bincount(row)
        expected[inside] += n * mean
        if len(inside) == 1 or len(kinds) == 1:
            continue
        observed = np.zeros((len(inside), len(kinds)))
        np.add.at(observed, (row, column), 1)
        drawn = random_table(n, np.bincount(column)).rvs(SAMPLED, method="patefield", random_state=rng)
        excess[:, inside] += np.concatenate([observed[None], drawn]) @ (amounts - mean)
    own = np.maximum(grouping.n, 1)
    statistic = np.abs(excess / own)
    p_value = (statistic >= statistic[0] - 1e-12).mean(axis=0)
    return ImageTests(expected / own, p_value, false_discovery_control(p_value), step_down(statistic))


def _strata(stratum: NDArray[np.int64]) -> list[NDArray[np.intp]]:
    """Positions of the images of each stratum."""
    order = np.argsort(stratum, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(stratum[order])) + 1)

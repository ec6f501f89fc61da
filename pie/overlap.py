"""Whether different methods, amounts, objectives or seeds forget the same images, beyond chance."""

from collections.abc import Mapping
from itertools import combinations, zip_longest

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom

from population.errors import InputError
from population.strata import margin_strata

Members = NDArray[np.bool_]

IMAGES = "images"
"""Column of ``intersections`` with the number of images; no set may have this name."""


def pairwise_overlap(
    sets: Mapping[str, Members], *, dense_margin: NDArray[np.float64] | None = None
) -> pd.DataFrame:
    """Compares sets of images, two at a time, with what chance would give them in common.

    Chance: both sets keep their sizes and are drawn at random, so that the number of common images is
    hypergeometric. Two methods that both forget hard images have more than that in common for this reason
    alone. So the level ``given_margin`` keeps the sizes within strata of 20 images of neighbouring dense
    margin (equal margins stay together). The number of common images is then a sum of independent
    hypergeometric ones, whose distribution is computed, not drawn: the exact form of the test of Cochran,
    Mantel and Haenszel. Two-sided: twice the smaller tail, at most 1; the expectation shows the direction.

    Measured level at p <= 0.05, for sets that depend on the margin and on nothing else (a chance of .6
    exp(-rank / (t N)), t = .03 and .1; N = 360, 2000 and 10,000; 200 to 400 pairs each): .02 to .05 given
    the margin, .6 to 1 without it. Ten strata of equal size, instead of strata of 20 images, gave up to .99:
    within a tenth of the images the margin still decides.

    PIEs against one dense population share its chance: an image whose dense modal label is nearly a tie
    easily becomes a PIE of every method, also among images of one margin.

    Args:
        sets: at least two; name to whether each image is in the set, shape (N,).
        dense_margin: how clear the dense prediction is, mean over networks, shape (N,).

    Returns:
        One row per pair, in the order of the sets: first, second (names), size_first, size_second, common
        (numbers of images), jaccard (common images among those in either; missing where both are empty),
        kappa (Cohen's; missing where both are empty or hold every image), expected (common images by chance),
        p_value, p_adjusted (Benjamini-Hochberg over all pairs); with margins also expected_given_margin,
        p_given_margin and p_given_margin_adjusted.

    Raises:
        InputError: if there are fewer than two sets, they are not boolean and of one length, or the margins
            are not finite and of that length.
    """
    names, members = _checked(sets)
    n = members.shape[1]
    pairs = list(combinations(range(len(names)), 2))
    size = members.sum(axis=1)
    first, second = (size[list(side)] for side in zip(*pairs, strict=True))
    common = np.array([int((members[a] & members[b]).sum()) for a, b in pairs])
    expected, p_value = _chance(members, pairs, common, np.zeros(n, dtype=np.int64))
    table = pd.DataFrame(
        {
            "first": [names[a] for a, _ in pairs],
            "second": [names[b] for _, b in pairs],
            "size_first": first,
            "size_second": second,
            "common": common,
            "jaccard": _ratio(common, first + second - common),
            # (p_o - p_e) / (1 - p_e), in numbers of common images.
            "kappa": _ratio(common - expected, (first + second) / 2 - expected),
            "expected": expected,
            "p_value": p_value,
            "p_adjusted": false_discovery_control(p_value),
        }
    )
    if dense_margin is not None:
        if dense_margin.shape != (n,) or not np.isfinite(dense_margin).all():
            raise InputError(f"dense margins must be finite and of shape ({n},), as the sets are")
        expected, p_value = _chance(members, pairs, common, margin_strata(dense_margin))
        table["expected_given_margin"] = expected
        table["p_given_margin"] = p_value
        table["p_given_margin_adjusted"] = false_discovery_control(p_value)
    return table


def intersections(sets: Mapping[str, Members]) -> pd.DataFrame:
    """Counts the images that are in exactly these sets and no other.

    Args:
        sets: at least two; name to whether each image is in the set, shape (N,).

    Returns:
        One row per combination of sets that has images, most images first (among equals, combinations of
        the sets that come first): a boolean column per set, and ``images``. Images in no set are left out.

    Raises:
        InputError: if there are fewer than two sets, they are not boolean and of one length, or one is
            called "images".
    """
    names, members = _checked(sets)
    if IMAGES in names:
        raise InputError(f"no set may be called {IMAGES!r}, the name of the column of counts")
    combination, count = np.unique(members[:, members.any(axis=0)], axis=1, return_counts=True)
    table = pd.DataFrame(combination.T, columns=names)
    table[IMAGES] = count
    return table.sort_values([IMAGES, *names], ascending=False, ignore_index=True)


def _checked(sets: Mapping[str, Members]) -> tuple[list[str], Members]:
    """Names, and membership of shape (sets, N)."""
    if len(sets) < 2:
        raise InputError(f"overlap needs at least 2 sets, not {len(sets)}")
    length = len(next(iter(sets.values())))
    for name, members in sets.items():
        if members.dtype != np.bool_ or members.shape != (length,):
            raise InputError(
                f"sets must be boolean and of one shape, ({length},); {name!r} is {members.dtype} of"
                f" shape {members.shape}"
            )
    return list(sets), np.stack(list(sets.values()))


def _chance(
    members: Members, pairs: list[tuple[int, int]], common: NDArray[np.int64], stratum: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expected common images and two-sided p of every pair, given the sizes within strata."""
    size = np.bincount(stratum)
    sizes = np.stack([np.bincount(stratum[chosen], minlength=len(size)) for chosen in members])
    expected, p_value = np.empty(len(pairs)), np.empty(len(pairs))
    for row, (a, b) in enumerate(pairs):
        expected[row] = (sizes[a] * sizes[b] / size).sum()
        least, probability = _common_by_chance(np.stack([size, sizes[a], sizes[b]], axis=1))
        seen = common[row] - least
        p_value[row] = min(1.0, 2 * min(probability[: seen + 1].sum(), probability[seen:].sum()))
    return expected, p_value


def _common_by_chance(strata: NDArray[np.int64]) -> tuple[int, NDArray[np.float64]]:
    """Distribution of the number of common images.

    Args:
        strata: images, images of the first and of the second set in each stratum, shape (strata, 3).

    Returns:
        The least possible number, and the probabilities of it and the numbers that follow.
    """
    total, parts = 0, []
    for (images, first, second), times in zip(*np.unique(strata, axis=0, return_counts=True), strict=True):
        least, most = max(0, first + second - images), min(first, second)
        total += least * times
        if most > least:
            parts += [hypergeom.pmf(np.arange(least, most + 1), images, first, second)] * times
    certain = np.ones(1)
    while len(parts) > 1:
        parts = [np.convolve(a, b) for a, b in zip_longest(parts[::2], parts[1::2], fillvalue=certain)]
    return total, parts[0] if parts else certain


def _ratio(part: NDArray[np.generic], whole: NDArray[np.generic]) -> "pd.Series[float]":
    """Part / whole, missing where the whole is 0."""
    return pd.Series(part, dtype="Float64") / pd.Series(whole, dtype="Float64").replace(0, pd.NA)

"""Whose images become PIEs?"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from analysis.fairness.changes import number_columns
from analysis.fairness.grouping import MINIMUM, Grouping, groupings
from analysis.fairness.image_tests import image_tests
from population.errors import InputError
from population.strata import margin_strata

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_MARGIN = ("expected_given_margin", "p_given_margin", "p_given_margin_adjusted", "p_given_margin_max_t")
_Z = norm.ppf(0.975)


def group_pies(
    pie: Bools,
    groups: pd.DataFrame,
    sample_id: NDArray[np.str_],
    *,
    label: NDArray[np.int64] | None,
    dense_margin: Floats | None,
    seed: int,
) -> pd.DataFrame:
    """Compares the shares of PIEs of groups with what images of the same classes, or margin, have.

    Question: are images of this group PIEs more often than the rest; and is that more than that the dense
    networks were unsure of them anyway? Tests: see ``image_tests``, within classes, and within strata of 20
    images of neighbouring dense margin. They take the networks as given.

    Args:
        pie: which images are PIEs, shape (N,).
        groups: one row per image, its index the sample ids; see ``groupings``.
        sample_id: of the N images.
        label: true classes, shape (N,); None where they are not known: then all images are one stratum.
        dense_margin: how clear the dense prediction is, mean over networks, shape (N,); None where unknown.
        seed: of the rearrangements.

    Returns:
        One row per grouping and group: grouping, group, n (images), few (whether these are fewer than 30),
        pies, share, share_low, share_high (of PIEs; 95 % interval of Wilson, over images), share_rest (of the
        other groups together), expected (share of images of the same classes), p_value, p_adjusted
        (Benjamini-Hochberg over the groups of a grouping), p_max_t (step-down max-T, family-wise), and
        expected_given_margin, p_given_margin, p_given_margin_adjusted, p_given_margin_max_t, missing without
        margins.

    Raises:
        InputError: if there is no column of groups, or these or the arrays do not fit the samples.
    """
    if groups.shape[1] == 0:
        raise InputError("shares of PIEs by group need at least one column of groups")
    for name, array in (("pie", pie), ("label", label), ("dense_margin", dense_margin)):
        if array is not None and array.shape != (len(sample_id),):
            raise InputError(f"{name} must have shape ({len(sample_id)},), not {array.shape}")
    rng = np.random.default_rng(seed)
    classes = np.zeros(len(pie), dtype=np.int64) if label is None else label
    margins = None if dense_margin is None else margin_strata(dense_margin)
    found = [_rows(pie, g, classes, margins, rng) for g in groupings(groups, sample_id)[1:]]
    return pd.concat(found, ignore_index=True)


def _rows(
    pie: Bools,
    grouping: Grouping,
    classes: NDArray[np.int64],
    margins: NDArray[np.int64] | None,
    rng: np.random.Generator,
) -> pd.DataFrame:
    n, pies = grouping.n, grouping.counts(pie[None])[0]
    share = pies / n
    rest = np.ma.divide(pie.sum() - pies, len(pie) - n)
    low, high = _wilson(share, n)
    within = image_tests(pie.astype(np.float64), grouping, classes, rng=rng)
    given = {}
    if margins is not None:
        alike = image_tests(pie.astype(np.float64), grouping, margins, rng=rng)
        values = (alike.expected, alike.p_value, alike.p_adjusted, alike.p_max_t)
        given = dict(zip(_MARGIN, values, strict=True))
    everywhere = np.ones(len(n), dtype=bool)
    return pd.DataFrame(
        {
            "grouping": grouping.name,
            "group": grouping.groups,
            "n": n,
            "few": n < MINIMUM,
            "pies": pies,
            "share": share,
            "share_low": low,
            "share_high": high,
            **number_columns({"share_rest": rest}, ("share_rest",), everywhere),
            "expected": within.expected,
            "p_value": within.p_value,
            "p_adjusted": within.p_adjusted,
            "p_max_t": within.p_max_t,
            **number_columns(given, _MARGIN, everywhere),
        }
    )


def _wilson(share: Floats, n: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Wilson's 95 % interval of a share of n images (1927, JASA 22, 209)."""
    weight = 1 + _Z**2 / n
    middle = (share + _Z**2 / (2 * n)) / weight
    half = _Z * np.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2) / weight
    return np.maximum(middle - half, 0), np.minimum(middle + half, 1)

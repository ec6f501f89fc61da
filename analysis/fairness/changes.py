"""What the members of two populations say of a change: means, intervals, and tests against the whole."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, ttest_ind_from_stats

from analysis.fairness.max_t import max_t
from population.pairing import Design
from population.resampling import bootstrap_means, partitions, percentile_interval, sign_flips

Floats = NDArray[np.float64]
Values = Floats | np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]

CHANGE = ("dense", "compressed", "change", "change_low", "change_high")
"""Columns of a mean change with its interval; see ``mean_changes``."""

_ROUNDING = 1e-12  # sums of shares that are equal on paper may differ by this much


@dataclass(frozen=True, eq=False)
class ChangeTests:
    """Two-sided p-values of units (classes or groups) that change otherwise than the whole.

    Attributes:
        p_value: of the permutation test, each unit by itself, shape (units,).
        p_adjusted: the same by Benjamini-Hochberg (false discovery rate).
        p_max_t: of the permutation test, adjusted by step-down max-T (family-wise error).
        p_welch: of Welch's t as published.
        p_welch_adjusted: the same by Benjamini-Hochberg.
        p_floor: smallest p that the permutation test can give.
    """

    p_value: Floats
    p_adjusted: Floats
    p_max_t: Floats
    p_welch: Floats
    p_welch_adjusted: Floats
    p_floor: float


def change_tests(
    before: Floats,
    after: Floats,
    whole_before: Floats,
    whole_after: Floats,
    *,
    design: Design,
    rng: np.random.Generator,
) -> ChangeTests:
    """Tests which units change more or less than the model as a whole.

    Permutation: each model's rates are taken relative to its own rate over all units, and the statistic of a
    unit is |mean over compressed - mean over dense|. Paired: dense and compressed are swapped within
    pairs; independent: the models are divided anew. Welch's t as published for recall (Hooker et al. 2019,
    arXiv 1911.05248, and their code): {rate(m, 0) - whole(0)} against {rate(m, t) - whole(t)}, with whole the
    population's mean. It takes that mean as fixed and the two populations as independent, which they are
    not in a paired design. Deviation: the paper corrects for nothing; the family here is all units given.

    Args:
        before: rates of the dense models, shape (K, units).
        after: rates of the compressed models, shape (K', units).
        whole_before: the rate over all units per dense model, shape (K,).
        whole_after: the same per compressed model, shape (K',).
        design: "paired" where compressed member m was made from dense member m, else "independent".
        rng: source of drawn rearrangements.

    Returns:
        p-values per unit.
    """
    own_before, own_after = before - whole_before[:, None], after - whole_after[:, None]
    if design == "paired":
        values, rearrangements = own_after - own_before, sign_flips(len(before), rng=rng)
    else:
        values = np.vstack([own_before, own_after])
        rearrangements = partitions(len(before), len(after), rng=rng)
    statistic = np.abs(rearrangements.weights.T @ values)
    p_value = (statistic >= statistic[0] - _ROUNDING).mean(axis=0)
    p_welch = _welch_p(before - whole_before.mean(), after - whole_after.mean())
    return ChangeTests(
        p_value=p_value,
        p_adjusted=false_discovery_control(p_value),
        p_max_t=max_t(values, rearrangements),
        p_welch=p_welch,
        p_welch_adjusted=false_discovery_control(p_welch),
        p_floor=rearrangements.p_floor,
    )


def mean_changes(
    before: Floats, after: Floats, *, design: Design, rng: np.random.Generator
) -> dict[str, Values]:
    """Means over members before and after, and their change with its bootstrap interval.

    Args:
        before: values of the dense members, shape (K, units).
        after: values of the compressed members, shape (K', units).
        design: "paired" where members are drawn with their partners, else "independent".
        rng: source of the draws.

    Returns:
        Of shape (units,): dense, compressed, change (compressed - dense), change_percent (100 change / dense,
        masked where dense is 0), and unless there are single members, change_low, change_high (95 %
        bootstrap interval over members), change_percent_low and change_percent_high (masked where a draw of
        members has dense 0).
    """
    dense, compressed = before.mean(axis=0), after.mean(axis=0)
    change = compressed - dense
    numbers: dict[str, Values] = {
        "dense": dense,
        "compressed": compressed,
        "change": change,
        "change_percent": np.ma.divide(100 * change, dense),
    }
    if len(before) > 1:
        if design == "paired":
            both = bootstrap_means(np.stack([before, after], axis=1), rng=rng)
            dense_draws, compressed_draws = both[:, 0], both[:, 1]
        else:
            dense_draws, compressed_draws = bootstrap_means(before, rng=rng), bootstrap_means(after, rng=rng)
        draws = compressed_draws - dense_draws
        numbers["change_low"], numbers["change_high"] = percentile_interval(draws)
        zero = (dense_draws == 0).any(axis=0)
        ends = percentile_interval(100 * draws / np.where(zero, 1, dense_draws))
        numbers["change_percent_low"], numbers["change_percent_high"] = (
            np.ma.masked_array(end, zero) for end in ends
        )
    return numbers


def number_columns(
    numbers: Mapping[str, Values], names: Sequence[str], known: NDArray[np.bool_]
) -> dict[str, pd.arrays.FloatingArray]:
    """Columns of a table with missing values where nothing is known.

    Args:
        numbers: values of the rows that are known; masked ones are missing.
        names: the wanted columns; those without numbers are missing throughout.
        known: which rows the numbers are of, shape (rows,).

    Returns:
        One column per name, of length (rows,).
    """
    columns = {}
    for name in names:
        values, missing = np.zeros(len(known)), np.ones(len(known), dtype=bool)
        if name in numbers:
            values[known], missing[known] = np.ma.filled(numbers[name], 0), np.ma.getmaskarray(numbers[name])
        columns[name] = pd.arrays.FloatingArray(values, missing)
    return columns


def _welch_p(before: Floats, after: Floats) -> Floats:
    """Welch's two-sided p per unit.

    Where neither population varies, t has no value: p is 1 if the means are equal, else its limit 0.
    """
    means = before.mean(axis=0), after.mean(axis=0)
    p_value = np.where(np.isclose(*means, rtol=0, atol=_ROUNDING), 1.0, 0.0)
    varies = (np.ptp(before, axis=0) > 0) | (np.ptp(after, axis=0) > 0)
    p_value[varies] = ttest_ind_from_stats(
        means[0][varies], before[:, varies].std(axis=0, ddof=1), len(before),
        means[1][varies], after[:, varies].std(axis=0, ddof=1), len(after),
        equal_var=False,
    ).pvalue  # fmt: skip
    return p_value

"""Fair comparisons: methods at equal parameters, equal operations or equal accuracy."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from analysis.fairness.changes import Values, number_columns
from population.errors import InputError, unknown_name
from population.resampling import bootstrap_means

Floats = NDArray[np.float64]
Masked = np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]

AXES = ("params_kept", "macs_kept", "accuracy")
"""What falls as the amount of compression grows."""

_NUMBERS = ("outcome_first", "outcome_second", "difference", "low", "high", "reached")
_KEYS = ["repair", "method", "amount", "member"]
_DECIMALS = 9  # of the axis, so that a point at the end of a curve is on it


@dataclass(frozen=True, eq=False)
class EqualComparison:
    """Methods compared where an axis has the same value.

    Attributes:
        table: one row per repair, pair of methods and point: repair, first, second (methods), point (on the
            axis), outcome_first, outcome_second, difference (first - second), low, high (95 % bootstrap
            interval over members, missing for a single one), reached (share of the draws in which both
            curves reach the point). Outcomes are missing where their curve does not reach the point, and
            differences where either does not.
        ranges: one row per repair and method: repair, method, low, high (the stretch of the axis that the
            curve covers). Where two stretches do not overlap, nothing can be compared.
    """

    table: pd.DataFrame
    ranges: pd.DataFrame


def compare_at(
    table: pd.DataFrame, *, axis: str, points: Sequence[float], outcome: str, rng: np.random.Generator
) -> EqualComparison:
    """Compares the outcomes of methods at equal parameters, operations or accuracy.

    Question: does merging do more harm than pruning once both keep as much? The amounts of two methods do not
    say. Each method gives a curve: for every amount, the means over members of axis and outcome. Between
    neighbouring amounts it is linear; beyond its ends it does not go. Where the means of the axis rise with
    the amount (an accuracy, by noise), neighbours are averaged, and their outcomes with them, until they
    fall (isotonic regression). Methods are compared under the same repair.

    Members are drawn for both methods together, as they stem from the same dense networks. A draw whose curve
    does not reach the point counts as unbounded on both sides, so that an end of the interval is missing
    where more than 2.5 % of the draws do not.

    Assumes that outcomes are about linear between amounts: choose these close together.

    Args:
        table: one row per repair, method, amount and member, in columns of these names, with the axis and
            the outcome of that member, for example its share of flips or the change of its worst class. (The
            share of PIEs is of a population, not of a member: given for every member, it gets an interval
            of no width.) Rows of the dense networks, amount 0, let a curve begin there. Further columns are
            not read.
        axis: "params_kept", "macs_kept" or "accuracy", a column of the table.
        points: values of the axis at which to compare.
        outcome: a column of the table.
        rng: source of the draws of members.

    Returns:
        Differences at the points, and what each curve covers.

    Raises:
        InputError: if the axis is unknown, a column, a value or all rows are missing, a row is there twice, a
            repair has fewer than two methods, a method fewer than two amounts, or conditions differ in their
            members.
    """
    if axis not in AXES:
        raise unknown_name("axis", axis, AXES)
    _check(table, [axis, outcome])
    targets = np.asarray(points, dtype=np.float64).round(_DECIMALS)
    comparisons = []
    for repair, part in table.groupby("repair", sort=False):
        values, methods = _member_values(part, str(repair), axis, outcome)
        means = values.mean(axis=0)
        # The first draw is the members as they are.
        draws = np.concatenate([means[None], bootstrap_means(values, rng=rng)])
        outcomes = {}
        for method, amounts in methods.items():
            outcomes[method] = _outcomes(draws[:, amounts], targets)
        for first, second in combinations(methods, 2):
            numbers = _compared(outcomes[first], outcomes[second], single=len(values) == 1)
            columns = number_columns(numbers, _NUMBERS, np.ones(len(targets), dtype=bool))
            names = {"repair": repair, "first": first, "second": second, "point": targets}
            comparisons.append(pd.DataFrame({**names, **columns}))
    return EqualComparison(pd.concat(comparisons, ignore_index=True), curve_ranges(table, axis=axis))


def curve_ranges(table: pd.DataFrame, *, axis: str) -> pd.DataFrame:
    """The stretch of an axis that the curve of each method covers, as in ``EqualComparison``.

    Args:
        table: as for ``compare_at``; outcomes are not read.
        axis: a column of the table.

    Raises:
        InputError: as ``compare_at``.
    """
    if axis not in AXES:
        raise unknown_name("axis", axis, AXES)
    _check(table, [axis])
    rows = []
    for repair, part in table.groupby("repair", sort=False):
        values, methods = _member_values(part, str(repair), axis, axis)
        for method, amounts in methods.items():
            stretch, _ = _curve(values[:, amounts].mean(axis=0))
            rows.append({"repair": repair, "method": method, "low": stretch[0], "high": stretch[-1]})
    return pd.DataFrame(rows)


def _check(table: pd.DataFrame, numbers: Sequence[str]) -> None:
    missing = {*_KEYS, *numbers} - set(table.columns)
    if missing:
        raise InputError(f"the table of conditions lacks {', '.join(sorted(missing))}")
    if table.empty:
        raise InputError("the table of conditions has no rows")
    for name in ("amount", *numbers):
        if not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(f"column {name!r} must be numbers, not of type {table[name].dtype}")
        if not np.isfinite(table[name].to_numpy(dtype=np.float64, na_value=np.nan)).all():
            raise InputError(f"column {name!r} has values that are missing or not finite")
    if table[_KEYS].isna().any(axis=None):
        raise InputError(f"every row needs {', '.join(_KEYS)}")
    twice = table.duplicated(_KEYS)
    if twice.any():
        repair, method, amount, member = table.loc[twice, _KEYS].iloc[0]
        raise InputError(f"member {member} of {method} {amount} with repair {repair} is there twice")


def _member_values(
    part: pd.DataFrame, repair: str, axis: str, outcome: str
) -> tuple[Floats, dict[str, NDArray[np.int64]]]:
    """Axis and outcome, shape (members, conditions, 2), and each method's conditions by rising amount."""
    wide = [part.pivot(index="member", columns=["method", "amount"], values=name) for name in (axis, outcome)]
    conditions = wide[0].columns
    incomplete = wide[0].isna().any()
    if incomplete.any():
        lacking = conditions[int(np.argmax(incomplete))]
        raise InputError(f"condition {lacking} with repair {repair} lacks members that others have")
    methods = {}
    for method in conditions.get_level_values("method").unique():
        where = np.flatnonzero(conditions.get_level_values("method") == method)
        methods[str(method)] = where[np.argsort(conditions.get_level_values("amount")[where])]
    fewest = min(map(len, methods.values()))
    if len(methods) < 2 or fewest < 2:
        raise InputError(
            f"a comparison needs 2 methods with 2 amounts each; repair {repair} has {len(methods)} methods,"
            f" one of them with {fewest} amounts"
        )
    return np.stack([values.to_numpy(dtype=np.float64) for values in wide], axis=2), methods


def _curve(means: Floats) -> tuple[Floats, Floats]:
    """Knots of the curve by rising axis, of means by rising amount, shape (amounts, 2)."""
    falling = np.round(isotonic_regression(means[:, 0], increasing=False).x, _DECIMALS)
    x, block = np.unique(falling, return_inverse=True)
    return x, np.bincount(block, means[:, 1]) / np.bincount(block)


def _outcomes(draws: Floats, points: Floats) -> Masked:
    """Outcomes at the points, shape (draws, points), masked where a draw's curve does not reach."""
    x, y = np.round(draws[..., 0], _DECIMALS), draws[..., 1]
    # Most draws need no averaging of neighbours; these are interpolated together, 50 times as fast.
    falling = (np.diff(x, axis=1) < 0).all(axis=1)
    found = np.full((len(draws), len(points)), np.nan)
    found[falling] = _interpolated(x[falling, ::-1], y[falling, ::-1], points)
    for draw in np.flatnonzero(~falling):
        found[draw] = np.interp(points, *_curve(draws[draw]), left=np.nan, right=np.nan)
    return np.ma.masked_invalid(found)


def _interpolated(x: Floats, y: Floats, points: Floats) -> Floats:
    """Outcomes at the points of curves with rising knots, shapes (draws, knots); NaN beyond their ends."""
    right = (x[:, None, :] < points[:, None]).sum(axis=2).clip(1, x.shape[1] - 1)
    x0, x1, y0, y1 = (np.take_along_axis(v, at, axis=1) for v in (x, y) for at in (right - 1, right))
    found: Floats = y0 + (y1 - y0) * (points - x0) / (x1 - x0)
    return np.where((points < x[:, :1]) | (points > x[:, -1:]), np.nan, found)


def _compared(first: Masked, second: Masked, *, single: bool) -> dict[str, Values]:
    """Columns of the table, of outcomes at the points, shape (1 + draws, points)."""
    differences = first - second
    numbers: dict[str, Values] = {
        "outcome_first": first[0],
        "outcome_second": second[0],
        "difference": differences[0],
        "reached": 1 - np.ma.getmaskarray(differences[1:]).mean(axis=0),
    }
    if not single:
        for name, share, unbounded in (("low", 0.025, -np.inf), ("high", 0.975, np.inf)):
            end = np.quantile(differences[1:].filled(unbounded), share, axis=0, method="inverted_cdf")
            numbers[name] = np.ma.masked_array(end, np.isinf(end) | np.ma.getmaskarray(differences[0]))
    return numbers

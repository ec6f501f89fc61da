"""Methods of a report compared at equal parameters, operations or accuracy; predictions are enough."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis.fairness.at_equal import AXES, compare_at, curve_ranges
from analysis.fairness.outcomes import OUTCOMES, member_outcomes
from pie_report.plain import records
from population.predictions import Predictions

#: Values of an axis at which two methods are compared: the middles of as many equal parts of the stretch that
#: both curves cover. At its ends few draws of members would reach.
POINTS = 5

_WORDS = {"params_kept": "parameters", "macs_kept": "MACs"}
_KEYS = ["repair", "axis", "outcome", "first", "second", "point"]


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed population as one point of its method's curve.

    Attributes:
        method: how it was compressed.
        amount: fraction removed.
        repair: what was done after it.
        params_kept: fraction of the parameters.
        macs_kept: fraction of the operations.
        predictions: what the networks say; the dense network that each was made from has the same place.
    """

    method: str
    amount: float
    repair: str
    params_kept: float
    macs_kept: float
    predictions: Predictions


@dataclass(frozen=True, eq=False)
class FairComparison:
    """Methods beside each other where they keep, or reach, the same.

    Attributes:
        curves: one row per repair, method and amount: what it keeps, and mean and standard deviation over
            members of every outcome.
        table: rows of ``compare_at`` for every repair, axis, outcome and pair of methods.
        ranges: the stretch that each curve covers, per repair, axis and method.
        not_compared: repair, axis, first, second and the reason.
        left_out: repair and method of those with a single amount, which is no curve.
    """

    curves: pd.DataFrame
    table: pd.DataFrame
    ranges: pd.DataFrame
    not_compared: Sequence[Mapping[str, str]]
    left_out: Sequence[Mapping[str, str]]

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The tables by the names of their files."""
        return {"fair": self.table, "fair_ranges": self.ranges, "fair_curves": self.curves}

    def section(self) -> dict[str, Any]:
        """Section ``fair`` of report.json."""
        return {
            "points": POINTS,
            "comparisons": records(self.table),
            "ranges": records(self.ranges),
            "not_compared": [dict(row) for row in self.not_compared],
            "left_out": [dict(row) for row in self.left_out],
        }


def fair_comparison(
    dense: Predictions, reestimated: Predictions | None, conditions: Sequence[Compressed], *, seed: int
) -> FairComparison | None:
    """Compares every two methods with at least two amounts each, under each repair.

    A curve begins at amount 0: at the dense networks, which under repair ``bn`` are those with re-estimated
    norms. Outcomes are changes from the dense networks as they were trained.

    Args:
        dense: K networks before, with labels.
        reestimated: the same after repair ``bn`` alone; needed where it is a repair.
        conditions: paired with the dense networks, member by member.
        seed: of the draws of members.

    Returns:
        None where no repair has two such methods.
    """
    members = _member_rows(dense, reestimated, conditions)
    amounts = members[members["amount"] > 0].groupby(["repair", "method"], sort=False)["amount"].nunique()
    left_out = [_named(repair, method) for repair, method in amounts.index[amounts < 2]]
    enough = members.set_index(["repair", "method"]).index.isin(amounts.index[amounts >= 2])
    members = members[enough]
    several = members.groupby("repair")["method"].transform("nunique") > 1
    members = members[several]
    if members.empty:
        return None
    ranges, parts, missing = [], [], []
    for repair, rows in members.groupby("repair", sort=False):
        for axis in AXES:
            found = curve_ranges(rows, axis=axis)
            ranges.append(found.assign(axis=axis))
            points, reasons = _points(found, axis)
            missing += [{"repair": str(repair), "axis": axis, **reason} for reason in reasons]
            parts += list(_compared(rows, axis, points, seed))
    table = pd.concat(parts, ignore_index=True)
    return FairComparison(
        _curves(members),
        table[[*_KEYS, *(name for name in table if name not in _KEYS)]],
        pd.concat(ranges, ignore_index=True)[["repair", "axis", "method", "low", "high"]],
        missing,
        [row for row in left_out if row["repair"] in set(members["repair"])],
    )


def _named(repair: str, method: str) -> dict[str, str]:
    return {"repair": repair, "method": method}


def _member_rows(
    dense: Predictions, reestimated: Predictions | None, conditions: Sequence[Compressed]
) -> pd.DataFrame:
    """One row per repair, method, amount and member."""
    parts = []
    begun = {(c.repair, c.method) for c in conditions if c.amount == 0}
    for condition in conditions:
        place = condition.repair, condition.method
        if place not in begun:
            begun.add(place)
            start = reestimated if condition.repair == "bn" and reestimated is not None else dense
            parts.append(_rows(dense, Compressed(condition.method, 0.0, condition.repair, 1.0, 1.0, start)))
        parts.append(_rows(dense, condition))
    return pd.concat(parts, ignore_index=True)


def _rows(dense: Predictions, condition: Compressed) -> pd.DataFrame:
    names = ("repair", "method", "amount", "params_kept", "macs_kept")
    return member_outcomes(dense, condition.predictions).assign(
        **{name: getattr(condition, name) for name in names}
    )


def _points(
    ranges: pd.DataFrame, axis: str
) -> tuple[dict[tuple[str, str], list[float]], list[dict[str, str]]]:
    """Points of the axis at which each pair of methods is compared, and why others are not."""
    ends = {str(row["method"]): (row["low"], row["high"]) for row in ranges.to_dict("records")}
    points, reasons = {}, []
    for first, second in combinations(ends, 2):
        low, high = (pick(ends[first][i], ends[second][i]) for i, pick in enumerate((max, min)))
        if low < high:
            middles = low + (high - low) * (np.arange(POINTS) + 0.5) / POINTS
            points[first, second] = middles.tolist()
        else:
            reasons.append({"first": first, "second": second, "reason": _reason(ends, (first, second), axis)})
    return points, reasons


def _reason(ends: Mapping[str, tuple[float, float]], pair: tuple[str, str], axis: str) -> str:
    whole = [method for method in pair if ends[method][0] == ends[method][1]]
    if not whole:
        return "the two curves have no stretch in common"
    names = " and ".join(whole)
    keep, lose = ("keeps", "loses") if len(whole) == 1 else ("keep", "lose")
    if axis in _WORDS:
        return f"{names} {keep} all {_WORDS[axis]} whatever the amount"
    return f"{names} {lose} no accuracy at any amount"


def _compared(
    rows: pd.DataFrame, axis: str, points: Mapping[tuple[str, str], list[float]], seed: int
) -> Iterator[pd.DataFrame]:
    """The rows of each pair at its own points, one outcome after the other."""
    union = sorted({point for own in points.values() for point in own})
    for outcome in OUTCOMES if union else ():
        if axis == "accuracy" and outcome == "accuracy_change":
            continue  # it is the axis
        found = compare_at(rows, axis=axis, points=union, outcome=outcome, rng=np.random.default_rng(seed))
        for (first, second), own in points.items():
            here = (found.table["first"] == first) & (found.table["second"] == second)
            chosen = here & found.table["point"].isin(np.round(own, 9))
            yield found.table[chosen].assign(axis=axis, outcome=outcome)


def _curves(members: pd.DataFrame) -> pd.DataFrame:
    keys = ["repair", "method", "amount"]
    groups = members.groupby(keys, sort=False)
    means = groups[["params_kept", "macs_kept", "accuracy", *OUTCOMES]].mean()
    spread = groups[["accuracy", *OUTCOMES]].std().add_suffix("_sd")  # missing for a single network
    return means.join(spread).reset_index()

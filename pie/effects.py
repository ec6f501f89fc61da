"""What methods and objectives do to a count: permutation tests in a two-way layout."""

from collections import Counter
from collections.abc import Callable, Iterable
from math import factorial, prod
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import permutation_test

from population.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_CELL = ["objective", "member", "method"]
_REARRANGEMENTS = 4999  # all of them up to here; else so many are drawn, so that p has steps of 1/5000
_DECIMALS = 12  # of what is equal on paper; sums of another order differ beyond them


def layout_effects(table: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Tests for effects of the method, of the objective, and of each on the other.

    Every method starts from the same dense networks, so a member has one value under each method; it
    belongs to one objective. What is rearranged:

    - method: values between methods, within members;
    - objective: members between objectives, with their mean over methods;
    - interaction: members between objectives, with their deviations from that mean.

    The statistic is the share of the variation of all values (sum of squares over total, eta squared), every
    member counted once. No distribution is assumed. Each test keeps its level where its values could as well
    be exchanged. So objectives whose members scatter unequally tell against the last two, and an interaction
    against the first, even if it leaves the method's mean as it is: read the interaction first.

    Args:
        table: one row per objective, member and method, in columns of these names and ``value``; for example
            the flips of a pair of networks, or the change of its accuracy. Members of different objectives
            are different ones, whatever they are called. Further columns are not read.
        seed: of the drawn rearrangements.

    Returns:
        One row per effect: effect ("method", "objective", "interaction"), share (of the variation, in [0, 1];
        0 where nothing varies), p_value, p_floor (smallest p-value that this test can give), exact (whether
        all rearrangements were listed; of more than 4999, so many are drawn).

    Raises:
        InputError: if a column is missing, there are fewer than two methods or objectives, an objective has
            fewer than two members, or a member has not one finite value under each method.
    """
    values, groups = _layout(table)
    members, methods = values.shape
    deviations = values - values.mean()
    total = (deviations**2).sum()
    scaled = deviations / np.sqrt(total) if total > 0 else deviations
    own_mean = np.broadcast_to(scaled.mean(axis=1, keepdims=True), scaled.shape)
    sizes = [len(group) for group in groups]
    divisions = factorial(members) // prod(map(factorial, sizes))
    # Objectives of one size may exchange all their members: the statistic stays.
    alike = prod(map(factorial, Counter(sizes).values()))
    rng = np.random.default_rng(seed)
    swaps = factorial(methods)
    effects = {
        "method": _test("samples", scaled.T, _between_columns, swaps**members, swaps, rng),
        "objective": _test("independent", groups, _between_groups(own_mean), divisions, alike, rng),
        "interaction": _test(
            "independent", groups, _between_groups(scaled - own_mean), divisions, alike, rng
        ),
    }
    return pd.DataFrame([{"effect": name, **result} for name, result in effects.items()])


def _layout(table: pd.DataFrame) -> tuple[Floats, list[Ints]]:
    """Values, shape (members, methods), and the row indices of each objective."""
    missing = {*_CELL, "value"} - set(table.columns)
    if missing:
        raise InputError(f"the table of values lacks {', '.join(sorted(missing))}")
    if not pd.api.types.is_numeric_dtype(table["value"]):
        raise InputError(f"values must be numbers, not of type {table['value'].dtype}")
    twice = table.duplicated(_CELL)
    if twice.any():
        objective, member, method = table.loc[twice, _CELL].iloc[0]
        raise InputError(f"member {member} of {objective} has more than one value under {method}")
    wide = table.pivot(index=["objective", "member"], columns="method", values="value")
    values = wide.to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        objective, member = wide.index[row]
        raise InputError(f"member {member} of {objective} has no finite value under {wide.columns[column]}")
    objective = pd.factorize(wide.index.get_level_values("objective"))[0]
    groups = [np.flatnonzero(objective == one) for one in range(objective.max() + 1)]
    if values.shape[1] < 2 or len(groups) < 2 or min(map(len, groups)) < 2:
        raise InputError(
            "effects need at least 2 methods, 2 objectives and 2 members of each objective, not"
            f" {values.shape[1]} methods and {[len(group) for group in groups]} members"
        )
    return values, groups


def _between_columns(*columns: Floats, axis: int) -> Floats:
    """Sum of squares between methods; one array of all members per method, their grand mean 0."""
    means = np.stack([column.mean(axis=axis) for column in columns])
    share: Floats = np.round(columns[0].shape[axis] * (means**2).sum(axis=0), _DECIMALS)
    return share


def _between_groups(values: Floats) -> Callable[..., Floats]:
    """Sum of squares between objectives, as a function of the indices of each one's members."""
    centred = values - values.mean(axis=0)

    def between(*groups: Ints, axis: int) -> Floats:
        means = [centred[group].mean(axis=axis - 1) for group in groups]
        squares = [
            group.shape[axis] * (mean**2).sum(axis=-1) for group, mean in zip(groups, means, strict=True)
        ]
        share: Floats = np.round(np.sum(squares, axis=0), _DECIMALS)
        return share

    return between


def _test(
    kind: Literal["samples", "independent"],
    data: Iterable[NDArray[np.generic]],
    statistic: Callable[..., Floats],
    number: int,
    alike: int,
    rng: np.random.Generator,
) -> dict[str, float | bool]:
    """Runs scipy's test, one-sided for large values.

    Args:
        kind: what scipy rearranges: "samples" within observations, "independent" between groups.
        data: the samples or groups.
        statistic: of them.
        number: rearrangements there are.
        alike: how many of them give any one value of the statistic, at least.
        rng: source of the drawn rearrangements.
    """
    found = permutation_test(
        tuple(data),
        statistic,
        permutation_type=kind,
        vectorized=True,
        n_resamples=_REARRANGEMENTS,
        alternative="greater",
        random_state=rng,
    )
    exact = number <= _REARRANGEMENTS
    return {
        "share": float(found.statistic),
        "p_value": float(found.pvalue),
        "p_floor": alike / number if exact else 1 / (_REARRANGEMENTS + 1),
        "exact": exact,
    }

"""Bias and interval of a statistic that is no mean over members, by leaving each member out once."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from population.pairing import Design

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], float | None]


@dataclass(frozen=True)
class Estimate:
    """A statistic of two populations.

    Attributes:
        value: of the populations as they are; None where it is not defined.
        corrected: less the jackknife's estimate of the bias that few members cause. None, as are the two
            ends, where the value or that of any population less one member is not defined.
        low: lower end of the 95 % interval, which lies around the corrected value.
        high: upper end.
    """

    value: float | None
    corrected: float | None
    low: float | None
    high: float | None


def jackknife(statistic: Statistic, before: Floats, after: Floats, *, design: Design) -> Estimate:
    """Estimates a statistic, its bias and its interval over members (Quenouille 1956, Tukey 1958).

    Paired: pairs are left out. Independent: members of one population, then of the other, and both
    biases and variances are added. The interval is ``corrected +- t s`` with Student's t for K - 1 degrees of
    freedom, K the smaller population. Percentile intervals of the bootstrap fail for such statistics: those
    that grow with noise (a variance over classes, say) grow once more in every draw, and sums over pairs of
    different members lose the pairs that a draw repeats.

    Args:
        statistic: of the dense members, shape (K, ...), and the compressed ones, shape (K', ...); None
            where it is not defined.
        before: the dense members.
        after: the compressed members.
        design: "paired" where they are pairs, else "independent".

    Returns:
        Value, corrected value and interval.
    """
    value = statistic(before, after)
    if design == "paired":
        parts = [_without_each(before, after)]
    else:
        parts = [
            [(rest, after) for rest, _ in _without_each(before, before)],
            [(before, rest) for rest, _ in _without_each(after, after)],
        ]
    fewest = min(map(len, parts))
    left = [[statistic(*members) for members in part] for part in parts] if fewest > 1 else []
    if value is None or not left or any(one is None for part in left for one in part):
        return Estimate(value, None, None, None)
    bias = variance = 0.0
    for part in left:
        found = np.array(part, dtype=np.float64)
        bias += (len(found) - 1) * (float(found.mean()) - value)
        variance += (len(found) - 1) * float(found.var())
    corrected = value - bias
    half = float(t.ppf(0.975, fewest - 1)) * variance**0.5
    return Estimate(value, corrected, corrected - half, corrected + half)


def _without_each(before: Floats, after: Floats) -> list[tuple[Floats, Floats]]:
    return [(np.delete(before, m, axis=0), np.delete(after, m, axis=0)) for m in range(len(before))]

"""Which of many units change, at a chance of 5 % of any false alarm among them all."""

import numpy as np
from numpy.typing import NDArray

from population.resampling import Rearrangements

Floats = NDArray[np.float64]

_ROUNDING = 1e-12


def max_t(values: Floats, rearrangements: Rearrangements) -> Floats:
    """Adjusts permutation p-values by the largest statistic: step-down max-T of Westfall and Young (1993).

    The statistic of a unit is ``|sum_m w_m v_m|``, divided by its root mean square over the rearrangements,
    so that a small class with noisy values does not rule the maximum. Over all rearrangements of either
    design that is an increasing function of Student's t, the same for every unit: p-values are those of
    max-T on t. The unit with the largest statistic is compared with the maximum over all units, the second
    with the maximum over the others, and so on; p-values do not fall along the way. As whole members
    are rearranged, the dependence between units is kept.

    It holds the family-wise error where the members of all units without a change could be rearranged
    together: swapped within pairs, or divided anew.

    Args:
        values: what is weighted, shape (members, units): differences within pairs for ``sign_flips``, the
            values of both populations for ``partitions``. Rates or other numbers about 1 in size: sums below
            1e-12 count as 0.
        rearrangements: weights, shape (members, R).

    Returns:
        Adjusted two-sided p per unit, shape (units,); 1 for a unit that no rearrangement changes.
    """
    return step_down(np.abs(rearrangements.weights.T @ values))


def step_down(statistic: Floats) -> Floats:
    """Adjusts the p-values of statistics over rearrangements; see ``max_t``.

    Args:
        statistic: absolute values, about 1 in size or smaller, shape (rearrangements, units); the first row
            is that of the data.

    Returns:
        Adjusted p per unit, shape (units,).
    """
    size = np.sqrt((statistic**2).mean(axis=0))
    varies = size > _ROUNDING
    statistic = np.divide(statistic, size, out=np.zeros_like(statistic), where=varies)
    rising = np.argsort(statistic[0], kind="stable")
    largest = np.maximum.accumulate(statistic[:, rising], axis=1)
    own = (largest >= largest[0] - _ROUNDING).mean(axis=0)
    # From the largest statistic down; `largest[0]` is the observed statistic itself, as it is sorted.
    stepped = np.maximum.accumulate(own[::-1])[::-1]
    adjusted = np.empty_like(stepped)
    adjusted[rising] = stepped
    return adjusted

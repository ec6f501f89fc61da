"""Controls for cases: other images that the dense networks found just as hard.

Images that compression changes are hard images. Whether they also differ in another way shows only beside
unchanged images of the same dense margin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError


@dataclass(frozen=True, eq=False)
class Matching:
    """Pairs of a case and its control, and how alike their values are.

    Attributes:
        cases: indices of the cases, ascending, shape (m,).
        controls: index of the control of each case, shape (m,), no two alike.
        mean_gap: mean absolute difference of the value within pairs.
        largest_gap: largest one.
        balance_before: standardised mean difference, cases less all other samples: the difference of means
            in units of ``sqrt((var_cases + var_others) / 2)``; None where neither varies.
        balance_after: cases less controls, in the same units. Below 0.1 in size is often
            called balanced (Austin 2009, Statistics in Medicine 28).
    """

    cases: NDArray[np.int64]
    controls: NDArray[np.int64]
    mean_gap: float
    largest_gap: float
    balance_before: float | None
    balance_after: float | None


def match_nearest(value: NDArray[np.float64], is_case: NDArray[np.bool_], *, seed: int) -> Matching:
    """Gives each case the unused other sample with the nearest value, one to one.

    The cases choose one after the other in random order (greedy nearest neighbour matching without
    replacement). Between equally near controls chance decides. No pair is
    refused for its distance: where the others run out of small values, the gaps and the balance say so.

    Args:
        value: what is matched, for example the mean dense margin per image, shape (N,), finite.
        is_case: True for the cases (PIEs), shape (N,).
        seed: of the order of choice.

    Returns:
        The pairs with their balance.

    Raises:
        InputError: if the shapes disagree, a value is not finite, there is no case, or there are fewer
            other samples than cases.
    """
    if value.ndim != 1 or value.shape != is_case.shape:
        raise InputError(f"values and cases must have one shape (N,), not {value.shape} and {is_case.shape}")
    if not np.isfinite(value).all():
        raise InputError("the values to match on must be finite")
    cases, others = np.flatnonzero(is_case), np.flatnonzero(~is_case)
    if not 0 < len(cases) <= len(others):
        raise InputError(f"{len(cases)} cases cannot be matched one to one with {len(others)} other images")
    rng = np.random.default_rng(seed)
    pool = rng.permutation(others)
    free = value[pool].astype(np.float64)
    controls = np.empty_like(cases)
    for position in rng.permutation(len(cases)):
        chosen = int(np.argmin(np.abs(free - value[cases[position]])))
        controls[position] = pool[chosen]
        free[chosen] = np.inf
    gaps = np.abs(value[cases] - value[controls])
    spread = float(np.sqrt((value[cases].var() + value[others].var()) / 2))
    differences = [float(value[cases].mean() - value[part].mean()) for part in (others, controls)]
    before, after = (d / spread if spread > 0 else None for d in differences)
    return Matching(cases, controls, float(gaps.mean()), float(gaps.max()), before, after)

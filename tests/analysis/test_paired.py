from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from analysis.paired import paired_difference
from population.errors import InputError


def masked(values: list[float], missing: tuple[int, ...] = ()) -> "np.ma.MaskedArray":
    mask = [i in missing for i in range(len(values))]
    return np.ma.MaskedArray([np.nan if m else v for v, m in zip(values, mask, strict=True)], mask=mask)


def test_a_hand_worked_table() -> None:
    first, second = masked([3, 5, 4, 9, 7], missing=(4,)), masked([1, 2, 5, 5, 1])
    found = paired_difference(first, second, rng=np.random.default_rng(0))
    # Differences 2, 3, -1, 4: of the 16 sign patterns, these reach a sum of 8 or more in size.
    reached = [abs(np.dot(signs, [2, 3, 1, 4])) >= 8 for signs in product([1, -1], repeat=4)]
    assert (found.pairs, found.mean, found.p_value) == (4, 2.0, np.mean(reached))
    assert found.p_floor == 1 / 8
    assert -1 <= found.low < found.mean < found.high <= 4


def test_equals_scipys_permutation_test() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(0.4, 1, 11), rng.normal(0, 1, 11)
    expected = permutation_test(
        (first, second), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples"
    )
    found = paired_difference(np.ma.MaskedArray(first), np.ma.MaskedArray(second), rng=rng)
    assert found.p_value == pytest.approx(expected.pvalue)
    swapped = paired_difference(np.ma.MaskedArray(second), np.ma.MaskedArray(first), rng=rng)
    assert (swapped.mean, swapped.p_value) == (-found.mean, found.p_value)


def test_many_pairs_are_sampled_with_the_seed() -> None:
    rng = np.random.default_rng(5)
    first, second = np.ma.MaskedArray(rng.normal(0.1, 1, 200)), np.ma.MaskedArray(rng.normal(0, 1, 200))
    results = [paired_difference(first, second, rng=np.random.default_rng(s)) for s in (1, 1, 2)]
    assert results[0] == results[1] != results[2]
    assert results[0].p_floor == 1 / 2000
    assert results[0].p_value == pytest.approx(results[2].p_value, abs=0.05)


def test_no_difference_has_p_1_and_no_pair_is_refused() -> None:
    same = masked([1, 2, 3])
    assert paired_difference(same, same, rng=np.random.default_rng(0)).p_value == 1
    with pytest.raises(InputError, match="no pair"):
        paired_difference(masked([1, 2], (0,)), masked([1, 2], (1,)), rng=np.random.default_rng(0))
    with pytest.raises(InputError, match="one length"):
        paired_difference(masked([1, 2]), masked([1]), rng=np.random.default_rng(0))

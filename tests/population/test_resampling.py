from itertools import combinations, product
from math import comb

import numpy as np
import pytest

from population.resampling import (
    EXACT_LIMIT,
    SAMPLED,
    all_subsets,
    bootstrap_mean_interval,
    bootstrap_means,
    drawn_subsets,
    partitions,
    percentile_interval,
    sign_flips,
)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_sign_flips_are_all_patterns_up_to_a_common_sign(k: int) -> None:
    flips = sign_flips(k, rng=rng())
    found = {tuple(column) for column in flips.weights.T}
    assert flips.exact
    assert flips.p_floor == 2.0 ** (1 - k)
    assert len(found) == flips.weights.shape[1]
    assert found | {tuple(-np.array(c)) for c in found} == set(product([-1.0, 1.0], repeat=k))
    assert (flips.weights[:, 0] == 1).all()


def test_many_pairs_are_sampled_without_favour() -> None:
    flips = sign_flips(14, rng=rng())
    assert not flips.exact
    assert flips.weights.shape == (14, SAMPLED + 1)
    assert (flips.weights[:, 0] == 1).all()
    assert flips.p_floor == 1 / 2000
    # Standard error of a mean of 1999 signs is .022.
    assert np.abs(flips.weights[:, 1:].mean(axis=1)).max() < 0.09
    assert sign_flips(13, rng=rng()).weights.shape[1] == EXACT_LIMIT


@pytest.mark.parametrize(("k", "other"), [(2, 2), (3, 3), (2, 4), (3, 2), (1, 5)])
def test_partitions_are_all_divisions(k: int, other: int) -> None:
    divisions = partitions(k, other, rng=rng())
    groups = [frozenset(np.flatnonzero(column < 0)) for column in divisions.weights.T]
    wanted = {frozenset(c) for c in combinations(range(k + other), k)}
    if k == other:
        assert {frozenset({g, frozenset(range(2 * k)) - g}) for g in groups} == {
            frozenset({g, frozenset(range(2 * k)) - g}) for g in wanted
        }
        assert len(groups) == comb(2 * k, k) // 2
    else:
        assert set(groups) == wanted
        assert len(groups) == len(wanted)
    assert groups[0] == frozenset(range(k))
    assert divisions.exact


def test_a_partition_weighs_out_the_difference_of_means() -> None:
    values = np.array([1.0, 2.0, 6.0, 10.0, 0.0, 5.0])
    weights = partitions(2, 4, rng=rng()).weights[:, 0]
    np.testing.assert_array_equal(weights, [-2, -2, 1, 1, 1, 1])
    assert values @ weights / 4 == pytest.approx(values[2:].mean() - values[:2].mean())


def test_sampled_partitions_keep_the_sizes_and_start_with_the_data() -> None:
    weights = partitions(9, 12, rng=rng()).weights
    assert weights.shape == (21, SAMPLED + 1)
    assert ((weights == -4).sum(axis=0) == 9).all()
    assert ((weights == 3).sum(axis=0) == 12).all()
    assert (weights[:9, 0] == -4).all()
    assert np.abs((weights[:, 1:] < 0).mean(axis=1) - 9 / 21).max() < 0.05


@pytest.mark.parametrize(("total", "size"), [(1, 1), (4, 2), (5, 0), (6, 6), (7, 3)])
def test_subsets_are_all_choices(total: int, size: int) -> None:
    chosen = all_subsets(total, size)
    assert chosen.shape == (total, comb(total, size))
    assert {frozenset(np.flatnonzero(column)) for column in chosen.T} == {
        frozenset(c) for c in combinations(range(total), size)
    }
    assert chosen[:size, 0].all()


def test_drawn_subsets_have_their_size_and_favour_nobody() -> None:
    chosen = drawn_subsets(20, 7, rng=rng())
    assert chosen.shape == (20, SAMPLED)
    assert (chosen.sum(axis=0) == 7).all()
    # Standard error of a share of .35 among 1999 is .011.
    assert np.abs(chosen.mean(axis=1) - 0.35).max() < 0.045
    np.testing.assert_array_equal(chosen, drawn_subsets(20, 7, rng=rng()))


def test_bootstrap_of_two_values_has_the_binomial_spread() -> None:
    means = bootstrap_means(np.array([0.0, 1.0]), rng=rng())
    for value, share in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.25)):
        assert (means == value).mean() == pytest.approx(share, abs=0.04)


def test_interval_is_the_percentiles_and_holds_the_normal_mean_as_often_as_it_says() -> None:
    draws = np.arange(1001.0)
    assert percentile_interval(draws) == (25.0, 975.0)
    generator = rng()
    # 500 data sets at once: the trailing axis. Standard error of the coverage is .01.
    low, high = bootstrap_mean_interval(generator.normal(size=(30, 500)), rng=generator)
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.94, abs=0.03)
    low, high = bootstrap_mean_interval(generator.normal(size=(5, 500)), rng=generator)
    assert ((low < 0) & (high > 0)).mean() == pytest.approx(0.84, abs=0.05)


def test_equal_values_have_an_interval_without_width() -> None:
    low, high = bootstrap_mean_interval(np.full((4, 2), 0.25), rng=rng())
    np.testing.assert_array_equal(low, [0.25, 0.25])
    np.testing.assert_array_equal(high, [0.25, 0.25])

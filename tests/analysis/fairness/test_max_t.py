from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_ind

from analysis.fairness.max_t import max_t
from population.resampling import Rearrangements, partitions, sign_flips


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_three_units_by_hand() -> None:
    # With unit weights the values are the statistics; each unit has the same sum of squares, 64.
    statistics = np.array([[6.0, 5, 1], [5, 1, 1], [1, 1, 5], [1, 1, 6], [1, 6, 1]])
    found = max_t(statistics, Rearrangements(np.eye(5), exact=True))
    # 6 against the largest of all, 6 5 5 6 6; 5 against that of the second and third, 5 1 5 6 6 (without step
    # down it would be 5 of 5); 1 against the third's.
    assert found.tolist() == [3 / 5, 4 / 5, 1]


def test_p_values_do_not_fall_from_the_largest_statistic_down() -> None:
    # The first has the larger statistic, and reaches it often; the second is alone in the last comparison.
    statistics = np.array([[2.0, np.sqrt(3)], [2, 1], [2, 1], [0, np.sqrt(7)]])
    assert max_t(statistics, Rearrangements(np.eye(4), exact=True)).tolist() == [1, 1]


def slow_max_t(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    statistic = np.array([[abs(sum(w * v)) for v in values.T] for w in weights.T])
    statistic /= np.sqrt((statistic**2).mean(axis=0))
    order = np.argsort(-statistic[0])
    found, last = np.empty(len(order)), 0.0
    for position, unit in enumerate(order):
        largest = statistic[:, order[position:]].max(axis=1)
        last = max(last, float((largest >= statistic[0, unit] - 1e-9).mean()))
        found[unit] = last
    return found


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(3, 6), units=st.integers(1, 6), paired=st.booleans())
def test_it_agrees_with_loops(seed: int, k: int, units: int, paired: bool) -> None:
    generator = np.random.default_rng(seed)
    ways = sign_flips(k, rng=generator) if paired else partitions(k, 3, rng=generator)
    values = generator.normal(size=(len(ways.weights), units)) * generator.uniform(0.1, 3, units)
    found = max_t(values, ways)
    np.testing.assert_allclose(found, slow_max_t(values, ways.weights))
    own = np.abs(ways.weights.T @ values)
    assert (found >= (own >= own[0] - 1e-12).mean(axis=0)).all()


def test_the_order_is_that_of_students_t() -> None:
    generator = np.random.default_rng(1)
    differences = generator.normal(size=(5, 4)) * [1, 0.1, 2, 0.5] + [0.5, 0.1, 0, 0.4]
    flips = np.array(list(product([1, -1], repeat=5)))
    t = np.abs([ttest_1samp(flip[:, None] * differences, 0).statistic for flip in flips])
    seen = np.abs(ttest_1samp(differences, 0).statistic)
    first = int(seen.argmax())
    wanted = (t.max(axis=1) >= seen[first] - 1e-9).mean()
    assert max_t(differences, sign_flips(5, rng=generator))[first] == pytest.approx(wanted)

    both = np.vstack([differences, generator.normal(size=(4, 4)) * [1, 0.1, 2, 0.5]])
    ways = partitions(5, 4, rng=generator)
    t = np.abs([ttest_ind(both[w < 0], both[w > 0]).statistic for w in ways.weights.T])
    first = int(t[0].argmax())
    wanted = (t.max(axis=1) >= t[0, first] - 1e-9).mean()
    assert max_t(both, ways)[first] == pytest.approx(wanted)


def test_scale_of_a_unit_and_order_of_units_change_nothing() -> None:
    values = rng().normal(size=(6, 5)) + np.array([1, 0.5, 0, 0, 0])
    ways = sign_flips(6, rng=rng())
    found = max_t(values, ways)
    np.testing.assert_array_equal(max_t(values * [100, 0.01, 1, 3, 1], ways), found)
    np.testing.assert_array_equal(max_t(values[:, ::-1], ways), found[::-1])


def test_a_unit_that_never_changes_has_p_one_and_costs_the_others_nothing() -> None:
    values = rng().normal(size=(6, 3)) + 1
    ways = sign_flips(6, rng=rng())
    still = np.column_stack([values, np.zeros(6)])
    assert max_t(still, ways).tolist() == [*max_t(values, ways), 1]


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_the_family_wise_error_is_held_where_some_units_change(design: str) -> None:
    generator = np.random.default_rng(2)
    units, changed, repeats = 12, 3, 400
    ways = sign_flips(8, rng=generator) if design == "paired" else partitions(5, 5, rng=generator)
    after = np.arange(len(ways.weights)) >= (0 if design == "paired" else 5)
    false, found, uncorrected = 0, 0, 0
    for _ in range(repeats):
        # Neighbouring units depend on each other, and some are ten times as noisy.
        noise = generator.normal(size=(len(after), units + 1))
        values = (noise[:, 1:] + noise[:, :-1]) * np.where(np.arange(units) % 2, 10.0, 1.0)
        values[after, :changed] += 4 * np.array([1, 10, 1])
        p = max_t(values, ways)
        false += (p[changed:] <= 0.05).any()
        found += (p[:changed] <= 0.05).sum()
        own = np.abs(ways.weights.T @ values)
        uncorrected += ((own >= own[0] - 1e-12).mean(axis=0)[changed:] <= 0.05).any()
    # Standard error of a share of .05: 1.1 points.
    assert false / repeats < 0.085
    assert uncorrected / repeats > 0.2
    assert found / (changed * repeats) > 0.6


def test_the_family_wise_error_is_near_its_level_where_nothing_changes() -> None:
    generator = np.random.default_rng(3)
    ways = sign_flips(8, rng=generator)
    least = np.array([max_t(generator.normal(size=(8, 10)), ways).min() for _ in range(600)])
    assert 0.02 < (least <= 0.05).mean() < 0.08

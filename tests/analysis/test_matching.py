import itertools

import numpy as np
import pytest

from analysis.matching import match_nearest
from population.errors import InputError


def test_by_hand() -> None:
    value = np.array([0.0, 0.1, 0.5, 0.55, 0.9, 2.0])
    is_case = np.array([False, True, False, True, False, False])
    found = match_nearest(value, is_case, seed=0)
    assert found.cases.tolist() == [1, 3]
    assert found.controls.tolist() == [0, 2]
    assert found.mean_gap == pytest.approx(0.075)
    assert found.largest_gap == pytest.approx(0.1)
    # Cases 0.1, 0.55: mean 0.325, variance 0.050625; others 0, 0.5, 0.9, 2: 0.85, 0.5425. Controls: 0.25.
    spread = np.sqrt((0.050625 + 0.5425) / 2)
    assert found.balance_before == pytest.approx((0.325 - 0.85) / spread)
    assert found.balance_after == pytest.approx((0.325 - 0.25) / spread)


def test_each_case_takes_the_nearest_that_is_left_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=30)
    is_case = np.isin(np.arange(30), [3, 7, 8, 20])
    found = match_nearest(value, is_case, seed=1)
    assert len(set(found.controls)) == 4
    assert not is_case[found.controls].any()

    def greedy(order: tuple[int, ...]) -> dict[int, int]:
        left = [i for i in range(30) if not is_case[i]]
        taken = {}
        for case in order:
            taken[case] = min(left, key=lambda i: abs(value[i] - value[case]))
            left.remove(taken[case])
        return taken

    pairs = dict(zip(found.cases.tolist(), found.controls.tolist(), strict=True))
    assert pairs in [greedy(order) for order in itertools.permutations([3, 7, 8, 20])]


def test_matching_balances_hard_cases_among_easy_images() -> None:
    rng = np.random.default_rng(1)
    value = rng.uniform(size=5000)
    is_case = rng.uniform(size=5000) < 0.3 * (1 - value) ** 2
    found = match_nearest(value, is_case, seed=2)
    assert found.balance_before is not None
    assert found.balance_after is not None
    assert found.balance_before < -0.5
    assert abs(found.balance_after) < 0.01
    assert found.largest_gap < 0.02


def test_the_seed_decides_ties_and_order_and_nothing_else() -> None:
    value = np.zeros(40)
    is_case = np.arange(40) < 5
    first, again, other = (match_nearest(value, is_case, seed=s) for s in (3, 3, 4))
    assert first.controls.tolist() == again.controls.tolist()
    assert first.controls.tolist() != other.controls.tolist()
    assert first.balance_before is None
    assert first.balance_after is None
    assert first.largest_gap == 0


def test_where_controls_run_out_the_balance_says_so() -> None:
    value = np.array([0.0, 0.0, 0.1, 1.0])
    found = match_nearest(value, np.array([True, True, False, False]), seed=0)
    assert sorted(found.controls.tolist()) == [2, 3]
    assert found.largest_gap == 1.0
    assert found.balance_after is not None
    assert found.balance_after < -1


@pytest.mark.parametrize(
    ("value", "is_case", "message"),
    [
        ([0.1, 0.2, 0.3], [True, True, False], "2 cases cannot be matched one to one with 1 other"),
        ([0.1, 0.2], [False, False], "0 cases"),
        ([0.1, np.nan], [True, False], "finite"),
        ([0.1, 0.2], [True], "one shape"),
    ],
)
def test_what_cannot_be_matched_is_refused(value: list[float], is_case: list[bool], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_nearest(np.array(value), np.array(is_case), seed=0)

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind

from analysis.fairness.jackknife import Estimate, jackknife


def test_a_mean_has_no_bias_and_the_interval_of_student() -> None:
    before = np.array([1.0, 4.0, 2.0, 7.0, 3.0])
    after = np.array([2.0, 4.0, 5.0, 6.0, 9.0])
    found = jackknife(lambda b, a: float(a.mean() - b.mean()), before, after, design="paired")
    wanted = ttest_1samp(after - before, 0).confidence_interval()
    assert (found.value, found.corrected) == pytest.approx((1.8, 1.8))
    assert (found.low, found.high) == pytest.approx(tuple(wanted))


def test_two_populations_add_their_variances() -> None:
    before, after = np.array([1.0, 4.0, 2.0, 7.0]), np.array([2.0, 4.0, 5.0, 6.0, 9.0, 9.0])
    found = jackknife(lambda b, a: float(a.mean() - b.mean()), before, after, design="independent")
    error = np.sqrt(before.var(ddof=1) / 4 + after.var(ddof=1) / 6)
    assert error == pytest.approx(ttest_ind(after, before, equal_var=False)._standard_error)
    assert found.corrected == pytest.approx(5.8333333 - 3.5)
    assert found.high - found.corrected == pytest.approx(3.182446 * error)  # t with 3 degrees of freedom
    assert found.corrected - found.low == pytest.approx(3.182446 * error)


def test_the_bias_of_the_plain_variance_is_removed() -> None:
    # Quenouille's example: from division by n to division by n - 1.
    values = np.array([3.0, 8.0, 4.0, 4.0, 9.0, 1.0])
    found = jackknife(lambda _, a: float(a.var()), values, values, design="paired")
    assert found.value == pytest.approx(values.var())
    assert found.corrected == pytest.approx(values.var(ddof=1))


def test_where_the_statistic_is_not_defined_there_is_no_interval() -> None:
    values = np.array([1.0, 2.0, 3.0])

    def needs(members: int) -> Estimate:
        return jackknife(lambda b, _: 7.0 if len(b) >= members else None, values, values, design="paired")

    assert needs(2) == Estimate(7, 7, 7, 7)
    assert needs(3) == Estimate(7, None, None, None)
    assert needs(4) == Estimate(None, None, None, None)
    single = jackknife(lambda b, a: float(a.sum()), values[:1], values[:1], design="paired")
    assert single == Estimate(1, None, None, None)

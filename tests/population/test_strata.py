import numpy as np

from population.strata import margin_strata


def test_twenty_neighbours_are_a_stratum_and_equal_margins_stay_together() -> None:
    margin = np.random.default_rng(0).permutation(np.arange(50) / 50)
    strata = margin_strata(margin)
    assert strata[np.argsort(margin)].tolist() == [0] * 20 + [1] * 20 + [2] * 10
    tied = np.array([0.1] * 15 + [0.2] * 15 + [0.3] * 5)  # places 0, 15 and 30
    assert margin_strata(tied).tolist() == [0] * 30 + [1] * 5

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from analysis.fairness import group_pies, group_rates, image_tests
from analysis.fairness.grouping import Grouping
from analysis.fairness.image_tests import P_FLOOR
from population.errors import InputError
from population.predictions import Predictions
from population.strata import margin_strata


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grouping(code: np.ndarray) -> Grouping:
    return Grouping("g", tuple("abcdef"[: code.max() + 1]), code.astype(np.int64))


def every_p(values: np.ndarray, code: np.ndarray, stratum: np.ndarray) -> np.ndarray:
    """Exact p of every group: all ways to deal the labels out within two strata."""
    first, second = (np.flatnonzero(stratum == s) for s in (0, 1))
    centred = values - np.array([values[stratum == s].mean() for s in (0, 1)])[stratum]

    def means(labels: np.ndarray) -> np.ndarray:
        return np.array([abs(centred[labels == g].mean()) for g in range(code.max() + 1)])

    found = []
    for a in permutations(first):
        for b in permutations(second):
            dealt = code.copy()
            dealt[first], dealt[second] = code[list(a)], code[list(b)]
            found.append(means(dealt))
    return (np.array(found) >= means(code) - 1e-12).mean(axis=0)


def test_p_is_that_of_all_ways_to_deal_the_labels_out_within_strata() -> None:
    values = np.array([-0.5, 0, 0, -1, 0, -0.25, -0.25, 0, -0.5])
    code, stratum = np.array([0, 0, 1, 0, 1, 1, 2, 2, 0]), np.array([0, 0, 0, 0, 0, 1, 1, 1, 1])
    found = image_tests(values, grouping(code), stratum, rng=rng())
    exact = every_p(values, code, stratum)
    assert 0.02 < exact.min() < 0.9
    np.testing.assert_allclose(found.p_value, exact, atol=4 * np.sqrt(0.25 / 2000))
    # Means of the strata are -0.3 and -0.25: a has three images of one and one of the other.
    np.testing.assert_allclose(found.expected, [-0.2875, (-0.6 - 0.25) / 3, -0.25])
    assert (found.p_max_t >= found.p_value - 1e-12).all()
    assert (found.p_adjusted >= found.p_value).all()


def test_a_class_is_not_charged_to_a_group() -> None:
    # Group b has most images of class 1, which loses; within classes nothing differs.
    label = np.repeat([0, 1], 200)
    code = np.concatenate([rng(1).random(200) < 0.1, rng(2).random(200) < 0.9]).astype(np.int64)
    values = np.where(label == 1, -0.5, 0.0)
    within = image_tests(values, grouping(code), label, rng=rng())
    assert within.p_value.tolist() == [1, 1]
    everywhere = image_tests(values, grouping(code), np.zeros_like(label), rng=rng())
    assert everywhere.p_value.tolist() == [P_FLOOR, P_FLOOR]


def test_equal_draws_give_equal_p() -> None:
    values, code = rng(3).choice([-1.0, 0.0, 0.0], 60), rng(4).integers(0, 3, 60)
    pair = [image_tests(values, grouping(code), code * 0, rng=rng(5)).p_max_t for _ in range(2)]
    np.testing.assert_array_equal(*pair)


def test_the_level_is_held_whatever_the_images() -> None:
    """Labels dealt out at random among images that lose very different amounts."""
    label, loss = rng(6).integers(0, 2, 200), -np.round(rng(7).beta(0.2, 2, 200) * 4) / 4
    alarms = [
        image_tests(loss, grouping(draw.integers(0, 3, 200)), label, rng=draw).p_max_t.min() <= 0.05
        for draw in map(rng, range(200))
    ]
    assert 0.015 < np.mean(alarms) < 0.09  # 200 draws of 5 %: two standard errors are 3 %


# --- groups and PIEs


def test_shares_of_pies_by_hand() -> None:
    pie = np.array([1, 1, 0, 0, 1, 0, 0, 0, 0, 0], dtype=bool)
    label = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    ids = np.arange(10).astype(str)
    groups = pd.DataFrame({"sex": list("ffmmffmmmm"), "age": list("oyoyoyoyoy")}, index=ids)
    table = group_pies(pie, groups, ids, label=label, dense_margin=np.arange(10) / 10, seed=0)
    assert table["grouping"].unique().tolist() == ["sex", "age", "sex × age"]
    women = table[(table["grouping"] == "sex") & (table["group"] == "f")].iloc[0]
    assert (women["n"], women["few"], women["pies"]) == (4, True, 3)
    assert (women["share"], women["share_rest"]) == (0.75, 0.0)
    # Class 0 has half of its images among PIEs, class 1 a sixth; two women of each.
    assert women["expected"] == pytest.approx((0.5 * 2 + 2 / 6) / 4)
    assert women["expected_given_margin"] == pytest.approx(0.3)  # ten images are one stratum of margin
    # Wilson's interval of 3 in 4, from Newcombe's formula.
    assert (women["share_low"], women["share_high"]) == pytest.approx((0.3006, 0.9544), abs=1e-4)


def test_unsure_groups_pay_no_more_than_other_unsure_images() -> None:
    n = 2000
    margin, ids = rng(8).random(n), np.arange(n).astype(str)
    unsure = rng(9).random(n) > margin
    pie = rng(10).random(n) < 0.6 * np.exp(-margin / 0.1)
    groups = pd.DataFrame({"g": np.where(unsure, "unsure", "sure")}, index=ids)
    found = group_pies(pie, groups, ids, label=None, dense_margin=margin, seed=0)
    assert (found["p_max_t"] == P_FLOOR).all()
    assert (found["p_given_margin_max_t"] > 0.05).all()
    expected = [pie[margin_strata(margin) == s].mean() for s in margin_strata(margin)[unsure]]
    row = found[found["group"] == "unsure"].iloc[0]
    assert row["expected_given_margin"] == pytest.approx(np.mean(expected))


def test_without_margins_nothing_is_given() -> None:
    ids = np.arange(6).astype(str)
    groups = pd.DataFrame({"g": list("aabbcc")}, index=ids)
    found = group_pies(np.arange(6) < 2, groups, ids, label=None, dense_margin=None, seed=0)
    assert found.filter(like="margin").isna().all(axis=None)
    with pytest.raises(InputError, match="at least one column"):
        group_pies(np.arange(6) < 2, groups[[]], ids, label=None, dense_margin=None, seed=0)
    with pytest.raises(InputError, match=r"label must have shape \(6,\), not \(5,\)"):
        group_pies(np.arange(6) < 2, groups, ids, label=np.zeros(5, dtype=int), dense_margin=None, seed=0)


# --- groups and rates


def test_rates_are_tested_over_the_images_that_they_count() -> None:
    draw = rng(11)
    label, ids = draw.integers(0, 2, 300), np.arange(300).astype(str)
    groups = pd.DataFrame({"g": draw.choice(list("abc"), 300), "h": draw.choice(list("de"), 300)}, index=ids)
    hit = draw.random((4, 300)) < 0.9
    lost = draw.random((4, 300)) < np.where((groups["g"] == "a") & (label == 1), 0.5, 0.1)
    dense = Predictions(ids, np.where(hit, label, 1 - label), label=label)
    compressed = Predictions(ids, np.where(hit & ~lost, label, 1 - label))
    table = group_rates(dense, compressed, groups, positive="1", design="paired", seed=0).table
    assert table.loc[table["grouping"] == "all", "p_images"].isna().all()
    change = (compressed.predicted == label).mean(axis=0) - (dense.predicted == label).mean(axis=0)
    accuracy = table[(table["grouping"] == "g") & (table["rate"] == "accuracy")].set_index("group")
    for group in "abc":
        inside = (groups["g"] == group).to_numpy()
        expected = np.mean([change[label == c].mean() for c in label[inside]])
        assert accuracy.loc[group, "change_expected"] == pytest.approx(expected)
        assert accuracy.loc[group, "change"] == pytest.approx(change[inside].mean())
    assert accuracy.loc["a", "p_images_max_t"] == P_FLOOR
    recall = table[(table["grouping"] == "g") & (table["rate"] == "tpr")].set_index("group")
    assert recall.loc["a", "p_images"] == P_FLOOR
    assert recall.loc["a", "change_expected"] == pytest.approx(change[label == 1].mean())
    false_alarms = table[(table["grouping"] == "g") & (table["rate"] == "fpr")].set_index("group")
    assert false_alarms.loc["a", "p_images"] > 0.01  # of the other class nothing is lost
    assert table[["p_images", "p_images_max_t"]].max(axis=None) <= 1

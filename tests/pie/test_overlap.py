from itertools import permutations, product

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import hypergeom
from sklearn.metrics import cohen_kappa_score, jaccard_score

from pie import intersections, pairwise_overlap
from population.errors import InputError


def members(text: str) -> np.ndarray:
    return np.array([letter == "x" for letter in text])


def test_two_sets_of_ten_images_by_hand() -> None:
    found = pairwise_overlap({"merge": members("xxx......."), "prune": members(".xxx......")})
    row = found.iloc[0]
    assert (row["first"], row["second"], row["size_first"], row["size_second"]) == ("merge", "prune", 3, 3)
    assert row["common"] == 2
    assert row["jaccard"] == 0.5
    # Agreement 8/10; by chance .3 * .3 + .7 * .7 = .58.
    assert row["kappa"] == pytest.approx((0.8 - 0.58) / 0.42)
    assert row["expected"] == pytest.approx(0.9)
    # Two or more of 3 among 3 of 10: (3 * 7 + 1) / 120.
    assert row["p_value"] == pytest.approx(2 * 22 / 120)
    assert "p_given_margin" not in found


def test_every_pair_in_order_with_sklearn_scipy_and_benjamini_hochberg() -> None:
    rng = np.random.default_rng(0)
    sets = {name: rng.random(80) < share for name, share in zip("abcd", (0.1, 0.2, 0.3, 0.4), strict=True)}
    sets["d"] |= sets["c"]
    found = pairwise_overlap(sets)
    assert (found["first"] + found["second"]).tolist() == ["ab", "ac", "ad", "bc", "bd", "cd"]
    for _, row in found.iterrows():
        one, other = sets[row["first"]], sets[row["second"]]
        assert row["jaccard"] == pytest.approx(jaccard_score(one, other))
        assert row["kappa"] == pytest.approx(cohen_kappa_score(one, other))
        common = hypergeom(80, one.sum(), other.sum())
        assert row["expected"] == pytest.approx(common.mean())
        tails = common.cdf(row["common"]), common.sf(row["common"] - 1)
        assert row["p_value"] == pytest.approx(min(1, 2 * min(tails)))
    p = found["p_value"].to_numpy()
    wanted = [min(q * 6 / (p <= q).sum() for q in p if q >= one) for one in p]
    np.testing.assert_allclose(found["p_adjusted"], np.minimum(wanted, 1))
    assert found["p_adjusted"].iloc[-1] < 1e-6


@pytest.mark.parametrize(
    ("one", "other"),
    [("xx..xx.x.", "xx..xx.xx"), ("xxx.xxx.x", "xxx.xxx.x")],  # the second pair fills two strata alike
)
def test_given_the_margin_p_agrees_with_every_draw_within_strata(
    one: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("population.strata.STRATUM", 4)
    fixed, moved = members(one), members(other)
    # The first four images, the next four, and the last.
    margin = np.array([0.1, 0.2, 0.2, 0.3, 0.6, 0.7, 0.6, 0.8, 0.9])
    draws = [
        np.concatenate([np.take(moved[:4], a), np.take(moved[4:8], b), moved[8:]])
        for a, b in product(permutations(range(4)), repeat=2)
    ]
    common = np.array([(fixed & draw).sum() for draw in draws])
    seen = (fixed & moved).sum()
    wanted = min(1, 2 * min((common >= seen).mean(), (common <= seen).mean()))
    row = pairwise_overlap({"one": fixed, "other": moved}, dense_margin=margin).iloc[0]
    assert row["expected_given_margin"] == pytest.approx(common.mean())
    assert row["p_given_margin"] == pytest.approx(wanted)
    assert row["p_given_margin_adjusted"] == pytest.approx(wanted)
    assert wanted < 1


def test_images_of_equal_margin_are_one_stratum() -> None:
    rng = np.random.default_rng(1)
    sets = {"a": rng.random(300) < 0.2, "b": rng.random(300) < 0.3}
    row = pairwise_overlap(sets, dense_margin=np.ones(300)).iloc[0]
    assert row["expected_given_margin"] == pytest.approx(row["expected"])
    assert row["p_given_margin"] == pytest.approx(row["p_value"])


@given(st.randoms(use_true_random=False), st.lists(st.integers(0, 8), min_size=50, max_size=50))
def test_the_order_of_images_does_not_matter(random: object, margin: list[int]) -> None:
    rng = np.random.default_rng(2)
    sets = {"a": rng.random(50) < 0.3, "b": rng.random(50) < 0.4}
    order = list(range(50))
    random.shuffle(order)  # type: ignore[attr-defined]
    values = np.array(margin, dtype=float)
    found = pairwise_overlap(sets, dense_margin=values)
    mixed = pairwise_overlap({n: s[order] for n, s in sets.items()}, dense_margin=values[order])
    pd.testing.assert_frame_equal(found, mixed)


def test_forgetting_hard_images_is_no_overlap_beyond_difficulty_but_a_common_cause_is() -> None:
    rng = np.random.default_rng(3)

    def rejections(column: str, common_cause: float, repeats: int = 60) -> float:
        p = []
        for _ in range(repeats):
            margin = rng.random(1000)
            chance = 0.6 * np.exp(-margin / 0.05)
            one, other = (rng.random(1000) < chance for _ in range(2))
            other = np.where(rng.random(1000) < common_cause, one, other)
            p.append(pairwise_overlap({"one": one, "other": other}, dense_margin=margin)[column][0])
        return float(np.mean(np.array(p) <= 0.05))

    assert rejections("p_value", 0) > 0.95
    assert rejections("p_given_margin", 0) <= 0.12
    assert rejections("p_given_margin", 0.5) > 0.95


def test_sets_that_avoid_each_other_have_a_small_p_too() -> None:
    row = pairwise_overlap({"a": members("x" * 20 + "." * 20), "b": members("." * 20 + "x" * 20)}).iloc[0]
    assert (row["common"], row["expected"], row["kappa"]) == (0, 10, -1)
    assert row["p_value"] < 1e-9


@pytest.mark.parametrize(
    ("one", "other", "jaccard", "kappa"),
    [
        ("....", "....", None, None),
        ("xxxx", "xxxx", 1, None),
        ("....", "x...", 0, 0),
        ("xxxx", "xx..", 0.5, 0),
    ],
)
def test_sets_that_leave_nothing_to_chance(
    one: str, other: str, jaccard: float | None, kappa: float | None
) -> None:
    row = pairwise_overlap({"a": members(one), "b": members(other)}, dense_margin=np.arange(4.0)).iloc[0]
    assert row["p_value"] == row["p_given_margin"] == 1
    assert row["expected"] == row["expected_given_margin"] == row["common"]
    for value, wanted in ((row["jaccard"], jaccard), (row["kappa"], kappa)):
        assert value is pd.NA if wanted is None else value == wanted


def test_exclusive_intersections_by_hand() -> None:
    found = intersections({"a": members("xxxx.x..x"), "b": members("xx..x...x"), "c": members("....xx..x")})
    assert found.to_dict("list") == {
        "a": [True, True, True, True, False],
        "b": [True, False, True, False, True],
        "c": [False, False, True, True, True],
        "images": [2, 2, 1, 1, 1],
    }


@given(arrays(bool, (3, 20)))
def test_intersections_hold_every_image_once(table: np.ndarray) -> None:
    found = intersections(dict(zip("abc", table, strict=True)))
    assert found["images"].sum() == table.any(axis=0).sum()
    for name, row in zip("abc", table, strict=True):
        assert found.loc[found[name], "images"].sum() == row.sum()
        assert found[name].dtype == bool
    assert not found[["a", "b", "c"]].duplicated().any()
    assert (found["images"] > 0).all()
    assert found["images"].is_monotonic_decreasing


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"a": members("x.")}, "at least 2 sets, not 1"),
        ({"a": members("x."), "b": members("x..")}, r"\(2,\); 'b' is bool of shape \(3,\)"),
        ({"a": members("x."), "b": np.array([0, 1])}, "'b' is int64"),
    ],
)
def test_what_are_no_sets_is_refused(sets: dict[str, np.ndarray], message: str) -> None:
    for function in (pairwise_overlap, intersections):
        with pytest.raises(InputError, match=message):
            function(sets)


def test_margins_and_names_that_do_not_fit_are_refused() -> None:
    sets = {"images": members("x."), "b": members("xx")}
    with pytest.raises(InputError, match="no set may be called 'images'"):
        intersections(sets)
    for margin in (np.zeros(3), np.array([0, np.nan])):
        with pytest.raises(InputError, match=r"finite and of shape \(2,\)"):
            pairwise_overlap(sets, dense_margin=margin)

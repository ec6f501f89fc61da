import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact, mannwhitneyu, norm
from sklearn.metrics import roc_auc_score

from pie.difficulty import flag_rates, roc_auc, tell_pies
from population.errors import InputError


def scores(n: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """A margin, and PIEs that depend on it alone."""
    rng = np.random.default_rng(seed)
    margin = rng.uniform(size=n)
    return margin, rng.random(n) < 0.9 / (1 + np.exp(8 * (margin - 0.1))), rng


def slow_delong(score: np.ndarray, case: np.ndarray) -> tuple[float, float]:
    """AUC and its variance by DeLong's definition, pair by pair."""
    wins = np.array([[(a > b) + 0.5 * (a == b) for b in score[~case]] for a in score[case]])
    per_case, per_control = wins.mean(axis=1), wins.mean(axis=0)
    return wins.mean(), per_case.var(ddof=1) / len(per_case) + per_control.var(ddof=1) / len(per_control)


@pytest.mark.parametrize("decimals", [6, 1], ids=["without ties", "with ties"])
def test_area_is_scikit_learns_and_the_interval_delongs(decimals: int) -> None:
    margin, pie, _ = scores(120, seed=0)
    score = -margin.round(decimals)
    found = roc_auc(score, pie)
    value, variance = slow_delong(score, pie)
    assert found.value == pytest.approx(value) == pytest.approx(roc_auc_score(pie, score))
    half = norm.ppf(0.975) * variance**0.5 / (value * (1 - value))
    odds = np.log(value / (1 - value))
    assert found.low == pytest.approx(1 / (1 + np.exp(half - odds)))
    assert found.high == pytest.approx(1 / (1 + np.exp(-half - odds)))
    u = mannwhitneyu(score[pie], score[~pie]).statistic
    assert found.value == pytest.approx(u / (pie.sum() * (~pie).sum()))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng, truth = np.random.default_rng(1), 0.8
    case = np.arange(240) < 40
    shift = 2**0.5 * norm.ppf(truth) * case
    found = [roc_auc(rng.normal(size=240) + shift, case) for _ in range(400)]
    assert 0.92 <= np.mean([f.low <= truth <= f.high for f in found]) <= 0.98


def test_a_perfect_score_has_no_width() -> None:
    case = np.arange(10) < 4
    found = roc_auc(case.astype(float), case)
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_a_copy_of_the_margin_adds_nothing_and_news_do() -> None:
    margin, pie, rng = scores(3000, seed=2)
    news = rng.normal(size=3000)
    pie = pie ^ ((news > 1.5) & (rng.random(3000) < 0.5))
    table = pd.DataFrame(
        {"margin": margin, "copy": 1 / (1 + margin), "noise": rng.normal(size=3000), "news": news}
    )
    found = tell_pies(pie, table, known="margin", seed=0)
    rows = found.scores.set_index("score")
    assert rows.loc["copy", "auc"] == pytest.approx(1 - rows.loc["margin", "auc"])
    assert abs(rows.loc["copy", "auc"] - 0.5) > 0.25
    for name in ("copy", "noise"):
        assert rows.loc[name, "gain_low"] <= 0.001
        assert abs(rows.loc[name, "gain"]) < 0.005
    assert rows.loc["news", "gain_low"] > 0.02
    assert rows.loc["news", "gain"] == pytest.approx(
        rows.loc["news", "auc_both"] - rows.loc["news", "auc_known"]
    )
    assert np.isnan(rows.loc["margin", "gain"])
    assert found.known is not None
    assert found.joint is not None
    assert found.gain is not None
    assert found.gain.value == pytest.approx(found.joint.value - found.known.value)
    assert found.gain.low > 0.02
    assert (found.n, found.pies) == (3000, pie.sum())


def test_a_relation_that_is_not_monotone_counts_as_known() -> None:
    rng = np.random.default_rng(3)
    middle = rng.uniform(-1, 1, 2000)
    pie = rng.random(2000) < np.exp(-20 * middle**2)
    found = tell_pies(pie, pd.DataFrame({"middle": middle, "distance": abs(middle)}), known="middle", seed=0)
    assert found.known is not None
    assert found.known.value > 0.9
    assert found.scores.loc[1, "gain"] < 0.005


def test_scores_that_some_images_lack_are_judged_on_the_others() -> None:
    margin, pie, rng = scores(600, seed=4)
    other = pd.Series(rng.normal(size=600))
    other[:250] = np.nan
    few = pd.Series(np.where(np.arange(600) < 30, 1.0, np.nan))
    table = pd.DataFrame({"margin": margin, "other": other, "few": few})
    found = tell_pies(pie, table, known="margin", seed=0)
    row = found.scores.set_index("score").loc["other"]
    assert (row["n"], row["pies"]) == (350, pie[250:].sum())
    assert row["auc"] == pytest.approx(roc_auc_score(pie[250:], other[250:]))
    assert found.scores.set_index("score").loc["few"][["auc", "gain"]].isna().all()
    assert (found.n, found.known, found.joint, found.gain) == (0, None, None, None)


def test_equal_seeds_give_equal_tables() -> None:
    margin, pie, rng = scores(500, seed=5)
    table = pd.DataFrame({"margin": margin, "other": rng.normal(size=500)})
    first, again, other = (tell_pies(pie, table, known="margin", seed=s).scores for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_flags_by_hand() -> None:
    pie = np.array([1, 1, 1, 0, 0, 0, 0, 0, 0, 1], dtype=bool)
    flags = pd.DataFrame(
        {"error": [True, True, False, True, *[False] * 6], "none": [False] * 10, "part": [True, pd.NA] * 5}
    )
    rows = flag_rates(pie, flags).set_index("flag")
    error = rows.loc["error"]
    assert (error["n"], error["flagged"], error["flagged_pies"]) == (10, 3, 2)
    assert (error["rate_flagged"], error["rate_rest"]) == (pytest.approx(2 / 3), pytest.approx(2 / 7))
    assert error["p_value"] == pytest.approx(fisher_exact([[2, 1], [2, 5]]).pvalue)
    assert error["low"] < error["odds_ratio"] < error["high"]
    assert rows.loc["none", "flagged"] == 0
    assert rows.loc["none", "rate_flagged"] is None or np.isnan(rows.loc["none", "rate_flagged"])
    assert (rows.loc["part", "n"], rows.loc["part", "flagged"]) == (5, 5)


def test_unfit_input_is_refused() -> None:
    margin, pie, _ = scores(100, seed=6)
    with pytest.raises(InputError, match="there is no score 'x'; given are margin"):
        tell_pies(pie, pd.DataFrame({"margin": margin}), known="x", seed=0)
    with pytest.raises(InputError, match="99 rows of scores for 100 images"):
        tell_pies(pie, pd.DataFrame({"margin": margin[:99]}), known="margin", seed=0)
    with pytest.raises(InputError, match="9 rows of flags for 100"):
        flag_rates(pie, pd.DataFrame({"f": [True] * 9}))
    with pytest.raises(InputError, match="at least 2 cases and 2 controls"):
        roc_auc(margin, np.zeros(100, dtype=bool))
    with pytest.raises(InputError, match="finite"):
        roc_auc(np.full(100, np.nan), pie)
    with pytest.raises(InputError, match="shape"):
        roc_auc(margin[:5], pie)

import numpy as np
import pandas as pd
import pytest

from pie_report.fair import POINTS, Compressed, FairComparison, fair_comparison
from population.predictions import Predictions

N = 200
LABEL = np.arange(N) % 2
IDS = np.array([f"s{i}" for i in range(N)])


def wrong_on(*counts: int) -> Predictions:
    """Members that are wrong on their first so many samples."""
    predicted = np.stack([np.where(np.arange(N) < count, 1 - LABEL, LABEL) for count in counts])
    return Predictions(IDS, predicted, LABEL, class_names=np.array(["a", "b"]))


DENSE = wrong_on(0, 0, 0)


def point(method: str, amount: float, kept: float, *wrong: int, repair: str = "none") -> Compressed:
    macs = 1.0 if method == "prune" else kept
    return Compressed(method, amount, repair, kept, macs, wrong_on(*wrong))


MERGE = (point("merge", 0.5, 0.25, 20, 40, 60), point("merge", 0.3, 0.5, 10, 20, 30))
PRUNE = (point("prune", 0.8, 0.2, 8, 8, 8), point("prune", 0.5, 0.5, 4, 4, 4))


def compared(*conditions: Compressed, reestimated: Predictions | None = None) -> FairComparison:
    found = fair_comparison(DENSE, reestimated, conditions, seed=0)
    assert found is not None
    return found


def rows(found: FairComparison, **chosen: str) -> pd.DataFrame:
    table = found.table
    for name, value in chosen.items():
        table = table[table[name] == value]
    return table


def test_two_methods_by_hand_at_equal_parameters() -> None:
    found = compared(*MERGE, *PRUNE)
    table = rows(found, axis="params_kept", outcome="flips")
    # Both curves cover [.25, 1]; five middles. Flips: merging .2 at .25, .1 at .5, 0 at 1; pruning .04 at .2,
    # .02 at .5, 0 at 1.
    points = [0.325, 0.475, 0.625, 0.775, 0.925]
    assert table["point"].tolist() == pytest.approx(points)
    merge = np.interp(points, [0.25, 0.5, 1], [0.2, 0.1, 0])
    prune = np.interp(points, [0.2, 0.5, 1], [0.04, 0.02, 0])
    np.testing.assert_allclose(table["outcome_first"].astype(float), merge)
    np.testing.assert_allclose(table["outcome_second"].astype(float), prune)
    np.testing.assert_allclose(table["difference"].astype(float), merge - prune)
    assert set(zip(table["first"], table["second"], table["repair"], strict=True)) == {
        ("merge", "prune", "none")
    }
    # Pruning is alike in all members, so the interval is that of merging: at .325 members have .5, 1, 1.5
    # times its mean, and a draw of three lies between the first and the last three times over.
    low, high = (table[end].astype(float).to_numpy() for end in ("low", "high"))
    assert (low >= 0.5 * merge - prune - 1e-12).all()
    assert (high <= 1.5 * merge - prune + 1e-12).all()
    assert (low < merge - prune).all()
    assert (high > merge - prune).all()
    losses = rows(found, axis="params_kept", outcome="accuracy_change")
    np.testing.assert_allclose(losses["difference"].astype(float), prune - merge)
    # Every second wrong sample is of class a: both classes lose what all lose.
    worst = rows(found, axis="params_kept", outcome="worst_recall_change")
    np.testing.assert_allclose(worst["difference"].astype(float), prune - merge, atol=1e-12)
    spread = rows(found, axis="params_kept", outcome="recall_change_spread")
    np.testing.assert_allclose(spread["difference"].astype(float), 0, atol=1e-12)


def test_at_equal_accuracy_the_same_errors_are_the_same_flips() -> None:
    found = compared(*MERGE, *PRUNE)
    table = rows(found, axis="accuracy", outcome="flips")
    assert table["point"].tolist() == pytest.approx(1 - 0.04 + 0.04 * (np.arange(POINTS) + 0.5) / POINTS)
    np.testing.assert_allclose(table["difference"].astype(float), 0, atol=1e-12)
    assert rows(found, axis="accuracy", outcome="accuracy_change").empty
    assert len(rows(found, axis="accuracy")) == 3 * POINTS


def test_pruning_keeps_all_macs_and_that_is_said() -> None:
    found = compared(*MERGE, *PRUNE)
    assert rows(found, axis="macs_kept").empty
    reason = {"first": "merge", "second": "prune", "reason": "prune keeps all MACs whatever the amount"}
    assert found.not_compared == [{"repair": "none", "axis": "macs_kept", **reason}]
    ranges = found.ranges.set_index(["axis", "method"])[["low", "high"]]
    assert ranges.loc[("macs_kept", "prune")].tolist() == [1, 1]
    assert ranges.loc[("macs_kept", "merge")].tolist() == [0.25, 1]
    filters = (point("filters", 0.5, 0.25, 9, 9, 9), point("filters", 0.3, 0.5, 3, 3, 3))
    table = rows(compared(*MERGE, *PRUNE, *filters), axis="macs_kept", outcome="flips")
    assert table[["first", "second"]].drop_duplicates().to_numpy().tolist() == [["merge", "filters"]]
    assert len(table) == POINTS


def test_curves_begin_at_the_dense_networks_under_the_same_repair() -> None:
    again = wrong_on(2, 2, 2)
    with_bn = [
        Compressed(c.method, c.amount, "bn", c.params_kept, c.macs_kept, c.predictions)
        for c in (*MERGE, *PRUNE)
    ]
    found = compared(*MERGE, *PRUNE, *with_bn, reestimated=again)
    start = found.curves[found.curves["amount"] == 0].set_index(["repair", "method"])
    assert start["flips"].to_dict() == {
        ("none", "merge"): 0, ("none", "prune"): 0, ("bn", "merge"): 0.01, ("bn", "prune"): 0.01,
    }  # fmt: skip
    assert (start["params_kept"] == 1).all()
    last = rows(found, repair="bn", axis="params_kept", outcome="flips").iloc[-1]
    assert last["outcome_second"] == pytest.approx(np.interp(0.925, [0.5, 1], [0.02, 0.01]))
    own = compared(*MERGE, *PRUNE, point("merge", 0.0, 1.0, 6, 6, 6))  # an amount 0 that was asked for
    assert own.curves.query("method == 'merge' and amount == 0")["flips"].tolist() == [0.03]
    assert own.curves.query("method == 'prune' and amount == 0")["flips"].tolist() == [0]


def test_what_is_no_curve_is_left_out() -> None:
    single = point("random", 0.5, 0.25, 9, 9, 9)
    found = compared(*MERGE, *PRUNE, single)
    assert found.left_out == [{"repair": "none", "method": "random"}]
    assert set(found.curves["method"]) == {"merge", "prune"}
    zero = point("random", 0.0, 1.0, 0, 0, 0)
    assert compared(*MERGE, *PRUNE, single, zero).left_out == [{"repair": "none", "method": "random"}]
    for few in ([*MERGE], [*MERGE, PRUNE[0]], [MERGE[0], PRUNE[0]]):
        assert fair_comparison(DENSE, None, few, seed=0) is None


def test_methods_without_loss_have_no_equal_accuracy() -> None:
    harmless = (point("random", 0.5, 0.3, 0, 0, 0), point("random", 0.2, 0.6, 0, 0, 0))
    found = compared(*MERGE, *harmless)
    reason = {"first": "merge", "second": "random", "reason": "random loses no accuracy at any amount"}
    assert found.not_compared == [{"repair": "none", "axis": "accuracy", **reason}]


def test_one_network_has_no_intervals() -> None:
    dense, merge = wrong_on(0), [point("merge", a, 1 - a, w) for a, w in ((0.2, 4), (0.5, 20))]
    prune = [point("prune", a, 1 - a, w) for a, w in ((0.2, 2), (0.5, 10))]
    found = fair_comparison(dense, None, [*merge, *prune], seed=0)
    assert found is not None
    assert found.table[["low", "high"]].isna().all(axis=None)
    assert found.table["difference"].notna().all()
    assert found.curves["flips_sd"].isna().all()


def test_curves_tell_mean_and_spread_of_members() -> None:
    row = compared(*MERGE, *PRUNE).curves.set_index(["method", "amount"]).loc[("merge", 0.5)]
    assert row["flips"] == pytest.approx(0.2)
    assert row["flips_sd"] == pytest.approx(np.std([0.1, 0.2, 0.3], ddof=1))
    assert (row["params_kept"], row["accuracy"]) == (0.25, pytest.approx(0.8))

import numpy as np
import pandas as pd
import pytest

from analysis.fairness import at_equal, compare_at
from population.errors import InputError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def conditions(
    method: str,
    amounts: list[float],
    axis: np.ndarray | list[float],
    outcome: np.ndarray | list[float],
    *,
    members: int = 3,
    repair: str = "bn",
    name: str = "params_kept",
) -> pd.DataFrame:
    """Rows of one method; axis and outcome are of the amounts, or of members and amounts."""
    shape = members, len(amounts)
    return pd.DataFrame(
        {
            "repair": repair,
            "method": method,
            "amount": np.tile(amounts, members),
            "member": np.repeat(np.arange(members), len(amounts)),
            name: np.broadcast_to(axis, shape).ravel(),
            "flips": np.broadcast_to(outcome, shape).ravel(),
        }
    )


def merge_and_prune() -> pd.DataFrame:
    merge = conditions("merge", [0.25, 0.5, 0.75], [0.6, 0.3, 0.1], [0.1, 0.2, 0.6])
    prune = conditions("prune", [0.5, 0.8], [0.5, 0.2], [0.1, 0.4])
    return pd.concat([merge, prune], ignore_index=True)


def test_two_methods_by_hand() -> None:
    found = compare_at(
        merge_and_prune(), axis="params_kept", points=[0.2, 0.3, 0.45, 0.15], outcome="flips", rng=rng()
    )
    table = found.table.set_index("point")
    assert set(zip(table["first"], table["second"], table["repair"], strict=True)) == {
        ("merge", "prune", "bn")
    }
    assert table["outcome_first"].to_numpy(float) == pytest.approx([0.4, 0.2, 0.15, 0.5])
    assert table["outcome_second"].to_numpy(float)[:3] == pytest.approx([0.4, 0.3, 0.15])
    assert table["difference"].to_numpy(float)[:3] == pytest.approx([0, -0.1, 0])
    # Pruning does not go as far as .15.
    assert table.loc[0.15, ["outcome_second", "difference", "low", "high"]].isna().all()
    assert table["reached"].tolist() == [1, 1, 1, 0]
    ranges = found.ranges.set_index("method")
    assert ranges.loc["merge", ["low", "high"]].tolist() == pytest.approx([0.1, 0.6])
    assert ranges.loc["prune", ["low", "high"]].tolist() == pytest.approx([0.2, 0.5])


def test_curves_that_do_not_overlap_are_not_compared() -> None:
    table = pd.concat(
        [
            conditions("merge", [0.1, 0.2], [0.9, 0.8], [0, 0.1]),
            conditions("prune", [0.8, 0.9], [0.2, 0.1], [0, 0.1]),
        ]
    )
    found = compare_at(table, axis="params_kept", points=[0.15, 0.5, 0.85], outcome="flips", rng=rng())
    assert found.table["difference"].isna().all()
    assert (found.table["reached"] == 0).all()
    assert found.table["outcome_first"].notna().tolist() == [False, False, True]
    assert found.table["outcome_second"].notna().tolist() == [True, False, False]


def test_the_order_of_rows_changes_nothing() -> None:
    table = merge_and_prune()
    shuffled = table.iloc[rng().permutation(len(table))].sort_values("method", kind="stable")
    first, again = (
        compare_at(t, axis="params_kept", points=[0.2, 0.4], outcome="flips", rng=rng())
        for t in (table, shuffled)
    )
    pd.testing.assert_frame_equal(first.table, again.table)
    pd.testing.assert_frame_equal(first.ranges, again.ranges)


def test_the_same_members_are_drawn_for_both_methods() -> None:
    # Members differ by up to .4 in flips, under both methods alike; merging costs .1 more for each.
    own = np.array([[0.0], [0.1], [0.2], [0.4]])
    merge = conditions("merge", [0.2, 0.8], [0.8, 0.2], own + np.array([0.2, 0.4]), members=4)
    prune = conditions("prune", [0.2, 0.8], [0.8, 0.2], own + np.array([0.1, 0.3]), members=4)
    found = compare_at(
        pd.concat([merge, prune]), axis="params_kept", points=[0.5], outcome="flips", rng=rng()
    ).table
    assert found[["difference", "low", "high"]].to_numpy(float)[0] == pytest.approx([0.1, 0.1, 0.1])


def test_the_interval_is_that_of_the_members() -> None:
    generator = np.random.default_rng(1)
    differences = generator.normal(0.1, 0.05, (30, 1))
    merge = conditions("merge", [0.2, 0.8], [0.8, 0.2], np.hstack([differences, differences]), members=30)
    prune = conditions("prune", [0.2, 0.8], [0.8, 0.2], [0, 0], members=30)
    found = compare_at(
        pd.concat([merge, prune]), axis="params_kept", points=[0.3], outcome="flips", rng=rng()
    ).table
    error = differences.std() / np.sqrt(30)
    assert found["low"][0] == pytest.approx(differences.mean() - 1.96 * error, abs=0.2 * error)
    assert found["high"][0] == pytest.approx(differences.mean() + 1.96 * error, abs=0.2 * error)


def test_a_known_difference_is_covered_and_found() -> None:
    # Outcome = 1 - accuracy for both, and merging costs .02 more; every member has its own accuracy.
    generator = np.random.default_rng(2)
    held = found = 0
    for _ in range(25):
        tables = []
        for method, cost in (("merge", 0.02), ("prune", 0.0)):
            accuracy = np.array([0.9, 0.8, 0.6]) + generator.normal(0, 0.01, (10, 3))
            noise = generator.normal(0, 0.01, (10, 3))
            tables.append(
                conditions(
                    method,
                    [0.1, 0.5, 0.9],
                    accuracy,
                    1 - accuracy + cost + noise,
                    members=10,
                    name="accuracy",
                )
            )
        row = compare_at(
            pd.concat(tables), axis="accuracy", points=[0.75], outcome="flips", rng=generator
        ).table.iloc[0]
        held += row["low"] <= 0.02 <= row["high"]
        found += row["low"] > 0
    assert held >= 20  # about 90 % for ten members, with a standard error of 6 points
    assert found >= 19


def test_an_accuracy_that_rises_with_the_amount_is_averaged_with_its_neighbour() -> None:
    merge = conditions("merge", [0.1, 0.2, 0.5], [0.90, 0.92, 0.8], [0.0, 0.02, 0.2], name="accuracy")
    prune = conditions("prune", [0.1, 0.5], [0.92, 0.8], [0.0, 0.2], name="accuracy")
    found = compare_at(
        pd.concat([merge, prune]), axis="accuracy", points=[0.91, 0.855, 0.915], outcome="flips", rng=rng()
    )
    # (.90, 0) and (.92, .02) become (.91, .01), the end of the curve.
    assert found.ranges["high"].tolist() == pytest.approx([0.91, 0.92])
    assert found.table["outcome_first"].to_numpy(float)[:2] == pytest.approx([0.01, 0.105])
    assert found.table["outcome_first"].isna().tolist() == [False, False, True]


def test_draws_that_do_not_reach_the_point_count_against_the_interval() -> None:
    # Half of the members begin at .9, half at .7: at .85 many draws have no value, at .79 some, at .7 none.
    start = np.array([[0.9, 0.5], [0.7, 0.5], [0.9, 0.5], [0.7, 0.5], [0.9, 0.5], [0.7, 0.5]])
    merge = conditions("merge", [0.1, 0.9], start, [0, 0.4], members=6, name="accuracy")
    prune = conditions("prune", [0.1, 0.9], [0.95, 0.5], [0, 0.3], members=6, name="accuracy")
    found = compare_at(
        pd.concat([merge, prune]), axis="accuracy", points=[0.85, 0.79, 0.7], outcome="flips", rng=rng()
    ).table.set_index("point")
    assert pd.isna(found.loc[0.85, "difference"])
    assert found.loc[0.79, "difference"] == pytest.approx(0.4 / 30 - 0.3 * 16 / 45)
    assert 0.4 < found.loc[0.79, "reached"] < 0.7
    assert found.loc[0.79, ["low", "high"]].isna().all()
    assert found.loc[0.7, "reached"] == 1
    assert found.loc[0.7, "low"] < found.loc[0.7, "difference"] < found.loc[0.7, "high"]


@pytest.mark.parametrize(
    ("axis", "point"), [([0.8, 0.3], 0.1 + 0.2), ([0.8, 0.1 + 0.2], 0.3), ([0.3, 0.1], 0.1 + 0.2)]
)
def test_the_ends_of_a_curve_are_on_it_whatever_the_rounding(axis: list[float], point: float) -> None:
    table = pd.concat([conditions(name, [0.1, 0.9], axis, [0, 0.4]) for name in ("merge", "prune")])
    found = compare_at(table, axis="params_kept", points=[point], outcome="flips", rng=rng()).table
    assert found["reached"].tolist() == [1]
    assert found["difference"].tolist() == [0]


def test_methods_are_compared_within_a_repair_and_two_by_two() -> None:
    table = pd.concat(
        [
            conditions(method, [0.1, 0.9], [0.9, 0.1], [0, cost], repair=repair)
            for repair, scale in (("none", 2), ("bn", 1))
            for method, cost in (("merge", 0.1 * scale), ("prune", 0.2 * scale), ("random", 0.3 * scale))
        ]
    )
    found = compare_at(table, axis="params_kept", points=[0.1], outcome="flips", rng=rng()).table
    assert found[["repair", "first", "second"]].agg(" ".join, axis=1).tolist() == [
        "none merge prune", "none merge random", "none prune random",
        "bn merge prune", "bn merge random", "bn prune random",
    ]  # fmt: skip
    assert found["difference"].to_numpy(float) == pytest.approx([-0.2, -0.4, -0.2, -0.1, -0.2, -0.1])


def test_a_single_member_has_no_interval() -> None:
    table = merge_and_prune().query("member == 0")
    found = compare_at(table, axis="params_kept", points=[0.3], outcome="flips", rng=rng()).table
    assert found["difference"][0] == pytest.approx(-0.1)
    assert found[["low", "high"]].isna().all(axis=None)


def test_bad_input_is_refused() -> None:
    table = merge_and_prune()

    def refused(table: pd.DataFrame, message: str, axis: str = "params_kept") -> None:
        with pytest.raises(InputError, match=message):
            compare_at(table, axis=axis, points=[0.3], outcome="flips", rng=rng())

    refused(table, "unknown axis 'params'.*did you mean 'params_kept'", axis="params")
    refused(table, "lacks accuracy", axis="accuracy")
    refused(table.drop(columns="member"), "lacks member")
    refused(table.iloc[:0], "no rows")
    refused(table.assign(flips=np.nan), "'flips' has values that are missing or not finite")
    refused(table.assign(flips="many"), "'flips' must be numbers")
    refused(table.assign(repair=None), "every row needs repair")
    refused(pd.concat([table, table.iloc[[0]]]), r"member 0 of merge 0\.25 with repair bn is there twice")
    refused(table.iloc[1:], "lacks members that others have")
    refused(table.query("method == 'merge'"), "has 1 methods")
    refused(table.query("amount != 0.8"), "one of them with 1 amounts")


def test_draws_that_are_taken_together_are_as_those_taken_one_by_one() -> None:
    generator = np.random.default_rng(3)
    draws = np.stack([generator.integers(0, 12, (300, 4)) / 10, generator.normal(size=(300, 4))], axis=2)
    points = np.array([0.1, 0.25, 0.3, 0.55, 1.05])
    falling = (np.diff(draws[..., 0], axis=1) < 0).all(axis=1)
    assert 0 < falling.sum() < 300
    found = at_equal._outcomes(draws, points)
    for draw, row in zip(draws, found, strict=True):
        expected = np.interp(points, *at_equal._curve(draw), left=np.nan, right=np.nan)
        np.testing.assert_allclose(row.filled(np.nan), expected, rtol=1e-12)

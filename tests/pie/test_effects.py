from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest

from pie import layout_effects
from population.errors import InputError


def table(values: np.ndarray, sizes: tuple[int, ...]) -> pd.DataFrame:
    """Values of shape (members, methods), members of one objective after those of another."""
    rows = [
        {"objective": f"objective {o}", "member": m, "method": f"method {c}", "value": value}
        for (o, m), row in zip(((o, m) for o, k in enumerate(sizes) for m in range(k)), values, strict=True)
        for c, value in enumerate(row)
    ]
    return pd.DataFrame(rows)


def by_effect(found: pd.DataFrame) -> dict[str, dict[str, object]]:
    return {row["effect"]: row for row in found.to_dict("records")}  # type: ignore[misc]


def slow_shares(values: np.ndarray, sizes: tuple[int, ...]) -> dict[str, float]:
    """Sums of squares, cell by cell."""
    members, methods = values.shape
    grand = values.mean()
    objective = np.repeat(np.arange(len(sizes)), sizes)
    total = ((values - grand) ** 2).sum()
    effects = {"method": 0.0, "objective": 0.0, "interaction": 0.0}
    for m, c in product(range(members), range(methods)):
        own = values[objective == objective[m]]
        by_method, by_objective = values[:, c].mean() - grand, own.mean() - grand
        effects["method"] += by_method**2
        effects["objective"] += by_objective**2
        effects["interaction"] += (own[:, c].mean() - grand - by_method - by_objective) ** 2
    return {name: square / total for name, square in effects.items()}


def test_two_methods_and_two_objectives_by_hand() -> None:
    # Method 1 always has 10 more. The members of both objectives are alike.
    found = by_effect(layout_effects(table(np.array([[10, 20], [12, 22]] * 2), (2, 2)), seed=0))
    # Mean 16; squares 36 + 16 + 16 + 36, twice; between methods 8 * 25.
    assert found["method"]["share"] == pytest.approx(200 / 208)
    # Of 2^4 exchanges the one of all and the one of none have as much.
    assert found["method"]["p_value"] == found["method"]["p_floor"] == 2 / 16
    for name in ("objective", "interaction"):
        assert (found[name]["share"], found[name]["p_value"]) == (0, 1)
        assert found[name]["p_floor"] == 2 / 6
    assert all(row["exact"] for row in found.values())


def test_an_effect_that_turns_round_is_an_interaction_by_hand() -> None:
    found = by_effect(layout_effects(table(np.array([[1, 3], [1, 3], [3, 1], [3, 1]]), (2, 2)), seed=0))
    assert (found["interaction"]["share"], found["interaction"]["p_value"]) == (1, 2 / 6)
    for name in ("method", "objective"):
        assert (found[name]["share"], found[name]["p_value"]) == (0, 1)


@pytest.mark.parametrize(("sizes", "methods"), [((3, 2), 2), ((2, 2), 3), ((2, 2, 2), 2)])
def test_p_values_agree_with_listing_every_rearrangement(sizes: tuple[int, ...], methods: int) -> None:
    rng = np.random.default_rng(sum(sizes) + methods)
    values = rng.integers(0, 6, (sum(sizes), methods)).astype(float)
    values[: sizes[0], 0] += 3
    found = by_effect(layout_effects(table(values, sizes), seed=0))
    seen = slow_shares(values, sizes)
    own_mean = values.mean(axis=1, keepdims=True)
    deviations = values - own_mean
    within = [
        np.array([row[list(order)] for row, order in zip(values, orders, strict=True)])
        for orders in product(permutations(range(methods)), repeat=len(values))
    ]
    between = [list(order) for order in permutations(range(len(values)))]
    null = {
        "method": [slow_shares(moved, sizes)["method"] for moved in within],
        "objective": [slow_shares(deviations + own_mean[o], sizes)["objective"] for o in between],
        "interaction": [slow_shares(deviations[o] + own_mean, sizes)["interaction"] for o in between],
    }
    for name, shares in null.items():
        assert found[name]["share"] == pytest.approx(seen[name], abs=1e-10)
        assert found[name]["p_value"] == pytest.approx(np.mean(np.array(shares) >= seen[name] - 1e-9))
        assert found[name]["p_value"] >= found[name]["p_floor"]
        assert found[name]["exact"]


def test_floors_are_reached_where_an_effect_is_clear() -> None:
    rng = np.random.default_rng(0)
    sizes = (4, 3)
    values = rng.normal(0, 0.01, (7, 2)) + np.repeat([0, 5], sizes)[:, None] * [1, 3] + [0, 100]
    for row in by_effect(layout_effects(table(values, sizes), seed=0)).values():
        assert row["p_value"] == row["p_floor"]
    # Unlike objectives of one size, these cannot be exchanged as a whole.
    assert len(list(combinations(range(7), 3))) == 35
    assert by_effect(layout_effects(table(values, sizes), seed=0))["objective"]["p_floor"] == 1 / 35


def test_many_rearrangements_are_drawn_and_come_near_the_exact_p(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    layout = table(rng.normal(0, 1, (10, 2)) + np.repeat([0, 0.9], 5)[:, None] * [0, 1], (5, 5))
    exact = layout_effects(layout, seed=0)
    monkeypatch.setattr("pie.effects._REARRANGEMENTS", 200)
    drawn, again, other = (layout_effects(layout, seed=seed) for seed in (0, 0, 1))
    assert exact["exact"].all()
    assert not drawn["exact"].any()
    assert (drawn["p_floor"] == 1 / 201).all()
    pd.testing.assert_frame_equal(drawn, again)
    assert (drawn["p_value"] != other["p_value"]).any()
    np.testing.assert_allclose(drawn["p_value"], exact["p_value"], atol=0.12)
    np.testing.assert_allclose(drawn["share"], exact["share"])


def test_level_and_power() -> None:
    rng = np.random.default_rng(2)
    objective = np.repeat([0, 1], 5)[:, None]

    def rejections(effect: np.ndarray | float, repeats: int) -> pd.Series:
        p = []
        for _ in range(repeats):
            # Skewed scatter, and members that differ as a whole.
            values = rng.exponential(1, (10, 1)) + rng.exponential(0.5, (10, 2)) + effect
            p.append(layout_effects(table(values, (5, 5)), seed=0).set_index("effect")["p_value"])
        return (pd.concat(p, axis=1) <= 0.05).mean(axis=1)

    # 300 repeats: the standard error at 5 % is 1.3 points.
    assert rejections(0, 300).between(0.015, 0.09).all()
    by_method = rejections(np.array([0, 1.2]), 40)
    assert by_method["method"] > 0.8
    assert by_method["objective"] < 0.2
    assert by_method["interaction"] < 0.2
    assert rejections(3 * objective, 40)["objective"] > 0.8
    assert rejections(1.5 * objective * np.array([-1, 1]), 40)["interaction"] > 0.8


def test_units_names_and_the_order_of_rows_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    layout = table(rng.normal(size=(7, 2)), (4, 3))
    wanted = layout_effects(layout, seed=0)
    other = layout.assign(value=5 - 300 * layout["value"], member=[f"seed {m}" for m in layout["member"]])
    found = layout_effects(other.sample(frac=1, random_state=0), seed=0)
    np.testing.assert_allclose(found["share"], wanted["share"])
    np.testing.assert_allclose(found["p_value"], wanted["p_value"])


def test_values_that_do_not_vary_show_no_effect() -> None:
    found = layout_effects(table(np.full((4, 2), 0.1), (2, 2)), seed=0)
    assert (found["share"] == 0).all()
    assert (found["p_value"] == 1).all()


def test_differences_that_are_equal_on_paper_are_no_interaction() -> None:
    values = np.array([[0.1, 0.1 + 0.2], [0.7, 0.9], [0.3, 0.5], [1.1, 1.3]])
    assert len(np.unique(values[:, 1] - values[:, 0])) > 1  # rounding
    found = by_effect(layout_effects(table(values, (2, 2)), seed=0))
    assert (found["interaction"]["share"], found["interaction"]["p_value"]) == (0, 1)


GOOD = table(np.arange(8.0).reshape(4, 2), (2, 2))


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (GOOD.drop(columns=["method", "value"]), "lacks method, value"),
        (GOOD.iloc[1:], "member 0 of objective 0 has no finite value under method 0"),
        (
            GOOD.replace({"value": {5.0: np.inf}}),
            "member 0 of objective 1 has no finite value under method 1",
        ),
        (pd.concat([GOOD, GOOD.tail(1)]), "member 1 of objective 1 has more than one value under method 1"),
        (GOOD.astype({"value": str}), "values must be numbers"),
        (GOOD[GOOD["method"] == "method 0"], r"not 1 methods and \[2, 2\] members"),
        (GOOD[GOOD["objective"] == "objective 0"], r"not 2 methods and \[2\] members"),
        (GOOD.iloc[:6], r"not 2 methods and \[2, 1\] members"),
    ],
)
def test_an_incomplete_layout_is_refused(layout: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layout_effects(layout, seed=0)

import warnings
from itertools import product

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import MetricFrame, false_negative_rate, false_positive_rate, true_positive_rate
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix

from analysis.fairness import class_rates, group_rates
from analysis.fairness.rates import RateChanges
from analysis.recall import class_deltas
from population.errors import InputError
from population.predictions import Predictions


def population(votes: np.ndarray, label: np.ndarray | None, **further: object) -> Predictions:
    return Predictions(np.arange(votes.shape[1]).astype(str), votes, label=label, **further)  # type: ignore[arg-type]


def models(rng: np.random.Generator, k: int, label: np.ndarray, right: np.ndarray | float) -> np.ndarray:
    """Models that are right with a probability per image, and otherwise name one of the other classes."""
    classes = label.max() + 1
    other = (label + rng.integers(1, classes, (k, len(label)))) % classes
    return np.where(rng.random((k, len(label))) < right, label, other)


def row(found: RateChanges, **where: str) -> pd.Series:
    table = found.table
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


LABEL = np.array([1, 1, 1, 0, 0, 1, 0, 0])
GROUPS = pd.DataFrame({"sex": list("ffffmmmm"), "age": list("oyyoyyyy")}, index=np.arange(8).astype(str))


def eight_images() -> tuple[Predictions, Predictions]:
    dense = np.array([[1, 1, 0, 0, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0, 1, 0]])
    compressed = np.array([[1, 0, 0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0, 1, 1]])
    return population(dense, LABEL, class_names=np.array(["dark", "blond"])), population(compressed, None)


def test_rates_of_groups_by_hand() -> None:
    found = group_rates(*eight_images(), GROUPS, positive="blond", design="paired", seed=0)
    women = {"grouping": "sex", "group": "f"}
    recall = row(found, **women, rate="tpr")
    # Three blond women: 2 and 3 are found, then 1 and none.
    assert (recall["n"], recall["few"], recall["share"]) == (3, True, 0.5)
    assert recall["dense"] == pytest.approx(5 / 6)
    assert recall["compressed"] == pytest.approx(1 / 6)
    assert recall["change"] == pytest.approx(-4 / 6)
    assert recall["change_percent"] == pytest.approx(-80)
    # All four blond images: 3 and 3, then 2 and 0, so the whole changes by -1/2.
    assert recall["change_relative"] == pytest.approx(-1 / 6)
    misses = row(found, **women, rate="fnr")
    assert misses["change_percent"] == pytest.approx(400)
    accuracy = row(found, **women, rate="accuracy")
    assert (accuracy["n"], accuracy["dense"], accuracy["compressed"]) == (4, 0.875, 0.25)
    # One dark woman, never named blond before, once after: the percentage has no value.
    alarms = row(found, **women, rate="fpr")
    assert (alarms["n"], alarms["dense"], alarms["compressed"]) == (1, 0, 0.5)
    assert pd.isna(alarms["change_percent"])
    assert pd.isna(alarms["change_percent_low"])
    # fpr of f; fpr and fnr of o and of f × o, who were always recognised.
    assert found.undefined == 5
    crossed = row(found, grouping="sex × age", group="f × o", rate="tpr")
    assert (crossed["n"], crossed["dense"], crossed["compressed"]) == (1, 1, 0.5)
    everyone = row(found, grouping="all", rate="fpr")
    assert (everyone["n"], everyone["dense"], everyone["compressed"]) == (4, 0.25, 0.5)
    assert everyone["change_relative"] == 0
    assert pd.isna(everyone["p_value"])


def test_members_are_listed_with_their_rates() -> None:
    found = group_rates(*eight_images(), GROUPS, positive="blond", design="paired", seed=0)
    members = found.members.query("grouping == 'sex' and rate == 'tpr' and group == 'f'")
    assert members["population"].tolist() == ["dense", "dense", "compressed", "compressed"]
    assert members["member"].tolist() == [0, 1, 0, 1]
    assert members["value"].tolist() == pytest.approx([2 / 3, 1, 1 / 3, 0])


def test_a_rate_over_no_image_is_in_the_table_without_numbers() -> None:
    groups = GROUPS.assign(sex=np.where(LABEL == 1, "f", "m"))[["sex"]]
    found = group_rates(*eight_images(), groups, positive="blond", design="paired", seed=0)
    blond_men = row(found, grouping="sex", group="m", rate="tpr")
    assert (blond_men["n"], blond_men["few"], blond_men["share"]) == (0, True, 0.5)
    assert blond_men.loc["dense":].isna().all()
    assert not ((found.members["group"] == "m") & (found.members["rate"] == "tpr")).any()
    # Nothing to compare the women with.
    assert pd.isna(row(found, grouping="sex", group="f", rate="tpr")["p_value"])
    assert found.undefined == 0


def test_groups_are_matched_by_id_and_not_by_order() -> None:
    dense, compressed = eight_images()
    found = group_rates(dense, compressed, GROUPS, positive="blond", design="paired", seed=0)
    shuffled = np.random.default_rng(0).permutation(8)
    again = group_rates(
        dense, compressed.take(shuffled), GROUPS.iloc[shuffled], positive="blond", design="paired", seed=0
    )
    pd.testing.assert_frame_equal(found.table, again.table)


def test_class_rates_by_hand() -> None:
    dense, compressed = eight_images()
    found = class_rates(dense, compressed, design="paired", seed=0)
    blond = {"grouping": "class", "group": "blond"}
    assert row(found, **blond, rate="tpr")["dense"] == 0.75
    assert row(found, **blond, rate="fpr")["compressed"] == 0.5
    assert row(found, **blond, rate="fnr")["change_percent"] == pytest.approx(200)
    dark = row(found, grouping="class", group="dark", rate="fpr")  # in two classes a miss of the other
    assert (dark["n"], dark["dense"], dark["compressed"]) == (4, 0.25, 0.75)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), k=st.integers(1, 3), classes=st.integers(2, 5))
def test_class_rates_are_those_of_sklearns_confusion_matrix(seed: int, k: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    label = np.concatenate([np.arange(classes), rng.integers(0, classes, 40)])
    dense, compressed = models(rng, k, label, 0.7), models(rng, k, label, 0.4)
    found = class_rates(population(dense, label), population(compressed, label), design="paired", seed=0)
    values = found.members.pivot(index=["population", "member", "group"], columns="rate", values="value")
    for name, votes in (("dense", dense), ("compressed", compressed)):
        for m, predicted in enumerate(votes):
            table = confusion_matrix(label, predicted)
            hits, actual, named = np.diag(table), table.sum(axis=1), table.sum(axis=0)
            mine = values.loc[name, m]
            np.testing.assert_allclose(mine["tpr"], hits / actual)
            np.testing.assert_allclose(mine["fnr"], 1 - hits / actual)
            np.testing.assert_allclose(mine["fpr"], (named - hits) / (len(label) - actual))


def test_group_rates_are_those_of_fairlearn() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 300)
    groups = pd.DataFrame(
        {"sex": rng.choice(["f", "m"], 300), "age": rng.choice(["o", "x", "y"], 300)},
        index=np.arange(300).astype(str),
    )
    dense, compressed = models(rng, 4, label, 0.8), models(rng, 4, label, 0.6)
    found = group_rates(
        population(dense, label), population(compressed, label), groups, positive="1", design="paired", seed=0
    )
    metrics = {
        "tpr": true_positive_rate,
        "fpr": false_positive_rate,
        "fnr": false_negative_rate,
        "accuracy": accuracy_score,
    }
    for column, votes in (("dense", dense), ("compressed", compressed)):
        for grouping, features in (("sex", ["sex"]), ("age", ["age"]), ("sex × age", ["sex", "age"])):
            # Fairlearn calls a deprecated function of pandas.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frames = [
                    MetricFrame(
                        metrics=metrics, y_true=label, y_pred=one, sensitive_features=groups[features]
                    )
                    for one in votes
                ]
            wanted = np.mean([frame.by_group for frame in frames], axis=0)
            table = found.table[found.table["grouping"] == grouping]
            mine = table.pivot(index="group", columns="rate", values=column)[list(metrics)]
            names = [" × ".join(np.atleast_1d(name)) for name in frames[0].by_group.index]
            np.testing.assert_allclose(mine.loc[names].to_numpy(float), wanted)
            everyone = found.table[found.table["grouping"] == "all"].set_index("rate")[column]
            overall = np.mean([frame.overall for frame in frames], axis=0)
            np.testing.assert_allclose(everyone[list(metrics)].to_numpy(float), overall)


def test_recall_of_classes_is_tested_as_by_class_deltas() -> None:
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1, 2, 4], [10, 20, 30, 5])
    dense, compressed = (
        population(models(rng, 6, label, 0.7), label),
        population(models(rng, 6, label, 0.6), label),
    )
    found = class_rates(dense, compressed, design="paired", seed=0).table
    recall = found[found["rate"] == "tpr"].reset_index(drop=True)
    deltas = class_deltas(dense, compressed, design="paired", seed=0).table
    same = {"delta": "change", "delta_relative": "change_relative"}
    same |= {name: name for name in ("p_value", "p_adjusted", "p_welch", "p_welch_adjusted", "n")}
    for theirs, mine in same.items():
        pd.testing.assert_series_equal(recall[mine], deltas[theirs], check_names=False, check_dtype=False)
    assert (recall["p_max_t"] >= recall["p_value"]).all()
    assert recall["p_floor"].dropna().tolist() == [1 / 32] * 4


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_p_of_a_group_agrees_with_listing_every_rearrangement(design: str) -> None:
    rng = np.random.default_rng(2)
    k, label = 4, rng.integers(0, 2, 60)
    sex = rng.choice(["f", "m", "x"], 60)
    votes = np.vstack([models(rng, k, label, 0.8), models(rng, k, label, np.where(sex == "f", 0.3, 0.8))])
    found = group_rates(
        population(votes[:k], label),
        population(votes[k:], label),
        pd.DataFrame({"sex": sex}, index=np.arange(60).astype(str)),
        positive="1",
        design=design,  # type: ignore[arg-type]
        seed=0,
    )
    actual = label == 1
    own = np.array([(one[actual & (sex == "f")] == 1).mean() - (one[actual] == 1).mean() for one in votes])
    if design == "paired":
        ways = [[m + k * side for m, side in enumerate(sides)] for sides in product([0, 1], repeat=k)]
    else:
        ways = [list(np.flatnonzero(way)) for way in product([0, 1], repeat=2 * k) if sum(way) == k]
    means = np.array([abs(own[way].sum() * 2 - own.sum()) for way in ways])
    seen = abs(own[:k].sum() * 2 - own.sum())
    assert row(found, grouping="sex", group="f", rate="tpr")["p_value"] == (means >= seen - 1e-9).mean()


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_the_chance_of_any_false_alarm_among_groups_is_held(design: str) -> None:
    rng = np.random.default_rng(3)
    label = np.repeat([0, 1], 40)
    groups = pd.DataFrame({"site": np.tile(list("abcdefgh"), 10)}, index=np.arange(80).astype(str))

    def least(hurt: float, repeats: int) -> np.ndarray:
        right = np.where(groups["site"] == "a", hurt, 0.7)
        found = []
        for _ in range(repeats):
            dense, compressed = models(rng, 7, label, 0.8), models(rng, 7, label, right)
            table = group_rates(
                population(dense, label),
                population(compressed, label),
                groups,
                positive=None,
                design=design,  # type: ignore[arg-type]
                seed=0,
            ).table
            found.append(table.loc[table["grouping"] == "site", ["p_value", "p_max_t"]].min().to_numpy(float))
        return np.array(found)

    # All sites lose the same. Standard error of a share of .05 among 100: 2.2 points.
    alone, corrected = (least(0.7, 100) <= 0.05).mean(axis=0)
    assert corrected <= 0.12
    assert alone > 0.15
    assert (least(0.2, 15)[:, 1] <= 0.05).mean() > 0.8


def test_percentages_have_intervals_over_pairs() -> None:
    # Every pair loses half of its recall, whatever it was.
    label = np.ones(40, dtype=int)
    dense, compressed = np.zeros((6, 40), dtype=int), np.zeros((6, 40), dtype=int)
    for m in range(6):
        dense[m, : 4 * (m + 1)] = 1
        compressed[m, : 2 * (m + 1)] = 1
    groups = pd.DataFrame(index=np.arange(40).astype(str))

    def recall(design: str) -> pd.Series:
        found = group_rates(
            population(dense, label), population(compressed, label), groups,
            positive="1", design=design, seed=0,  # type: ignore[arg-type]
        )  # fmt: skip
        return row(found, rate="tpr")

    paired, independent = recall("paired"), recall("independent")
    assert paired["change_percent_low"] == pytest.approx(-50)
    assert paired["change_percent_high"] == pytest.approx(-50)
    assert independent["change_percent_low"] < -60
    assert independent["change_percent_high"] > -40
    assert independent["change_low"] < paired["change_low"] < -0.175 < paired["change_high"] < 0


def test_swapping_before_and_after_turns_the_changes_round() -> None:
    rng = np.random.default_rng(4)
    label = rng.integers(0, 3, 90)
    one, other = population(models(rng, 5, label, 0.7), label), population(models(rng, 5, label, 0.5), label)
    there = class_rates(one, other, design="paired", seed=0).table
    back = class_rates(other, one, design="paired", seed=0).table
    np.testing.assert_allclose(there["change"].to_numpy(float), -back["change"].to_numpy(float))
    for p in ("p_value", "p_max_t", "p_welch"):
        np.testing.assert_allclose(there[p].to_numpy(float), back[p].to_numpy(float))


def test_single_models_have_rates_but_no_interval_and_no_test() -> None:
    dense, compressed = eight_images()
    one = population(dense.predicted[:1], LABEL), population(compressed.predicted[:1], LABEL)
    found = group_rates(*one, GROUPS, positive="1", design="paired", seed=0).table
    known = ["dense", "compressed", "change", "change_relative"]
    assert found.loc[found["n"] > 0, known].notna().all(axis=None)
    unknown = found.filter(regex="_low$|_high$|^p_(?!images)")
    assert unknown.shape[1] == 10
    assert unknown.isna().all(axis=None)


def test_equal_seeds_give_equal_tables() -> None:
    rng = np.random.default_rng(5)
    label = rng.integers(0, 3, 60)
    pair = population(models(rng, 15, label, 0.7), label), population(models(rng, 15, label, 0.6), label)
    first, again, other = (class_rates(*pair, design="paired", seed=seed).table for seed in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_bad_input_is_refused() -> None:
    dense, compressed = eight_images()
    with pytest.raises(InputError, match=r"unknown class 'blonde'.*did you mean 'blond'"):
        group_rates(dense, compressed, GROUPS, positive="blonde", design="paired", seed=0)
    with pytest.raises(InputError, match="lacks 1 of 8"):
        group_rates(dense, compressed, GROUPS.iloc[1:], positive=None, design="paired", seed=0)
    bare = population(dense.predicted, None)
    with pytest.raises(InputError, match="true labels"):
        class_rates(bare, bare, design="paired", seed=0)

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_ind
from sklearn.metrics import recall_score

from analysis.recall import class_deltas, population_accuracy
from population.errors import InputError
from population.predictions import Predictions

LABEL = np.repeat([0, 1, 2], [10, 20, 30])


def population(votes: np.ndarray, label: np.ndarray | None = LABEL, **further: object) -> Predictions:
    return Predictions(np.arange(votes.shape[1]).astype(str), votes, label=label, **further)  # type: ignore[arg-type]


def models(rng: np.random.Generator, k: int, right: tuple[float, ...] = (0.6, 0.7, 0.8)) -> np.ndarray:
    """Models that are right with a probability per class, and otherwise say the next class."""
    return np.where(rng.random((k, len(LABEL))) < np.array(right)[LABEL], LABEL, (LABEL + 1) % 3)


def relative(votes: np.ndarray) -> np.ndarray:
    """Recall per model and class against the model's own accuracy, by loops."""
    return np.array(
        [[(row[c == LABEL] == c).mean() - (row == LABEL).mean() for c in range(3)] for row in votes]
    )


def test_recall_by_hand() -> None:
    label = np.array([0, 0, 1, 3])
    dense = Predictions(np.array(list("abcd")), np.array([[0, 0, 1, 3], [0, 1, 1, 3]]), label=label)
    compressed = Predictions(np.array(list("abcd")), np.array([[0, 1, 1, 0], [1, 1, 1, 3]]),
                             class_names=np.array(["w", "x", "y", "z"]))  # fmt: skip
    table = class_deltas(dense, compressed, design="paired", seed=0).table
    assert table["name"].tolist() == ["w", "x", "y", "z"]
    assert table["n"].tolist() == [2, 1, 0, 1]
    filled = table.drop(index=2)
    assert filled["recall_dense"].tolist() == [0.75, 1, 1]
    assert filled["recall_compressed"].tolist() == [0.25, 1, 0.5]
    assert filled["delta"].tolist() == [-0.5, 0, -0.5]
    assert filled["delta_low"].tolist() == [-0.5, 0, -1]
    assert filled["delta_high"].tolist() == [-0.5, 0, 0]
    # Accuracies 1, .75 -> .5, .5: the mean change is -.375.
    assert filled["delta_relative"].tolist() == pytest.approx([-0.125, 0.375, -0.125])
    assert table.loc[2].drop(["name", "n"]).isna().all()


def test_welch_is_that_of_scipy_on_the_published_quantities() -> None:
    rng = np.random.default_rng(0)
    dense, compressed = models(rng, 6), models(rng, 9, (0.3, 0.7, 0.75))
    table = class_deltas(population(dense), population(compressed), design="independent", seed=0).table
    for c in range(3):
        before = (dense[:, c == LABEL] == c).mean(axis=1) - (dense == LABEL).mean()
        after = (compressed[:, c == LABEL] == c).mean(axis=1) - (compressed == LABEL).mean()
        assert table["p_welch"][c] == pytest.approx(
            ttest_ind(before, after, equal_var=False).pvalue, rel=1e-9
        )


def test_welch_without_variance_is_decided_by_the_means() -> None:
    dense = np.tile(LABEL, (4, 1))
    compressed = dense.copy()
    compressed[:, :5] = 1  # every model loses half of class 0
    table = class_deltas(population(dense), population(compressed), design="paired", seed=0).table
    assert table["p_welch"].tolist() == [0, 0, 0]
    same = class_deltas(population(dense), population(dense), design="paired", seed=0).table
    assert same["p_welch"].tolist() == [1, 1, 1]
    assert same["p_value"].tolist() == [1, 1, 1]
    # One constant side is an ordinary Welch test.
    compressed[0, :5] = 0
    once = class_deltas(population(dense), population(compressed), design="paired", seed=0).table
    after = np.array([1, 0.5, 0.5, 0.5]) - (compressed == LABEL).mean()
    # Against four zeros Welch's t is the one-sample t: 3 degrees of freedom come from this side alone.
    assert once["p_welch"][0] == pytest.approx(ttest_1samp(after, 0).pvalue)


@pytest.mark.parametrize(
    ("k", "other", "design"), [(6, 6, "paired"), (4, 4, "independent"), (3, 5, "independent")]
)
def test_permutation_p_agrees_with_listing_every_rearrangement(k: int, other: int, design: str) -> None:
    rng = np.random.default_rng(k)
    dense, compressed = models(rng, k), models(rng, other, (0.4, 0.7, 0.8))
    members = np.vstack([relative(dense), relative(compressed)])
    if design == "paired":
        choices = [[m + k * s for m, s in enumerate(swap)] for swap in product([0, 1], repeat=k)]
    else:
        choices = [list(c) for c in combinations(range(k + other), k)]

    def statistic(chosen: list[int]) -> np.ndarray:
        rest = [m for m in range(k + other) if m not in chosen]
        return np.abs(members[rest].mean(axis=0) - members[chosen].mean(axis=0))

    seen = statistic(list(range(k)))
    wanted = np.mean([statistic(c) >= seen - 1e-9 for c in choices], axis=0)
    table = class_deltas(population(dense), population(compressed), design=design, seed=0).table  # type: ignore[arg-type]
    np.testing.assert_allclose(table["p_value"].to_numpy(float), wanted)


def test_adjustment_by_hand() -> None:
    rng = np.random.default_rng(3)
    table = class_deltas(
        population(models(rng, 8)), population(models(rng, 8, (0.2, 0.7, 0.8))), design="independent", seed=0
    ).table
    for raw, adjusted in (("p_value", "p_adjusted"), ("p_welch", "p_welch_adjusted")):
        least, middle, most = np.sort(table[raw].to_numpy(float))
        wanted = [min(3 * least, 1.5 * middle, most), min(1.5 * middle, most), most]
        np.testing.assert_allclose(np.sort(table[adjusted].to_numpy(float)), wanted)


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_level_and_power(design: str) -> None:
    rng = np.random.default_rng(4)

    def p_values(right: tuple[float, ...], repeats: int) -> np.ndarray:
        return np.array([
            class_deltas(population(models(rng, 7)), population(models(rng, 7, right)),
                         design=design, seed=0).table[["p_value", "p_welch"]].to_numpy(float)  # type: ignore[arg-type]
            for _ in range(repeats)
        ])  # fmt: skip

    # 150 tables of 3 dependent classes: a standard error of about 1.5 points.
    level = (p_values((0.6, 0.7, 0.8), 150) <= 0.05).mean(axis=(0, 1))
    assert (level > 0.005).all()
    assert (level < 0.1).all()
    power = (p_values((0.2, 0.7, 0.8), 30)[:, 0] <= 0.05).mean(axis=0)
    assert (power > 0.8).all()


def test_paired_interval_uses_the_pairs() -> None:
    rng = np.random.default_rng(5)
    quality = rng.uniform(0.3, 0.9, size=(10, 1))
    dense = np.where(rng.random((10, 60)) < quality, LABEL, (LABEL + 1) % 3)
    compressed = dense.copy()
    compressed[:, 59] = 0  # each model loses the same image of class 2, or had it wrong
    paired = class_deltas(population(dense), population(compressed), design="paired", seed=0).table
    independent = class_deltas(population(dense), population(compressed), design="independent", seed=0).table
    narrow = paired["delta_high"][2] - paired["delta_low"][2]
    wide = independent["delta_high"][2] - independent["delta_low"][2]
    assert narrow <= 1 / 30
    assert wide > 3 * narrow
    assert paired["delta"].tolist() == independent["delta"].tolist()


def test_equal_seeds_give_equal_tables() -> None:
    rng = np.random.default_rng(6)
    dense, compressed = population(models(rng, 14)), population(models(rng, 14))
    first, again, other = (class_deltas(dense, compressed, design="paired", seed=s).table for s in (1, 1, 2))
    assert first.equals(again)
    assert not first.equals(other)


def test_accuracy_of_the_population() -> None:
    votes = np.tile(LABEL, (3, 1))
    votes[0, :6] = 2
    found = population_accuracy(population(votes), seed=0)
    assert found.mean == pytest.approx((0.9 + 1 + 1) / 3)
    assert found.low == pytest.approx(0.9)  # all three draws take the worst model in 1/27 > 2.5 % of cases
    assert found.high == 1


def test_bad_input_is_refused() -> None:
    votes = models(np.random.default_rng(7), 3)
    bare = population(votes, label=None)
    with pytest.raises(InputError, match="true labels"):
        class_deltas(bare, bare, design="paired", seed=0)
    with pytest.raises(InputError, match="true labels"):
        population_accuracy(bare, seed=0)
    with pytest.raises(InputError, match="equal K"):
        class_deltas(population(votes), population(votes[:2]), design="paired", seed=0)


def test_single_models_have_changes_but_no_interval_and_no_test() -> None:
    votes = models(np.random.default_rng(8), 2)
    dense, compressed = population(votes[:1]), population(votes[1:])
    for design in ("paired", "independent"):
        table = class_deltas(dense, compressed, design=design, seed=0).table
        for name, side in (("recall_dense", votes[0]), ("recall_compressed", votes[1])):
            expected = recall_score(LABEL, side, average=None, labels=range(len(table)), zero_division=0)
            assert table[name].fillna(0).tolist() == pytest.approx(expected.tolist())
        unknown = ["delta_low", "delta_high", "p_value", "p_adjusted", "p_welch", "p_welch_adjusted"]
        assert table[unknown].isna().all(axis=None)
    accuracy = population_accuracy(dense, seed=0)
    assert accuracy.mean == pytest.approx((votes[0] == LABEL).mean())
    assert (accuracy.low, accuracy.high) == (None, None)

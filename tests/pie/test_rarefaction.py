from collections import Counter
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom, t

from pie import find_pies
from pie.rarefaction import LIMIT, KNeeded, k_needed, rarefy
from pie.seed_noise import expected_null, fit_shares, noise_between
from population.errors import InputError
from population.pairing import Design
from population.predictions import Predictions

COLUMNS = ["k", "count", "low", "high", "seed_noise", "seed_noise_low", "seed_noise_high"]


def population(votes: np.ndarray) -> Predictions:
    return Predictions(np.arange(votes.shape[1]).astype(str), votes, class_names=np.arange(4).astype(str))


def draw(p: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Votes of k models, shape (k, n), from shares (n, classes)."""
    edges = p.cumsum(axis=1)
    edges[:, -1] = 1
    return np.stack([(edges > rng.random((len(p), 1))).argmax(axis=1) for _ in range(k)])


def shares(n: int, rng: np.random.Generator) -> np.ndarray:
    right = rng.beta(3, 1.2, n)
    p = rng.dirichlet([0.3, 0.3, 0.3], n) * (1 - right)[:, None]
    return np.column_stack([right, p])


def pair(p: np.ndarray, k: int, design: Design, rng: np.random.Generator) -> tuple[Predictions, Predictions]:
    dense, fresh = draw(p, k, rng), draw(0.7 * p + 0.3 * np.roll(p, 1, axis=1), k, rng)
    if design == "paired":
        fresh = np.where(rng.random(dense.shape) < 0.5, fresh, dense)
    return population(dense), population(fresh)


def mode(votes: np.ndarray) -> int:
    counts = Counter(sorted(votes.tolist()))
    return max(counts, key=lambda c: (counts[c], -c))


def pies(dense: np.ndarray, compressed: np.ndarray) -> int:
    return sum(mode(a) != mode(b) for a, b in zip(dense.T, compressed.T, strict=True))


def slow_mean(dense: np.ndarray, compressed: np.ndarray, k: int, design: Design) -> float:
    first = [list(c) for c in combinations(range(len(dense)), k)]
    if design == "paired":
        return float(np.mean([pies(dense[c], compressed[c]) for c in first]))
    second = [list(c) for c in combinations(range(len(compressed)), k)]
    return float(np.mean([pies(dense[a], compressed[b]) for a in first for b in second]))


@pytest.mark.parametrize(
    ("k", "other", "design"),
    [(5, 5, "paired"), (2, 2, "paired"), (4, 4, "independent"), (3, 5, "independent")],
)
def test_counts_agree_with_listing_every_choice(k: int, other: int, design: Design) -> None:
    rng = np.random.default_rng(k)
    dense, compressed = rng.integers(4, size=(k, 25)), rng.integers(3, size=(other, 25))
    dense[:, 0] = compressed[:, 0] = 1
    dense[:, 1], compressed[:, 1] = 0, 2
    found = rarefy(population(dense), population(compressed), design=design, seed=0)
    assert found.design == design
    assert found.table.columns.tolist() == COLUMNS
    most = min(k, other)
    assert found.table["k"].tolist() == list(range(1, most + 1))
    wanted = [slow_mean(dense, compressed, size, design) for size in range(1, most + 1)]
    np.testing.assert_allclose(found.table["count"], wanted, rtol=1e-12)
    if k == other:
        whole = find_pies(population(dense), population(compressed), design=design, seed=0)
        assert found.table["count"].iloc[-1] == whole.count


def test_drawn_choices_of_pairs_are_near_all_of_them() -> None:
    rng = np.random.default_rng(1)
    dense = rng.integers(3, size=(15, 12))
    compressed = np.where(rng.random(dense.shape) < 0.3, (dense + 1) % 3, dense)
    found = rarefy(population(dense), population(compressed), design="paired", seed=0).table
    per_choice = [pies(dense[list(c)], compressed[list(c)]) for c in combinations(range(15), 7)]
    # 6435 choices, of which 1999 are drawn.
    assert found["count"][6] == pytest.approx(np.mean(per_choice), abs=4 * np.std(per_choice) / np.sqrt(1999))
    assert found["count"][0] == pytest.approx((dense != compressed).mean(axis=0).sum())


def test_drawn_independent_choices_are_near_the_hypergeometric_law() -> None:
    rng = np.random.default_rng(2)
    share = rng.random(200)
    votes = (rng.random((2, 15, 200)) < share).astype(int)
    found = rarefy(population(votes[0]), population(votes[1]), design="independent", seed=0).table
    for k in (3, 8, 14, 15):
        # Class 1 wins with more than half of k votes drawn from 15; a tie goes to class 0.
        wins = hypergeom.sf(k // 2, 15, votes.sum(axis=1), k)
        wanted = (wins[0] * (1 - wins[1]) + wins[1] * (1 - wins[0])).sum()
        assert found["count"][k - 1] == pytest.approx(wanted, abs=0.6)


def test_mean_over_choices_is_what_new_populations_of_that_size_give() -> None:
    rng = np.random.default_rng(3)
    p = shares(80, rng)
    curves = [rarefy(*pair(p, 8, "paired", rng), design="paired", seed=0).table["count"] for _ in range(40)]
    for k in (2, 5):
        new = [
            (a.modal_label != b.modal_label).sum() for a, b in (pair(p, k, "paired", rng) for _ in range(600))
        ]
        rarefied = [c[k - 1] for c in curves]
        error = np.hypot(np.std(new) / np.sqrt(600), np.std(rarefied) / np.sqrt(40))
        assert abs(np.mean(rarefied) - np.mean(new)) < 4 * error


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_interval_for_few_models_is_the_jackknife(design: Design) -> None:
    rng = np.random.default_rng(4)
    dense, compressed = pair(shares(60, rng), 6, design, rng)
    table = rarefy(dense, compressed, design=design, seed=0).table
    a, b = dense.predicted, compressed.predicted
    without = []
    for m in range(6):
        if design == "paired":
            without.append([slow_mean(np.delete(a, m, 0), np.delete(b, m, 0), 1, design)])
        else:
            without.append(
                [slow_mean(np.delete(a, m, 0), b, 1, design), slow_mean(a, np.delete(b, m, 0), 1, design)]
            )
    variance = 5 * np.var(without, axis=0).sum()  # 5/6 of the sum of squares over 6
    count = table["count"][0]
    reach = t.ppf(0.975, 5) * np.sqrt(variance) / (2 * np.sqrt(count))
    assert table["low"][0] == pytest.approx((np.sqrt(count) - reach) ** 2)
    assert table["high"][0] == pytest.approx((np.sqrt(count) + reach) ** 2)


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_interval_for_all_models_is_the_bootstrap(design: Design) -> None:
    rng = np.random.default_rng(5)
    dense, compressed = pair(shares(60, rng), 6, design, rng)
    counts = []
    for _ in range(2000):
        drawn = rng.integers(6, size=6)
        other = drawn if design == "paired" else rng.integers(6, size=6)
        again = population(dense.predicted[drawn]), population(compressed.predicted[other])
        counts.append((again[0].modal_label != again[1].modal_label).sum())
    last = rarefy(dense, compressed, design=design, seed=0).table.iloc[-1]
    reach = t.ppf(0.975, 5) * np.sqrt(counts).std(ddof=1)
    # Two bootstraps of 2000 each: 2.2 % between their standard errors.
    assert np.sqrt(last["high"]) - np.sqrt(last["count"]) == pytest.approx(reach, rel=0.08)
    assert np.sqrt(last["count"]) - np.sqrt(last["low"]) == pytest.approx(reach, rel=0.08)


@pytest.mark.parametrize(("design", "k"), [("paired", 6), ("independent", 6), ("independent", 15)])
def test_interval_is_as_sure_as_it_says(design: Design, k: int) -> None:
    rng = np.random.default_rng(6)
    p = shares(100, rng)
    tables = [rarefy(*pair(p, k, design, rng), design=design, seed=0).table for _ in range(40)]
    for size in (1, k // 2, k):
        new = [
            (a.modal_label != b.modal_label).sum()
            for a, b in (pair(p, size, design, rng) for _ in range(400))
        ]
        rows = np.array([table.loc[size - 1, ["low", "count", "high"]] for table in tables], dtype=float)
        # At 95 % coverage 33 or fewer of 40 have probability .003.
        assert sum((rows[:, 0] <= np.mean(new)) & (np.mean(new) <= rows[:, 2])) > 33
        low, count, high = np.sqrt(rows.T)
        assert (high - low).mean() < 3.5 * 3.92 * count.std(ddof=1)


def test_seed_noise_is_that_of_the_dense_population_at_every_k() -> None:
    rng = np.random.default_rng(7)
    dense, compressed = pair(shares(100, rng), 5, "paired", rng)
    table = rarefy(dense, compressed, design="paired", seed=0).table
    fit = fit_shares(dense)
    for row in table.itertuples():
        noise = noise_between(fit, row.k, row.k)
        assert (row.seed_noise, row.seed_noise_low, row.seed_noise_high) == (
            noise.value,
            noise.low,
            noise.high,
        )
    assert table["seed_noise"].iloc[-1] == expected_null(dense).value


def test_doing_nothing_gives_no_pie_for_any_number_of_models() -> None:
    votes = population(np.random.default_rng(8).integers(3, size=(5, 20)))
    table = rarefy(votes, votes, design="paired", seed=0).table
    assert (table[["count", "low", "high"]] == 0).all(axis=None)
    assert (table["seed_noise"] > 0).all()


def test_order_of_models_and_images_changes_nothing_and_the_seed_decides_what_is_drawn() -> None:
    rng = np.random.default_rng(9)
    dense, compressed = pair(shares(50, rng), 6, "paired", rng)
    table = rarefy(dense, compressed, design="paired", seed=0).table
    order, images = rng.permutation(6), rng.permutation(50)
    mixed = [population(side.predicted[order]).take(images) for side in (dense, compressed)]
    again = rarefy(*mixed, design="paired", seed=0).table
    np.testing.assert_allclose(again["count"], table["count"])
    many = pair(shares(50, rng), 16, "paired", rng)
    first, same, other = (rarefy(*many, design="paired", seed=seed).table for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, same)
    assert first["count"][7] != other["count"][7]


def test_single_models_are_refused() -> None:
    one = population(np.zeros((1, 3), dtype=int))
    with pytest.raises(InputError, match="at least 2 models on each side"):
        rarefy(one, one, design="paired", seed=0)


def test_k_needed_is_the_first_whose_seed_noise_is_small_enough() -> None:
    rng = np.random.default_rng(10)
    dense = population(draw(shares(2000, rng), 12, rng))
    fit = fit_shares(dense)
    found = k_needed(dense, share=0.15)
    assert found.share == 0.15
    for k, end in ((found.k_low, "low"), (found.k, "value"), (found.k_high, "high")):
        assert k is not None
        curve = [getattr(noise_between(fit, size, size), end) for size in range(1, k + 1)]
        assert curve[-1] <= 300 < min(curve[:-1])
    assert found.k_low <= found.k <= found.k_high


def test_k_needed_makes_the_seed_noise_of_new_populations_small() -> None:
    rng = np.random.default_rng(11)
    p = shares(3000, rng)

    def noise(k: int) -> float:
        modes = [population(draw(p, k, rng)).modal_label for _ in range(12)]
        return float(np.mean([(a != b).mean() for a, b in combinations(modes, 2)]))

    found = k_needed(population(draw(p, 15, rng)), share=0.15)
    assert found.k is not None
    assert found.k_high is not None
    assert noise(found.k_high) < 0.15
    assert noise(found.k) == pytest.approx(0.15, rel=0.15)


def test_no_k_is_named_where_none_up_to_the_limit_is_enough() -> None:
    toss_ups = np.random.default_rng(12).integers(2, size=(20, 500))
    assert k_needed(population(toss_ups), share=0.05) == KNeeded(0.05, None, None, None)
    assert LIMIT == 100


def test_models_that_agree_on_everything_need_no_company() -> None:
    assert k_needed(population(np.tile(np.arange(4), (3, 1))), share=0.01) == KNeeded(0.01, 1, 1, 1)


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_shares_outside_zero_and_one_are_refused(share: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        k_needed(population(np.zeros((2, 3), dtype=int)), share=share)

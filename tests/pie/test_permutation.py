from itertools import product

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from pie.permutation import LEVEL, compare_votes
from population.pairing import Design


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def draw(p: np.ndarray, k: int, generator: np.random.Generator) -> np.ndarray:
    """Votes of k models on two classes; p is the share of class 1, shape (n,) or (k, n)."""
    return (generator.random((k, p.shape[-1])) < p).astype(np.int64)


def populations(
    k: int, design: Design, generator: np.random.Generator, *, n: int = 60, damage: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Models that differ as a whole; without damage dense and compressed are exchangeable."""
    share = generator.beta(6, 1, n)

    def shares() -> np.ndarray:
        return np.clip(share + 0.1 * generator.normal(size=(k, 1)), 0, 1)

    mine = shares()
    dense = draw(mine, k, generator)
    if design == "independent":
        return dense, draw(np.clip(shares() - damage, 0, 1), k, generator)
    redrawn = generator.random(dense.shape) < 0.5
    return dense, np.where(redrawn, draw(np.clip(mine - damage, 0, 1), k, generator), dense)


def rejections(k: int, design: Design, *, repeats: int, damage: float = 0.0) -> float:
    generator = rng(k)
    p = [
        compare_votes(
            *populations(k, design, generator, damage=damage), design=design, rng=generator
        ).global_p
        for _ in range(repeats)
    ]
    return float(np.mean(np.array(p) <= LEVEL))


# 600 repeats: the standard error at 5 % is .9 points, so that the upper bound is 3.3 of them away. Six pairs
# give p in steps of 1/32 and reject at 1/32; 4 + 4 models in steps of 1/35, at 1/35.
@pytest.mark.parametrize(
    ("k", "design", "exact"),
    [(6, "paired", 1 / 32), (10, "paired", 0.05), (15, "paired", 0.05),
     (4, "independent", 1 / 35), (15, "independent", 0.05)],
)  # fmt: skip
def test_global_test_keeps_its_level_listed_or_drawn(k: int, design: Design, exact: float) -> None:
    assert exact - 0.025 < rejections(k, design, repeats=600) < exact + 0.03


@pytest.mark.parametrize(
    ("k", "design"), [(9, "paired"), (15, "paired"), (6, "independent"), (15, "independent")]
)
def test_global_test_finds_damage(k: int, design: Design) -> None:
    # Of 40: power .8 fails with probability 2e-4 where it is truly .95 or more.
    assert rejections(k, design, repeats=40, damage=0.25) > 0.8


@pytest.mark.parametrize(("k", "design"), [(5, "paired"), (3, "independent")])
def test_too_few_models_can_reject_nothing(k: int, design: Design) -> None:
    dense = np.zeros((k, 30), dtype=np.int64)
    test = compare_votes(dense, dense + 1, design=design, rng=rng())
    assert test.p_floor == test.global_p == {"paired": 1 / 16, "independent": 1 / 10}[design]
    assert (test.p_value == test.p_floor).all()
    assert (test.p_adjusted == 1).all()


def test_images_that_cannot_reach_the_level_are_left_out_of_the_adjustment() -> None:
    # Six pairs: m of them change, alike, so that the least p an image can have is 2^(1 - m) (of 32 patterns).
    changes = np.array([0, 1, 2, 3, 4, 5, 6, 6])
    dense = np.zeros((6, 8), dtype=np.int64)
    compressed = (np.arange(6)[:, None] < changes).astype(np.int64)
    dense[0, 7], compressed[0, 7] = 1, 0  # one of the six goes the other way
    test = compare_votes(dense, compressed, design="paired", rng=rng())
    np.testing.assert_array_equal(test.p_value, [1, 1, 1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 7 / 32])
    # Only the last two can: the adjustment is over 2 tests.
    np.testing.assert_array_equal(test.p_adjusted, [1, 1, 1, 1, 1, 1, 1 / 16, 7 / 32])


def slow_least_p(dense: np.ndarray, compressed: np.ndarray) -> np.ndarray:
    """Smallest p that any relabelling within pairs would have had, image by image."""
    k, n = dense.shape
    both = np.stack([dense, compressed])
    distances = []
    for swap in product([0, 1], repeat=k):
        first = both[list(swap), np.arange(k)]
        second = both[[1 - s for s in swap], np.arange(k)]
        distances.append([sum(abs((a == c).sum() - (b == c).sum()) for c in range(4))
                          for a, b in zip(first.T, second.T, strict=True)])  # fmt: skip
    table = np.array(distances)
    return np.array([min((table[:, i] >= d).mean() for d in table[:, i]) for i in range(n)])


def test_adjustment_is_benjamini_hochberg_over_the_images_that_can_reach_the_level() -> None:
    generator = rng(1)
    dense = np.where(generator.random((7, 60)) < 0.1, generator.integers(4, size=(7, 60)), 0)
    compressed = np.where(generator.random((7, 60)) < np.linspace(0, 1, 60), 1, dense)
    test = compare_votes(dense, compressed, design="paired", rng=generator)
    able = slow_least_p(dense, compressed) <= LEVEL
    assert 10 < able.sum() < 50
    np.testing.assert_allclose(test.p_adjusted[able], false_discovery_control(test.p_value[able]))
    assert (test.p_adjusted[~able] == 1).all()


@pytest.mark.parametrize(
    ("k", "design"), [(8, "paired"), (15, "paired"), (8, "independent"), (15, "independent")]
)
def test_false_discoveries_keep_their_rate_and_real_ones_are_found(k: int, design: Design) -> None:
    generator = rng(k)
    damaged = np.arange(1000) < 20
    false, found = [], []
    for _ in range(40):
        dense, compressed = populations(k, design, generator, n=1000)
        dense[:, damaged] = draw(np.full(20, 0.95), k, generator)
        compressed[:, damaged] = draw(np.full(20, 0.05), k, generator)
        rejected = compare_votes(dense, compressed, design=design, rng=generator).p_adjusted <= LEVEL
        false.append((rejected & ~damaged).sum() / max(rejected.sum(), 1))
        found.append(rejected[damaged].mean())
    # About 20 rejections in each of 40 repeats: the rate's standard error is below a point.
    assert np.mean(false) < 0.06
    assert np.mean(found) > 0.6


def test_nothing_is_found_where_there_is_nothing() -> None:
    generator = rng(2)
    hits = 0
    for _ in range(100):
        votes = populations(10, "paired", generator, n=200)
        hits += (compare_votes(*votes, design="paired", rng=generator).p_adjusted <= LEVEL).any()
    # All images are null, so any rejection is a false discovery: at most 5 of 100 expected.
    assert hits <= 12


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_names_of_classes_order_of_models_and_exchange_of_sides_change_nothing(design: Design) -> None:
    generator = rng(3)
    dense, compressed = generator.integers(4, size=(2, 6, 40))
    test = compare_votes(dense, compressed, design=design, rng=rng())
    names, order = generator.permutation(900)[:4], generator.permutation(6)
    other = compare_votes(names[compressed[order]], names[dense[order]], design=design, rng=rng())
    np.testing.assert_array_equal(other.distance, test.distance)
    np.testing.assert_array_equal(other.p_value, test.p_value)
    np.testing.assert_array_equal(other.p_adjusted, test.p_adjusted)
    assert other.global_p == test.global_p


def test_same_seed_same_p_values() -> None:
    dense, compressed = rng(4).integers(2, size=(2, 16, 50))
    first, again, other = (
        compare_votes(dense, compressed, design="paired", rng=rng(seed)).p_value for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()

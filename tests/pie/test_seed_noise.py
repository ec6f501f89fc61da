import numpy as np
import pytest

from pie.seed_noise import _top_two_counts, expected_null, fit_shares, noise_between
from population.errors import InputError
from population.predictions import Predictions


def population(votes: np.ndarray, num_classes: int) -> Predictions:
    ids = np.arange(votes.shape[1]).astype(str)
    return Predictions(ids, votes, class_names=np.arange(num_classes).astype(str))


def draw(p: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Independent models, shape (k, N)."""
    edges = p.cumsum(axis=1)
    edges[:, -1] = 1
    return np.stack([(edges > rng.random((len(p), 1))).argmax(axis=1) for _ in range(k)])


def wrong_on_one(accuracy: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    n = len(accuracy)
    label = rng.integers(num_classes, size=n)
    p = np.zeros((n, num_classes))
    p[np.arange(n), label] = accuracy
    p[np.arange(n), (label + rng.integers(1, num_classes, size=n)) % num_classes] = 1 - accuracy
    return p


def wrong_on_several(accuracy: np.ndarray, num_classes: int, rng: np.random.Generator) -> np.ndarray:
    p = rng.dirichlet(np.full(num_classes, 0.3), size=len(accuracy))
    image, label = np.arange(len(p)), rng.integers(num_classes, size=len(p))
    p[image, label] = 1e-9
    p *= ((1 - accuracy) / p.sum(axis=1))[:, None]
    p[image, label] = accuracy
    return p / p.sum(axis=1, keepdims=True)


def truth(p: np.ndarray, k: int, other_k: int, rng: np.random.Generator, pairs: int = 40) -> float:
    n = 0
    for _ in range(pairs):
        n += (rng.multinomial(k, p).argmax(axis=1) != rng.multinomial(other_k, p).argmax(axis=1)).sum()
    return n / pairs


def bimodal(n: int, rng: np.random.Generator) -> np.ndarray:
    return np.where(rng.random(n) < 0.05, rng.random(n), 1.0)


CASES = {
    "issue": (15, 2, wrong_on_one, lambda n, r: r.beta(3, 1.2, n)),
    "five models": (5, 10, wrong_on_several, lambda n, r: r.beta(3, 1.2, n)),
    "two classes": (10, 2, wrong_on_one, lambda n, r: r.beta(8, 0.5, n)),
    "ten models": (10, 10, wrong_on_several, lambda n, r: r.beta(0.5, 0.5, n)),
    "one rival": (10, 10, wrong_on_one, lambda n, r: r.beta(3, 1.2, n)),
    "mostly sure": (15, 10, wrong_on_several, bimodal),
    "thirty models": (30, 10, wrong_on_several, lambda n, r: r.beta(3, 1.2, n)),
    "many classes": (30, 100, wrong_on_several, lambda n, r: r.beta(3, 1.2, n)),
}


@pytest.mark.parametrize("name", CASES)
def test_estimate_is_within_a_quarter_of_the_truth(name: str) -> None:
    k, num_classes, spread, accuracy = CASES[name]
    rng = np.random.default_rng(len(name))
    n = 4000
    p = spread(accuracy(n, rng), num_classes, rng)
    wanted = truth(p, k, k, rng)
    found = expected_null(population(draw(p, k, rng), num_classes))
    assert wanted > 25  # enough for a ratio to mean something
    assert abs(found.value / wanted - 1) < 0.25
    assert found.low < wanted < found.high


def test_two_models_are_within_a_quarter_too() -> None:
    rng = np.random.default_rng(2)
    p = wrong_on_several(rng.beta(3, 1.2, 4000), 10, rng)
    found = expected_null(population(draw(p, 2, rng), 10))
    wanted = truth(p, 2, 2, rng)
    assert abs(found.value / wanted - 1) < 0.25
    assert found.low < wanted < found.high


def test_sizes_may_differ() -> None:
    rng = np.random.default_rng(3)
    p = wrong_on_several(rng.beta(3, 1.2, 4000), 10, rng)
    dense = population(draw(p, 15, rng), 10)
    found = expected_null(dense, other_k=3)
    assert abs(found.value / truth(p, 15, 3, rng) - 1) < 0.25
    assert found.value > 1.2 * expected_null(dense).value


def test_one_fit_tells_the_noise_of_smaller_and_larger_populations() -> None:
    rng = np.random.default_rng(9)
    p = wrong_on_several(rng.beta(3, 1.2, 4000), 10, rng)
    dense = population(draw(p, 15, rng), 10)
    shares = fit_shares(dense)
    for k, other_k in ((2, 2), (5, 5), (30, 30), (5, 30)):
        found = noise_between(shares, k, other_k)
        assert abs(found.value / truth(p, k, other_k, rng) - 1) < 0.25
        assert found == noise_between(shares, other_k, k)
    assert noise_between(shares, 15, 15) == expected_null(dense)
    assert noise_between(shares, 15, 4) == expected_null(dense, other_k=4)


@pytest.mark.parametrize(("k", "repeats"), [(5, 40), (10, 40), (30, 12)])
def test_interval_is_as_sure_as_it_says(k: int, repeats: int) -> None:
    rng = np.random.default_rng(k)
    p = wrong_on_several(rng.beta(3, 1.2, 500), 10, rng)
    wanted = truth(p, k, k, rng)
    found = [expected_null(population(draw(p, k, rng), 10)) for _ in range(repeats)]
    # At 95 % coverage 34 or fewer of 40, or 9 or fewer of 12, have probability .014 and .02.
    assert sum(f.low <= wanted <= f.high for f in found) > {40: 34, 12: 9}[repeats]
    # But no surer than that by far: on the scale of square roots, at most four times as wide as needed.
    roots = np.sqrt([[f.low, f.value, f.high] for f in found])
    assert (roots[:, 2] - roots[:, 0]).mean() < 4 * 3.92 * roots[:, 1].std(ddof=1)
    assert abs(np.mean([f.value for f in found]) / wanted - 1) < 0.15


def test_interval_holds_the_truth_when_some_models_are_worse_as_a_whole() -> None:
    rng = np.random.default_rng(4)
    p = wrong_on_several(rng.beta(3, 1.2, 600), 10, rng)

    def models(k: int) -> np.ndarray:
        sharpness = np.exp(0.3 * rng.normal(size=k))
        return np.concatenate(
            [draw(q / q.sum(axis=1, keepdims=True), 1, rng) for q in (p**s for s in sharpness)]
        )

    modes = [population(models(8), 10).modal_label for _ in range(20)]
    wanted = np.mean([(a != b).sum() for i, a in enumerate(modes) for b in modes[:i]])
    found = [expected_null(population(models(8), 10)) for _ in range(20)]
    # At 95 % coverage fewer than 16 of 20 has probability .003.
    assert sum(f.low <= wanted <= f.high for f in found) >= 16


def test_unanimous_models_make_no_noise() -> None:
    found = expected_null(population(np.tile(np.arange(5), (4, 1)), 5))
    assert (found.value, found.low, found.high) == (0, 0, 0)
    assert expected_null(population(np.zeros((3, 4), dtype=int), 1)).high == 0


def test_neither_order_nor_agreed_images_change_the_scale() -> None:
    rng = np.random.default_rng(6)
    votes = draw(wrong_on_one(rng.beta(3, 1.2, 1500), 10, rng), 6, rng)
    found = expected_null(population(votes, 10))
    mixed = expected_null(population(votes[::-1, rng.permutation(1500)], 10))
    assert mixed.value == pytest.approx(found.value, rel=1e-9)
    assert mixed.high == pytest.approx(found.high, rel=1e-6)
    doubled = expected_null(population(np.tile(votes, 2), 10))
    assert doubled.value == pytest.approx(2 * found.value, rel=1e-9)


def test_counts_without_each_model_agree_with_leaving_it_out() -> None:
    rng = np.random.default_rng(7)
    votes = rng.integers(4, size=(6, 80))
    votes = votes[:, (votes != votes[0]).any(axis=0)]
    n = votes.shape[1] + 13

    def slow(rows: np.ndarray) -> np.ndarray:
        table = np.zeros((len(rows) + 1, len(rows) + 1), dtype=int)
        for column in rows.T:
            second, first = np.sort(np.bincount(column, minlength=4))[-2:]
            table[first, second] += 1
        table[len(rows), 0] += 13
        return table.ravel()

    counts, without = _top_two_counts(votes, n)
    np.testing.assert_array_equal(counts, slow(votes))
    for member in range(6):
        np.testing.assert_array_equal(without[member], slow(np.delete(votes, member, axis=0)))


def test_votes_over_more_classes_than_usual_do_no_harm() -> None:
    votes = np.random.default_rng(8).integers(200, size=(20, 50))
    found = expected_null(population(votes, 200))
    assert 35 < found.value <= 50


def test_one_model_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 models"):
        expected_null(population(np.zeros((1, 3), dtype=int), 2))

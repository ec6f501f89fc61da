from itertools import combinations

import numpy as np
import pytest

from analysis.fairness import intensification
from analysis.fairness.jackknife import Estimate
from population.errors import InputError
from population.predictions import Predictions

CLASSES, IMAGES = 10, 60
LABEL = np.repeat(np.arange(CLASSES), IMAGES)
TRUE = np.linspace(0.5, 0.9, CLASSES)


def population(votes: np.ndarray, label: np.ndarray | None = LABEL) -> Predictions:
    return Predictions(np.arange(votes.shape[1]).astype(str), votes, label=label)


def of_recalls(hits: np.ndarray, images: int = IMAGES) -> Predictions:
    """Models that find so many of the images of each class, shape (K, C)."""
    classes = hits.shape[1]
    label = np.repeat(np.arange(classes), images)
    found = np.arange(images) < hits[:, :, None]
    return population(np.where(found.reshape(len(hits), -1), label, (label + 1) % classes), label)


def drawn(
    rng: np.random.Generator, k: int, recall: np.ndarray, seeds: np.ndarray | float = 0.1
) -> Predictions:
    chance = np.clip(recall + seeds * rng.normal(size=(k, CLASSES)), 0, 1)
    return of_recalls(rng.binomial(IMAGES, chance))


def recalls(predictions: Predictions) -> np.ndarray:
    hits = predictions.predicted == predictions.label
    return np.array([hits[:, predictions.label == c].mean(axis=1) for c in range(CLASSES)]).T


def test_two_pairs_by_hand() -> None:
    dense = of_recalls(np.array([[2, 4, 6], [4, 6, 8]]), 10)
    compressed = of_recalls(np.array([[0, 4, 8], [1, 4, 7]]), 10)
    found = intensification(dense, compressed, design="paired")
    # Less their means: dense -2, 0, 2 twice; compressed -4, 0, 4 and -3, 0, 3. One dense model with the
    # other: 8. With the other's compressed one: 2 * 3 * 2 = 12 and 2 * 4 * 2 = 16, in the mean 14.
    assert found.slope.value == pytest.approx(14 / 8 - 1)
    # Accuracy falls from .5 to .4.
    assert found.ratio.value == pytest.approx(14 / 8 * 5 / 4)
    # Means of the classes: 3, 5, 7 before, .5, 4, 7.5 after.
    assert found.naive_slope == pytest.approx(0.75)
    assert found.classes == 3
    assert found.slope.low is None  # a single pair is left when one is taken away


def test_the_closed_form_is_the_mean_over_all_ways_to_halve_the_members() -> None:
    rng = np.random.default_rng(0)
    dense, compressed = drawn(rng, 6, TRUE), drawn(rng, 6, TRUE - 0.1)
    x, y = recalls(dense), recalls(compressed)

    def covariance(weakness: np.ndarray, other: np.ndarray) -> float:
        return float(np.cov(weakness.mean(axis=0), other.mean(axis=0))[0, 1])

    change, spread = [], []
    for half in combinations(range(6), 3):
        rest = [m for m in range(6) if m not in half]
        change.append(covariance(x[list(half)], y[rest] - x[rest]))
        spread.append(covariance(x[list(half)], x[rest]))
    found = intensification(dense, compressed, design="paired")
    assert found.slope.value == pytest.approx(np.mean(change) / np.mean(spread))


def test_the_naive_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(1)
    dense, compressed = drawn(rng, 4, TRUE), drawn(rng, 5, TRUE)
    weakness, after = recalls(dense).mean(axis=0), recalls(compressed).mean(axis=0)
    wanted = np.polyfit(weakness, after - weakness, 1)[0]
    assert intensification(dense, compressed, design="independent").naive_slope == pytest.approx(wanted)


def test_without_noise_both_slopes_are_the_true_one() -> None:
    hits = np.array([[10, 20, 30, 40, 50]] * 3)
    found = intensification(of_recalls(hits), of_recalls(hits + hits // 10 - 8), design="paired")
    for slope in (found.slope.value, found.slope.corrected, found.slope.low, found.naive_slope):
        assert slope == pytest.approx(0.1)
    halved = intensification(of_recalls(hits), of_recalls(hits // 2), design="independent")
    assert halved.slope.value == pytest.approx(-0.5)
    assert halved.ratio.value == pytest.approx(1)  # relative to the accuracy nothing has changed


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_where_nothing_happens_the_naive_slope_is_negative_and_the_corrected_one_is_not(design: str) -> None:
    rng = np.random.default_rng(2)
    found = [
        intensification(drawn(rng, 6, TRUE), drawn(rng, 6, TRUE), design=design)  # type: ignore[arg-type]
        for _ in range(150)
    ]
    naive = np.array([one.naive_slope for one in found])
    slope = np.array([one.slope.value for one in found])
    assert naive.mean() < -5 * naive.std() / np.sqrt(150)
    assert abs(np.median(slope)) < 0.06
    assert naive.mean() < -0.08
    # Standard error of a share of .05: 1.8 points.
    assert np.mean([not one.slope.low <= 0 <= one.slope.high for one in found]) < 0.1


def test_pairs_that_share_their_noise_do_not_hide_that_nothing_happens() -> None:
    rng = np.random.default_rng(3)
    slopes = []
    for _ in range(100):
        seeds = 0.1 * rng.normal(size=(6, CLASSES))
        dense, compressed = (drawn(rng, 6, TRUE + seeds, 0.03) for _ in range(2))
        slopes.append(intensification(dense, compressed, design="paired").slope.value)
    assert abs(np.median(slopes)) < 0.03


@pytest.mark.parametrize(("true_slope", "sign"), [(0.6, 1), (-0.6, -1)])
def test_true_intensification_is_found(true_slope: float, sign: int) -> None:
    rng = np.random.default_rng(4)
    after = 0.5 + (1 + true_slope) * (TRUE - TRUE.mean())
    found = [
        intensification(drawn(rng, 8, TRUE, 0.05), drawn(rng, 8, after, 0.05), design="paired").slope
        for _ in range(60)
    ]
    assert np.mean([one.value for one in found]) == pytest.approx(true_slope, abs=0.06)
    ends = [one.low if sign > 0 else -one.high for one in found]
    assert np.mean(np.array(ends) > 0) > 0.85


def test_classes_that_do_not_differ_have_no_slope() -> None:
    hits = np.array([[9, 10, 11], [11, 10, 9], [10, 10, 10]])
    found = intensification(of_recalls(hits), of_recalls(hits), design="paired")
    assert (found.slope.value, found.ratio.value, found.naive_slope) == (None, None, None)


def test_a_compressed_population_that_is_never_right_has_no_ratio() -> None:
    hits = np.array([[10, 20, 30]] * 3)
    found = intensification(of_recalls(hits), of_recalls(0 * hits), design="paired")
    assert found.slope.value == pytest.approx(-1)
    assert found.ratio.value is None


def test_two_classes_whose_gap_doubles_have_a_slope_of_one() -> None:
    found = intensification(
        of_recalls(np.array([[30, 40]] * 3)), of_recalls(np.array([[10, 30]] * 3)), design="paired"
    )
    assert found.slope.value == pytest.approx(1)
    assert found.classes == 2


def test_single_models_have_the_naive_slope_alone() -> None:
    single = of_recalls(np.array([[10, 20, 30]]))
    found = intensification(single, of_recalls(np.array([[0, 20, 40]])), design="paired")
    assert found.slope == found.ratio == Estimate(None, None, None, None)
    assert found.naive_slope == pytest.approx(1)


def test_labels_are_needed() -> None:
    bare = population(np.zeros((2, 5), dtype=int), None)
    with pytest.raises(InputError, match="true labels"):
        intensification(bare, bare, design="paired")

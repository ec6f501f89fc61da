import numpy as np
import pytest

from analysis.fairness import class_rates, error_spread
from population.errors import InputError
from population.predictions import Predictions

LABEL = np.repeat(np.arange(3), 10)


def population(votes: np.ndarray, label: np.ndarray | None = LABEL, classes: int = 3) -> Predictions:
    ids, names = np.arange(votes.shape[1]).astype(str), np.arange(classes).astype(str)
    return Predictions(ids, votes, label=label, class_names=names)


def confused(rng: np.random.Generator, k: int, right: float, n: int = 30) -> np.ndarray:
    label = np.repeat(np.arange(3), n)
    other = (label + rng.integers(1, 3, (k, len(label)))) % 3
    return np.where(rng.random((k, len(label))) < right, label, other)


def moved(counts: dict[tuple[int, int], int]) -> np.ndarray:
    """One model that names so many images of the first class by the second."""
    votes = LABEL.copy()
    for (actual, named), n in counts.items():
        votes[10 * actual + np.arange(n) + 2 * named] = named
    return votes[None]


def test_three_classes_by_hand() -> None:
    dense = moved({(0, 1): 1, (1, 2): 1, (2, 0): 1})
    compressed = moved({(0, 1): 2, (1, 2): 1, (2, 0): 3})
    found = error_spread(population(dense), population(compressed), design="paired")
    # fpr: class 0 from 1 to 3 alarms, 1 to 2, 1 to 1. fnr: 1 to 2 misses, 1 to 1, 1 to 3.
    np.testing.assert_allclose(found.percent, [[200, 100, 0], [100, 0, 200]])
    # Both variances are (100^2 + 0 + 100^2) / 3; distances to the diagonal are 100, 100, 200 over sqrt 2.
    assert found.cev.value == pytest.approx(20000 / 3)
    assert found.sde.value == pytest.approx(400 / 3 / np.sqrt(2))
    assert found.classes == ("0", "1", "2")
    assert found.left_out == ()
    assert found.cev.low is None


def test_classes_without_dense_errors_or_images_are_left_out_and_named() -> None:
    # Class 0 has no alarms, class 1 no misses, class 3 no images.
    dense = moved({(0, 1): 1, (2, 1): 1})
    found = error_spread(population(dense, classes=4), population(dense, classes=4), design="paired")
    assert found.left_out == ("0", "1", "2", "3")
    assert (found.cev.value, found.sde.value) == (None, None)
    dense = moved({(0, 1): 1, (1, 0): 1})
    found = error_spread(population(dense, classes=4), population(dense, classes=4), design="paired")
    assert found.classes == ("0", "1")
    assert found.left_out == ("2", "3")
    assert (found.cev.value, found.sde.value) == (0, 0)


def test_it_is_made_of_the_published_distances() -> None:
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(3), 30)
    dense, compressed = population(confused(rng, 4, 0.8), label), population(confused(rng, 5, 0.6), label)
    found = error_spread(dense, compressed, design="independent")
    table = class_rates(dense, compressed, design="independent", seed=0).table
    points = table[table["rate"] != "tpr"].pivot(index="group", columns="rate", values="change_percent")
    points = points[["fpr", "fnr"]].to_numpy(float)
    centre = points.mean(axis=0)
    squares = [((point - centre) ** 2).mean() for point in points]
    diagonal = [np.linalg.norm(point - point.mean()) for point in points]
    assert found.cev.value == pytest.approx(np.mean(squares))
    assert found.sde.value == pytest.approx(np.mean(diagonal))


def test_errors_that_all_grow_alike_have_no_spread() -> None:
    dense = moved({(0, 1): 1, (1, 2): 1, (2, 0): 1})
    compressed = moved({(0, 1): 3, (1, 2): 3, (2, 0): 3})
    found = error_spread(population(dense), population(compressed), design="paired")
    np.testing.assert_allclose(found.percent, 200)
    assert (found.cev.value, found.sde.value) == pytest.approx((0, 0))


@pytest.mark.parametrize("design", ["paired", "independent"])
def test_where_nothing_changes_the_published_value_is_noise_and_the_corrected_one_near_zero(
    design: str,
) -> None:
    rng = np.random.default_rng(1)
    label = np.repeat(np.arange(3), 100)
    found = [
        error_spread(
            population(confused(rng, 6, 0.7, 100), label),
            population(confused(rng, 6, 0.7, 100), label),
            design=design,  # type: ignore[arg-type]
        ).cev
        for _ in range(100)
    ]
    plain, corrected = (np.array([getattr(one, name) for one in found]) for name in ("value", "corrected"))
    assert plain.min() > 0
    assert abs(corrected.mean()) < 3 * corrected.std() / 10
    assert abs(corrected.mean()) < 0.2 * plain.mean()
    assert np.mean([one.low <= 0 <= one.high for one in found]) > 0.9


def test_an_uneven_change_is_found() -> None:
    rng = np.random.default_rng(2)
    label = np.repeat(np.arange(3), 100)
    dense, compressed = confused(rng, 6, 0.7, 100), confused(rng, 6, 0.7, 100)
    compressed[:, :20] = 1
    found = error_spread(population(dense, label), population(compressed, label), design="paired")
    assert found.cev.low > 0
    assert found.cev.low < found.cev.corrected < found.cev.high


def test_one_model_with_all_errors_of_a_class_leaves_no_interval() -> None:
    dense = np.vstack([moved({(0, 1): 1, (1, 0): 1}), moved({(0, 1): 1})])
    found = error_spread(population(dense), population(dense), design="paired")
    assert found.classes == ("0", "1")
    assert found.cev.value == 0
    assert found.cev.low is None


def test_labels_are_needed() -> None:
    bare = population(LABEL[None], None)
    with pytest.raises(InputError, match="true labels"):
        error_spread(bare, bare, design="paired")

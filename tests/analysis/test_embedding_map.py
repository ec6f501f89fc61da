import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from analysis.embedding_map import Floats, embedding_map
from population.errors import InputError


def groups(seed: int = 0) -> Floats:
    """Three groups of 20 images far from each other, in 10 dimensions."""
    rng = np.random.default_rng(seed)
    return np.repeat(10 * np.eye(3, 10), 20, axis=0) + rng.normal(0, 1, (60, 10))


def test_neighbours_in_the_map_are_of_the_same_group_and_equal_calls_have_equal_bits() -> None:
    found = embedding_map(groups(), seed=3)
    np.testing.assert_array_equal(found, embedding_map(groups(), seed=3))
    assert found.shape == (60, 2)
    assert np.abs(found).max() == 1
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-12)
    nearest = NearestNeighbors(n_neighbors=6).fit(found).kneighbors(found, return_distance=False)
    assert (nearest // 20 == np.arange(60)[:, None] // 20).all()


def test_four_images_are_enough() -> None:
    assert embedding_map(np.eye(4), seed=0).shape == (4, 2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((3, 2)), r"N >= 4 and D >= 2, not \(3, 2\)"),
        (np.zeros(9), r"not \(9,\)"),
        (np.zeros((9, 1)), r"not \(9, 1\)"),
        (np.ones((5, 2)), "all images have the same features"),
        (np.full((5, 2), np.nan), "must be finite"),
    ],
)
def test_what_cannot_be_laid_out_is_refused(features: Floats, message: str) -> None:
    with pytest.raises(InputError, match=message):
        embedding_map(features, seed=0)

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from population.errors import InputError
from ssl_models import load_data
from ssl_models.labels import labelled_images

LABELS = np.repeat([0, 1, 2], [50, 30, 20])


def test_classes_keep_their_shares_by_hand() -> None:
    found = labelled_images(LABELS, 0.1, seed=0)
    assert np.bincount(LABELS[found]).tolist() == [5, 3, 2]
    assert (np.diff(found) > 0).all()
    # Where a tenth of a class is less than one image, it has one.
    few = labelled_images(np.repeat([0, 1], [97, 3]), 0.1, seed=0)
    assert np.bincount(np.repeat([0, 1], [97, 3])[few]).tolist() == [10, 1]
    assert labelled_images(LABELS, 1.0, seed=4).tolist() == list(range(100))


def test_one_percent_of_the_digits_is_one_of_each() -> None:
    labels = load_data("digits", data_dir=None, download=False).train.samples.label
    found = labelled_images(labels, 0.01, seed=0)
    assert labels[found].tolist() != sorted(labels[found])
    assert sorted(labels[found]) == list(range(10))


@given(st.integers(0, 1000), st.floats(0.03, 1), st.floats(0.03, 1))
@settings(deadline=None)
def test_the_seed_decides_and_larger_fractions_contain_smaller_ones(seed: int, a: float, b: float) -> None:
    few, many = (labelled_images(LABELS, f, seed=seed) for f in sorted((a, b)))
    assert set(few) <= set(many)
    assert labelled_images(LABELS, a, seed=seed).tolist() == (few if a <= b else many).tolist()


def test_every_image_of_a_class_is_drawn_equally_often() -> None:
    counts = sum(np.bincount(labelled_images(LABELS, 0.1, seed=seed), minlength=100) for seed in range(2000))
    # A binomial count of mean 200 has a standard deviation of 13.4.
    assert np.abs(counts - 200).max() < 5 * 13.4
    assert len({tuple(labelled_images(LABELS, 0.1, seed=seed)) for seed in range(20)}) == 20


def test_fewer_images_than_classes_are_refused() -> None:
    expected = (
        "--label-fraction 0.02 of 100 images is fewer than one for each of the 3 classes: give at least 0.03"
    )
    with pytest.raises(InputError, match=expected.replace("(", r"\(")):
        labelled_images(LABELS, 0.02, seed=0)
    assert len(labelled_images(LABELS, 0.03, seed=0)) == 3 + 1  # 1.5 of 50 images are 2

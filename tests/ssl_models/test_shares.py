import numpy as np
import pytest

from population.errors import InputError
from population.samples import SampleSet
from ssl_models.shares import check_shares, drawn_share


def test_a_share_is_of_fixed_size_and_of_its_seed_alone() -> None:
    for n, share, count in ((901, 0.7, 631), (10, 0.25, 2), (3, 1.0, 3), (5, 0.01, 1)):
        drawn = drawn_share(n, share, seed=3)
        assert len(drawn) == count
        assert (np.diff(drawn) > 0).all()
        assert drawn.min() >= 0
        assert drawn.max() < n
        np.testing.assert_array_equal(drawn, drawn_share(n, share, seed=3))
    assert not np.array_equal(drawn_share(901, 0.7, seed=3), drawn_share(901, 0.7, seed=4))


def test_every_image_is_drawn_equally_often() -> None:
    draws = 2000
    counts = np.bincount(np.concatenate([drawn_share(20, 0.7, seed=s) for s in range(draws)]), minlength=20)
    # 5 standard deviations of a binomial count
    assert (np.abs(counts - 0.7 * draws) < 5 * (draws * 0.7 * 0.3) ** 0.5).all()


def test_a_share_without_a_class_is_refused() -> None:
    ids = np.array([f"s{i}" for i in range(40)])
    samples = SampleSet(ids, np.array([1] + 39 * [0]), ("ant", "bee", "cat"))  # no cat at all is no fault
    kept = [0 in drawn_share(40, 0.5, seed=seed) for seed in range(4)]
    assert not all(kept)
    first = kept.index(False)
    check_shares(samples, 0.5, seeds=range(first))
    with pytest.raises(InputError, match=rf"--train-share 0.5: seed {first} draws no image of class bee"):
        check_shares(samples, 0.5, seeds=range(4))
    check_shares(samples, 1.0, seeds=range(4))

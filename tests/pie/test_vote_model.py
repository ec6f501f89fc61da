from itertools import permutations, product

import numpy as np
import pytest

from pie.vote_model import VoteShapes, change_probability, shape_grid, top_two_probability
from population.errors import InputError

SHAPES = VoteShapes(
    leader=np.array([1.0, 0.7, 0.5, 0.4, 0.25]),
    rival=np.array([0.0, 0.3, 0.3, 0.2, 0.25]),
    others=np.array([0, 0, 1, 2, 2]),
)


def shares(shape: int) -> np.ndarray:
    leader, rival, others = SHAPES.leader[shape], SHAPES.rival[shape], SHAPES.others[shape]
    return np.array([leader, rival, *[(1 - leader - rival) / max(others, 1)] * others])


def every_vote(p: np.ndarray, k: int) -> list[tuple[np.ndarray, float]]:
    """All sequences of k votes, with their counts and probability."""
    return [
        (np.bincount(votes, minlength=len(p)), float(np.prod(p[list(votes)])))
        for votes in product(range(len(p)), repeat=k)
    ]


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("shape", range(5))
def test_top_two_counts_agree_with_listing_all_votes(shape: int, k: int) -> None:
    wanted = np.zeros((k + 1, k + 1))
    for counts, probability in every_vote(shares(shape), k):
        second, first = np.sort(np.append(counts, 0))[-2:]
        wanted[first, second] += probability
    np.testing.assert_allclose(top_two_probability(SHAPES, k)[shape], wanted, atol=1e-12)


@pytest.mark.parametrize(("k", "other_k"), [(3, 3), (4, 4), (2, 5)])
@pytest.mark.parametrize("shape", range(5))
def test_change_agrees_with_listing_all_votes(shape: int, k: int, other_k: int) -> None:
    p = shares(shape)

    def modes(size: int, order: tuple[int, ...]) -> np.ndarray:
        mode = np.zeros(len(p))
        for counts, probability in every_vote(p[list(order)], size):
            mode[order[int(counts.argmax())]] += probability
        return mode

    orders = list(permutations(range(len(p))))
    wanted = np.mean([1 - modes(k, o) @ modes(other_k, o) for o in orders])
    # With two or more "others" their order among themselves is left out, hence the tolerance.
    tolerance = 1e-12 if SHAPES.others[shape] < 2 else 0.03
    assert change_probability(SHAPES, k, other_k)[shape] == pytest.approx(wanted, abs=tolerance)


@pytest.mark.parametrize("num_classes", [2, 3, 10, 1000])
def test_the_grid_holds_distributions_under_which_no_vote_is_impossible(num_classes: int) -> None:
    shapes = shape_grid(num_classes)
    rest = 1 - shapes.leader - shapes.rival
    assert (shapes.leader >= shapes.rival - 1e-12).all()
    assert (rest >= -1e-12).all()
    np.testing.assert_allclose(rest[shapes.others == 0], 0, atol=1e-12)
    assert shapes.others.max() <= num_classes - 2
    assert np.flatnonzero(shapes.leader == 1).tolist() == [0]
    k = 12
    table = top_two_probability(shapes, k)
    np.testing.assert_allclose(table.sum(axis=(1, 2)), 1, atol=1e-9)
    first = -(-k // num_classes)  # the most even vote there can be
    assert table[:, first, :].max() > 0


@pytest.mark.parametrize("num_classes", [2, 50_000])
def test_hundreds_of_models_settle_what_few_leave_open(num_classes: int) -> None:
    shapes = shape_grid(num_classes)
    few, many = (change_probability(shapes, k, k) for k in (30, 400))
    assert np.isfinite(many).all()
    clear = shapes.leader - shapes.rival > 0.3
    assert few[clear].max() > 0.01
    # 400 votes differ by 120 in the mean, with a standard deviation of at most 20: nine of them to level.
    assert many[clear].max() < 1e-6
    level = (shapes.leader == shapes.rival) & (shapes.others == 0)
    assert (many[level] > 0.45).all()  # a toss-up stays one


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="at least 2 classes"):
        shape_grid(1)

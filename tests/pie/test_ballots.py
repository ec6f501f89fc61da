from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pie.ballots import ballot_blocks, changeable, weighted

VOTES = st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.int64, (shape[0], shape[2]), elements=st.integers(0, 3)),
        arrays(np.int64, (shape[1], shape[2]), elements=st.integers(0, 3)),
    )
)


@given(VOTES, st.sampled_from([1, 10, 2**21]))
@settings(max_examples=80, deadline=None)
def test_every_image_is_listed_once_with_one_row_per_class_that_has_votes(
    votes: tuple[np.ndarray, np.ndarray], columns: int
) -> None:
    dense, compressed = votes
    both = np.vstack(votes)
    wanted = np.arange(both.shape[1])[::-1]
    seen = []
    for images, ballots in ballot_blocks(dense, compressed, wanted, columns=columns):
        assert ballots.dtype == np.float32
        for image, ballot in zip(images, ballots, strict=True):
            classes = sorted(set(both[:, image].tolist()))
            np.testing.assert_array_equal(ballot, [both[:, image] == c for c in classes])
        seen += images.tolist()
    assert sorted(seen) == sorted(wanted.tolist())


def test_blocks_keep_within_the_entries_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pie.ballots._PRODUCTS", 100)
    monkeypatch.setattr("pie.ballots._IMAGES", 16)
    votes = np.random.default_rng(0).integers(3, size=(5, 50))
    blocks = list(ballot_blocks(votes[:2], votes[2:], np.arange(50), columns=10))
    assert max(b.shape[0] * b.shape[1] for _, b in blocks) <= 10
    assert sorted(np.concatenate([i for i, _ in blocks])) == list(range(50))


def test_only_what_was_asked_for_is_listed() -> None:
    votes = np.random.default_rng(1).integers(3, size=(4, 30))
    asked = np.array([3, 17, 5])
    assert sorted(np.concatenate([i for i, _ in ballot_blocks(votes, votes, asked, columns=1)])) == [3, 5, 17]
    assert list(ballot_blocks(votes, votes, asked[:0], columns=1)) == []


def test_weighted_ballots_count_votes() -> None:
    votes = np.array([[7, 2], [7, 4], [5, 2]])
    once_and_twice = np.array([[1, 2], [1, 0], [1, 1], [0, 1]], dtype=np.float32)
    for images, ballots in ballot_blocks(votes, votes[:1], np.arange(2), columns=2):
        for image, found in zip(images, weighted(ballots, once_and_twice), strict=True):
            column = [*votes[:, image], votes[0, image]]
            wanted = [Counter[int](), Counter[int]()]
            for voter, label in enumerate(column):
                for r in range(2):
                    wanted[r][int(label)] += int(once_and_twice[voter, r])
            np.testing.assert_array_equal(
                found, [[w[c] for w in wanted] for c in sorted(set(map(int, column)))]
            )


def test_an_image_can_change_where_a_pair_or_any_two_models_differ() -> None:
    dense = np.array([[0, 0, 1, 2, 0], [0, 1, 1, 2, 0]])
    compressed = np.array([[0, 0, 1, 3, 0], [0, 1, 2, 3, 0], [0, 0, 1, 3, 1]])
    assert changeable(dense, compressed[:2], "paired").tolist() == [2, 3]
    assert changeable(dense, compressed, "independent").tolist() == [1, 2, 3, 4]

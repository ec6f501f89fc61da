from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pie import find_flips, find_pies
from population.errors import InputError
from population.predictions import Predictions
from population.resampling import bootstrap_mean_interval

LABEL = np.array([0, 1, 2, 1, 0])
DENSE = np.array([[0, 1, 0, 0, 1], [0, 1, 2, 2, 1]])
COMPRESSED = np.array([[0, 2, 2, 2, 1], [1, 1, 1, 1, 0]])
SPLIT = ["right_to_wrong", "wrong_to_right", "wrong_to_wrong"]


def population(votes: object, **further: object) -> Predictions:
    table = np.asarray(votes)
    return Predictions(np.arange(table.shape[1]).astype(str), table, **further)  # type: ignore[arg-type]


def test_two_pairs_and_five_images_by_hand() -> None:
    found = find_flips(population(DENSE, label=LABEL), population(COMPRESSED), seed=0)
    # Pair 0: image 1 forgets, 2 gains, 3 stays wrong. Pair 1: 0 and 2 forget, 3 and 4 gain.
    assert found.pairs.to_dict("list") == {
        "pair": [0, 1],
        "flips": [3, 4],
        "right_to_wrong": [1, 2],
        "wrong_to_right": [1, 2],
        "wrong_to_wrong": [1, 0],
    }
    assert found.samples["sample_id"].tolist() == ["0", "1", "2", "3", "4"]
    assert found.samples["flips"].tolist() == [1, 1, 2, 2, 1]
    assert found.samples["right_to_wrong"].tolist() == [1, 1, 1, 0, 0]
    assert found.samples["wrong_to_right"].tolist() == [0, 0, 1, 1, 1]
    assert found.samples["wrong_to_wrong"].tolist() == [0, 0, 0, 1, 0]
    assert found.samples["share"].tolist() == [0.5, 0.5, 1, 1, 0.5]
    # The two dense networks differ on image 2 (one is right) and on 3 (both are wrong).
    assert found.samples["reference"].tolist() == [0, 0, 1, 1, 0]
    assert found.total.mean == pytest.approx(0.7)
    assert (found.total.low, found.total.high) == (pytest.approx(0.6), pytest.approx(0.8))
    assert found.total.reference == pytest.approx(0.4)
    assert found.right_to_wrong is not None
    assert found.wrong_to_right is not None
    assert found.wrong_to_wrong is not None
    assert found.right_to_wrong.mean == pytest.approx(0.3)
    assert found.wrong_to_wrong.mean == pytest.approx(0.1)
    assert found.right_to_wrong.reference == found.wrong_to_right.reference == pytest.approx(0.1)
    assert found.wrong_to_wrong.reference == pytest.approx(0.2)
    assert found.k == 2


def test_one_pair_has_no_interval_and_no_reference() -> None:
    found = find_flips(population(DENSE[:1], label=LABEL), population(COMPRESSED[:1]), seed=0)
    assert (found.k, found.total.mean) == (1, pytest.approx(0.6))
    assert found.right_to_wrong is not None
    assert found.right_to_wrong.mean == pytest.approx(0.2)
    for share in (found.total, found.right_to_wrong):
        assert (share.low, share.high, share.reference) == (None, None, None)
    assert found.samples["flips"].tolist() == [0, 1, 1, 1, 0]
    assert found.samples["reference"].isna().all()
    assert found.pairs["flips"].tolist() == [3]


@pytest.mark.parametrize("k", [2, 5])
def test_reference_agrees_with_going_through_all_ordered_pairs(k: int) -> None:
    rng = np.random.default_rng(k)
    dense, label = rng.integers(4, size=(k, 30)), rng.integers(4, size=30)
    found = find_flips(population(dense, label=label), population(dense), seed=0)
    pairs = list(permutations(dense, 2))
    wanted = {
        "total": [a != b for a, b in pairs],
        "right_to_wrong": [(a == label) & (b != label) for a, b in pairs],
        "wrong_to_right": [(a != label) & (b == label) for a, b in pairs],
        "wrong_to_wrong": [(a != label) & (b != label) & (a != b) for a, b in pairs],
    }
    for kind, rows in wanted.items():
        assert getattr(found, kind).reference == pytest.approx(np.mean(rows))
        assert getattr(found, kind).mean == 0
    np.testing.assert_allclose(found.samples["reference"], np.mean(wanted["total"], axis=0))


votes = arrays(np.int64, (3, 8), elements=st.integers(0, 2))


@given(votes, votes, arrays(np.int64, 8, elements=st.integers(0, 2)))
def test_parts_add_up_and_explain_the_change_of_accuracy(
    dense: np.ndarray, compressed: np.ndarray, label: np.ndarray
) -> None:
    found = find_flips(population(dense, label=label), population(compressed), seed=0)
    for table in (found.pairs, found.samples):
        assert (table["flips"] == table[SPLIT].sum(axis=1)).all()
    lost = (dense == label).sum(axis=1) - (compressed == label).sum(axis=1)
    assert (found.pairs["right_to_wrong"] - found.pairs["wrong_to_right"]).tolist() == lost.tolist()
    assert found.pairs["flips"].sum() == found.samples["flips"].sum()
    assert found.total.mean == pytest.approx(found.samples["share"].mean())


def test_interval_is_the_bootstrap_over_pairs() -> None:
    rng = np.random.default_rng(0)
    dense = rng.integers(2, size=(9, 200))
    compressed = np.where(rng.random((9, 200)) < np.linspace(0.05, 0.3, 9)[:, None], 1 - dense, dense)
    found = find_flips(population(dense), population(compressed), seed=3)
    shares = (dense != compressed).mean(axis=1)
    low, high = bootstrap_mean_interval(shares, rng=np.random.default_rng(3))
    assert (found.total.low, found.total.high) == (low, high)
    assert low < shares.mean() < high


def test_training_again_flips_as_many_images_as_the_reference_says() -> None:
    rng = np.random.default_rng(1)
    share = rng.beta(8, 1, 4000)
    label = np.zeros(4000, dtype=int)
    dense, again = ((rng.random((10, 4000)) > share).astype(int) for _ in range(2))
    found = find_flips(population(dense, label=label), population(again), seed=0)
    assert found.total.reference == pytest.approx((2 * share * (1 - share)).mean(), rel=0.05)
    assert found.total.mean == pytest.approx(found.total.reference, rel=0.05)
    assert found.right_to_wrong is not None
    assert found.right_to_wrong.reference == pytest.approx(found.total.reference / 2)


def test_flips_that_spread_over_images_make_no_pie() -> None:
    dense = np.zeros((5, 5), dtype=int)
    found = find_flips(population(dense), population(np.eye(5, dtype=int)), seed=0)
    assert found.total.mean == pytest.approx(0.2)
    assert find_pies(population(dense), population(np.eye(5, dtype=int)), design="paired", seed=0).count == 0


def test_without_labels_only_the_total_is_known() -> None:
    found = find_flips(population(DENSE), population(COMPRESSED), seed=0)
    assert found.total.mean == pytest.approx(0.7)
    assert (found.right_to_wrong, found.wrong_to_right, found.wrong_to_wrong) == (None, None, None)
    assert found.pairs[SPLIT].isna().all(axis=None)
    assert found.samples[SPLIT].isna().all(axis=None)


def test_samples_are_matched_by_id_and_labels_come_from_either_side() -> None:
    dense, compressed = population(DENSE), population(COMPRESSED, label=LABEL)
    wanted = find_flips(population(DENSE, label=LABEL), population(COMPRESSED), seed=0)
    mixed = find_flips(dense, compressed.take(np.array([3, 0, 4, 1, 2])), seed=0)
    pd.testing.assert_frame_equal(mixed.samples, wanted.samples)
    assert mixed.right_to_wrong == wanted.right_to_wrong


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ({"votes": COMPRESSED[:1]}, "not 2 and 1"),
        ({"votes": COMPRESSED[[0, 1, 1]]}, "equal K, not 2 and 3"),
        ({"votes": COMPRESSED[:, :4]}, "different samples"),
        ({"votes": COMPRESSED, "label": np.roll(LABEL, 1)}, "disagree on the true labels"),
    ],
)
def test_what_is_no_pair_is_refused(further: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_flips(population(DENSE, label=LABEL), population(**further), seed=0)  # type: ignore[arg-type]

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import entropy
from sklearn.metrics import brier_score_loss

from pie.difficulty import tell_pies
from pie.scores import (
    dense_scores,
    el2n,
    ensemble_entropy,
    forgetting_events,
    mean_margin,
    memorisation,
    vote_agreement,
    vote_entropy,
)
from population.errors import InputError
from population.predictions import Predictions


def population(votes: object, **further: object) -> Predictions:
    table = np.asarray(votes)
    return Predictions(np.arange(table.shape[1]).astype(str), table, **further)  # type: ignore[arg-type]


def drawn(k: int, n: int, c: int, *, seed: int) -> Predictions:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(c, 0.5), (k, n))
    top = np.sort(probabilities, axis=2)
    return population(
        probabilities.argmax(axis=2),
        label=rng.integers(0, c, n),
        margin=top[..., -1] - top[..., -2],
        probabilities=probabilities,
    )


@pytest.fixture
def four() -> Predictions:
    """Four networks, three images, three classes."""
    return population(
        [[0, 1, 2], [0, 1, 1], [0, 2, 0], [0, 2, 0]],
        label=[0, 1, 2],
        margin=[[1, 0.5, 0.2], [1, 0.3, 0.2], [0.6, 0.1, 0], [0.6, 0.3, 0.4]],
        probabilities=[
            [[1, 0, 0], [0.25, 0.75, 0], [0, 0, 1]],
            [[1, 0, 0], [0.25, 0.75, 0], [0, 1, 0]],
            [[1, 0, 0], [0.25, 0.25, 0.5], [1, 0, 0]],
            [[1, 0, 0], [0.25, 0.25, 0.5], [1, 0, 0]],
        ],
    )


def test_four_networks_and_three_images_by_hand(four: Predictions) -> None:
    log = np.log
    np.testing.assert_allclose(mean_margin(four), [0.8, 0.3, 0.2])
    np.testing.assert_allclose(vote_agreement(four), [1, 0.5, 0.5])
    np.testing.assert_allclose(vote_entropy(four), [0, log(2), 0.5 * log(2) + 0.5 * log(4)])
    quarters = -(0.25 * log(0.25) * 2 + 0.5 * log(0.5))  # means 1/4, 1/2, 1/4 of images 1 and 2
    np.testing.assert_allclose(ensemble_entropy(four), [0, quarters, quarters])
    second = (np.sqrt(0.25**2 * 2) + np.sqrt(0.25**2 + 0.75**2 + 0.5**2)) / 2
    np.testing.assert_allclose(el2n(four), [0, second, 3 / 4 * np.sqrt(2)])


def test_the_entropy_of_agreement_is_zero_without_a_sign(four: Predictions) -> None:
    assert str(vote_entropy(four)[0]) == "0.0"


def test_scores_are_those_of_slow_loops() -> None:
    found = drawn(5, 40, 4, seed=0)
    assert found.probabilities is not None
    assert found.label is not None
    for n in range(found.n):
        votes = Counter(found.predicted[:, n].tolist())
        assert vote_agreement(found)[n] == votes.most_common(1)[0][1] / 5
        assert vote_entropy(found)[n] == pytest.approx(entropy(list(votes.values())))
        rows = found.probabilities[:, n].astype(float)
        assert ensemble_entropy(found)[n] == pytest.approx(entropy(rows.mean(axis=0)))
        brier = [brier_score_loss([found.label[n]], row[None] / row.sum(), labels=range(4)) for row in rows]
        assert el2n(found)[n] == pytest.approx(np.sqrt(brier).mean(), rel=1e-6)


@given(st.integers(2, 7), st.integers(2, 6), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_scores_keep_their_bounds_and_know_neither_members_nor_names_of_classes(
    k: int, c: int, seed: int
) -> None:
    found = drawn(k, 9, c, seed=seed)
    rng = np.random.default_rng(seed)
    members, classes = rng.permutation(k), rng.permutation(c)
    assert found.label is not None
    assert found.probabilities is not None
    assert found.margin is not None
    other = population(
        classes[found.predicted][members],
        label=classes[found.label],
        margin=found.margin[members],
        probabilities=found.probabilities[members][..., np.argsort(classes)],
    )
    scores = dense_scores(found)
    pd.testing.assert_frame_equal(scores, dense_scores(other), rtol=1e-6)
    assert scores["vote_agreement"].between(1 / k, 1).all()
    assert scores["vote_entropy"].between(0, np.log(min(k, c)) + 1e-12).all()
    assert scores["ensemble_entropy"].between(0, np.log(c) + 1e-6).all()
    assert scores["el2n"].between(0, np.sqrt(2) + 1e-6).all()
    assert scores["mean_margin"].between(0, 1).all()


def test_the_table_has_what_can_be_known(four: Predictions) -> None:
    every = ["mean_margin", "vote_agreement", "vote_entropy", "ensemble_entropy", "el2n"]
    table = dense_scores(four)
    assert table.columns.tolist() == every
    assert (table.index.name, table.index.tolist()) == ("sample_id", ["0", "1", "2"])
    np.testing.assert_array_equal(table["el2n"], el2n(four))
    np.testing.assert_array_equal(table["vote_entropy"], vote_entropy(four))
    votes = population(four.predicted, label=four.label)
    assert dense_scores(votes).columns.tolist() == ["vote_agreement", "vote_entropy"]
    unlabelled = population(four.predicted, probabilities=four.probabilities)
    assert dense_scores(unlabelled).columns.tolist() == ["vote_agreement", "vote_entropy", "ensemble_entropy"]
    single = population(four.predicted[:1], margin=four.margin[:1])  # type: ignore[index]
    assert dense_scores(single).columns.tolist() == ["mean_margin"]
    assert dense_scores(population([[0, 1]])).shape == (2, 0)


def test_the_table_is_what_pies_are_told_by() -> None:
    rng = np.random.default_rng(0)
    dense = drawn(6, 600, 3, seed=1)
    pie = rng.random(600) < np.where(mean_margin(dense) < 0.4, 0.6, 0.05)
    found = tell_pies(pie, dense_scores(dense), known="mean_margin", seed=0)
    rows = found.scores.set_index("score")
    assert rows.index.tolist() == dense_scores(dense).columns.tolist()
    assert rows.loc["mean_margin", "auc"] < 0.4
    assert rows.loc["ensemble_entropy", "auc"] > 0.6
    assert (rows["n"] == 600).all()


def test_what_a_score_lacks_is_said(four: Predictions) -> None:
    votes = population(four.predicted)
    with pytest.raises(InputError, match="a mean margin needs the margins"):
        mean_margin(votes)
    with pytest.raises(InputError, match="needs the probabilities"):
        ensemble_entropy(votes)
    with pytest.raises(InputError, match="EL2N needs the true labels"):
        el2n(population(four.predicted, probabilities=four.probabilities))
    with pytest.raises(InputError, match="needs the probabilities"):
        el2n(population(four.predicted, label=four.label))
    halves = population(four.predicted, label=four.label, probabilities=np.full((4, 3, 3), 1 / 6))
    for score in (ensemble_entropy, el2n, dense_scores):
        with pytest.raises(InputError, match=r"the probabilities of an image must sum to 1, not 0\.5"):
            score(halves)


class TestForgettingEvents:
    def test_six_images_over_five_epochs_by_hand(self) -> None:
        correct = np.array(
            [
                [1, 1, 0, 0, 1, 0],
                [1, 0, 0, 0, 0, 0],
                [1, 1, 1, 0, 1, 0],
                [1, 0, 1, 0, 1, 0],
                [1, 1, 1, 0, 0, 1],
            ]
        )
        # Always right; in and out twice; learnt late; never right; forgotten twice, at last too; learnt last.
        assert forgetting_events(correct == 1).tolist() == [0, 2, 0, 5, 2, 0]

    @given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 6))))
    def test_a_loop_over_time_counts_the_same(self, correct: np.ndarray) -> None:
        epochs = len(correct)
        expected = []
        for image in correct.T:
            before, events = False, 0
            for now in image:
                events += before and not now
                before = now
            expected.append(events if image.any() else epochs)
        found = forgetting_events(correct)
        assert found.tolist() == expected
        assert (found[correct.any(axis=0)] <= epochs // 2).all()
        assert found.dtype == np.int64

    @pytest.mark.parametrize(
        "correct", [np.zeros((0, 3), dtype=bool), np.zeros(3, dtype=bool), np.zeros((2, 3))]
    )
    def test_other_than_booleans_over_epochs_is_an_error(self, correct: np.ndarray) -> None:
        with pytest.raises(InputError, match=r"booleans of shape \(E, N\) with E >= 1, not"):
            forgetting_events(correct)


class TestMemorisation:
    def test_five_networks_and_five_images_by_hand(self) -> None:
        votes = [[1, 0, 0, 2, 0], [1, 0, 0, 2, 0], [1, 1, 0, 2, 0], [0, 0, 1, 2, 0], [0, 1, 0, 2, 1]]
        learnt = [[1, 1, 0, 1, 1], [1, 0, 0, 1, 1], [1, 1, 0, 1, 1], [0, 1, 0, 1, 1], [0, 0, 0, 1, 0]]
        found = memorisation(population(votes, label=[1, 0, 0, 2, 0]), np.array(learnt) == 1)
        assert found["sample_id"].tolist() == ["0", "1", "2", "3", "4"]
        assert found["inside"].tolist() == [3, 3, 0, 5, 4]
        assert found["outside"].tolist() == [2, 2, 5, 0, 1]
        assert found["right_inside"][[0, 1, 3, 4]].tolist() == pytest.approx([1, 2 / 3, 1, 1])
        assert found["right_outside"][[0, 1, 2, 4]].tolist() == pytest.approx([0, 1 / 2, 4 / 5, 0])
        assert found["memorisation"][[0, 1, 4]].tolist() == pytest.approx([1, 1 / 6, 1])
        # (3 + 1) / (3 + 2) and (0 + 1) / (2 + 2); then (2 + 1) / (3 + 2) and (1 + 1) / (2 + 2).
        errors = [(0.8 * 0.2 / 3 + 0.25 * 0.75 / 2) ** 0.5, (0.6 * 0.4 / 3 + 0.5 * 0.5 / 2) ** 0.5]
        assert found["standard_error"][[0, 1]].tolist() == pytest.approx(errors)
        assert found["right_inside"].isna().tolist() == [False, False, True, False, False]
        assert found["right_outside"].isna().tolist() == [False, False, False, True, False]
        for name in ("memorisation", "standard_error"):
            assert found[name].isna().tolist() == [False, False, True, True, False]
            assert found[name].dtype == "Float64"

    def test_the_truth_is_found_on_average_and_as_often_as_the_error_says(self) -> None:
        rng = np.random.default_rng(0)
        m, n = 50, 4000
        inside, outside = rng.uniform(0.9, 1, n), rng.uniform(0.2, 0.9, n)
        trained_on = rng.random((m, n)).argsort(axis=0) < 35  # each image in 35 of 50
        right = rng.random((m, n)) < np.where(trained_on, inside, outside)
        found = memorisation(population(np.where(right, 0, 1), label=np.zeros(n, dtype=int)), trained_on)
        error = found["memorisation"].to_numpy(dtype=float) - (inside - outside)
        assert abs(error.mean()) < 4 * error.std() / n**0.5
        standard = found["standard_error"].to_numpy(dtype=float)
        assert np.sqrt((standard**2).mean()) == pytest.approx(error.std(), rel=0.05)
        assert 0.93 < (np.abs(error) <= 1.96 * standard).mean() < 0.97

    def test_what_does_not_fit_is_an_error(self) -> None:
        votes = [[0, 1], [1, 1]]
        with pytest.raises(InputError, match="memorisation needs the true labels"):
            memorisation(population(votes), np.ones((2, 2), dtype=bool))
        for unfit in (np.ones((2, 3), dtype=bool), np.ones((2, 2))):
            with pytest.raises(InputError, match=r"trained_on must be boolean and of shape \(2, 2\), not"):
                memorisation(population(votes, label=[0, 1]), unfit)

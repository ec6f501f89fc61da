"""Scores of dense networks: of each member what the library says, then the mean over those that have it."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from analysis.q_score import q_score_corti, q_score_kalibhat
from analysis.similarity.activations import pooled_features
from pie_report import network_scores
from pie_report.members import Population, layers_of
from pie_report.network_scores import SCORES, NetworkScore, compute_scores, has_scores, score_table
from pie_report.pipeline import open_population
from pie_report.statistics import NETWORK_SCORES
from population.spec import PopulationSpec
from population.store import Store
from ssl_models.predict import batches
from ssl_models.probe import extract_features


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Population]:
    named = PopulationSpec(model="supervised_wrn16_2", members=2, width=2, epochs=1, seed=4)
    store = Store(tmp_path_factory.mktemp("store"))
    found = open_population(named, store=store, data_dir=None, download=False)
    with found.fixed_threads():
        yield found


def test_the_columns_are_those_that_side_data_may_not_have() -> None:
    assert {name for score in SCORES for name in score.columns} | {"memorisation"} == set(NETWORK_SCORES)


def features(people: Population, index: int, images: torch.Tensor) -> list[NDArray[np.float64]]:
    inputs, layers = torch.cat(list(batches(images))), list(layers_of(people).values())
    found = pooled_features(people.dense(index), inputs, layers, batch_size=100)
    return [found[layer].double().numpy() for layer in layers]


def test_depths_are_those_of_nearest_neighbours_in_every_layer(people: Population) -> None:
    """Written down again: scikit-learn's neighbours, and a walk from the last layer to the first."""
    assert not has_scores(people, 0)
    truth, depths, by_label = people.data.test.samples.label, [], []
    for index in range(2):
        compute_scores(people, index)
        assert has_scores(people, index)
        known = people.data.train.samples.label
        pairs = zip(
            *(features(people, index, i) for i in (people.train_images, people.test_images)), strict=True
        )
        probes = [KNeighborsClassifier(30).fit(bank, known).predict(found) for bank, found in pairs]
        final = people.dense_predictions(index).predicted[0]
        depths.append([walk([p[i] for p in probes], final[i]) for i in range(len(truth))])
        by_label.append([max(walk([p[i] for p in probes], truth[i]), 1) for i in range(len(truth))])
    found = table(people)
    assert list(found.columns) == ["prediction_depth", "label_depth", "q_score_corti", "q_score_kalibhat"]
    np.testing.assert_array_equal(found.index, people.data.test.samples.sample_id)
    # A neighbour more or less, where two are equally far, may turn a vote.
    for name, expected in (("prediction_depth", depths), ("label_depth", by_label)):
        assert (found[name].to_numpy() != np.mean(expected, axis=0)).mean() < 0.02
    assert found["prediction_depth"].nunique() > 5


def test_q_scores_are_those_of_the_features_of_each_member(people: Population) -> None:
    members = []
    for index in range(2):
        compute_scores(people, index)
        known = torch.from_numpy(extract_features(people.dense(index), people.test_images))
        members.append([q_score_corti(known).numpy(), q_score_kalibhat(known).numpy()])
        stored = SCORES[1].of_member(people, index)
        np.testing.assert_array_equal([*stored.values()], members[-1])
        assert list(stored) == ["q_score_corti", "q_score_kalibhat"]
    means = table(people)[["q_score_corti", "q_score_kalibhat"]]
    np.testing.assert_array_equal(means, np.mean(members, axis=0).T)


def test_images_whose_features_are_all_equal_have_no_q_score(
    people: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = extract_features(people.dense(0), people.test_images[:5])
    whole = SCORES[1].of_member(people, 0)["q_score_corti"][:5]
    for dead in ([3], range(5)):
        features[list(dead)] = 0
        monkeypatch.setattr(network_scores, "extract_features", lambda *_: features)
        found = SCORES[1].compute(people, 0)["q_score_corti"]
        assert np.flatnonzero(np.isnan(found)).tolist() == [*dead]
        left = ~np.isnan(found)
        np.testing.assert_allclose(found[left], whole[left], rtol=1e-4)


def table(people: Population) -> pd.DataFrame:
    return score_table(people, people.dense_population())


def walk(answers: list[int], wanted: int) -> int:
    depth = len(answers)
    while depth > 0 and answers[depth - 1] == wanted:
        depth -= 1
    return depth


def test_what_is_stored_is_not_computed_again(people: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    first = table(people)
    monkeypatch.setattr(network_scores, "prediction_depth", None)
    monkeypatch.setattr(network_scores, "extract_features", None)
    pd.testing.assert_frame_equal(table(people), first)


def test_of_more_training_images_some_are_drawn(people: Population, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[torch.Tensor, NDArray[np.int64], int]] = []

    class SeenError(Exception):
        pass

    def look(
        _model: object, images: torch.Tensor, labels: NDArray[np.int64], *_: object, **more: int
    ) -> None:
        seen.append((images, labels, more["k"]))
        raise SeenError

    monkeypatch.setattr(network_scores, "prediction_depth", look)
    monkeypatch.setattr(network_scores, "DEPTH_IMAGES", 20)
    for index in (0, 0, 1):
        with pytest.raises(SeenError):
            SCORES[0].compute(people, index)
    (images, labels, k), again, other = seen
    assert (images.shape, k) == ((20, 1, 16, 16), 2)  # no more neighbours than images of a class
    assert torch.equal(images, again[0])
    assert not torch.equal(images, other[0])
    everything, known = people.train_images, people.data.train.samples.label
    places = [int((everything == image).all(dim=(1, 2, 3)).nonzero()[0]) for image in images]
    assert places == sorted(set(places))
    np.testing.assert_array_equal(labels, known[places])


def test_the_mean_is_over_the_first_members_that_have_a_value(
    people: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = len(people.data.test.samples)
    values = np.full((3, n), np.nan)
    values[0, 1:], values[1, 2:], values[2] = 1, 2, 100
    score = NetworkScore(("x",), 2, ("a test",), lambda _population, index: {"x": values[index]})
    monkeypatch.setattr(network_scores, "SCORES", (score,))
    expected = np.full(n, 1.5)
    expected[:2] = np.nan, 1
    np.testing.assert_array_equal(table(people)["x"], expected)
    assert has_scores(people, 2)  # beyond the first two there is nothing to compute


def test_other_settings_are_another_entry(people: Population) -> None:
    def constant(value: float) -> NetworkScore:
        one = np.full(3, value)
        return NetworkScore(("y",), 1, (value,), lambda _population, _index: {"y": one})

    assert [constant(v).of_member(people, 0)["y"][0] for v in (1.0, 2.0)] == [1.0, 2.0]

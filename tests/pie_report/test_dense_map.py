"""The map of embeddings: which images are on it, where, and what is said of them."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from analysis.embedding_map import embedding_map
from pie_report import dense_map as module
from pie_report.dense_map import MAP_IMAGES, chosen_images, dense_map
from pie_report.members import Population
from pie_report.pipeline import open_population
from population.spec import PopulationSpec
from population.store import Store
from ssl_models.probe import extract_features


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Population]:
    named = PopulationSpec(model="simclr_wrn16_2", members=2, width=2, epochs=1, seed=4)
    store = Store(tmp_path_factory.mktemp("store"))
    found = open_population(named, store=store, data_dir=None, download=False)
    with found.fixed_threads():
        yield found


def tables(people: Population) -> dict[str, pd.DataFrame]:
    known = people.data.test.samples
    pie = np.zeros((2, len(known)), dtype=bool)
    pie[0, [3, 5]] = pie[1, [5, 60]] = True
    names = np.array(known.class_names)[known.label]
    return {
        name: pd.DataFrame(
            {"sample_id": known.sample_id, "label": names, "pie": p, "kind": np.where(p, "gained", "")}
        )
        for name, p in zip(("a", "b"), pie, strict=True)
    }


def test_one_layout_and_what_every_image_is_in_each_condition(
    people: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAP_IMAGES", 80)
    given = tables(people)
    found = dense_map(people, given)
    assert found is not None
    chosen = chosen_images([t["pie"].to_numpy() for t in given.values()], seed=4)
    features = extract_features(people.dense(0), people.test_images)[chosen]
    place = np.round(embedding_map(features, seed=4), 4)
    for condition, part in found.groupby("condition"):
        rows = given[str(condition)].iloc[chosen]
        np.testing.assert_array_equal(part[["x", "y"]], place)
        assert part["sample_id"].tolist() == rows["sample_id"].tolist()
        assert part["class"].tolist() == rows["label"].tolist()
        assert part["kind"].tolist() == rows["kind"].tolist()
        assert (part["kind"] == "gained").sum() == 2
    monkeypatch.setattr(module, "embedding_map", None)  # it is stored
    pd.testing.assert_frame_equal(dense_map(people, given), found)


def test_pies_are_at_most_half_of_the_map_and_all_are_there_where_they_fit() -> None:
    def drawn(n: int, pies: int, seed: int = 0) -> tuple[np.ndarray, int]:
        first, second = np.zeros((2, n), dtype=bool)
        first[: pies // 2], second[pies // 2 : pies] = True, True
        found = chosen_images([first, second], seed=seed)
        assert (np.diff(found) > 0).all()
        return found, int((found < pies).sum())

    assert drawn(1000, 900)[0].tolist() == list(range(1000)) == list(range(MAP_IMAGES))
    for pies, shown in ((0, 0), (7, 7), (500, 500), (501, 500), (2000, 500)):
        found, among = drawn(4000, pies)
        assert (len(found), among) == (1000, shown)
    assert (len(drawn(1001, 1001)[0]), len(drawn(1001, 600)[0])) == (500, 901)
    np.testing.assert_array_equal(drawn(4000, 2000, seed=1)[0], drawn(4000, 2000, seed=1)[0])
    assert (drawn(4000, 2000, seed=1)[0] != drawn(4000, 2000)[0]).any()


@pytest.mark.parametrize(("images", "same"), [(3, False), (70, True)])
def test_there_is_no_map_of_too_few_images_or_of_equal_ones(
    people: Population, monkeypatch: pytest.MonkeyPatch, images: int, same: bool
) -> None:
    monkeypatch.setattr(module, "MAP_IMAGES", images)
    if same:
        monkeypatch.setattr(module, "extract_features", lambda _model, shown: np.ones((len(shown), 3)))
    assert dense_map(people, tables(people)) is None

"""A planted bias is found, and none in its control, from networks that are trained here."""

from typing import Any

import pytest

from pie.identify import find_pies
from pie_report.pipeline import open_population
from pie_report.statistics import condition_statistics, statistics_document
from population.attributes import groups_of
from population.spec import CompressionSpec, PopulationSpec
from population.store import Store

PRUNED = CompressionSpec("prune", 0.8, "bn", "frozen")


def groups_found(data: str, store: Store) -> dict[str, dict[str, Any]]:
    """What the report says of the minority: rows of accuracy and of PIEs."""
    named = PopulationSpec(model="supervised_vgg11_bn", data=data, members=6, width=8, epochs=6, device="cpu")
    population = open_population(named, store=store, data_dir=None, download=False)
    with population.fixed_threads():
        dense, compressed = population.dense_population(), population.compressed_population(PRUNED)
    groups = groups_of(population.data.test.samples)
    pies = find_pies(dense, compressed, design="paired", seed=0)
    statistics = condition_statistics(
        dense, compressed, pies, design="paired", scores=None, side=None, seed=0, groups=groups
    )
    section = statistics_document(statistics)["groups"]
    return {part: next(r for r in section[part] if r["group"] == "inverted") for part in ("accuracy", "pies")}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def test_the_minority_is_found_to_pay(store: Store) -> None:
    found = groups_found("planted:0.2", store)
    accuracy, pies = found["accuracy"], found["pies"]
    assert accuracy["dense"] > 0.85  # dense networks know the style
    assert accuracy["change"] < 1.5 * accuracy["change_expected"] < 0
    assert accuracy["p_max_t"] == accuracy["p_floor"] == 1 / 32
    assert accuracy["p_images_max_t"] < 0.01
    assert pies["share"] > 2 * pies["share_rest"]
    assert pies["p_max_t"] < 0.01


def test_in_the_control_nothing_is_found(store: Store) -> None:
    found = groups_found("unplanted:0.2", store)
    accuracy, pies = found["accuracy"], found["pies"]
    assert not (accuracy["p_max_t"] <= 0.05 and accuracy["p_images_max_t"] <= 0.05)
    assert pies["p_max_t"] > 0.05

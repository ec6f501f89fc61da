import numpy as np
import pytest
import torch
from torch import Tensor

from analysis.similarity.measures import MEASURES, measure_map
from analysis.similarity.neighbours import mutual_neighbours
from analysis.similarity.procrustes import procrustes_similarity
from analysis.similarity.rsa import rsa
from population.errors import InputError

DIRECT = {
    "procrustes": procrustes_similarity,
    "rsa": rsa,
    "neighbours": lambda x, y: mutual_neighbours(x, y, k=10),
}


def network(*, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    return {
        name: base @ torch.randn(6, width, generator=generator)
        for name, width in (("a", 5), ("b", 9), ("c", 50))
    }


@pytest.mark.parametrize("name", list(MEASURES))
def test_maps_hold_the_value_of_every_pair(name: str) -> None:
    first, second = network(seed=1), {k: v for k, v in network(seed=2).items() if k != "a"}
    expected = [[DIRECT[name](x, y) for y in second.values()] for x in first.values()]
    found = measure_map(first, second, MEASURES[name])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.ptp(found) > 0.02
    np.testing.assert_allclose(measure_map(first, first, MEASURES[name]).diagonal(), 1, rtol=1e-6)


def test_the_layer_that_is_undefined_is_named() -> None:
    dead = network(seed=3) | {"b": torch.zeros(40, 4)}
    for measure in MEASURES.values():
        with pytest.raises(InputError, match="layer 'b': "):
            measure_map(network(seed=1), dead, measure)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float) -> None:
    broken = network(seed=3)
    broken["c"][3, 2] = value
    for measure in MEASURES.values():
        with pytest.raises(InputError, match="layer 'c': features must be finite"):
            measure_map(network(seed=1), broken, measure)


def test_other_images_are_refused() -> None:
    fewer = {name: part[:30] for name, part in network(seed=2).items()}
    with pytest.raises(InputError, match="shapes"):
        measure_map(network(seed=1), fewer, MEASURES["rsa"])

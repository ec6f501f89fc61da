"""Maps of all layers of one network against all layers of another, by Procrustes, RSA and neighbours.

They work on features that are held in memory (``activations.pooled_features``). RSA and neighbours take
time, and RSA also memory, that grows with the square of the number of images: 2,000 images are enough
for a map. Two thousand images of RSA take 8 MB per layer and network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from analysis.similarity.cka import Floats, check_pair
from analysis.similarity.neighbours import NEIGHBOURS, nearest, shared_neighbours
from analysis.similarity.procrustes import aligned_similarity, unit_features
from analysis.similarity.rsa import dissimilarity_ranks, rank_correlation
from population.errors import InputError


@dataclass(frozen=True)
class Measure:
    """A similarity of two representations in two steps.

    Attributes:
        prepare: what is done once per layer: features (n, p) to anything.
        compare: two prepared layers to a number, 1 for equal ones.
    """

    prepare: Callable[[Tensor], Any]
    compare: Callable[[Any, Any], float]


MEASURES: Mapping[str, Measure] = {
    "procrustes": Measure(unit_features, aligned_similarity),
    "rsa": Measure(dissimilarity_ranks, rank_correlation),
    "neighbours": Measure(partial(nearest, k=NEIGHBOURS), shared_neighbours),
}
"""Similarities in [0, 1] (RSA in [-1, 1]), 1 for equal representations."""


def measure_map(first: Mapping[str, Tensor], second: Mapping[str, Tensor], measure: Measure) -> Floats:
    """Compares all layers of two networks.

    Args:
        first: features of each layer of the first network, shapes (n, p_l).
        second: the same of the second network for the same images, shapes (n, q_m).
        measure: one of ``MEASURES``.

    Returns:
        Shape (layers of first, layers of second), in the order of the mappings.

    Raises:
        InputError: if numbers of images differ or are below 4, or the measure is undefined for a layer,
            which is named.
    """
    for x in first.values():
        for y in second.values():
            check_pair(x, y)
    rows = [_prepared(layer, features, measure) for layer, features in first.items()]
    columns = [_prepared(layer, features, measure) for layer, features in second.items()]
    return np.array([[measure.compare(a, b) for b in columns] for a in rows])


def _prepared(layer: str, features: Tensor, measure: Measure) -> Any:
    try:
        return measure.prepare(features)
    except InputError as error:
        raise InputError(f"layer {layer!r}: {error}") from error

"""Where PIEs lie among the other images, in a map of one dense network's embeddings."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analysis.embedding_map import FEWEST, PERPLEXITY, STEPS, embedding_map
from pie_report.members import Population
from population.spec import key
from ssl_models.probe import extract_features

Indices = NDArray[np.int64]

#: Most images of a map; more would take long to lay out, and hide each other.
MAP_IMAGES = 1000
_DECIMALS = 4


def dense_map(population: Population, samples: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Lays out embeddings of the first dense member once, and says what each image is in each condition.

    Args:
        population: the models.
        samples: table of ``find_pies`` by condition, in the order of the compared images.

    Returns:
        One row per condition and image: condition, sample_id, x, y (in [-1, 1]), class (the true label), kind
        (of the PIE; empty where it is none). None where the last layer is not known, there are fewer than
        ``FEWEST`` images, or the network tells none apart.
    """
    if not population.source.has_head:
        return None
    seed = population.member.seed
    chosen = chosen_images([table["pie"].to_numpy(dtype=bool) for table in samples.values()], seed=seed)
    place = _layout(population, chosen, seed=seed)
    if not len(place):
        return None
    parts = []
    for condition, table in samples.items():
        rows = table.iloc[chosen]
        named = {"sample_id": rows["sample_id"], "class": rows["label"], "kind": rows["kind"]}
        parts.append(pd.DataFrame(named).assign(condition=condition, x=place[:, 0], y=place[:, 1]))
    return pd.concat(parts, ignore_index=True)[["condition", "sample_id", "x", "y", "class", "kind"]]


def chosen_images(pies: Sequence[NDArray[np.bool_]], *, seed: int) -> Indices:
    """Draws the images of a map: PIEs of any condition up to half of ``MAP_IMAGES``, and others.

    Args:
        pies: which images are PIEs, shape (N,), for each condition.
        seed: of the draw.

    Returns:
        Indices, ascending; all N where these are no more than ``MAP_IMAGES``.
    """
    is_pie = np.logical_or.reduce(pies)
    if len(is_pie) <= MAP_IMAGES:
        return np.arange(len(is_pie))
    rng = np.random.default_rng(seed)
    shown = rng.permutation(np.flatnonzero(is_pie))[: MAP_IMAGES // 2]
    others = rng.permutation(np.flatnonzero(~is_pie))[: MAP_IMAGES - len(shown)]
    return np.sort(np.concatenate([shown, others]))


def _layout(population: Population, chosen: Indices, *, seed: int) -> NDArray[np.float64]:
    """Positions of the chosen images, from the store or computed now; none where they cannot be laid out."""

    def produce(folder: Path) -> None:
        index = torch.from_numpy(chosen).to(population.test_images.device)
        features = extract_features(population.dense(0), population.test_images[index])
        place = np.empty((0, 2))
        if len(features) >= FEWEST and features.shape[1] > 1 and np.ptp(features, axis=0).any():
            place = np.round(embedding_map(features, seed=seed), _DECIMALS)
        np.savez(folder / "map.npz", place=place)

    parts = (population.spec(0), chosen.tolist(), PERPLEXITY, STEPS, _DECIMALS)
    entry = population.store.once("dense-map", key(*parts), produce)
    with np.load(entry / "map.npz", allow_pickle=False) as archive:
        found: NDArray[np.float64] = archive["place"]
    return found

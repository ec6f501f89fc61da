"""Why images are forgotten: representations and attributions before and after, of which images."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.matching import match_nearest
from pie_report.attribution_maps import MapComparison, compare_maps
from pie_report.layer_cka import cka_table
from pie_report.layer_similarity import LayerSimilarity, layer_similarity
from pie_report.members import Population
from population.spec import CompressionSpec

#: Fewer PIEs say too little of PIEs in general.
MIN_PIES = 20

Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class MatchedPies:
    """PIEs, each beside an image of about the same dense margin whose modal label stays.

    Attributes:
        pies: indices of the test images, ascending; empty where nothing is matched.
        controls: index of the partner of each, no two alike.
        margin_gap: mean absolute difference of the dense margin within pairs; None without pairs.
        missing: why there are no pairs; None where there are.
    """

    pies: Indices
    controls: Indices
    margin_gap: float | None
    missing: str | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was found for one condition."""

    pairs: MatchedPies
    cka: pd.DataFrame
    layers: LayerSimilarity
    maps: MapComparison


def explain(
    population: Population, condition: CompressionSpec, samples: pd.DataFrame, targets: Indices
) -> Explanation:
    """Compares layers and attribution maps of dense and compressed members.

    Args:
        population: the models.
        condition: the compression.
        samples: table of ``find_pies``, in the order of the test images.
        targets: class that the maps explain for each test image, the dense modal label, shape (N,).
    """
    seed = population.member.seed
    pairs = matched_pies(samples, seed=seed)
    return Explanation(
        pairs=pairs,
        cka=cka_table(population, condition),
        layers=layer_similarity(population, condition, pairs.pies, pairs.controls),
        maps=compare_maps(population, condition, samples, targets, pairs.pies, pairs.controls),
    )


def matched_pies(samples: pd.DataFrame, *, seed: int) -> MatchedPies:
    """Finds a partner of about equal dense margin for every PIE.

    Args:
        samples: columns ``pie`` and ``margin_dense`` of ``find_pies``.
        seed: of the order in which PIEs choose.

    Returns:
        The pairs, or the reason why there are none: fewer than ``MIN_PIES`` PIEs, or more PIEs than
        other images.
    """
    is_pie = samples["pie"].to_numpy(dtype=bool)
    pies, others = int(is_pie.sum()), int((~is_pie).sum())
    none = np.empty(0, dtype=np.int64)
    if pies < MIN_PIES:
        return MatchedPies(none, none, None, f"{pies} images changed, and at least {MIN_PIES} are needed")
    if pies > others:
        return MatchedPies(
            none, none, None, f"{pies} images changed, which leaves only {others} to match them with"
        )
    found = match_nearest(samples["margin_dense"].to_numpy(dtype=np.float64), is_pie, seed=seed)
    return MatchedPies(found.cases, found.controls, found.mean_gap, None)

"""Explanations before and after compression in tables, between a ceiling and a floor.

A similarity of two maps says little alone. The *ceiling* is the similarity between two dense networks of
different seeds (closer than that, a compressed network explains itself like another training run); the
*floor* is the similarity between a dense network and itself with shuffled weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from analysis.attribution.before_after import NetworkMaps, PopulationMaps
from analysis.attribution.map_similarity import MEASURES, MaskedFloats, mean_where_defined
from analysis.attribution.methods import METHODS
from analysis.attribution.quality import infidelity, max_sensitivity, removal_areas
from analysis.attribution.randomised import randomised
from population.errors import InputError, unknown_name


def map_changes(maps: PopulationMaps) -> pd.DataFrame:
    """Similarity of dense and compressed maps per image, with ceiling and floor.

    Args:
        maps: of M dense networks and the others.

    Returns:
        One row per image, target and comparison. Columns: image (position), target (``fixed``: the given
        class; ``own``: what each network predicts), comparison (``compressed``: each dense network with its
        own compressed form; ``ceiling``: with the next dense one, the last with the first; ``floor``: with
        itself with shuffled weights), and the ``MEASURES``, means over the M networks, missing where no
        pair of maps has a value. There is no ceiling where M = 1.
    """
    following = maps.dense[1:] + maps.dense[:1]
    against = {"compressed": maps.compressed, "ceiling": following, "floor": maps.randomised}
    if len(maps.dense) == 1:
        del against["ceiling"]
    chosen: Mapping[str, Callable[[NetworkMaps], Tensor]] = {
        "fixed": lambda m: m.fixed, "own": lambda m: m.own
    }  # fmt: skip
    parts = []
    for target, pick in chosen.items():
        for comparison, others in against.items():
            pairs = [(pick(a), pick(b)) for a, b in zip(maps.dense, others, strict=True)]
            values = {
                name: mean_where_defined([measure(a, b) for a, b in pairs])
                for name, measure in MEASURES.items()
            }
            parts.append(_rows({"target": target, "comparison": comparison}, values))
    return pd.concat(parts, ignore_index=True)


def map_quality(
    dense: Sequence[nn.Module],
    compressed: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    maps: PopulationMaps,
    *,
    batch_size: int,
    seed: int,
) -> pd.DataFrame:
    """How well maps tell what a network does: deletion, insertion, infidelity.

    Four kinds of maps are scored on the same dense network, so that they can be compared: its own, that of
    its compressed form, that of the next dense network (ceiling) and that of itself with shuffled weights
    (floor). The compressed network's own maps are also scored on itself.

    Args:
        dense: as given to ``population_maps``, like all arguments.
        compressed: the M networks made from them.
        images: shape (N, C, H, W), in [0, 1].
        targets: shape (N,).
        maps: what ``population_maps`` returned for them.
        batch_size: images in one pass.
        seed: of infidelity's squares.

    Returns:
        One row per image, target, scored network and kind of map. Columns: image, target (``fixed`` or
        ``own``), scored_on (``dense`` or ``compressed``), maps (``dense``, ``compressed``, ``ceiling`` or
        ``floor``), deletion, insertion, infidelity: means over the M networks. ``own`` is there for the
        networks' own maps alone. There is no ceiling where M = 1.

    Raises:
        InputError: if the numbers of networks or images disagree.
    """
    if not len(dense) == len(compressed) == len(maps.dense):
        raise InputError(
            f"the maps are of {len(maps.dense)} networks, but given are {len(dense)} dense"
            f" and {len(compressed)} compressed ones"
        )
    following = maps.dense[1:] + maps.dense[:1]
    fixed = [targets] * len(dense)
    own_dense, own_compressed = ([n.own_class for n in kind] for kind in (maps.dense, maps.compressed))
    cases = [
        ("fixed", "dense", "dense", dense, fixed, [n.fixed for n in maps.dense]),
        ("fixed", "dense", "compressed", dense, fixed, [n.fixed for n in maps.compressed]),
        ("fixed", "dense", "ceiling", dense, fixed, [n.fixed for n in following]),
        ("fixed", "dense", "floor", dense, fixed, [n.fixed for n in maps.randomised]),
        ("fixed", "compressed", "compressed", compressed, fixed, [n.fixed for n in maps.compressed]),
        ("own", "dense", "dense", dense, own_dense, [n.own for n in maps.dense]),
        ("own", "compressed", "compressed", compressed, own_compressed, [n.own for n in maps.compressed]),
    ]
    parts = []
    for target, scored_on, kind, networks, classes, of in cases:
        if kind == "ceiling" and len(dense) == 1:
            continue
        values: dict[str, list[MaskedFloats]] = {"deletion": [], "insertion": [], "infidelity": []}
        for network, wanted, given in zip(networks, classes, of, strict=True):
            areas = removal_areas(network, images, wanted, given, batch_size=batch_size)
            values["deletion"].append(np.ma.MaskedArray(areas.deletion))
            values["insertion"].append(np.ma.MaskedArray(areas.insertion))
            values["infidelity"].append(
                infidelity(network, images, wanted, given, batch_size=batch_size, seed=seed)
            )
        labels = {"target": target, "scored_on": scored_on, "maps": kind}
        parts.append(_rows(labels, {name: mean_where_defined(v) for name, v in values.items()}))
    return pd.concat(parts, ignore_index=True)


def sensitivities(
    dense: Sequence[nn.Module],
    compressed: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    *,
    method: str,
    batch_size: int,
    seed: int,
) -> pd.DataFrame:
    """Max-sensitivity of the maps of a fixed class, before and after; the dearest of the measures.

    Args:
        dense: as given to ``population_maps``, like all arguments.
        compressed: the M networks made from them.
        images: shape (N, C, H, W), in [0, 1].
        targets: shape (N,).
        method: a name of ``METHODS``.
        batch_size: images in one pass.
        seed: of the perturbations (the same for all networks), the method and the shuffled weights.

    Returns:
        One row per image and kind of network. Columns: image, network (``dense``, ``compressed``, or
        ``floor``: the dense ones with shuffled weights), max_sensitivity: mean over the M networks.

    Raises:
        InputError: as ``population_maps``.
    """
    if method not in METHODS:
        raise unknown_name("attribution method", method, METHODS)
    kinds: dict[str, Callable[[], Iterator[nn.Module]]] = {
        "dense": lambda: iter(dense),
        "compressed": lambda: iter(compressed),
        "floor": lambda: (
            randomised(model, images, batch_size=batch_size, seed=seed + i) for i, model in enumerate(dense)
        ),
    }
    explain = METHODS[method]
    parts = []
    for kind, networks in kinds.items():
        values = [
            max_sensitivity(n, images, targets, explain=explain, batch_size=batch_size, seed=seed)
            for n in networks()
        ]
        mean = np.ma.MaskedArray(np.mean(values, axis=0))
        parts.append(_rows({"network": kind}, {"max_sensitivity": mean}))
    return pd.concat(parts, ignore_index=True)


def _rows(labels: Mapping[str, str], values: Mapping[str, MaskedFloats]) -> pd.DataFrame:
    n = len(next(iter(values.values())))
    columns: dict[str, object] = {"image": np.arange(n)}
    columns |= {name: [label] * n for name, label in labels.items()}
    for name, part in values.items():
        filled = pd.Series(pd.array(part.filled(0.0), dtype="Float64"))
        columns[name] = filled.mask(np.ma.getmaskarray(part))
    return pd.DataFrame(columns)

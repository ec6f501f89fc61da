"""How alike the layers of dense and compressed members are, through the store.

Every member is compared with its compressed form, and for reference with the next dense member and with
itself before training. Outputs of layers are averaged over positions and held in memory, so that each network
sees the images once, whatever the number of measures and sets of images. The values of CKA are those of
``analysis.similarity.layers.cka_maps``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.similarity.activations import pooled_features
from analysis.similarity.moments import CkaStream
from analysis.similarity.neighbours import NEIGHBOURS, nearest, shared_neighbours
from pie_report.members import Population, layers_of
from population.errors import InputError
from population.resampling import bootstrap_mean_interval
from population.spec import CompressionSpec, key

#: Bounds of what is computed; docs/report-schema.md has them all.
MEMBERS, IMAGES, PAIRS = 10, 2000, 512
_BATCH = 256

COMPARISONS = ("value", "reference", "untrained")
"""A dense member with its compressed form, with the next dense member, with itself before training."""

Indices = NDArray[np.int64]
Features = dict[str, Tensor]
#: Per set of images, comparison and layer; None where undefined.
Values = dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True, eq=False)
class LayerSimilarity:
    """Layers of dense members beside those of others.

    Attributes:
        table: one row per measure (``cka`` or ``neighbours``), set of images (``all``, ``pies``,
            ``matched``) and layer in forward order. For each of ``COMPARISONS`` the mean over members and
            its interval, ``*_low`` and ``*_high``; missing where undefined (an interval of one member, too).
        cka_map: columns layer_dense, layer_compressed, value: CKA of all pairs of layers, all images,
            mean over members.
        members: number of members.
        images: number of images in each set; 0 where it was left out.
        undefined: why values of the table are missing, one sentence each.
    """

    table: pd.DataFrame
    cka_map: pd.DataFrame
    members: int
    images: Mapping[str, int]
    undefined: tuple[str, ...]


def layer_similarity(
    population: Population, condition: CompressionSpec, pies: Indices, controls: Indices
) -> LayerSimilarity:
    """Compares layers on the first test images, on PIEs and on images matched with them.

    Args:
        population: the models.
        condition: the compression.
        pies: indices of PIEs, may be empty.
        controls: an image for each of them.

    Raises:
        InputError: if a layer does not vary over all images.
    """
    members = min(population.k, MEMBERS)
    seed = population.member.seed
    drawn = np.sort(np.random.default_rng(seed).permutation(len(pies))[:PAIRS])
    sets = {
        "all": np.arange(min(len(population.test_images), IMAGES)),
        "pies": pies[drawn],
        "matched": np.sort(controls[drawn]),
    }

    def compute(folder: Path) -> None:
        used = np.unique(np.concatenate(list(sets.values())))
        rows = {
            name: torch.from_numpy(np.searchsorted(used, part)) for name, part in sets.items() if len(part)
        }
        images = population.test_images[torch.from_numpy(used)].float().div(255)
        (folder / "similarity.json").write_text(
            json.dumps(_compare_members(population, condition, members, images, rows))
        )

    parts = (population.member, members, condition, _BATCH, NEIGHBOURS)
    entry = population.store.once(
        "similarity", key(*parts, {name: part.tolist() for name, part in sets.items()}), compute
    )
    stored = json.loads((entry / "similarity.json").read_text())
    names, cka_map = stored["layers"], np.array(stored["map"])
    return LayerSimilarity(
        table=_table(stored["values"], names, seed),
        cka_map=pd.DataFrame(
            {
                "layer_dense": np.repeat(names, len(names)),
                "layer_compressed": np.tile(names, len(names)),
                "value": cka_map.ravel(),
            }
        ),
        members=members,
        images={name: len(part) for name, part in sets.items()},
        undefined=tuple(stored["undefined"]),
    )


def _compare_members(
    population: Population,
    condition: CompressionSpec,
    members: int,
    images: Tensor,
    rows: Mapping[str, Tensor],
) -> dict[str, Any]:
    names, layers = zip(*layers_of(population).items(), strict=True)

    def features(network: nn.Module) -> Features:
        return pooled_features(network, images, layers, batch_size=_BATCH)

    values: list[dict[str, Values]] = []
    maps: list[NDArray[np.float64]] = []
    undefined: list[str] = []
    first = dense = features(population.dense(0))
    for i in range(members):
        others = {"value": features(population.compressed(i, condition))}
        following = first
        if members > 1:
            following = first if i == members - 1 else features(population.dense(i + 1))
            others["reference"] = following
        others["untrained"] = features(population.untrained(i))
        maps.append(_cka_map(dense, others["value"], rows["all"]))
        values.append(
            {
                "cka": _cka_values(dense, others, rows, undefined),
                "neighbours": _neighbour_values(dense, others, rows, undefined),
            }
        )
        dense = following
    return {
        "layers": names,
        "values": values,
        "map": np.mean(maps, axis=0).tolist(),
        "undefined": list(dict.fromkeys(undefined)),
    }


def _cka_map(dense: Features, other: Features, rows: Tensor) -> NDArray[np.float64]:
    """CKA of all pairs of layers on some images, unbiased, shape (L, L)."""
    stream = CkaStream()
    stream.add(*([_centred(part[rows]) for part in side.values()] for side in (dense, other)))
    return stream.sums().terms("unbiased").cka([name.removeprefix("encoder.") for name in dense])


def _centred(features: Tensor) -> Tensor:
    """Less one image first, so that features that do not vary are exactly 0."""
    shifted = features - features[:1]
    return shifted - shifted.mean(dim=0)


def _cka_values(
    dense: Features, others: Mapping[str, Features], rows: Mapping[str, Tensor], undefined: list[str]
) -> Values:
    values: Values = {}
    for images, index in rows.items():
        values[images] = {}
        for comparison, other in others.items():
            try:
                found: list[float | None] = _cka_map(dense, other, index).diagonal().tolist()
            except InputError as error:
                if images == "all":
                    raise
                undefined.append(f"CKA of {_WORDS[images]}: {error}")
                found = [None] * len(dense)
            values[images][comparison] = found
    return values


_WORDS = {"pies": "PIEs", "matched": "the images matched with them"}


def _neighbour_values(
    dense: Features, others: Mapping[str, Features], rows: Mapping[str, Tensor], undefined: list[str]
) -> Values:
    """Shares of common neighbours; neighbours are looked for among all images that are used."""
    own = _nearest(dense, undefined)
    values: Values = {images: {} for images in rows}
    for comparison, other in others.items():
        found = _nearest(other, undefined)
        for images, index in rows.items():
            values[images][comparison] = [
                None if a is None or b is None else shared_neighbours(a[index], b[index])
                for a, b in zip(own, found, strict=True)
            ]
    return values


def _nearest(features: Features, undefined: list[str]) -> list[Tensor | None]:
    found: list[Tensor | None] = []
    for layer, part in features.items():
        try:
            found.append(nearest(part, k=NEIGHBOURS))
        except InputError as error:
            undefined.append(f"Neighbours in layer {layer.removeprefix('encoder.')}: {error}")
            found.append(None)
    return found


def _table(members: list[dict[str, Values]], layers: list[str], seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    parts = []
    for measure, sets in members[0].items():
        for images in sets:
            table = pd.DataFrame({"measure": measure, "images": images, "layer": layers})
            for comparison in COMPARISONS:
                # A mean over other members for one layer than for the next could not be compared.
                values = np.array(
                    [m[measure][images].get(comparison, [None] * len(layers)) for m in members], dtype=object
                )
                known = np.array([all(v is not None for v in column) for column in values.T], dtype=bool)
                numbers = np.where(known, values, 0.0).astype(np.float64)
                low, high = bootstrap_mean_interval(numbers, rng=rng)
                ends = {"": numbers.mean(axis=0), "_low": low, "_high": high}
                for end, column in ends.items():
                    shown = known & (end == "" or len(members) > 1)
                    table[f"{comparison}{end}"] = pd.Series(pd.array(column, dtype="Float64")).mask(~shown)
            parts.append(table)
    return pd.concat(parts, ignore_index=True)

"""Why images are forgotten: representations and attributions before and after, through the store."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from analysis.attribution import AttributionChange, attribution_change
from analysis.similarity import layer_cka
from pie_report.members import Population, layers_of
from population.spec import CompressionSpec, key

# Bounds of what is computed. The report shows those of the attributions, docs/report-schema.md all.
CKA_MEMBERS, CKA_IMAGES, CKA_BATCH = 5, 2000, 256
ATTRIBUTION_MEMBERS, ATTRIBUTION_IMAGES, ATTRIBUTION_STEPS = 3, 32, 16
_ATTRIBUTION_BATCH = 256


def cka_table(population: Population, condition: CompressionSpec) -> pd.DataFrame:
    """Layer-wise CKA of dense against compressed members, beside dense against the next seed.

    Returns:
        Columns layer, value, reference: means over the first members, in forward order.
    """
    members = min(population.k, CKA_MEMBERS)

    def compute(folder: Path) -> None:
        images = population.test_images[:CKA_IMAGES].float().div(255)
        names, layers = zip(*layers_of(population).items(), strict=True)
        dense = [population.dense(i) for i in range(members)]
        values, references = [], []
        for i, first in enumerate(dense):
            compressed, other = population.compressed(i, condition), dense[(i + 1) % members]
            values.append(layer_cka(first, compressed, images, layers, batch_size=CKA_BATCH))
            references.append(layer_cka(first, other, images, layers, batch_size=CKA_BATCH))
        rows = {
            "layer": list(names),
            "value": [float(np.mean([v[layer] for v in values])) for layer in layers],
            "reference": [float(np.mean([r[layer] for r in references])) for layer in layers],
        }
        (folder / "cka.json").write_text(json.dumps(rows))

    parts = (population.member, members, condition, CKA_IMAGES, CKA_BATCH)
    entry = population.store.once("cka", key(*parts), compute)
    return pd.DataFrame(json.loads((entry / "cka.json").read_text()))


@dataclass(frozen=True, eq=False)
class Attribution:
    """Attribution before and after on some PIEs and some other images.

    Attributes:
        table: columns sample_id, group (``pie`` or ``other``), spearman, reference; values that are
            not defined (a map without variation) are missing.
        map_dense: mean maps of the PIEs in the table, in its order, shape (P, H, W).
        map_compressed: the same after compression.
    """

    table: pd.DataFrame
    map_dense: NDArray[np.float32]
    map_compressed: NDArray[np.float32]


def attribution(
    population: Population, condition: CompressionSpec, samples: pd.DataFrame, targets: NDArray[np.int64]
) -> Attribution:
    """Integrated gradients of the dense modal class before and after compression.

    Args:
        population: the models.
        condition: the compression.
        samples: table of ``find_pies``, in the order of the test images.
        targets: class that is explained for each test image, the dense modal label, shape (N,).
    """
    members = min(population.k, ATTRIBUTION_MEMBERS)
    rng = np.random.default_rng(population.member.seed)
    is_pie = samples["pie"].to_numpy(dtype=bool)
    chosen = [
        np.sort(rng.permutation(np.flatnonzero(part))[:ATTRIBUTION_IMAGES]) for part in (is_pie, ~is_pie)
    ]
    index = np.concatenate(chosen)
    n_pies = len(chosen[0])

    def compute(folder: Path) -> None:
        change = attribution_change(
            [population.dense(i) for i in range(members)],
            [population.compressed(i, condition) for i in range(members)],
            population.test_images[torch.from_numpy(index)].float().div(255),
            torch.from_numpy(targets[index]),
            steps=ATTRIBUTION_STEPS,
            batch_size=_ATTRIBUTION_BATCH,
        )
        np.savez(folder / "attribution.npz", allow_pickle=False, **_plain_arrays(change, n_pies))

    parts = (population.member, members, condition, ATTRIBUTION_STEPS, n_pies, index.tolist())
    entry = population.store.once("attribution", key(*parts, targets[index].tolist()), compute)
    with np.load(entry / "attribution.npz", allow_pickle=False) as stored:
        table = pd.DataFrame(
            {
                "sample_id": samples["sample_id"].to_numpy()[index],
                "group": ["pie"] * n_pies + ["other"] * (len(index) - n_pies),
                "spearman": _with_gaps(stored["spearman"], stored["spearman_undefined"]),
                "reference": _with_gaps(stored["reference"], stored["reference_undefined"]),
            }
        )
        return Attribution(table, stored["map_dense"], stored["map_compressed"])


def _plain_arrays(change: AttributionChange, n_pies: int) -> dict[str, NDArray[np.generic]]:
    maps = {"map_dense": change.map_dense[:n_pies], "map_compressed": change.map_compressed[:n_pies]}
    reference = change.reference
    if reference is None:  # a single model has no other seed to be compared with
        reference = np.ma.MaskedArray(np.zeros(len(change.spearman)), mask=True)
    correlations = {"spearman": change.spearman, "reference": reference}
    values = {name: np.ma.filled(part, 0.0) for name, part in correlations.items()}
    undefined = {f"{name}_undefined": np.ma.getmaskarray(part) for name, part in correlations.items()}
    return {**maps, **values, **undefined}


def _with_gaps(values: NDArray[np.float64], undefined: NDArray[np.bool_]) -> "pd.Series[float]":
    return pd.Series(pd.array(values, dtype="Float64")).mask(undefined)

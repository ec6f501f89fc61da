"""CKA of layers whose positions count, through the store."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.similarity.layers import minibatch_cka_maps
from pie_report.members import Population, layers_of
from population.spec import CompressionSpec, key

#: Bounds of what is computed; docs/report-schema.md has them all.
MEMBERS, IMAGES, BATCH = 5, 2000, 256


def cka_table(population: Population, condition: CompressionSpec) -> pd.DataFrame:
    """Layer-wise CKA of dense against compressed members, beside dense against the next seed.

    Whole feature maps are compared, in batches.

    Returns:
        Columns layer, value, reference: means over the first members, in forward order; the reference
        of a single member is missing.
    """
    members = min(population.k, MEMBERS)

    def compute(folder: Path) -> None:
        images = population.test_images[:IMAGES].float().div(255)
        names, layers = zip(*layers_of(population).items(), strict=True)
        dense = [population.dense(i) for i in range(members)]
        found = []
        for i, first in enumerate(dense):
            others = {"value": population.compressed(i, condition)}
            if members > 1:
                others["reference"] = dense[(i + 1) % members]
            found.append(minibatch_cka_maps(first, others, images, layers, batch_size=BATCH))
        means = {name: np.mean([maps[name].diagonal() for maps in found], axis=0) for name in found[0]}
        rows = {"layer": list(names), **{name: values.tolist() for name, values in means.items()}}
        (folder / "cka.json").write_text(json.dumps(rows))

    parts = (population.member, members, condition, IMAGES, BATCH)
    entry = population.store.once("cka", key(*parts), compute)
    table = pd.DataFrame(json.loads((entry / "cka.json").read_text()))
    return table.reindex(columns=["layer", "value", "reference"])

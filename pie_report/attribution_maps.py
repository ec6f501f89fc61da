"""Attribution maps of dense and compressed members on PIEs and other images, through the store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from analysis.attribution.before_after import PopulationMaps, population_maps
from analysis.attribution.map_similarity import TOP
from analysis.attribution.methods import STEPS
from analysis.attribution.quality import CURVE_STEPS, removal_areas
from analysis.attribution.tables import map_changes
from pie_report.members import Population
from population.spec import CompressionSpec, key

#: The first one's maps are those of the gallery and of the table ``attribution``; the pictures are of the
#: last one, whose maps differ least between two dense networks.
METHODS = ("integrated_gradients", "occlusion")

#: Bounds of what is computed: members, and images of each group (PIEs, matched, other).
MEMBERS, IMAGES = 3, 32
#: PIEs whose maps are drawn, and the most pixels along a side of a picture.
PICTURES, PICTURE_SIDE = 4, 32
_BATCH = 256

GROUPS = ("pie", "matched", "other")
_KEYS = ["group", "pair", "sample_id"]

Indices = NDArray[np.int64]
Tables = dict[str, dict[str, list[Any]]]


@dataclass(frozen=True, eq=False)
class MapComparison:
    """Maps of the dense modal class before and after, per image, means over members.

    ``group`` is ``pie``, ``matched`` (the partner of the PIE whose id is ``pair``) or ``other`` (drawn
    from all images that are no PIEs). A matched image may also be drawn as an other one.

    Attributes:
        changes: columns method, target, comparison, group, pair, sample_id, and the measures of
            ``map_changes``.
        quality: columns method, scored_on, maps, group, pair, sample_id, deletion, insertion; PIEs and
            matched images alone.
        map_dense: mean integrated-gradients maps of the PIEs, in the order of the tables, (P, H, W).
        map_compressed: the same after compression.
        pictures: one row per pixel of some PIEs: sample_id, row, column, image (brightness, 0 to 1), dense,
            compressed, other_seed (occlusion maps of single networks, one unit per image).
        members: number of members.
    """

    changes: pd.DataFrame
    quality: pd.DataFrame
    map_dense: NDArray[np.float32]
    map_compressed: NDArray[np.float32]
    pictures: pd.DataFrame
    members: int

    def attribution(self) -> pd.DataFrame:
        """Columns sample_id, group (``pie`` or ``other``), spearman, reference (another seed)."""
        chosen = self.changes[
            (self.changes["method"] == METHODS[0])
            & (self.changes["target"] == "fixed")
            & self.changes["group"].isin(["pie", "other"])
        ]
        table = chosen.loc[chosen["comparison"] == "compressed", ["sample_id", "group", "spearman"]]
        reference = chosen.loc[chosen["comparison"] == "ceiling", "spearman"]
        # A single model has no other seed to be compared with.
        values = reference.array if len(reference) else pd.array([None] * len(table), dtype="Float64")
        return table.assign(reference=values).reset_index(drop=True)

    def pie_ids(self) -> NDArray[np.str_]:
        """Ids of the PIEs that have maps, in the order of the maps."""
        table = self.attribution()
        return table.loc[table["group"] == "pie", "sample_id"].to_numpy(dtype=np.str_)


def compare_maps(
    population: Population,
    condition: CompressionSpec,
    samples: pd.DataFrame,
    targets: Indices,
    pies: Indices,
    controls: Indices,
) -> MapComparison:
    """Compares maps of the dense modal class on PIEs, matched and other images.

    Args:
        population: the models.
        condition: the compression.
        samples: table of ``find_pies``, in the order of the test images.
        targets: class that is explained for each test image, the dense modal label, shape (N,).
        pies: all PIEs, ascending, where they are matched; else empty.
        controls: the image that each of them is matched with.
    """
    members = min(population.k, MEMBERS)
    seed = population.member.seed
    is_pie = samples["pie"].to_numpy(dtype=bool)
    rng = np.random.default_rng(seed)
    shown, other = (np.sort(rng.permutation(np.flatnonzero(part))[:IMAGES]) for part in (is_pie, ~is_pie))
    matched = controls[np.searchsorted(pies, shown)] if len(pies) else controls
    groups = dict(zip(GROUPS, (shown, matched, other), strict=True))
    used = np.unique(np.concatenate(list(groups.values())))
    place = {name: np.searchsorted(used, part) for name, part in groups.items()}

    paired = np.unique(np.concatenate([place["pie"], place["matched"]]))

    def compute(folder: Path) -> None:
        dense = [population.dense(i) for i in range(members)]
        compressed = [population.compressed(i, condition) for i in range(members)]
        images = population.test_images[torch.from_numpy(used)].float().div(255)
        classes = torch.from_numpy(targets[used])
        found = {
            method: population_maps(
                dense, compressed, images, classes, method=method, batch_size=_BATCH, seed=seed
            )
            for method in METHODS
        }
        tables = {
            "changes": pd.concat([map_changes(maps).assign(method=m) for m, maps in found.items()]),
            "quality": pd.concat(
                [
                    _quality(dense, compressed, images, classes, maps, paired).assign(method=m)
                    for m, maps in found.items()
                ]
            ),
        }
        plain = {name: {str(n): _plain(part) for n, part in t.items()} for name, t in tables.items()}
        (folder / "maps.json").write_text(json.dumps(plain))
        np.savez(
            folder / "maps.npz",
            allow_pickle=False,
            **_mean_maps(found[METHODS[0]], place["pie"]),
            **_pictures(found[METHODS[-1]], images, place["pie"][:PICTURES]),
        )

    settings = (METHODS, STEPS, CURVE_STEPS, TOP, _BATCH, PICTURES, PICTURE_SIDE)
    chosen = (used.tolist(), targets[used].tolist(), [part.tolist() for part in place.values()])
    entry = population.store.once(
        "maps", key(population.member, members, condition, settings, chosen), compute
    )
    ids = samples["sample_id"].to_numpy(dtype=np.str_)
    tables: Tables = json.loads((entry / "maps.json").read_text())
    with np.load(entry / "maps.npz", allow_pickle=False) as arrays:
        return MapComparison(
            changes=_grouped(tables["changes"], place, ids[used], ["method", "target", "comparison"]),
            quality=_grouped(tables["quality"], place, ids[used], ["method", "scored_on", "maps"]),
            map_dense=arrays["map_dense"],
            map_compressed=arrays["map_compressed"],
            pictures=_picture_table(arrays, ids[shown[:PICTURES]]),
            members=members,
        )


def _quality(
    dense: Sequence[nn.Module],
    compressed: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    maps: PopulationMaps,
    rows: Indices,
) -> pd.DataFrame:
    """Deletion and insertion, each map scored on the network that it is of; the floor on the dense one.

    ``map_quality`` has more of them, and infidelity, at five times the cost.
    """
    chosen = torch.from_numpy(rows)
    images, targets = images[chosen], targets[chosen]
    cases = [
        ("dense", "dense", dense, maps.dense),
        ("dense", "floor", dense, maps.randomised),
        ("compressed", "compressed", compressed, maps.compressed),
    ]
    parts = []
    for scored_on, kind, networks, of in cases:
        areas = [
            removal_areas(network, images, targets, m.fixed[chosen], batch_size=_BATCH)
            for network, m in zip(networks, of, strict=True)
        ]
        parts.append(
            pd.DataFrame(
                {
                    "image": rows,
                    "scored_on": scored_on,
                    "maps": kind,
                    "deletion": np.mean([a.deletion for a in areas], axis=0),
                    "insertion": np.mean([a.insertion for a in areas], axis=0),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _plain(column: "pd.Series[Any]") -> list[Any]:
    return [None if pd.isna(value) else value for value in column.tolist()]


def _mean_maps(maps: PopulationMaps, pies: Indices) -> dict[str, NDArray[np.float32]]:
    sides = {"map_dense": maps.dense, "map_compressed": maps.compressed}
    return {
        name: torch.stack([m.fixed[torch.from_numpy(pies)] for m in side]).mean(dim=0).numpy()
        for name, side in sides.items()
    }


def _pictures(maps: PopulationMaps, images: Tensor, pies: Indices) -> dict[str, NDArray[np.float32]]:
    """Maps of the first member, and of the second one before compression; large ones made smaller."""
    rows = torch.from_numpy(pies)
    parts = {
        "picture_image": images[rows].mean(dim=1).cpu(),
        "picture_dense": maps.dense[0].fixed[rows],
        "picture_compressed": maps.compressed[0].fixed[rows],
    }
    if len(maps.dense) > 1:
        parts["picture_other_seed"] = maps.dense[1].fixed[rows]
    height, width = (min(side, PICTURE_SIDE) for side in images.shape[2:])
    return {
        name: adaptive_avg_pool2d(part[:, None], (height, width))[:, 0].numpy()
        for name, part in parts.items()
    }


def _picture_table(arrays: Mapping[str, NDArray[np.float32]], ids: NDArray[np.str_]) -> pd.DataFrame:
    n, height, width = arrays["picture_image"].shape
    rows, columns = np.divmod(np.tile(np.arange(height * width), n), width)
    table = pd.DataFrame({"sample_id": np.repeat(ids, height * width), "row": rows, "column": columns})
    for name in ("image", "dense", "compressed", "other_seed"):
        part = arrays.get(f"picture_{name}")
        empty = pd.array([None] * len(table), dtype="Float64")
        table[name] = empty if part is None else part.ravel().astype(np.float64).round(5)
    return table


def _grouped(
    columns: dict[str, list[Any]], place: Mapping[str, Indices], ids: NDArray[np.str_], labels: list[str]
) -> pd.DataFrame:
    """Rows per image become rows per group and image."""
    table = pd.DataFrame(columns)
    values = [str(name) for name in table if name not in (*labels, "image")]
    table[values] = table[values].astype("Float64")
    pairs = {"pie": ids[place["pie"]], "matched": ids[place["pie"]], "other": ""}
    members = pd.concat(
        [
            pd.DataFrame({"group": name, "image": part, "pair": pairs[name], "sample_id": ids[part]})
            for name, part in place.items()
            if len(part)
        ],
        ignore_index=True,
    )
    return members.merge(table, on="image")[[*labels, *_KEYS, *values]]

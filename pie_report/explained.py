"""Explanations as sections of report.json and as tables."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from pie_report.plain import records

if TYPE_CHECKING:  # comparing predictions needs no torch
    from pie_report.explanations import Explanation

EXPLANATION_TABLES = (
    "cka", "attribution", "similarity", "cka_map", "map_changes", "map_quality", "map_pictures",
)  # fmt: skip
_SECTIONS = ("cka", "attribution", "matching", "similarity", "maps")


def explanation_tables(found: "Explanation") -> dict[str, pd.DataFrame]:
    """The tables of ``EXPLANATION_TABLES`` for one condition."""
    return {
        "cka": found.cka,
        "attribution": found.maps.attribution(),
        "similarity": found.layers.table,
        "cka_map": found.layers.cka_map,
        "map_changes": found.maps.changes,
        "map_quality": found.maps.quality,
        "map_pictures": found.maps.pictures,
    }


def explanation_sections(found: "Explanation | None", *, seed: int) -> dict[str, Any]:
    """What one condition's entry of report.json says of layers and maps; all None without the networks.

    Args:
        found: layers and maps before and after.
        seed: of the tests.
    """
    if found is None:
        return dict.fromkeys(_SECTIONS)
    from analysis.attribution.map_similarity import TOP
    from analysis.attribution.methods import STEPS
    from analysis.similarity.neighbours import NEIGHBOURS
    from pie_report.attribution_maps import METHODS
    from pie_report.map_tests import mean_table, pair_tests

    return {
        "cka": records(found.cka),
        "attribution": {
            "method": METHODS[0].replace("_", " "),
            "members": found.maps.members,
            "steps": STEPS,
            **_rank_correlations(found.maps.attribution()),
        },
        "matching": {
            "pairs": len(found.pairs.pies),
            "margin_gap": found.pairs.margin_gap,
            "missing": found.pairs.missing,
        },
        "similarity": {
            "members": found.layers.members,
            "neighbours": NEIGHBOURS,
            "images": dict(found.layers.images),
            "undefined": list(found.layers.undefined),
            "layers": records(found.layers.table),
        },
        "maps": {
            "members": found.maps.members,
            "top": TOP,
            "means": records(mean_table(found.maps)),
            "tests": records(pair_tests(found.maps, seed=seed)),
        },
    }


def _rank_correlations(table: pd.DataFrame) -> dict[str, Any]:
    groups = {"pies": "pie", "rest": "other"}
    parts = {name: table[table["group"] == group] for name, group in groups.items()}
    return {
        **{name: {"n": len(part), "spearman": _mean(part["spearman"])} for name, part in parts.items()},
        "reference": {name: _mean(part["reference"]) for name, part in parts.items()},
    }


def _mean(values: "pd.Series[float]") -> float | None:
    known = values.dropna()
    return float(known.mean()) if len(known) else None

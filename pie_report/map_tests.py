"""Do maps change more on PIEs than on images that are just as difficult?"""

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control

from analysis.attribution.map_similarity import MEASURES, MaskedFloats
from analysis.paired import paired_difference
from pie_report.attribution_maps import GROUPS, METHODS, MapComparison

QUALITY = ("deletion", "insertion")
_COMPARISONS = ("compressed", "ceiling", "floor")
_QUALITY_MAPS = ("dense", "compressed", "floor")


def mean_table(found: MapComparison) -> pd.DataFrame:
    """Means over the images of a group, for the dense modal class.

    Returns:
        One row per method, measure and group. For measures of similarity ``compressed``, ``ceiling`` and
        ``floor``; for deletion and insertion ``dense``, ``compressed`` and ``floor``; others are
        missing, like means of nothing.
    """
    changes = found.changes[found.changes["target"] == "fixed"]
    parts = [
        _means(changes, "comparison", list(MEASURES), _COMPARISONS),
        _means(found.quality, "maps", list(QUALITY), _QUALITY_MAPS),
    ]
    table = pd.concat(parts, ignore_index=True)
    columns = ["method", "measure", "group", "n", "dense", "compressed", "ceiling", "floor"]
    return table.reindex(columns=columns)


def _means(table: pd.DataFrame, kind: str, measures: list[str], kinds: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for method in METHODS:
        for measure in measures:
            for group in GROUPS:
                part = table[(table["method"] == method) & (table["group"] == group)]
                if len(part) == 0:
                    continue
                means = {name: part.loc[part[kind] == name, measure].mean() for name in kinds}
                labels = {"method": method, "measure": measure, "group": group}
                rows.append({**labels, "n": part["sample_id"].nunique(), **means})
    columns = ["method", "measure", "group", "n", *kinds]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(kinds, "Float64"))


def pair_tests(found: MapComparison, *, seed: int) -> pd.DataFrame:
    """Tests PIEs against their matched images, for the dense modal class.

    The value of an image is the similarity of its maps before and after, or, for deletion and insertion, the
    compressed network's area less the dense one's.

    Args:
        found: maps of PIEs and matched images.
        seed: of sign flips and bootstrap draws.

    Returns:
        One row per method and measure: pairs, difference (mean of PIE less matched), low, high, p_value,
        p_floor, and p_adjusted (Benjamini and Hochberg over all rows). No rows without pairs; a
        measure that has no value in any pair has none.
    """
    changes = found.changes[
        (found.changes["target"] == "fixed") & (found.changes["comparison"] == "compressed")
    ]
    rng = np.random.default_rng(seed)
    rows = []
    for method in METHODS:
        values = {m: _sides(changes[changes["method"] == method], m) for m in MEASURES}
        values |= {m: _area_change(found.quality[found.quality["method"] == method], m) for m in QUALITY}
        for measure, (pies, matched) in values.items():
            if len(matched) == 0 or np.ma.getmaskarray(pies - matched).all():
                continue
            test = paired_difference(pies, matched, rng=rng)
            rows.append(
                {
                    "method": method,
                    "measure": measure,
                    "pairs": test.pairs,
                    "difference": test.mean,
                    "low": test.low,
                    "high": test.high,
                    "p_value": test.p_value,
                    "p_floor": test.p_floor,
                }
            )
    table = pd.DataFrame(rows)
    return table.assign(p_adjusted=false_discovery_control(table["p_value"])) if rows else table


def _sides(table: pd.DataFrame, measure: str) -> tuple[MaskedFloats, MaskedFloats]:
    pies = table[table["group"] == "pie"].set_index("pair")[measure]
    matched = table[table["group"] == "matched"].set_index("pair")[measure]
    return _masked(pies.reindex(matched.index)), _masked(matched)


def _area_change(table: pd.DataFrame, measure: str) -> tuple[MaskedFloats, MaskedFloats]:
    compressed, dense = (_sides(table[table["maps"] == kind], measure) for kind in ("compressed", "dense"))
    return compressed[0] - dense[0], compressed[1] - dense[1]


def _masked(values: "pd.Series[float]") -> MaskedFloats:
    missing = values.isna().to_numpy(dtype=bool)
    return np.ma.MaskedArray(values.fillna(0.0).to_numpy(dtype=np.float64), mask=missing)

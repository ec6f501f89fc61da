"""What the votes of two populations say beyond the count of PIEs; predictions are enough, so no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fairness import class_rates, error_spread, group_calibration, intensification
from analysis.fairness.jackknife import Estimate
from pie.difficulty import Difficulty, flag_rates, tell_pies
from pie.divergence import mean_divergence
from pie.exemplars import find_exemplars
from pie.flips import find_flips
from pie.identify import PieTable
from pie.overlap import IMAGES, intersections, pairwise_overlap
from pie.rarefaction import k_needed, rarefy
from pie.scores import dense_scores
from pie.side_data import SideData
from pie_report.group_statistics import GROUP_TABLES, group_tables, groups_section
from pie_report.plain import records
from population.errors import InputError
from population.pairing import Design
from population.predictions import Predictions

#: The score that all others are judged beside.
KNOWN_SCORE = "mean_margin"
#: All columns that ``dense_scores`` may have.
PREDICTION_SCORES = (KNOWN_SCORE, "vote_agreement", "vote_entropy", "ensemble_entropy", "el2n")
#: All columns that ``pie_report.network_scores`` may have.
NETWORK_SCORES = (
    "prediction_depth", "label_depth", "q_score_corti", "q_score_kalibhat", "forgetting_events",
    "memorisation",
)  # fmt: skip
#: Side data have other ones.
COMPUTED_SCORES = frozenset({*PREDICTION_SCORES, *NETWORK_SCORES})
#: Share of the images that are exemplars by distance.
TOP_SHARE = 0.01
#: Seed noise is small enough where it is at most this part of the PIEs that were found.
WANTED_NOISE = 0.1
#: Most images times classes of which divergences are computed: more would take longer than all else.
DIVERGENCES = 2_000_000

_OPTION = " --side-labels FILE"

TABLES = ("rarefaction", "class_rates", "calibration", "difficulty", "flags", *GROUP_TABLES)
"""Tables with a row of its own for every condition."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of one condition.

    Attributes:
        section: entry ``statistics`` of the condition in report.json.
        tables: those of ``TABLES`` that there are.
    """

    section: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]


def with_side_labels(command_line: str, side_labels: str | None) -> str:
    """Adds the option that gives the file of side data to a command, or takes it away."""
    return command_line.removesuffix(_OPTION) + ("" if side_labels is None else _OPTION)


def check_names(side: SideData) -> None:
    """Raises InputError if a score of a file has the name of one that is computed here."""
    twice = sorted(COMPUTED_SCORES.intersection(side.scores))
    if twice:
        raise InputError(f"--side-labels: {', '.join(twice)} is computed here; give it another name")


def condition_statistics(
    dense: Predictions,
    compressed: Predictions,
    pies: PieTable,
    *,
    design: Design,
    scores: pd.DataFrame | None,
    side: SideData | None,
    seed: int,
    groups: pd.DataFrame | None = None,
) -> Statistics:
    """Computes everything that predictions can tell of one condition; None stands for what they cannot.

    Args:
        dense: K networks before.
        compressed: after, with the samples in the same order.
        pies: of ``find_pies`` for these two.
        design: how they belong together.
        scores: what is known of the dense networks beside their predictions, a column per score; one row per
            sample, whose index is ``sample_id``, missing where a sample has no value.
        side: what else is known of the samples, under names that ``check_names`` takes.
        seed: of bootstraps, rearrangements and folds.
        groups: of the samples, one column per way to divide them; its index the sample ids.
    """
    section: dict[str, Any] = dict.fromkeys(
        ("flips", "exemplars", "divergence", "models", "class_errors", "intensification", "difficulty")
    )
    tables: dict[str, pd.DataFrame] = {}
    if design == "paired":
        flips = find_flips(dense, compressed, seed=seed)
        kinds = ("total", "right_to_wrong", "wrong_to_right", "wrong_to_wrong")
        section["flips"] = {kind: _plain(getattr(flips, kind)) for kind in kinds}
    exemplars = find_exemplars(pies, share=TOP_SHARE)
    counts = ("share", "cut", "tied", "taxicab", "both", "modal_right", "taxicab_right")
    section["exemplars"] = {name: getattr(exemplars, name) for name in counts}
    if dense.probabilities is not None and compressed.probabilities is not None:
        if dense.probabilities[0].size <= DIVERGENCES:
            divergence = mean_divergence(dense, compressed, design=design, seed=seed)
            section["divergence"] = {"mean": divergence.mean, "p_value": divergence.p_value}
        if dense.label is not None:
            whole = pd.DataFrame(index=pd.Index(dense.sample_id))
            divided = whole if groups is None else groups
            tables["calibration"] = group_calibration(dense, compressed, divided, design=design, seed=seed)
    if dense.k > 1:
        tables["rarefaction"] = rarefy(dense, compressed, design=design, seed=seed).table
        if 0 < pies.share * WANTED_NOISE < 1:
            section["models"] = asdict(k_needed(dense, share=WANTED_NOISE * pies.share))
    if dense.label is not None:
        tables["class_rates"] = class_rates(dense, compressed, design=design, seed=seed).table
        spread = error_spread(dense, compressed, design=design)
        section["class_errors"] = {
            "cev": _estimate(spread.cev), "sde": _estimate(spread.sde), "left_out": len(spread.left_out),
        }  # fmt: skip
        weak = intensification(dense, compressed, design=design)
        section["intensification"] = {
            "slope": _estimate(weak.slope), "ratio": _estimate(weak.ratio), "naive_slope": weak.naive_slope,
        }  # fmt: skip
    is_pie = pies.samples["pie"].to_numpy(dtype=bool)
    if dense.margin is not None:
        told = dense_scores(dense)
        for more in (scores, None if side is None else side.scores):
            told = told if more is None else told.join(more)
        found = tell_pies(is_pie, told, known=KNOWN_SCORE, seed=seed)
        section["difficulty"] = _difficulty(found)
        tables["difficulty"] = found.scores
    if side is not None and side.flags.shape[1]:
        tables["flags"] = flag_rates(is_pie, side.flags)
    if groups is not None:
        tables |= group_tables(dense, compressed, pies, groups, design=design, seed=seed)
    return Statistics(section, tables)


def overlap_tables(pies: Mapping[str, PieTable]) -> dict[str, pd.DataFrame]:
    """Compares the PIE sets of all conditions; nothing for a single one.

    Args:
        pies: per condition, all of the same images, whose dense margins are known.

    Returns:
        ``overlap`` and ``intersections``, whose column ``count`` has the numbers of images.
    """
    if len(pies) < 2:
        return {}
    sets = {name: table.samples["pie"].to_numpy(dtype=bool) for name, table in pies.items()}
    margin = next(iter(pies.values())).samples["margin_dense"].to_numpy(dtype=float, na_value=np.nan)
    return {
        "overlap": pairwise_overlap(sets, dense_margin=margin),
        "intersections": intersections(sets).rename(columns={IMAGES: "count"}),
    }


def statistics_document(statistics: Statistics) -> dict[str, Any]:
    """The section with those tables that are short enough to be in report.json."""
    section, tables = statistics.section, statistics.tables
    # An interval that nothing bounds is infinite, which JSON cannot say.
    rows = {
        name: records(table.replace([np.inf], np.nan))
        for name, table in tables.items()
        if name not in ("class_rates", *GROUP_TABLES)
    }
    difficulty = section["difficulty"]
    return {
        **section,
        "difficulty": None if difficulty is None else {**difficulty, "scores": rows["difficulty"]},
        **{name: rows.get(name) for name in ("rarefaction", "calibration", "flags")},
        "groups": groups_section(tables),
    }


def _difficulty(found: Difficulty) -> dict[str, Any]:
    return {
        "n": found.n, "pies": found.pies, "known_score": KNOWN_SCORE, "known": _plain(found.known),
        "joint": _plain(found.joint), "gain": _plain(found.gain),
    }  # fmt: skip


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return asdict(estimate)


def _plain(value: Any) -> dict[str, Any] | None:
    return None if value is None else asdict(value)

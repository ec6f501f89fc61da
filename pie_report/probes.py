"""Encoder or probe: the same compressed encoders under several classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from analysis.recall import population_accuracy
from pie.identify import PieTable, find_pies
from pie.overlap import pairwise_overlap
from pie_report.assemble import ConditionResult
from pie_report.knn_probe import TEMPERATURE, neighbours
from pie_report.members import Population
from pie_report.plain import records
from population.predictions import Predictions
from population.spec import CompressionSpec, ReportSpec

_PIES = ("count", "share", "expected_null", "expected_null_low", "expected_null_high", "forgotten")
_OVERLAP = ("common", "jaccard", "kappa", "expected")


@dataclass(frozen=True, eq=False)
class ProbeComparison:
    """PIEs of every condition under every probe.

    Attributes:
        table: one row per condition and probe: accuracy before and after with its interval, PIEs, seed
            noise, forgotten images, and what the PIEs have in common with those of the first probe
            (missing for that itself): number, Jaccard index, Cohen's kappa, number expected by chance.
        neighbours: how many vote in a probe ``knn`` (of the first network); None without one.
    """

    table: pd.DataFrame
    neighbours: int | None

    def section(self) -> dict[str, Any]:
        """Section ``probes`` of report.json."""
        return {
            "neighbours": self.neighbours,
            "temperature": None if self.neighbours is None else TEMPERATURE,
            "conditions": records(self.table),
        }


def further_conditions(population: Population, spec: ReportSpec) -> tuple[CompressionSpec, ...]:
    """What every member is asked besides the report's conditions, for the table of probes.

    Args:
        population: the members.
        spec: the probes and conditions.
    """
    dense = [condition for probe in spec.probe[1:] for condition in _dense_condition(probe)]
    asked = [replace(c, probe=p) for c in spec.conditions for p in _probes(population, c, spec)[1:]]
    return (*dense, *asked)


def _probes(population: Population, condition: CompressionSpec, spec: ReportSpec) -> tuple[str, ...]:
    """Under which probes a condition is asked; the first one is the report's.

    Networks that were trained on their own have the probe that they ended with, and no other. Encoders that
    train on after compression get a new one, so that there is no frozen one.
    """
    if condition.design == "independent":
        return (spec.probe[0],)
    if condition.schedule is not None and not population.trained.trains_head:
        return ("refit", *(probe for probe in spec.probe[1:] if probe == "knn"))
    return spec.probe


def _dense_condition(probe: str) -> tuple[CompressionSpec, ...]:
    """The dense encoder under a probe of its own; under the frozen one it is the network as trained."""
    return () if probe == "frozen" else (CompressionSpec("identity", 0.0, "none", probe),)


def compare_probes(
    population: Population, spec: ReportSpec, dense: Predictions, results: Sequence[ConditionResult]
) -> ProbeComparison | None:
    """Counts the PIEs of the same encoders under each probe, against the dense encoders under that probe.

    The first probe's rows are the report's conditions, whose reference is the dense networks as trained.

    Args:
        population: with the predictions of ``further_conditions``.
        spec: the probes and conditions.
        dense: predictions of the dense networks.
        results: of the conditions, in the order of the spec.

    Returns:
        None if there is one probe only, or no condition has several.
    """
    if all(len(_probes(population, condition, spec)) < 2 for condition in spec.conditions):
        return None
    seed = population.member.seed
    before = {spec.probe[0]: dense}
    for probe in spec.probe[1:]:
        alone = _dense_condition(probe)
        before[probe] = population.compressed_population(alone[0]) if alone else dense
    rows = []
    for condition, result in zip(spec.conditions, results, strict=True):
        own, *others = _probes(population, condition, spec)
        if not others:
            continue
        first = _row(result.condition, own, dense, result.predictions, result.pies, seed)
        rows.append({**first, **dict.fromkeys((*_OVERLAP, "without_features"))})
        for probe in others:
            asked = replace(condition, probe=probe)
            after = population.compressed_population(asked)
            pies = find_pies(before[probe], after, design=result.pies.design, seed=seed)
            rows.append(
                {
                    **_row(result.condition, probe, before[probe], after, pies, seed),
                    **_common(result.pies, pies),
                    "without_features": population.without_features(asked),
                }
            )
    count = neighbours(population.labelled_images(0)[1]) if "knn" in spec.probe else None
    return ProbeComparison(pd.DataFrame(rows), count)


def _row(
    title: str, probe: str, before: Predictions, after: Predictions, pies: PieTable, seed: int
) -> dict[str, Any]:
    accuracy = population_accuracy(after, seed=seed)
    found = {name: getattr(pies, name) for name in _PIES}
    return {
        "condition": title,
        "probe": probe,
        "accuracy_dense": population_accuracy(before, seed=seed).mean,
        "accuracy": accuracy.mean,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "pies": found.pop("count"),
        "pie_share": found.pop("share"),
        **found,
    }


def _common(first: PieTable, other: PieTable) -> dict[str, Any]:
    sets = {name: p.samples["pie"].to_numpy(dtype=bool) for name, p in (("first", first), ("other", other))}
    row = pairwise_overlap(sets).iloc[0]
    return {name: None if pd.isna(row[name]) else row[name] for name in _OVERLAP}

"""Results of the analyses make a Report: the document and the tables are two views of the same numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from platform import python_version
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.recall import Accuracy, ClassDeltas
from figures.gallery.exhibits import Exhibits
from pie.identify import PieTable
from pie_report.explained import EXPLANATION_TABLES, explanation_sections, explanation_tables
from pie_report.fair import Compressed, FairComparison, fair_comparison
from pie_report.group_statistics import listed_groups
from pie_report.plain import records
from pie_report.report import REESTIMATED, SCHEMA, Report
from pie_report.statistics import TABLES, Statistics, overlap_tables, statistics_document
from population.predictions import Predictions

if TYPE_CHECKING:  # comparing predictions needs no torch
    from pie_report.explanations import Explanation
    from pie_report.probes import ProbeComparison

_PIE_FIELDS = (
    "count", "share", "ties", "expected_null", "expected_null_low", "expected_null_high", "excess",
    "p_value", "p_floor", "rejected", "forgotten", "gained", "still_wrong", "accuracy_dense_on_pies",
    "accuracy_compressed_on_pies", "accuracy_dense_on_rest", "accuracy_compressed_on_rest",
)  # fmt: skip
_LIBRARIES = ("numpy", "scipy", "pandas", "scikit-learn")
_MODEL_LIBRARIES = ("torch", "torchvision", "lightly", "captum")


@dataclass(frozen=True, eq=False)
class DenseResult:
    """The dense population.

    Attributes:
        predictions: what the networks say.
        accuracy: None without labels.
        reestimated: what they say after the same BatchNorm re-estimation as the compressed models, or None.
        accuracy_reestimated: its accuracy.
        cost: params, macs, bytes; None if unknown.
    """

    predictions: Predictions
    reestimated: Predictions | None
    accuracy: Accuracy | None
    accuracy_reestimated: Accuracy | None
    cost: Mapping[str, int] | None


@dataclass(frozen=True, eq=False)
class ConditionResult:
    """One compressed population beside the dense one; None stands for what is not known.

    Attributes:
        condition: display name.
        method: how it was compressed.
        amount: fraction removed.
        repair: what was done after it.
        pruning: which weights are compared, and whether the classifier is pruned; None for other methods.
        schedule: when it was compressed, in steps; None: once, after training.
        k: number of models.
        calibration_images: training images that the repair looked at.
        cost: as in report.json.
        accuracy: None without labels.
        pies: identified exemplars and their tests.
        classes: None without labels.
        statistics: of the votes.
        predictions: what the networks say.
        explanation: layers and attribution maps before and after; None without the networks, and where
            they were not made from the dense ones.
        sparsity: columns step, sparsity and share (of the training); None where no weights went on the way.
    """

    condition: str
    method: str | None
    amount: float | None
    repair: str | None
    pruning: Mapping[str, str | bool] | None
    schedule: Mapping[str, Any] | None
    k: int
    calibration_images: int | None
    cost: Mapping[str, float] | None
    accuracy: Accuracy | None
    pies: PieTable
    classes: ClassDeltas | None
    statistics: Statistics
    predictions: Predictions
    explanation: "Explanation | None"
    sparsity: pd.DataFrame | None


def build_report(
    *,
    spec: Mapping[str, Any],
    data: Mapping[str, Any],
    baselines: Mapping[str, float | int] | None,
    dense: DenseResult,
    conditions: Sequence[ConditionResult],
    scores: pd.DataFrame | None,
    probes: "ProbeComparison | None",
    exhibits: Exhibits | None,
    with_models: bool,
    groups: pd.DataFrame | None = None,
    embeddings: pd.DataFrame | None = None,
) -> Report:
    """Puts all results together.

    Args:
        spec: section ``spec`` of report.json.
        data: section ``data``.
        baselines: section ``baselines``.
        dense: the dense population.
        conditions: compressed populations, in the order of the report.
        scores: what is known of the dense networks beside their predictions, as ``condition_statistics``
            takes it.
        probes: the same encoders under several probes.
        exhibits: images and maps for the gallery.
        with_models: whether models were run here, so that their libraries belong to the environment.
        groups: of the test images, its index the sample ids.
        embeddings: table ``embedding_map``.
    """
    fair = _fair(dense, conditions, seed=spec["seed"])
    overlap = overlap_tables({c.condition: c.pies for c in conditions})
    document = {
        "schema": SCHEMA,
        "spec": dict(spec),
        "environment": _environment(with_models),
        "data": dict(data),
        "baselines": None if baselines is None else dict(baselines),
        "dense": {
            "k": dense.predictions.k,
            "accuracy": _interval(dense.accuracy),
            "accuracy_reestimated": _interval(dense.accuracy_reestimated),
            "per_class": _dense_recalls(conditions[0].classes),
            "cost": None if dense.cost is None else dict(dense.cost),
        },
        "compressed": [_condition_document(c, seed=spec["seed"]) for c in conditions],
        "overlap": records(overlap["overlap"]) if overlap else None,
        "probes": None if probes is None else probes.section(),
        "fair": None if fair is None else fair.section(),
    }
    before = {"dense": dense.predictions, REESTIMATED: dense.reestimated}
    predictions = {name: p for name, p in before.items() if p is not None}
    predictions |= {c.condition: c.predictions for c in conditions}
    tables = {**_tables(dense, conditions), **overlap}
    if probes is not None:
        tables["probes"] = probes.table
    if scores is not None:
        tables["scores"] = scores.reset_index()
    if groups is not None:
        tables["groups"] = listed_groups(groups)
    if embeddings is not None:
        tables["embedding_map"] = embeddings
    if fair is not None:
        tables |= fair.tables
    return Report(document, tables, exhibits, predictions)


def _fair(dense: DenseResult, conditions: Sequence[ConditionResult], *, seed: int) -> FairComparison | None:
    points = [
        Compressed(c.method, c.amount, c.repair, c.cost["params_kept"], c.cost["macs_kept"], c.predictions)
        for c in conditions
        if c.pies.design == "paired"
        and c.schedule is None  # what trained on is on no curve of amounts
        and c.method is not None
        and c.amount is not None
        and c.repair is not None
        and c.cost is not None
    ]
    return fair_comparison(dense.predictions, dense.reestimated, points, seed=seed) if points else None


def _environment(with_models: bool) -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": python_version(), "pie-toolkit": version("pie-toolkit")}
    versions |= {name: version(name) for name in _LIBRARIES}
    return versions | {name: version(name) if with_models else None for name in _MODEL_LIBRARIES}


def _dense_recalls(classes: ClassDeltas | None) -> list[dict[str, Any]] | None:
    """Recalls before compression; they are the same beside every condition."""
    if classes is None:
        return None
    return records(classes.table[["name", "n", "recall_dense"]].rename(columns={"recall_dense": "recall"}))


def _interval(accuracy: Accuracy | None) -> dict[str, float | None] | None:
    if accuracy is None:
        return None
    return {"mean": accuracy.mean, "low": accuracy.low, "high": accuracy.high}


def _condition_document(result: ConditionResult, *, seed: int) -> dict[str, Any]:
    return {
        "condition": result.condition,
        "method": result.method,
        "amount": result.amount,
        "repair": result.repair,
        "pruning": None if result.pruning is None else dict(result.pruning),
        "schedule": None if result.schedule is None else dict(result.schedule),
        "design": result.pies.design,
        "k": result.k,
        "calibration_images": result.calibration_images,
        "cost": None if result.cost is None else dict(result.cost),
        "accuracy": _interval(result.accuracy),
        "pies": {name: getattr(result.pies, name) for name in _PIE_FIELDS},
        "classes": None if result.classes is None else records(result.classes.table),
        "statistics": statistics_document(result.statistics),
        **explanation_sections(result.explanation, seed=seed),
    }


def _tables(dense: DenseResult, conditions: Sequence[ConditionResult]) -> dict[str, pd.DataFrame]:
    tables = {
        "summary": pd.DataFrame([*_dense_rows(dense), *map(_summary_row, conditions)]),
        "pies": _stack({c.condition: c.pies.samples for c in conditions}),
    }
    parts = {c.condition: c.classes.table for c in conditions if c.classes is not None}
    if parts:
        tables["classes"] = _stack(parts)
    tables |= stacked_statistics({c.condition: c.statistics for c in conditions})
    curves = {c.condition: c.sparsity for c in conditions if c.sparsity is not None}
    if curves:
        tables["sparsity"] = _stack(curves)
    explained = {
        c.condition: explanation_tables(c.explanation) for c in conditions if c.explanation is not None
    }
    for name in EXPLANATION_TABLES if explained else ():
        tables[name] = _stack({title: found[name] for title, found in explained.items()})
    return tables


def stacked_statistics(conditions: Mapping[str, Statistics]) -> dict[str, pd.DataFrame]:
    """The tables of ``TABLES`` that any condition has, with a column ``condition``."""
    found = {name: {c: s.tables[name] for c, s in conditions.items() if name in s.tables} for name in TABLES}
    return {name: _stack(parts) for name, parts in found.items() if parts}


def _stack(parts: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    titled = [part.assign(condition=title) for title, part in parts.items()]
    table = pd.concat(titled, ignore_index=True)
    return table[["condition", *(name for name in table.columns if name != "condition")]]


def _dense_rows(dense: DenseResult) -> list[dict[str, Any]]:
    rows = [
        _row("dense", "dense", None, None, None, dense.predictions.k, dense.accuracy, _full_cost(dense.cost))
    ]
    if dense.accuracy_reestimated is not None:
        rows.append(
            _row(
                REESTIMATED, "identity", None, "bn", None, dense.predictions.k,
                dense.accuracy_reestimated, _full_cost(dense.cost),
            )
        )  # fmt: skip
    return rows


def _full_cost(cost: Mapping[str, int] | None) -> Mapping[str, float] | None:
    return None if cost is None else {**cost, **{f"{name}_kept": 1.0 for name in cost}}


def _summary_row(result: ConditionResult) -> dict[str, Any]:
    return _row(
        result.condition, result.method, result.amount, result.repair, result.pies.design, result.k,
        result.accuracy, result.cost, result.pies,
    )  # fmt: skip


def _row(
    condition: str,
    method: str | None,
    amount: float | None,
    repair: str | None,
    design: str | None,
    k: int,
    accuracy: Accuracy | None,
    cost: Mapping[str, float] | None,
    pies: PieTable | None = None,
) -> dict[str, Any]:
    interval, costs = _interval(accuracy) or {}, cost or {}
    names = ("params", "params_kept", "macs", "macs_kept", "bytes", "bytes_kept")
    pie_names = {"count": "pies", "share": "pie_share"}
    return {
        "condition": condition,
        "method": method,
        "amount": amount,
        "repair": repair,
        "design": design,
        "k": k,
        "accuracy": interval.get("mean"),
        "accuracy_low": interval.get("low"),
        "accuracy_high": interval.get("high"),
        **{name: costs.get(name) for name in names},
        **{pie_names.get(n, n): None if pies is None else getattr(pies, n) for n in _PIE_FIELDS[:13]},
    }

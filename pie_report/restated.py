"""``pie stats``: the statistics of a run folder again, from the predictions and scores in it."""

from dataclasses import replace

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from pie.identify import PieTable, find_pies
from pie.side_data import SideData
from pie_report.assemble import stacked_statistics
from pie_report.fair import Compressed, FairComparison, fair_comparison
from pie_report.group_statistics import (
    describe_groups,
    listed_groups,
    unlisted_groups,
    with_groups,
    without_groups,
)
from pie_report.plain import records
from pie_report.report import REESTIMATED, Report
from pie_report.statistics import (
    TABLES,
    Statistics,
    condition_statistics,
    overlap_tables,
    statistics_document,
    with_side_labels,
)
from population.errors import InputError


def restated(
    report: Report, *, side: SideData | None, side_labels: str | None, groups: pd.DataFrame | None = None
) -> Report:
    """Computes section ``statistics`` of every condition, ``overlap`` and ``fair`` again, with their tables.

    Args:
        report: of a run folder.
        side: what else is known of the samples.
        side_labels: digest of the file it is from.
        groups: of the samples, in place of those that the run has.

    Returns:
        The report with these parts replaced; all others are as they were.

    Raises:
        InputError: if the table of scores does not fit the predictions.
    """
    document, dense = report.document, report.predictions["dense"]
    spec = document["spec"]
    seed, described = spec["seed"], spec.get("groups")
    command_line = without_groups(with_side_labels(spec["command_line"], None), described)
    if groups is not None:
        described = describe_groups(groups, from_file=True)
    elif "groups" in report.tables:
        groups = unlisted_groups(report.tables["groups"])
    command_line = with_side_labels(with_groups(command_line, described), side_labels)
    scores = report.network_scores
    if scores is not None and not np.array_equal(scores.index, dense.sample_id):
        raise InputError("tables/scores.csv is of other images than the predictions")
    found: dict[str, Statistics] = {}
    pies: dict[str, PieTable] = {}
    with threadpool_limits(limits=spec["threads"]):  # sums depend on it in the last bit
        for condition in document["compressed"]:
            name, design = condition["condition"], condition["design"]
            after = report.predictions[name]
            pies[name] = find_pies(dense, after, design=design, seed=seed)
            found[name] = condition_statistics(
                dense, after, pies[name], design=design, scores=scores, side=side, seed=seed, groups=groups
            )
        fair = _fair(report) if document["fair"] is not None else None
    overlap = overlap_tables(pies)
    kept = {name: table for name, table in report.tables.items() if name not in TABLES}
    return replace(
        report,
        document={
            **document,
            "spec": {**spec, "command_line": command_line, "side_labels": side_labels, "groups": described},
            "compressed": [
                {**c, "statistics": statistics_document(found[c["condition"]])}
                for c in document["compressed"]
            ],
            "overlap": records(overlap["overlap"]) if overlap else None,
            "fair": None if fair is None else fair.section(),
        },
        tables={
            **kept,
            **stacked_statistics(found),
            **overlap,
            **({} if fair is None else fair.tables),
            **({} if groups is None else {"groups": listed_groups(groups)}),
        },
    )


def _fair(report: Report) -> FairComparison | None:
    every = report.document["compressed"]
    conditions = [c for c in every if c["design"] == "paired" and c["schedule"] is None]
    points = [
        Compressed(
            c["method"],
            c["amount"],
            c["repair"],
            c["cost"]["params_kept"],
            c["cost"]["macs_kept"],
            report.predictions[c["condition"]],
        )
        for c in conditions
    ]
    before = report.predictions["dense"], report.predictions.get(REESTIMATED)
    return fair_comparison(*before, points, seed=report.document["spec"]["seed"])

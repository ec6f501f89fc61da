"""Who pays, by group: the tables of one condition, and the groups themselves as a table of a run."""

import hashlib
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.fairness import bias_amplification, group_pies, group_rates
from analysis.fairness.grouping import groupings
from pie.identify import PieTable
from pie_report.plain import records
from population.pairing import Design
from population.predictions import Predictions

GROUP_TABLES = ("group_rates", "group_pies", "bias_amplification", "predicted_shares")
"""Tables by group with a row of its own for every condition."""

#: Most pairs of a class and a crossed group of which tpr, fpr and fnr are computed: of more, accuracy alone.
CELLS = 500

_FILE = " --groups FILE"


def group_tables(
    dense: Predictions,
    compressed: Predictions,
    pies: PieTable,
    groups: pd.DataFrame,
    *,
    design: Design,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Computes all tables by group that predictions allow.

    Args:
        dense: K networks before.
        compressed: after, with the samples in the same order.
        pies: of ``find_pies`` for these two.
        groups: one row per image, its index the sample ids.
        design: how the populations belong together.
        seed: of bootstraps and rearrangements.

    Returns:
        ``group_pies``; and with labels ``group_rates``, whose column ``positive`` names the class that tpr,
        fpr and fnr are of (of two classes the second; empty for the accuracy), ``bias_amplification`` and
        ``predicted_shares``.
    """
    margin = None if dense.margin is None else dense.margin.mean(axis=0)
    is_pie = pies.samples["pie"].to_numpy(dtype=bool)
    tables = {
        "group_pies": group_pies(
            is_pie, groups, dense.sample_id, label=dense.label, dense_margin=margin, seed=seed
        )
    }
    if dense.label is None:
        return tables
    accuracy = group_rates(dense, compressed, groups, positive=None, design=design, seed=seed).table
    parts = [accuracy.assign(positive="")]
    for name in _positive_classes(dense, groups):
        rates = group_rates(dense, compressed, groups, positive=name, design=design, seed=seed).table
        parts.append(rates[rates["rate"] != "accuracy"].assign(positive=name))
    table = pd.concat(parts, ignore_index=True)
    tables["group_rates"] = table[["positive", *(n for n in table.columns if n != "positive")]]
    amplified = bias_amplification(dense, compressed, groups, design=design, seed=seed)
    tables |= {"bias_amplification": amplified.scores, "predicted_shares": amplified.table}
    return tables


def _positive_classes(dense: Predictions, groups: pd.DataFrame) -> list[str]:
    named = dense.class_names
    names = [str(i) for i in range(dense.num_classes)] if named is None else named.tolist()
    crossed = len(groupings(groups, dense.sample_id)[-1].groups)
    if len(names) * crossed > CELLS:
        return []
    return names[1:] if len(names) == 2 else names


def groups_section(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any] | None:
    """Entry ``groups`` of the statistics of a condition; None without groups."""
    if "group_pies" not in tables:
        return None
    section: dict[str, Any] = {"pies": records(tables["group_pies"]), "accuracy": None, "amplification": None}
    if "group_rates" in tables:
        rates = tables["group_rates"]
        accuracy = rates[(rates["rate"] == "accuracy") & (rates["grouping"] != "all")]
        section["accuracy"] = records(accuracy.drop(columns=["positive", "rate"]))
        section["amplification"] = records(tables["bias_amplification"])
    return section


def listed_groups(groups: pd.DataFrame) -> pd.DataFrame:
    """The groups as a table of a run: one row per image and column, all of text whatever their names."""
    parts = [
        pd.DataFrame(
            {"sample_id": groups.index.to_numpy(), "grouping": str(name), "group": column.to_numpy()}
        )
        for name, column in groups.items()
    ]
    return pd.concat(parts, ignore_index=True)


def unlisted_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Undoes ``listed_groups``."""
    return pd.DataFrame(
        {
            str(name): pd.Series(rows["group"].to_numpy(), index=pd.Index(rows["sample_id"].to_numpy()))
            for name, rows in table.groupby("grouping", sort=False)
        },
        dtype=object,
    )


def describe_groups(groups: pd.DataFrame | None, *, from_file: bool) -> dict[str, Any] | None:
    """Entry ``groups`` of section ``spec``.

    Args:
        groups: one row per image, its index the sample ids; or None.
        from_file: whether ``--groups`` gave them, not the data set.
    """
    if groups is None:
        return None
    content = np.concatenate([groups.index.to_numpy(), *(column.to_numpy() for _, column in groups.items())])
    digest = hashlib.sha256("\0".join([*map(str, groups.columns), *map(str, content)]).encode())
    return {
        "columns": [str(name) for name in groups.columns],
        "from_file": from_file,
        "digest": digest.hexdigest()[:16],
    }


def with_groups(command_line: str, described: Mapping[str, Any] | None) -> str:
    """Adds the options that give these groups to a command.

    Args:
        command_line: a command without group columns; it may have ``--groups`` already, for its labels.
        described: entry ``groups`` of section ``spec``.
    """
    if described is None:
        return command_line
    file = _FILE if described["from_file"] and f"{_FILE} --label-column " not in command_line else ""
    return f"{command_line}{file}{_columns_option(described)}"


def without_groups(command_line: str, described: Mapping[str, Any] | None) -> str:
    """Undoes ``with_groups``."""
    if described is None:
        return command_line
    return command_line.removesuffix(_columns_option(described)).removesuffix(_FILE)


def _columns_option(described: Mapping[str, Any]) -> str:
    return " ".join([" --group-columns", *(shlex.quote(name) for name in described["columns"])])

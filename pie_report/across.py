"""``pie across``: reports on several populations of the same images, side by side. No torch here.

What one report cannot say: does a learning method forget more, or other images, than another one does?
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from pie.effects import layout_effects
from pie.overlap import pairwise_overlap
from pie_report.report import Report
from population.errors import InputError

_COLUMNS = (
    "condition", "method", "amount", "repair", "design", "k", "accuracy", "accuracy_low", "accuracy_high",
    "params_kept", "macs_kept", "pies", "pie_share", "expected_null", "expected_null_low",
    "expected_null_high", "excess", "p_value", "forgotten", "gained", "still_wrong",
)  # fmt: skip
_P_VALUES = {"p_value": "p_adjusted", "p_given_margin": "p_given_margin_adjusted"}


@dataclass(frozen=True, eq=False)
class Across:
    """Several runs beside each other.

    Attributes:
        runs: one row per run: run (its name), model, members, data, accuracy of the dense networks.
        populations: the rows of all summaries, with columns ``run`` and ``images`` (their number).
        overlap: for every condition that two runs share, their PIE sets as in ``pairwise_overlap``, with a
            column ``condition``; p-values are adjusted over all rows.
        effects: per outcome the rows of ``layout_effects``; none where runs or conditions are too few.
    """

    runs: pd.DataFrame
    populations: pd.DataFrame
    overlap: pd.DataFrame
    effects: pd.DataFrame

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Those tables that have rows, by the name of their file."""
        named = {name: getattr(self, name) for name in ("runs", "populations", "overlap", "effects")}
        return {name: table for name, table in named.items() if len(table)}


def load_runs(folders: Sequence[Path]) -> dict[str, Report]:
    """Reads the runs that are to be compared.

    Args:
        folders: of at least two reports on the same images.

    Returns:
        Reports by name: the model, with its first seed or else its folder where several have the same.

    Raises:
        InputError: if there are fewer than two, one is no run or of a single network, or they are not of the
            same images.
    """
    if len(folders) < 2:
        raise InputError(f"pie across needs at least 2 runs, not {len(folders)}")
    reports = [Report.load(folder) for folder in folders]
    for folder, report in zip(folders, reports, strict=True):
        if report.predictions["dense"].k == 1:
            raise InputError(f"{folder} is of a single network; pie across compares populations")
        _check_same_images(folders[0], reports[0], folder, report)
    return dict(zip(_names(folders, reports), reports, strict=True))


def _check_same_images(first: Path, one: Report, folder: Path, another: Report) -> None:
    reference, other = one.predictions["dense"], another.predictions["dense"]
    if set(reference.sample_id.tolist()) != set(other.sample_id.tolist()):
        raise InputError(f"{first} and {folder} are of different images")
    label = other.align(reference.sample_id).label
    if (None if label is None else label.tolist()) != (
        None if reference.label is None else reference.label.tolist()
    ):
        raise InputError(f"{first} and {folder} give the same images different true labels")
    prints = {report.document["data"]["fingerprint"] for report in (one, another)} - {None}
    if len(prints) > 1:
        raise InputError(f"{first} and {folder} are of different data, whose images have the same names")


def _names(folders: Sequence[Path], reports: Sequence[Report]) -> list[str]:
    """The shortest names that tell all runs apart."""
    specs = [report.document["spec"] for report in reports]
    models = [str(spec["model"] or folder.name) for spec, folder in zip(specs, folders, strict=True)]
    seeded = [f"{model}, seed {spec['seed']}" for model, spec in zip(models, specs, strict=True)]
    placed = [f"{model}, {folder.name}" for model, folder in zip(models, folders, strict=True)]
    for names in (models, seeded, placed):
        if len(set(names)) == len(names):
            return names
    twice = Counter(placed).most_common(1)[0][0]
    raise InputError(f"two runs are both called {twice!r}; give each folder a name of its own")


def compare_across(runs: Mapping[str, Report], *, seed: int) -> Across:
    """Puts populations side by side, and asks whether they forget the same images, and equally many.

    Overlap: PIEs of one condition in two runs, against chance, and against chance among images of the same
    dense margin, which is the mean over the runs. Two runs of one model with other seeds show what two
    populations of the same kind have in common.

    Effects: of the condition (method, amount and repair), of the run (say, its objective), and of each on the
    other, on two outcomes of every member: the share of images on which it differs from the dense network
    it was made from, and the change of its accuracy. Only paired conditions that all runs have count.

    Args:
        runs: from ``load_runs``.
        seed: of the rearrangements.
    """
    first = next(iter(runs.values())).predictions["dense"]
    names = _condition_names(runs)
    populations = [_population_rows(n, r, names[n]) for n, r in runs.items()]
    return Across(
        runs=pd.DataFrame([_run_row(name, report) for name, report in runs.items()]),
        populations=pd.concat(populations, ignore_index=True),
        overlap=_overlap(runs, names, first.sample_id),
        effects=_effects(runs, names, seed=seed),
    )


def _condition_names(runs: Mapping[str, Report]) -> dict[str, dict[str, str]]:
    """For each run the names of its conditions here, by those that it has for them.

    Two conditions have one name here if networks were compressed in the same way: with the same repair and,
    where they were pruned, with the same weights in the comparison.
    """
    ways = {name: {c["condition"]: _way(c) for c in r.document["compressed"]} for name, r in runs.items()}
    known = list(dict.fromkeys(way for found in ways.values() for way in found.values()))

    def called(way: tuple[str, ...]) -> str:
        alike = [other for other in known if other[0] == way[0]]
        telling = [part for part in range(1, len(way)) if len({other[part] for other in alike}) > 1]
        return " ".join([way[0], *(way[part] for part in telling)])

    return {name: {title: called(way) for title, way in found.items()} for name, found in ways.items()}


def _way(condition: Mapping[str, Any]) -> tuple[str, ...]:
    """What a condition did: method, amount and schedule; repair; what else was chosen."""
    repair, pruning = condition["repair"], condition["pruning"]
    title = str(condition["condition"]).removesuffix(f" {repair}")
    chosen = "" if pruning is None else f"({pruning['scope']}{', classifier' * pruning['classifier']})"
    return title, str(repair), chosen


def _run_row(name: str, report: Report) -> dict[str, Any]:
    spec, dense = report.document["spec"], report.document["dense"]
    accuracy = dense["accuracy"] or dict.fromkeys(("mean", "low", "high"))
    return {
        "run": name,
        "model": spec["model"],
        "data": spec["data"],
        "members": dense["k"],
        "accuracy": accuracy["mean"],
        "accuracy_low": accuracy["low"],
        "accuracy_high": accuracy["high"],
        "command_line": spec["command_line"],
    }


def _population_rows(name: str, report: Report, names: Mapping[str, str]) -> pd.DataFrame:
    summary = report.tables["summary"].reindex(columns=list(_COLUMNS))
    summary = summary.assign(condition=[names.get(title, title) for title in summary["condition"]])
    images = report.document["data"]["n_test"]
    return summary.assign(run=name, images=images)[["run", *_COLUMNS, "images"]]


def _paired(report: Report, names: Mapping[str, str]) -> dict[str, str]:
    """Titles of the paired conditions in the report, by their names here."""
    paired = [c["condition"] for c in report.document["compressed"] if c["design"] == "paired"]
    return {names[title]: title for title in paired}


def _pie_rows(
    report: Report, names: Mapping[str, str], sample_id: NDArray[np.str_]
) -> dict[str, pd.DataFrame]:
    """Rows of the table ``pies`` of every condition, in the order of the ids."""
    parts = report.tables["pies"].groupby("condition", sort=False)
    return {
        names[str(condition)]: rows.set_index("sample_id").loc[sample_id.tolist()]
        for condition, rows in parts
    }


def _overlap(
    runs: Mapping[str, Report], names: Mapping[str, Mapping[str, str]], sample_id: NDArray[np.str_]
) -> pd.DataFrame:
    rows = {name: _pie_rows(report, names[name], sample_id) for name, report in runs.items()}
    margins = [
        next(iter(parts.values()))["margin_dense"].to_numpy(dtype=float, na_value=np.nan)
        for parts in rows.values()
    ]
    margin = np.mean(margins, axis=0)
    tables = []
    for condition in dict.fromkeys(c for parts in rows.values() for c in parts):
        sets = {
            name: parts[condition]["pie"].to_numpy(dtype=bool)
            for name, parts in rows.items()
            if condition in parts
        }
        if len(sets) > 1:
            known = margin if np.isfinite(margin).all() else None
            tables.append(pairwise_overlap(sets, dense_margin=known).assign(condition=condition))
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    for p_value, adjusted in _P_VALUES.items():
        if p_value in table:
            table[adjusted] = false_discovery_control(table[p_value])
    return table[["condition", *(c for c in table.columns if c != "condition")]]


def _effects(
    runs: Mapping[str, Report], names: Mapping[str, Mapping[str, str]], *, seed: int
) -> pd.DataFrame:
    paired = {name: _paired(report, names[name]) for name, report in runs.items()}
    first, *others = paired.values()
    shared = [condition for condition in first if all(condition in other for other in others)]
    if len(shared) < 2:
        return pd.DataFrame()
    values = pd.concat(
        [_member_values(n, r, {c: paired[n][c] for c in shared}) for n, r in runs.items()],
        ignore_index=True,
    )
    outcomes = [name for name in ("flips", "accuracy_change") if values[name].notna().all()]
    tables = [
        layout_effects(values.rename(columns={outcome: "value"}), seed=seed).assign(outcome=outcome)
        for outcome in outcomes
    ]
    table = pd.concat(tables, ignore_index=True)
    return table[["outcome", *(c for c in table.columns if c != "outcome")]]


def _member_values(name: str, report: Report, titles: Mapping[str, str]) -> pd.DataFrame:
    """Outcomes of every member under every condition, whose titles in the report are given by name."""
    dense = report.predictions["dense"]
    tables = []
    for condition, title in titles.items():
        after = report.predictions[title].align(dense.sample_id)
        flips = (after.predicted != dense.predicted).mean(axis=1)
        change: NDArray[np.float64] | None = None
        if dense.label is not None:
            change = (after.predicted == dense.label).mean(axis=1) - (dense.predicted == dense.label).mean(
                axis=1
            )
        tables.append(
            pd.DataFrame(
                {
                    "objective": name, "member": np.arange(dense.k), "method": condition, "flips": flips,
                    "accuracy_change": change,
                }
            )
        )  # fmt: skip
    return pd.concat(tables, ignore_index=True)

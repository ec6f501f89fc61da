"""Every figure by name: the table it needs, what of it is plotted, and how it is laid out on the page."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import group_plots, plots
from figures.style import KIND_COLOURS, TEXT_WIDTH, plain, theme
from figures.upset import plot_upset

# Of the legend's font, across the text width; a colour sample with its gaps takes as much as eight.
_LETTERS_PER_LINE = 94
_LETTERS_PER_HANDLE = 8


@dataclass(frozen=True)
class ThesisFigure:
    """How a figure is made from a table.

    Attributes:
        plot: draws a prepared table.
        table: name of the table that it needs.
        columns: columns of that table that it reads.
        prepare: table to the rows and columns that are plotted; no rows where the table does not suit.
        height: prepared table to inches; the width is always that of the text.
        panels_per_row: prepared table to the number of panels beside each other, one panel per
            condition. None: one panel in all.
    """

    plot: Callable[[pd.DataFrame, Axes], Axes]
    table: str
    columns: tuple[str, ...]
    prepare: Callable[[pd.DataFrame], pd.DataFrame]
    height: Callable[[pd.DataFrame], float]
    panels_per_row: Callable[[pd.DataFrame], int] | None = None


def draw_figures(tables: Mapping[str, pd.DataFrame], out: Path) -> list[str]:
    """Draws every figure whose table is there and suits it.

    Args:
        tables: tables of a run by name (summary, classes, pies, cka, ...). Values that are not known are
            missing.
        out: folder for NAME.pdf, NAME.png and NAME.csv, which holds exactly the data plotted; made if
            absent. Equal tables give equal bytes.

    Returns:
        Names of the figures drawn, in the order of ``FIGURES``. A figure whose table is absent, lacks a
        column or has nothing to show (no costs or labels are known, say) is not among them.
    """
    drawn = []
    for name, spec in FIGURES.items():
        table = tables.get(spec.table)
        if table is None or not set(spec.columns) <= set(table.columns):
            continue
        prepared = spec.prepare(table)
        if len(prepared) == 0:
            continue
        out.mkdir(parents=True, exist_ok=True)
        with theme():
            figure = _compose(spec, prepared)
            # Dates and program versions would make the bytes of equal figures differ.
            with _replacing(out / f"{name}.pdf") as path:
                figure.savefig(path, format="pdf", metadata={"CreationDate": None})
            with _replacing(out / f"{name}.png") as path:
                figure.savefig(path, format="png", metadata={"Software": None})
        with _replacing(out / f"{name}.csv") as path:
            prepared.to_csv(path, index=False, lineterminator="\n")
        drawn.append(name)
    return drawn


def _compose(spec: ThesisFigure, prepared: pd.DataFrame) -> Figure:
    # A Figure of its own, not pyplot's: nothing global to open, to close or to leak.
    figure = Figure(figsize=(TEXT_WIDTH, spec.height(prepared)), layout="constrained")
    if spec.panels_per_row is None:
        panels = [spec.plot(prepared, figure.subplots())]
    else:
        conditions = {str(name): rows for name, rows in prepared.groupby("condition", sort=False)}
        panels = _panels(figure, spec.plot, conditions, spec.panels_per_row(prepared))
    labelled = {
        label: handle for ax in panels for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if labelled:
        figure.legend(
            labelled.values(), labelled.keys(), loc="outside upper center", ncols=_legend_columns([*labelled])
        )
    return figure


def _legend_columns(labels: Sequence[str]) -> int:
    """Returns the largest number of columns that the text width holds, filled as matplotlib does."""
    for columns in range(len(labels), 1, -1):
        widths = [
            _LETTERS_PER_HANDLE + max(len(str(label)) for label in column)
            for column in np.array_split(labels, columns)
        ]
        if sum(widths) <= _LETTERS_PER_LINE:
            return columns
    return 1


def _panels(
    figure: Figure,
    plot: Callable[[pd.DataFrame, Axes], Axes],
    tables: Mapping[str, pd.DataFrame],
    per_row: int,
) -> list[Axes]:
    rows = -(-len(tables) // per_row)
    grid = figure.subplots(rows, per_row, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.flat)
    for ax, (condition, table) in zip(panels, tables.items(), strict=False):
        plot(table, ax).set_title(plain(str(condition)))
    for ax in panels[len(tables) :]:
        ax.remove()
    drawn = panels[: len(tables)]
    figure.supxlabel(drawn[0].get_xlabel(), fontsize="medium")
    figure.supylabel(drawn[0].get_ylabel(), fontsize="medium")
    for index, ax in enumerate(drawn):
        ax.set(xlabel="", ylabel="")
        # The lowest panel of a column has the numbers, also above an empty place.
        ax.tick_params(axis="x", labelbottom=index + per_row >= len(drawn))
    return drawn


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside the target to write to, and moves it there when that went well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _numbers(table: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """Returns the table with these columns as floating-point numbers, missing ones as NaN."""
    return table.assign(**{column: pd.to_numeric(table[column]).astype(float) for column in columns})


_COST = ("params_kept", "accuracy", "accuracy_low", "accuracy_high")
_PIES = (
    "forgotten",
    "still_wrong",
    "gained",
    "pies",
    "pie_share",
    "expected_null",
    "expected_null_low",
    "expected_null_high",
)
_CHANGE = ("delta", "delta_low", "delta_high", "p_adjusted")
_LEVEL = 0.05
_GROUP_CHANGE = ("change", "change_low", "change_high", "p_max_t", "p_images_max_t")
_GROUP_PIES = ("n", "pies", "share", "share_low", "share_high", "p_max_t")
_CKA = ("value", "reference")
_CKA_MAP = ("layer_dense", "layer_compressed", "value")
_SPARSITY = ("share", "sparsity")
_PLACE = ("x", "y")
_PIXEL = ("sample_id", "row", "column")


def _accuracy_cost(summary: pd.DataFrame) -> pd.DataFrame:
    table = _numbers(_per_series(summary), _COST)[["condition", "method", *_COST]]
    is_dense = table["method"].isin(plots.DENSE_METHODS)
    table = table[table["accuracy"].notna() & (is_dense | table["params_kept"].notna())]
    compressed = ~table["method"].isin(plots.DENSE_METHODS)
    return table if compressed.any() else table.head(0)


def _per_series(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with a method of its own for each repair and schedule in the names."""
    named = [
        f"{method}{' '.join(['', *condition.split()[2:]])}" if condition.startswith(f"{method} ") else method
        for condition, method in zip(summary["condition"], summary["method"], strict=True)
    ]
    return summary.assign(method=named)


def _class_change(classes: pd.DataFrame) -> pd.DataFrame:
    table = _numbers(classes, _CHANGE)[["condition", "name", *_CHANGE]].dropna(subset="delta")
    order = pd.DataFrame(
        {
            "condition": pd.factorize(table["condition"])[0],
            "mean": table.groupby("name")["delta"].transform("mean").to_numpy(),
        }
    )
    # One order of classes for all panels, largest mean loss first.
    return table.iloc[np.lexsort((order["mean"], order["condition"]))]


def _group_change(rates: pd.DataFrame) -> pd.DataFrame:
    table = _numbers(rates[rates["rate"] == "accuracy"], _GROUP_CHANGE)
    whole = table[table["grouping"] == "all"].set_index("condition")["change"]
    table = table[table["grouping"] != "all"]
    # A test that was not made (for single networks, or for lack of a second group) finds nothing.
    beyond = table[["p_max_t", "p_images_max_t"]].max(axis=1, skipna=False) <= _LEVEL
    table = table.assign(whole=table["condition"].map(whole), beyond=beyond)
    return table[["condition", "grouping", "group", *_GROUP_CHANGE, "whole", "beyond"]]


def _group_pies(pies: pd.DataFrame) -> pd.DataFrame:
    table = _numbers(pies, _GROUP_PIES)
    first = table["grouping"] == table.groupby("condition")["grouping"].transform("first")
    sums = table[first].groupby("condition")[["pies", "n"]].sum()
    whole = table["condition"].map(sums["pies"] / sums["n"])
    table = table.assign(whole=whole, beyond=table["p_max_t"] <= _LEVEL)
    return table[["condition", "grouping", "group", *_GROUP_PIES, "whole", "beyond"]]


def _group_height(table: pd.DataFrame) -> float:
    rows = int(table.groupby("condition").size().max())
    return 0.5 + (0.5 + 0.15 * rows) * -(-table["condition"].nunique() // _pairs_per_row(table))


def _pies(summary: pd.DataFrame) -> pd.DataFrame:
    table = _numbers(summary, _PIES).dropna(subset="pies").rename(columns={"still_wrong": "still wrong"})
    kinds = ["forgotten", "still wrong", "gained"]
    table["label unknown"] = table["pies"] - table[kinds].fillna(0).sum(axis=1)
    table[kinds] = table[kinds].fillna(0)
    return table[["condition", *KIND_COLOURS, *_PIES[3:]]]


def _across(populations: pd.DataFrame) -> pd.DataFrame:
    counts = {
        "null_share": "expected_null",
        "null_low": "expected_null_low",
        "null_high": "expected_null_high",
    }
    table = _numbers(populations, ("pie_share", "images", *counts.values())).dropna(subset="pie_share")
    shares = {name: table[count] / table["images"] for name, count in counts.items()}
    return table.assign(**shares)[["run", "condition", "pie_share", *counts]]


def _across_height(table: pd.DataFrame) -> float:
    return 1.0 + table["condition"].nunique() * (0.14 + 0.09 * table["run"].nunique())


def _fair_curves(axis: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """What prepares the curves of methods against an axis, one panel per repair."""

    def prepare(curves: pd.DataFrame) -> pd.DataFrame:
        table = _numbers(curves, (axis, "flips", "flips_sd")).rename(columns={axis: "kept"})
        table["condition"] = "repair: " + table["repair"].astype(str)
        return table[["condition", "method", "amount", "kept", "flips", "flips_sd"]]

    return prepare


def _overlap(intersections: pd.DataFrame) -> pd.DataFrame:
    return intersections.rename(columns={"count": "images"}).astype({"images": int})


def _cka(cka: pd.DataFrame) -> pd.DataFrame:
    return _numbers(cka, _CKA)[["condition", "layer", *_CKA]].dropna(subset="value")


def _cka_map(cka_map: pd.DataFrame) -> pd.DataFrame:
    return _numbers(cka_map, ("value",))[["condition", *_CKA_MAP]]


def _embedding_map(places: pd.DataFrame) -> pd.DataFrame:
    return _numbers(places, _PLACE)[["condition", "sample_id", *_PLACE, "class", "kind"]]


def _map_pictures(pictures: pd.DataFrame) -> pd.DataFrame:
    return _numbers(pictures, tuple(plots.MAP_TILES))[["condition", *_PIXEL, *plots.MAP_TILES]]


def _pairs_per_row(table: pd.DataFrame) -> int:
    return min(2, table["condition"].nunique())


def _grid_height(table: pd.DataFrame, panel: float) -> float:
    return 0.4 + panel * -(-table["condition"].nunique() // 2)


def _class_panels_per_row(table: pd.DataFrame) -> int:
    return min(4 if _named(table) else 2, table["condition"].nunique())


def _class_height(table: pd.DataFrame) -> float:
    rows = -(-table["condition"].nunique() // _class_panels_per_row(table))
    panel = 0.5 + 0.15 * table["name"].nunique() if _named(table) else 1.75
    return 0.5 + rows * panel


def _named(table: pd.DataFrame) -> bool:
    return table.groupby("condition").size().max() <= plots.NAMED_CLASSES


FIGURES: Mapping[str, ThesisFigure] = MappingProxyType(
    {
        "accuracy-cost": ThesisFigure(
            plots.plot_accuracy_cost,
            "summary",
            ("condition", "method", *_COST),
            _accuracy_cost,
            lambda _: 3.4,
        ),
        "class-change": ThesisFigure(
            plots.plot_class_change,
            "classes",
            ("condition", "name", *_CHANGE),
            _class_change,
            _class_height,
            _class_panels_per_row,
        ),
        "pies": ThesisFigure(
            plots.plot_pies, "summary", ("condition", *_PIES), _pies, lambda table: 1.05 + 0.3 * len(table)
        ),
        "group-change": ThesisFigure(
            group_plots.plot_group_change,
            "group_rates",
            ("condition", "grouping", "group", "rate", *_GROUP_CHANGE),
            _group_change,
            _group_height,
            _pairs_per_row,
        ),
        "group-pies": ThesisFigure(
            group_plots.plot_group_pies,
            "group_pies",
            ("condition", "grouping", "group", *_GROUP_PIES),
            _group_pies,
            _group_height,
            _pairs_per_row,
        ),
        **{
            f"fair-{name}": ThesisFigure(
                partial(plots.plot_fair_curves, kept=words),
                "fair_curves",
                ("repair", "method", "amount", axis, "flips", "flips_sd"),
                _fair_curves(axis),
                lambda table: _grid_height(table, 2.5),
                _pairs_per_row,
            )
            for name, axis, words in (
                ("params", "params_kept", "parameters kept"),
                ("accuracy", "accuracy", "accuracy"),
            )
        },
        "sparsity": ThesisFigure(
            plots.plot_sparsity,
            "sparsity",
            ("condition", *_SPARSITY),
            lambda table: _numbers(table, _SPARSITY)[["condition", *_SPARSITY]],
            lambda _: 2.6,
        ),
        "overlap": ThesisFigure(plot_upset, "intersections", ("count",), _overlap, lambda _: 3.4),
        "across": ThesisFigure(
            plots.plot_across,
            "populations",
            ("run", "condition", "pie_share", "images", *_PIES[-3:]),
            _across,
            _across_height,
        ),
        "cka": ThesisFigure(plots.plot_cka, "cka", ("condition", "layer", *_CKA), _cka, lambda _: 3.8),
        "cka-map": ThesisFigure(
            plots.plot_cka_map,
            "cka_map",
            ("condition", *_CKA_MAP),
            _cka_map,
            lambda table: _grid_height(table, 3.0),
            _pairs_per_row,
        ),
        "embedding-map": ThesisFigure(
            plots.plot_embedding_map,
            "embedding_map",
            ("condition", "sample_id", *_PLACE, "class", "kind"),
            _embedding_map,
            lambda table: _grid_height(table, 2.9),
            _pairs_per_row,
        ),
        "attribution-maps": ThesisFigure(
            plots.plot_map_pictures,
            "map_pictures",
            ("condition", *_PIXEL, *plots.MAP_TILES),
            _map_pictures,
            lambda table: _grid_height(table, 3.1),
            _pairs_per_row,
        ),
    }
)
"""The figures of a run, and of several runs beside each other, by the name of their files."""

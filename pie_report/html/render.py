"""report.json and its tables -> the text of index.html. Nothing is computed here, only chosen and worded."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from figures.gallery import pie_entries
from pie_report.html.words import FILTERS

TEMPLATES = Path(__file__).parent / "templates"
STRIP_LENGTH = 12
CLASS_ROWS = 30


@dataclass(frozen=True)
class Picture:
    """One image of a strip.

    Attributes:
        source: path of the picture, relative to the page.
        link: its place in the gallery, relative to the page.
        before: modal label of the dense population.
        after: modal label of the compressed population.
    """

    source: str
    link: str
    before: str
    after: str


@dataclass(frozen=True)
class ConditionView:
    """One compressed condition as the page shows it.

    Attributes:
        report: the condition's entry of the document.
        anchor: id of its section.
        classes: the class rows that are shown, those that lose most first.
        classes_left_out: number of class rows that only the CSV has.
        worst: the class row with the largest loss of recall; None where no class loses any.
        lowest_cka: the layer that changed most; None without CKA.
        strip_kind: what the strip shows: forgotten images, or all PIEs where there are no labels.
        strip: its pictures, largest change in votes first; empty without a gallery.
    """

    report: Mapping[str, Any]
    anchor: str
    classes: list[Mapping[str, Any]]
    classes_left_out: int
    worst: Mapping[str, Any] | None
    lowest_cka: Mapping[str, Any] | None
    strip_kind: str
    strip: list[Picture]


def render_page(
    document: dict[str, Any],
    tables: Mapping[str, pd.DataFrame],
    *,
    figures: Collection[str],
    has_gallery: bool,
) -> str:
    """Writes the report as one page that needs no script and no network.

    Args:
        document: the content of report.json; values that are not known are None.
        tables: the tables behind it by name; at least ``summary`` and ``pies``. Each is linked as
            ``tables/NAME.csv``.
        figures: names of the figures that exist as ``figures/NAME.png``, ``.pdf`` and ``.csv``.
        has_gallery: whether ``gallery/index.html`` was built from the table ``pies``.

    Returns:
        The text of index.html. Its links are relative to the run folder.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    entries = pie_entries(tables["pies"])
    views = [
        _view(report, number, entries, has_gallery)
        for number, report in enumerate(document["compressed"], start=1)
    ]
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        style=Markup(style),  # noqa: S704 - our own file
        document=document,
        spec=document["spec"],
        data=document["data"],
        dense=document["dense"],
        views=views,
        tables=list(tables),
        figures=list(figures),
        has_gallery=has_gallery,
    )


def _view(report: Mapping[str, Any], number: int, entries: pd.DataFrame, has_gallery: bool) -> ConditionView:
    # Classes without samples have no change; they come last.
    classes = sorted(report["classes"] or [], key=lambda row: (row["delta"] is None, row["delta"] or 0.0))
    losers = [row for row in classes if row["delta"] is not None and row["delta"] < 0]
    kind = "all" if report["pies"]["forgotten"] is None else "forgotten"
    return ConditionView(
        report=report,
        anchor=f"condition-{number}",
        classes=classes[:CLASS_ROWS],
        classes_left_out=len(classes[CLASS_ROWS:]),
        worst=losers[0] if losers else None,
        lowest_cka=min(report["cka"], key=lambda row: row["value"]) if report["cka"] else None,
        strip_kind=kind,
        strip=_strip(entries, report["condition"], kind) if has_gallery else [],
    )


def _strip(entries: pd.DataFrame, condition: str, kind: str) -> list[Picture]:
    here = entries[entries["condition"] == condition]
    if kind == "forgotten":
        here = here[here["kind"] == kind]
    chosen = here.sort_values("distance", ascending=False, kind="stable").head(STRIP_LENGTH)
    view = {"condition": condition} | ({"kind": kind} if kind == "forgotten" else {})
    return [
        Picture(
            source=f"gallery/{row['image']}",
            link=f"gallery/index.html#{urlencode(view | {'open': row['number']})}",
            before=row["modal_dense"],
            after=row["modal_compressed"],
        )
        for row in chosen.to_dict("records")
    ]

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
SHOWN_SIZES = 5


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
        rarefaction: the rows of some numbers of networks, fewest first.
        lowest_cka: the layer that changed most; None without CKA.
        layers: per layer its name, and its rows of the similarity by measure and set of images.
        maps: per method and measure of maps its means by group of images, and its test or None.
        moved: of occlusion and rank correlation the means of PIEs and matched images, the test, and whether
            the maps of matched images lie below their ceiling; None without a test.
        strip_kind: what the strip shows: forgotten images, or all PIEs where there are no labels.
        strip: its pictures, largest change in votes first; empty without a gallery.
    """

    report: Mapping[str, Any]
    anchor: str
    classes: list[Mapping[str, Any]]
    classes_left_out: int
    worst: Mapping[str, Any] | None
    rarefaction: list[Mapping[str, Any]]
    lowest_cka: Mapping[str, Any] | None
    layers: list[Mapping[str, Any]]
    maps: list[Mapping[str, Any]]
    moved: Mapping[str, Any] | None
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
    entries = pie_entries(tables["pies"])
    views = [
        _view(report, number, entries, has_gallery)
        for number, report in enumerate(document["compressed"], start=1)
    ]
    return _fill(
        "page.html.j2",
        document=document,
        spec=document["spec"],
        data=document["data"],
        dense=document["dense"],
        views=views,
        tables=list(tables),
        figures=list(figures),
        has_gallery=has_gallery,
        pitfall=_pitfall(document),
    )


def render_across(tables: Mapping[str, list[dict[str, Any]]], *, figures: Collection[str], seed: int) -> str:
    """Writes the page of several runs beside each other.

    Args:
        tables: rows of the tables of ``pie_report.across.Across`` by name; values that are not known are
            None.
        figures: names of the figures that exist.
        seed: of the rearrangements.

    Returns:
        The text of index.html.
    """
    return _fill("across.html.j2", tables=tables, figures=list(figures), seed=seed)


def _fill(template: str, **values: object) -> str:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704 - our own file
        **values,
    )


def _pitfall(document: Mapping[str, Any]) -> str | None:
    if all(report["similarity"] is None for report in document["compressed"]):
        return None  # comparing predictions needs no torch, which the module below loads
    from analysis.similarity.cka import KNOWN_PITFALL

    return KNOWN_PITFALL


def _view(report: Mapping[str, Any], number: int, entries: pd.DataFrame, has_gallery: bool) -> ConditionView:
    # Classes without samples have no change; they come last.
    classes = sorted(report["classes"] or [], key=lambda row: (row["delta"] is None, row["delta"] or 0.0))
    losers = [row for row in classes if row["delta"] is not None and row["delta"] < 0]
    maps = _maps(report["maps"])
    kind = "all" if report["pies"]["forgotten"] is None else "forgotten"
    return ConditionView(
        report=report,
        anchor=f"condition-{number}",
        classes=classes[:CLASS_ROWS],
        classes_left_out=len(classes[CLASS_ROWS:]),
        worst=losers[0] if losers else None,
        rarefaction=_some(report["statistics"]["rarefaction"] or []),
        lowest_cka=min(report["cka"], key=lambda row: row["value"]) if report["cka"] else None,
        layers=_layers(report["similarity"]),
        maps=maps,
        moved=_moved(maps),
        strip_kind=kind,
        strip=_strip(entries, report["condition"], kind) if has_gallery else [],
    )


def _some(rows: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Up to ``SHOWN_SIZES`` rows, evenly spread, the first and the last among them."""
    last = len(rows) - 1
    places = {round(i * last / (SHOWN_SIZES - 1)) for i in range(SHOWN_SIZES)} if rows else set()
    return [rows[i] for i in sorted(places)]


def _layers(similarity: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    layers: dict[str, dict[str, Any]] = {}
    for row in similarity["layers"] if similarity else ():
        measures = layers.setdefault(row["layer"], {"layer": row["layer"]})
        measures.setdefault(row["measure"], {})[row["images"]] = row
    return list(layers.values())


def _maps(maps: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if maps is None:
        return []
    tests = {(test["method"], test["measure"]): test for test in maps["tests"]}
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in maps["means"]:
        kind = (row["method"], row["measure"])
        labels = {"method": kind[0], "measure": kind[1], "groups": {}, "test": tests.get(kind)}
        found.setdefault(kind, labels)["groups"][row["group"]] = row
    return list(found.values())


def _moved(maps: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    for row in maps:
        if (row["method"], row["measure"]) == ("occlusion", "spearman") and row["test"] is not None:
            matched = row["groups"]["matched"]
            known = matched["compressed"] is not None and matched["ceiling"] is not None
            below = known and matched["compressed"] < matched["ceiling"]
            return {**row["groups"], "test": row["test"], "stayed_below_ceiling": below}
    return None


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

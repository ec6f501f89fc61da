"""A run folder: the folder that a report ends in."""

from pathlib import Path
from typing import Any

from figures.gallery.build import build_gallery
from figures.gallery.exhibits import Exhibits
from figures.thesis import FIGURES, draw_figures
from pie_report.html.render import render_page
from pie_report.output import check_folder, replace_parts
from pie_report.report import Report, load_document
from population.errors import InputError

#: The report first: a folder that has it is known as a run, should the rest be cut off.
_OWN_NAMES = ("report.json", "tables", "predictions", "exhibits.npz", "figures", "gallery", "index.html")
#: Fields of ``spec`` that only the work settles.
_SETTLED_LATER = ("seeds", "excluded_seeds")


def check_output(out: Path) -> None:
    """Raises InputError unless a report may be written here: a new, an empty or a run's folder."""
    check_folder(out, load_own=load_document, what="a report")


def check_same_spec(out: Path, document: dict[str, Any], *, force: bool) -> None:
    """Raises InputError if another spec's report is here and ``force`` is not given.

    Args:
        out: an absent, empty or run folder.
        document: at least the sections ``spec`` and ``data`` of the report to come.
        force: replace it all the same.
    """
    if force or not (out / "report.json").exists():
        return
    before = load_document(out)
    if _asked(before) != _asked(document):
        command = before.get("spec", {}).get("command_line", "another command")
        raise InputError(
            f"{out} holds the report of {command!r}; choose another --out, or --force to replace it"
        )


def _asked(document: dict[str, Any]) -> list[Any]:
    spec = {name: value for name, value in document["spec"].items() if name not in _SETTLED_LATER}
    return [spec, document["data"]]


def write_run(report: Report, out: Path) -> Path:
    """Writes and renders a report, then puts it in place of the one that was there.

    A failure or an interruption leaves the folder as it was. What killed processes left in it is removed.

    Args:
        report: what was found.
        out: the run folder; files in it that are not a report's stay.

    Returns:
        The path of index.html.

    Raises:
        InputError: if the disk of the folder is full.
    """

    def make(folder: Path) -> None:
        report.save(folder)
        render_run(folder)

    replace_parts(out, _OWN_NAMES, make)
    return out / "index.html"


def render_run(folder: Path) -> None:
    """Draws figures, gallery and page from the data in a run folder."""
    report = Report.load(folder)
    figures = _draw_figures(report, folder)
    if report.exhibits is not None:
        _build_gallery(report, report.exhibits, folder)
    page = render_page(
        dict(report.document), report.tables, figures=figures, has_gallery=report.exhibits is not None
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


def render_figures(folder: Path) -> list[str]:
    """Draws the figures of a run folder again from its tables.

    Returns:
        Names of the figures.

    Raises:
        InputError: if the folder holds no report.
    """
    return _draw_figures(Report.load(folder), folder)


def _draw_figures(report: Report, folder: Path) -> list[str]:
    drawn = draw_figures(report.tables, folder / "figures")
    for name in set(FIGURES) - set(drawn):  # of an earlier report
        for path in (folder / "figures").glob(f"{name}.*"):
            path.unlink()
    return drawn


def render_gallery(folder: Path) -> Path:
    """Builds the gallery of a run folder again from its tables and exhibits.

    Returns:
        The path of the gallery's page.

    Raises:
        InputError: if the folder holds no report, or one without images.
    """
    report = Report.load(folder)
    if report.exhibits is None:
        raise InputError(f"{folder} has no images to show (predictions alone were compared)")
    return _build_gallery(report, report.exhibits, folder)


def _build_gallery(report: Report, exhibits: Exhibits, folder: Path) -> Path:
    spec = report.document["spec"]
    title = f"Forgotten images: {spec['model']} on {spec['data']}"
    return build_gallery(report.tables["pies"], exhibits, folder / "gallery", title=title)

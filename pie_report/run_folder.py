"""The folder that a report ends in: checked before the work, replaced whole after it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from figures.gallery.build import build_gallery
from figures.gallery.exhibits import Exhibits
from figures.thesis import FIGURES, draw_figures
from pie_report.html.render import render_page
from pie_report.report import Report, load_document
from population.errors import InputError, disk_is_full
from population.signals import stops_held

#: The report first: a folder that has it is known as a run, should the rest be cut off.
_OWN_NAMES = ("report.json", "tables", "predictions", "exhibits.npz", "figures", "gallery", "index.html")
#: Begins the name of the folder in which a run is made; one that is left was cut off.
_WORKSHOP = ".pie-"
#: One process at a time writes a run. Named like a workshop, as it is also left by what was killed.
_LOCK = f"{_WORKSHOP}lock"
#: Fields of ``spec`` that only the work settles.
_SETTLED_LATER = ("seeds", "excluded_seeds")


def check_output(out: Path) -> None:
    """Raises InputError unless a report may be written here: a new, an empty or a run's folder."""
    try:
        existing = next(p for p in (out, *out.absolute().parents) if p.exists() or p.is_symlink())
        if not existing.is_dir():
            raise InputError(f"cannot write {out}: {existing} is not a folder")
        with tempfile.TemporaryDirectory(dir=existing, prefix=_WORKSHOP):
            pass
        holds_files = out.exists() and any(not p.name.startswith(_WORKSHOP) for p in out.iterdir())
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    if holds_files:
        try:
            load_document(out)
        except InputError as error:
            raise InputError(
                f"{out} holds other files than a report; choose a new or an empty --out"
            ) from error


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
    with _held(out):
        for left in out.glob(f"{_WORKSHOP}*/"):
            shutil.rmtree(left, ignore_errors=True)  # another process may be just removing it
        # Inside the folder, which may be the only one on its disk, or the only one that may be written.
        with tempfile.TemporaryDirectory(dir=out, prefix=_WORKSHOP) as workshop:
            fresh = Path(workshop) / "new"
            report.save(fresh)
            render_run(fresh)
            with stops_held():
                for name in _OWN_NAMES:
                    _replace(fresh / name, out / name, Path(workshop) / f"old-{name}")
    return out / "index.html"


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """The folder, for this process alone; it is removed again if it was made here and nothing came of it."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / _LOCK):
            try:
                yield
            finally:
                (out / _LOCK).unlink()
    except BaseException as error:
        with suppress(OSError):  # another process may be at work in it
            for folder in made:
                folder.rmdir()
        if disk_is_full(error):
            raise InputError(f"cannot write {out}: its disk is full; make room and run again") from error
        raise


def _replace(fresh: Path, place: Path, old: Path) -> None:
    if fresh.is_file():
        fresh.replace(place)
        return
    if place.exists():
        place.rename(old)
    if fresh.exists():
        fresh.rename(place)


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

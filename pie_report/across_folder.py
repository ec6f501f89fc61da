"""The folder that ``pie across`` ends in."""

import json
from pathlib import Path

from figures.thesis import draw_figures
from pie_report.across import Across
from pie_report.html.render import render_across
from pie_report.output import check_folder, replace_parts
from pie_report.plain import records
from population.errors import InputError

_SCHEMA = 1
#: The document first: a folder that has it is known as this kind, should the rest be cut off.
_DOCUMENT = "across.json"
_OWN_NAMES = (_DOCUMENT, "tables", "figures", "index.html")


def check_across_output(out: Path) -> None:
    """Raises InputError unless the comparison may be written here."""
    check_folder(out, load_own=_check_own, what="a comparison of runs")


def _check_own(folder: Path) -> None:
    path = folder / _DOCUMENT
    try:
        schema = json.loads(path.read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is absent or damaged") from error
    if schema != _SCHEMA:
        raise InputError(f"{path} is not of schema {_SCHEMA}")


def write_across(found: Across, out: Path, *, seed: int) -> Path:
    """Writes across.json, tables, figures and the page, in place of those that were there.

    Args:
        found: what was compared.
        out: the folder.
        seed: of its rearrangements.

    Returns:
        The path of index.html.

    Raises:
        InputError: if the disk of the folder is full.
    """

    def make(folder: Path) -> None:
        (folder / "tables").mkdir()
        for name, table in found.tables.items():
            table.to_csv(folder / "tables" / f"{name}.csv", index=False, lineterminator="\n")
        rows = {name: records(table) for name, table in found.tables.items()}
        document = {"schema": _SCHEMA, "seed": seed, **rows}
        text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
        (folder / _DOCUMENT).write_text(text + "\n", encoding="utf-8")
        figures = draw_figures(found.tables, folder / "figures")
        page = render_across(rows, figures=figures, seed=seed)
        (folder / "index.html").write_text(page, encoding="utf-8")

    replace_parts(out, _OWN_NAMES, make)
    return out / "index.html"

"""A report as data: the document report.json, its tables, and what the gallery shows."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from figures.gallery.exhibits import Exhibits
from population.errors import InputError
from population.predictions import Predictions

SCHEMA = 2
REESTIMATED = "dense, re-estimated"
"""Name of the dense networks after repair ``bn`` alone, among predictions and in tables."""
_TEXT_COLUMNS = frozenset(
    {
        "axis", "class", "comparison", "condition", "design", "first", "flag", "group", "grouping", "images",
        "kind", "label", "layer", "layer_compressed", "layer_dense", "maps", "measure", "method",
        "modal_compressed", "modal_dense", "name", "outcome", "pair", "positive", "probe", "rate", "repair",
        "sample_id", "score", "scored_on", "second", "target", "votes_compressed", "votes_dense",
    }
)  # fmt: skip
_WHOLE = re.compile(r"(-?\d+)?")


@dataclass(frozen=True, eq=False)
class Report:
    """What a run found, before it is drawn.

    Attributes:
        document: content of report.json.
        tables: tables by name.
        exhibits: images and maps for the gallery, or None where there are no images.
        predictions: what the networks say: ``dense``, ``REESTIMATED`` if it is a repair, and every condition
            by its name.
    """

    document: Mapping[str, Any]
    tables: Mapping[str, pd.DataFrame]
    exhibits: Exhibits | None
    predictions: Mapping[str, Predictions]

    @property
    def network_scores(self) -> pd.DataFrame | None:
        """Table ``scores`` with ``sample_id`` as its index; None where there is none.

        Raises:
            InputError: if it has no such column.
        """
        table = self.tables.get("scores")
        if table is None:
            return None
        if "sample_id" not in table:
            raise InputError("tables/scores.csv lacks the column sample_id")
        return table.set_index("sample_id")

    def save(self, folder: Path) -> None:
        """Writes report.json, tables/NAME.csv, predictions/*.npz and exhibits.npz into a folder."""
        tables = folder / "tables"
        tables.mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            table.to_csv(tables / f"{name}.csv", index=False, lineterminator="\n")
        files = _prediction_files(folder, self.document)
        (folder / "predictions").mkdir(exist_ok=True)
        for name, predictions in self.predictions.items():
            predictions.save(files[name])
        if self.exhibits is not None:
            self.exhibits.save(folder / "exhibits.npz")
        text = json.dumps(self.document, indent=1, allow_nan=False, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            InputError: if the folder holds no report or a damaged one.
        """
        document = load_document(folder)
        names = sorted((folder / "tables").glob("*.csv"))
        try:
            tables = {path.stem: _read_table(path) for path in names}
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"a table in {folder / 'tables'} is damaged ({error})") from error
        missing = {"summary", "pies"} - tables.keys()
        if missing:
            raise InputError(f"{folder} lacks tables/{min(missing)}.csv")
        exhibits = folder / "exhibits.npz"
        predictions = {n: Predictions.load(p) for n, p in _prediction_files(folder, document).items()}
        return cls(document, tables, Exhibits.load(exhibits) if exhibits.exists() else None, predictions)


def _prediction_files(folder: Path, document: Mapping[str, Any]) -> dict[str, Path]:
    """Path of every population's predictions; conditions are numbered, as their names may hold anything."""
    names = [c["condition"] for c in document["compressed"]]
    numbered = {name: f"condition-{i}" for i, name in enumerate(names, start=1)}
    has_reestimated = document["dense"].get("accuracy_reestimated") is not None
    dense = {"dense": "dense"} | ({REESTIMATED: "dense-reestimated"} if has_reestimated else {})
    return {n: folder / "predictions" / f"{f}.npz" for n, f in (dense | numbered).items()}


def load_document(folder: Path) -> dict[str, Any]:
    """Reads report.json of a run folder.

    Raises:
        InputError: if the folder is no run, or its report is damaged or of another schema.
    """
    path = folder / "report.json"
    if not path.is_file():
        raise InputError(f"{folder} is not a run: it has no report.json")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error})") from error
    sections = {"schema", "spec", "data", "dense", "compressed"}
    if not isinstance(document, dict) or not sections <= document.keys() or document["schema"] != SCHEMA:
        raise InputError(f"{path} is not a report of schema {SCHEMA}")
    return document


def _read_table(path: Path) -> pd.DataFrame:
    """Reads a table with names as text, whatever they are (a class may be called NA or 0)."""
    raw = pd.read_csv(path, dtype=str, keep_default_na=False, lineterminator="\n")
    return pd.DataFrame({str(name): _typed(raw[name]) for name in raw.columns})


def _typed(column: "pd.Series[str]") -> "pd.Series[Any]":
    if column.name in _TEXT_COLUMNS:
        return column
    if set(column) <= {"True", "False"}:
        return column == "True"
    # Whole numbers stay whole, so that a table that is saved again has the same bytes.
    if all(map(_WHOLE.fullmatch, column)):
        return column.map(lambda cell: int(cell) if cell else None).astype("Int64")
    return column.map(lambda cell: float(cell) if cell else None).astype("Float64")

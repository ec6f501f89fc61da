"""What else is known of samples, from a user's file: human votes, label errors, scores made elsewhere."""

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from population.csv_columns import read_csv_columns
from population.errors import InputError

Floats = NDArray[np.float64]
_Column = NDArray[Any]

_KEY = "sample_id"
_WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
_MISSING = frozenset({"", "na", "nan"})


@dataclass(frozen=True, eq=False)
class SideData:
    """What a file knows of N samples; missing for those that it does not name.

    Attributes:
        scores: a Float64 column per score, one row per sample of the data, whose index is ``sample_id``.
        flags: a boolean column per flag, with the same rows.
        known: samples of the data that the file names.
        unknown: samples that the file names and the data do not have; they are left out.
    """

    scores: pd.DataFrame
    flags: pd.DataFrame
    known: int
    unknown: int


def read_side_data(path: Path, sample_id: NDArray[np.str_]) -> SideData:
    """Reads what a user knows of samples; nothing in the file is executed or unpickled.

    Ids are those of reports and predictions: ``test/00012`` is the 13th image of CIFAR-10's test batch,
    ``digits/0012`` one of scikit-learn's digits, ``cats/tom.png`` one of an image folder. This file has a
    score and a flag::

        sample_id,human_entropy,label_error
        test/00000,0.0974,no
        test/00001,,no
        test/00002,0.6931,yes

    A column with no other values than 0, 1, true, false, yes and no is a flag; any other one has numbers and
    is a score. A cell that is empty, ``NA`` or ``nan`` is missing. Words may be in capitals.

    Args:
        path: a CSV in UTF-8 with a header, or an npz with an array of shape (M,) for each column, of text (as
            in a CSV), numbers or booleans.
        sample_id: of the data, in the wanted order, shape (N,).

    Raises:
        InputError: if the file cannot be read, its ids are absent, repeated or all unknown, or a column has
            no name of its own, no value, text, or an infinite number.
    """
    if not path.is_file():
        raise InputError(f"no such file of side data: {path}")
    match path.suffix.lower():
        case ".csv":
            columns = {**read_csv_columns(path)}
        case ".npz":
            columns = _read_npz(path)
        case _:
            raise InputError(f"{path} must be a .csv or .npz file")
    given = _take_ids(columns, path)
    known = int(given.isin(sample_id).sum())
    if known == 0:
        raise InputError(
            f"no {_KEY} of {path} is in the data; ids look like {str(sample_id[0])!r},"
            f" the file's like {given[0]!r}"
        )
    scores: dict[str, Floats] = {}
    flags: dict[str, Floats] = {}
    for name, column in columns.items():
        values = _numbers(column, f"{path}: column {name!r}")
        (flags if _only_0_and_1(values) else scores)[name] = values
    wanted = pd.Index(sample_id, name=_KEY)
    return SideData(
        scores=pd.DataFrame(scores, index=given, dtype="Float64").reindex(wanted),
        flags=pd.DataFrame(flags, index=given, dtype="Float64").reindex(wanted).astype("boolean"),
        known=known,
        unknown=len(given) - known,
    )


def _read_npz(path: Path) -> dict[str, _Column]:
    try:
        # numpy leaves a file open that it opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable npz of plain arrays ({error})") from error
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise InputError(f"{path}: all arrays must have one shape (M,), not {', '.join(map(str, shapes))}")
    return arrays


def _take_ids(columns: dict[str, _Column], path: Path) -> "pd.Index[Any]":
    """Takes the ids out of the columns."""
    if _KEY not in columns or len(columns) == 1:
        names = ", ".join(columns) or "none"
        raise InputError(f"{path} must have a column {_KEY} and at least one other; its columns are {names}")
    ids = columns.pop(_KEY)
    if ids.dtype.kind != "U" or len(ids) == 0:
        raise InputError(f"{path}: {_KEY} must be text, one id per row, not {len(ids)} of type {ids.dtype}")
    index = pd.Index(ids)
    if not index.is_unique:
        raise InputError(f"{path} has the {_KEY} {index[index.duplicated()][0]!r} more than once")
    return index


def _numbers(column: _Column, where: str) -> Floats:
    """Numbers of a column, NaN where it has no value."""
    if column.dtype.kind == "U":
        values = _parse(column.tolist(), where)
    elif column.dtype.kind in "biuf":
        values = column.astype(np.float64)
    else:
        raise InputError(f"{where} must be of numbers or booleans, not of type {column.dtype}")
    if np.isnan(values).all():
        raise InputError(f"{where} has no value")
    if np.isinf(values).any():
        raise InputError(f"{where} has infinite numbers")
    return values


def _parse(cells: Sequence[str], where: str) -> Floats:
    values, has_words = np.full(len(cells), np.nan), False
    for index, cell in enumerate(cells):
        text = cell.strip().lower()
        if text in _WORDS:
            values[index], has_words = _WORDS[text], True
        elif text not in _MISSING:
            try:
                values[index] = float(text)
            except ValueError as error:
                raise InputError(
                    f"{where} has the text {cell!r}; a column has numbers, or only true/false, yes/no, 0/1"
                ) from error
    if has_words and not _only_0_and_1(values):
        raise InputError(f"{where} has numbers among words; a column of true/false or yes/no has no others")
    return values


def _only_0_and_1(values: Floats) -> bool:
    return bool(np.isin(values[~np.isnan(values)], (0, 1)).all())

"""A user's CSV file as columns of text."""

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError


def read_csv_columns(path: Path) -> dict[str, NDArray[np.str_]]:
    """Reads a CSV in UTF-8 with a header; every cell is text, as it stands.

    Args:
        path: of an existing file. A byte-order mark before the text, as spreadsheets put there, is skipped.

    Returns:
        Name to cells, each of shape (rows,); blank lines are no rows.

    Raises:
        InputError: if the file is not CSV in UTF-8, a column has no name of its own, or a row has more or
            fewer cells than the header.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a readable CSV file in UTF-8 ({error})") from error
    header = lines[0][1] if lines else []
    if len(set(header)) < len(header) or "" in header:
        raise InputError(f"{path}: every column needs a name of its own, not {', '.join(map(repr, header))}")
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}: {len(cells)} cells under {len(header)} column names")
    return {name: np.array([cells[i] for _, cells in lines[1:]], dtype=str) for i, name in enumerate(header)}

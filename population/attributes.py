"""What a user's table says of images besides their pixels: task labels and groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from population.csv_columns import read_csv_columns
from population.errors import InputError
from population.samples import SampleSet

#: Names that the column of ids may have.
KEYS = ("file", "sample_id")
#: Most groups that the group columns may make together: tables and tests of more say nothing.
MOST_GROUPS = 100


@dataclass(frozen=True, eq=False)
class AttributeTable:
    """Rows of a table, by the image that each is of.

    Attributes:
        path: of the file, for messages.
        columns: the wanted columns, as text without spaces at the ends; the index has the ids.
    """

    path: Path
    columns: pd.DataFrame

    def rows(self, sample_id: NDArray[np.str_]) -> pd.DataFrame:
        """The rows of these images, in their order.

        Args:
            sample_id: unique ids, shape (N,).

        Raises:
            InputError: if an image has no row, or an empty value in it.
        """
        position = self.columns.index.get_indexer(pd.Index(sample_id))
        absent = position < 0
        if absent.all():
            raise InputError(
                f"no row of {self.path} is of an image of the data: these are called like"
                f" {str(sample_id[0])!r}, the rows' like {str(self.columns.index[0])!r}"
            )
        if absent.any():
            raise InputError(
                f"{self.path} has no row for {int(absent.sum())} of {len(sample_id)} images, for example"
                f" {str(sample_id[np.argmax(absent)])!r}"
            )
        rows = self.columns.iloc[position]
        for name, column in rows.items():
            empty = (column == "").to_numpy(dtype=bool)
            if empty.any():
                first = str(rows.index[int(np.argmax(empty))])
                raise InputError(
                    f"{self.path}: column {name!r} is empty for {first!r}; give it a value of its own, such"
                    " as 'unknown'"
                )
        return rows

    def left_out(self, sample_id: NDArray[np.str_]) -> int:
        """Number of rows of images other than these."""
        return int((~self.columns.index.isin(sample_id)).sum())


def read_attributes(path: Path, columns: Sequence[str]) -> AttributeTable:
    """Reads columns of a table that has one row per image.

    Args:
        path: a CSV in UTF-8 with a header, and a column ``file`` or ``sample_id`` of ids as reports have
            them: of an image folder, the path inside it.
        columns: names of the wanted ones, at least one.

    Raises:
        InputError: if the file cannot be read, a column is absent or wanted twice, or an image has two rows.
    """
    if not path.is_file():
        raise InputError(f"--groups: no such file: {path}")
    found = read_csv_columns(path)
    keys = [key for key in KEYS if key in found]
    if len(keys) != 1:
        raise InputError(
            f"{path} must have one column of ids, file or sample_id; its columns are {', '.join(found)}"
        )
    for name in columns:
        if name not in found or name in keys:
            others = [column for column in found if column not in keys]
            raise InputError(f"{path} has no column {name!r} to use; it has {', '.join(others) or 'none'}")
    if len(set(columns)) < len(columns):
        raise InputError(f"a column is named twice: {', '.join(columns)}")
    ids = pd.Index(found[keys[0]])
    if len(ids) == 0:
        raise InputError(f"{path} has no rows")
    if not ids.is_unique:
        raise InputError(f"{path} has the {keys[0]} {ids[ids.duplicated()][0]!r} more than once")
    wanted = {name: np.char.strip(found[name]) for name in columns}
    return AttributeTable(path, pd.DataFrame(wanted, index=ids, dtype=object))


def groups_of(samples: SampleSet) -> pd.DataFrame | None:
    """Group columns of samples as a table whose index is the ids; None where there are none."""
    if not samples.groups:
        return None
    return pd.DataFrame(dict(samples.groups), index=pd.Index(samples.sample_id), dtype=object)


def check_groups(groups: pd.DataFrame) -> None:
    """Raises InputError unless images can be compared by these columns, alone and crossed.

    Args:
        groups: one row per image, one column per way to divide them.
    """
    for name, column in groups.items():
        if name == "all":
            raise InputError(
                "--group-columns: no column may be called 'all', the name of all images together"
            )
        if column.nunique() < 2:
            raise InputError(
                f"--group-columns: all {len(groups)} images to compare have the {name} {column.iloc[0]!r};"
                " there is no other group to compare it with"
            )
    crossed = len(groups.drop_duplicates())
    if crossed > MOST_GROUPS:
        raise InputError(
            f"--group-columns {' '.join(map(str, groups.columns))} make {crossed} groups, more than"
            f" {MOST_GROUPS}; name fewer columns, or columns with fewer values"
        )

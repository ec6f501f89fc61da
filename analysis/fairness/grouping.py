"""Groups of images: the columns of a table, and all columns crossed."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from population.errors import InputError

MINIMUM = 30
"""Fewer images are marked in the tables: one of them is more than 3 points of a rate."""

_CROSS = " × "


@dataclass(frozen=True, eq=False)
class Grouping:
    """N images divided into groups.

    Attributes:
        name: of the column, or of the crossed columns: ``"gender × age"``.
        groups: name of each group: ``"female × old"``.
        code: index of the group of each image, shape (N,), int64.
    """

    name: str
    groups: tuple[str, ...]
    code: NDArray[np.int64]

    @property
    def n(self) -> NDArray[np.int64]:
        """Number of images of each group, shape (groups,)."""
        return np.bincount(self.code, minlength=len(self.groups))

    def counts(self, events: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Counts events by group.

        Args:
            events: whether each image counts, for each model, shape (K, N).

        Returns:
            Numbers of images, shape (K, groups).
        """
        return np.stack([np.bincount(self.code[row], minlength=len(self.groups)) for row in events])


def groupings(groups: pd.DataFrame, sample_id: NDArray[np.str_]) -> list[Grouping]:
    """Divides images by each column of a table and, where there are several, by all columns crossed.

    For the crossing of some columns only, pass these.

    Args:
        groups: one row per image, its index the sample ids, one column per grouping (such as gender), whose
            values are taken as text. Rows of further images are not used.
        sample_id: the images that are divided, shape (N,).

    Returns:
        The grouping "all" with one group, one per column, and the crossed one. Groups are sorted by name;
        none is empty.

    Raises:
        InputError: if ids repeat, or an id or a value is missing.
    """
    ids = pd.Index(groups.index.astype(str))
    if not ids.is_unique:
        raise InputError("the table of groups has repeated sample ids in its index")
    position = ids.get_indexer(pd.Index(sample_id))
    if (position < 0).any():
        raise InputError(
            f"the table of groups lacks {int((position < 0).sum())} of {len(sample_id)} predicted samples;"
            " its index must be the sample ids"
        )
    rows = groups.iloc[position]
    for name, column in rows.items():
        if column.isna().any():
            raise InputError(
                f"group column {str(name)!r} has {int(column.isna().sum())} missing values; give them a name"
                " of their own, such as 'unknown', or leave the images out"
            )
    columns = {str(name): column.astype(str).to_numpy(dtype=np.str_) for name, column in rows.items()}
    found = [Grouping("all", ("all",), np.zeros(len(sample_id), dtype=np.int64))]
    found += [_grouping(name, values) for name, values in columns.items()]
    if len(columns) > 1:
        crossed = np.array([_CROSS.join(row) for row in zip(*columns.values(), strict=True)])
        found.append(_grouping(_CROSS.join(columns), crossed))
    return found


def _grouping(name: str, values: NDArray[np.str_]) -> Grouping:
    names, code = np.unique(values, return_inverse=True)
    return Grouping(name, tuple(names.tolist()), code.astype(np.int64))

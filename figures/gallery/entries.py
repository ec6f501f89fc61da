"""Which rows of the PIE table the gallery shows, and how it numbers them.

The page that links to the gallery uses the same numbers, so they are decided here and nowhere else.
"""

import pandas as pd


def pie_entries(pies: pd.DataFrame) -> pd.DataFrame:
    """Selects and numbers the PIEs; an image that is a PIE in several conditions has a row for each.

    Args:
        pies: the table ``pies``, one row per condition and sample, with at least the columns ``pie``
            (bool) and ``sample_id`` (str).

    Returns:
        The rows that are PIEs, in the order of the table, with two more columns: ``number`` (running
        number of the row, from 0) and ``image`` (path of the sample's picture inside the gallery
        folder). Pictures are named by a running number because ids may hold any character.
    """
    entries = pies[pies["pie"].astype(bool)].reset_index(drop=True)
    picture, _ = pd.factorize(entries["sample_id"])
    return entries.assign(
        number=range(len(entries)),
        image=pd.Series([f"images/{index:05d}.png" for index in picture], dtype=object),
    )

"""Class labels from a column of a table."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from population.errors import InputError

#: More different numbers are taken for a quantity, such as an age, and not for names of classes.
MOST_NUMBERS = 30


def labels_of(
    values: Sequence[str], bins: Sequence[float], *, where: str
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Makes class indices and class names of a column.

    Without bins every value is a class; classes are sorted by number where all are numbers, else by name.
    With bins ``20 40 60`` a number belongs to one of ``under 20``, ``20-39``, ``40-59`` and ``60+``: a bound
    belongs to the band above it. Where a number or a bound is not whole, bands are named ``20 to under 40``.
    Bands without images are left out.

    Args:
        values: one per image, none empty.
        bins: rising bounds, or none.
        where: names the column in messages.

    Returns:
        Labels, shape (N,), and one name per class.

    Raises:
        InputError: if the values do not give at least two classes, are too many different numbers, or are
            to be banded and one is no number.
    """
    numbers = [_number(value) for value in values]
    if bins:
        for value, number in zip(values, numbers, strict=True):
            if number is None:
                raise InputError(
                    f"{where} has the value {value!r}, which --label-bins cannot place: no number"
                )
        amounts = np.array(numbers, dtype=np.float64)
        band, names = np.searchsorted(bins, amounts, side="right"), _band_names(bins, amounts)
        used, label = np.unique(band, return_inverse=True)
        classes = tuple(names[i] for i in used)
    else:
        numeric = None not in numbers
        distinct = sorted(set(values), key=lambda v: (float(v), v) if numeric else (0.0, v))
        if numeric and len(distinct) > MOST_NUMBERS:
            raise InputError(
                f"{where} has {len(distinct)} different numbers, too many for classes (at most"
                f" {MOST_NUMBERS}); band them, for example --label-bins 20 40 60, or give names that are no"
                " numbers"
            )
        index = {value: i for i, value in enumerate(distinct)}
        label, classes = np.array([index[value] for value in values]), tuple(distinct)
    if len(classes) < 2:
        raise InputError(f"{where} puts all {len(values)} images into one class, {classes[0]!r}")
    return label.astype(np.int64), classes


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _band_names(bins: Sequence[float], amounts: NDArray[np.float64]) -> list[str]:
    whole = bool((amounts == np.rint(amounts)).all()) and all(b == round(b) for b in bins)
    if whole:
        inner = [str(round(a)) if b - a == 1 else f"{a:.0f}-{b - 1:.0f}" for a, b in pairwise(bins)]
    else:
        inner = [f"{a:g} to under {b:g}" for a, b in pairwise(bins)]
    return [f"under {bins[0]:g}", *inner, f"{bins[-1]:g}+"]

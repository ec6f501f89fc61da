"""Is the confidence of a network still right for every group after compression?"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fairness.changes import CHANGE, mean_changes, number_columns
from analysis.fairness.grouping import MINIMUM, Grouping, groupings
from analysis.recall import required_label
from population.errors import InputError
from population.pairing import Design, compare
from population.predictions import Predictions

Floats = NDArray[np.float64]

BINS = 15
"""Bins of equal width, as in Guo et al. 2017."""


def group_calibration(
    dense: Predictions, compressed: Predictions, groups: pd.DataFrame, *, design: Design, seed: int
) -> pd.DataFrame:
    """Compares confidence and expected calibration error of groups before and after.

    Question: does a compressed network claim more, or less, than it knows, and for whom? Confidence is the
    largest probability. Overconfidence is mean confidence - accuracy. For the expected calibration error (Guo
    et al. 2017, arXiv 1706.04599) images are sorted by confidence into 15 bins of equal width; it is the sum
    over bins of ``n_bin / n * |accuracy - mean confidence|``. Each is computed per model, then averaged.

    The calibration error is never negative, and the larger the fewer images there are: compare it before and
    after, not between groups of unequal size. A simulated network that is calibrated, with a mean confidence
    of .88, has .094 on 50 images, .024 on 1,000 and .007 on 10,000 (means over 400 draws).
    Overconfidence has no such bias; errors that cancel do not show in it.

    Args:
        dense: of K models with probabilities, before.
        compressed: of K' models with probabilities, after; samples are matched by id.
        groups: one row per image, its index the sample ids; see ``groupings``. Without columns there is
            one group, of all images.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the bootstrap.

    Returns:
        One row per grouping, measure and group: grouping, measure ("confidence", "overconfidence",
        "calibration_error"), group, n (images), few (whether these are fewer than 30), dense, compressed
        (means over models, fractions), change, change_low, change_high (95 % bootstrap interval over models,
        missing for single models).

    Raises:
        InputError: if there are no labels or probabilities, the groups do not fit the samples, or the two
            cannot be compared (see ``population.pairing``).
    """
    matched = compare(dense, compressed, design=design)
    label = required_label(matched.label)
    rng = np.random.default_rng(seed)
    sides = [_confidence_and_hits(p, label) for p in (dense, matched.compressed)]
    tables = []
    for grouping in groupings(groups, dense.sample_id):
        before, after = (_measures(*side, grouping) for side in sides)
        for measure in before:
            numbers = mean_changes(before[measure], after[measure], design=design, rng=rng)
            columns = number_columns(numbers, CHANGE, grouping.n > 0)
            tables.append(
                pd.DataFrame(
                    {
                        "grouping": grouping.name,
                        "measure": measure,
                        "group": grouping.groups,
                        "n": grouping.n,
                        "few": grouping.n < MINIMUM,
                        **columns,
                    }
                )
            )
    return pd.concat(tables, ignore_index=True)


def _confidence_and_hits(
    predictions: Predictions, label: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.bool_]]:
    if predictions.probabilities is None:
        raise InputError("calibration needs class probabilities, and the predictions have none")
    confidence: Floats = predictions.probabilities.max(axis=2).astype(np.float64)
    return confidence, predictions.predicted == label


def _measures(confidence: Floats, hit: NDArray[np.bool_], grouping: Grouping) -> dict[str, Floats]:
    """Each measure per model and group, shape (K, groups)."""
    size = len(grouping.groups), BINS
    # Bins are closed above: a confidence of 1 is in the last one.
    bins = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    cells = grouping.code * BINS + bins

    def sums(values: Floats) -> Floats:
        rows = zip(cells, values, strict=True)
        return np.stack([np.bincount(c, v, minlength=size[0] * size[1]).reshape(size) for c, v in rows])

    excess = sums(confidence - hit)
    return {
        "confidence": sums(confidence).sum(axis=2) / grouping.n,
        "overconfidence": excess.sum(axis=2) / grouping.n,
        "calibration_error": np.abs(excess).sum(axis=2) / grouping.n,
    }

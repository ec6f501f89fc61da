"""What compression did to each member of a population, as numbers that methods can be compared by."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.recall import required_label
from population.pairing import compare
from population.predictions import Predictions

OUTCOMES = ("flips", "accuracy_change", "worst_recall_change", "recall_change_spread")
"""Columns of ``member_outcomes`` that say what compression did."""


def member_outcomes(dense: Predictions, compressed: Predictions) -> pd.DataFrame:
    """Outcomes of every member, paired with the dense one that it was made from.

    Args:
        dense: of K models, before, with labels.
        compressed: of K models, after; samples are matched by id.

    Returns:
        One row per member: member (its place), accuracy (after, a fraction), flips (share of the samples that
        get another label than before), accuracy_change, worst_recall_change (recall of the class that is
        worst after, less that of the class that was worst before; these may be two), recall_change_spread
        (standard deviation over classes of the change of recall; noise of few samples a class is in it).
        Classes without samples are left out.

    Raises:
        InputError: if there are no labels, or the two cannot be paired.
    """
    matched = compare(dense, compressed, design="paired")
    before, after = matched.dense.predicted, matched.compressed.predicted
    label = required_label(matched.dense.label)
    recalls = [_recalls(predicted, label) for predicted in (before, after)]
    accuracies = [(predicted == label).mean(axis=1) for predicted in (before, after)]
    return pd.DataFrame(
        {
            "member": np.arange(len(before)),
            "accuracy": accuracies[1],
            "flips": (before != after).mean(axis=1),
            "accuracy_change": accuracies[1] - accuracies[0],
            "worst_recall_change": recalls[1].min(axis=1) - recalls[0].min(axis=1),
            "recall_change_spread": (recalls[1] - recalls[0]).std(axis=1),
        }
    )


def _recalls(predicted: NDArray[np.int64], label: NDArray[np.int64]) -> NDArray[np.float64]:
    """Recall of each class that has samples, shape (K, classes)."""
    right = predicted == label
    return np.stack([right[:, label == c].mean(axis=1) for c in np.unique(label)], axis=1)

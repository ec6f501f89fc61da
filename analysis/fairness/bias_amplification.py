"""Does compression amplify what groups and classes have to do with each other in the data?"""

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class BiasAmplification:
    """How far predictions go beyond the labels.

    Attributes:
        scores: one row per grouping: grouping, dense, compressed (BiasAmp, means over models, in [-1, 1]; 0
            where every group is predicted each class as often as it has it, above 0 where the ties of groups
            and classes are stronger in the predictions than in the labels), change, change_low, change_high
            (95 % bootstrap interval over models, missing for single models).
        table: one row per grouping, group and class: grouping, group, class, n (images of the group), few
            (whether these are fewer than 30), direction (1 where the class is more frequent in the group
            than overall, -1 where less, 0 where equal), labels, dense, compressed (share of the group's
            images whose label, or prediction, is the class, means over models), change, change_low,
            change_high as above.
    """

    scores: pd.DataFrame
    table: pd.DataFrame


def bias_amplification(
    dense: Predictions, compressed: Predictions, groups: pd.DataFrame, *, design: Design, seed: int
) -> BiasAmplification:
    """Compares the shares of predicted classes with the shares of labels in each group, before and after.

    Question: where a class is more frequent in a group, is it predicted still more often there, and does
    compression add to that? Directional bias amplification from attribute to task, BiasAmp(A -> T) of
    Wang and Russakovsky 2021 (arXiv 2102.12594): the mean over groups a and classes t of
    ``direction_at * (P(predicted t | a) - P(label t | a))``. Unlike the measure of Zhao et al. 2017 (arXiv
    1707.09457) it allows for groups of unequal size, and for classes that are rarer in a group as for those
    that are more frequent. Groups count alike, however small.

    Deviations: the direction comes from the labels of these images, not of the training images; where
    group and class are independent it is 0, as in the authors' code (in the paper's formula -1).

    Args:
        dense: of K models, before.
        compressed: of K' models, after; samples are matched by id.
        groups: one row per image, its index the sample ids; see ``groupings``.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the bootstrap.

    Returns:
        Scores and shares for each column of groups, and for the columns crossed.

    Raises:
        InputError: if there are no labels, there is no column of groups, these do not fit the samples, or
            the two cannot be compared (see ``population.pairing``).
    """
    if groups.shape[1] == 0:
        raise InputError("bias amplification needs at least one column of groups")
    matched = compare(dense, compressed, design=design)
    label, names = required_label(matched.label), matched.class_names.tolist()
    rng = np.random.default_rng(seed)
    scores, tables = [], []
    for grouping in groupings(groups, dense.sample_id)[1:]:
        counts = _class_counts(grouping, label[None], len(names))[0]
        # In whole numbers, so that independence is exact.
        direction = np.sign(counts * dense.n - grouping.n[:, None] * counts.sum(axis=0))
        labels = counts / grouping.n[:, None]
        before, after = (
            _class_counts(grouping, predicted, len(names)) / grouping.n[:, None]
            for predicted in (dense.predicted, matched.compressed.predicted)
        )
        amplified = [(direction * (shares - labels)).mean(axis=(1, 2)) for shares in (before, after)]
        scored = _columns(amplified[0][:, None], amplified[1][:, None], design, rng)
        scores.append(pd.DataFrame({"grouping": grouping.name, **scored}))
        shared = _columns(before.reshape(len(before), -1), after.reshape(len(after), -1), design, rng)
        description = {
            "grouping": grouping.name,
            "group": np.repeat(grouping.groups, len(names)),
            "class": np.tile(names, len(grouping.groups)),
            "n": np.repeat(grouping.n, len(names)),
            "few": np.repeat(grouping.n < MINIMUM, len(names)),
            "direction": direction.ravel(),
            "labels": labels.ravel(),
        }
        tables.append(pd.DataFrame({**description, **shared}))
    return BiasAmplification(pd.concat(scores, ignore_index=True), pd.concat(tables, ignore_index=True))


def _class_counts(grouping: Grouping, classes: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Images of each group with each class, shape (K, groups, classes), of class indices (K, N)."""
    size = len(grouping.groups), num_classes
    cells = grouping.code * num_classes + classes
    return np.stack([np.bincount(row, minlength=size[0] * size[1]).reshape(size) for row in cells])


def _columns(
    before: Floats, after: Floats, design: Design, rng: np.random.Generator
) -> dict[str, pd.arrays.FloatingArray]:
    numbers = mean_changes(before, after, design=design, rng=rng)
    return number_columns(numbers, CHANGE, np.ones(before.shape[1], dtype=bool))

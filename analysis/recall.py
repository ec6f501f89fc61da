"""Who pays: the change of every class's recall, with intervals and tests."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fairness.changes import change_tests
from population.errors import InputError
from population.pairing import Design, compare
from population.predictions import Predictions
from population.resampling import bootstrap_mean_interval, bootstrap_means, percentile_interval

Floats = NDArray[np.float64]

_TESTS = ("p_value", "p_adjusted", "p_welch", "p_welch_adjusted")


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy of a population, as fractions.

    Attributes:
        mean: mean over models, in [0, 1].
        low: lower end of the 95 % bootstrap interval over models; None for a single model.
        high: upper end.
    """

    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, eq=False)
class ClassDeltas:
    """Recall per class, before and after.

    Attributes:
        table: one row per class: name, n (samples), recall_dense, recall_compressed (means over models,
            in [0, 1]), delta (compressed - dense), delta_low, delta_high (95 % bootstrap interval over
            models), delta_relative (delta - change of the mean accuracy), p_value (permutation), p_welch, and
            both adjusted over classes (p_adjusted, p_welch_adjusted). A class without samples has n = 0
            and missing values in the other number columns; intervals and p-values are missing for
            single models.
    """

    table: pd.DataFrame


def population_accuracy(predictions: Predictions, *, seed: int) -> Accuracy:
    """Mean accuracy over models with a bootstrap interval over models.

    Args:
        predictions: of K models, with labels.
        seed: of the bootstrap.

    Returns:
        Mean and interval, as fractions.

    Raises:
        InputError: if there are no labels.
    """
    correct = predictions.predicted == required_label(predictions.label)
    accuracy = correct.mean(axis=1)
    if predictions.k == 1:
        return Accuracy(float(accuracy[0]), None, None)
    low, high = bootstrap_mean_interval(accuracy, rng=np.random.default_rng(seed))
    return Accuracy(float(accuracy.mean()), float(low), float(high))


def class_deltas(dense: Predictions, compressed: Predictions, *, design: Design, seed: int) -> ClassDeltas:
    """Tests which classes lose or gain more than the model as a whole.

    The tests, one as published (Hooker et al. 2019, arXiv 1911.05248) and one by permutation, are
    those of ``analysis.fairness.changes``; the family of an adjustment is all classes with samples.

    Args:
        dense: of K models, before.
        compressed: of K' models, after; samples are matched by id.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the bootstrap and of the drawn rearrangements.

    Returns:
        The table of classes.

    Raises:
        InputError: if there are no labels, or the two cannot be compared (see ``population.pairing``).
    """
    matched = compare(dense, compressed, design=design)
    dense, compressed, names = matched.dense, matched.compressed, matched.class_names
    label = required_label(matched.label)
    num_classes = len(names)
    n = np.bincount(label, minlength=num_classes)
    filled = n > 0
    before, accuracy_before = _recalls(dense.predicted, label, n)
    after, accuracy_after = _recalls(compressed.predicted, label, n)
    delta = after.mean(axis=0) - before.mean(axis=0)
    numbers = {
        "recall_dense": before.mean(axis=0),
        "recall_compressed": after.mean(axis=0),
        "delta": delta,
        "delta_low": None,
        "delta_high": None,
        "delta_relative": delta - (accuracy_after.mean() - accuracy_before.mean()),
        **dict.fromkeys(_TESTS),
    }
    if not matched.single:
        rng = np.random.default_rng(seed)
        numbers["delta_low"], numbers["delta_high"] = _delta_interval(before, after, design, rng)
        tests = change_tests(before, after, accuracy_before, accuracy_after, design=design, rng=rng)
        numbers |= {name: getattr(tests, name) for name in _TESTS}
    columns: dict[str, object] = {"name": names, "n": n}
    for column, values in numbers.items():
        spread = pd.array([pd.NA] * num_classes, dtype="Float64")
        if values is not None:
            spread[filled] = values
        columns[column] = spread
    return ClassDeltas(pd.DataFrame(columns))


def required_label(label: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The labels, shape (N,).

    Raises:
        InputError: if there are none.
    """
    if label is None:
        raise InputError("recall and accuracy need the true labels, and the predictions have none")
    return label


def _recalls(
    predicted: NDArray[np.int64], label: NDArray[np.int64], n: NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """Recall per model and class with samples, shape (K, classes with samples), and accuracy (K,)."""
    hits = np.stack([np.bincount(label[row == label], minlength=len(n)) for row in predicted])
    return hits[:, n > 0] / n[n > 0], hits.sum(axis=1) / n.sum()


def _delta_interval(
    before: Floats, after: Floats, design: Design, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Bootstrap interval over models of the mean change per class."""
    if design == "paired":
        return bootstrap_mean_interval(after - before, rng=rng)
    return percentile_interval(bootstrap_means(after, rng=rng) - bootstrap_means(before, rng=rng))

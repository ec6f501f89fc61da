"""Recall, false alarms, misses and accuracy of classes and groups, before and after.

A rate is a share of the images of a group: ``tpr`` (recall) of those whose label is the positive class that
are predicted so, ``fnr`` = 1 - tpr (misses), ``fpr`` of those with another label that are predicted as the
positive class (false alarms), ``accuracy`` of all that are predicted rightly.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.fairness.changes import CHANGE, Values, change_tests, mean_changes, number_columns
from analysis.fairness.grouping import MINIMUM, Grouping, groupings
from analysis.fairness.image_tests import image_tests
from analysis.recall import required_label
from population.errors import unknown_name
from population.pairing import Design, compare
from population.predictions import Predictions

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TESTS = ("p_value", "p_adjusted", "p_max_t", "p_floor", "p_welch", "p_welch_adjusted")
_PERCENT = ("change_percent", "change_percent_low", "change_percent_high")
_IMAGES = ("change_expected", "p_images", "p_images_adjusted", "p_images_max_t")
_NUMBERS = (*CHANGE, *_PERCENT, "change_relative", *_TESTS)


@dataclass(frozen=True, eq=False)
class RateChanges:
    """Rates before and after.

    Attributes:
        table: one row per grouping, rate and group: grouping, group, share (of all images that are in the
            group), rate, n (images that the rate is over), few (whether these are fewer than 30),
            dense, compressed (means over models, in [0, 1]), change (compressed - dense), change_low,
            change_high (95 % bootstrap interval over models), change_percent (100 change / dense),
            change_percent_low, change_percent_high, change_relative (change - change of the rate over all
            groups of the grouping), and p-values of the latter: p_value (permutation), p_adjusted
            (Benjamini-Hochberg), p_max_t (step-down max-T, family-wise), p_floor (smallest p_value there can
            be), p_welch, p_welch_adjusted. The family of an adjustment is the groups of one grouping with one
            rate. Missing are: all numbers of a rate over no image; a percentage of a dense rate of 0, and its
            interval where a draw of models has that rate; p-values where the rate is of one group only;
            p-values and intervals for single models. Of ``group_rates``, except for the grouping "all",
            also change_expected (change of as many images of the same classes, whatever their group) and
            p-values against it from ``image_tests``, which say whether other images would do the same:
            p_images, p_images_adjusted (Benjamini-Hochberg), p_images_max_t (step-down max-T).
        members: one row per grouping, rate, group, population ("dense", "compressed") and member (from 0)
            with its value; none for a rate over no image.
        undefined: number of rows without change_percent because the dense rate is 0.
    """

    table: pd.DataFrame
    members: pd.DataFrame
    undefined: int


@dataclass(frozen=True, eq=False)
class _Family:
    """One rate of the groups of a grouping: counts (K, groups) before and after, among n (groups,) images."""

    grouping: Grouping
    rate: str
    n: Ints
    before: Ints
    after: Ints

    def rates(self) -> tuple[Floats, Floats]:
        """Rates before and after of the groups with n > 0, each of shape (K, groups with n > 0)."""
        known = self.n > 0
        return self.before[:, known] / self.n[known], self.after[:, known] / self.n[known]


def class_rates(dense: Predictions, compressed: Predictions, *, design: Design, seed: int) -> RateChanges:
    """Compares tpr, fpr and fnr of each class, taken as the positive one in turn.

    Question: which classes are missed more often, and which are named wrongly more often? Percentages are the
    normalised differences of Hooker et al. 2020 (arXiv 2010.03058); tests: see ``change_tests``.

    Args:
        dense: of K models, before.
        compressed: of K' models, after; samples are matched by id.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the bootstrap and of drawn rearrangements.

    Returns:
        Tables with one grouping, "class".

    Raises:
        InputError: if there are no labels, or the two cannot be compared (see ``population.pairing``).
    """
    matched = compare(dense, compressed, design=design)
    classes = Grouping("class", tuple(matched.class_names.tolist()), required_label(matched.label))
    hits, alarms = class_counts(dense.predicted, classes)
    hits_after, alarms_after = class_counts(matched.compressed.predicted, classes)
    families = [
        _Family(classes, "tpr", classes.n, hits, hits_after),
        _Family(classes, "fpr", dense.n - classes.n, alarms, alarms_after),
        _Family(classes, "fnr", classes.n, classes.n - hits, classes.n - hits_after),
    ]
    return _rate_changes(families, design=design, seed=seed)


def group_rates(
    dense: Predictions,
    compressed: Predictions,
    groups: pd.DataFrame,
    *,
    positive: str | None,
    design: Design,
    seed: int,
) -> RateChanges:
    """Compares the rates of groups of images: all of them, each column's, and those of the columns crossed.

    Question: whose images does compression cost most? Percentages are the normalised differences by which
    Hooker et al. 2020 (arXiv 2010.03058) compare subgroups of CelebA; intervals and tests over models are
    added. Tests: see ``change_tests``.

    Args:
        dense: of K models, before.
        compressed: of K' models, after; samples are matched by id.
        groups: one row per image, its index the sample ids; see ``groupings``.
        positive: name of the class that tpr, fpr and fnr are of; None for the accuracy alone.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the bootstrap and of drawn rearrangements.

    Returns:
        Tables with the groupings "all", each column, and the columns crossed.

    Raises:
        InputError: if there are no labels, the positive class is unknown, the groups do not fit the samples,
            or the two cannot be compared (see ``population.pairing``).
    """
    matched = compare(dense, compressed, design=design)
    before, after = dense.predicted, matched.compressed.predicted
    label, names = required_label(matched.label), matched.class_names.tolist()
    if positive is not None and positive not in names:
        raise unknown_name("class", positive, names)
    rates = {"accuracy": (np.ones(dense.n, dtype=bool), before == label, after == label)}
    if positive is not None:
        index = names.index(positive)
        actual, named, named_after = label == index, before == index, after == index
        rates |= {
            "tpr": (actual, named, named_after),
            "fpr": (~actual, named, named_after),
            "fnr": (actual, ~named, ~named_after),
        }
    divided = groupings(groups, dense.sample_id)
    families = [
        _Family(
            grouping,
            rate,
            grouping.counts(counted[None])[0],
            grouping.counts(counted & event),
            grouping.counts(counted & event_after),
        )
        for grouping in divided
        for rate, (counted, event, event_after) in rates.items()
    ]
    found = _rate_changes(families, design=design, seed=seed)
    rng = np.random.default_rng([seed, 1])  # draws of its own: those of the rates stay as they were
    images = [
        _image_columns(grouping, counted, event_after.mean(axis=0) - event.mean(axis=0), label, rng)
        for grouping in divided
        for counted, event, event_after in rates.values()
    ]
    table = pd.concat([found.table, pd.concat(images, ignore_index=True)], axis=1)
    return replace(found, table=table)


def _image_columns(
    grouping: Grouping, counted: NDArray[np.bool_], change: Floats, label: Ints, rng: np.random.Generator
) -> pd.DataFrame:
    """Columns of ``_IMAGES``: tests over the images that a rate counts."""
    known = grouping.counts(counted[None])[0] > 0
    if known.sum() < 2:
        return pd.DataFrame(number_columns({}, _IMAGES, known))
    names, code = np.unique(grouping.code[counted], return_inverse=True)
    part = Grouping(grouping.name, tuple(grouping.groups[i] for i in names), code.astype(np.int64))
    tests = image_tests(change[counted], part, label[counted], rng=rng)
    values = (tests.expected, tests.p_value, tests.p_adjusted, tests.p_max_t)
    return pd.DataFrame(number_columns(dict(zip(_IMAGES, values, strict=True)), _IMAGES, known))


def class_counts(predicted: Ints, classes: Grouping) -> tuple[Ints, Ints]:
    """Counts right and wrong predictions of each class.

    Args:
        predicted: class indices, shape (K, N).
        classes: the images by label.

    Returns:
        Images of the class that are predicted so, and images of other classes that are; each (K, C).
    """
    size = len(classes.groups)
    wrong = (row[row != classes.code] for row in predicted)
    alarms = np.stack([np.bincount(named, minlength=size) for named in wrong])
    return classes.counts(predicted == classes.code), alarms


def _rate_changes(families: Sequence[_Family], *, design: Design, seed: int) -> RateChanges:
    rng = np.random.default_rng(seed)
    table = pd.concat([_table(f, design, rng) for f in families], ignore_index=True)
    members = pd.concat([_members(f) for f in families], ignore_index=True)
    return RateChanges(table, members, undefined=int((table["dense"] == 0).sum()))


def _table(family: _Family, design: Design, rng: np.random.Generator) -> pd.DataFrame:
    grouping, n, known = family.grouping, family.n, family.n > 0
    numbers = _numbers(family, design, rng) if known.any() else {}
    return pd.DataFrame(
        {
            "grouping": grouping.name,
            "group": grouping.groups,
            "share": grouping.n / grouping.n.sum(),
            "rate": family.rate,
            "n": n,
            "few": n < MINIMUM,
            **number_columns(numbers, _NUMBERS, known),
        }
    )


def _numbers(family: _Family, design: Design, rng: np.random.Generator) -> dict[str, Values]:
    """Values of the groups that the rate is defined in."""
    before, after = family.rates()
    numbers = mean_changes(before, after, design=design, rng=rng)
    whole_before, whole_after = (
        counts.sum(axis=1) / family.n.sum() for counts in (family.before, family.after)
    )
    numbers["change_relative"] = numbers["change"] - (whole_after.mean() - whole_before.mean())
    if min(before.shape) > 1:
        tests = change_tests(before, after, whole_before, whole_after, design=design, rng=rng)
        numbers |= {name: getattr(tests, name) for name in _TESTS}
    return numbers


def _members(family: _Family) -> pd.DataFrame:
    known = family.n > 0
    groups = np.array(family.grouping.groups)[known]
    sides = []
    for population, rates in zip(("dense", "compressed"), family.rates(), strict=True):
        k = len(rates)
        sides.append(
            pd.DataFrame(
                {
                    "grouping": family.grouping.name,
                    "rate": family.rate,
                    "group": np.repeat(groups, k),
                    "population": population,
                    "member": np.tile(np.arange(k), len(groups)),
                    "value": rates.T.ravel(),
                }
            )
        )
    return pd.concat(sides, ignore_index=True)

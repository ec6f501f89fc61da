"""Flips: images whose label changes between one dense network and the network made from it."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from population.pairing import compare
from population.predictions import Predictions
from population.resampling import bootstrap_mean_interval

_ALL = "flips"
_SPLIT = ("right_to_wrong", "wrong_to_right", "wrong_to_wrong")


@dataclass(frozen=True)
class FlipShare:
    """Share of the images that flip, in [0, 1].

    Attributes:
        mean: over pairs.
        low: lower end of the 95 % bootstrap interval over pairs; None for a single pair.
        high: upper end.
        reference: the same share between two different dense networks, mean over all ordered pairs of them
            (so right to wrong and wrong to right are equal); None for a single network.
    """

    mean: float
    low: float | None
    high: float | None
    reference: float | None


@dataclass(frozen=True, eq=False)
class Flips:
    """Flips within K pairs of a dense network and the network made from it.

    Attributes:
        k: number of pairs.
        total: images whose predicted label changes.
        right_to_wrong: those that were right; accuracy falls by this less the next.
        wrong_to_right: those that become right.
        wrong_to_wrong: those that change from one wrong label to another. These three add up to the total
            and are None without labels.
        pairs: one row per pair, in the order of the predictions: pair (from 0), flips, right_to_wrong,
            wrong_to_right, wrong_to_wrong (numbers of images; the last three missing without labels).
        samples: one row per image, in the order of the dense predictions: sample_id, flips,
            right_to_wrong, wrong_to_right, wrong_to_wrong (numbers of pairs; the last three missing without
            labels), share (of the pairs that flip), reference (share of the pairs of dense networks that
            differ, missing for a single network).
    """

    k: int
    total: FlipShare
    right_to_wrong: FlipShare | None
    wrong_to_right: FlipShare | None
    wrong_to_wrong: FlipShare | None
    pairs: pd.DataFrame
    samples: pd.DataFrame


def find_flips(dense: Predictions, compressed: Predictions, *, seed: int) -> Flips:
    """Counts the images on which each compressed network differs from the dense one it was made from.

    Unlike PIEs, flips need no population: one pair has them. They add up over networks that change on
    different images, where modal labels stay. The reference says how often networks differ whose seeds
    differ: compression that flips fewer images changes a network less than training it again.

    Args:
        dense: of K >= 1 networks, before.
        compressed: member m was made from dense member m; samples are matched by id. Labels may come from
            either side.
        seed: of the bootstrap over pairs.

    Returns:
        Shares with intervals and reference, and the tables of pairs and images.

    Raises:
        InputError: if K is unequal, or the two cannot be compared (see ``population.pairing``).
    """
    matched = compare(dense, compressed, design="paired")
    before, after, label = matched.dense.predicted, matched.compressed.predicted, matched.label
    flipped = {_ALL: before != after}
    if label is not None:
        was, became = before == label, after == label
        split = (was & ~became, ~was & became, (before != after) & ~was & ~became)
        flipped |= dict(zip(_SPLIT, split, strict=True))
    reference = _between_members(before, label) if not matched.single else {}
    rng = np.random.default_rng(seed)
    shares = {
        kind: _flip_share(where.mean(axis=1), reference.get(kind), rng) for kind, where in flipped.items()
    }
    samples, pairs = _counts(flipped, axis=0), _counts(flipped, axis=1)
    samples.insert(0, "sample_id", dense.sample_id)
    samples["share"] = samples[_ALL] / dense.k
    samples["reference"] = pd.Series(reference.get(_ALL, [pd.NA] * dense.n), dtype="Float64")
    pairs.insert(0, "pair", range(dense.k))
    return Flips(
        k=dense.k,
        total=shares[_ALL],
        right_to_wrong=shares.get("right_to_wrong"),
        wrong_to_right=shares.get("wrong_to_right"),
        wrong_to_wrong=shares.get("wrong_to_wrong"),
        pairs=pairs,
        samples=samples,
    )


def _between_members(
    predicted: NDArray[np.int64], label: NDArray[np.int64] | None
) -> dict[str, NDArray[np.float64]]:
    """Share of the ordered pairs of members that flip, per kind and image, shape (N,)."""
    k = len(predicted)
    ordered = k * (k - 1)
    differ = np.zeros(predicted.shape[1])
    for one, other in combinations(predicted, 2):
        differ += one != other
    shares = {_ALL: 2 * differ / ordered}
    if label is not None:
        right = (predicted == label).sum(axis=0)
        one_right = right * (k - right) / ordered
        shares |= dict(zip(_SPLIT, (one_right, one_right, shares[_ALL] - 2 * one_right), strict=True))
    return shares


def _flip_share(
    per_pair: NDArray[np.float64], reference: NDArray[np.float64] | None, rng: np.random.Generator
) -> FlipShare:
    low = high = None
    if len(per_pair) > 1:
        low, high = map(float, bootstrap_mean_interval(per_pair, rng=rng))
    return FlipShare(
        float(per_pair.mean()), low, high, None if reference is None else float(reference.mean())
    )


def _counts(flipped: dict[str, NDArray[np.bool_]], *, axis: int) -> pd.DataFrame:
    """Counts flips of every kind along an axis of (K, N); kinds that are not known are missing."""
    rows = flipped[_ALL].shape[1 - axis]
    unknown = [pd.NA] * rows
    columns = {kind: flipped[kind].sum(axis=axis) if kind in flipped else unknown for kind in (_ALL, *_SPLIT)}
    return pd.DataFrame({kind: pd.Series(values, dtype="Int64") for kind, values in columns.items()})

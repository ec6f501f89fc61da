"""Pruning Identified Exemplars: the images whose modal label changes."""

import json
from collections import Counter
from dataclasses import dataclass
from math import gcd

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from pie.seed_noise import expected_null
from population.pairing import Design, compare
from population.predictions import Predictions
from population.resampling import partitions, sign_flips

_LEVEL = 0.05
_BLOCK = 2**25  # entries of float32 at a time (128 MiB)


@dataclass(frozen=True, eq=False)
class PieTable:
    """PIEs between a dense and a compressed population; flips, between two single models.

    Attributes:
        design: "paired" or "independent".
        k_dense: models in the dense population.
        k_compressed: models in the compressed population.
        count: number of PIEs.
        share: PIEs among all images, in [0, 1].
        ties: images on which either modal label is a tie (broken to the smallest class index).
        expected_null: seed noise: PIEs expected between the dense population and an independent dense one of
            size ``k_compressed``, estimated from the dense predictions.
        expected_null_low: lower end of its 95 % interval.
        expected_null_high: upper end.
        excess: count - expected_null for independent designs; None for paired ones, where doing nothing
            gives no PIE.
        p_value: permutation p of "compression changes no vote", over all images together.
        p_floor: smallest p-value this test can give, globally and per image.
        rejected: images whose p stays at most 0.05 after Benjamini-Hochberg over all images. This and the six
            before are None for single models, which say nothing of other seeds.
        forgotten: PIEs whose dense modal label is right.
        gained: PIEs whose compressed modal label is right.
        still_wrong: PIEs with neither right.
        accuracy_dense_on_pies: mean over models and PIEs, in [0, 1].
        accuracy_compressed_on_pies: the same for the compressed population.
        accuracy_dense_on_rest: mean over models and the other images.
        accuracy_compressed_on_rest: the same for the compressed population. These seven are None without
            labels, and an accuracy over no images is None.
        samples: one row per image, in the order of the dense predictions: sample_id, label, modal_dense,
            modal_compressed (class names; label is empty if unknown), agree_dense, agree_compressed (votes
            for the modal label), votes_dense, votes_compressed (JSON, most votes first), tie_dense,
            tie_compressed, pie, kind ("forgotten", "gained", "still wrong" or empty), distance, p_value,
            p_adjusted (both missing for single models), rejected, margin_dense, margin_compressed (means
            over models, missing if unknown).
    """

    design: Design
    k_dense: int
    k_compressed: int
    count: int
    share: float
    ties: int
    expected_null: float | None
    expected_null_low: float | None
    expected_null_high: float | None
    excess: float | None
    p_value: float | None
    p_floor: float | None
    rejected: int | None
    forgotten: int | None
    gained: int | None
    still_wrong: int | None
    accuracy_dense_on_pies: float | None
    accuracy_compressed_on_pies: float | None
    accuracy_dense_on_rest: float | None
    accuracy_compressed_on_rest: float | None
    samples: pd.DataFrame


def find_pies(dense: Predictions, compressed: Predictions, *, design: Design, seed: int) -> PieTable:
    """Finds the images whose modal label changes, and tests whether votes change at all.

    A PIE is an image with different modal labels in the two populations (Hooker et al. 2019, arXiv
    1911.05248, section 3). Deviation: ties go to the smallest class index and are counted; the authors' code
    takes the largest.

    Test: the distance of an image is sum_c |n_c(dense) - n_c(compressed)| over the vote counts n_c (the
    taxicab distance of Hooker et al. 2020, arXiv 2010.03058); with unequal K, vote shares times the mean of
    the two K take the place of counts, which is the same for equal K. The distances' sum is the global
    statistic. Paired: dense and compressed are swapped within pairs; independent: the models are divided
    anew. Whole models are rearranged, so correlation between images does no harm. An image on which nothing
    can change has p = 1. Up to 4096 rearrangements are listed in full; else 1999 are drawn and
    p = (1 + number at least as large) / 2000. Two single models cannot be tested in this way: their flips are
    counted, and what needs a population is None.

    Args:
        dense: of K models, before.
        compressed: of K' models, after; samples are matched by id. Labels and class names may come from
            either side.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the drawn rearrangements.

    Returns:
        Counts, references and the table of all images.

    Raises:
        InputError: if the samples, labels or class names differ, one side alone has a single model, a paired
            design has unequal K, or the design is unknown.
    """
    matched = compare(dense, compressed, design=design)
    dense, compressed, label, names = matched.dense, matched.compressed, matched.label, matched.class_names
    pie = dense.modal_label != compressed.modal_label
    distance, p_value, global_p, p_floor = _test(dense, compressed, design, np.random.default_rng(seed))
    p_adjusted = false_discovery_control(p_value)
    tested = not matched.single
    noise = expected_null(dense, other_k=compressed.k) if tested else None
    kind = np.full(dense.n, "", dtype="<U11")
    if label is not None:
        kind[pie] = "still wrong"
        kind[pie & (dense.modal_label == label)] = "forgotten"
        kind[pie & (compressed.modal_label == label)] = "gained"
    samples = pd.DataFrame(
        {
            "sample_id": dense.sample_id,
            "label": "" if label is None else names[label],
            "modal_dense": names[dense.modal_label],
            "modal_compressed": names[compressed.modal_label],
            "agree_dense": dense.modal_votes,
            "agree_compressed": compressed.modal_votes,
            "votes_dense": _votes_as_json(dense, names),
            "votes_compressed": _votes_as_json(compressed, names),
            "tie_dense": dense.modal_tie,
            "tie_compressed": compressed.modal_tie,
            "pie": pie,
            "kind": kind,
            "distance": distance,
            "p_value": p_value if tested else pd.NA,
            "p_adjusted": p_adjusted if tested else pd.NA,
            "rejected": p_adjusted <= _LEVEL,
            "margin_dense": _mean_margin(dense),
            "margin_compressed": _mean_margin(compressed),
        }
    )
    count = int(pie.sum())
    return PieTable(
        design=design,
        k_dense=dense.k,
        k_compressed=compressed.k,
        count=count,
        share=count / dense.n,
        ties=int((dense.modal_tie | compressed.modal_tie).sum()),
        expected_null=None if noise is None else noise.value,
        expected_null_low=None if noise is None else noise.low,
        expected_null_high=None if noise is None else noise.high,
        excess=count - noise.value if noise and design == "independent" else None,
        p_value=global_p if tested else None,
        p_floor=p_floor if tested else None,
        rejected=int(samples["rejected"].sum()) if tested else None,
        forgotten=None if label is None else int((kind == "forgotten").sum()),
        gained=None if label is None else int((kind == "gained").sum()),
        still_wrong=None if label is None else int((kind == "still wrong").sum()),
        accuracy_dense_on_pies=_accuracy(dense, label, pie),
        accuracy_compressed_on_pies=_accuracy(compressed, label, pie),
        accuracy_dense_on_rest=_accuracy(dense, label, ~pie),
        accuracy_compressed_on_rest=_accuracy(compressed, label, ~pie),
        samples=samples,
    )


def _test(
    dense: Predictions, compressed: Predictions, design: Design, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64], float, float]:
    """Distance and p per image, shape (N,), the global p, and the floor of all p."""
    if design == "paired":
        rearrangements = sign_flips(dense.k, rng=rng)
        changeable = (dense.predicted != compressed.predicted).any(axis=0)
        scale = 1.0
    else:
        rearrangements = partitions(dense.k, compressed.k, rng=rng)
        first = dense.predicted[0]
        changeable = (dense.predicted != first).any(axis=0) | (compressed.predicted != first).any(axis=0)
        # From whole numbers back to shares times the mean K.
        scale = gcd(dense.k, compressed.k) * (dense.k + compressed.k) / (2 * dense.k * compressed.k)
    distance, p_value = np.zeros(dense.n), np.ones(dense.n)
    weights = rearrangements.weights.astype(np.float32)
    total = np.zeros(weights.shape[1])
    images = np.flatnonzero(changeable)
    step = max(1, _BLOCK // (weights.shape[1] * (dense.k + compressed.k)))
    for start in range(0, len(images), step):
        block = images[start : start + step]
        found = _distances(dense.predicted[:, block], compressed.predicted[:, block], weights, design)
        total += found.sum(axis=0, dtype=np.float64)
        distance[block] = found[:, 0] * scale
        p_value[block] = (found >= found[:, :1]).mean(axis=1)
    return distance, p_value, float((total >= total[0]).mean()), rearrangements.p_floor


def _distances(
    dense: NDArray[np.int64], compressed: NDArray[np.int64], weights: NDArray[np.float32], design: Design
) -> NDArray[np.float32]:
    """Distance of every image under every rearrangement, shape (images, R), whole numbers.

    float32 holds them exactly: they are below 2 K K', far from 2^24.
    """
    votes = np.vstack([dense, compressed])
    members, images = votes.shape
    # One row per (image, class that has votes); images stay together, so that classes can be summed.
    key = votes + np.arange(images) * (votes.max() + 1)
    pairs, row = np.unique(key, return_inverse=True)
    one_hot = np.zeros((len(pairs), members), dtype=np.float32)
    one_hot[row.reshape(votes.shape), np.arange(members)[:, None]] = 1
    if design == "paired":
        one_hot = one_hot[:, len(dense) :] - one_hot[:, : len(dense)]
    starts = np.searchsorted(pairs, np.arange(images) * (votes.max() + 1))
    difference = one_hot @ weights
    np.abs(difference, out=difference)
    return np.add.reduceat(difference, starts, axis=0)


def _votes_as_json(predictions: Predictions, names: NDArray[np.str_]) -> list[str]:
    unanimous = [json.dumps({str(name): predictions.k}, ensure_ascii=False) for name in names]
    text = [unanimous[c] for c in predictions.modal_label]
    for image in np.flatnonzero(predictions.modal_votes < predictions.k):
        # Most votes first; among equals the smallest class, which sorting brings to the front.
        votes = Counter(sorted(predictions.predicted[:, image].tolist())).most_common()
        text[image] = json.dumps({str(names[c]): n for c, n in votes}, ensure_ascii=False)
    return text


def _mean_margin(predictions: Predictions) -> "pd.Series[float]":
    if predictions.margin is None:
        return pd.Series([pd.NA] * predictions.n, dtype="Float64")
    return pd.Series(predictions.margin.mean(axis=0), dtype="Float64")


def _accuracy(
    predictions: Predictions, label: NDArray[np.int64] | None, where: NDArray[np.bool_]
) -> float | None:
    if label is None or not where.any():
        return None
    return float((predictions.predicted[:, where] == label[where]).mean())

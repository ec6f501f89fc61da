"""Pruning Identified Exemplars: the images whose modal label changes."""

import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pie.permutation import LEVEL, compare_votes
from pie.seed_noise import expected_null
from population.pairing import Design, compare
from population.predictions import Predictions


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
        rejected: images whose p stays at most 0.05 after Benjamini-Hochberg over the images whose votes
            allow a p of 0.05. This and the six before are None for single models, which say nothing of other
            seeds.
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

    ``pie.permutation`` describes the distance of an image and the test. Two single models cannot be tested in
    this way: their flips are counted, and what needs a population is None.

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
    tested = not matched.single
    test = compare_votes(
        dense.predicted, compressed.predicted, design=design, rng=np.random.default_rng(seed)
    )
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
            "distance": test.distance,
            "p_value": test.p_value if tested else pd.NA,
            "p_adjusted": test.p_adjusted if tested else pd.NA,
            "rejected": test.p_adjusted <= LEVEL,
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
        p_value=test.global_p if tested else None,
        p_floor=test.p_floor if tested else None,
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


def _votes_as_json(predictions: Predictions, names: NDArray[np.str_]) -> list[str]:
    quoted = [json.dumps(str(name), ensure_ascii=False) for name in names]
    unanimous = [f"{{{name}: {predictions.k}}}" for name in quoted]
    text = [unanimous[c] for c in predictions.modal_label]
    contested = np.flatnonzero(predictions.modal_votes < predictions.k)
    votes = np.sort(predictions.predicted[:, contested].T, axis=1)
    first = np.ones(votes.shape, dtype=bool)
    first[:, 1:] = votes[:, 1:] != votes[:, :-1]
    start = np.flatnonzero(first)
    count = np.diff(start, append=votes.size)
    # Most votes first; among equals the smallest class, which sorting has brought to the front.
    order = np.lexsort((-count, start // predictions.k))
    pairs = zip(votes.ravel()[start[order]].tolist(), count[order].tolist(), strict=True)
    pieces = [f"{quoted[c]}: {n}" for c, n in pairs]
    end = 0
    for image, classes in zip(contested.tolist(), first.sum(axis=1).tolist(), strict=True):
        begin, end = end, end + classes
        text[image] = f"{{{', '.join(pieces[begin:end])}}}"
    return text


def _mean_margin(predictions: Predictions) -> "pd.Series[float]":
    if predictions.margin is None:
        return pd.Series(pd.NA, index=range(predictions.n), dtype="Float64")
    return pd.Series(predictions.margin.mean(axis=0), dtype="Float64")


def _accuracy(
    predictions: Predictions, label: NDArray[np.int64] | None, where: NDArray[np.bool_]
) -> float | None:
    if label is None or not where.any():
        return None
    return float((predictions.predicted[:, where] == label[where]).mean())

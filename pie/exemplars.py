"""Compression Identified Exemplars: the images whose votes change most, and those that were right before."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from pie.identify import PieTable
from population.errors import InputError


@dataclass(frozen=True, eq=False)
class Top:
    """The images at the top of a ranking.

    Attributes:
        chosen: the images with ``score >= cut`` and ``score > 0``, shape (N,).
        wanted: number of images asked for, ``round(share * N)`` and at least 1.
        cut: score of the image at that place of the ranking; 0 where fewer images have a score at all.
        tied: chosen images whose score is ``cut``. All of them are in, so the set may be larger than
            wanted; ``chosen.sum() - tied`` images lie above the cut.
    """

    chosen: NDArray[np.bool_]
    wanted: int
    cut: float
    tied: int


@dataclass(frozen=True, eq=False)
class Exemplars:
    """Images that compression changes, by two rules of choice.

    Attributes:
        share: of the images, asked for by distance.
        cut: distance at the cut of the ranking (see ``Top``).
        tied: images at the cut, all of them chosen.
        modal: number of images whose modal label changes (PIEs).
        taxicab: number of images chosen by distance.
        both: number of images in both sets.
        modal_right: modal exemplars whose dense modal label is right.
        taxicab_right: taxicab exemplars whose dense modal label is right. Both are None without labels.
        samples: one row per image, in the order of the table given: sample_id, modal, taxicab (whether it is
            an exemplar), distance, rank (1 for the largest distance; equal ones share the smallest rank),
            reference_right (whether the dense modal label is right, missing without labels).
    """

    share: float
    cut: float
    tied: int
    modal: int
    taxicab: int
    both: int
    modal_right: int | None
    taxicab_right: int | None
    samples: pd.DataFrame


def find_exemplars(pies: PieTable, *, share: float) -> Exemplars:
    """Chooses exemplars by changed modal label, and by distance between the votes.

    Modal and taxicab exemplars as in Hooker et al. 2020 (arXiv 2010.03058): the first are the PIEs, the
    second the top percentile by the taxicab distance between the vote counts of an image. Distances take few
    values, so ties at the cut are common; they are kept and counted. An image whose votes do not change is
    never an exemplar.

    The counts ``*_right`` follow the CIE-U of Joseph et al. 2020 (arXiv 2012.01604), mismatches where the
    reference is right. Deviation: the reference is the dense modal label, theirs a single network
    (for which see ``pie.flips``).

    Args:
        pies: of ``find_pies``.
        share: of the images to choose by distance, in (0, 1]; 0.01 is the top percentile.

    Returns:
        Both sets.

    Raises:
        InputError: if the share is out of range.
    """
    table = pies.samples
    distance = table["distance"].to_numpy(dtype=np.float64)
    top = top_images(distance, share=share)
    modal = table["pie"].to_numpy(dtype=np.bool_)
    right = pd.Series([pd.NA] * len(table), dtype="boolean")
    modal_right = taxicab_right = None
    if pies.forgotten is not None:
        right[:] = table["label"] == table["modal_dense"]
        modal_right, taxicab_right = int(right[modal].sum()), int(right[top.chosen].sum())
    return Exemplars(
        share=share,
        cut=top.cut,
        tied=top.tied,
        modal=int(modal.sum()),
        taxicab=int(top.chosen.sum()),
        both=int((modal & top.chosen).sum()),
        modal_right=modal_right,
        taxicab_right=taxicab_right,
        samples=pd.DataFrame(
            {
                "sample_id": table["sample_id"],
                "modal": modal,
                "taxicab": top.chosen,
                "distance": distance,
                "rank": rank(distance),
                "reference_right": right,
            }
        ),
    )


def top_images(score: NDArray[np.float64], *, share: float) -> Top:
    """Chooses the images with the largest scores, with all ties at the cut.

    Args:
        score: how much an image changes, shape (N,), not negative; 0 for not at all.
        share: of the images, in (0, 1].

    Returns:
        The images; none with score 0.

    Raises:
        InputError: if the share is out of range, or a score is negative or not finite.
    """
    if not 0 < share <= 1:
        raise InputError(f"the share of images to choose must be in (0, 1], not {share}")
    if not (np.isfinite(score).all() and (score >= 0).all()):
        raise InputError("scores must be finite and not negative")
    wanted = max(1, round(share * len(score)))
    cut = float(np.partition(score, -wanted)[-wanted])
    chosen = (score >= cut) & (score > 0)
    return Top(chosen, wanted, cut, int((chosen & (score == cut)).sum()))


def rank(score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Ranks images from the largest score, which has rank 1; equal scores share the smallest rank."""
    ranks: NDArray[np.int64] = rankdata(-score, method="min").astype(np.int64)
    return ranks

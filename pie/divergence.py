"""How far the probabilities of two populations lie apart, image by image: PIEs without a threshold."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pie.exemplars import rank
from population.errors import InputError
from population.pairing import Design, compare
from population.predictions import Predictions
from population.resampling import partitions, sign_flips

Floats = NDArray[np.float64]

_BLOCK = 2**18  # float64 entries at a time (2 MiB): what stays near the processor
_DECIMALS = 12  # of what is equal on paper; sums of another order differ beyond them
_SUM_TO_ONE = 1e-3  # probabilities stored with few digits pass


@dataclass(frozen=True, eq=False)
class Divergence:
    """Jensen-Shannon divergence between the mean probabilities of two populations.

    Attributes:
        design: "paired" or "independent".
        mean: over images, bits, in [0, 1].
        p_value: permutation p of "compression changes no probability", over all images together.
        p_floor: smallest p-value this test can give. Both are None for single networks.
        samples: one row per image, in the order of the dense predictions: sample_id, divergence (bits, in
            [0, 1]), rank (1 for the largest; equal ones share the smallest rank).
    """

    design: Design
    mean: float
    p_value: float | None
    p_floor: float | None
    samples: pd.DataFrame


def mean_divergence(dense: Predictions, compressed: Predictions, *, design: Design, seed: int) -> Divergence:
    """Measures the divergence between mean probabilities, and tests whether probabilities change at all.

    H((p + q) / 2) - (H(p) + H(q)) / 2 with H the entropy in bits, and p and q the probabilities of an image
    averaged over the dense and the compressed networks: 0 where they are equal, 1 where they share no class
    (Lin 1991, IEEE Trans. Inf. Theory 37). It also sees images whose networks become less sure and keep
    their label.

    Test: as in ``find_pies``, with the mean divergence over images as the statistic; whole networks are
    swapped within pairs, or divided anew. Averages of K networks differ by chance the more the smaller K
    is, so only the test, not the value, says whether there is more than that. Its cost grows with images x
    classes x rearrangements: on one core .5 s for 10,000 images of 10 classes and 10 pairs, 47 s for 1,000
    images of 1,000 classes and 30 pairs.

    Args:
        dense: of K networks with probabilities, before.
        compressed: of K' networks with probabilities, after; samples are matched by id.
        design: "paired" where compressed member m was made from dense member m, else "independent".
        seed: of the drawn rearrangements.

    Returns:
        Mean, p-value and the table of all images.

    Raises:
        InputError: if probabilities are not stored, do not sum to 1 or differ in the number of classes, or
            the two cannot be compared (see ``population.pairing``).
    """
    matched = compare(dense, compressed, design=design)
    before = _probabilities(matched.dense, "dense")
    after = _probabilities(matched.compressed, "compressed")
    if before.shape[2] != after.shape[2]:
        raise InputError(f"there are {before.shape[2]} classes before and {after.shape[2]} after compression")
    rng = np.random.default_rng(seed)
    if design == "paired":
        rearrangements = sign_flips(dense.k, rng=rng)
        stays = rearrangements.weights.T > 0
        in_dense = np.hstack([stays, ~stays])
    else:
        rearrangements = partitions(dense.k, compressed.k, rng=rng)
        in_dense = rearrangements.weights.T < 0
    divergence, total = np.empty(dense.n), np.zeros(len(in_dense))
    step = max(1, _BLOCK // (len(in_dense) * before.shape[2]))
    for start in range(0, dense.n, step):
        block = slice(start, start + step)
        networks = np.concatenate([before[:, block], after[:, block]]).astype(np.float64)
        found = _divergences(networks, in_dense)
        divergence[block] = np.round(found[0], _DECIMALS)
        total += found.sum(axis=1)
    means = np.round(total / dense.n, _DECIMALS)
    return Divergence(
        design=design,
        mean=float(means[0]),
        p_value=None if matched.single else float((means >= means[0]).mean()),
        p_floor=None if matched.single else rearrangements.p_floor,
        samples=pd.DataFrame(
            {"sample_id": matched.dense.sample_id, "divergence": divergence, "rank": rank(divergence)}
        ),
    )


def _probabilities(predictions: Predictions, side: str) -> NDArray[np.float32]:
    if predictions.probabilities is None:
        raise InputError(f"divergence needs class probabilities, and the {side} predictions have none")
    sums = predictions.probabilities.sum(axis=2)
    worst = float(sums.flat[np.abs(sums - 1).argmax()])
    if abs(worst - 1) > _SUM_TO_ONE:
        raise InputError(
            f"probabilities must sum to 1 over the classes; in the {side} predictions one sum is {worst:.4g}"
        )
    return predictions.probabilities


def _divergences(networks: Floats, in_dense: NDArray[np.bool_]) -> Floats:
    """Divergence of every image under every rearrangement, shape (R, images).

    Args:
        networks: probabilities of all networks, shape (members, images, C).
        in_dense: the networks that count as dense, shape (R, members), as many in each row.
    """
    k = int(in_dense[0].sum())
    dense_sum = np.tensordot(in_dense.astype(np.float64), networks, axes=1)
    dense = dense_sum / k
    # Rounding may leave a sum of nothing a little below 0.
    compressed = np.maximum(networks.sum(axis=0) - dense_sum, 0) / (len(networks) - k)
    middle = _entropy((dense + compressed) / 2)
    return np.clip(middle - (_entropy(dense) + _entropy(compressed)) / 2, 0, 1)


def _entropy(probabilities: Floats) -> Floats:
    # Several times as fast as scipy.special.entr; 0 log 0 is 0 here too.
    logarithms = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    bits: Floats = -np.einsum("...c,...c->...", probabilities, logarithms) / np.log(2)
    return bits

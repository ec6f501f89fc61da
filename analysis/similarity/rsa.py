"""Representational similarity analysis (RSA): do two networks find the same pairs of images alike?

Kriegeskorte et al. 2008 (doi 10.3389/neuro.06.004.2008). The dissimilarity of two images in one network is 1
less the Pearson correlation of their features. Two networks are compared by Spearman's rank correlation
over all pairs of images.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from analysis.similarity.cka import check_finite, check_pair
from population.errors import InputError

_ROUNDING = 1e-12
"""Features of an image vary if their variance is above this share of their mean square (float64)."""

_DECIMALS = 12
"""Dissimilarities that are equal to so many decimals tie; the rest is rounding."""


def rsa(x: Tensor, y: Tensor) -> float:
    """Compares two representations of the same samples by RSA.

    It does not change when features are put in another order, nor when the features of any sample are
    multiplied by a positive number or all get the same number added. A rotation of the features does
    change it a little, since it changes their mean.

    Args:
        x: features of the first network, shape (n, p), n >= 4, p >= 2. Time and memory grow with n^2.
        y: features of the second network, shape (n, q), q >= 2.

    Returns:
        In [-1, 1]; about 0 for unrelated features.

    Raises:
        InputError: if the shapes disagree, n < 4, all features of a sample are equal, or all pairs of
            samples are equally alike.
    """
    check_pair(x, y)
    return rank_correlation(dissimilarity_ranks(x), dissimilarity_ranks(y))


def dissimilarity_ranks(features: Tensor) -> NDArray[np.float32]:
    """Ranks the dissimilarities of all pairs of samples; ties share their mean rank.

    Args:
        features: shape (n, p).

    Returns:
        Centred ranks scaled to norm 1, shape (n (n - 1) / 2,), of the pairs above the diagonal.

    Raises:
        InputError: if all features of a sample, or all dissimilarities, are equal, or features are not
            finite.
    """
    check_finite(features)
    wide = features.double()
    centred = wide - wide.mean(dim=1, keepdim=True)
    size = centred.norm(dim=1, keepdim=True)
    if bool((size.square() <= _ROUNDING * wide.square().sum(dim=1, keepdim=True)).any()):
        raise InputError("all features of an image are equal: RSA is undefined")
    unit = centred / size
    rows, columns = torch.triu_indices(len(unit), len(unit), offset=1)
    ranks = rankdata(np.round(1 - (unit @ unit.T)[rows, columns].cpu().numpy(), _DECIMALS))
    ranks -= ranks.mean()
    norm = float(np.linalg.norm(ranks))
    if norm == 0:
        raise InputError("all pairs of images are equally alike: RSA is undefined")
    scaled: NDArray[np.float32] = (ranks / norm).astype(np.float32)
    return scaled


def rank_correlation(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Spearman's correlation of two results of ``dissimilarity_ranks``."""
    return float(np.dot(first, second))

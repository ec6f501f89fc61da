"""Procrustes distance: how far two representations stay apart after the best rotation.

Both are centred and scaled to Frobenius norm 1. With ``|A'B|_*`` the sum of singular values of ``A'B``,
the least distance ``min |A Q - B|_F`` over orthogonal Q is ``sqrt(2 - 2 |A'B|_*)`` (Schoenemann 1966; as a
measure of representations Ding et al. 2021, arXiv 2108.01661, and Williams et al. 2021, arXiv 2110.14739).
Where widths differ, the narrower representation is taken as having further features that are zero.
"""

import math

import torch
from torch import Tensor

from analysis.similarity.cka import check_finite, check_pair
from population.errors import InputError


def procrustes_similarity(x: Tensor, y: Tensor) -> float:
    """Compares two representations of the same samples by ``|A'B|_*``.

    It does not change when either is rotated, scaled by a number or shifted as a whole.

    Args:
        x: features of the first network, shape (n, p), n >= 4.
        y: features of the second network, shape (n, q).

    Returns:
        In [0, 1]; 1 where a rotation, a scale and a shift make them equal. Unrelated features
        give more than 0, the more the wider they are; ``1 - distance^2 / 2`` of the distance below.

    Raises:
        InputError: if the shapes disagree, n < 4, or a representation does not vary over the samples.
    """
    check_pair(x, y)
    return aligned_similarity(unit_features(x), unit_features(y))


def procrustes_distance(x: Tensor, y: Tensor) -> float:
    """Returns ``sqrt(2 - 2 similarity)``, in [0, sqrt(2)], a metric; see ``procrustes_similarity``."""
    return math.sqrt(2 - 2 * procrustes_similarity(x, y))


def unit_features(features: Tensor) -> Tensor:
    """Centres features and scales them to Frobenius norm 1, in float64.

    Features of more columns than samples are turned into as many columns as samples with the same
    inner products; no rotation matters here, so that no value changes.

    Args:
        features: shape (n, p).

    Returns:
        Shape (n, min(n, p)).

    Raises:
        InputError: if the features do not vary over the samples, or are not finite.
    """
    check_finite(features)
    wide = features.double()
    # One sample is taken out first, so that equal rows become exactly zero.
    centred = wide - wide[:1]
    centred = centred - centred.mean(dim=0)
    size = centred.norm()
    if size == 0:
        raise InputError("features do not vary over the images: Procrustes distance is undefined")
    unit: Tensor = centred / size
    if unit.shape[1] > len(unit):
        values, vectors = torch.linalg.eigh(unit @ unit.T)
        unit = vectors * values.clamp(min=0).sqrt()
    return unit


def aligned_similarity(first: Tensor, second: Tensor) -> float:
    """Sum of singular values of ``first' second`` for two results of ``unit_features``."""
    # Rounding may lead past the bound.
    return min(1.0, float(torch.linalg.svdvals(first.T @ second.to(first.device)).sum()))

"""Mutual nearest neighbours: does an image have the same neighbours in two networks?

The share of an image's k nearest images that two networks have in common (Huh et al. 2024, arXiv 2405.07987,
who average it over images). It looks at the close surroundings alone, which CKA, Procrustes and RSA, all of
them ruled by large distances, hardly see. Deviation: cosine similarity of the raw features.
"""

import torch
from torch import Tensor

from analysis.similarity.cka import check_finite, check_pair
from population.errors import InputError

NEIGHBOURS = 10
"""k in the maps of layers."""

_BLOCK = 1024
"""Samples whose similarities to all others are held at once."""


def mutual_neighbours(x: Tensor, y: Tensor, *, k: int) -> float:
    """Compares two representations of the same samples by their k nearest neighbours.

    It does not change when either is rotated, or a sample multiplied by a positive number.

    Args:
        x: features of the first network, shape (n, p), n >= 4.
        y: features of the second network, shape (n, q).
        k: number of neighbours, 1 to n - 2.

    Returns:
        The mean share of neighbours in common, in [0, 1]; k / (n - 1) is expected by chance.

    Raises:
        InputError: if the shapes disagree, k does not fit, or all features of a sample are 0.
    """
    check_pair(x, y)
    return shared_neighbours(nearest(x, k=k), nearest(y, k=k))


def nearest(features: Tensor, *, k: int) -> Tensor:
    """Finds the k other samples that are nearest to each by cosine similarity.

    Args:
        features: shape (n, p).
        k: number of neighbours, 1 to n - 2 (all n - 1 would always agree).

    Returns:
        Indices of samples, shape (n, k). Among equally near samples the choice is arbitrary, but the same
        for the same features.

    Raises:
        InputError: if k does not fit, all features of a sample are 0, or features are not finite.
    """
    n = len(features)
    if not 1 <= k <= n - 2:
        raise InputError(f"the number of neighbours must be from 1 to {n - 2} for {n} images, not {k}")
    check_finite(features)
    wide = features.double()
    size = wide.norm(dim=1, keepdim=True)
    if bool((size == 0).any()):
        raise InputError("all features of an image are 0: it has no nearest neighbours by cosine")
    unit = wide / size
    found = []
    for rows in torch.split(torch.arange(n, device=unit.device), _BLOCK):
        similarity = unit[rows] @ unit.T
        similarity[torch.arange(len(rows)), rows] = -torch.inf
        found.append(similarity.topk(k, dim=1).indices)
    return torch.cat(found)


def shared_neighbours(first: Tensor, second: Tensor) -> float:
    """Mean share of common entries per row of two results of ``nearest``, in [0, 1]."""
    common = (first[:, :, None] == second.to(first.device)[:, None, :]).any(dim=2)
    return float(common.double().mean())

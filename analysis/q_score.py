"""Q-scores: does an image excite a few features strongly, or all of them alike?

Two published forms are in use under one name, and their values cannot be compared with each other. Both are
of one image's features h = (h_1, ..., h_D) scaled to length 1, so neither changes when h is multiplied by a
positive number. Mean and standard deviation are over the D features of the image; the standard deviation is
that of a population, with divisor D. The sample's, with D - 1, would make ``q_score_corti`` smaller by the
same factor ``sqrt((D - 1) / D)`` for every image, and changes no rank; in ``q_score_kalibhat`` it moves the
threshold. Values of encoders with different D are on different scales.
"""

import torch
from torch import Tensor

from population.errors import InputError

_ROUNDING = 1e-9


def q_score_corti(features: Tensor) -> Tensor:
    """The form in the code of Corti et al. 2022 (arXiv 2207.00200).

    ``((max h - mean h) / std h) / sum |h|``: how far the strongest feature stands out, and how sparse the
    features are.

    Args:
        features: shape (N, D), D >= 2.

    Returns:
        Shape (N,), float64, positive.

    Raises:
        InputError: if the features of an image are all 0, all equal or not finite; see ``varying``.
    """
    unit = _unit(features)
    z = (unit.amax(dim=1) - unit.mean(dim=1)) / unit.std(dim=1, correction=0)
    return z / unit.abs().sum(dim=1)


def q_score_kalibhat(features: Tensor) -> Tensor:
    """The form of a port of Kalibhat et al. (arXiv 2203.01881): how far the features that stand out do so.

    The mean of ``h - mean h`` over the features with ``h > mean h + std h``; 0 where there is none.

    Args:
        features: shape (N, D), D >= 2.

    Returns:
        Shape (N,), float64, at least 0.

    Raises:
        InputError: as ``q_score_corti``.
    """
    unit = _unit(features)
    above = unit - unit.mean(dim=1, keepdim=True)
    # Of features that have two values, half each, none is above: rounding must not make it so.
    out = above > (1 + _ROUNDING) * unit.std(dim=1, correction=0, keepdim=True)
    return (above * out).sum(dim=1) / out.sum(dim=1).clamp(min=1)


def varying(features: Tensor) -> Tensor:
    """Which images have a Q-score: those whose features are not all equal, and so not all 0.

    Args:
        features: shape (N, D).

    Returns:
        Shape (N,), boolean.
    """
    return features.amax(dim=1) > features.amin(dim=1)


def _unit(features: Tensor) -> Tensor:
    """Rows of length 1, in float64."""
    if features.ndim != 2 or features.shape[1] < 2:
        raise InputError(f"features must have shape (N, D) with D >= 2, not {(*features.shape,)}")
    if not bool(features.isfinite().all()):
        raise InputError("features must be finite")
    missing = int((~varying(features)).sum())
    if missing:
        raise InputError(
            f"the features of {missing} of {len(features)} images are all 0 or all equal: no Q-score"
        )
    wide = features.double()
    # The largest first, so that the squares of neither large nor small numbers are lost.
    scaled = wide / wide.abs().amax(dim=1, keepdim=True)
    unit: Tensor = scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return unit

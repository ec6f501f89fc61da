"""Which pixels speak for a class, by integrated gradients, and how alike two maps rank them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from analysis.explained import maps_in_batches
from analysis.inference import evaluating
from population.errors import InputError

MaskedFloats = np.ma.MaskedArray[tuple[int], np.dtype[np.float64]]


def integrated_gradients_maps(
    model: nn.Module, images: Tensor, targets: Tensor, *, steps: int, batch_size: int
) -> Tensor:
    """Attributes the score of one class to the pixels, by integrated gradients.

    ``(x - x0) * integral of df(x0 + a (x - x0))/dx over a in [0, 1]`` (Sundararajan et al. 2017, arXiv
    1703.01365) by Gauss-Legendre quadrature, summed over colour channels. The baseline ``x0`` is the
    black image, so black pixels get nothing by definition. A map sums to ``f(x) - f(x0)`` up to the
    error of the quadrature.

    Args:
        model: images to class scores, shape (N, C); any normalisation is inside it.
        images: shape (N, C, H, W), floating point in [0, 1]; moved batch by batch to the model's device.
        targets: class whose score is explained, shape (N,), integers.
        steps: points of the quadrature, at least 1; cost is this many forward and backward passes.
        batch_size: largest number of images in one pass, whatever the steps.

    Returns:
        Signed maps, shape (N, H, W), float32, on the CPU: positive pixels speak for the class.

    Raises:
        InputError: if shapes disagree, images are not in [0, 1], or a count is below 1.
    """
    from captum.attr import IntegratedGradients

    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        attributed: Tensor = IntegratedGradients(model).attribute(
            x,
            baselines=0,
            target=classes,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=batch_size,
        )
        return attributed.sum(dim=1)

    with evaluating(model):
        return maps_in_batches(model, images, targets, batch_size, explain)


def rank_correlation(a: Tensor, b: Tensor) -> MaskedFloats:
    """Correlates the ranks of the pixels of two maps (Spearman, ties get their mean rank).

    Args:
        a: maps, shape (N, H, W).
        b: maps, shape (N, H, W).

    Returns:
        One correlation per image, shape (N,), in [-1, 1]. It is masked where a map is constant (a dead
        network) and the correlation has no value: means leave it out, a data frame shows it as missing.

    Raises:
        InputError: if the shapes disagree.
    """
    if a.ndim != 3 or a.shape != b.shape:
        raise InputError(f"maps must have one shape (N, H, W), not {(*a.shape,)} and {(*b.shape,)}")
    ranks_a, ranks_b = _centred_ranks(a), _centred_ranks(b)
    covariance = (ranks_a * ranks_b).sum(axis=1)
    size = np.sqrt((ranks_a**2).sum(axis=1) * (ranks_b**2).sum(axis=1))
    # Under the mask lies NaN, so that a reader who drops the mask cannot take it for a result.
    values = np.divide(covariance, size, out=np.full(len(size), np.nan), where=size > 0)
    return np.ma.MaskedArray(values.clip(-1, 1), mask=size == 0, fill_value=np.nan)


def _centred_ranks(maps: Tensor) -> NDArray[np.float64]:
    flat = maps.flatten(start_dim=1).numpy(force=True)
    ranks: NDArray[np.float64] = rankdata(flat, axis=1)
    ranks -= (flat.shape[1] + 1) / 2
    return ranks


def mean_where_defined(members: Sequence[MaskedFloats]) -> MaskedFloats:
    """Means over members of masked values (N,); masked where no member has a value."""
    mean: Any = np.ma.stack(members).mean(axis=0)
    return np.ma.MaskedArray(mean.filled(np.nan), mask=np.ma.getmaskarray(mean), fill_value=np.nan)

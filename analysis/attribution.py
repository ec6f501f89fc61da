"""Which pixels speak for a class, before and after compression: integrated gradients, compared.

The target class is held fixed, so that two maps answer the same question. A rank correlation between
a dense and a compressed network says little alone: read it beside the same figure between two dense
networks of different seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from analysis.explained import check_explained
from analysis.inference import device_of, evaluating
from population.errors import InputError

MaskedFloats = np.ma.MaskedArray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class AttributionChange:
    """How the maps of N images change between M dense members and what they became.

    Attributes:
        spearman: mean over members of the rank correlation between each dense member's map and that of
            its own compressed form, shape (N,), in [-1, 1]; masked as in ``rank_correlation``.
        reference: the same between each dense member and the next one (the last with the first), that
            is, between two seeds, shape (N,). None where there is only one member.
        map_dense: mean map over the dense members, shape (N, H, W), float32.
        map_compressed: mean map over the compressed members, shape (N, H, W), float32.
    """

    spearman: MaskedFloats
    reference: MaskedFloats | None
    map_dense: NDArray[np.float32]
    map_compressed: NDArray[np.float32]


def attribution_change(
    dense: Sequence[nn.Module],
    compressed: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch_size: int,
) -> AttributionChange:
    """Compares integrated-gradients maps within pairs of a dense member and its compressed form.

    Args:
        dense: M >= 1 networks.
        compressed: the M networks made from them, in the same order.
        images: see ``integrated_gradients_maps``.
        targets: see ``integrated_gradients_maps``; the same for all networks.
        steps: see ``integrated_gradients_maps``.
        batch_size: see ``integrated_gradients_maps``.

    Returns:
        Correlations per image, and mean maps. Each network's maps are computed once.

    Raises:
        InputError: if the networks do not pair up, or an argument is unfit.
    """
    if len(dense) != len(compressed) or not dense:
        raise InputError(
            f"every dense network needs its compressed form; given are {len(dense)} and {len(compressed)}"
        )

    def maps_of(model: nn.Module) -> Tensor:
        return integrated_gradients_maps(model, images, targets, steps=steps, batch_size=batch_size)

    maps_dense = [maps_of(model) for model in dense]
    paired = []
    sum_compressed = torch.zeros_like(maps_dense[0])
    for own, model in zip(maps_dense, compressed, strict=True):
        other = maps_of(model)
        paired.append(rank_correlation(own, other))
        sum_compressed += other
    seeds = [
        rank_correlation(own, following)
        for own, following in zip(maps_dense, maps_dense[1:] + maps_dense[:1], strict=True)
    ]
    return AttributionChange(
        spearman=mean_where_defined(paired),
        reference=mean_where_defined(seeds) if len(dense) > 1 else None,
        map_dense=torch.stack(maps_dense).mean(dim=0).numpy(),
        map_compressed=(sum_compressed / len(dense)).numpy(),
    )


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

    check_explained(images, targets)
    if steps < 1 or batch_size < 1:
        raise InputError(f"steps and batch_size must be at least 1, not {steps} and {batch_size}")
    device = device_of(model)
    maps = torch.empty(len(images), *images.shape[2:])
    with evaluating(model):
        method = IntegratedGradients(model)
        for start in range(0, len(images), batch_size):
            chosen = slice(start, start + batch_size)
            attributed = method.attribute(
                images[chosen].to(device),
                baselines=0,
                target=targets[chosen].to(device),
                n_steps=steps,
                method="gausslegendre",
                internal_batch_size=batch_size,
            )
            maps[chosen] = attributed.sum(dim=1).detach().cpu()
    return maps


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

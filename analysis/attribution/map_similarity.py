"""How alike two attribution maps of one image are.

All functions take maps of shape (N, H, W) and give one value per image, masked where a map is constant (a
dead network, or a Grad-CAM without evidence): such a map points nowhere, so there is nothing to compare.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from population.errors import InputError

MaskedFloats = np.ma.MaskedArray[tuple[int], np.dtype[np.float64]]

#: Fraction of the pixels that count as the top of a map.
TOP = 0.1

_SSIM_PAD = 5  # of torchmetrics' Gaussian window, which mirrors so many pixels at the border


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
    _check_pair(a, b)
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


def top_k_iou(a: Tensor, b: Tensor) -> MaskedFloats:
    """Overlap of the pixels that speak most for the class: intersection over union.

    The top of a map are its k = ``max(1, round(TOP * H * W))`` largest values. Pixels that tie for the last
    of the k places share them in equal parts, so that the order of pixels does not matter; intersection and
    union are then sums of minima and maxima of these parts.

    Args:
        a: maps, shape (N, H, W).
        b: maps, shape (N, H, W).

    Returns:
        Shape (N,), in [0, 1]; two maps that know nothing of each other have ``k / (2 H W - k)`` on average,
        roughly (5 % at the top tenth).

    Raises:
        InputError: if the shapes disagree.
    """
    _check_pair(a, b)
    parts_a, parts_b = _top_parts(a), _top_parts(b)
    shared = torch.minimum(parts_a, parts_b).sum(dim=1) / torch.maximum(parts_a, parts_b).sum(dim=1)
    return _masked(shared, a, b)


def _top_parts(maps: Tensor) -> Tensor:
    flat = maps.flatten(start_dim=1).double()
    k = max(1, round(TOP * flat.shape[1]))
    last = flat.topk(k, dim=1).values[:, -1:]
    above, tied = flat > last, flat == last
    places = k - above.sum(dim=1, keepdim=True)
    return above + tied * (places / tied.sum(dim=1, keepdim=True))


def structural_similarity(a: Tensor, b: Tensor) -> MaskedFloats:
    """SSIM of two signed maps, each divided by its largest absolute value.

    Wang et al. 2004 (doi 10.1109/TIP.2003.819861) with a Gaussian window of standard deviation 1.5 and a data
    range of 2, as torchmetrics has it. Where both maps are near zero they count as alike, so that
    maps with a small bright spot have a high SSIM in any case: read it beside its floor.

    Args:
        a: maps, shape (N, H, W), H and W at least 6.
        b: maps, shape (N, H, W).

    Returns:
        Shape (N,), in [-1, 1].

    Raises:
        InputError: if the shapes disagree or the maps are too small for the window.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    _check_pair(a, b)
    if min(a.shape[1:]) <= _SSIM_PAD:
        raise InputError(f"SSIM needs maps of at least {_SSIM_PAD + 1} pixels a side, not {(*a.shape[1:],)}")
    if len(a) == 0:
        return _masked(torch.empty(0), a, b)
    value = structural_similarity_index_measure(
        _scaled(a)[:, None], _scaled(b)[:, None], data_range=2.0, reduction="none"
    )
    return _masked(torch.as_tensor(value).reshape(len(a)), a, b)


def _scaled(maps: Tensor) -> Tensor:
    largest = maps.abs().amax(dim=(1, 2), keepdim=True)
    return maps / torch.where(largest > 0, largest, 1)


def centroid_shift(a: Tensor, b: Tensor) -> MaskedFloats:
    """Distance between the centres of mass of the evidence for the class.

    Args:
        a: maps, shape (N, H, W); negative values are left out.
        b: maps, shape (N, H, W).

    Returns:
        Distance as a fraction of that between opposite corner pixels, shape (N,), in [0, 1]; masked also
        where a map has no positive value.

    Raises:
        InputError: if the shapes disagree.
    """
    _check_pair(a, b)
    height, width = a.shape[1:]
    shift = torch.linalg.vector_norm(_centroid(a) - _centroid(b), dim=1)
    longest = max(1.0, float(np.hypot(height - 1, width - 1)))
    result = _masked(shift / longest, a, b)
    no_evidence = ((a > 0).sum(dim=(1, 2)) == 0) | ((b > 0).sum(dim=(1, 2)) == 0)
    return np.ma.MaskedArray(result, mask=no_evidence.numpy(force=True), fill_value=np.nan)


def _centroid(maps: Tensor) -> Tensor:
    evidence = maps.double().clamp(min=0)
    mass = evidence.sum(dim=(1, 2))
    rows, columns = (torch.arange(n, dtype=torch.float64, device=maps.device) for n in maps.shape[1:])
    down, across = evidence.sum(dim=2) @ rows, evidence.sum(dim=1) @ columns
    return torch.stack([down, across], dim=1) / torch.where(mass > 0, mass, 1)[:, None]


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.ndim != 3 or a.shape != b.shape:
        raise InputError(f"maps must have one shape (N, H, W), not {(*a.shape,)} and {(*b.shape,)}")


def _masked(values: Tensor, a: Tensor, b: Tensor) -> MaskedFloats:
    constant = torch.zeros(len(a), dtype=torch.bool, device=a.device)
    for maps in (a, b):
        constant |= maps.amin(dim=(1, 2)) == maps.amax(dim=(1, 2))
    mask = constant.numpy(force=True)
    plain: NDArray[np.float64] = values.double().numpy(force=True)
    # Under the mask lies NaN, so that a reader who drops the mask cannot take it for a result.
    return np.ma.MaskedArray(np.where(mask, np.nan, plain), mask=mask, fill_value=np.nan)


#: Every measure by name; larger is more alike, but for ``centroid_shift``.
MEASURES: Mapping[str, Callable[[Tensor, Tensor], MaskedFloats]] = {
    "spearman": rank_correlation,
    "top_k_iou": top_k_iou,
    "ssim": structural_similarity,
    "centroid_shift": centroid_shift,
}


def mean_where_defined(members: Sequence[MaskedFloats]) -> MaskedFloats:
    """Means over members of masked values (N,); masked where no member has a value."""
    mean: Any = np.ma.stack(members).mean(axis=0)
    return np.ma.MaskedArray(mean.filled(np.nan), mask=np.ma.getmaskarray(mean), fill_value=np.nan)

"""Variance correction of merged channels without data."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import merge_axis
from compressors.contract import ChannelGroup, ChannelSlice, CompressionPlan
from population.errors import InputError


def corrected_scales(
    dense: nn.Module, compressed: nn.Module, plan: CompressionPlan, groups: Sequence[ChannelGroup]
) -> dict[str, Tensor]:
    """Scales of the norm layers that give merged channels the variance of their members.

    The mean of N_c unit-variance channels with mean correlation E[c] has the variance
    (N_c + (N_c^2 - N_c) E[c]) / N_c^2; the scale is divided by its root. E[c] is the mean cosine
    between different filters of the cluster, which is their correlation where inputs are
    uncorrelated and of equal variance (Fold-AR; Wang et al. 2025, arXiv 2502.10216, section 4 and
    appendix C). A cluster of one channel, as in filter pruning, needs no correction.

    Args:
        dense: the model before.
        compressed: the model after merging; it is not changed.
        plan: the clusters.
        groups: the dense model's groups.

    Returns:
        New tensors by name.

    Raises:
        InputError: if a merged layer has no affine BatchNorm of its own to hold the correction.
    """
    scales = {}
    for group in groups:
        clusters = plan.clusters.get(group.name)
        if clusters is None or np.bincount(clusters[clusters >= 0]).max() == 1:
            continue
        corrected = {layer for layer in group.norms.values() if layer is not None}
        missing = [layer for layer in group.producers if layer not in corrected]
        if missing:
            raise InputError(f"data-free repair needs a BatchNorm after {missing[0]}; choose another repair")
        for norm, layer in group.norms.items():
            if layer is None:
                continue
            weight = dict(compressed.named_parameters()).get(f"{norm}.weight")
            if weight is None:
                raise InputError(f"data-free repair needs a scale in {norm}; choose another repair")
            filters = dense.get_parameter(layer).detach()
            made = _slice(group, layer)
            per_row = _variance_factors(filters.flatten(1).double().cpu(), clusters[made.channels])
            scale = _slice(group, f"{norm}.weight")
            place = dict(zip(made.channels.tolist(), per_row.tolist(), strict=True))
            factor = torch.tensor([place[c] for c in scale.channels.tolist()], dtype=torch.float64)
            scales[f"{norm}.weight"] = weight.detach() * merge_axis(factor, 0, [(scale, clusters)]).to(weight)
    return scales


def _slice(group: ChannelGroup, tensor: str) -> ChannelSlice:
    return next(piece for piece in group.slices if piece.tensor == tensor and piece.role == "out")


def _variance_factors(filters: Tensor, clusters: NDArray[np.int64]) -> Tensor:
    """The factor of each row's cluster, shape (n,)."""
    factors = torch.ones(len(filters), dtype=torch.float64)
    for cluster in np.unique(clusters[clusters >= 0]):
        members = torch.from_numpy(np.flatnonzero(clusters == cluster))
        n, rows = len(members), filters[members]
        unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        # The sum of all cosines, the n on the diagonal included, is the squared norm of the sum; a
        # cluster whose filters cancel has no variance to restore.
        total = float(unit.sum(0).square().sum())
        if total > 1e-6 * n:
            factors[members] = n / total**0.5
    return factors

"""Variance correction of merged channels without data."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import merge_axis, parts_by_axis
from compressors.contract import ChannelGroup, ChannelSlice, CompressionPlan
from population.errors import InputError


def corrected_scales(
    dense: nn.Module, compressed: nn.Module, plan: CompressionPlan, groups: Sequence[ChannelGroup]
) -> dict[str, Tensor]:
    """Scales that give merged channels the variance of their members.

    The mean of N_c unit-variance channels with mean correlation E[c] has the variance
    (N_c + (N_c^2 - N_c) E[c]) / N_c^2; the scale is divided by its root. E[c] is the mean cosine
    between different filters of the cluster, which is their correlation where inputs are
    uncorrelated and of equal variance (Fold-AR; Wang et al. 2025, arXiv 2502.10216, section 4 and
    appendix C). A cluster of one channel, as in filter pruning, needs no correction.

    A layer with a batch norm of its own is corrected in the norm's scale, which leaves means alone. Where
    the layers that make a channel have none, but norms see it later (after a concatenation or a sum),
    it is corrected in these norms' scales, with the filters of all these layers side by side. Where no
    norm follows, the filters themselves are scaled, and their bias is kept.

    Args:
        dense: the model before.
        compressed: the model after merging; it is not changed.
        plan: the clusters.
        groups: the dense model's groups.

    Returns:
        New tensors by name.

    Raises:
        InputError: if a merged layer's norm has no scale.
    """
    state, small = dense.state_dict(), compressed.state_dict()
    factors: dict[tuple[str, int], Tensor] = {}
    for group in groups:
        clusters = plan.clusters.get(group.name)
        if clusters is None or np.bincount(clusters[clusters >= 0]).max() == 1:
            continue
        for piece, per_channel in _corrections(state, group, clusters):
            along = torch.ones(state[piece.tensor].shape[piece.axis], dtype=torch.float64)
            factor = factors.setdefault((piece.tensor, piece.axis), along)
            factor[torch.from_numpy(piece.positions)] = torch.from_numpy(per_channel[piece.channels])
    parts = parts_by_axis(plan, {g.name: g for g in groups})
    scales = {}
    for (tensor, axis), factor in factors.items():
        # A cluster has one factor, whether its positions are averaged or summed.
        merged = merge_axis(factor, 0, [(replace(p, role="out"), c) for p, c in parts[tensor, axis]])
        shape = [-1 if d == axis else 1 for d in range(small[tensor].dim())]
        scales[tensor] = small[tensor] * merged.reshape(shape).to(small[tensor])
    return scales


def _corrections(
    state: Mapping[str, Tensor], group: ChannelGroup, clusters: NDArray[np.int64]
) -> list[tuple[ChannelSlice, NDArray[np.float64]]]:
    """The slices to scale, each with a factor per channel."""
    makers: dict[str, list[ChannelSlice]] = defaultdict(list)
    for piece in group.slices:
        if piece.role == "out" and piece.tensor in group.producers:
            makers[piece.tensor].append(piece)
    own = {weight: norm for norm, weight in group.norms.items() if weight is not None}
    shared = [norm for norm, weight in group.norms.items() if weight is None]
    bare = [piece for weight, pieces in makers.items() if weight not in own for piece in pieces]
    corrections = []
    for weight, norm in own.items():
        factors = _variance_factors(_features(state, group, makers[weight]), clusters)
        corrections.append((_scale(group, norm), factors))
    normed = np.zeros(group.size, dtype=bool)
    normed[[c for weight in own for piece in makers[weight] for c in piece.channels.tolist()]] = True
    factors = _variance_factors(_features(state, group, bare), clusters)
    factors[normed] = 1.0
    seen = np.zeros(group.size, dtype=bool)
    for norm in shared if bare else ():
        scale = _scale(group, norm)
        seen[scale.channels] = True
        corrections.append((scale, factors))
    for piece in bare:
        if not (seen & ~normed)[piece.channels].all():
            factors = _variance_factors(_features(state, group, [piece]), clusters)
            corrections.append((piece, np.where(seen & ~normed, 1.0, factors)))
    return corrections


def _scale(group: ChannelGroup, norm: str) -> ChannelSlice:
    scale = next((p for p in group.slices if p.tensor == f"{norm}.weight" and p.role == "out"), None)
    if scale is None:
        raise InputError(f"data-free repair needs a scale in {norm}; choose another repair")
    return scale


def _features(state: Mapping[str, Tensor], group: ChannelGroup, pieces: Sequence[ChannelSlice]) -> Tensor:
    """Filters of each channel side by side, zero where a layer does not make it; shape (n, d)."""
    features = [torch.zeros(group.size, 0)]
    for piece in pieces:
        rows = state[piece.tensor].detach().cpu().moveaxis(piece.axis, 0).flatten(1)
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        wide = rows.new_zeros(group.size, rows.shape[1])
        wide[torch.from_numpy(piece.channels)] = rows[torch.from_numpy(piece.positions)]
        features.append(wide)
    return torch.cat(features, 1)


def _variance_factors(filters: Tensor, clusters: NDArray[np.int64]) -> NDArray[np.float64]:
    """The factor of each channel's cluster, shape (n,)."""
    factors = np.ones(len(filters))
    for cluster in np.unique(clusters[clusters >= 0]):
        members = np.flatnonzero(clusters == cluster)
        n, rows = len(members), filters[torch.from_numpy(members)]
        unit = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
        # The sum of all cosines, the n on the diagonal included, is the squared norm of the sum; a
        # cluster whose filters cancel has no variance to restore.
        total = float(unit.sum(0).square().sum())
        if n > 1 and total > 1e-6 * n:
            factors[members] = n / total**0.5
    return factors

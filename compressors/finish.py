"""From a plan to a result: build, repair, count. The same for every method."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import build_compressed
from compressors.contract import (
    Calibration,
    ChannelGroup,
    CompressionPlan,
    CompressionResult,
    CostChange,
    GroupChange,
    channels_kept,
    check_amount,
    check_finite,
    model_digest,
)
from compressors.cost import measure_cost
from compressors.exactness import is_exact, leave_inexact_dense
from compressors.groups import GroupSearch, find_groups
from compressors.repair.data_free import corrected_scales
from compressors.repair.least_squares import refit_layers
from compressors.repair.recalibrate import batchnorm_statistics
from population.errors import InputError, unknown_name
from population.spec import REPAIRS

#: Maps a group, some of its channels and a number k below theirs to a cluster in [0, k) for each of
#: these channels, or -1 where a channel is removed.
Choose = Callable[[ChannelGroup, NDArray[np.int64], int], NDArray[np.int64]]


def compress_channels(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    method: str,
    amount: float,
    choose: Choose,
    repair: str,
    calibration: Calibration | None,
) -> CompressionResult:
    """Shrinks every channel group to ``max(1, round(n (1 - amount)))`` channels.

    Args:
        model: the dense model; it is not changed.
        example_inputs: a batch that the model accepts.
        method: name for the plan.
        amount: fraction of channels to remove in every group, in [0, 1).
        choose: says which channels of a group become one.
        repair: one of ``REPAIRS``.
        calibration: batches of inputs for ``bn`` and ``least-squares``.

    Raises:
        InputError: if an argument is out of range, or the model cannot be traced or holds NaN.
    """
    check_amount(amount)
    check_finite(model)
    search = leave_inexact_dense(model, find_groups(model, example_inputs), example_inputs)
    clusters = {g.name: _group_clusters(g, amount, choose) for g in search.groups}
    if not is_exact(model, search.groups, clusters, example_inputs):
        raise InputError("the model combines channels in a way that does not allow to merge or remove them")
    plan = CompressionPlan(method, model_digest(model), clusters)
    return finish(
        model,
        plan,
        search,
        example_inputs=example_inputs,
        amount=amount,
        repair=repair,
        calibration=calibration,
    )


def finish(
    model: nn.Module,
    plan: CompressionPlan,
    search: GroupSearch,
    *,
    example_inputs: Tensor | None,
    amount: float,
    repair: str,
    calibration: Calibration | None,
) -> CompressionResult:
    """Builds the compressed model of a plan, repairs it and counts its cost.

    Args:
        model: the dense model; it is not changed.
        plan: clusters or masks, without repaired tensors.
        search: the dense model's groups.
        example_inputs: a batch, or None where operations need not be counted.
        amount: as requested.
        repair: ``none``, ``data-free`` (merged channels' variance), ``bn`` (statistics re-estimated) or
            ``least-squares`` (changed layers fitted again).
        calibration: batches of inputs for the last two.
    """
    if repair not in REPAIRS:
        raise unknown_name("repair", repair, REPAIRS)
    compressed = build_compressed(model, plan, search.groups)
    images = 0
    if repair == "data-free":
        plan = replace(plan, tensors=corrected_scales(model, compressed, plan, search.groups))
    elif repair == "bn":
        statistics = batchnorm_statistics(compressed, calibration)
        plan, images = replace(plan, tensors=statistics.tensors), statistics.images
    elif repair == "least-squares":
        if plan.masks:
            raise InputError("least-squares repair is for methods that remove channels; choose bn or none")
        refit = refit_layers(model, compressed, plan, search.groups, calibration)
        plan, images = replace(plan, tensors=refit.tensors), refit.images
    if plan.tensors:
        compressed = build_compressed(model, plan, search.groups)
    changes = _group_changes(search.groups, plan, amount)
    cost = CostChange(
        before=measure_cost(model, example_inputs, {}),
        after=measure_cost(compressed, example_inputs, plan.masks),
        requested=amount,
        achieved=_achieved(changes, plan),
        groups=changes,
        left_dense=search.left_dense,
    )
    return CompressionResult(compressed, plan, cost, images)


def _group_clusters(group: ChannelGroup, amount: float, choose: Choose) -> NDArray[np.int64]:
    """Clusters of a whole group, chosen block by block, since channels of two blocks cannot be one."""
    clusters = np.arange(group.size)
    for block in np.unique(group.blocks[group.blocks >= 0]):
        channels = np.flatnonzero(group.blocks == block)
        k = channels_kept(len(channels), amount)
        if k < len(channels):
            chosen = choose(group, channels, k)
            # A cluster is numbered by its first channel, so that blocks do not share a number.
            first = np.array([np.flatnonzero(chosen == c)[0] for c in range(k)])
            clusters[channels] = np.where(chosen < 0, -1, channels[first[chosen]])
    kept = clusters >= 0
    clusters[kept] = np.unique(clusters[kept], return_inverse=True)[1]
    return clusters


def _group_changes(
    groups: Sequence[ChannelGroup], plan: CompressionPlan, amount: float
) -> tuple[GroupChange, ...]:
    changes = []
    for group in groups:
        if group.name in plan.clusters:
            clusters = plan.clusters[group.name]
            after = len(np.unique(clusters[clusters >= 0]))
            changes.append(GroupChange(group.name, group.size, after, amount, 1 - after / group.size))
    return tuple(changes)


def _achieved(changes: Sequence[GroupChange], plan: CompressionPlan) -> float:
    if plan.masks:
        total = sum(m.numel() for m in plan.masks.values())
        return sum(int((~m).sum()) for m in plan.masks.values()) / total
    before = sum(c.channels_before for c in changes)
    return 1 - sum(c.channels_after for c in changes) / before if before else 0.0

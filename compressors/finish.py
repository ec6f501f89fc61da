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
from compressors.groups import GroupSearch, find_groups
from compressors.repair.data_free import corrected_scales
from compressors.repair.recalibrate import batchnorm_statistics
from population.errors import unknown_name

REPAIRS = ("none", "data-free", "bn")


def compress_channels(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    method: str,
    amount: float,
    choose: Callable[[ChannelGroup, int], NDArray[np.int64]],
    repair: str,
    calibration: Calibration | None,
) -> CompressionResult:
    """Shrinks every channel group to ``max(1, round(n (1 - amount)))`` channels.

    Args:
        model: the dense model; it is not changed.
        example_inputs: a batch that the model accepts.
        method: name for the plan.
        amount: fraction of channels to remove in every group, in [0, 1).
        choose: maps a group and the number of channels k to a cluster in [0, k) per channel, or -1
            for channels that are removed.
        repair: ``none``, ``data-free`` or ``bn``.
        calibration: batches of inputs for ``bn``.

    Raises:
        InputError: if an argument is out of range, or the model cannot be traced or holds NaN.
    """
    check_amount(amount)
    check_finite(model)
    search = find_groups(model, example_inputs)
    clusters = {
        g.name: choose(g, k) if (k := channels_kept(g.size, amount)) < g.size else np.arange(g.size)
        for g in search.groups
    }
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
        repair: ``none``, ``data-free`` (merged channels' variance) or ``bn``.
        calibration: batches of inputs for ``bn``.
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

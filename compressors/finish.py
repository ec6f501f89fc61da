"""From a plan to a result: build, repair, count. The same for every method."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.allocation import Errors, channel_counts
from compressors.apply import build_compressed
from compressors.budget import Budget, as_budget, groups_to_change
from compressors.contract import (
    Calibration,
    ChannelGroup,
    CompressionPlan,
    CompressionResult,
    CostChange,
    GroupChange,
    check_amount,
    check_finite,
    model_digest,
)
from compressors.cost import measure_cost
from compressors.exactness import leave_inexact_dense
from compressors.groups import GroupSearch, find_groups
from compressors.parts import GroupPart, divide
from compressors.repair.data_free import corrected_scales
from compressors.repair.least_squares import refit_layers
from compressors.repair.recalibrate import batchnorm_statistics
from population.errors import InputError, unknown_name
from population.spec import REPAIRS

#: Maps a group, some of its channels and a number k below theirs to a cluster in [0, k) for each of
#: these channels, or -1 where a channel is removed.
Choose = Callable[[ChannelGroup, NDArray[np.int64], int], NDArray[np.int64]]


@dataclass(frozen=True)
class Decisions:
    """How a method decides for the groups of one model.

    Attributes:
        choose: which channels become one.
        errors: what that loses.
    """

    choose: Choose
    errors: Errors


def compress_channels(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    method: str,
    amount: float,
    budget: Budget | str,
    decide: Callable[[Sequence[ChannelGroup]], Decisions],
    repair: str,
    calibration: Calibration | None,
) -> CompressionResult:
    """Shrinks every channel group as far as a budget says.

    Every group is tried with random clusters before, and left dense if they do not merge exactly.

    Args:
        model: the dense model; it is not changed.
        example_inputs: a batch that the model accepts.
        method: name for the plan.
        amount: fraction to remove, in [0, 1): of the channels of every group, or of what the budget
            spends.
        budget: how the amount is spread, or what it spends.
        decide: gives the method's decisions for the groups that may change.
        repair: one of ``REPAIRS``.
        calibration: batches of inputs for ``bn`` and ``least-squares``.

    Returns:
        The result of ``finish``. In its cost, ``requested`` of a group is the fraction of channels that
        the budget asks of it, before rounding to whole channels and multiples; where ``params`` or
        ``macs`` are spent, the one that was found. ``achieved`` of the whole is of what is spent, of
        channels for ``uniform``.

    Raises:
        InputError: if an argument is out of range, the budget cannot be met, or the model cannot be
            traced or holds NaN.
    """
    budget = as_budget(budget)
    check_amount(amount)
    check_finite(model)
    search = leave_inexact_dense(model, find_groups(model, example_inputs), example_inputs)
    search = groups_to_change(search, budget, amount)
    parts = [part for group in search.groups for part in divide(group, budget.multiple)]
    decisions = decide(search.groups)
    counts = channel_counts(
        model, example_inputs, parts, amount=amount, budget=budget, errors=decisions.errors
    )
    kept: dict[str, list[tuple[GroupPart, int]]] = {group.name: [] for group in search.groups}
    for part, k in zip(parts, counts.tolist(), strict=True):
        kept[part.group.name].append((part, k))
    clusters = {g.name: _group_clusters(g, kept[g.name], decisions.choose) for g in search.groups}
    result = finish(
        model,
        CompressionPlan(method, model_digest(model), clusters),
        search,
        example_inputs=example_inputs,
        amount=amount,
        repair=repair,
        calibration=calibration,
    )
    return replace(result, cost=_with_budget(result.cost, budget))


def _with_budget(cost: CostChange, budget: Budget) -> CostChange:
    uniform = budget.spend == "uniform"
    groups = tuple(
        replace(
            group, requested=budget.amounts.get(group.name, cost.requested if uniform else group.achieved)
        )
        for group in cost.groups
    )
    if uniform:
        return replace(cost, groups=groups)
    before, after = getattr(cost.before, budget.spend), getattr(cost.after, budget.spend)
    return replace(cost, groups=groups, achieved=1 - after / before if before else 0.0)


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


def _group_clusters(
    group: ChannelGroup, kept: Sequence[tuple[GroupPart, int]], choose: Choose
) -> NDArray[np.int64]:
    """Clusters of a whole group, chosen block by block, since channels of two blocks cannot be one."""
    clusters = np.arange(group.size)
    for part, k in kept:
        for channels in part.blocks if k < part.size else ():
            chosen = choose(group, channels, k)
            # A cluster is numbered by its first channel, so that blocks do not share a number.
            first = np.array([np.flatnonzero(chosen == c)[0] for c in range(k)])
            clusters[channels] = np.where(chosen < 0, -1, channels[first[chosen]])
    stay = clusters >= 0
    clusters[stay] = np.unique(clusters[stay], return_inverse=True)[1]
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

"""Coupled channel groups of a network, from a trace of one forward pass. Changes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.attention import head_groups
from compressors.blocks import Axes, channel_blocks, obstacle
from compressors.contract import ChannelGroup, ChannelPadding, ChannelSlice
from compressors.running import RUN_ERRORS, copy_model, run_model
from compressors.trace import FIXED, ZERO, Labels, Padding, Trace, trace_channels
from population.errors import InputError

_LAYERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class GroupSearch:
    """What ``find_groups`` found.

    Attributes:
        groups: groups that can be merged or pruned, in forward order.
        left_dense: per layer the reason why its output channels cannot.
    """

    groups: tuple[ChannelGroup, ...]
    left_dense: Mapping[str, str]


def find_groups(model: nn.Module, example_inputs: Tensor) -> GroupSearch:
    """Finds every set of channels that has to change together.

    Two channels are one where they meet in an operation (a residual sum, a depthwise convolution, a
    norm); channels that a layer makes together are of one group. So a group spans all that a layer's
    outputs ever meet: residual streams, concatenations, flattened maps.

    Args:
        model: any module; it is not changed.
        example_inputs: a batch that the model accepts.

    Returns:
        The groups, those in attention heads last. A group that meets the model's inputs or outputs, or
        an operation that is not understood, is left out, with the reason.

    Raises:
        InputError: if the model cannot be run on the example inputs or cannot be traced.
    """
    twin = copy_model(model).requires_grad_(True)
    run_model(twin, example_inputs, what="the example inputs")
    try:
        trace = trace_channels(twin, example_inputs)
    except RUN_ERRORS as error:
        raise InputError(f"the model cannot be traced ({type(error).__name__}: {error})") from error
    axes = {key: trace.channels.roots(labels) for key, labels in trace.axes.items()}
    made = {weight: axes[weight, axis, "out"] for weight, axis in trace.rows.items()}
    for roots in made.values():
        if len(np.unique(roots)) < len(roots):
            trace.channels.fix(roots, "its channels are combined with each other")
    groups: list[ChannelGroup] = []
    left_dense: dict[str, str] = {}
    for weights in _coupled_weights(made):
        roots = _ordered_union([made[weight] for weight in weights])
        reason = next((r for root in roots if (r := _reason(trace, root)) is not None), None)
        if reason is None:
            group = _group(trace, axes, weights, roots)
            reason = obstacle(trace, axes, group)
            if reason is None:
                groups.append(group)
                continue
        left_dense.update((_layer(weight), reason) for weight in weights)
    for name in trace.attention:
        groups += head_groups(name, cast("nn.MultiheadAttention", twin.get_submodule(name)))
        left_dense.pop(f"{name}.in_proj_weight", None)
    for name, module in twin.named_modules():
        if isinstance(module, _LAYERS) and (f"{name}.weight" if name else "weight") not in made:
            left_dense[name] = "it is not used, or in a way that is not understood"
    return GroupSearch(tuple(groups), left_dense)


def _reason(trace: Trace, root: int) -> str | None:
    return "its channels are inputs or constants" if root == FIXED else trace.channels.reason(root)


def _layer(weight: str) -> str:
    """Name of a weight's layer; of a weight that is not called ``weight``, its own."""
    module, _, leaf = weight.rpartition(".")
    return module if leaf == "weight" else weight


def _coupled_weights(made: Mapping[str, Labels]) -> list[list[str]]:
    """Weights that make a channel in common, directly or through others, in forward order."""
    group_of: dict[int, list[str]] = {}
    for weight, roots in made.items():
        before = {id(g): g for r in roots.tolist() if (g := group_of.get(r)) is not None}
        merged = [*(member for group in before.values() for member in group), weight]
        for root in {r for member in merged for r in made[member].tolist()}:
            group_of[root] = merged
    order = {weight: i for i, weight in enumerate(made)}
    groups = {id(g): sorted(g, key=order.__getitem__) for g in group_of.values()}
    return sorted(groups.values(), key=lambda weights: order[weights[0]])


def _ordered_union(parts: Sequence[Labels]) -> Labels:
    every = np.concatenate(parts)
    _, first = np.unique(every, return_index=True)
    return every[np.sort(first)]


def _group(trace: Trace, axes: Axes, weights: list[str], roots: Labels) -> ChannelGroup:
    number = {int(root): i for i, root in enumerate(roots)}
    slices = []
    for (tensor, axis, role), labels in axes.items():
        positions = np.flatnonzero(np.isin(labels, roots))
        if len(positions):
            channels = np.array([number[r] for r in labels[positions].tolist()], dtype=np.int64)
            conv_groups = trace.conv_groups.get(tensor, 1) if role == "in" else 1
            slices.append(ChannelSlice(tensor, axis, role, positions, channels, conv_groups))
    touched = {piece.tensor.rpartition(".")[0] for piece in slices}
    norms = {n: maker if maker in weights else None for n, maker in trace.norms.items() if n in touched}
    paddings, stay = _paddings(trace, number)
    return ChannelGroup(
        name=_layer(weights[0]),
        size=len(roots),
        producers=tuple(weights),
        norms=norms,
        slices=tuple(slices),
        blocks=channel_blocks(trace, axes, slices, len(roots), stay),
        paddings=paddings,
    )


def _paddings(trace: Trace, number: Mapping[int, int]) -> tuple[tuple[ChannelPadding, ...], set[int]]:
    """Zero paddings that meet the group, and the channels that zeros of fixed number meet."""
    found, stay = [], set()
    for padding in trace.paddings:
        roots = trace.channels.roots(padding.meets)
        channels = np.array([number.get(int(r), ZERO) for r in roots], dtype=np.int64)
        if (channels == ZERO).any():
            continue  # meets nothing, or another group
        if padding.module is None:
            stay |= set(_zeros(padding, channels).tolist())
        else:
            found.append(
                ChannelPadding(padding.module, padding.axis, padding.before, padding.after, channels)
            )
    return tuple(found), stay


def _zeros(padding: Padding, channels: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([channels[: padding.before], channels[len(channels) - padding.after :]])

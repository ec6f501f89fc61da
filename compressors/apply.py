"""A plan and a dense model make a new, really smaller model."""

import copy
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.contract import ChannelGroup, ChannelSlice, CompressionPlan, model_digest
from compressors.groups import find_groups
from population.errors import InputError


def apply_plan(model: nn.Module, plan: CompressionPlan, example_inputs: Tensor) -> nn.Module:
    """Rebuilds a compressed model from the dense one, bit for bit.

    Args:
        model: the dense model that the plan was made for; it is not changed.
        plan: clusters, masks and repaired tensors.
        example_inputs: a batch that the model accepts.

    Returns:
        A new module in eval mode.

    Raises:
        InputError: if the plan was made for another model.
    """
    if plan.model_digest != model_digest(model):
        raise InputError("the plan was made for a model with other weights")
    groups = find_groups(model, example_inputs).groups if plan.clusters else ()
    return build_compressed(model, plan, groups)


def build_compressed(model: nn.Module, plan: CompressionPlan, groups: Sequence[ChannelGroup]) -> nn.Module:
    """As ``apply_plan``, for groups that are already known."""
    by_name = {g.name: g for g in groups}
    for name, clusters in plan.clusters.items():
        if name not in by_name or by_name[name].size != len(clusters):
            raise InputError(f"the plan's group {name!r} of {len(clusters)} channels is not in the model")
    compressed = copy.deepcopy(model).eval()
    state = {name: t.detach() for name, t in compressed.state_dict().items()}
    for name, mask in plan.masks.items():
        state[name] = state[name] * mask.to(state[name].device)
    for (tensor, axis), parts in _parts_by_axis(plan, by_name).items():
        state[tensor] = _merge_axis(state[tensor], axis, parts)
    for name, value in plan.tensors.items():
        state[name] = value.to(state[name])
    for name, value in state.items():
        _replace_tensor(compressed, name, value)
    return compressed


_Part = tuple[ChannelSlice, NDArray[np.int64]]


def _parts_by_axis(
    plan: CompressionPlan, groups: dict[str, ChannelGroup]
) -> dict[tuple[str, int], list[_Part]]:
    """Which slices change each axis: several groups meet on one axis after a concatenation."""
    parts: dict[tuple[str, int], list[_Part]] = defaultdict(list)
    for name, clusters in plan.clusters.items():
        if len(np.unique(clusters)) == len(clusters) and clusters.min() >= 0:
            continue  # every channel stays as it is
        for piece in groups[name].slices:
            parts[piece.tensor, piece.axis].append((piece, clusters))
    return parts


def _merge_axis(tensor: Tensor, axis: int, parts: Sequence[_Part]) -> Tensor:
    """Replaces the positions of each cluster by their mean (role ``out``) or sum (role ``in``)."""
    # Positions with equal labels become one. A channel may have several positions (a flattened map):
    # the j-th position of one channel meets the j-th of another.
    label = np.arange(tensor.shape[axis])
    removed = np.zeros(len(label), dtype=bool)
    for piece, clusters in parts:
        cluster = clusters[piece.channels]
        removed[piece.positions] = cluster < 0
        first: dict[tuple[np.int64, np.int64], np.int64] = {}
        for position, key in zip(
            piece.positions, zip(cluster, _occurrence(piece.channels), strict=True), strict=True
        ):
            label[position] = first.setdefault(key, position)
    kept = np.flatnonzero(~removed)
    _, target = np.unique(label[kept], return_inverse=True)
    index = torch.from_numpy(kept).to(tensor.device)
    target_index = torch.from_numpy(target).to(tensor.device)
    shape = list(tensor.shape)
    shape[axis] = int(target.max()) + 1
    # Accumulated in float64, so that the mean of equal channels is that channel.
    wide = tensor.index_select(axis, index).double()
    merged = torch.zeros(shape, dtype=torch.float64, device=tensor.device).index_add_(
        axis, target_index, wide
    )
    if parts[0][0].role == "out":
        counts = torch.bincount(target_index).double()
        merged /= counts.reshape([-1 if d == axis else 1 for d in range(tensor.dim())])
    return merged.to(tensor.dtype)


def _occurrence(channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many times each channel has appeared before, along a slice."""
    order = np.argsort(channels, kind="stable")
    ordered = channels[order]
    start = np.searchsorted(ordered, ordered)
    count = np.empty_like(channels)
    count[order] = np.arange(len(channels)) - start
    return count


def _replace_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Puts a tensor in its module's place and sets the sizes that the module states of itself."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, value)
    if isinstance(module, nn.Linear) and leaf == "weight":
        module.out_features, module.in_features = value.shape
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and leaf == "weight":
        module.out_channels, module.in_channels = value.shape[0], value.shape[1] * module.groups
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and value.dim() == 1:
        module.num_features = value.shape[0]

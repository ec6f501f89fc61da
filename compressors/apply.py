"""A plan and a dense model make a new, really smaller model."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.attention import open_attention
from compressors.contract import ChannelGroup, ChannelPadding, ChannelSlice, CompressionPlan, model_digest
from compressors.groups import find_groups
from compressors.running import copy_model
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
        InputError: if the plan was made for another model, or is damaged.
    """
    if plan.model_digest != model_digest(model):
        raise InputError("the plan was made for a model with other weights")
    groups = find_groups(model, example_inputs).groups if plan.clusters else ()
    return build_compressed(model, plan, groups)


def build_compressed(model: nn.Module, plan: CompressionPlan, groups: Sequence[ChannelGroup]) -> nn.Module:
    """As ``apply_plan``, for groups that are already known."""
    compressed = copy_model(model)
    edit_model(compressed, plan, groups)
    return compressed


def edit_model(model: nn.Module, plan: CompressionPlan, groups: Sequence[ChannelGroup]) -> None:
    """Does in place what ``build_compressed`` does to a copy; tensors that change are new objects.

    Whether the model is in training mode stays as it was.
    """
    by_name = {g.name: g for g in groups}
    dense = model.state_dict(keep_vars=True)
    state = {name: t.detach() for name, t in dense.items()}
    _check_plan(plan, by_name, state)
    edits = parts_by_axis(plan, by_name)
    for name, mask in plan.masks.items():
        state[name] = state[name] * mask.to(state[name].device)
    # Each axis rounds to the tensor's type, so that their order has to be the same for a plan from a file.
    for (tensor, axis), parts in sorted(edits.items(), key=lambda item: item[0]):
        state[tensor] = merge_axis(state[tensor], axis, parts)
    for name, value in plan.tensors.items():
        if name not in state or state[name].shape != value.shape:
            raise InputError(f"the plan's tensor {name!r} does not fit the model")
        state[name] = value.to(state[name])
    edited = {*plan.masks, *plan.tensors, *(tensor for tensor, _ in edits)}
    open_attention(model, {tensor for tensor, _ in edits})
    # A tensor that has two names keeps both, so that what was shared stays shared.
    new = {id(dense[name]): _like(dense[name], state[name]) for name in edited}
    for name, old in dense.items():
        if id(old) in new:
            _replace_tensor(model, name, new[id(old)])
    for name, clusters in plan.clusters.items():
        for padding in by_name[name].paddings if changes(clusters) else ():
            path, _, leaf = padding.module.rpartition(".")
            select = SelectChannels(model.get_submodule(padding.module), padding, clusters)
            setattr(model.get_submodule(path), leaf, select.train(model.training))


class SelectChannels(nn.Module):
    """A module that pads with channels of zeros, and as many of them as still meet a channel."""

    index: Tensor

    def __init__(self, inner: nn.Module, padding: ChannelPadding, clusters: NDArray[np.int64]) -> None:
        super().__init__()
        self.inner = inner
        self.axis = padding.axis
        cluster = clusters[padding.channels]
        last = len(cluster) - padding.after
        _, first = np.unique(cluster, return_index=True)
        kept = [p for p in np.sort(first).tolist() if cluster[p] >= 0]
        real = [p for p in kept if padding.before <= p < last]
        place = {p: padding.before + i for i, p in enumerate(real)}
        place |= {
            p: p if p < padding.before else p - last + padding.before + len(real)
            for p in set(kept) - set(real)
        }
        self.register_buffer("index", torch.tensor([place[p] for p in kept]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps what the inner module takes to its output without the zeros that meet nothing."""
        padded: Tensor = self.inner(x)
        return padded.index_select(self.axis, self.index)


def _check_plan(plan: CompressionPlan, groups: dict[str, ChannelGroup], state: dict[str, Tensor]) -> None:
    for name, clusters in plan.clusters.items():
        if name not in groups or groups[name].size != len(clusters):
            raise InputError(f"the plan's group {name!r} of {len(clusters)} channels is not in the model")
        if clusters.min() < -1 or clusters.max() < 0:
            raise InputError(f"the plan's clusters of group {name!r} are not numbered from 0")
    for name, mask in plan.masks.items():
        if name not in state or state[name].shape != mask.shape or mask.dtype != torch.bool:
            raise InputError(f"the plan's mask {name!r} does not fit the model")


Part = tuple[ChannelSlice, NDArray[np.int64]]


def parts_by_axis(
    plan: CompressionPlan, groups: dict[str, ChannelGroup]
) -> dict[tuple[str, int], list[Part]]:
    """Which slices change each axis: several groups meet on one axis after a concatenation."""
    parts: dict[tuple[str, int], list[Part]] = defaultdict(list)
    for name, clusters in plan.clusters.items():
        for piece in groups[name].slices if changes(clusters) else ():
            parts[piece.tensor, piece.axis].append((piece, clusters))
    return parts


def changes(clusters: NDArray[np.int64]) -> bool:
    """Whether a group's clusters merge or remove any channel."""
    return len(np.unique(clusters)) < len(clusters) or bool(clusters.min() < 0)


def merge_axis(tensor: Tensor, axis: int, parts: Sequence[Part]) -> Tensor:
    """Replaces the positions of each cluster by their mean (role ``out``) or sum (role ``in``).

    Args:
        tensor: any tensor.
        axis: the axis that all parts are about.
        parts: slices with the clusters of their groups.

    Returns:
        The smaller tensor; what is left of each cluster is at the place of its first position.
    """
    conv_groups = parts[0][0].conv_groups
    tensor = spread_columns(tensor, conv_groups)
    # Positions with equal labels become one. A channel may have several positions (a flattened map):
    # the j-th position of one channel meets the j-th of another.
    label = np.arange(tensor.shape[axis])
    removed = np.zeros(len(label), dtype=bool)
    summed = np.zeros(len(label), dtype=bool)
    for piece, clusters in parts:
        cluster = clusters[piece.channels]
        summed[piece.positions] = piece.role == "in"
        removed[piece.positions] = cluster < 0
        first: dict[tuple[np.int64, np.int64], np.int64] = {}
        for position, key in zip(
            piece.positions, zip(cluster, occurrences(piece.channels), strict=True), strict=True
        ):
            label[position] = first.setdefault(key, position)
    kept = np.flatnonzero(~removed)
    _, target = np.unique(label[kept], return_inverse=True)
    target_index = torch.from_numpy(target)
    shape = list(tensor.shape)
    shape[axis] = int(target.max()) + 1
    # In float64, so that the mean of equal channels is that channel, and on the CPU, where the order
    # of the additions is fixed.
    wide = tensor.cpu().index_select(axis, torch.from_numpy(kept)).double()
    merged = torch.zeros(shape, dtype=torch.float64).index_add_(axis, target_index, wide)
    counts = np.bincount(target)
    counts[target[summed[kept]]] = 1
    merged /= torch.from_numpy(counts).reshape([-1 if d == axis else 1 for d in range(tensor.dim())])
    return gather_columns(merged.to(tensor), conv_groups)


def spread_columns(weight: Tensor, conv_groups: int) -> Tensor:
    """Puts the columns of all groups of a grouped convolution side by side.

    Args:
        weight: of g groups, shape (g n, m, ...).
        conv_groups: g.

    Returns:
        Shape (n, g m, ...): row i holds the i-th row of every group.
    """
    if conv_groups == 1:
        return weight
    rows = weight.reshape(conv_groups, -1, *weight.shape[1:]).transpose(0, 1)
    return rows.reshape(len(rows), -1, *weight.shape[2:])


def gather_columns(spread: Tensor, conv_groups: int) -> Tensor:
    """Undoes ``spread_columns``."""
    if conv_groups == 1:
        return spread
    rows = spread.reshape(len(spread), conv_groups, -1, *spread.shape[2:]).transpose(0, 1)
    return rows.reshape(-1, *rows.shape[2:])


def occurrences(channels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many times each channel has appeared before, along a slice."""
    order = np.argsort(channels, kind="stable")
    ordered = channels[order]
    start = np.searchsorted(ordered, ordered)
    count = np.empty_like(channels)
    count[order] = np.arange(len(channels)) - start
    return count


def _like(old: Tensor, value: Tensor) -> Tensor:
    return nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value


def _replace_tensor(model: nn.Module, name: str, value: Tensor) -> None:
    """Puts a tensor in its module's place and sets the sizes that the module states of itself."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    setattr(module, leaf, value)
    if isinstance(module, nn.Linear) and leaf == "weight":
        module.out_features, module.in_features = value.shape
    elif (
        isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)) and leaf == "weight"
    ):
        module.in_channels, module.out_channels = value.shape[0], value.shape[1]
    elif isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) and leaf == "weight":
        if module.groups == module.out_channels:  # depthwise, or a single channel
            module.groups = value.shape[0] if module.groups > 1 else 1
        module.out_channels, module.in_channels = value.shape[0], value.shape[1] * module.groups
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and value.dim() == 1:
        module.num_features = value.shape[0]

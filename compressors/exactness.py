"""Proof by trial that a group's channels can be merged and removed without side effects."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import build_compressed, gather_columns, spread_columns
from compressors.contract import ChannelGroup, CompressionPlan
from compressors.groups import GroupSearch
from compressors.running import RUN_ERRORS, copy_model
from population.errors import InputError

_REASON = "the network combines its channels in a way that does not allow to merge or remove them"

# Of the largest output, in float64; real faults are far above it, rounding is far below.
_TOLERANCE = 1e-6


def leave_inexact_dense(model: nn.Module, search: GroupSearch, example_inputs: Tensor) -> GroupSearch:
    """Takes out the groups whose channels meet in an operation that the tracing does not understand.

    A softmax or a norm over channels, a product between channels, a reordering, a hard-coded shape or
    an output that is also read inside all look elementwise to the tracing. So every group is tried
    with random clusters (see ``is_exact``).

    Args:
        model: the dense model; it is not changed.
        search: the groups that were found.
        example_inputs: a batch that the model accepts.

    Raises:
        InputError: if groups can be changed one by one, but not together.
    """
    clusters = {g.name: _random_clusters(g) for g in search.groups}
    if is_exact(model, search.groups, clusters, example_inputs):
        return search
    exact = tuple(
        g for g in search.groups if is_exact(model, [g], {g.name: clusters[g.name]}, example_inputs)
    )
    if not is_exact(model, exact, {g.name: clusters[g.name] for g in exact}, example_inputs):
        raise InputError("the model's channel groups depend on each other in a way that cannot be traced")
    left = {
        weight.removesuffix(".weight"): _REASON
        for g in search.groups
        if g not in exact
        for weight in g.producers
    }
    return GroupSearch(exact, {**search.left_dense, **left})


def is_exact(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    clusters: Mapping[str, NDArray[np.int64]],
    example_inputs: Tensor,
) -> bool:
    """Compares a compressed network with a dense one that should compute the same.

    In the dense one all channels of a cluster are copies of the first, and columns that read a removed
    channel are zero. Merging and removing then change no output, whatever the weights are.

    Args:
        model: any module; it is not changed.
        groups: groups to try together.
        clusters: per group name a cluster for each channel, -1 for a removed one.
        example_inputs: the shape of the first two is used, with random values in [0, 1) where they are
            floating point.
    """
    twin = copy_model(model).double()
    state = twin.state_dict()
    for group in groups:
        _plant(state, group, clusters[group.name])
    inputs = example_inputs[:2]
    if inputs.is_floating_point():
        inputs = torch.from_numpy(np.random.default_rng(0).random(tuple(inputs.shape))).to(inputs.device)
    try:
        small = build_compressed(twin, CompressionPlan("trial", "", clusters), groups)
        with torch.no_grad():
            expected, got = _tensors(twin(inputs)), _tensors(small(inputs))
    except RUN_ERRORS:
        return False
    return len(expected) == len(got) and all(map(_close, expected, got))


def _plant(state: dict[str, Tensor], group: ChannelGroup, clusters: NDArray[np.int64]) -> None:
    first = {int(c): i for i, c in reversed(list(enumerate(clusters)))}
    for piece in group.slices:
        spread = spread_columns(state[piece.tensor], piece.conv_groups)
        rows = spread.moveaxis(piece.axis, 0)
        cluster = clusters[piece.channels]
        if piece.role == "in":
            rows[torch.from_numpy(piece.positions[cluster < 0])] = 0
        else:
            place = dict(zip(piece.channels.tolist(), piece.positions.tolist(), strict=True))
            kept = torch.from_numpy(piece.positions[cluster >= 0])
            rows[kept] = rows[[place[first[c]] for c in cluster[cluster >= 0].tolist()]]
        state[piece.tensor].copy_(gather_columns(spread, piece.conv_groups))


def _random_clusters(group: ChannelGroup) -> NDArray[np.int64]:
    """Clusters of unequal sizes, so that no mean over channels stays by chance, and removed channels.

    Their number follows from the size of the block, and is odd where that leaves enough of them, since
    channels that a reshape divides are often divided by two.
    """
    rng = np.random.default_rng([*group.name.encode()])
    clusters = np.arange(group.size)
    for block in np.unique(group.blocks[group.blocks >= 0]):
        channels = rng.permutation(np.flatnonzero(group.blocks == block))
        n = len(channels)
        k = max(1, n - 1) if n < 5 else (2 * n // 3 - 1) // 2 * 2 + 1
        chosen = np.append(np.arange(k), rng.integers(-1, k, n - k))
        clusters[channels] = np.where(chosen < 0, -1, channels[chosen])
    return clusters


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, (list, tuple)):
        return [tensor for output in outputs for tensor in _tensors(output)]
    return []


def _close(expected: Tensor, got: Tensor) -> bool:
    if expected.shape != got.shape:
        return False
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return bool(torch.allclose(expected, got, rtol=0, atol=_TOLERANCE * scale))

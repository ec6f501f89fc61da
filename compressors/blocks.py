"""Which channels of a group may become one, where they do not all exist in the same places."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compressors.contract import ChannelGroup, ChannelSlice
from compressors.trace import Labels, Role, Trace

#: Why a layer of one channel stays dense.
SINGLE_CHANNEL = "it has a single channel"

#: Tensor, axis and role.
AxisName = tuple[str, int, Role]
#: Label of each position along an axis.
Axes = Mapping[AxisName, Labels]


def channel_blocks(
    trace: Trace,
    axes: Axes,
    slices: Sequence[ChannelSlice],
    size: int,
    stay: set[int],
) -> NDArray[np.int64]:
    """Numbers the sets of channels that are made and read in the same places; -1 for those that stay.

    That a channel is read in fewer places than another does not keep them apart, unless by different
    groups of a convolution.
    """
    places: dict[int, set[tuple[int, int]]] = defaultdict(set)
    for i, piece in enumerate(slices):
        part = _conv_group(trace, axes, (piece.tensor, piece.axis, piece.role), piece.positions)
        if part is None and piece.role == "out":
            part = np.zeros_like(piece.positions)
        if part is not None:
            for channel, j in zip(piece.channels.tolist(), part.tolist(), strict=True):
                places[channel].add((i, j))
    kinds: dict[frozenset[tuple[int, int]], int] = {}
    blocks = [kinds.setdefault(frozenset(places[c]), len(kinds)) for c in range(size)]
    return np.array([-1 if c in stay else b for c, b in enumerate(blocks)], dtype=np.int64)


def obstacle(trace: Trace, axes: Axes, group: ChannelGroup) -> str | None:
    """Why a group of understood channels cannot be reduced, or None."""
    if group.size == 1:
        return SINGLE_CHANNEL
    sizes = dict(zip(*np.unique(group.blocks, return_counts=True), strict=True))
    if max((n for block, n in sizes.items() if block >= 0), default=0) == 1:
        return "none of its channels can be merged with another"
    for piece in group.slices:
        key = (piece.tensor, piece.axis, piece.role)
        part = _conv_group(trace, axes, key, piece.positions)
        if part is None:
            continue
        if len(piece.positions) < len(axes[key]) or len(np.unique(piece.channels)) < len(piece.channels):
            return "its channels share a grouped convolution with others"
        blocks = group.blocks[piece.channels]
        kinds = {tuple(sorted(sizes[b] for b in np.unique(blocks[part == j]))) for j in np.unique(part)}
        if len(kinds) > 1 or (blocks < 0).any():
            return "groups of a convolution would keep unequal numbers of its channels"
    return None


def _conv_group(
    trace: Trace, axes: Axes, key: AxisName, positions: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """Group of a grouped convolution that each position along an axis belongs to; None elsewhere."""
    tensor, axis, role = key
    if tensor not in trace.conv_groups or axis != {"out": 0, "in": 1}[role]:
        return None
    return positions // (len(axes[key]) // trace.conv_groups[tensor])

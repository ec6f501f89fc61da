"""Parts of channel groups whose numbers of channels can be chosen apart."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compressors.contract import ChannelGroup

_Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class GroupPart:
    """Blocks of one group that are equally large, and so keep equally many channels.

    Attributes:
        group: the group.
        blocks: channels of each block, all of one length n.
        step: each block keeps a multiple of this many channels, or all.
    """

    group: ChannelGroup
    blocks: tuple[_Ints, ...]
    step: int

    @property
    def size(self) -> int:
        """Channels of each block, n."""
        return len(self.blocks[0])


def divide(group: ChannelGroup, multiple: int) -> list[GroupPart]:
    """Divides a group into parts whose numbers of channels can be chosen apart.

    Args:
        group: any group.
        multiple: what a layer that makes the channels keeps of a part is a multiple of this, or all.
    """
    blocks = [np.flatnonzero(group.blocks == block) for block in np.unique(group.blocks[group.blocks >= 0])]
    parts = []
    for size in sorted({len(block) for block in blocks}):
        same = tuple(block for block in blocks if len(block) == size)
        # Blocks that one layer makes (those of a grouped convolution) reach the multiple together.
        together = math.gcd(*_blocks_per_layer(group, same))
        parts.append(GroupPart(group, same, multiple // math.gcd(multiple, together)))
    return parts


def _blocks_per_layer(group: ChannelGroup, blocks: Sequence[_Ints]) -> Iterator[int]:
    for piece in group.slices:
        if piece.tensor in group.producers:
            yield sum(int(np.isin(block, piece.channels).all()) for block in blocks)

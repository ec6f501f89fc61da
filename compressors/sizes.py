"""What a model takes as a function of the channels that it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressors.attention import open_attention
from compressors.parts import GroupPart
from compressors.running import copy_model, run_model

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sizes:
    """Parameters or operations of a model of which P parts keep some of their channels.

    A tensor takes what it takes in the dense model, times what is left of each of its axes.

    Attributes:
        fixed: what no part changes.
        weights: what each tensor takes in the dense model, shape (T,).
        tensor: number of the tensor that each axis belongs to, shape (A,).
        length: of the axis in the dense model, shape (A,).
        stay: its positions that belong to no part, shape (A,).
        positions: its positions for each channel that a part's blocks keep, shape (A, P).
    """

    fixed: float
    weights: _Floats
    tensor: _Ints
    length: _Floats
    stay: _Floats
    positions: _Floats

    def total(self, kept: _Ints) -> float:
        """What the model takes with ``kept`` channels in each block of a part, shape (P,)."""
        return self.fixed + float(self._left(self.stay + self.positions @ kept).sum())

    def savings(self, kept: _Ints) -> _Floats:
        """What one channel less per block of a part would save, to first order, shape (P,)."""
        lengths = self.stay + self.positions @ kept
        saved: _Floats = (self._left(lengths)[self.tensor] / lengths) @ self.positions
        return saved

    def _left(self, lengths: _Floats) -> _Floats:
        left = self.weights.copy()
        np.multiply.at(left, self.tensor, lengths / self.length)
        return left


def measure_sizes(
    model: nn.Module, example_inputs: Tensor, parts: Sequence[GroupPart], count: Literal["params", "macs"]
) -> Sizes:
    """Finds out what each tensor of a model takes.

    The operations of a layer (by torch's FLOP counter, for one input) belong to its weights and shrink
    as they do. Operations outside of layers with weights are taken not to shrink.

    Args:
        model: the dense model.
        example_inputs: a batch that the model accepts.
        parts: P parts of its groups.
        count: parameters or multiply-accumulates.
    """
    if count == "params":
        takes, elsewhere = {name: float(p.numel()) for name, p in model.named_parameters()}, 0.0
    else:
        takes, elsewhere = _macs(model, example_inputs)
    owners: dict[tuple[str, int], _Ints] = {}
    for p, part in enumerate(parts):
        members = np.concatenate(part.blocks)
        for piece in part.group.slices:
            here = np.isin(piece.channels, members)
            if piece.tensor in takes and here.any():
                length = model.get_parameter(piece.tensor).shape[piece.axis] * piece.conv_groups
                owner = owners.setdefault((piece.tensor, piece.axis), np.full(length, -1))
                owner[piece.positions[here]] = p
    number = {name: t for t, name in enumerate(dict.fromkeys(tensor for tensor, _ in owners))}
    positions = np.zeros((len(owners), len(parts)))
    for row, owner in zip(positions, owners.values(), strict=True):
        np.add.at(row, owner[owner >= 0], 1)
    return Sizes(
        fixed=elsewhere + sum(value for name, value in takes.items() if name not in number),
        weights=np.array([takes[name] for name in number]),
        tensor=np.array([number[tensor] for tensor, _ in owners], dtype=np.int64),
        length=np.array([float(len(owner)) for owner in owners.values()]),
        stay=np.array([float(np.sum(owner < 0)) for owner in owners.values()]),
        positions=positions / np.array([part.size for part in parts]),
    )


def _macs(model: nn.Module, example_inputs: Tensor) -> tuple[dict[str, float], float]:
    """Operations by weight, and the others."""
    twin = copy_model(model)
    open_attention(twin)  # torch's own attention has fused paths that the counter does not see
    with FlopCounterMode(display=False) as counter:
        run_model(twin, example_inputs, what="the example inputs")
    # The counter's names begin with the class of the whole model.
    total = {
        ".".join(name.split(".")[1:]): sum(flops.values()) / (2 * len(example_inputs))
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    names = {id(p): name for name, p in twin.named_parameters()}
    takes: dict[str, float] = {}
    for name, macs in total.items():
        module = twin.get_submodule(name)
        inner = (f"{name}.{child}" if name else child for child, _ in module.named_children())
        own = macs - sum(total.get(child, 0.0) for child in inner)
        weights = [p for p in module.parameters(recurse=False) if p.dim() > 1]
        for weight in weights:
            key = names[id(weight)]
            takes[key] = takes.get(key, 0.0) + own * weight.numel() / sum(w.numel() for w in weights)
    return takes, total[""] - sum(takes.values())

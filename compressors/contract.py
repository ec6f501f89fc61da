"""The types that every compression method shares. Plans are plain data: names and arrays, no modules."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from population.errors import InputError

#: Input batches that can be read more than once.
Calibration = Iterable[Tensor]

_PLAN_FORMAT = "1"


@dataclass(frozen=True, eq=False)
class ChannelSlice:
    """Where the channels of a group lie along one axis of one tensor.

    Attributes:
        tensor: name in the model's state dict.
        axis: the tensor's axis.
        role: ``out``, a row that makes the channel (filters, norm parameters and statistics, one
            position per channel): merged by the mean; ``in``, a column that reads it: merged by the sum.
        positions: positions along the axis, ascending, shape (m,).
        channels: the group's channel at each position, shape (m,).
        conv_groups: number of groups of a grouped convolution whose columns these are; its positions
            run over the columns of all groups, one group after the other. 1 for everything else.
    """

    tensor: str
    axis: int
    role: Literal["out", "in"]
    positions: NDArray[np.int64]
    channels: NDArray[np.int64]
    conv_groups: int = 1


@dataclass(frozen=True, eq=False)
class ChannelPadding:
    """A module that adds channels of zeros, whose number has to follow the channels that they meet.

    Attributes:
        module: its name; the zeros are the first and last channels of its output.
        axis: axis of the channels in its output.
        before: number of zero channels before its input's channels.
        after: number after.
        channels: the group's channel that each of its output channels is added to, shape (m,).
    """

    module: str
    axis: int
    before: int
    after: int
    channels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only be merged or removed together, wherever they appear.

    Attributes:
        name: of the first layer that makes the channels.
        size: number of channels n.
        producers: names of the weights whose filters make the channels.
        norms: per norm layer of the channels the weight whose outputs it normalises, or None where
            that is not one weight of the group.
        slices: every place in every tensor that changes with the channels.
        blocks: block of each channel, shape (n,): channels of different blocks exist in different
            places (heads, groups of a convolution) and cannot become one, and blocks of one size have
            to keep equal numbers; channels of block -1 have to stay.
        paddings: modules that add zeros to the channels.
    """

    name: str
    size: int
    producers: tuple[str, ...]
    norms: Mapping[str, str | None]
    slices: tuple[ChannelSlice, ...]
    blocks: NDArray[np.int64]
    paddings: tuple[ChannelPadding, ...]


@dataclass(frozen=True, eq=False)
class CompressionPlan:
    """What is done to one dense model, as plain data that rebuilds the compressed one bit for bit.

    Attributes:
        method: name of the method.
        model_digest: of the dense model's tensors, so that no other model is taken for it.
        clusters: per group name the cluster of each channel, shape (n,), int64; channels of one
            cluster become one; -1 removes a channel.
        masks: per parameter name a boolean tensor of its shape, False where weights become zero.
        tensors: per name a tensor of the compressed model that a repair computed.
    """

    method: str
    model_digest: str
    clusters: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Writes one safetensors file; its header holds the method and the digest as JSON."""
        arrays = {f"clusters/{k}": torch.from_numpy(v) for k, v in self.clusters.items()}
        arrays |= {f"masks/{k}": v for k, v in self.masks.items()}
        arrays |= {f"tensors/{k}": v for k, v in self.tensors.items()}
        header = {"format": _PLAN_FORMAT, "method": self.method, "model_digest": self.model_digest}
        plain = {k: v.detach().cpu().contiguous() for k, v in arrays.items()}
        save_file(plain, path, metadata={"plan": json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads what ``save`` wrote.

        Raises:
            InputError: if the file is absent, damaged or no plan.
        """
        parts: dict[str, dict[str, Tensor]] = {"clusters": {}, "masks": {}, "tensors": {}}
        try:
            with safe_open(str(path), framework="pt") as archive:
                header = json.loads((archive.metadata() or {})["plan"])
                for name in archive.keys():  # noqa: SIM118 - not a mapping
                    part, _, tensor_name = name.partition("/")
                    parts[part][tensor_name] = archive.get_tensor(name)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path} is not a readable compression plan ({error})") from error
        if not isinstance(header, dict) or header.get("format") != _PLAN_FORMAT:
            raise InputError(f"{path} is not a compression plan of format {_PLAN_FORMAT}")
        if not {"method", "model_digest"} <= header.keys():
            raise InputError(f"{path} is not a complete compression plan")
        clusters = {k: v.numpy() for k, v in parts["clusters"].items()}
        if any(c.dtype != np.int64 or c.ndim != 1 or len(c) == 0 for c in clusters.values()):
            raise InputError(f"{path} has clusters that are not whole numbers")
        return cls(header["method"], header["model_digest"], clusters, parts["masks"], parts["tensors"])


@dataclass(frozen=True)
class Cost:
    """What a model takes.

    Attributes:
        params: parameters that are kept; weights that a mask sets to zero are not counted.
        macs: multiply-accumulate operations of conv and linear layers for one input, as executed by
            dense kernels (zeros are multiplied too); None where no example input was given.
        bytes: of all stored tensors, parameters and buffers, zeros included.
    """

    params: int
    macs: int | None
    bytes: int


@dataclass(frozen=True)
class GroupChange:
    """Channels of one group before and after; requested and achieved are fractions removed."""

    name: str
    channels_before: int
    channels_after: int
    requested: float
    achieved: float


@dataclass(frozen=True)
class CostChange:
    """Costs before and after.

    Attributes:
        before: of the dense model.
        after: of the compressed model.
        requested: the amount that was asked for.
        achieved: fraction that is gone of what the budget spends: of channels (of all groups together),
            of parameters or of multiply-accumulates; or of prunable weights.
        groups: per channel group.
        left_dense: per layer the reason why its channels stay.
    """

    before: Cost
    after: Cost
    requested: float
    achieved: float
    groups: tuple[GroupChange, ...]
    left_dense: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class CompressionResult:
    """A compressed model, how it came about, and what it costs.

    Attributes:
        model: a new module in eval mode, on the dense model's device and of its dtype.
        plan: rebuilds the model from the dense one through ``apply_plan``.
        cost: before and after.
        calibration_images: number of inputs that a repair looked at; 0 for repairs without data.
    """

    model: nn.Module
    plan: CompressionPlan
    cost: CostChange
    calibration_images: int


class Compressor(Protocol):
    """What the pipeline calls; a plain function fits."""

    def __call__(
        self,
        model: nn.Module,
        example_inputs: Tensor,
        *,
        amount: float,
        seed: int,
        repair: str,
        calibration: Calibration | None,
    ) -> CompressionResult:
        """Compresses a model without changing it."""
        ...


def model_digest(model: nn.Module) -> str:
    """Digest of the names, shapes, types and values of all tensors of a model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def check_amount(amount: float) -> None:
    """Raises InputError unless the amount is a number in [0, 1)."""
    if not 0 <= amount < 1:
        raise InputError(f"amount must be in [0, 1), not {amount}")


def check_finite(model: nn.Module) -> None:
    """Raises InputError if a weight is NaN or infinite; says which."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{name} has NaN or infinite values; the model cannot be compressed")


def channels_kept(size: int, amount: float) -> int:
    """Number of channels that stay of ``size`` when a fraction ``amount`` is removed, at least 1."""
    return max(1, round(size * (1 - amount)))

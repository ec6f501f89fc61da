"""How important channels are, by their weights, their norms' scales or what they do to the loss."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import spread_columns
from compressors.contract import Calibration, ChannelGroup, ChannelSlice
from compressors.repair.recalibrate import check_calibration
from compressors.running import RUN_ERRORS, copy_model
from population.errors import InputError

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]

#: Maps a group and some of its channels to a score for each of these; the lowest go first.
Scores = Callable[[ChannelGroup, _Ints], _Floats]


def norm_scores(model: nn.Module, group: ChannelGroup, channels: _Ints, *, order: Literal[1, 2]) -> _Floats:
    """Sums over the layers that make a channel of the L1 or L2 norms of its filters.

    Li et al. 2017 (arXiv 1608.08710), for ``order`` 1. Deviation: the sum over coupled layers.
    """
    scores = torch.zeros(group.size, dtype=torch.float64)
    for piece in group.slices:
        if piece.tensor in group.producers and piece.role == "out":
            norms = _rows(model.get_parameter(piece.tensor), piece).norm(p=order, dim=1)
            scores[torch.from_numpy(piece.channels)] += norms
    return scores.numpy()[channels]


def median_scores(model: nn.Module, group: ChannelGroup, channels: _Ints) -> _Floats:
    """Sums of distances from a channel's filter to the filters of the other channels.

    The channels nearest to the geometric median of all are those that the others replace best (FPGM; He
    et al. 2019, arXiv 1811.00250, eq. 6 and 7). Deviation: the filters of all coupled layers that make
    a channel are taken as one.
    """
    gram = torch.zeros(group.size, group.size, dtype=torch.float64)
    for piece in group.slices:
        if piece.tensor in group.producers and piece.role == "out":
            rows = _rows(model.get_parameter(piece.tensor), piece)
            at = torch.from_numpy(piece.channels)
            gram[at[:, None], at] += rows @ rows.T
    own = gram[channels][:, channels]
    squares = own.diag()[:, None] + own.diag() - 2 * own
    return squares.fill_diagonal_(0).clamp_min(0).sqrt().sum(1).numpy()


def scale_scores(model: nn.Module, group: ChannelGroup, channels: _Ints) -> _Floats:
    """Sums of a channel's absolute scales in all norm layers of the group.

    Network slimming (Liu et al. 2017, arXiv 1708.06519), without its sparse training. Deviation: the sum
    over coupled norms.

    Raises:
        InputError: if one of the channels has no norm with a scale.
    """
    scores, scaled = np.zeros(group.size), np.zeros(group.size, dtype=bool)
    scales = {f"{norm}.weight" for norm in group.norms}
    for piece in group.slices:
        if piece.tensor in scales:
            values = model.get_parameter(piece.tensor).detach().double().abs().cpu().numpy()
            np.add.at(scores, piece.channels, values[piece.positions])
            scaled[piece.channels] = True
    if not scaled[channels].all():
        raise InputError(f"bn-scale needs a norm with a scale for the channels of {group.name!r}")
    return scores[channels]


def random_scores(group: ChannelGroup, channels: _Ints, *, seed: int) -> _Floats:
    """Independent uniform numbers."""
    # Seeded by the group's name too, so that groups of one size do not lose the same channels.
    return np.random.default_rng([seed, *group.name.encode()]).random(group.size)[channels]


def taylor_scores(
    model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration | None, *, seed: int
) -> dict[str, _Floats]:
    """Squared first-order change of the loss when a channel is removed, averaged over batches.

    Molchanov et al. 2019 (arXiv 1906.10771, eq. 8): the square of the sum of weight times gradient. The
    sum is over scale and shift of a layer's own norm, which is the gradient of a gate behind it (their
    "gate after batch norm"), and over filter and bias of layers without one. Deviations: coupled layers
    are summed before the square, as their channels go together. There are no labels, and the model's
    own predictions would give hardly any gradient where it is sure of them; so labels are drawn from
    the model's softmax, which makes the score the diagonal of the Fisher information of the gates. The
    network is in eval mode.

    Args:
        model: returns logits, shape (N, C); it is not changed.
        groups: its channel groups.
        calibration: batches of inputs on the model's device, read once and completely.
        seed: of the labels.

    Returns:
        Per group name the score of each channel, shape (n,), not negative.

    Raises:
        InputError: if there is no batch, the model returns no logits, or gradients are not finite.
    """
    twin = copy_model(model).requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    batches = check_calibration(calibration)
    scores = {group.name: np.zeros(group.size) for group in groups}
    for batch in batches:
        _sampled_loss(twin, batch, generator).backward()  # type: ignore[no-untyped-call]
        for group in groups:
            change = np.zeros(group.size)
            for piece in _gates(group):
                tensor = twin.get_parameter(piece.tensor)
                if tensor.grad is not None:
                    products = _rows(tensor, piece) * _rows(tensor.grad, piece)
                    np.add.at(change, piece.channels, products.sum(1).numpy())
            scores[group.name] += change**2 / len(batches)
        twin.zero_grad()
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise InputError(f"calibration gives NaN or infinite gradients for the channels of {name!r}")
    return scores


def joint_squares(model: nn.Module, group: ChannelGroup) -> _Floats:
    """Squared length of each channel's weights: all that makes, scales, shifts or reads it, shape (n,)."""
    squares, state = np.zeros(group.size), model.state_dict()
    for piece in group.slices:
        if not piece.tensor.endswith(("running_mean", "running_var")):
            np.add.at(squares, piece.channels, _rows(state[piece.tensor], piece).square().sum(1).numpy())
    return squares


def _gates(group: ChannelGroup) -> Iterator[ChannelSlice]:
    """Slices whose weights times gradients add up to the gradient of a gate on each channel."""
    normed = {weight for weight in group.norms.values() if weight is not None}
    own = [f"{norm}.weight" for norm, weight in group.norms.items() if weight is not None]
    own += [weight for weight in group.producers if weight not in normed]
    wanted = {*own, *(name.removesuffix("weight") + "bias" for name in own)}
    return (piece for piece in group.slices if piece.tensor in wanted and piece.role == "out")


def _sampled_loss(model: nn.Module, batch: Tensor, generator: torch.Generator) -> Tensor:
    try:
        logits = model(batch)
    except RUN_ERRORS as error:
        raise InputError(f"the model does not accept a calibration batch: {error}".splitlines()[0]) from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or not logits.is_floating_point():
        raise InputError("taylor needs a model that returns logits of shape (inputs, classes)")
    chances = logits.detach().double().cpu().softmax(1)
    if not bool(torch.isfinite(chances).all()):
        raise InputError("calibration gives NaN or infinite logits")
    labels = torch.multinomial(chances, 1, generator=generator).flatten()
    return F.cross_entropy(logits, labels.to(logits.device))


def _rows(tensor: Tensor, piece: ChannelSlice) -> Tensor:
    """What a tensor has at each position of a slice, shape (m, features), float64, on the CPU."""
    spread = spread_columns(tensor.detach(), piece.conv_groups).moveaxis(piece.axis, 0)
    rows = spread[torch.from_numpy(piece.positions).to(spread.device)]
    return rows.reshape(len(rows), -1).double().cpu()

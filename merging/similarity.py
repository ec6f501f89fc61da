"""What is compared: every weight that makes a channel or reads it, or what channels do on data."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import occurrences, spread_columns
from compressors.attention import HeadAttention, open_attention
from compressors.contract import Calibration, ChannelGroup, ChannelSlice
from compressors.repair.recalibrate import check_calibration
from compressors.running import copy_model, run_model
from population.errors import InputError

_READERS = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip


def channel_gram(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Inner products between the channels of a group.

    A channel's features are its filters in every layer that makes it, its norm layers' scale and
    shift, and its columns in every layer that reads it, side by side (Wang et al. 2025, arXiv
    2502.10216, section 3 and appendix C). There are far more features than channels, and squared
    distances need only this matrix. Deviation: running statistics are left out, as in the
    published code.

    Args:
        model: the dense model.
        group: n channels.

    Returns:
        Symmetric matrix, shape (n, n), float64, on the CPU. Products are taken in float32 for weights
        of up to 32 bits.

    Raises:
        InputError: if weights are too large for their products to be finite.
    """
    gram = np.zeros((group.size, group.size))
    state = model.state_dict()
    for piece in group.slices:
        if piece.tensor.endswith(("running_mean", "running_var")):
            continue
        tensor = state[piece.tensor].detach().cpu()
        wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
        rows = spread_columns(wide, piece.conv_groups).moveaxis(piece.axis, 0)
        for channels, positions in _once_each(piece):
            features = rows[torch.from_numpy(positions)].reshape(len(channels), -1).numpy()
            with np.errstate(over="ignore", invalid="ignore"):  # told apart below
                # Numpy takes half the operations of torch, as it sees that the product is symmetric.
                gram[np.ix_(channels, channels)] += features @ features.T
    if not np.isfinite(gram).all():
        raise InputError(f"the weights of group {group.name!r} are too large to be compared")
    return torch.from_numpy(gram)


def activation_grams(
    model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration | None
) -> dict[str, Tensor]:
    """Inner products between the channels of each group, by what they do on data.

    A channel's features are its values wherever a layer reads it (all images and positions), less
    their mean there. So a squared distance is the mean square of what is lost, up to a constant that
    biases can absorb, when the layers read the mean of two channels in place of both. ZipIt (Stoica et
    al. 2023, arXiv 2305.03053) matches channels by activations too. Deviations: covariances of inputs of
    the reading layers, where ZipIt has correlations of a layer's outputs.

    Args:
        model: the dense model; it is not changed.
        groups: its channel groups.
        calibration: batches of inputs on the model's device, read once and completely.

    Returns:
        By group name a symmetric matrix, shape (n, n), float64, on the CPU: covariances, summed over the
        places where channels are read. Query/key pairs of attention heads, which no layer reads, are
        left out.

    Raises:
        InputError: if there is no batch, a batch does not fit the model, activations are not finite, or
            a layer's weights are used without calling the layer.
    """
    twin = copy_model(model)
    open_attention(twin)  # torch's own does not call its output projection
    layers = dict(twin.named_modules(remove_duplicate=False))
    places = [
        _Place(group, piece)
        for group in groups
        for piece in group.slices
        if piece.role == "in" and not _makes_keys(layers, piece)
    ]
    for place in places:
        layer = layers[place.layer]
        if not isinstance(layer, _READERS):
            raise InputError(f"activations cannot be compared: {place.layer!r} is no plain layer")
        layer.register_forward_pre_hook(place.observe)
    for batch in check_calibration(calibration):
        run_model(twin, batch, what="a calibration batch")
    read = {place.group for place in places}
    grams = {g.name: np.zeros((g.size, g.size)) for g in groups if g.name in read}
    for place in places:
        place.add_to(grams[place.group])
    return {name: torch.from_numpy(gram) for name, gram in grams.items()}


def _makes_keys(layers: Mapping[str, nn.Module], piece: ChannelSlice) -> bool:
    """Whether a slice holds rows of keys, which are summed, but read nothing."""
    return piece.axis == 0 and isinstance(layers.get(piece.tensor.rpartition(".")[0]), HeadAttention)


class _Place:
    """Where a layer reads channels of a group, and the covariances between them there."""

    def __init__(self, group: ChannelGroup, piece: ChannelSlice) -> None:
        self.group = group.name
        self.layer = piece.tensor.rpartition(".")[0]
        self._parts = [(channels, positions, _Covariance()) for channels, positions in _once_each(piece)]

    def observe(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Takes in a batch of the layer's inputs; a forward hook."""
        # One axis of a linear layer's weight is for its inputs, and all but the first of a convolution's.
        axis = 1 - layer.get_parameter("weight").dim()
        values = inputs[0].to(torch.promote_types(inputs[0].dtype, torch.float32)).moveaxis(axis, -1)
        for _, positions, covariance in self._parts:
            index = torch.from_numpy(positions).to(values.device)
            covariance.update(values.index_select(-1, index).reshape(-1, len(positions)))

    def add_to(self, gram: NDArray[np.float64]) -> None:
        """Adds the covariances to the channels' Gram matrix."""
        for channels, _, covariance in self._parts:
            values = covariance.value()
            if values is None:
                raise InputError(f"activations cannot be compared: {self.layer!r} was not called")
            if not np.isfinite(values).all():
                raise InputError(f"calibration gives NaN or infinite values where {self.layer!r} reads them")
            gram[np.ix_(channels, channels)] += values


class _Covariance:
    """Covariances over batches (Chan, Golub & LeVeque 1983): stable where means are large."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Tensor | float = 0.0
        self._scatter: Tensor | float = 0.0

    def update(self, rows: Tensor) -> None:
        """Takes in samples, shape (samples, n)."""
        mean = rows.mean(0)
        centred = rows - mean
        change, total = mean.double() - self._mean, self._count + len(rows)
        between = torch.outer(change, change) * (self._count * len(rows) / total)
        self._scatter = (centred.T @ centred).double() + between + self._scatter
        self._mean = self._mean + change * (len(rows) / total)
        self._count = total

    def value(self) -> NDArray[np.float64] | None:
        """Covariances, shape (n, n), divided by the number of samples; None without samples."""
        if not isinstance(self._scatter, Tensor):
            return None
        return (self._scatter / self._count).cpu().numpy()


def _once_each(piece: ChannelSlice) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Channels and their positions, so that each channel is there at most once in each part.

    Several positions of one channel (of a flattened map, say) are further features of it.
    """
    occurrence = occurrences(piece.channels)
    for j in range(int(occurrence.max()) + 1):
        yield piece.channels[occurrence == j], piece.positions[occurrence == j]

"""What is compared: every weight that makes a channel or reads it, or what channels do on data."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from compressors.apply import occurrences
from compressors.contract import Calibration, ChannelGroup, ChannelSlice
from compressors.repair.recalibrate import check_calibration
from compressors.running import copy_model, run_model
from population.errors import InputError

_CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
        rows = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).moveaxis(piece.axis, 0)
        for channels, positions in _once_each(piece):
            features = rows[torch.from_numpy(positions)].reshape(len(channels), -1).numpy()
            # Numpy takes half the operations of torch here, as it sees that the product is symmetric.
            gram[np.ix_(channels, channels)] += features @ features.T
    if not np.isfinite(gram).all():
        raise InputError(f"the weights of group {group.name!r} are too large to be compared")
    return torch.from_numpy(gram)

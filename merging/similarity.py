"""What is compared: every weight that makes a channel or reads it."""

import torch
from torch import Tensor, nn

from compressors.apply import occurrences
from compressors.contract import ChannelGroup


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
        Symmetric matrix, shape (n, n), float64, on the CPU.
    """
    gram = torch.zeros(group.size, group.size, dtype=torch.float64)
    state = model.state_dict()
    for piece in group.slices:
        if piece.tensor.endswith(("running_mean", "running_var")):
            continue
        tensor = state[piece.tensor].detach().cpu()
        rows = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).moveaxis(piece.axis, 0)
        # Several positions of one channel (of a flattened map, say) are further features of it.
        occurrence = occurrences(piece.channels)
        for j in range(int(occurrence.max()) + 1):
            channels = torch.from_numpy(piece.channels[occurrence == j])
            features = rows[torch.from_numpy(piece.positions[occurrence == j])].reshape(len(channels), -1)
            gram[channels[:, None], channels] += (features @ features.T).double()
    return gram

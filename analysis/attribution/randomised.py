"""A network that has learnt nothing, as the floor of every comparison of explanations."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from analysis.inference import device_of
from population.errors import InputError


def randomised(model: nn.Module, images: Tensor, *, batch_size: int, seed: int) -> nn.Module:
    """Copies a network and shuffles the entries of each of its parameters.

    A map that does not change when the weights lose their meaning explains the image, not the network:
    the parameter randomisation test of Adebayo et al. 2018 (arXiv 1810.03292). They draw new weights;
    shuffled ones keep every tensor's distribution. The statistics of BatchNorm are estimated anew on the
    images: with those of the trained filters the network hardly depends on its input.

    Args:
        model: any module; it is not changed.
        images: for the statistics, shape (N, C, H, W), N >= 2 if there is a BatchNorm. An incomplete last
            batch is left out.
        batch_size: images in one pass, at least 2 if there is a BatchNorm.
        seed: of the shuffles.

    Returns:
        A module in evaluation mode, on the model's device.

    Raises:
        InputError: if there are too few images, or the batches are too small.
    """
    draws = torch.Generator().manual_seed(seed)
    copy = deepcopy(model).eval()
    with torch.no_grad():
        for parameter in copy.parameters():
            order = torch.randperm(parameter.numel(), generator=draws).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].reshape(parameter.shape))
    norms = [m for m in copy.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    size = min(batch_size, len(images))
    if norms and size < 2:
        raise InputError(
            "a network with shuffled weights needs at least 2 images at a time for its BatchNorm"
        )
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over batches
        norm.train()
    if norms:
        with torch.no_grad():
            for start in range(0, len(images) // size * size, size):
                copy(images[start : start + size].to(device_of(copy)))
    return copy.eval()

"""What every attribution method is given: images in [0, 1], a class for each, in batches."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from analysis.inference import device_of
from population.errors import InputError


def check_explained(images: Tensor, targets: Tensor) -> None:
    """Raises InputError unless images are (N, C, H, W) in [0, 1] and targets are (N,)."""
    if images.ndim != 4 or targets.shape != images.shape[:1]:
        raise InputError(
            "images and targets must have shapes (N, C, H, W) and (N,),"
            f" not {(*images.shape,)} and {(*targets.shape,)}"
        )
    # The black baseline is the zero image only on this scale.
    if not images.is_floating_point() or bool(((images < 0) | (images > 1)).any()):
        raise InputError("images must be floating-point numbers in [0, 1]")


def explained_batches(
    model: nn.Module, images: Tensor, targets: Tensor, batch_size: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Copies images and targets batch by batch to the model's device.

    Args:
        model: whose device counts.
        images: shape (N, C, H, W).
        targets: shape (N,).
        batch_size: largest number of images in a batch, at least 1.

    Yields:
        Where the batch lies among the images, its images (no views of the given ones) and its targets.

    Raises:
        InputError: if ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, not {batch_size}")
    device = device_of(model)
    for start in range(0, len(images), batch_size):
        part = slice(start, start + batch_size)
        yield part, images[part].detach().clone().to(device), targets[part].to(device)


def maps_in_batches(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    batch_size: int,
    explain: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Explains images batch by batch.

    Args:
        model: whose device counts.
        images: shape (N, C, H, W), in [0, 1].
        targets: class that is explained, shape (N,).
        batch_size: largest number of images in a batch.
        explain: maps images and classes of a batch to maps (n, H, W).

    Returns:
        Maps, shape (N, H, W), float32, on the CPU.

    Raises:
        InputError: if images or targets are unfit, or ``batch_size`` is below 1.
    """
    check_explained(images, targets)
    maps = torch.empty(len(images), *images.shape[2:])
    for part, x, classes in explained_batches(model, images, targets, batch_size):
        maps[part] = explain(x, classes).detach().cpu()
    return maps

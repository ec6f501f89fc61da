"""Attribution maps of whole populations: dense, compressed, and dense with shuffled weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from analysis.attribution.batches import check_explained, explained_batches
from analysis.attribution.methods import METHODS
from analysis.attribution.randomised import randomised
from analysis.inference import evaluating
from population.errors import InputError, unknown_name


@dataclass(frozen=True, eq=False)
class NetworkMaps:
    """What one network says of N images.

    Attributes:
        fixed: maps of the class that was given, shape (N, H, W).
        own: maps of the class that the network predicts, shape (N, H, W).
        own_class: that class, shape (N,).
    """

    fixed: Tensor
    own: Tensor
    own_class: Tensor


@dataclass(frozen=True, eq=False)
class PopulationMaps:
    """Maps of M dense networks, of what they became, and of the dense ones with shuffled weights."""

    dense: tuple[NetworkMaps, ...]
    compressed: tuple[NetworkMaps, ...]
    randomised: tuple[NetworkMaps, ...]


def population_maps(
    dense: Sequence[nn.Module],
    compressed: Sequence[nn.Module],
    images: Tensor,
    targets: Tensor,
    *,
    method: str,
    batch_size: int,
    seed: int,
) -> PopulationMaps:
    """Explains the same images by all networks.

    Where a network predicts the given class, its two maps are one and computed once.

    Args:
        dense: M >= 1 networks from images to class scores; any normalisation is inside them.
        compressed: the M networks made from them, in the same order.
        images: shape (N, C, H, W), in [0, 1].
        targets: the class that all networks are asked about (the dense modal class), shape (N,).
        method: a name of ``METHODS``.
        batch_size: images in one pass, whatever the steps of the method.
        seed: of the method's draws and of the shuffled weights.

    Raises:
        InputError: if the networks do not pair up, the method is unknown, or it refuses a network.
    """
    if len(dense) != len(compressed) or not dense:
        raise InputError(
            f"every dense network needs its compressed form; given are {len(dense)} and {len(compressed)}"
        )
    if method not in METHODS:
        raise unknown_name("attribution method", method, METHODS)
    check_explained(images, targets)
    explain = partial(METHODS[method], batch_size=batch_size, seed=seed)

    def maps_of(model: nn.Module) -> NetworkMaps:
        own_class = _predicted(model, images, targets, batch_size)
        fixed = explain(model, images, targets)
        own, other = fixed.clone(), own_class != targets.cpu()
        if bool(other.any()):
            own[other] = explain(model, images[other], own_class[other].to(targets))
        return NetworkMaps(fixed, own, own_class)

    return PopulationMaps(
        dense=tuple(map(maps_of, dense)),
        compressed=tuple(map(maps_of, compressed)),
        randomised=tuple(
            maps_of(randomised(m, images, batch_size=batch_size, seed=seed + i)) for i, m in enumerate(dense)
        ),
    )


def _predicted(model: nn.Module, images: Tensor, targets: Tensor, batch_size: int) -> Tensor:
    labels = torch.empty(len(images), dtype=torch.long)
    with evaluating(model), torch.no_grad():
        for part, x, _ in explained_batches(model, images, targets, batch_size):
            labels[part] = model(x).argmax(dim=1).cpu()
    return labels

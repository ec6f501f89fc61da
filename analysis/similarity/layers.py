"""How alike networks represent the same images: CKA of their layers, in one pass over the images.

One network, as a rule the dense one, is compared with any number of others at once: its compressed
version, and as references a dense network of another seed and an untrained one. The value of a layer
depends on its width and on single outliers, so it means little without them.

Two ways to get there:

- ``cka_maps``: outputs averaged over positions, values of the full set of images, and of subsets.
- ``minibatch_cka_maps``: whole feature maps, flattened, values estimated from batches.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from analysis.inference import evaluating
from analysis.similarity.activations import layer_outputs, position_means
from analysis.similarity.cka import (
    ESTIMATORS,
    MIN_SAMPLES,
    Floats,
    HsicTerms,
    centred_gram,
    gram_sums,
)
from analysis.similarity.moments import CkaStream
from population.errors import InputError


@dataclass(frozen=True, eq=False)
class CkaMap:
    """Linear CKA of every layer of one network with every layer of another, on one set of images.

    Attributes:
        n: number of images.
        unbiased: shape (L, L); rows are layers of the first network, columns of the other.
        biased: the same by the biased estimator, which is larger the fewer the images are.
    """

    n: int
    unbiased: Floats
    biased: Floats


def cka_maps(
    first: nn.Module,
    others: Mapping[str, nn.Module],
    images: Tensor,
    layers: Sequence[str],
    *,
    subsets: Mapping[str, NDArray[np.int64]],
    batch_size: int,
) -> dict[str, dict[str, CkaMap]]:
    """Compares all layers of one network with all layers of others, on sets of images.

    Outputs are averaged over positions (``position_means``). Values are those of all images of a set
    together, within 1e-4 (float32). Each network sees every image once. Memory: per other network and
    set of more than 512 images one number for each pair of channels; smaller sets take less.

    Args:
        first: a network; modes and hooks of all networks are as before afterwards.
        others: networks with the same layer names, under names of their own; widths may differ.
        images: network inputs in a fixed order, shape (N, ...).
        layers: names of modules that run once per forward pass; widths may differ between networks.
        subsets: sets of images by index, under names of their own, at least 4 images each; an index
            of all images is one of them where that is wanted.
        batch_size: number of images per forward pass; it does not change the values.

    Returns:
        Per name in ``others`` and in ``subsets`` the map.

    Raises:
        InputError: if a set is too small or names an image twice or one that there is not, a layer is
            unknown, runs not exactly once or gives no fitting tensor, or its features do not vary.
    """
    members = {name: _members(name, index, len(images)) for name, index in subsets.items()}
    streams = {(other, subset): CkaStream() for other in others for subset in subsets}
    centres: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
    networks = (first, *others.values())
    with torch.no_grad(), ExitStack() as modes:
        for network in networks:
            modes.enter_context(evaluating(network))
        for rows in torch.split(torch.arange(len(images)), batch_size):
            batch = images[rows[0] : rows[-1] + 1]
            features = []
            for position, network in enumerate(networks):
                outputs = layer_outputs(network, batch, layers, position_means)
                if position not in centres:
                    centres[position] = {layer: _centre(part) for layer, part in outputs.items()}
                features.append([_shifted(part, centres[position][name]) for name, part in outputs.items()])
            for subset, member in members.items():
                mask = member[rows]
                if mask.any():
                    chosen = [[part[mask.to(part.device)] for part in parts] for parts in features]
                    for other, parts in zip(others, chosen[1:], strict=True):
                        streams[other, subset].add(chosen[0], parts)
    maps: dict[str, dict[str, CkaMap]] = {other: {} for other in others}
    for other, subset in list(streams):
        sums = streams.pop((other, subset)).sums()
        try:
            values = [sums.terms(estimator).cka(layers) for estimator in ESTIMATORS]
        except InputError as error:
            raise InputError(f"{other!r}, images {subset!r}: {error}") from error
        maps[other][subset] = CkaMap(sums.cross.n, values[0], values[1])
    return maps


def minibatch_cka_maps(
    first: nn.Module,
    others: Mapping[str, nn.Module],
    images: Tensor,
    layers: Sequence[str],
    *,
    batch_size: int,
) -> dict[str, Floats]:
    """Compares all layers of one network with all layers of others, by unbiased minibatch CKA.

    Outputs are flattened, so that positions count. The three HSIC terms are averaged over the batches
    before the ratio is taken (Nguyen et al. 2021, arXiv 2010.15327). Deviation: instead of full batches
    and a short last one, which would weigh as much as the others, the images are split into the
    fewest batches of nearly equal size. Each network sees every image once. A layer's output is
    reduced to its samples x samples Gram matrix on the spot, so memory holds one such matrix per
    layer and network, whatever the number of images.

    Args:
        first: a network; modes and hooks of all networks are as before afterwards.
        others: networks with the same layer names, under names of their own; widths may differ.
        images: network inputs in a fixed order, shape (N, ...), N >= 4; moved batch by batch to the
            device of each network.
        layers: names of modules that run once per forward pass and give one tensor of shape (N, ...),
            which is flattened per sample.
        batch_size: largest number of images per batch, at least 4. Batches of up to 7 occur where
            N cannot be split into smaller ones of at least 4.

    Returns:
        Per name in ``others`` the map, shape (L, L); rows are layers of ``first``.

    Raises:
        InputError: if there are too few images, a layer is unknown, runs not exactly once or gives no
            tensor, or its features do not vary over the images.
    """
    if len(images) < MIN_SAMPLES or batch_size < MIN_SAMPLES:
        raise InputError(
            f"CKA needs at least {MIN_SAMPLES} images, and as many per batch;"
            f" given are {len(images)} in batches of {batch_size}"
        )
    batches = min(-(-len(images) // batch_size), len(images) // MIN_SAMPLES)
    terms: dict[str, HsicTerms] = {}
    with torch.inference_mode(), ExitStack() as modes:
        for network in (first, *others.values()):
            modes.enter_context(evaluating(network))
        for batch in images.tensor_split(batches):
            grams = list(layer_outputs(first, batch, layers, centred_gram).values())
            for name, other in others.items():
                other_grams = list(layer_outputs(other, batch, layers, centred_gram).values())
                new = gram_sums(grams, other_grams).terms("unbiased")
                terms[name] = terms[name] + new if name in terms else new
    return {name: total.cka(layers) for name, total in terms.items()}


def layer_cka(
    first: nn.Module, second: nn.Module, images: Tensor, layers: Sequence[str], *, batch_size: int
) -> dict[str, float]:
    """Compares two networks layer by layer: the diagonal of ``minibatch_cka_maps``.

    Args:
        first: a network.
        second: a network with the same layer names; widths may differ.
        images: network inputs in a fixed order, shape (N, ...), N >= 4.
        layers: names of layers.
        batch_size: largest number of images per batch, at least 4.

    Returns:
        The CKA of each layer with its namesake, in the order of ``layers``.

    Raises:
        InputError: as ``minibatch_cka_maps``.
    """
    values = minibatch_cka_maps(first, {"second": second}, images, layers, batch_size=batch_size)["second"]
    return dict(zip(layers, values.diagonal().tolist(), strict=True))


def _members(name: str, index: NDArray[np.int64], n: int) -> Tensor:
    """Turns an index into a mask, shape (n,)."""
    if len(index) < MIN_SAMPLES:
        raise InputError(f"CKA needs at least {MIN_SAMPLES} images; {name!r} has {len(index)}")
    if index.min() < 0 or index.max() >= n or len(np.unique(index)) < len(index):
        raise InputError(f"{name!r} must name each image once, by numbers from 0 to {n - 1}")
    mask = torch.zeros(n, dtype=torch.bool)
    mask[torch.from_numpy(index)] = True
    return mask


def _centre(features: Tensor) -> tuple[Tensor, Tensor]:
    """A sample and the mean of the rest from it; less both, features that do not vary are exactly 0."""
    return features[:1], (features - features[:1]).mean(dim=0)


def _shifted(features: Tensor, centre: tuple[Tensor, Tensor]) -> Tensor:
    return features - centre[0] - centre[1]

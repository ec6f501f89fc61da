"""How alike two networks represent the same images: centred kernel alignment (CKA), layer by layer.

The measure is the linear CKA of Kornblith et al. 2019 (arXiv 1905.00414) on the unbiased estimator of
the Hilbert-Schmidt independence criterion (HSIC) of Song et al. 2012, in the minibatch form of Nguyen
et al. 2021 (arXiv 2010.15327). Read it beside a reference between two dense networks: the value of a
layer depends on its width and on single outliers (Davari et al. 2023, arXiv 2210.16156), so it means
little alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.inference import device_of, evaluating
from population.errors import InputError, unknown_name

MIN_SAMPLES = 4
"""The unbiased HSIC divides by n - 3."""

_ROUNDING = 1e-6
"""A Gram matrix keeps about this share of its size in rounding (float32 features)."""


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Compares two representations of the same samples, by unbiased linear CKA on the full set.

    ``HSIC1(K, L) / sqrt(HSIC1(K, K) HSIC1(L, L))`` with the Gram matrices ``K = x x'`` and
    ``L = y y'``. It does not change when either representation is rotated, scaled by a number or
    shifted as a whole.

    Args:
        x: features of the first network, shape (n, p), n >= 4.
        y: features of the second network, shape (n, q).

    Returns:
        1 for equal representations, about 0 for independent ones. The estimator is unbiased, so it may
        fall a little below 0 by chance.

    Raises:
        InputError: if the shapes disagree, n < 4, or a representation does not vary over the samples.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise InputError(f"features must have shapes (n, p) and (n, q), not {(*x.shape,)} and {(*y.shape,)}")
    if len(x) < MIN_SAMPLES:
        raise InputError(f"CKA needs at least {MIN_SAMPLES} samples, not {len(x)}")
    terms = _HsicTerms.of(_centred_gram(x), _centred_gram(y))
    return terms.cka("the features")


def layer_cka(
    first: nn.Module, second: nn.Module, images: Tensor, layers: Sequence[str], *, batch_size: int
) -> dict[str, float]:
    """Compares two networks layer by layer, by unbiased minibatch linear CKA.

    The three HSIC terms are averaged over the batches before the ratio is taken (Nguyen et al. 2021).
    Deviation: instead of full batches and a short last one, which would weigh as much as the others,
    the images are split into the fewest batches of nearly equal size. Each network sees every image
    once. A layer's output is reduced to its samples x samples Gram matrix on the spot, so memory holds
    two such matrices per layer, whatever the number of images.

    Args:
        first: a network; its own modes and hooks are as before afterwards.
        second: a network with the same layer names; widths may differ.
        images: network inputs in a fixed order, shape (N, ...), N >= 4; moved batch by batch to the
            device of each network.
        layers: names of modules that run once per forward pass and give one tensor of shape (N, ...),
            which is flattened per sample.
        batch_size: largest number of images per batch, at least 4. Batches of up to 7 occur where
            N cannot be split into smaller ones of at least 4.

    Returns:
        The CKA of each layer with its namesake, in the order of ``layers``.

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
    terms: dict[str, _HsicTerms] = {}
    with torch.inference_mode(), evaluating(first), evaluating(second):
        for batch in images.tensor_split(batches):
            grams_first, grams_second = (_layer_grams(model, batch, layers) for model in (first, second))
            for layer in layers:
                new = _HsicTerms.of(grams_first[layer], grams_second[layer])
                terms[layer] = terms[layer] + new if layer in terms else new
    return {layer: terms[layer].cka(f"the features of layer {layer!r}") for layer in layers}


@dataclass(frozen=True)
class _HsicTerms:
    """HSIC1 of two representations with each other, and of each with itself; sums over batches.

    The number of batches is left out: the ratio cancels it.
    """

    cross: float
    first: float
    second: float

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> "_HsicTerms":
        """Computes HSIC1 of two U-centred Gram matrices, both of shape (n, n).

        For such matrices Song's estimator is their inner product over n (n - 3).
        """
        pairs = len(first) * (len(first) - 3)
        second = second.to(first.device)
        return cls(
            cross=float((first * second).sum()) / pairs,
            first=float((first * first).sum()) / pairs,
            second=float((second * second).sum()) / pairs,
        )

    def __add__(self, other: "_HsicTerms") -> "_HsicTerms":
        return _HsicTerms(self.cross + other.cross, self.first + other.first, self.second + other.second)

    def cka(self, what: str) -> float:
        """Takes the ratio; ``what`` begins the error where it is not defined."""
        if self.first == 0 or self.second == 0:
            side = "first" if self.first == 0 else "second"
            raise InputError(f"{what} do not vary over the images in the {side} network: CKA is undefined")
        return self.cross / math.sqrt(self.first * self.second)


def _centred_gram(features: Tensor) -> Tensor:
    """Returns the U-centred linear Gram matrix, shape (n, n), float64, of features of shape (n, p).

    HSIC1 is that of the raw Gram matrix: U-centring (Szekely & Rizzo 2014) takes out what is additive
    in rows and columns, and so any common shift of the features.
    """
    n = len(features)
    wide = features if features.dtype == torch.float64 else features.float()
    # The shift is exact in theory; taking it out first keeps float32 from drowning small
    # differences in a large mean, and by way of one sample equal rows become exactly zero.
    shifted = wide - wide[:1]
    shifted = shifted - shifted.mean(dim=0)
    gram = (shifted @ shifted.T).double()
    size = gram.norm()
    gram.fill_diagonal_(0)
    rows = gram.sum(dim=1) / (n - 2)
    centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
    centred.fill_diagonal_(0)
    # Features that differ on one image only leave nothing but rounding behind.
    return centred if centred.norm() > _ROUNDING * size else torch.zeros_like(centred)


def _layer_grams(model: nn.Module, batch: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
    """Runs a model once and returns the U-centred Gram matrix of each layer's output."""
    modules = dict(model.named_modules())
    grams: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    handles: list[RemovableHandle] = []

    def collect(layer: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"layer {layer!r} gives a {type(output).__name__}, not one tensor")
        grams[layer].append(_centred_gram(output.flatten(start_dim=1)))

    try:
        for layer in grams:
            if layer not in modules:
                raise unknown_name("layer", layer, modules)
            handles.append(
                modules[layer].register_forward_hook(
                    lambda _module, _inputs, output, layer=layer: collect(layer, output)
                )
            )
        model(batch.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    for layer, found in grams.items():
        if len(found) != 1:
            raise InputError(f"layer {layer!r} runs {len(found)} times in a forward pass, not once")
    return {layer: found[0] for layer, found in grams.items()}

"""How well a map tells what a network does: what happens when pixels go, and when the image shakes.

Absent pixels are black. The scores are of one network; to compare maps of two networks, score both on one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from torch import Tensor, nn

from analysis.attribution.batches import check_explained, explained_batches
from analysis.attribution.map_similarity import MaskedFloats
from analysis.attribution.methods import Explain
from analysis.inference import evaluating
from population.errors import InputError

Floats = NDArray[np.float64]

#: Points of the deletion and insertion curves besides the first.
CURVE_STEPS = 16

#: Random squares of infidelity.
SQUARES = 64

#: Radius and number of perturbations of max-sensitivity, as in Captum.
RADIUS = 0.02
PERTURBATIONS = 10


@dataclass(frozen=True, eq=False)
class RemovalAreas:
    """Areas under the curves of probability against fraction of pixels, shape (N,), in [0, 1].

    Attributes:
        deletion: the pixels that speak most for the class are blackened first; a good map has a small area.
        insertion: the same pixels are put first on a black image; a good map has a large area.
    """

    deletion: Floats
    insertion: Floats


def removal_areas(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, *, batch_size: int
) -> RemovalAreas:
    """Removes pixels in the order of a map, and puts them back.

    Deletion and insertion of Petsiuk et al. 2018 (arXiv 1806.07421): the area under the probability of the
    class, by the trapezoid rule over ``CURVE_STEPS + 1`` equally spaced fractions of the pixels, each rounded
    to whole pixels (fewer points where there are fewer pixels). Pixels of equal value go in reading order.
    Deviation: insertion starts from black, as deletion ends, not from a blurred image.

    Args:
        model: images to class scores, shape (N, C).
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose probability is followed, shape (N,).
        maps: shape (N, H, W).
        batch_size: images in one pass.

    Returns:
        Both areas per image.

    Raises:
        InputError: if shapes disagree, images are not in [0, 1], or ``batch_size`` is below 1.
    """
    _check_maps(images, targets, maps)
    pixels = maps[0].numel() if len(maps) else 1
    counts = np.unique(np.linspace(0, pixels, CURVE_STEPS + 1).round().astype(np.int64))
    order = maps.flatten(start_dim=1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).reshape(maps.shape)
    probability = torch.empty(2, len(counts), len(images), dtype=torch.float64)
    with evaluating(model), torch.no_grad():
        for part, x, classes in explained_batches(model, images, targets, batch_size):
            place = rank[part].to(x.device)[:, None]
            for i, count in enumerate(counts.tolist()):
                first = place < count
                for row, kept in enumerate((~first, first)):
                    scores = model(x * kept).double().softmax(dim=1)
                    probability[row, i, part] = scores.gather(1, classes[:, None])[:, 0].cpu()
    areas = trapezoid(probability.numpy(), x=counts / pixels, axis=1)
    return RemovalAreas(areas[0], areas[1])


def infidelity(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, *, batch_size: int, seed: int
) -> MaskedFloats:
    """How badly a map's sum over a square foretells what blackening the square does to the score.

    ``min over b of E[(b * sum of the map in S - (f(x) - f(x without S)))^2] / E[(f(x) - f(x without S))^2]``
    over random squares S (Yeh et al. 2019, arXiv 1901.09392, with square removal and their optimal scale b).
    Captum's ``infidelity(normalize=True)`` is the numerator; the division makes networks whose scores differ
    in size comparable. Sides are uniform from one pixel to half the shorter side of the image. All images and
    networks share the ``SQUARES`` squares of a seed.

    Args:
        model: images to class scores, shape (N, C).
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose score is explained, shape (N,).
        maps: shape (N, H, W), of a method whose values are effects and not gradients: all in ``METHODS``.
        batch_size: images in one pass.
        seed: of the squares.

    Returns:
        Shape (N,), in [0, 1]: 0 for a map that foretells every effect up to a common scale, 1 for one
        that foretells nothing. Masked where no square changes the score.

    Raises:
        InputError: if shapes disagree, images are not in [0, 1], or ``batch_size`` is below 1.
    """
    _check_maps(images, targets, maps)
    squares = _squares(images.shape[2], images.shape[3], seed)
    told = torch.einsum("nhw,shw->sn", maps.double(), squares.double())
    effect = torch.empty(SQUARES, len(images), dtype=torch.float64)
    with evaluating(model), torch.no_grad():
        for part, x, classes in explained_batches(model, images, targets, batch_size):
            whole = model(x).gather(1, classes[:, None])[:, 0]
            per_pass = max(1, batch_size // len(x))
            for start in range(0, SQUARES, per_pass):
                chosen = slice(start, start + per_pass)
                kept = ~squares[chosen].to(x.device)[:, None, None]  # (S, 1, 1, H, W)
                scores = model((x * kept).flatten(0, 1)).gather(1, classes.repeat(len(kept))[:, None])
                effect[chosen, part] = (whole - scores.reshape(len(kept), len(x))).double().cpu()
    size = effect.square().sum(dim=0).numpy()
    told_size = told.square().sum(dim=0).numpy()
    shared = (told * effect).sum(dim=0).numpy() ** 2
    explained = np.divide(shared, told_size * size, out=np.zeros(len(size)), where=told_size * size > 0)
    values = np.where(size > 0, (1 - explained).clip(0, 1), np.nan)
    return np.ma.MaskedArray(values, mask=size == 0, fill_value=np.nan)


def _squares(height: int, width: int, seed: int) -> Tensor:
    """Random squares as masks, shape (SQUARES, height, width), True inside."""
    rng = np.random.default_rng(seed)
    masks = torch.zeros(SQUARES, height, width, dtype=torch.bool)
    for mask, side in zip(masks, rng.integers(1, max(1, min(height, width) // 2) + 1, SQUARES), strict=True):
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        mask[top : top + side, left : left + side] = True
    return masks


def max_sensitivity(
    model: nn.Module, images: Tensor, targets: Tensor, *, explain: Explain, batch_size: int, seed: int
) -> Floats:
    """The largest relative change of a map when the image changes a little (Captum's ``sensitivity_max``).

    ``max over d of |map(x + d) - map(x)| / |map(x)|`` with Euclidean norms, over ``PERTURBATIONS`` draws of
    d, uniform in [-RADIUS, RADIUS] per value (Yeh et al. 2019, arXiv 1901.09392); x + d is cut off at 0 and
    1. Methods that draw use the same draws for all images, so that only the image differs.

    Args:
        model: images to class scores, shape (N, C).
        images: shape (N, C, H, W), in [0, 1].
        targets: class that is explained throughout, shape (N,).
        explain: a method of ``METHODS``.
        batch_size: images in one pass.
        seed: of the perturbations and of the method.

    Returns:
        Shape (N,), at least 0; where a map is zero everywhere, the absolute change.

    Raises:
        InputError: if an argument is unfit for the method.
    """
    from captum.metrics import sensitivity_max

    check_explained(images, targets)
    if len(images) == 0:
        return np.empty(0)
    draws = torch.Generator().manual_seed(seed)

    # Captum hands over a tuple for the images as they are and a tensor for the changed ones, and takes a
    # plain tensor that it gets back for a tuple of its rows.
    def maps_of(inputs: Tensor | tuple[Tensor, ...], target: Tensor) -> tuple[Tensor, ...]:
        x = inputs if isinstance(inputs, Tensor) else inputs[0]
        return (explain(model, x, target, batch_size=batch_size, seed=seed),)

    def shaken(inputs: Tensor, radius: float) -> Tensor:
        noise = torch.rand(inputs.shape, generator=draws, dtype=inputs.dtype)
        return (inputs + radius * (2 * noise.to(inputs.device) - 1)).clamp(0, 1)

    found: Any = sensitivity_max(
        maps_of,
        images,
        perturb_func=shaken,
        perturb_radius=RADIUS,
        n_perturb_samples=PERTURBATIONS,
        # One perturbation at a time: the draws, and so the result, do not depend on the batch size.
        max_examples_per_batch=len(images),
        target=targets,
    )
    values: Floats = found.double().numpy(force=True)
    return values


def _check_maps(images: Tensor, targets: Tensor, maps: Tensor) -> None:
    check_explained(images, targets)
    if maps.shape != (len(images), *images.shape[2:]):
        raise InputError(f"maps must have shape {(len(images), *images.shape[2:])}, not {(*maps.shape,)}")

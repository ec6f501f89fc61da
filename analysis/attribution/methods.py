"""Maps of what speaks for a class, by several methods with one signature.

A method that is not a model's own explanation shows in the comparison with randomised weights (Adebayo et
al. 2018, arXiv 1810.03292). Guided backpropagation fails there, and is not offered; layer-wise relevance
propagation is not either, since its sums do not come near the scores of residual networks.

Whatever is absent is black: the baseline of every method is the zero image, but for ``gradient_shap``.
Random numbers are drawn from generators of their own, never from the global ones, so that networks can be
explained side by side in threads.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from analysis.attribution.batches import check_explained, maps_in_batches
from analysis.attribution.deep_lift import deep_lift
from analysis.attribution.grad_cam import grad_cam
from analysis.attribution.integrated_gradients import integrated_gradients_maps
from analysis.inference import evaluating

#: Points of the quadrature of integrated gradients, and of the random path of gradient SHAP.
STEPS = 32


class Explain(Protocol):
    """What every entry of ``METHODS`` is called with."""

    def __call__(
        self, model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int, seed: int
    ) -> Tensor:
        """Maps images (N, C, H, W) and classes (N,) to signed maps (N, H, W), float32 on the CPU.

        ``batch_size`` bounds the images in one pass through the model, whatever the number of steps.
        Methods that draw nothing have the same maps for every seed.
        """
        ...


def input_x_gradient(model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int) -> Tensor:
    """The score's gradient times the image, summed over colour channels.

    Exact for a linear model: ``w * x``. Shrikumar et al. 2016, arXiv 1605.01713.

    Args:
        model: see ``integrated_gradients_maps``, as for all arguments and errors.
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose score is explained, shape (N,).
        batch_size: images in one pass.

    Returns:
        Signed maps, shape (N, H, W), float32, on the CPU.
    """
    from captum.attr import InputXGradient

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        # Captum warns of an input that has yet to be made ready for gradients.
        attributed: Tensor = InputXGradient(model).attribute(x.requires_grad_(), target=classes)
        return attributed.sum(dim=1)

    with evaluating(model):
        return maps_in_batches(model, images, targets, batch_size, explain)


def occlusion(model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int) -> Tensor:
    """How much the score falls when a square around a pixel is black.

    The square's side is a quarter of the shorter side of the image, and it moves by half its side: about 50
    places. A pixel gets the mean over the places that cover it (Zeiler & Fergus 2014, arXiv 1311.2901).

    Args:
        model: see ``integrated_gradients_maps``, as for all arguments and errors.
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose score is explained, shape (N,).
        batch_size: images in one pass.

    Returns:
        Signed maps, shape (N, H, W), float32, on the CPU.
    """
    from captum.attr import Occlusion

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        side = max(1, min(x.shape[2:]) // 4)
        step = max(1, side // 2)
        attributed: Tensor = Occlusion(model).attribute(
            x,
            sliding_window_shapes=(x.shape[1], side, side),
            strides=(x.shape[1], step, step),
            baselines=0,
            target=classes,
            perturbations_per_eval=max(1, batch_size // len(x)),
        )
        # The square covers all channels, and each of them has the whole effect.
        return attributed.mean(dim=1)

    with evaluating(model), torch.no_grad():
        return maps_in_batches(model, images, targets, batch_size, explain)


def gradient_shap(model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int, seed: int) -> Tensor:
    """Expected gradients: integrated gradients over a distribution of baselines.

    ``mean over c, a of (x - c) * df(c + a (x - c))/dx`` with ``a`` uniform in [0, 1] (Lundberg & Lee 2017,
    arXiv 1705.07874; Erion et al. 2021, arXiv 1906.10670), summed over colour channels. A baseline ``c`` is
    an image of one colour, uniform in the cube of colours: no colour is taken for absent, and the map of
    an image does not depend on what other images there are. (The papers draw baselines from the data.)

    All images and all networks share the ``STEPS`` draws of a seed, so that two maps differ by their
    networks alone. Captum's ``GradientShap`` computes the same, but draws from the global generators.

    Args:
        model: see ``integrated_gradients_maps``, as for all arguments and errors.
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose score is explained, shape (N,).
        batch_size: images in one pass.
        seed: of the baselines and the places on the path.

    Returns:
        Signed maps, shape (N, H, W), float32, on the CPU.
    """
    check_explained(images, targets)
    draws = torch.Generator().manual_seed(seed)
    colours = torch.rand(STEPS, 1, images.shape[1], 1, 1, generator=draws)
    places = torch.rand(STEPS, 1, 1, 1, 1, generator=draws)

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        per_pass = max(1, batch_size // len(x))
        total = torch.zeros_like(x)
        for start in range(0, STEPS, per_pass):
            chosen = slice(start, start + per_pass)
            away = x - colours[chosen].to(x)  # (S, n, C, H, W)
            points = (x - (1 - places[chosen].to(x)) * away).flatten(0, 1).requires_grad_()
            scores = model(points).gather(1, classes.repeat(len(away))[:, None]).sum()
            (gradient,) = torch.autograd.grad(scores, points)
            total += (away * gradient.reshape_as(away)).sum(dim=0)
        return (total / STEPS).sum(dim=1)

    # A caller's no_grad (Captum's metrics have one) is not meant for this gradient.
    with evaluating(model), torch.enable_grad():
        return maps_in_batches(model, images, targets, batch_size, explain)


#: Every method by name.
METHODS: Mapping[str, Explain] = {
    "integrated_gradients": lambda model, images, targets, *, batch_size, seed: integrated_gradients_maps(
        model, images, targets, steps=STEPS, batch_size=batch_size
    ),
    "input_x_gradient": lambda model, images, targets, *, batch_size, seed: input_x_gradient(
        model, images, targets, batch_size=batch_size
    ),
    "grad_cam": lambda model, images, targets, *, batch_size, seed: grad_cam(
        model, images, targets, batch_size=batch_size
    ),
    "occlusion": lambda model, images, targets, *, batch_size, seed: occlusion(
        model, images, targets, batch_size=batch_size
    ),
    "gradient_shap": gradient_shap,
    "deep_lift": lambda model, images, targets, *, batch_size, seed: deep_lift(
        model, images, targets, batch_size=batch_size
    ),
}

"""Which pixels speak for a class, by integrated gradients."""

from torch import Tensor, nn

from analysis.attribution.batches import maps_in_batches
from analysis.inference import evaluating
from population.errors import InputError


def integrated_gradients_maps(
    model: nn.Module, images: Tensor, targets: Tensor, *, steps: int, batch_size: int
) -> Tensor:
    """Attributes the score of one class to the pixels, by integrated gradients.

    ``(x - x0) * integral of df(x0 + a (x - x0))/dx over a in [0, 1]`` (Sundararajan et al. 2017, arXiv
    1703.01365) by Gauss-Legendre quadrature, summed over colour channels. The baseline ``x0`` is the
    black image, so black pixels get nothing by definition. A map sums to ``f(x) - f(x0)`` up to the
    error of the quadrature.

    Args:
        model: images to class scores, shape (N, C); any normalisation is inside it.
        images: shape (N, C, H, W), floating point in [0, 1]; moved batch by batch to the model's device.
        targets: class whose score is explained, shape (N,), integers.
        steps: points of the quadrature, at least 1; cost is this many forward and backward passes.
        batch_size: largest number of images in one pass, whatever the steps.

    Returns:
        Signed maps, shape (N, H, W), float32, on the CPU: positive pixels speak for the class.

    Raises:
        InputError: if shapes disagree, images are not in [0, 1], or a count is below 1.
    """
    from captum.attr import IntegratedGradients

    if steps < 1:
        raise InputError(f"steps must be at least 1, not {steps}")

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        attributed: Tensor = IntegratedGradients(model).attribute(
            x,
            baselines=0,
            target=classes,
            n_steps=steps,
            method="gausslegendre",
            internal_batch_size=batch_size,
        )
        return attributed.sum(dim=1)

    with evaluating(model):
        return maps_in_batches(model, images, targets, batch_size, explain)

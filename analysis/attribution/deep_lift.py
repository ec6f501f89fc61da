"""DeepLift, with a gate: maps that do not sum to the change of the score are refused."""

import warnings

import torch
from torch import Tensor, nn

from analysis.attribution.batches import check_explained, explained_batches, maps_in_batches
from analysis.attribution.relu_calls import one_relu_per_call
from analysis.inference import device_of, evaluating
from population.errors import InputError

#: Above this relative gap DeepLift is refused: the 5 % within which Sundararajan et al. 2017 (arXiv
#: 1703.01365, section 5) take integrated gradients for complete. Where every nonlinearity has its rule,
#: rounding leaves about 1e-6.
LARGEST_GAP = 0.05

# Of the largest score: smaller gaps are rounding, also where a dead network's scores hardly change.
_ROUNDING = 1e-6


def deep_lift(model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int) -> Tensor:
    """DeepLift (rescale rule) against the black image, summed over colour channels.

    Every nonlinearity passes on ``change of output / change of input`` (Shrikumar et al. 2017, arXiv
    1704.02685), so that a map sums to ``f(x) - f(x0)``, in one pass. Runs on a copy of the model in which
    each ReLU is called once.

    Args:
        model: see ``integrated_gradients_maps``, as for all arguments and errors.
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose score is explained, shape (N,).
        batch_size: images in one pass, baselines included; at least one image and its baseline.

    Returns:
        Signed maps, shape (N, H, W), float32, on the CPU.

    Raises:
        InputError: also if the copy cannot be made, or the completeness gap is above ``LARGEST_GAP``: the
            network then has parts without a rule (GELU, SiLU, attention), or several max-poolings, or one
            with windows that overlap, for which Captum's rule does not add up.
    """
    from captum.attr import DeepLift

    check_explained(images, targets)
    if len(images) == 0:
        return torch.empty(0, *images.shape[2:])
    method = DeepLift(one_relu_per_call(model, images[:1]))

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # Captum says on every call that it sets hooks, which it takes away again.
            warnings.filterwarnings(
                "ignore", message=r"\s*Setting forward, backward hooks", category=UserWarning
            )
            attributed: Tensor = method.attribute(x.requires_grad_(), baselines=0, target=classes)
        return attributed.sum(dim=1)

    # An image and its baseline are one batch.
    maps = maps_in_batches(model, images, targets, max(1, batch_size // 2), explain)
    gap = completeness_gap(model, images, targets, maps, batch_size=batch_size)
    if not gap <= LARGEST_GAP:
        raise InputError(
            f"DeepLift's maps miss {gap:.0%} of the change of the score (allowed are {LARGEST_GAP:.0%}):"
            " it has no rule for some part of the network; choose another method"
        )
    return maps


def completeness_gap(
    model: nn.Module, images: Tensor, targets: Tensor, maps: Tensor, *, batch_size: int
) -> float:
    """How far the sums of maps are from the change of the score against the black image.

    Args:
        model: see ``integrated_gradients_maps``.
        images: shape (N, C, H, W), in [0, 1], N >= 1.
        targets: class whose score is explained, shape (N,).
        maps: shape (N, H, W).
        batch_size: images in one pass.

    Returns:
        ``sum |sum of the map - (f(x) - f(0))| / sum |f(x) - f(0)|`` over images: 0 for maps that are
        complete up to rounding. Infinite if no score changes although a map says so.
    """
    change = torch.empty(len(images))
    rounding = 0.0
    with evaluating(model), torch.no_grad():
        black = model(torch.zeros_like(images[:1]).to(device_of(model)))[0]
        for part, x, classes in explained_batches(model, images, targets, batch_size):
            scores = model(x)
            change[part] = (scores.gather(1, classes[:, None])[:, 0] - black[classes]).cpu()
            rounding += _ROUNDING * scores.abs().amax(dim=1).sum().item()
    missed = (maps.sum(dim=(1, 2)) - change).abs().sum().item()
    if missed <= rounding:
        return 0.0
    size = change.abs().sum().item()
    return missed / size if size > 0 else float("inf")

"""Grad-CAM of the last layer that still knows where things are."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.attribution.batches import check_explained, maps_in_batches
from analysis.inference import device_of, evaluating
from population.errors import InputError

SMALLEST_MAP = 4  # pixels a side, below which a map says nothing about places


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor, *, batch_size: int) -> Tensor:
    """Grad-CAM of the last layer whose map is at least 4x4, bilinearly enlarged to the image's size.

    ``relu(sum over channels of mean gradient * activation)`` (Selvaraju et al. 2017, arXiv 1610.02391).
    Networks for small images end in maps of 1x1, which is why the layer is not simply the last.

    Args:
        model: see ``integrated_gradients_maps``, as for all arguments and errors.
        images: shape (N, C, H, W), in [0, 1].
        targets: class whose score is explained, shape (N,).
        batch_size: images in one pass.

    Returns:
        Maps without negative values, shape (N, H, W), float32, on the CPU. A map is zero everywhere
        where no channel speaks for the class.

    Raises:
        InputError: also if no layer has such a map.
    """
    from captum.attr import LayerGradCam

    check_explained(images, targets)
    if len(images) == 0:
        return torch.empty(0, *images.shape[2:])
    method = LayerGradCam(model, model.get_submodule(last_spatial_layer(model, images[:1])))

    def explain(x: Tensor, classes: Tensor) -> Tensor:
        coarse = method.attribute(x, target=classes, relu_attributions=True).detach()
        return F.interpolate(coarse, size=x.shape[2:], mode="bilinear")[:, 0]

    with evaluating(model):
        return maps_in_batches(model, images, targets, batch_size, explain)


def last_spatial_layer(model: nn.Module, example: Tensor) -> str:
    """Finds where Grad-CAM looks, by running the model once.

    Args:
        model: any module; it is not changed.
        example: a batch that the model accepts, shape (N, C, H, W).

    Returns:
        Name of the last module to finish, from the first convolution on, whose output is one batch of maps
        of at least 4x4 pixels and which runs once. Of modules with the same output it is the outermost.

    Raises:
        InputError: if there is none.
    """
    finished: list[tuple[str, bool]] = []
    convolved = False

    def record(name: str, module: nn.Module, output: object) -> None:
        nonlocal convolved
        convolved |= isinstance(module, nn.Conv2d)
        is_map = isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) >= SMALLEST_MAP
        finished.append((name, convolved and is_map))

    def hook(name: str):  # type: ignore[no-untyped-def]
        return lambda module, _, output: record(name, module, output)

    handles = [m.register_forward_hook(hook(name)) for name, m in model.named_modules() if name]
    try:
        with evaluating(model), torch.no_grad():
            model(example.to(device_of(model)))
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, _ in finished]
    fit = [name for name, is_map in finished if is_map and names.count(name) == 1]
    if not fit:
        raise InputError(f"no layer has a map of at least {SMALLEST_MAP}x{SMALLEST_MAP}; Grad-CAM needs one")
    return fit[-1]

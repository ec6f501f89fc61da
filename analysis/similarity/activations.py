"""What the layers of a network make of images, read on the spot and reduced at once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from analysis.inference import device_of, evaluating
from population.errors import InputError, unknown_name


def layer_outputs(
    model: nn.Module, batch: Tensor, layers: Sequence[str], reduce: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Runs a model once and returns what is asked for of each layer's output.

    Args:
        model: in evaluation mode; its hooks are as before afterwards.
        batch: network inputs, shape (b, ...); moved to the model's device.
        layers: names of modules that run once per forward pass and give one tensor.
        reduce: what is kept of an output. It is called at once, before a later layer can write over
            the output, and must not return the output itself.

    Raises:
        InputError: if a layer is named twice, is unknown, runs not exactly once or gives no tensor.
    """
    if len(set(layers)) < len(layers):
        raise InputError("a layer is named twice")
    modules = dict(model.named_modules())
    kept: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    handles: list[RemovableHandle] = []

    def collect(layer: str, output: object) -> None:
        if not isinstance(output, Tensor):
            raise InputError(f"layer {layer!r} gives a {type(output).__name__}, not one tensor")
        kept[layer].append(reduce(output))

    try:
        for layer in kept:
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
    for layer, found in kept.items():
        if len(found) != 1:
            raise InputError(f"layer {layer!r} runs {len(found)} times in a forward pass, not once")
    return {layer: found[0] for layer, found in kept.items()}


def position_means(output: Tensor) -> Tensor:
    """Averages a layer's output over positions, so that one number per channel and image is left.

    What is averaged out, where in an image a channel responds, is no longer compared. It makes the
    features few enough that values of all images, not of batches, can be had in one pass.

    Args:
        output: feature maps of shape (n, channels, height, width), tokens of shape (n, tokens,
            features), or features of shape (n, p), which are copied.

    Returns:
        Shape (n, p), float32, or float64 where the output is.

    Raises:
        InputError: for outputs of other shapes.
    """
    wide = output if output.dtype == torch.float64 else output.float()
    if wide.ndim == 4:
        return wide.mean(dim=(2, 3))
    if wide.ndim == 3:
        return wide.mean(dim=1)
    if wide.ndim == 2:
        return wide.clone()
    raise InputError(f"a layer's output must have 2, 3 or 4 axes, not shape {(*output.shape,)}")


def comparable_layers(model: nn.Module, example: Tensor) -> list[str]:
    """Names the layers whose outputs ``position_means`` takes, in the order in which they finish.

    Left out are modules that run more than once or never, those with other outputs, ``Sequential``
    containers, whose output is that of their last part, and the model as a whole.

    Args:
        model: any network; its own modes and hooks are as before afterwards.
        example: a batch of inputs.
    """
    finished: list[str] = []
    fits: dict[str, bool] = {}
    handles: list[RemovableHandle] = []

    def collect(name: str, output: object) -> None:
        finished.append(name)
        fits[name] = isinstance(output, Tensor) and output.is_floating_point() and output.ndim in (2, 3, 4)

    with torch.inference_mode(), evaluating(model):
        try:
            for name, module in model.named_modules():
                if name and not isinstance(module, nn.Sequential):
                    handles.append(
                        module.register_forward_hook(
                            lambda _module, _inputs, output, name=name: collect(name, output)
                        )
                    )
            model(example.to(device_of(model)))
        finally:
            for handle in handles:
                handle.remove()
    return [name for name in finished if fits[name] and finished.count(name) == 1]


def pooled_features(
    model: nn.Module, images: Tensor, layers: Sequence[str], *, batch_size: int
) -> dict[str, Tensor]:
    """Collects the outputs of layers, averaged over positions, in one pass over the images.

    Memory holds one number per image and channel (24 kB per image for 6,000 channels).

    Args:
        model: any network; its own modes and hooks are as before afterwards.
        images: network inputs in a fixed order, shape (N, ...).
        layers: as for ``layer_outputs``.
        batch_size: number of images per forward pass.

    Returns:
        Per layer the features, shape (N, p), on the CPU; see ``position_means``.

    Raises:
        InputError: as ``layer_outputs`` and ``position_means``.
    """
    with torch.no_grad(), evaluating(model):
        parts = [
            {layer: part.cpu() for layer, part in layer_outputs(model, batch, layers, position_means).items()}
            for batch in torch.split(images, batch_size)
        ]
    return {layer: torch.cat([part[layer] for part in parts]) for layer in layers}

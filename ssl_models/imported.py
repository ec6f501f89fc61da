"""Networks that were built elsewhere, in the form that the toolkit's own have."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from population.errors import InputError
from ssl_models.backbones import Normalize


class ImportedNetwork(nn.Module):
    """Any classifier behind the normalisation that it was trained with.

    Attributes:
        normalize: from images in [0, 1] to what the network takes.
        network: the network as it was built.
        head_name: its last linear layer, a name within this module; None if that is not known.
    """

    def __init__(
        self, network: nn.Module, mean: Sequence[float], std: Sequence[float], head_name: str | None
    ) -> None:
        super().__init__()
        self.normalize = Normalize(mean, std)
        self.network = network
        self.head_name = head_name

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in [0, 1] to logits (N, num_classes)."""
        # A copy with the strides that a network is written for: a view of a channels-last map fails.
        inputs = self.normalize(x).clone(memory_format=torch.contiguous_format)
        logits: Tensor = self.network(inputs)
        return logits

    @property
    def head(self) -> nn.Linear:
        """The last linear layer.

        Raises:
            InputError: if it is not known.
        """
        layer = None if self.head_name is None else self.get_submodule(self.head_name)
        if not isinstance(layer, nn.Linear):
            raise InputError("the network's last linear layer is not known")
        return layer

    def features(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in [0, 1] to what the last linear layer takes, (N, D).

        Raises:
            InputError: if that layer is not known.
        """
        kept: list[Tensor] = []
        handle = self.head.register_forward_pre_hook(lambda _layer, inputs: kept.append(inputs[0]))
        try:
            self(x)
        finally:
            handle.remove()
        return kept[0]


def last_linear(network: nn.Module, example: Tensor) -> str | None:
    """Name of the linear layer whose output is the network's output.

    Args:
        network: in eval mode; its hooks are as before afterwards.
        example: a batch of inputs.

    Returns:
        The name; None if there is no such layer, or it lacks a bias, runs more than once or takes
        something else than one vector per input.
    """
    calls: list[tuple[str, Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(
            lambda _layer, inputs, output, name=name: calls.append((name, inputs[0], output))
        )
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.bias is not None
    ]
    try:
        with torch.inference_mode():
            logits = network(example)
    finally:
        for handle in handles:
            handle.remove()
    ran = [name for name, _, _ in calls]
    found = [n for n, given, made in calls if made is logits and given.ndim == 2 and ran.count(n) == 1]
    return found[0] if found else None


def forget(network: nn.Module) -> None:
    """Draws the weights of all layers anew from torch's global random state, in place.

    Layers are those with torch's method ``reset_parameters``; parameters outside of such layers (a class
    token) stay as they are.
    """
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()

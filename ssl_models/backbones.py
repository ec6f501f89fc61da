"""Encoders by name, and the classifier made of an encoder and a linear layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from population.errors import unknown_name
from ssl_models.encoders.pooled import PooledFeatures, mobilenet_v2, vgg11_bn
from ssl_models.encoders.resnet import ResNet, resnet18, resnet34, resnet50
from ssl_models.encoders.wide_resnet import WideResNet16

Encoder = ResNet | WideResNet16 | PooledFeatures


class BuildEncoder(Protocol):
    """Makes an encoder with random weights from torch's global random state."""

    def __call__(self, *, in_channels: int, width: int, stem: str) -> Encoder:
        """Makes an encoder; its ``embedding`` is the number of its features.

        Args:
            in_channels: of the images.
            width: channels of the first convolution; all others scale with it.
            stem: ``small`` or ``imagenet``.
        """
        ...


@dataclass(frozen=True)
class Architecture:
    """An encoder of the zoo.

    Attributes:
        build: makes it.
        compared: names of the layers whose outputs are compared between models, in forward order; the
            last one's output is the embedding.
    """

    build: BuildEncoder
    compared: tuple[str, ...]


def _resnet_layers(*depths: int) -> tuple[str, ...]:
    """The first norm, the first and last block of each stage, the embedding."""
    blocks = (f"layer{s}.{b}" for s, depth in enumerate(depths, 1) for b in (0, depth - 1))
    return ("bn1", *blocks, "avgpool")


ARCHITECTURES: dict[str, Architecture] = {
    "r18": Architecture(resnet18, _resnet_layers(2, 2, 2, 2)),
    "r34": Architecture(resnet34, _resnet_layers(3, 4, 6, 3)),
    "r50": Architecture(resnet50, _resnet_layers(3, 4, 6, 3)),
    "wrn16_2": Architecture(
        WideResNet16, ("conv1", *(f"layer{s}.{b}" for s in (1, 2, 3) for b in (0, 1)), "relu", "avgpool")
    ),
    # the ReLU of each convolution
    "vgg11_bn": Architecture(
        vgg11_bn, (*(f"features.{i}" for i in (2, 6, 10, 13, 17, 20, 24, 27)), "avgpool")
    ),
    # the first convolution, the last block of each stage, the last convolution
    "mobilenet_v2": Architecture(
        mobilenet_v2, (*(f"features.{i}" for i in (0, 1, 3, 6, 10, 13, 16, 17, 18)), "avgpool")
    ),
}


def compared_layers(architecture: str) -> tuple[str, ...]:
    """Layers of an encoder whose outputs are compared between models.

    Returns:
        Names within the encoder, in forward order; the last one's output is the embedding.

    Raises:
        InputError: if the architecture is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise unknown_name("architecture", architecture, ARCHITECTURES)
    return ARCHITECTURES[architecture].compared


class Normalize(nn.Module):
    """Subtracts a mean and divides by a standard deviation, per channel.

    Part of the model, so that images in [0, 1] are the input of predictions, attributions and
    attacks alike.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to images of the same shape."""
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """Encoder and linear layer (for contrastive models: the probe) as one network."""

    def __init__(self, normalize: Normalize, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.normalize = normalize
        self.encoder = encoder
        self.head = nn.Linear(encoder.embedding, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in [0, 1] to embeddings (N, D)."""
        features: Tensor = self.encoder(self.normalize(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) in [0, 1] to logits (N, num_classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits

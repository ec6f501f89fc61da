"""Encoders that are one row of layers and a mean over the map: VGG-11 and MobileNetV2."""

import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.vgg import cfgs, make_layers
from torchvision.ops import Conv2dNormActivation

from ssl_models.encoders.parts import draw_weights

_VGG_WIDTH, _MOBILENET_WIDTH = 64, 32  # of the papers
#: Expansion, channels, repeats and stride of each stage (table 2 of the paper).
_MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class PooledFeatures(nn.Module):
    """A row of layers, and the mean of each of its output channels over the map.

    Attributes:
        embedding: number of features.
    """

    def __init__(self, features: nn.Sequential, embedding: int) -> None:
        super().__init__()
        self.embedding = embedding
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to embeddings (N, embedding)."""
        return torch.flatten(self.avgpool(self.features(x)), 1)


def vgg11_bn(*, in_channels: int, width: int, stem: str) -> PooledFeatures:
    """The convolutions of VGG-11 with norms (Simonyan and Zisserman 2015, arXiv 1409.1556).

    The embedding has 8 x width features. Deviations: the mean over the map takes the place of the
    two hidden linear layers; with the stem ``small`` the first of the five poolings is left out, so that
    images from 16 pixels on do. Layers keep torchvision's numbers.

    Args:
        in_channels: of the images.
        width: of the first convolution; the paper's is 64.
        stem: ``small`` or ``imagenet``.
    """
    scaled = [v if isinstance(v, str) else v // _VGG_WIDTH * width for v in cfgs["A"]]
    features = make_layers(scaled, batch_norm=True)
    features[0] = nn.Conv2d(in_channels, width, 3, padding=1)  # torchvision's takes three channels
    if stem == "small":
        first = next(i for i, layer in enumerate(features) if isinstance(layer, nn.MaxPool2d))
        features[first] = nn.Identity()
    encoder = PooledFeatures(features, 8 * width)
    draw_weights(encoder)
    return encoder


def mobilenet_v2(*, in_channels: int, width: int, stem: str) -> PooledFeatures:
    """MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381).

    The embedding has max(1280, 40 x width) features: as in the paper, the last convolution is never
    narrower than 1280. Deviations: channels are rounded to whole numbers, not to multiples of 8; no
    dropout; with the stem ``small`` the first convolution and the stage of 24 channels have stride 1, as
    usual for CIFAR-10.

    Args:
        in_channels: of the images.
        width: of the first convolution; the paper's is 32.
        stem: ``small`` or ``imagenet``.
    """
    stages = [list(stage) for stage in _MOBILENET_STAGES]
    if stem == "small":
        stages[1][3] = 1
    network = MobileNetV2(
        width_mult=width / _MOBILENET_WIDTH, inverted_residual_setting=stages, round_nearest=1
    )
    # Torchvision's first convolution takes three channels and halves the map.
    network.features[0] = Conv2dNormActivation(
        in_channels, width, stride=1 if stem == "small" else 2, activation_layer=nn.ReLU6
    )
    encoder = PooledFeatures(network.features, network.last_channel)
    draw_weights(encoder)
    return encoder

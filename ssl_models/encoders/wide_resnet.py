"""Wide ResNets: Zagoruyko and Komodakis 2016, arXiv 1605.07146."""

import torch
from torch import Tensor, nn

from ssl_models.encoders.parts import draw_weights, stem_convolution, stem_pooling

_WIDENING = 2


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after its norm and ReLU (He et al. 2016, arXiv 1603.05027).

    Where the number of channels or the resolution changes, the shortcut is a 1x1 convolution of the
    activated input; elsewhere it is the input itself.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        active = self.relu1(self.bn1(x))
        added: Tensor = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return added + (x if self.shortcut is None else self.shortcut(active))


class WideResNet16(nn.Module):
    """WRN-16-2 for small images: three stages of two blocks, twice as wide as a plain ResNet's.

    Deviations: no dropout; with the stem ``imagenet`` the first convolution and pooling are a ResNet's.

    Attributes:
        embedding: number of features, 8 x width.
    """

    def __init__(self, *, in_channels: int, width: int, stem: str) -> None:
        super().__init__()
        wide = _WIDENING * width
        self.embedding = 4 * wide
        self.conv1 = stem_convolution(in_channels, width, stem)
        self.maxpool = stem_pooling(stem)
        self.layer1 = _stage(width, wide, stride=1)
        self.layer2 = _stage(wide, 2 * wide, stride=2)
        self.layer3 = _stage(2 * wide, 4 * wide, stride=2)
        self.bn = nn.BatchNorm2d(4 * wide)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to embeddings (N, 8 * width)."""
        x = self.layer3(self.layer2(self.layer1(self.maxpool(self.conv1(x)))))
        return torch.flatten(self.avgpool(self.relu(self.bn(x))), 1)


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    return nn.Sequential(
        PreActivationBlock(inputs, outputs, stride=stride), PreActivationBlock(outputs, outputs, stride=1)
    )

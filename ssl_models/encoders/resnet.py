"""ResNets: He et al. 2016, arXiv 1512.03385, from torchvision's blocks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ssl_models.encoders.parts import draw_weights, stem_convolution, stem_pooling

Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Module):
    """A ResNet of four stages, as torchvision's, with a choice of width.

    Deviation for the stem ``small``: a 3x3 convolution with stride 1 and no max-pooling, as usual for
    32x32 images (Chen et al. 2020, arXiv 2002.05709, appendix B.9).

    Attributes:
        embedding: number of features: 8 x width for basic blocks, 32 x width for bottlenecks.
    """

    def __init__(
        self, block: Block, depths: Sequence[int], *, in_channels: int, width: int, stem: str
    ) -> None:
        super().__init__()
        self.embedding = 8 * width * block.expansion
        self.conv1 = stem_convolution(in_channels, width, stem)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = stem_pooling(stem)
        self.layer1 = _stage(block, depths[0], width, width, stride=1)
        self.layer2 = _stage(block, depths[1], width * block.expansion, 2 * width, stride=2)
        self.layer3 = _stage(block, depths[2], 2 * width * block.expansion, 4 * width, stride=2)
        self.layer4 = _stage(block, depths[3], 4 * width * block.expansion, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to embeddings (N, D)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


def _stage(block: Block, depth: int, inputs: int, planes: int, *, stride: int) -> nn.Sequential:
    outputs = planes * block.expansion
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    first = block(inputs, planes, stride, shortcut)
    return nn.Sequential(first, *(block(outputs, planes) for _ in range(depth - 1)))


def resnet18(*, in_channels: int, width: int, stem: str) -> ResNet:
    """ResNet-18; the paper's width is 64."""
    return ResNet(BasicBlock, (2, 2, 2, 2), in_channels=in_channels, width=width, stem=stem)


def resnet34(*, in_channels: int, width: int, stem: str) -> ResNet:
    """ResNet-34; the paper's width is 64."""
    return ResNet(BasicBlock, (3, 4, 6, 3), in_channels=in_channels, width=width, stem=stem)


def resnet50(*, in_channels: int, width: int, stem: str) -> ResNet:
    """ResNet-50; the paper's width is 64. The stride is in the 3x3 convolutions, as torchvision has it."""
    return ResNet(Bottleneck, (3, 4, 6, 3), in_channels=in_channels, width=width, stem=stem)

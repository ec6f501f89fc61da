"""Encoders built from torchvision's blocks, and the classifier made of an encoder and a linear layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock


class ResNet18(nn.Module):
    """ResNet-18 for small images (He et al. 2016, arXiv 1512.03385).

    As torchvision's, but with a 3x3 stride-1 stem without max-pooling, as usual for 32x32 images
    (Chen et al. 2020, arXiv 2002.05709, appendix B.9), and a choice of width.

    Attributes:
        embedding: number of features, 8 x width.
    """

    def __init__(self, *, in_channels: int, width: int) -> None:
        super().__init__()
        self.embedding = 8 * width
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        self.layer4 = _stage(4 * width, 8 * width, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (N, C, H, W) to embeddings (N, 8 * width)."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


def _stage(inputs: int, outputs: int, *, stride: int) -> nn.Sequential:
    shortcut = None
    if stride != 1:
        shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
        )
    return nn.Sequential(BasicBlock(inputs, outputs, stride, shortcut), BasicBlock(outputs, outputs))


#: Layers whose outputs are compared between models, in forward order.
COMPARED_LAYERS = ("bn1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)), "avgpool")

ARCHITECTURES = {"r18": ResNet18}


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

    def __init__(self, normalize: Normalize, encoder: ResNet18, num_classes: int) -> None:
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

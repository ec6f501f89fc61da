"""What the encoders share: stems and initial weights."""

from torch import nn


def stem_convolution(in_channels: int, width: int, stem: str) -> nn.Conv2d:
    """First convolution: 3x3 with stride 1 (``small``), or 7x7 with stride 2 (``imagenet``)."""
    if stem == "small":
        return nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    return nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)


def stem_pooling(stem: str) -> nn.Module:
    """What follows the first convolution: nothing (``small``), or a halving of the map (``imagenet``)."""
    return nn.Identity() if stem == "small" else nn.MaxPool2d(3, stride=2, padding=1)


def draw_weights(encoder: nn.Module) -> None:
    """Draws all convolutions anew as in He et al. 2015 (arXiv 1502.01852), with fan-out; biases are 0.

    As torchvision does for all of its networks that are used here.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)

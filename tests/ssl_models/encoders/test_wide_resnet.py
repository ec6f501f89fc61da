import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssl_models.encoders.wide_resnet import PreActivationBlock, WideResNet16


def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
    return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias)


def step_by_step(encoder: WideResNet16, images: Tensor) -> Tensor:
    """The network of the paper (table 1 with N=2, k=2), written out from its tensors."""
    x = F.conv2d(images, encoder.conv1.weight, padding=1)
    for stage, first_stride in ((encoder.layer1, 1), (encoder.layer2, 2), (encoder.layer3, 2)):
        for index, block in enumerate(stage):
            stride = first_stride if index == 0 else 1
            o = F.relu(norm(x, block.bn1))
            y = F.conv2d(o, block.conv1.weight, stride=stride, padding=1)
            y = F.conv2d(F.relu(norm(y, block.bn2)), block.conv2.weight, padding=1)
            x = y + (F.conv2d(o, block.shortcut.weight, stride=stride) if index == 0 else x)
    return F.relu(norm(x, encoder.bn)).mean((2, 3))


def test_the_network_is_the_papers() -> None:
    torch.manual_seed(0)
    encoder = WideResNet16(in_channels=3, width=16, stem="small").eval()
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
        images = torch.rand(2, 3, 16, 20)
        torch.testing.assert_close(encoder(images), step_by_step(encoder, images))
    # 16-2 has 0.7 million parameters with the linear layer for CIFAR-10, 691,674 as often reported
    assert sum(p.numel() for p in encoder.parameters()) + 128 * 10 + 10 == 691_674
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in encoder.modules()) == 13


@pytest.mark.parametrize("width", [1, 5])
def test_the_embedding_is_eight_times_the_width(width: int) -> None:
    encoder = WideResNet16(in_channels=2, width=width, stem="small")
    assert encoder.embedding == 8 * width
    assert encoder(torch.rand(2, 2, 13, 16)).shape == (2, 8 * width)


def test_the_imagenet_stem_quarters_the_map() -> None:
    seen = []
    encoder = WideResNet16(in_channels=3, width=2, stem="imagenet")
    encoder.layer1.register_forward_hook(lambda *arguments: seen.append(arguments[-1].shape))
    encoder(torch.rand(1, 3, 96, 64))
    assert seen == [(1, 4, 24, 16)]


def test_a_block_without_change_adds_its_input() -> None:
    block = PreActivationBlock(3, 3, stride=1)
    nn.init.zeros_(block.conv2.weight)
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(block(images), images)
    assert block.shortcut is None

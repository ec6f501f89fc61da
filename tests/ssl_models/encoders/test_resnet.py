from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision import models

from ssl_models.encoders.resnet import ResNet, resnet18, resnet34, resnet50

PAIRS = [(resnet18, models.resnet18), (resnet34, models.resnet34), (resnet50, models.resnet50)]


def with_statistics(encoder: nn.Module) -> nn.Module:
    """The encoder with norms that do something."""
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    return encoder


def torchvision_twin(encoder: ResNet, build: Callable[..., nn.Module], stem: str) -> nn.Module:
    """Torchvision's network with the encoder's weights; it exists in one width."""
    with torch.device("meta"):
        twin = build(weights=None)
        twin.fc = nn.Identity()
        if stem == "small":
            twin.conv1, twin.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    twin.load_state_dict({n: t.clone() for n, t in encoder.state_dict().items()}, assign=True)
    return twin


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_width_64_is_torchvisions_network(
    ours: Callable[..., ResNet], theirs: Callable[..., nn.Module], stem: str
) -> None:
    torch.manual_seed(0)
    encoder = with_statistics(ours(in_channels=3, width=64, stem=stem))
    twin = torchvision_twin(encoder, theirs, stem)
    images = torch.rand(2, 3, 16 if stem == "small" else 40, 24)
    for training in (True, False):
        encoder.train(training)
        twin.train(training)
        with torch.no_grad():
            assert torch.equal(encoder(images), twin(images))


def test_the_initial_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    encoder = resnet18(in_channels=1, width=16, stem="small")
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / fan_out) ** 0.5
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, abs=tolerance), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize(("build", "expansion"), [(resnet18, 1), (resnet34, 1), (resnet50, 4)])
def test_the_embedding_follows_the_width(build: Callable[..., ResNet], expansion: int) -> None:
    for width in (1, 3):
        encoder = build(in_channels=2, width=width, stem="small")
        assert encoder.embedding == 8 * width * expansion
        assert encoder(torch.rand(2, 2, 16, 16)).shape == (2, encoder.embedding)
        assert encoder(torch.rand(2, 2, 20, 28)).shape == (2, encoder.embedding)

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from ssl_models.backbones import COMPARED_LAYERS, Classifier, Normalize, ResNet18


def torchvision_twin(encoder: ResNet18, in_channels: int) -> nn.Module:
    """Torchvision's network with its stem replaced and the encoder's weights; it exists in one width."""
    twin = resnet18(weights=None)
    twin.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    twin.maxpool = nn.Identity()
    twin.fc = nn.Identity()
    twin.load_state_dict(encoder.state_dict())
    return twin


@pytest.mark.parametrize("training", [True, False])
def test_width_64_is_torchvisions_network_without_its_stem(training: bool) -> None:
    torch.manual_seed(0)
    encoder = ResNet18(in_channels=3, width=64)
    with torch.no_grad():
        for module in encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_()
    twin = torchvision_twin(encoder, 3).train(training)
    encoder.train(training)
    images = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(encoder(images), twin(images))


def test_the_initial_weights_are_kaiming_normal() -> None:
    torch.manual_seed(0)
    encoder = ResNet18(in_channels=1, width=16)
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = (2 / fan_out) ** 0.5
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, abs=tolerance), name
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()


@pytest.mark.parametrize("width", [1, 3, 8])
def test_the_embedding_is_eight_times_the_width(width: int) -> None:
    encoder = ResNet18(in_channels=2, width=width)
    assert encoder.embedding == 8 * width
    assert encoder(torch.rand(2, 2, 16, 16)).shape == (2, 8 * width)
    assert encoder(torch.rand(2, 2, 20, 28)).shape == (2, 8 * width)


def test_compared_layers_are_in_forward_order() -> None:
    encoder = ResNet18(in_channels=1, width=2).eval()
    seen = []
    for name, module in encoder.named_modules():
        if name in COMPARED_LAYERS:
            module.register_forward_hook(lambda *_, name=name: seen.append(name))
    encoder(torch.rand(1, 1, 16, 16))
    assert tuple(seen) == COMPARED_LAYERS


def test_normalize_by_hand() -> None:
    normalize = Normalize([0.5, 0.1], [0.25, 2.0])
    image = torch.tensor([[[[1.0, 0.5]], [[2.1, 0.1]]]])
    torch.testing.assert_close(normalize(image), torch.tensor([[[[2.0, 0.0]], [[1.0, 0.0]]]]))
    assert set(normalize.state_dict()) == {"mean", "std"}
    assert not list(normalize.parameters())


def test_a_classifier_is_its_three_parts_in_a_row() -> None:
    torch.manual_seed(0)
    model = Classifier(Normalize([0.5], [0.25]), ResNet18(in_channels=1, width=2), 3).eval()
    images = torch.rand(2, 1, 16, 16)
    features = model.encoder((images - 0.5) / 0.25)
    torch.testing.assert_close(model.features(images), features)
    torch.testing.assert_close(model(images), features @ model.head.weight.T + model.head.bias)

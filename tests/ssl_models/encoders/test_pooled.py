import pytest
import torch
from torch import nn
from torchvision import models

from ssl_models.encoders.pooled import mobilenet_v2, vgg11_bn

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def maps(encoder: nn.Module, images: torch.Tensor) -> list[int]:
    """Height of the map after each layer."""
    heights = []
    for layer in encoder.features:
        images = layer(images)
        heights.append(images.shape[2])
    return heights


def test_vgg_is_torchvisions_convolutions_and_a_mean() -> None:
    torch.manual_seed(0)
    encoder = vgg11_bn(in_channels=3, width=64, stem="imagenet").eval()
    with torch.device("meta"):
        twin = models.vgg11_bn(weights=None).features.eval()
    twin.load_state_dict(encoder.features.state_dict(), assign=True)
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), twin(IMAGES).mean((2, 3)))
    assert encoder.embedding == 512


def test_the_small_stem_of_vgg_leaves_out_the_first_pooling_alone() -> None:
    torch.manual_seed(0)
    small = vgg11_bn(in_channels=3, width=4, stem="small").eval()
    large = vgg11_bn(in_channels=3, width=4, stem="imagenet").eval()
    assert small.state_dict().keys() == large.state_dict().keys()
    large.load_state_dict(small.state_dict())
    large.features[3] = nn.Identity()
    with torch.no_grad():
        assert torch.equal(small(IMAGES), large(IMAGES))
    assert list(dict.fromkeys(maps(small, IMAGES))) == [64, 32, 16, 8, 4]
    assert small(torch.rand(1, 3, 16, 16)).shape == (1, 32)


def test_mobilenet_is_torchvisions_without_classifier() -> None:
    torch.manual_seed(0)
    encoder = mobilenet_v2(in_channels=3, width=32, stem="imagenet").eval()
    twin = models.mobilenet_v2(weights=None).eval()
    twin.classifier = nn.Identity()
    twin.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(encoder(IMAGES), twin(IMAGES))
    assert encoder.embedding == 1280


def test_the_small_stem_of_mobilenet_keeps_four_times_the_resolution() -> None:
    torch.manual_seed(0)
    small = mobilenet_v2(in_channels=3, width=4, stem="small")
    large = mobilenet_v2(in_channels=3, width=4, stem="imagenet")
    assert {n: t.shape for n, t in small.state_dict().items()} == {
        n: t.shape for n, t in large.state_dict().items()
    }
    # after the stem and the stages of 24, 32, 64 and 160 channels
    assert [maps(small, IMAGES)[i] for i in (0, 3, 6, 10, 16, 18)] == [64, 64, 32, 16, 8, 8]
    assert [maps(large, IMAGES)[i] for i in (0, 3, 6, 10, 16, 18)] == [32, 16, 8, 4, 2, 2]


def test_channels_of_mobilenet_scale_with_the_width() -> None:
    for width, stages, embedding in (
        (16, [16, 8, 12, 16, 32, 48, 80, 160, 1280], 1280),
        (64, [64, 32, 48, 64, 128, 192, 320, 640, 2560], 2560),
    ):
        with torch.device("meta"):
            encoder = mobilenet_v2(in_channels=3, width=width, stem="small")
        last = [encoder.features[i] for i in (0, 1, 3, 6, 10, 13, 16, 17, 18)]
        norms = [[m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)][-1] for layer in last]
        assert [n.num_features for n in norms] == stages
        assert encoder.embedding == embedding


@pytest.mark.parametrize("build", [vgg11_bn, mobilenet_v2])
def test_grey_images_and_the_smallest_width_do(build: object) -> None:
    encoder = build(in_channels=1, width=1, stem="small").eval()  # type: ignore[operator]
    assert encoder(torch.rand(2, 1, 16, 28)).shape == (2, encoder.embedding)


@pytest.mark.parametrize("build", [vgg11_bn, mobilenet_v2])
def test_every_convolution_is_kaiming_normal_with_biases_of_zero(build: object) -> None:
    torch.manual_seed(0)
    encoder = build(in_channels=1, width=16, stem="small")  # type: ignore[operator]
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight.shape[0] * module.weight[0, 0].numel()
            expected = (2 / fan_out) ** 0.5
            tolerance = 5 * expected / (2 * module.weight.numel()) ** 0.5
            assert float(module.weight.detach().std()) == pytest.approx(expected, abs=tolerance), name
            assert module.bias is None or (module.bias == 0).all()

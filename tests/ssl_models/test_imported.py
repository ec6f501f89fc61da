import pytest
import torch
from torch import Tensor, nn

from population.errors import InputError
from ssl_models.imported import ImportedNetwork, forget, last_linear
from ssl_models.probe import extract_features, fit_probe


class LeNet(nn.Module):
    """Views its feature maps as vectors, which works in the usual memory format alone."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5)
        self.hidden = nn.Linear(6 * 4 * 4, 8)
        self.out = nn.Linear(8, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).relu()
        return self.out(self.hidden(x.view(len(x), -1)).relu())


def images(n: int = 5) -> Tensor:
    x = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x.to(memory_format=torch.channels_last)


def plain(x: Tensor) -> Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def imported() -> ImportedNetwork:
    torch.manual_seed(0)
    return ImportedNetwork(LeNet(), [0.3], [0.2], "network.out").eval()


def test_images_are_normalised_before_the_network() -> None:
    model, x = imported(), images()
    with torch.no_grad():
        torch.testing.assert_close(model(x), model.network((plain(x) - 0.3) / 0.2))
        assert torch.equal(model(x), model(plain(x)))
        with pytest.raises(RuntimeError, match="view size is not compatible"):
            model.network(x)


def test_colour_maps_can_be_viewed_too() -> None:
    model = ImportedNetwork(nn.Sequential(nn.Conv2d(3, 4, 3), View()), [0.0] * 3, [1.0] * 3, None)
    x = torch.rand(2, 3, 6, 6).to(memory_format=torch.channels_last)
    assert model(x).shape == (2, 64)


class View(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def test_the_head_turns_the_features_into_the_outputs() -> None:
    model, x = imported(), images()
    with torch.no_grad():
        features = model.features(x)
        torch.testing.assert_close(features @ model.head.weight.T + model.head.bias, model(x))
    assert features.shape == (5, 8)
    assert not model.head._forward_pre_hooks


def test_a_probe_can_be_fitted() -> None:
    model, generator = imported(), torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (200, 1, 8, 8), dtype=torch.uint8, generator=generator)
    features = torch.from_numpy(extract_features(model, pixels))
    teacher = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    label = (((features - features.mean(0)) / (features.std(0) + 1e-9)) @ teacher).argmax(1).numpy()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    fit_probe(model, pixels, label)
    with torch.no_grad():
        predicted = model(pixels.float() / 255).argmax(1).numpy()
    assert (predicted == label).mean() > 0.9
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {"network.out.weight", "network.out.bias"}


@pytest.mark.parametrize("name", [None, "network.conv"])
def test_an_unknown_head_is_said(name: str | None) -> None:
    model = ImportedNetwork(LeNet(), [0.0], [1.0], name)
    with pytest.raises(InputError, match="the network's last linear layer is not known"):
        model.features(images())


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


@pytest.mark.parametrize(
    ("network", "example", "expected"),
    [
        (LeNet(), plain(images(2)), "out"),
        (LeNet(bias=False), plain(images(2)), None),
        (nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))), torch.ones(2, 4), "0.1"),
        (nn.Sequential(nn.Linear(4, 3), nn.LogSoftmax(1)), torch.ones(2, 4), None),
        (nn.Sequential(nn.Linear(4, 3), nn.Flatten(1)), torch.ones(2, 4), "0"),  # flattens nothing
        (Tied(), torch.ones(2, 4), None),
        (nn.Linear(4, 3), torch.ones(2, 5, 4), None),
    ],
)
def test_the_last_linear_layer(network: nn.Module, example: Tensor, expected: str | None) -> None:
    found = last_linear(network, example)
    assert found == expected
    assert not any(module._forward_hooks for module in network.modules())


def test_forgetting_draws_all_layers_anew() -> None:
    model = imported()
    model.network = nn.Sequential(model.network, nn.BatchNorm1d(3))
    model.network[1].running_mean += 5
    before = {n: t.clone() for n, t in model.state_dict().items()}
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        forget(model)
        drawn.append({n: t.clone() for n, t in model.state_dict().items()})
    for name, tensor in drawn[0].items():
        assert torch.equal(tensor, drawn[1][name])
        fixed = name in {"normalize.mean", "normalize.std", "network.1.num_batches_tracked"}
        fixed |= name in {"network.1.weight", "network.1.bias", "network.1.running_var"}
        assert torch.equal(tensor, before[name]) == fixed, name
    assert drawn[0]["network.1.running_mean"].tolist() == [0, 0, 0]

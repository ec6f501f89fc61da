import pytest
import torch
from torch import Tensor, nn

from analysis.similarity.activations import comparable_layers, layer_outputs, pooled_features, position_means
from population.errors import InputError


class Block(nn.Module):
    """A residual block with one ReLU for two places, and parts that give no fitting tensor or never run."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Linear(1, 1)
        self.pair = Pair()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.conv(self.relu(x)))
        return self.relu(self.pair(out)[0] + x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2), nn.ReLU(inplace=True))
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), Block(), head)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_position_means_by_hand() -> None:
    maps = torch.arange(16.0).reshape(2, 2, 2, 2)
    assert position_means(maps).tolist() == [[1.5, 5.5], [9.5, 13.5]]
    tokens = torch.tensor([[[1.0, 10.0], [3.0, 30.0]]], dtype=torch.bfloat16)
    assert position_means(tokens).tolist() == [[2.0, 20.0]]
    plain = torch.rand(2, 3, dtype=torch.float64)
    copied = position_means(plain)
    assert torch.equal(copied, plain)
    assert copied.data_ptr() != plain.data_ptr()
    with pytest.raises(InputError, match=r"2, 3 or 4 axes, not shape \(2,\)"):
        position_means(torch.rand(2))


def test_comparable_layers_are_those_that_run_once_and_give_a_tensor(
    model: nn.Sequential, images: Tensor
) -> None:
    names = comparable_layers(model, images)
    assert names == ["0", "1", "2.conv", "2", "3.0", "3.1", "3.2", "3.3"]
    assert model.training
    assert int(model[1].num_batches_tracked) == 0
    assert not any(module._forward_hooks for module in model.modules())


def test_pooled_features_are_those_of_the_layers_run_one_by_one(model: nn.Sequential, images: Tensor) -> None:
    found = pooled_features(model, images, ["1", "3.2", "0"], batch_size=3)
    assert list(found) == ["1", "3.2", "0"]
    model.eval()
    with torch.no_grad():
        conv = model[0](images)
        norm = model[1](conv)
        # The ReLU that writes over this output comes later and must not show.
        linear = model[3][:3](model[2](norm.clone()))
    assert torch.allclose(found["0"], conv.mean((2, 3)), atol=1e-6)
    assert torch.allclose(found["1"], norm.mean((2, 3)), atol=1e-6)
    assert torch.allclose(found["3.2"], linear, atol=1e-6)
    assert float(linear.min()) < 0


def test_a_layer_named_twice_is_refused(model: nn.Sequential, images: Tensor) -> None:
    with pytest.raises(InputError, match="named twice"):
        layer_outputs(model, images, ["0", "0"], position_means)

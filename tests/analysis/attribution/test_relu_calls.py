import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import mobilenet_v2, resnet18

from analysis.attribution.relu_calls import one_relu_per_call
from population.errors import InputError


def example(channels: int = 3, side: int = 32) -> Tensor:
    return torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))


def calls_of(copy: nn.Module, x: Tensor) -> list[int]:
    """How often each new ReLU is called in one pass."""
    counts = [0] * len(copy.relus)
    for i, relu in enumerate(copy.relus):
        relu.register_forward_hook(lambda *_, i=i: counts.__setitem__(i, counts[i] + 1))
    copy(x)
    return counts


# ResNet-18: one ReLU after the stem and two in each of 8 blocks. MobileNetV2: 35 ReLU6, two ReLUs each.
@pytest.mark.parametrize(("build", "relus"), [(resnet18, 17), (mobilenet_v2, 70)])
def test_torchvisions_networks_keep_their_outputs(build, relus: int) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = build(num_classes=3).train()
    x = example()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    copy = one_relu_per_call(model, x)
    assert calls_of(copy, x) == [1] * relus
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    torch.testing.assert_close(copy(x), model.eval()(x), rtol=1e-4, atol=1e-6)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in copy.parameters()}


def test_every_way_to_write_a_relu_counts() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(x - 0.1)
            x = F.relu(x - 0.1) + torch.relu(x - 0.2) + (x - 0.3).relu()
            x = (x - 0.1).relu_() + torch.relu_(x - 0.2) + F.relu(input=x - 0.3, inplace=True)
            x = F.relu6(9 * x) + F.hardtanh(x) + F.hardtanh(x, -0.5, max_val=0.25)
            return nn.functional.threshold(x, 0.2, 0.0).flatten(1)

    x = example()
    copy = one_relu_per_call(Written(), x)
    assert calls_of(copy, x) == [1] * (7 + 2 * 3)
    torch.testing.assert_close(copy(x), Written()(x))


def test_a_max_pooling_that_is_called_twice_is_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.pool(self.pool(x)).flatten(1)

    with pytest.raises(InputError, match="pool: called more than once"):
        one_relu_per_call(Pooled(), example())


def test_a_relu_whose_place_in_memory_matters_is_refused() -> None:
    class Aliased(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x - 0.5
            F.relu(x, inplace=True)
            return x.flatten(1)

    with pytest.raises(InputError, match="outputs would change"):
        one_relu_per_call(Aliased(), example())


def test_a_number_of_relus_that_depends_on_the_input_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(x)
            return (F.relu(x) if x.mean() > 0.9 else x).flatten(1)

    copy = one_relu_per_call(Branching(), example())
    with pytest.raises(InputError, match="depends on its input"):
        copy(torch.ones(1, 3, 4, 4))

import pytest
import torch
from torch import Tensor, nn

from analysis.attribution.randomised import randomised
from population.errors import InputError


@pytest.fixture
def images() -> Tensor:
    return torch.rand(7, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
    ).train()  # fmt: skip


def test_every_parameter_keeps_its_numbers_but_not_their_places(images: Tensor) -> None:
    model = network()
    nn.init.normal_(model[1].weight)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = randomised(model, images, batch_size=4, seed=3)
    for name, parameter in model.named_parameters():
        other = found.get_parameter(name)
        assert torch.equal(*(p.flatten().sort().values for p in (parameter, other)))
        if name != "1.bias":  # all zeros
            assert not torch.equal(parameter, other)
    assert model.training
    assert not any(module.training for module in found.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_norms_hold_the_mean_statistics_of_the_complete_batches(images: Tensor) -> None:
    found = randomised(network(), images, batch_size=3, seed=3)
    with torch.no_grad():
        maps = [found[0](images[start : start + 3]) for start in (0, 3)]  # the seventh image is left out
    mean = torch.stack([m.mean(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    var = torch.stack([m.var(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    torch.testing.assert_close(found[1].running_mean, mean)
    torch.testing.assert_close(found[1].running_var, var)


def test_the_seed_alone_decides(images: Tensor) -> None:
    first, again, other = (
        randomised(network(), images, batch_size=4, seed=s).state_dict() for s in (1, 1, 2)
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_one_image_is_enough_without_norms_alone(images: Tensor) -> None:
    with pytest.raises(InputError, match="at least 2 images"):
        randomised(network(), images[:1], batch_size=4, seed=0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
    assert randomised(plain, images[:1], batch_size=1, seed=0)(images).shape == (7, 3)

import pytest
import torch
from torch import Tensor, nn

from analysis.attribution.integrated_gradients import integrated_gradients_maps
from population.errors import InputError

CLASSES = 3


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 2, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> Tensor:
    return torch.tensor([0, 2, 1, 1, 0])


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, CLASSES))


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8 * 16, CLASSES)
    )


class TestMaps:
    def test_a_linear_model_gives_weight_times_pixel(self, images: Tensor, targets: Tensor) -> None:
        model = linear(1)
        weight = model[1].weight.detach()[targets].reshape(5, 2, 6, 6)
        maps = integrated_gradients_maps(model, images, targets, steps=1, batch_size=2)
        torch.testing.assert_close(maps, (weight * images).sum(dim=1))

    def test_a_quadratic_model_needs_the_path_not_the_end_point(self, images: Tensor) -> None:
        class Squares(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.square().flatten(1).sum(dim=1, keepdim=True)

        # The gradient at the image would give 2 x^2; the mean over the path gives x^2.
        maps = integrated_gradients_maps(
            Squares(), images, torch.zeros(5, dtype=torch.long), steps=2, batch_size=5
        )
        torch.testing.assert_close(maps, images.square().sum(dim=1))

    def test_maps_sum_to_the_change_of_the_score(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(2).eval()
        maps = integrated_gradients_maps(model, images, targets, steps=200, batch_size=1000)
        with torch.no_grad():
            rows = torch.arange(5)
            change = model(images)[rows, targets] - model(torch.zeros_like(images))[rows, targets]
        torch.testing.assert_close(maps.sum(dim=(1, 2)), change, atol=5e-3, rtol=0)
        assert change.abs().min() > 0.02

    def test_no_pass_is_larger_than_the_batch_size_and_batching_changes_nothing(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model = convolutional(3)
        sizes: list[int] = []
        model[0].register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
        small = integrated_gradients_maps(model, images, targets, steps=12, batch_size=3)
        assert max(sizes) <= 3
        large = integrated_gradients_maps(model, images, targets, steps=12, batch_size=60)
        torch.testing.assert_close(small, large)

    def test_the_model_is_left_as_it_was(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(4).train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        integrated_gradients_maps(model, images, targets, steps=2, batch_size=5)
        assert model.training
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        assert not images.requires_grad

    def test_no_images_give_no_maps(self) -> None:
        none = integrated_gradients_maps(
            linear(1), torch.empty(0, 2, 6, 6), torch.empty(0, dtype=torch.long), steps=2, batch_size=2
        )
        assert none.shape == (0, 6, 6)

    def test_unfit_arguments_are_refused(self, images: Tensor, targets: Tensor) -> None:
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            integrated_gradients_maps(linear(1), images * 255, targets, steps=2, batch_size=2)
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            integrated_gradients_maps(linear(1), images.byte(), targets, steps=2, batch_size=2)
        with pytest.raises(InputError, match="shapes"):
            integrated_gradients_maps(linear(1), images, targets[:4], steps=2, batch_size=2)
        with pytest.raises(InputError, match="at least 1"):
            integrated_gradients_maps(linear(1), images, targets, steps=0, batch_size=2)

import numpy as np
import pytest
import torch
from captum.attr import DeepLift, GradientShap
from torch import Tensor, nn
from torch.nn import functional as F

from analysis.attribution.deep_lift import completeness_gap, deep_lift
from analysis.attribution.grad_cam import grad_cam, last_spatial_layer
from analysis.attribution.methods import METHODS, STEPS, gradient_shap, input_x_gradient, occlusion
from population.errors import InputError

CLASSES = 3


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> Tensor:
    return torch.tensor([0, 2, 1, 1, 0])


def linear(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 8, CLASSES))


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True),
        nn.Conv2d(6, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(24, CLASSES),
    )  # fmt: skip


class Residual(nn.Module):
    """One ReLU module for three calls, a function for a fourth, and a ReLU6 for a fifth."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.block = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.relu, self.clip = nn.ReLU(inplace=True), nn.ReLU6(inplace=True)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(x + self.block(x))
        x = self.relu(1 - x)
        x = self.clip(40 * x - 10)
        return self.head(F.relu(x - 1).mean(dim=(2, 3)))


def weight_times_pixel(model: nn.Sequential, images: Tensor, targets: Tensor) -> Tensor:
    return (model[1].weight.detach()[targets].reshape(images.shape) * images).sum(dim=1)


class TestEveryMethod:
    @pytest.mark.parametrize("name", [n for n in METHODS if n != "grad_cam"])
    def test_pixels_that_the_model_does_not_use_get_nothing(
        self, name: str, images: Tensor, targets: Tensor
    ) -> None:
        model = linear(1)
        with torch.no_grad():
            model[1].weight.view(CLASSES, 2, 8, 8)[..., :4, :] = 0
        maps = METHODS[name](model, images, targets, batch_size=20, seed=0)
        # A square of occlusion, 2x2, reaches one row further.
        unused = 3 if name == "occlusion" else 4
        assert maps.shape == (5, 8, 8)
        assert maps.dtype == torch.float32
        assert torch.all(maps[:, :unused] == 0)
        assert torch.all(maps[:, 4:].abs().amax(dim=(1, 2)) > 0)

    @pytest.mark.parametrize("name", METHODS)
    def test_batches_are_bounded_and_change_nothing_and_the_model_is_left_as_it_was(
        self, name: str, images: Tensor, targets: Tensor
    ) -> None:
        model = convolutional(2).train()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        sizes: list[int] = []
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, inputs, _output: (
                sizes.append(len(inputs[0])) if isinstance(module, nn.Linear) else None
            )
        )
        try:
            small = METHODS[name](model, images, targets, batch_size=4, seed=7)
        finally:
            handle.remove()
        assert max(sizes) <= 4
        large = METHODS[name](model, images, targets, batch_size=1000, seed=7)
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)
        assert model.training
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert not images.requires_grad
        assert all(p.grad is None for p in model.parameters())
        assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())

    @pytest.mark.parametrize("name", METHODS)
    def test_a_callers_no_grad_changes_nothing(self, name: str, images: Tensor, targets: Tensor) -> None:
        model = convolutional(2)
        expected = METHODS[name](model, images, targets, batch_size=50, seed=7)
        with torch.no_grad():
            assert torch.equal(METHODS[name](model, images, targets, batch_size=50, seed=7), expected)

    @pytest.mark.parametrize("name", METHODS)
    def test_no_images_give_no_maps_and_unfit_ones_are_refused(
        self, name: str, images: Tensor, targets: Tensor
    ) -> None:
        model = convolutional(1)
        assert METHODS[name](model, images[:0], targets[:0], batch_size=2, seed=0).shape == (0, 8, 8)
        with pytest.raises(InputError, match=r"in \[0, 1\]"):
            METHODS[name](model, images + 1, targets, batch_size=2, seed=0)
        with pytest.raises(InputError, match="at least 1"):
            METHODS[name](model, images, targets, batch_size=0, seed=0)


class TestClosedForms:
    @pytest.mark.parametrize("name", ["integrated_gradients", "input_x_gradient", "deep_lift"])
    def test_a_linear_model_gives_weight_times_pixel(
        self, name: str, images: Tensor, targets: Tensor
    ) -> None:
        model = linear(1)
        maps = METHODS[name](model, images, targets, batch_size=3, seed=0)
        torch.testing.assert_close(maps, weight_times_pixel(model, images, targets))

    def test_input_x_gradient_takes_the_gradient_at_the_image(self, images: Tensor) -> None:
        class Squares(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x.square().flatten(1).sum(dim=1, keepdim=True)

        maps = input_x_gradient(Squares(), images, torch.zeros(5, dtype=torch.long), batch_size=5)
        torch.testing.assert_close(maps, 2 * images.square().sum(dim=1))

    def test_occlusion_of_a_linear_model_is_the_mean_of_the_squares_that_cover_a_pixel(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model = linear(1)
        product = weight_times_pixel(model, images, targets)
        total, count = torch.zeros(5, 8, 8), torch.zeros(8, 8)
        for top in range(7):  # squares of 2x2 pixels, one pixel apart
            for left in range(7):
                effect = product[:, top : top + 2, left : left + 2].sum(dim=(1, 2))
                total[:, top : top + 2, left : left + 2] += effect[:, None, None]
                count[top : top + 2, left : left + 2] += 1
        maps = occlusion(model, images, targets, batch_size=3)
        torch.testing.assert_close(maps, total / count, atol=1e-5, rtol=1e-4)

    def test_gradient_shap_of_a_linear_model_is_weight_times_distance_to_the_mean_baseline(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model = linear(1)
        draws = torch.Generator().manual_seed(4)
        mean_colour = torch.rand(STEPS, 1, 2, 1, 1, generator=draws).mean(dim=0)
        expected = weight_times_pixel(model, images - mean_colour, targets)
        maps = gradient_shap(model, images, targets, batch_size=9, seed=4)
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)


class TestGradientShap:
    def test_tends_to_captums_with_the_same_baselines(
        self, images: Tensor, targets: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, many = convolutional(2).eval(), 4000
        monkeypatch.setattr("analysis.attribution.methods.STEPS", many)
        found = gradient_shap(model, images[:2], targets[:2], batch_size=2000, seed=0)
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - what captum draws from
        colours = torch.rand(many, 2, 1, 1).expand(-1, -1, 8, 8)
        expected = GradientShap(model).attribute(
            images[:2].clone().requires_grad_(), baselines=colours, n_samples=many, target=targets[:2]
        )
        expected = expected.sum(dim=1).detach()
        assert (found - expected).abs().max() < 0.08 * expected.abs().max()

    def test_depends_on_the_seed_and_the_image_alone(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(2)
        first = gradient_shap(model, images, targets, batch_size=50, seed=1)
        torch.rand(3)
        again = gradient_shap(model, images, targets, batch_size=50, seed=1)
        assert torch.equal(first, again)
        assert not torch.equal(first, gradient_shap(model, images, targets, batch_size=50, seed=2))
        alone = gradient_shap(model, images[3:], targets[3:], batch_size=50, seed=1)
        torch.testing.assert_close(alone, first[3:], rtol=1e-4, atol=1e-6)


class TestGradCam:
    def test_is_the_weighted_sum_of_the_last_maps_of_4x4(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(2).eval()
        maps = grad_cam(model, images, targets, batch_size=2)
        activation = model[:5](images).detach().requires_grad_()
        scores = model[5:](activation).gather(1, targets[:, None]).sum()
        (gradient,) = torch.autograd.grad(scores, activation)
        coarse = (gradient.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1, keepdim=True).relu()
        expected = F.interpolate(coarse, size=(8, 8), mode="bilinear")[:, 0]
        torch.testing.assert_close(maps, expected.detach())
        assert expected.amax(dim=(1, 2)).gt(0).any()

    def test_finds_the_outermost_layer_that_runs_once_by_running(self, images: Tensor) -> None:
        assert last_spatial_layer(convolutional(2), images[:1]) == "4"
        # In the residual network all calls of the shared ReLU are passed over.
        assert last_spatial_layer(Residual(), images[:1]) == "clip"
        nested = nn.Sequential(nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), nn.Flatten())
        assert last_spatial_layer(nested, images[:1]) == "0"

    def test_networks_without_such_a_layer_are_refused(self, images: Tensor, targets: Tensor) -> None:
        for model in (linear(1), nn.Sequential(nn.Conv2d(2, 4, 8), nn.Flatten())):
            with pytest.raises(InputError, match="4x4"):
                grad_cam(model, images, targets, batch_size=2)
        # Before the first convolution there is only the image.
        with pytest.raises(InputError, match="4x4"):
            last_spatial_layer(nn.Sequential(nn.BatchNorm2d(2), linear(1)), images[:1])


class TestDeepLift:
    def test_equals_captums_where_every_relu_has_its_module(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(2).eval()
        maps = deep_lift(model, images, targets, batch_size=4)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False
        with pytest.warns(UserWarning, match="hooks"):
            expected = DeepLift(model).attribute(
                images.clone().requires_grad_(), baselines=torch.zeros_like(images), target=targets
            )
        torch.testing.assert_close(maps, expected.sum(dim=1).detach())

    def test_is_complete_where_relus_are_shared_functions_or_clipped(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model = Residual()
        maps = deep_lift(model, images, targets, batch_size=4)
        assert completeness_gap(model, images, targets, maps, batch_size=3) < 1e-4
        plain = input_x_gradient(model, images, targets, batch_size=4)
        assert completeness_gap(model, images, targets, plain, batch_size=3) > 0.1

    def test_a_network_with_parts_without_a_rule_is_refused(self, images: Tensor, targets: Tensor) -> None:
        torch.manual_seed(0)
        smooth = nn.Sequential(
            nn.Flatten(), nn.Linear(128, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, CLASSES)
        )
        with torch.no_grad():
            smooth[1].weight *= 10
        with pytest.raises(InputError, match="no rule"):
            deep_lift(smooth, images, targets, batch_size=4)


class TestCompletenessGap:
    def test_is_the_missed_share_of_the_change_of_the_score(self, images: Tensor, targets: Tensor) -> None:
        model = linear(1)
        maps = weight_times_pixel(model, images, targets)
        assert completeness_gap(model, images, targets, maps, batch_size=2) < 1e-5
        assert completeness_gap(model, images, targets, 3 * maps, batch_size=2) == pytest.approx(2)
        assert completeness_gap(model, images, targets, 0 * maps, batch_size=2) == pytest.approx(1)

    def test_a_constant_network_has_complete_maps_of_zeros_alone(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model = linear(1)
        nn.init.zeros_(model[1].weight)
        assert completeness_gap(model, images, targets, torch.zeros(5, 8, 8), batch_size=2) == 0
        assert completeness_gap(model, images, targets, torch.ones(5, 8, 8), batch_size=2) == float("inf")

    def test_rounding_of_a_network_that_hardly_changes_is_no_gap(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model = linear(1)
        with torch.no_grad():
            model[1].weight *= 1e-9
            model[1].bias.fill_(1)
        maps = weight_times_pixel(model, images, targets)
        assert completeness_gap(model, images, targets, maps, batch_size=2) == 0
        assert completeness_gap(model, images, targets, maps + 1e-3, batch_size=2) > 1

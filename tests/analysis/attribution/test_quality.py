from itertools import pairwise

import numpy as np
import pytest
import torch
from captum.metrics import infidelity as captum_infidelity
from torch import Tensor, nn

from analysis.attribution import quality
from analysis.attribution.methods import METHODS, input_x_gradient
from analysis.attribution.quality import infidelity, max_sensitivity, removal_areas
from population.errors import InputError


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> Tensor:
    return torch.tensor([0, 2, 1, 1])


def convolutional(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))


class Counting(nn.Module):
    """Logits (log of the sum of the pixels, 0): the probability of class 0 is s / (s + 1)."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.flatten(1).sum(dim=1)
        return torch.stack([total.log(), torch.zeros_like(total)], dim=1)


class TestRemovalAreas:
    def test_a_hand_worked_table(self) -> None:
        image = torch.tensor([[[[1.0, 0.5], [0.5, 0.0]]]])
        target = torch.zeros(1, dtype=torch.long)
        good = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        found = removal_areas(Counting(), image, target, good, batch_size=1)
        # Sums left: 2, 1, 1/2, 0, 0, so probabilities 2/3, 1/2, 1/3, 0, 0, a quarter of the pixels apart.
        assert found.deletion[0] == pytest.approx((2 / 3 / 2 + 1 / 2 + 1 / 3) / 4)
        # Sums there: 0, 1, 3/2, 2, 2, so probabilities 0, 1/2, 3/5, 2/3, 2/3.
        assert found.insertion[0] == pytest.approx((1 / 2 + 3 / 5 + 2 / 3 + 2 / 3 / 2) / 4)
        bad = removal_areas(Counting(), image, target, -good, batch_size=1)
        # The other way round: 2, 2, 3/2, 1, 0 are left.
        assert bad.deletion[0] == pytest.approx((2 / 3 / 2 + 2 / 3 + 3 / 5 + 1 / 2) / 4)

    def test_ties_go_in_reading_order(self) -> None:
        image = torch.tensor([[[[1.0, 0.5], [0.5, 0.0]]]])
        target = torch.zeros(1, dtype=torch.long)
        ordered = torch.tensor([[[4.0, 3.0], [2.0, 1.0]]])
        for kind in ("deletion", "insertion"):
            one, other = (
                getattr(removal_areas(Counting(), image, target, m, batch_size=1), kind)
                for m in (ordered, torch.zeros(1, 2, 2))
            )
            assert one == pytest.approx(other)

    def test_equals_a_loop_on_a_network_and_batches_are_bounded(
        self, images: Tensor, targets: Tensor
    ) -> None:
        model, maps = convolutional(1), torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))
        sizes: list[int] = []
        model[0].register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
        found = removal_areas(model, images, targets, maps, batch_size=3)
        assert max(sizes) <= 3
        assert model.training
        model.eval()
        for n in range(4):
            flat = images[n].reshape(2, 64)
            order = np.argsort(-maps[n].numpy().ravel())
            left = []
            for step in range(17):
                x = flat.clone()
                x[:, order[: 4 * step]] = 0
                with torch.no_grad():
                    left.append(model(x.reshape(1, 2, 8, 8)).softmax(dim=1)[0, targets[n]].item())
            area = sum((a + b) / 2 / 16 for a, b in pairwise(left))
            assert found.deletion[n] == pytest.approx(area, rel=1e-5)

    def test_unfit_maps_are_refused(self, images: Tensor, targets: Tensor) -> None:
        with pytest.raises(InputError, match="maps must have shape"):
            removal_areas(convolutional(1), images, targets, torch.rand(4, 4, 4), batch_size=3)


class TestInfidelity:
    def test_is_captums_over_the_mean_squared_effect(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(1).eval()
        maps = input_x_gradient(model, images, targets, batch_size=4)
        squares = quality._squares(8, 8, seed=5)

        def blacken(x: Tensor) -> tuple[Tensor, Tensor]:
            inside = squares.repeat(len(x) // len(squares), 1, 1)[:, None].expand_as(x)
            return inside.float(), x * ~inside

        options = {"n_perturb_samples": len(squares), "target": targets}
        spread = (maps / 2)[:, None].expand_as(images)  # half of a pixel's value in each channel
        numerator = captum_infidelity(model, blacken, images, spread, normalize=True, **options)
        size = captum_infidelity(model, blacken, images, torch.zeros_like(images), **options)
        found = infidelity(model, images, targets, maps, batch_size=7, seed=5)
        np.testing.assert_allclose(found, (numerator / size).detach(), rtol=1e-3)
        assert found.max() < 1

    def test_is_0_for_a_linear_model_and_1_for_no_map_and_free_of_scale(
        self, images: Tensor, targets: Tensor
    ) -> None:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Flatten(), nn.Linear(128, 3))
        maps = input_x_gradient(model, images, targets, batch_size=4)
        for scale in (1, -0.01, 1000):
            found = infidelity(model, images, targets, scale * maps, batch_size=9, seed=0)
            np.testing.assert_allclose(found, 0, atol=1e-5)
        nothing = infidelity(model, images, targets, 0 * maps, batch_size=9, seed=0)
        np.testing.assert_array_equal(nothing, 1)
        shuffled = infidelity(model, images, targets, maps.flip(0), batch_size=9, seed=0)
        assert (shuffled > 0.3).all()

    def test_is_masked_where_no_square_has_an_effect(self, images: Tensor, targets: Tensor) -> None:
        model = convolutional(1)
        nn.init.zeros_(model[4].weight)
        found = infidelity(model, images, targets, torch.rand(4, 8, 8), batch_size=9, seed=0)
        assert np.ma.getmaskarray(found).all()

    def test_squares_have_all_sides_up_to_half_the_image(self) -> None:
        squares = quality._squares(8, 10, seed=1)
        sides = set()
        for square in squares:
            rows, columns = square.any(dim=1).sum().item(), square.any(dim=0).sum().item()
            assert rows == columns
            assert square.sum() == rows * columns
            sides.add(rows)
        assert sides == {1, 2, 3, 4}
        assert torch.equal(squares, quality._squares(8, 10, seed=1))
        assert not torch.equal(squares, quality._squares(8, 10, seed=2))


class TestMaxSensitivity:
    def test_equals_a_loop_over_perturbations(self, images: Tensor, targets: Tensor) -> None:
        images[0] = 1  # the top of the range: only darker neighbours
        model = convolutional(1).eval()
        explain = METHODS["input_x_gradient"]
        found = max_sensitivity(model, images, targets, explain=explain, batch_size=3, seed=4)
        draws = torch.Generator().manual_seed(4)
        base = input_x_gradient(model, images, targets, batch_size=4)
        largest = np.zeros(4)
        for _ in range(10):
            noise = 0.02 * (2 * torch.rand(images.shape, generator=draws) - 1)
            changed = input_x_gradient(model, (images + noise).clamp(0, 1), targets, batch_size=4)
            for n in range(4):
                ratio = (changed[n] - base[n]).norm() / base[n].norm()
                largest[n] = max(largest[n], float(ratio))
        np.testing.assert_allclose(found, largest, rtol=1e-4)
        assert largest.min() > 0.001

    def test_same_seed_same_bytes_and_no_images_no_values(self, images: Tensor, targets: Tensor) -> None:
        model, explain = convolutional(1), METHODS["gradient_shap"]

        def run(seed: int, n: int) -> np.ndarray:
            return max_sensitivity(model, images[:n], targets[:n], explain=explain, batch_size=64, seed=seed)

        assert run(1, 2).tobytes() == run(1, 2).tobytes()
        assert run(1, 2).tobytes() != run(2, 2).tobytes()
        assert run(1, 0).shape == (0,)

import math

import pytest
import torch
from torch import Tensor, nn

from analysis.similarity import layer_cka, linear_cka
from population.errors import InputError


def features(n: int, p: int, *, seed: int) -> Tensor:
    return torch.randn(n, p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_hsic1(x: Tensor, y: Tensor) -> float:
    """Song's U-statistic from its definition: sums over distinct indices, written out."""
    n = len(x)
    k = (x @ x.T).fill_diagonal_(0).tolist()
    m = (y @ y.T).fill_diagonal_(0).tolist()
    trace = chain = total_k = total_m = 0.0
    for i in range(n):
        for j in range(n):
            trace += k[i][j] * m[j][i]
            total_k += k[i][j]
            total_m += m[i][j]
            for other in range(n):
                chain += k[i][j] * m[j][other]
    return (trace + total_k * total_m / ((n - 1) * (n - 2)) - 2 * chain / (n - 2)) / (n * (n - 3))


def slow_cka(pairs: list[tuple[Tensor, Tensor]]) -> float:
    cross = sum(slow_hsic1(x, y) for x, y in pairs) / len(pairs)
    first = sum(slow_hsic1(x, x) for x, _ in pairs) / len(pairs)
    second = sum(slow_hsic1(y, y) for _, y in pairs) / len(pairs)
    return cross / math.sqrt(first * second)


class TestLinearCka:
    @pytest.mark.parametrize("n", [4, 5, 12])
    def test_equals_the_formula_written_out(self, n: int) -> None:
        x = features(n, 3, seed=n)
        y = x[:, :2] ** 2 + 0.5 * features(n, 2, seed=50 + n)
        assert linear_cka(x, y) == pytest.approx(slow_cka([(x, y)]), rel=1e-10)

    def test_value_worked_by_hand(self) -> None:
        # Four points: K is +1 within {0, 1} and {2, 3} and -1 across; L the same for {0, 2}, {1, 3}.
        # K 1 = -1 for every row, so HSIC1(K, K) = (12 + 16/6 - 4) / 4 = 8/3;
        # tr(K L) = 4 (4 pairs (i, j): -1, twice 4 pairs of opposite signs: 12 - 8 - 8 = -4), so
        # HSIC1(K, L) = (-4 + 16/6 - 4) / 4 = -4/3 and CKA = -1/2.
        x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
        y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
        assert linear_cka(x, y) == pytest.approx(-0.5, rel=1e-12)
        assert linear_cka(x, x) == pytest.approx(1.0, rel=1e-12)

    def test_rotation_scale_and_common_shift_change_nothing(self) -> None:
        x, y = features(30, 6, seed=1), features(30, 4, seed=2)
        y[:, 0] = x[:, 0]
        rotation, _ = torch.linalg.qr(features(6, 6, seed=3))
        moved = 7.5 * x @ rotation + 100.0
        assert linear_cka(moved, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
        stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1])
        assert abs(linear_cka(stretched, y) - linear_cka(x, y)) > 0.1

    def test_equal_is_one_and_symmetric(self) -> None:
        x, y = features(20, 5, seed=4), features(20, 5, seed=5)
        assert linear_cka(x, x) == pytest.approx(1.0, rel=1e-12)
        assert linear_cka(x, y) == pytest.approx(linear_cka(y, x), rel=1e-12)

    def test_independent_features_give_zero_on_average_even_in_many_dimensions(self) -> None:
        # The biased estimator gives about 0.9 here.
        values = [linear_cka(features(20, 200, seed=s), features(20, 200, seed=1000 + s)) for s in range(40)]
        assert abs(sum(values) / 40) < 0.03
        assert min(values) < 0 < max(values)

    def test_known_pitfall_moving_few_samples_away_changes_it(self) -> None:
        x = features(200, 10, seed=6)
        moved = x.clone()
        moved[:10, 0] += 50.0
        assert linear_cka(x, moved) < 0.5

    def test_small_differences_on_a_large_mean_survive_float32(self) -> None:
        x = features(16, 8, seed=7)
        y = x + 0.3 * features(16, 8, seed=8)
        shifted = (x + 1000.0).float()
        assert linear_cka(shifted, y.float()) == pytest.approx(linear_cka(x, y), abs=1e-4)

    @pytest.mark.parametrize("outlier", [0.0, 3.0])
    def test_features_without_variation_are_refused(self, outlier: float) -> None:
        flat = torch.full((8, 3), 0.1)
        flat[2] += outlier
        with pytest.raises(InputError, match="the features do not vary over the images in the second"):
            linear_cka(features(8, 3, seed=9).float(), flat)

    @pytest.mark.parametrize(
        ("shape_x", "shape_y"), [((3, 2), (3, 2)), ((5, 2), (6, 2)), ((5, 2, 2), (5, 4))]
    )
    def test_unfit_shapes_are_refused(self, shape_x: tuple[int, ...], shape_y: tuple[int, ...]) -> None:
        with pytest.raises(InputError):
            linear_cka(torch.rand(shape_x), torch.rand(shape_y))


def network(*, seed: int, width: int = 5) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3)
    ).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(22, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair(images: Tensor) -> tuple[nn.Sequential, nn.Sequential]:
    first, second = network(seed=1), network(seed=2, width=7)
    first(images), second(images)
    return first, second


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


class TestLayerCka:
    def test_equals_the_terms_averaged_by_hand_over_batches(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        first, second = pair
        # 22 images in batches of at most 8: 8, 7, 7.
        found = layer_cka(first, second, images, ["1", "4"], batch_size=8)
        assert list(found) == ["1", "4"]
        for layer, depth in (("1", 2), ("4", 5)):
            with torch.no_grad():
                x = first[:depth](images).flatten(1).double()
                y = second[:depth](images).flatten(1).double()
            parts = [(x[a:b], y[a:b]) for a, b in ((0, 8), (8, 15), (15, 22))]
            assert found[layer] == pytest.approx(slow_cka(parts), abs=1e-5)
            mean_of_ratios = sum(slow_cka([part]) for part in parts) / 3
            assert abs(found[layer] - mean_of_ratios) > 1e-4

    def test_one_batch_is_linear_cka_and_a_network_is_like_itself(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        first, second = pair
        with torch.no_grad():
            expected = linear_cka(first(images), second(images))
        assert layer_cka(first, second, images, ["4"], batch_size=22)["4"] == pytest.approx(
            expected, rel=1e-6
        )
        assert layer_cka(first, first, images, ["0", "4"], batch_size=6) == pytest.approx({"0": 1, "4": 1})

    @pytest.mark.parametrize(
        ("count", "batch_size", "sizes"), [(9, 4, [5, 4]), (7, 4, [7]), (22, 8, [8, 7, 7]), (20, 99, [20])]
    )
    def test_every_image_is_seen_once_in_batches_that_are_large_enough(
        self, images: Tensor, count: int, batch_size: int, sizes: list[int]
    ) -> None:
        seen: list[Tensor] = []
        watched, other = nn.Sequential(nn.Flatten()), nn.Sequential(nn.Flatten())
        watched.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
        layer_cka(watched, other, images[:count], ["0"], batch_size=batch_size)
        assert [len(batch) for batch in seen] == sizes
        assert torch.equal(torch.cat(seen), images[:count])

    def test_the_output_counts_not_what_a_later_layer_writes_over_it(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        first, second = pair
        plain = nn.Sequential(*first[:2]), nn.Sequential(*second[:2])
        assert layer_cka(first, second, images, ["1"], batch_size=11) == layer_cka(
            *plain, images, ["1"], batch_size=11
        )

    def test_models_are_left_as_they_were(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        first, second = pair
        first.train()
        first[1].eval()
        before = {k: v.clone() for k, v in first.state_dict().items()}
        layer_cka(first, second, images, ["0"], batch_size=8)
        assert [m.training for m in first] == [True, False, True, True, True]
        assert first.training
        assert not second.training
        assert hooks(first) + hooks(second) == 0
        assert all(torch.equal(before[k], v) for k, v in first.state_dict().items())

    def test_hooks_and_modes_are_restored_after_an_error(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        first, second = pair
        first.train()
        with pytest.raises(InputError, match="unknown layer 'nowhere'"):
            layer_cka(first, second, images, ["0", "nowhere"], batch_size=8)
        with pytest.raises(RuntimeError):
            layer_cka(first, second, images[:, :, :5], ["0"], batch_size=8)
        assert hooks(first) + hooks(second) == 0
        assert first.training

    def test_a_dead_layer_is_named(self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor) -> None:
        first, second = pair
        nn.init.zeros_(second[4].weight)
        with pytest.raises(InputError, match=r"layer '4' do not vary .* second network"):
            layer_cka(first, second, images, ["0", "4"], batch_size=8)

    def test_layers_that_run_twice_or_never_or_give_no_tensor_are_refused(self, images: Tensor) -> None:
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.twice, self.never, self.pair = nn.Flatten(), nn.Flatten(), _Pair()

            def forward(self, x: Tensor) -> Tensor:
                return self.pair(self.twice(self.twice(x)))[0]

        for layer, message in (
            ("twice", "runs 2 times"),
            ("never", "runs 0 times"),
            ("pair", "gives a tuple"),
        ):
            with pytest.raises(InputError, match=message):
                layer_cka(Odd(), Odd(), images, [layer], batch_size=8)

    @pytest.mark.parametrize(("count", "batch_size"), [(3, 8), (22, 3)])
    def test_too_few_images_are_refused(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor, count: int, batch_size: int
    ) -> None:
        with pytest.raises(InputError, match="at least 4"):
            layer_cka(*pair, images[:count], ["0"], batch_size=batch_size)


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

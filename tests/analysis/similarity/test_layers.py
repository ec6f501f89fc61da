import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import analysis.similarity.moments as moments
from analysis.similarity.activations import pooled_features
from analysis.similarity.cka import linear_cka
from analysis.similarity.layers import cka_maps, layer_cka, minibatch_cka_maps
from population.errors import InputError


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

    def test_a_layer_named_twice_is_refused(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        with pytest.raises(InputError, match="named twice"):
            layer_cka(*pair, images, ["0", "0"], batch_size=8)


def others(images: Tensor) -> dict[str, nn.Module]:
    found = {"compressed": network(seed=2, width=7), "other seed": network(seed=3)}
    for model in found.values():
        model(images)
    return found


class TestMinibatchCkaMaps:
    def test_every_pair_of_layers_by_hand(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        first, compared = pair[0], others(images)
        maps = minibatch_cka_maps(first, compared, images, ["1", "4"], batch_size=8)
        assert list(maps) == ["compressed", "other seed"]
        for name, other in compared.items():
            with torch.no_grad():
                rows, columns = (
                    [model[:depth](images).flatten(1).double() for depth in (2, 5)]  # type: ignore[index]
                    for model in (first, other)
                )
            cuts = ((0, 8), (8, 15), (15, 22))
            expected = [[slow_cka([(x[a:b], y[a:b]) for a, b in cuts]) for y in columns] for x in rows]
            np.testing.assert_allclose(maps[name], expected, atol=1e-5)


SUBSETS = {"all": np.arange(22), "some": np.array([21, 3, 4, 9, 10, 0])}
LAYERS = ("0", "1", "4")


class TestCkaMaps:
    @pytest.mark.parametrize("limit", [512, 5])
    @pytest.mark.parametrize("batch_size", [1, 8, 50])
    def test_every_pair_of_layers_equals_the_value_of_all_images_at_once(
        self,
        pair: tuple[nn.Sequential, nn.Sequential],
        images: Tensor,
        limit: int,
        batch_size: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(moments, "GRAM_SAMPLES", limit)
        first, compared = pair[0], others(images)
        maps = cka_maps(first, compared, images, LAYERS, subsets=SUBSETS, batch_size=batch_size)
        assert {name: list(found) for name, found in maps.items()} == {
            name: list(SUBSETS) for name in compared
        }
        rows = pooled_features(first, images, LAYERS, batch_size=22)
        for name, other in compared.items():
            columns = pooled_features(other, images, LAYERS, batch_size=22)
            for subset, index in SUBSETS.items():
                found = maps[name][subset]
                assert found.n == len(index)
                for k, x in enumerate(rows.values()):
                    for m, y in enumerate(columns.values()):
                        chosen = x[index].double(), y[index].double()
                        expected = linear_cka(*chosen), linear_cka(*chosen, estimator="biased")
                        assert found.unbiased[k, m] == pytest.approx(expected[0], abs=1e-5)
                        assert found.biased[k, m] == pytest.approx(expected[1], abs=1e-5)

    def test_each_network_sees_each_image_once_and_is_left_as_it_was(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor
    ) -> None:
        compared = {"a": pair[1], "b": network(seed=3).train()}
        seen: list[Tensor] = []
        handles = [
            model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
            for model in (pair[0], *compared.values())
        ]
        cka_maps(pair[0], compared, images, ["0"], subsets=SUBSETS, batch_size=9)
        assert [len(batch) for batch in seen] == [9, 9, 9, 9, 9, 9, 4, 4, 4]
        assert torch.equal(torch.cat(seen[::3]), images)
        for handle in handles:
            handle.remove()
        assert sum(hooks(model) for model in (pair[0], *compared.values())) == 0
        assert compared["b"].training

    def test_a_network_equals_itself(self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor) -> None:
        found = cka_maps(pair[0], {"same": pair[0]}, images, ["0", "4"], subsets=SUBSETS, batch_size=9)
        for cka_map in found["same"].values():
            np.testing.assert_allclose(cka_map.unbiased.diagonal(), 1, rtol=1e-6)
            np.testing.assert_allclose(cka_map.unbiased, cka_map.unbiased.T, rtol=1e-6)
            assert cka_map.unbiased[0, 1] < 0.99

    @pytest.mark.parametrize("limit", [512, 5])
    def test_a_dead_layer_is_named(
        self,
        pair: tuple[nn.Sequential, nn.Sequential],
        images: Tensor,
        limit: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(moments, "GRAM_SAMPLES", limit)
        nn.init.zeros_(pair[1][4].weight)
        nn.init.constant_(pair[1][4].bias, 0.1)
        with pytest.raises(InputError, match=r"'dead', images 'all': .* layer '4' do not vary .* second"):
            cka_maps(pair[0], {"dead": pair[1]}, images, ["0", "4"], subsets=SUBSETS, batch_size=9)

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ([0, 1, 2], "'odd' has 3"),
            ([0, 1, 2, 22], "numbers from 0 to 21"),
            ([-1, 1, 2, 3], "numbers from 0 to 21"),
            ([1, 1, 2, 3, 4], "once"),
        ],
    )
    def test_unfit_sets_of_images_are_refused(
        self, pair: tuple[nn.Sequential, nn.Sequential], images: Tensor, index: list[int], message: str
    ) -> None:
        with pytest.raises(InputError, match=message):
            cka_maps(pair[0], {"b": pair[1]}, images, ["0"], subsets={"odd": np.array(index)}, batch_size=8)


class _Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x

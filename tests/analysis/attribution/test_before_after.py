from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn

from analysis.attribution import before_after
from analysis.attribution.before_after import PopulationMaps, population_maps
from analysis.attribution.map_similarity import MEASURES
from analysis.attribution.methods import METHODS, input_x_gradient
from analysis.attribution.quality import infidelity, max_sensitivity, removal_areas
from analysis.attribution.randomised import randomised
from analysis.attribution.tables import map_changes, map_quality, sensitivities
from population.errors import InputError
from ssl_models.presets import preset
from ssl_models.training import train
from ssl_models.zoo import build_model

OPTIONS = {"batch_size": 16, "seed": 5}


@pytest.fixture
def images() -> Tensor:
    return torch.rand(4, 2, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> Tensor:
    return torch.tensor([0, 2, 1, 1])


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3)
    ).eval()


@pytest.fixture
def populations() -> tuple[list[nn.Module], list[nn.Module]]:
    return [network(s) for s in (1, 2, 3)], [network(s) for s in (4, 5, 6)]


@pytest.fixture
def maps(
    populations: tuple[list[nn.Module], list[nn.Module]], images: Tensor, targets: Tensor
) -> PopulationMaps:
    return population_maps(*populations, images, targets, method="input_x_gradient", **OPTIONS)


class TestPopulationMaps:
    def test_asks_for_the_given_class_and_for_each_networks_own(
        self,
        populations: tuple[list[nn.Module], list[nn.Module]],
        images: Tensor,
        targets: Tensor,
        maps: PopulationMaps,
    ) -> None:
        dense, compressed = populations
        shuffled = [randomised(m, images, batch_size=16, seed=5 + i) for i, m in enumerate(dense)]
        found = (*maps.dense, *maps.compressed, *maps.randomised)
        agreed = 0
        for single, model in zip(found, [*dense, *compressed, *shuffled], strict=True):
            own_class = model(images).argmax(dim=1)
            agreed += int((own_class == targets).sum())
            assert torch.equal(single.own_class, own_class)
            for part, classes in ((single.fixed, targets), (single.own, own_class)):
                torch.testing.assert_close(part, input_x_gradient(model, images, classes, batch_size=4))
        assert 0 < agreed < 36

    def test_computes_a_map_once_where_the_two_classes_are_one(
        self, images: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, seen = network(1), []

        def counted(network: nn.Module, x: Tensor, classes: Tensor, **options: int) -> Tensor:
            seen.append(len(x))
            return input_x_gradient(network, x, classes, batch_size=options["batch_size"])

        monkeypatch.setattr(before_after, "METHODS", {"counted": counted})
        targets = model(images).argmax(dim=1)
        targets[2] = (targets[2] + 1) % 3
        population_maps([model], [model], images, targets, method="counted", **OPTIONS)
        assert seen[:4] == [4, 1, 4, 1]

    def test_unfit_arguments_are_refused(self, images: Tensor, targets: Tensor) -> None:
        with pytest.raises(InputError, match="1 and 2"):
            population_maps([network(1)], [network(2)] * 2, images, targets, method="occlusion", **OPTIONS)
        with pytest.raises(InputError, match="did you mean 'occlusion'"):
            population_maps([network(1)], [network(2)], images, targets, method="oclusion", **OPTIONS)


class TestMapChanges:
    def test_pairs_members_with_their_own_and_seeds_with_the_next(self, maps: PopulationMaps) -> None:
        table = map_changes(maps)
        assert len(table) == 4 * 2 * 3
        following = maps.dense[1:] + maps.dense[:1]
        for comparison, others in (
            ("compressed", maps.compressed), ("ceiling", following), ("floor", maps.randomised)
        ):  # fmt: skip
            for target in ("fixed", "own"):
                part = table[(table.comparison == comparison) & (table.target == target)]
                assert part.image.tolist() == [0, 1, 2, 3]
                for name, measure in MEASURES.items():
                    values = [
                        measure(getattr(a, target), getattr(b, target))
                        for a, b in zip(maps.dense, others, strict=True)
                    ]
                    np.testing.assert_allclose(
                        part[name].astype(float), np.mean(values, axis=0), rtol=1e-9, atol=1e-12
                    )

    def test_a_dead_network_has_missing_values_and_one_member_no_ceiling(
        self, images: Tensor, targets: Tensor
    ) -> None:
        dead = network(2)
        nn.init.zeros_(dead[4].weight)
        maps = population_maps([network(1)], [dead], images, targets, method="input_x_gradient", **OPTIONS)
        table = map_changes(maps).set_index("comparison")
        assert set(table.index) == {"compressed", "floor"}
        assert table.loc["compressed", list(MEASURES)].isna().all(axis=None)
        assert table.loc["floor", list(MEASURES)].notna().all(axis=None)

    def test_of_linear_networks_it_is_scipys_correlation_of_weight_times_pixel(self, targets: Tensor) -> None:
        images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        torch.manual_seed(0)
        models = [nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval() for _ in range(6)]
        products = [
            (m[1].weight.detach()[targets].reshape(4, 8, 8) * images[:, 0]).flatten(1) for m in models
        ]
        maps = population_maps(
            models[:3], models[3:], images, targets, method="integrated_gradients", **OPTIONS
        )
        table = map_changes(maps)
        for comparison, pairs in (
            ("compressed", [(0, 3), (1, 4), (2, 5)]),
            ("ceiling", [(0, 1), (1, 2), (2, 0)]),
        ):
            values = [
                [spearmanr(*p).statistic for p in zip(products[a], products[b], strict=True)]
                for a, b in pairs
            ]
            found = table[(table.target == "fixed") & (table.comparison == comparison)]
            np.testing.assert_allclose(found.spearman.astype(float), np.mean(values, axis=0), atol=1e-6)

    def test_one_dead_network_among_several_is_left_out_of_the_mean(
        self, images: Tensor, targets: Tensor
    ) -> None:
        dense, dead = [network(1), network(2)], network(3)
        nn.init.zeros_(dead[4].weight)
        maps = population_maps(dense, [dense[0], dead], images, targets, method="input_x_gradient", **OPTIONS)
        table = map_changes(maps)
        found = table[(table.target == "fixed") & (table.comparison == "compressed")]
        np.testing.assert_allclose(found.spearman.astype(float), 1)


class TestMapQuality:
    def test_scores_four_kinds_of_maps_on_the_same_network(
        self,
        populations: tuple[list[nn.Module], list[nn.Module]],
        images: Tensor,
        targets: Tensor,
        maps: PopulationMaps,
    ) -> None:
        dense, compressed = populations
        table = map_quality(dense, compressed, images, targets, maps, **OPTIONS)
        assert len(table) == 4 * 7

        def check(
            target: str,
            scored_on: str,
            kind: str,
            networks: list[nn.Module],
            classes: list[Tensor],
            scored: list[Tensor],
        ) -> None:
            part = table[(table.target == target) & (table.scored_on == scored_on) & (table.maps == kind)]
            areas = [
                removal_areas(m, images, c, s, batch_size=16)
                for m, c, s in zip(networks, classes, scored, strict=True)
            ]
            misses = [
                infidelity(m, images, c, s, **OPTIONS)
                for m, c, s in zip(networks, classes, scored, strict=True)
            ]
            for name, values in (
                ("deletion", [a.deletion for a in areas]),
                ("insertion", [a.insertion for a in areas]),
                ("infidelity", misses),
            ):
                np.testing.assert_allclose(part[name].astype(float), np.mean(values, axis=0), rtol=1e-9)

        given = [targets] * 3
        check("fixed", "dense", "dense", dense, given, [m.fixed for m in maps.dense])
        check("fixed", "dense", "compressed", dense, given, [m.fixed for m in maps.compressed])
        check("fixed", "dense", "ceiling", dense, given, [maps.dense[i].fixed for i in (1, 2, 0)])
        check("fixed", "dense", "floor", dense, given, [m.fixed for m in maps.randomised])
        check("fixed", "compressed", "compressed", compressed, given, [m.fixed for m in maps.compressed])
        for kind, networks, own in (
            ("dense", dense, maps.dense),
            ("compressed", compressed, maps.compressed),
        ):
            check("own", kind, kind, networks, [m.own_class for m in own], [m.own for m in own])

    def test_maps_of_other_networks_are_refused(
        self, images: Tensor, targets: Tensor, maps: PopulationMaps
    ) -> None:
        with pytest.raises(InputError, match="of 3 networks"):
            map_quality([network(1)], [network(2)], images, targets, maps, **OPTIONS)


class TestSensitivities:
    def test_are_means_over_networks(
        self, populations: tuple[list[nn.Module], list[nn.Module]], images: Tensor, targets: Tensor
    ) -> None:
        dense, compressed = populations
        table = sensitivities(*populations, images, targets, method="input_x_gradient", **OPTIONS)
        shuffled = [randomised(m, images, batch_size=16, seed=5 + i) for i, m in enumerate(dense)]
        for kind, networks in (("dense", dense), ("compressed", compressed), ("floor", shuffled)):
            values = [
                max_sensitivity(n, images, targets, explain=METHODS["input_x_gradient"], **OPTIONS)
                for n in networks
            ]
            part = table[table.network == kind]
            np.testing.assert_allclose(part.max_sensitivity.astype(float), np.mean(values, axis=0), rtol=1e-9)


@pytest.fixture(scope="module")
def digits() -> tuple[list[nn.Module], Tensor, Tensor]:
    """Two supervised networks of different seeds, 24 test images and the class that the first gives them."""
    data = load_digits()
    pictures = torch.from_numpy(data.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target)
    spec = replace(preset("digits", "supervised").training, epochs=4, batch_size=64)
    networks: list[nn.Module] = []
    for seed in (0, 1):
        model = build_model("supervised_r18", num_classes=10, in_channels=1, width=4, seed=seed)
        train(model, "supervised", pictures[:1500], labels[:1500], spec=spec, seed=seed)
        networks.append(model)
    images = pictures[1500:1524].float().div(255)
    return networks, images, networks[0](images).argmax(dim=1)


def test_two_trained_networks_agree_more_than_with_shuffled_weights(
    digits: tuple[list[nn.Module], Tensor, Tensor],
) -> None:
    networks, images, targets = digits
    # DeepLift is not among them: between two seeds of so small a network its maps have nothing in common.
    for method in ("integrated_gradients", "occlusion"):
        maps = population_maps(networks, networks, images, targets, method=method, batch_size=256, seed=0)
        table = map_changes(maps)
        found = table[table.target == "fixed"].groupby("comparison")[list(MEASURES)].mean()
        assert found.loc["compressed", "spearman"] == pytest.approx(1)
        assert found.loc["ceiling", "spearman"] > found.loc["floor", "spearman"] + 0.05, (method, found)
        for name in ("top_k_iou", "ssim"):  # less sensitive on digits, where only inked pixels compete
            assert found.loc["ceiling", name] > found.loc["floor", name], (method, name, found)
    quality = map_quality(networks, networks, images, targets, maps, batch_size=256, seed=0)
    own = quality[(quality.target == "fixed") & (quality.scored_on == "dense")].groupby("maps")
    means = own[["deletion", "insertion", "infidelity"]].mean()
    assert means.loc["dense", "deletion"] < means.loc["floor", "deletion"]
    assert means.loc["dense", "insertion"] > means.loc["floor", "insertion"]
    assert means.loc["dense", "infidelity"] < means.loc["floor", "infidelity"]

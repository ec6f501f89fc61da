"""Layers and maps through the store, against the library's own functions and by hand."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control
from torch import Tensor, nn

from analysis.similarity.layers import cka_maps, layer_cka
from pie_report.attribution_maps import MapComparison, compare_maps
from pie_report.explanations import matched_pies
from pie_report.layer_cka import cka_table
from pie_report.layer_similarity import layer_similarity
from pie_report.map_tests import mean_table, pair_tests
from population.errors import InputError
from population.spec import CompressionSpec
from population.store import Store
from ssl_models.backbones import compared_layers

CONDITION = CompressionSpec("merge", 0.5, "bn", "frozen")
LAYERS = compared_layers("r18")


class Net(nn.Module):
    """A random feature per layer name of a ResNet-18, and class scores."""

    def __init__(self, seed: int, *, dead: bool = False) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.encoder = nn.Module()
        for name in LAYERS:
            owner = self.encoder
            *path, last = name.split(".")
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = getattr(owner, part)
            layer = nn.Linear(64, 5)
            layer.weight.data = torch.randn(5, 64, generator=draws)
            layer.bias.data = torch.randn(5, generator=draws)
            owner.add_module(last, layer)
        if dead:
            layer.weight.data.zero_()
            layer.bias.data.zero_()

    def forward(self, images: Tensor) -> Tensor:
        outputs = [self.encoder.get_submodule(name)(images.flatten(1)) for name in LAYERS]
        return torch.stack(outputs).tanh().sum(dim=0)


@dataclass
class People:
    """What the explanations ask of a population; counts the networks that are asked for."""

    store: Store
    k: int
    test_images: Tensor
    dead: bool = False
    asked: int = 0

    member = SimpleNamespace(seed=3)
    source = SimpleNamespace(layers=lambda _: {name: f"encoder.{name}" for name in LAYERS})
    example = None

    def _net(self, seed: int, *, dead: bool = False) -> Net:
        self.asked += 1
        return Net(seed, dead=dead)

    def dense(self, index: int) -> Net:
        return self._net(index)

    def compressed(self, index: int, condition: CompressionSpec) -> Net:
        assert condition == CONDITION
        return self._net(100 + index, dead=self.dead)

    def untrained(self, index: int) -> Net:
        return self._net(200 + index)


@pytest.fixture
def people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> People:
    for module in ("layer_cka", "layer_similarity", "attribution_maps"):
        monkeypatch.setattr(f"pie_report.{module}.key", lambda *parts: repr(abs(hash(repr(parts)))))
    images = torch.randint(0, 256, (60, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    return People(Store(tmp_path), 3, images.to(torch.uint8))


PIES, CONTROLS = np.arange(0, 40, 2), np.arange(41, 1, -2)


def samples(n: int, pies: Any) -> pd.DataFrame:
    is_pie = np.isin(np.arange(n), pies)
    return pd.DataFrame({"sample_id": [f"s{i:02d}" for i in range(n)], "pie": is_pie})


# --- which images


def test_every_pie_gets_the_free_image_with_the_nearest_margin() -> None:
    margin = np.concatenate([np.linspace(0, 0.19, 20), np.linspace(0.002, 0.192, 20), np.full(9, 0.9)])
    table = samples(49, np.arange(20)).assign(margin_dense=margin)
    found = matched_pies(table, seed=0)
    assert found.pies.tolist() == list(range(20))
    assert found.controls.tolist() == list(range(20, 40))
    assert found.margin_gap == pytest.approx(0.002)
    assert found.missing is None


@pytest.mark.parametrize(
    ("n", "pies", "missing"),
    [
        (60, 19, "19 images changed, and at least 20 are needed"),
        (40, 21, "21 images changed, which leaves only 19 to match them with"),
    ],
)
def test_why_there_are_no_pairs(n: int, pies: int, missing: str) -> None:
    found = matched_pies(samples(n, np.arange(pies)).assign(margin_dense=0.5), seed=0)
    assert (len(found.pies), len(found.controls), found.margin_gap) == (0, 0, None)
    assert found.missing == missing


# --- layers


def test_cka_is_that_of_the_library_in_one_pass(people: People) -> None:
    found = layer_similarity(people, CONDITION, PIES, CONTROLS)
    assert people.asked == 9  # each network once
    images = people.test_images.float() / 255
    names = [f"encoder.{name}" for name in LAYERS]
    sets = {"all": np.arange(60), "pies": PIES, "matched": CONTROLS}
    assert found.images == {"all": 60, "pies": 20, "matched": 20}
    maps = [
        cka_maps(
            Net(i),
            {"value": Net(100 + i), "reference": Net((i + 1) % 3), "untrained": Net(200 + i)},
            images,
            names,
            subsets=sets,
            batch_size=60,
        )
        for i in range(3)
    ]
    cka = found.table[found.table["measure"] == "cka"]
    for images_set in sets:
        rows = cka[cka["images"] == images_set]
        assert rows["layer"].tolist() == list(LAYERS)
        for name in ("value", "reference", "untrained"):
            each = np.array([m[name][images_set].unbiased.diagonal() for m in maps])
            np.testing.assert_allclose(rows[name].astype(float), each.mean(axis=0), atol=1e-5)
            assert (rows[f"{name}_low"].astype(float) >= each.min(axis=0) - 1e-5).all()
            assert (rows[f"{name}_high"].astype(float) <= each.max(axis=0) + 1e-5).all()
    expected = np.mean([m["value"]["all"].unbiased for m in maps], axis=0)
    np.testing.assert_allclose(found.cka_map["value"], expected.ravel(), atol=1e-5)
    assert found.cka_map["layer_compressed"].tolist()[: len(LAYERS)] == list(LAYERS)
    assert found.undefined == ()


def test_cka_of_whole_feature_maps_has_the_next_seed_as_reference(people: People) -> None:
    found = cka_table(people, CONDITION)
    assert found["layer"].tolist() == list(LAYERS)
    images = people.test_images.float() / 255
    names = [f"encoder.{name}" for name in LAYERS]
    for column, pairs in {
        "value": [(0, 100), (1, 101), (2, 102)], "reference": [(0, 1), (1, 2), (2, 0)],
    }.items():  # fmt: skip
        each = [list(layer_cka(Net(a), Net(b), images, names, batch_size=60).values()) for a, b in pairs]
        np.testing.assert_allclose(found[column], np.mean(each, axis=0), rtol=1e-9)
    people.k = 1
    assert cka_table(people, CONDITION)["reference"].isna().all()


def test_neighbours_are_counted_among_all_images(people: People) -> None:
    found = layer_similarity(people, CONDITION, PIES, CONTROLS).table
    images = people.test_images.float().flatten(1) / 255

    def neighbours(seed: int, layer: str) -> list[set[int]]:
        x = nn.functional.normalize(Net(seed).encoder.get_submodule(layer)(images).detach().double(), dim=1)
        return [set(sorted(range(60), key=lambda j: -float(x[i] @ x[j]))[1:11]) for i in range(60)]

    layer = LAYERS[-1]
    shared = [
        [len(a & b) / 10 for a, b in zip(neighbours(i, layer), neighbours(100 + i, layer), strict=True)]
        for i in range(3)
    ]
    rows = found[(found["measure"] == "neighbours") & (found["layer"] == layer)].set_index("images")["value"]
    for name, index in {"all": np.arange(60), "pies": PIES, "matched": CONTROLS}.items():
        assert rows[name] == pytest.approx(np.mean(shared, axis=0)[index].mean())


def test_a_second_call_asks_no_network_and_says_the_same(people: People) -> None:
    first = layer_similarity(people, CONDITION, PIES, CONTROLS)
    asked = people.asked
    second = layer_similarity(people, CONDITION, PIES, CONTROLS)
    assert people.asked == asked
    pd.testing.assert_frame_equal(first.table, second.table)
    layer_similarity(people, CONDITION, PIES, CONTROLS[::-1] + 1)
    assert people.asked > asked


def test_without_pairs_and_with_one_member(people: People) -> None:
    people.k = 1
    none = np.empty(0, dtype=np.int64)
    table = layer_similarity(people, CONDITION, none, none).table
    assert set(table["images"]) == {"all"}
    assert table["reference"].isna().all()
    assert table["value"].notna().all()


def test_a_dead_layer_is_an_error_and_not_a_number(people: People) -> None:
    people.dead = True
    with pytest.raises(InputError, match=f"'{LAYERS[-1]}' do not vary"):
        layer_similarity(people, CONDITION, PIES, CONTROLS)


# --- maps


def test_maps_of_pies_matched_and_other_images(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pie_report.attribution_maps.IMAGES", 5)
    targets = np.arange(60) % 5
    found = compare_maps(people, CONDITION, samples(60, PIES), targets, PIES, CONTROLS)
    asked = people.asked
    again = compare_maps(people, CONDITION, samples(60, PIES), targets, PIES, CONTROLS)
    assert people.asked == asked
    for name in ("changes", "quality", "pictures"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(again, name))
    ids = found.pie_ids()
    partner = {f"s{p:02d}": f"s{c:02d}" for p, c in zip(PIES, CONTROLS, strict=True)}
    assert len(ids) == 5
    assert set(ids) <= set(partner)
    matched = found.changes[found.changes["group"] == "matched"]
    assert {(r.pair, r.sample_id) for r in matched.itertuples()} == {(p, partner[p]) for p in ids}
    assert len(found.changes) == 15 * 2 * 2 * 3
    assert len(found.quality) == 10 * 2 * 3
    assert set(found.pictures["sample_id"]) == set(ids[:4])
    assert len(found.pictures) == 4 * 64
    # the first PIE, by hand
    image = people.test_images[int(ids[0][1:])].float()[None] / 255
    first = found.pictures[found.pictures["sample_id"] == ids[0]]
    np.testing.assert_allclose(first["image"].astype(float), image.ravel(), atol=1e-5)
    table = found.attribution()
    assert table["group"].tolist() == ["pie"] * 5 + ["other"] * 5
    rows = found.changes.query("method == 'integrated_gradients' and target == 'fixed' and group == 'pie'")
    assert table["spearman"].tolist()[:5] == rows.query("comparison == 'compressed'")["spearman"].tolist()
    assert table["reference"].tolist()[:5] == rows.query("comparison == 'ceiling'")["spearman"].tolist()


def test_without_pies_there_are_maps_of_other_images_alone(people: People) -> None:
    people.k, none = 1, np.empty(0, dtype=np.int64)
    people.test_images = people.test_images[:6]
    found = compare_maps(people, CONDITION, samples(6, []), np.zeros(6, dtype=np.int64), none, none)
    assert set(found.changes["group"]) == {"other"}
    assert (len(found.quality), len(found.pictures), len(found.pie_ids())) == (0, 0, 0)
    assert found.map_dense.shape == (0, 8, 8)
    assert found.attribution()["reference"].isna().all()
    assert set(mean_table(found)["group"]) == {"other"}
    assert len(pair_tests(found, seed=0)) == 0


def by_hand() -> MapComparison:
    """Two methods, eight pairs; PIEs are below their partners by 0.5, but for SSIM."""
    rows, quality = [], []
    for method in ("integrated_gradients", "occlusion"):
        for i in range(8):
            for group in ("pie", "matched"):
                fall = 0.5 * (group == "pie")
                key = {"method": method, "group": group, "pair": f"p{i}", "sample_id": f"{group}{i}"}
                values = {
                    "spearman": 0.6 - fall,
                    "top_k_iou": 0.7 - fall,
                    "ssim": 0.4,
                    "centroid_shift": 0.8 - fall,
                }
                for target in ("fixed", "own"):
                    rows += [
                        {**key, "target": target, "comparison": comparison, **values}
                        for comparison in ("compressed", "ceiling", "floor")
                    ]
                quality += [
                    {**key, "maps": maps, "deletion": area, "insertion": area}
                    for maps, area in (("dense", 0.9), ("compressed", 0.7 - fall), ("floor", 0.3))
                ]
    floats = ["spearman", "top_k_iou", "ssim", "centroid_shift"]
    changes = pd.DataFrame(rows).astype(dict.fromkeys(floats, "Float64"))
    changes.loc[changes["pair"] == "p0", "spearman"] = None
    empty = np.empty((0, 8, 8), dtype=np.float32)
    areas = pd.DataFrame(quality).astype({"deletion": "Float64", "insertion": "Float64"})
    return MapComparison(changes, areas, empty, empty, pd.DataFrame(), 3)


def test_pies_are_tested_against_their_partners() -> None:
    tests = pair_tests(by_hand(), seed=0).set_index(["method", "measure"])
    assert len(tests) == 12
    for method in ("integrated_gradients", "occlusion"):
        for measure in ("spearman", "top_k_iou", "centroid_shift", "deletion", "insertion"):
            row = tests.loc[(method, measure)]
            pairs = 7 if measure == "spearman" else 8
            assert row["pairs"] == pairs
            assert row[["difference", "low", "high"]].tolist() == pytest.approx([-0.5] * 3)
            assert row["p_value"] == row["p_floor"] == 2.0 ** (1 - pairs)
        assert tests.loc[(method, "ssim"), "p_value"] == 1
    np.testing.assert_allclose(tests["p_adjusted"], false_discovery_control(tests["p_value"]))


def test_means_are_of_the_fixed_class_and_leave_out_what_is_missing() -> None:
    found = by_hand()
    found.changes.loc[found.changes["target"] == "own", "spearman"] = 9.0
    table = mean_table(found).set_index(["method", "measure", "group"])
    assert table.loc[("occlusion", "spearman", "pie"), "compressed"] == pytest.approx(0.1)
    assert table.loc[("occlusion", "spearman", "pie"), "n"] == 8
    assert table.loc[("occlusion", "deletion", "matched"), ["dense", "compressed", "floor"]].tolist() == (
        pytest.approx([0.9, 0.7, 0.3])
    )
    assert table.loc[("occlusion", "deletion", "matched"), "ceiling"] is pd.NA
    assert table.loc[("occlusion", "ssim", "matched"), "dense"] is pd.NA

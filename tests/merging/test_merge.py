import lzma
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

from compressors import Budget, CompressionPlan, apply_plan, finish, prune_filters
from compressors.contract import ChannelGroup, model_digest
from merging import merge, merge_channels
from merging.assign import inertia, ward_clusters
from merging.merge import ward_inertias
from population.errors import InputError

NAMES = ("resnet", "lenet", "mlp", "concatenated", "reused", "two_outputs", "tokens")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", NAMES)
def test_copies_in_every_group_fold_without_loss(networks, edits, name, dtype):
    model, x, groups = networks.NETWORKS[name](seed=4)
    model, x = model.to(dtype), x.to(dtype)
    before = networks.outputs(model, x)
    pairs = edits.plant_copies(model, groups)
    dense = networks.outputs(model, x)
    assert networks.relative_error(before, dense) > 1e-2
    result = merge_channels(model, x, amount=0.5, seed=0)
    assert {g.name: g.channels_after for g in result.cost.groups} == {g.name: g.size // 2 for g in groups}
    for group, copies in pairs.items():
        clusters = result.plan.clusters[group]
        assert all(clusters[a] == clusters[b] for a, b in copies)
    assert networks.relative_error(networks.outputs(result.model, x), dense) < TOLERANCE[dtype]


@pytest.mark.parametrize("name", NAMES)
def test_unevenly_read_copies_fold_without_loss(networks, edits, name):
    model, x, groups = networks.NETWORKS[name](seed=5)
    model, x = model.double(), x.double()
    pairs = edits.plant_copies(model, groups, share=0.9)
    clusters = {g.name: np.arange(g.size) for g in groups}
    for group, copies in pairs.items():
        for original, copy in copies:
            clusters[group][copy] = original
    plan = CompressionPlan("merge", model_digest(model), clusters)
    small = apply_plan(model, plan, x)
    assert networks.relative_error(networks.outputs(small, x), networks.outputs(model, x)) < 1e-12
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("amount", [0.3, 0.6])
@pytest.mark.parametrize("name", NAMES)
def test_a_merge_is_its_simulation_on_the_dense_network(networks, edits, name, amount):
    model, x, groups = networks.NETWORKS[name](seed=6)
    model, x = model.double(), x.double()
    result = merge_channels(model, x, amount=amount, seed=1)
    edits.simulate(model, groups, result.plan.clusters)
    error = networks.relative_error(networks.outputs(result.model, x), networks.outputs(model, x))
    assert error < 1e-12


def test_copies_in_every_group_of_torchvisions_resnet18_fold_without_loss(networks, edits):
    model = networks.randomize(resnet18(num_classes=10), 0)
    model.fc.weight.data *= 0.1
    edits.plant_copies(model, networks.resnet18_groups(64, "", "fc"))
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    result = merge_channels(model, x, amount=0.5, seed=0)
    assert result.cost.after.params < 0.26 * result.cost.before.params
    got, dense = networks.outputs(result.model, x), networks.outputs(model, x)
    assert networks.relative_error(got, dense) < 1e-5
    small = apply_plan(
        model.double(), CompressionPlan("merge", model_digest(model), result.plan.clusters), x.double()
    )
    got, dense = networks.outputs(small, x.double()), networks.outputs(model, x.double())
    assert networks.relative_error(got, dense) < 1e-12


def test_the_merge_does_not_depend_on_the_order_of_channels(networks, edits):
    model, x, groups = networks.mlp()
    shuffled, _, _ = networks.mlp()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    state = shuffled.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        state[name].copy_(state[name][order].clone())
    state["4.weight"].copy_(state["4.weight"][:, order].clone())
    edits.plant_copies(model, groups[1:])
    edits.plant_copies(shuffled, groups[1:])
    a, b = (merge_channels(m, x, amount=0.25, seed=0) for m in (model, shuffled))
    expected, got = a.plan.clusters["0"][order.numpy()], b.plan.clusters["0"]
    assert np.array_equal(expected[:, None] == expected, got[:, None] == got)


def test_merging_is_nearer_to_the_dense_network_than_removing_at_random(networks, edits):
    ratios = []
    for seed in range(2):
        model, x, groups = networks.resnet(seed=seed, width=8)
        edits.plant_copies(model, groups, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():  # nearly, not exactly, copies
            parameter.data += 0.02 * parameter.data.std() * torch.randn(parameter.shape, generator=generator)
        dense = networks.outputs(model, x)
        merged = merge_channels(model, x, amount=0.5, seed=0).model
        removed = prune_filters(model, x, amount=0.5, seed=0, norm="random").model
        errors = [networks.relative_error(networks.outputs(m, x), dense) for m in (merged, removed)]
        ratios.append(errors[0] / errors[1])
    assert max(ratios) < 0.3


@pytest.mark.parametrize("option", [{"assign": "kmean"}, {"budget": "even"}])
def test_unknown_options_name_what_is_allowed(networks, option):
    model, x, _ = networks.mlp()
    with pytest.raises(InputError, match=r"kmeans|uniform"):
        merge_channels(model, x, amount=0.5, seed=0, **option)


def _cifar_images(folder, name, count):
    tiles = np.asarray(Image.open(folder / "packed" / f"{name}.0.webp").convert("RGB"))
    images = tiles.reshape(25, 32, 40, 32, 3).transpose(0, 2, 4, 1, 3).reshape(1000, 3, 32, 32)[:count]
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    return torch.from_numpy(((images / 255 - mean[:, None, None]) / std[:, None, None]).astype(np.float32))


@pytest.fixture(scope="module")
def cifar():
    """A trained ResNet-18, calibration images, and test images with their labels."""
    if "PIE_TEST_DATA" not in os.environ:
        pytest.skip("PIE_TEST_DATA does not name a folder with CIFAR-10 and trained weights")
    folder = Path(os.environ["PIE_TEST_DATA"])
    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    weights = load_file(folder / "weights" / "resnet18_cifar10.safetensors")
    model.load_state_dict({n: t.float() if t.is_floating_point() else t for n, t in weights.items()})
    index = lzma.decompress((folder / "cifar10" / "packed" / "index.txt.xz").read_bytes()).split()
    labels = torch.tensor([int(v) for v in index[100_000:100_600:2]])
    test = _cifar_images(folder / "cifar10", "test_batch", 300)
    return model.eval(), _cifar_images(folder / "cifar10", "data_batch_1", 300), test, labels


def test_on_a_trained_network_merging_beats_removing_channels_at_random(cifar):
    model, train, test, labels = cifar
    accuracy = {}
    for name, compress in (("merge", merge_channels), ("random", prune_filters)):
        extra = {"norm": "random"} if name == "random" else {}
        result = compress(
            model, test[:1], amount=0.5, seed=0, repair="bn", calibration=[train[:150], train[150:]], **extra
        )
        assert result.cost.after.params < 0.26 * result.cost.before.params
        with torch.no_grad():
            accuracy[name] = float((result.model(test).argmax(1) == labels).float().mean())
    assert accuracy["merge"] > 0.5
    assert accuracy["merge"] > accuracy["random"] + 0.1


def test_on_a_trained_network_a_global_budget_beats_a_uniform_one(cifar):
    model, train, test, labels = (part if i == 0 else part[:150] for i, part in enumerate(cifar))
    accuracy, params = {}, {}
    for budget, amount in (("uniform", 0.75), ("params", 0.9374)):
        result = merge_channels(
            model, test[:1], amount=amount, seed=0, repair="bn", calibration=[train], budget=budget
        )
        params[budget] = result.cost.after.params / result.cost.before.params
        with torch.no_grad():
            accuracy[budget] = float((result.model(test).argmax(1) == labels).float().mean())
    assert 0.06 < params["params"] <= params["uniform"] < 0.063
    assert accuracy["params"] > accuracy["uniform"] + 0.05


@pytest.mark.parametrize("n", [1, 2, 9])
def test_inertias_of_all_of_wards_clusters(n):
    points = np.random.default_rng(n).normal(size=(n, 4))
    gram = points @ points.T
    expected = [inertia(gram, ward_clusters(gram, k)) for k in range(1, n + 1)]
    assert ward_inertias(gram) == pytest.approx(expected, abs=1e-9)
    assert ward_inertias(np.zeros((n, n))).tolist() == [0.0] * n


def test_assignments_find_the_clusters_that_they_are_named_for():
    # Filters 0 (four times), 2.9, 7 and 10 that nothing else tells apart: Ward's method and k-means
    # merge the last two, greedy pairs put 2.9 to the zeros. Values are clipped at 1 before they are read,
    # so that on data the last three are the same.
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.make, self.read = nn.Linear(1, 7, bias=False), nn.Linear(7, 1, bias=False)

        def forward(self, x):
            return self.read(self.make(x).clamp(max=self.limit))

    model = Clipped().eval()
    model.make.weight.data = torch.tensor([[0.0], [0], [0], [0], [2.9], [7], [10]])
    model.read.weight.data[:] = 1
    x = torch.tensor([[0.0], [1.0]])
    expected = {
        "kmeans": [0, 0, 0, 0, 1, 2, 2],
        "ward": [0, 0, 0, 0, 1, 2, 2],
        "greedy": [0, 0, 0, 0, 0, 1, 2],
    }
    model.limit = 1.0
    for assign, clusters in expected.items():
        result = merge_channels(model, x, amount=4 / 7, seed=0, assign=assign)
        assert result.plan.clusters["make"].tolist() == clusters
    two = merge_channels(model, x, amount=5 / 7, seed=0, assign="activations", calibration=[x])
    assert two.plan.clusters["make"].tolist() == [0, 0, 0, 0, 1, 1, 1]  # all of these are read as 1
    assert two.calibration_images == 0
    weights = merge_channels(model, x, amount=5 / 7, seed=0)
    assert weights.plan.clusters["make"].tolist() == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("assign", ["kmeans", "ward", "greedy", "activations"])
@pytest.mark.parametrize("name", ["resnet", "lenet", "concatenated"])
def test_every_assignment_folds_copies_without_loss(networks, edits, name, assign):
    model, x, groups = networks.NETWORKS[name](seed=4)
    edits.plant_copies(model, groups)
    dense = networks.outputs(model, x)
    generator = torch.Generator().manual_seed(0)
    calibration = [torch.rand((8, *x.shape[1:]), generator=generator)]
    result = merge_channels(model, x, amount=0.5, seed=0, assign=assign, calibration=calibration)
    assert networks.relative_error(networks.outputs(result.model, x), dense) < 1e-5


def test_activations_tell_apart_what_weights_do_not(networks):
    model, x, _ = networks.lenet()
    generator = torch.Generator().manual_seed(0)
    calibration = [torch.rand((8, *x.shape[1:]), generator=generator) for _ in range(2)]
    by_data = merge_channels(model, x, amount=0.5, seed=0, assign="activations", calibration=calibration)
    again = merge_channels(model, x, amount=0.5, seed=0, assign="activations", calibration=calibration)
    by_weights = merge_channels(model, x, amount=0.5, seed=0)
    assert all(np.array_equal(c, again.plan.clusters[n]) for n, c in by_data.plan.clusters.items())
    assert any(not np.array_equal(c, by_weights.plan.clusters[n]) for n, c in by_data.plan.clusters.items())
    rebuilt = apply_plan(model, by_data.plan, x)
    assert torch.equal(rebuilt(x), by_data.model(x))


@pytest.mark.parametrize("amount", [0.0, 0.5])
def test_activations_need_calibration(networks, amount):
    model, x, _ = networks.mlp()
    with pytest.raises(InputError, match="needs calibration"):
        merge_channels(model, x, amount=amount, seed=0, assign="activations")


@pytest.mark.parametrize("budget", ["uniform", "params"])
@pytest.mark.parametrize("assign", ["kmeans", "activations"])
def test_everything_is_computed_once(hard_networks, monkeypatch, assign, budget):
    build, x = hard_networks.HARD["grouped"]
    model = build().eval()
    counts = Counter()

    def count(module, name):
        function = getattr(module, name)

        def counted(*args):
            counts[name, *(a.name for a in args[1:] if isinstance(a, ChannelGroup))] += 1
            return function(*args)

        monkeypatch.setattr(module, name, counted)

    count(finish, "find_groups")
    count(merge, "channel_gram")
    count(merge, "activation_grams")
    calibration = [torch.rand(4, *x.shape[1:], generator=torch.Generator().manual_seed(0))]
    result = merge_channels(
        model, x, amount=0.5, seed=0, assign=assign, calibration=calibration, budget=budget
    )
    grams = [("channel_gram", g.name) for g in result.cost.groups]
    expected = grams if assign == "kmeans" else [("activation_grams",)]
    assert counts == Counter([("find_groups",), *expected])
    assert len(grams) == 3


def test_query_key_pairs_are_compared_by_weights_where_others_are_by_activations(hard_networks):
    build, x = hard_networks.HARD["multihead attention"]
    torch.manual_seed(0)
    model = build().eval()
    batches = [torch.rand(8, *x.shape[1:], generator=torch.Generator().manual_seed(0))]
    by_data, by_weights = (
        merge_channels(
            model, x, amount=0.5, seed=0, assign=a, calibration=batches, budget=Budget(skip=["a"])
        ).plan.clusters
        for a in ("activations", "kmeans")
    )
    assert np.array_equal(by_data["m.query_key"], by_weights["m.query_key"])
    assert not np.array_equal(by_data["m.value"], by_weights["m.value"])


def test_assignments_do_not_read_calibration_that_they_do_not_need(networks):
    model, x, _ = networks.mlp()

    def unread():
        raise AssertionError("read")
        yield

    for assign in ("kmeans", "ward", "greedy"):
        merge_channels(model, x, amount=0.5, seed=0, assign=assign, calibration=unread())

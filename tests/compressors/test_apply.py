import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressors import CompressionPlan, apply_plan
from compressors.apply import occurrences
from compressors.contract import model_digest
from population.errors import InputError

NAMES = ("resnet", "lenet", "mlp", "concatenated", "reused", "two_outputs", "tokens")


def _plan(model, clusters, **more):
    return CompressionPlan("by hand", model_digest(model), clusters, **more)


@given(st.lists(st.integers(0, 5), max_size=30))
def test_occurrence_counts_earlier_appearances(channels):
    expected = [channels[:i].count(c) for i, c in enumerate(channels)]
    assert occurrences(np.array(channels, dtype=np.int64)).tolist() == expected


@pytest.mark.parametrize("removing", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_any_clusters_do_what_the_simulation_on_the_dense_network_does(networks, edits, name, removing):
    model, x, groups = networks.NETWORKS[name]()
    model, x = model.double(), x.double()
    rng = np.random.default_rng(5)
    # Cluster numbers in no order, with gaps.
    clusters = {g.name: rng.choice([11, 3, 7, 5], g.size) for g in groups}
    if removing:
        for labels in clusters.values():
            labels[1::3] = -1
    before = {k: v.clone() for k, v in model.state_dict().items()}
    small = apply_plan(model, _plan(model, clusters), x)
    got = networks.outputs(small, x)
    dense = networks.outputs(model, x)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    edits.simulate(model, groups, clusters)
    expected = networks.outputs(model, x)
    assert networks.relative_error(expected, dense) > 1e-3  # the edit does something
    assert networks.relative_error(got, expected) < 1e-12


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_unequal_copies_of_any_number_fold_losslessly(networks, data):
    model, x, groups = networks.lenet()
    model, x = model.double(), x.double()
    clusters = {
        g.name: np.array(data.draw(st.lists(st.integers(0, 3), min_size=g.size, max_size=g.size)))
        for g in groups
    }
    state = model.state_dict()
    for g in groups:  # every channel becomes a copy of the first of its cluster; columns stay unequal
        first = [int(np.flatnonzero(clusters[g.name] == c)[0]) for c in clusters[g.name]]
        for name in (f"{g.name}.weight", f"{g.name}.bias"):
            state[name].copy_(state[name][first])
    small = apply_plan(model, _plan(model, clusters), x)
    assert networks.relative_error(networks.outputs(small, x), networks.outputs(model, x)) < 1e-12
    assert [small[i].weight.shape[0] for i in (0, 3, 6, 8)] == [
        *(len(set(clusters[g.name].tolist())) for g in groups),
        10,
    ]


def test_hand_worked_merge_and_removal_of_a_tiny_network():
    model = nn.Sequential(nn.Linear(1, 4), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [2.0], [5.0], [9.0]]))
        model[0].bias.copy_(torch.tensor([4.0, 8.0, 10.0, 1.0]))
        model[1].weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    small = apply_plan(model, _plan(model, {"0": np.array([6, -1, 2, 6])}), torch.rand(2, 1))
    assert small[0].weight.tolist() == [[5.0], [5.0]]  # (1 + 9) / 2, then 5
    assert small[0].bias.tolist() == [2.5, 10.0]
    assert small[1].weight.tolist() == [[1001.0, 100.0]]
    assert (small[0].in_features, small[0].out_features, small[1].in_features) == (1, 2, 2)


def test_stated_sizes_follow_the_tensors(networks):
    model, x, groups = networks.resnet()
    small = apply_plan(model, _plan(model, {g.name: np.arange(g.size) // 2 for g in groups}), x)
    for module in small.modules():
        if isinstance(module, nn.Conv2d):
            assert (module.out_channels, module.in_channels) == module.weight.shape[:2]
        elif isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)
    assert (small.head.out_features, small.head.in_features) == (3, 16)
    assert small.encoder.conv1.out_channels == 2


def test_masks_zero_weights_and_tensors_replace_values(networks):
    model, x, _ = networks.mlp()
    mask = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    bias = torch.arange(3.0)
    plan = _plan(model, {}, masks={"0.weight": mask}, tensors={"6.bias": bias})
    new = apply_plan(model, plan, x)
    assert torch.equal(new[0].weight, torch.where(mask, model[0].weight, 0.0))
    assert torch.equal(new[6].bias, bias)
    assert torch.equal(new[6].weight, model[6].weight)


def test_frozen_parameters_stay_frozen_and_trainable_ones_trainable(networks):
    model, x, groups = networks.lenet()
    model[0].weight.requires_grad_(False)
    small = apply_plan(model, _plan(model, {g.name: np.arange(g.size) // 2 for g in groups}), x)
    flags = {name: p.requires_grad for name, p in small.named_parameters()}
    assert flags == {name: p.requires_grad for name, p in model.named_parameters()}


def test_a_tensor_with_two_names_stays_one():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.ReLU(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    mask = torch.eye(4, dtype=torch.bool)
    new = apply_plan(model, _plan(model, {}, masks={"0.weight": mask}), torch.rand(2, 4))
    assert new[0].weight is new[2].weight
    assert torch.equal(new[0].weight, model[0].weight * torch.eye(4))


@pytest.mark.parametrize(
    "parts",
    [
        {"clusters": {"0": np.zeros(7, dtype=np.int64)}},
        {"clusters": {"nowhere": np.zeros(8, dtype=np.int64)}},
        {"clusters": {"0": np.full(8, -1)}},
        {"clusters": {"0": np.full(8, -2)}},
        {"masks": {"0.weight": torch.ones(5, 8, dtype=torch.bool)}},
        {"masks": {"0.weight": torch.ones(8, 5)}},
        {"masks": {"nowhere": torch.ones(8, 5, dtype=torch.bool)}},
        {"tensors": {"0.bias": torch.zeros(9)}},
        {"tensors": {"nowhere": torch.zeros(8)}},
    ],
    ids=[
        "short", "unknown group", "all removed", "below -1", "mask shape", "mask type", "mask name",
        "tensor shape", "tensor name",
    ],
)  # fmt: skip
def test_a_plan_that_does_not_fit_is_refused(networks, parts):
    model, x, _ = networks.mlp()
    with pytest.raises(InputError):
        apply_plan(model, _plan(model, **{"clusters": {}, **parts}), x)

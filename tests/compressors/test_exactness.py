from dataclasses import replace

import numpy as np
import pytest
import torch

from compressors.exactness import is_exact, leave_inexact_dense
from compressors.groups import find_groups

NAMES = ("resnet", "lenet", "mlp", "concatenated", "reused", "two_outputs", "tokens")


def _without(group, tensor, role):
    """The group with one of its places forgotten."""
    kept = tuple(s for s in group.slices if (s.tensor, s.role) != (tensor, role))
    assert len(kept) == len(group.slices) - 1
    return replace(group, slices=kept)


def _misread(group, tensor):
    """The group with the columns that read it in another order."""
    slices = tuple(
        replace(s, channels=s.channels[::-1].copy()) if (s.tensor, s.role) == (tensor, "in") else s
        for s in group.slices
    )
    return replace(group, slices=slices)


@pytest.mark.parametrize("name", NAMES)
def test_true_groups_are_exact_and_stay(networks, name):
    model, x, _ = networks.NETWORKS[name]()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    search = find_groups(model, x)
    assert leave_inexact_dense(model, search, x) is search
    clusters = {g.name: np.arange(g.size) // 2 for g in search.groups}
    for labels in clusters.values():
        labels[2::3] = -1
    assert is_exact(model, search.groups, clusters, x)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda g: _without(g, "0.bias", "out"),
        lambda g: _without(g, "1.running_mean", "out"),
        lambda g: _without(g, "4.weight", "in"),
        lambda g: _misread(g, "4.weight"),
    ],
    ids=["bias forgotten", "mean forgotten", "reader forgotten", "columns in another order"],
)
def test_a_wrong_group_is_taken_out_and_the_others_stay(networks, spoil):
    model, x, _ = networks.mlp()
    search = find_groups(model, x)
    first, second = search.groups
    wrong = spoil(first)
    clusters = {g.name: np.arange(g.size) // 3 for g in search.groups}
    assert is_exact(model, [first, second], clusters, x)
    assert not is_exact(model, [wrong, second], clusters, x)
    left = leave_inexact_dense(model, replace(search, groups=(wrong, second)), x)
    assert left.groups == (second,)
    assert left.left_dense["0"]
    assert left.left_dense["6"] == search.left_dense["6"]


def test_clusters_of_one_channel_each_are_always_exact(networks):
    model, x, _ = networks.mlp()
    groups = [_misread(find_groups(model, x).groups[0], "4.weight")]
    assert is_exact(model, groups, {"0": np.arange(8)}, x)

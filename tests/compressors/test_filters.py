import numpy as np
import pytest
import torch
from torch import nn

from compressors import prune_filters
from population.errors import InputError


def _kept(result, name):
    return np.flatnonzero(result.plan.clusters[name] >= 0).tolist()


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_the_channels_of_a_residual_stream_are_ranked_together(networks, norm):
    model, x, groups = networks.resnet(seed=3)
    result = prune_filters(model, x, amount=0.5, seed=0, norm=norm)
    for group in groups:
        scores = []
        for channel in range(group.size):
            total = 0.0
            for layer in group.producers:
                values = model.get_submodule(layer).weight[channel].flatten().tolist()
                total += sum(abs(v) for v in values) if norm == "l1" else sum(v * v for v in values) ** 0.5
            scores.append(total)
        order = sorted(range(group.size), key=lambda c: -scores[c])
        assert _kept(result, group.name) == sorted(order[: group.size // 2])


def test_ranking_together_is_not_ranking_by_the_first_layer(networks):
    model, x, _ = networks.resnet()
    firsts = {"conv1": [9, 8, 1, 2], "layer1.0.conv2": [1, 2, 9, 3], "layer1.1.conv2": [1, 1, 7, 1]}
    with torch.no_grad():
        for layer, values in firsts.items():
            weight = model.encoder.get_submodule(layer).weight
            weight.zero_()
            weight[:, 0, 0, 0] = torch.tensor(values, dtype=torch.float32)
    result = prune_filters(model, x, amount=0.5, seed=0)  # sums 11, 11, 17, 6; the earlier of equals stays
    assert _kept(result, "encoder.conv1") == [0, 2]


def test_kept_filters_are_unchanged_and_in_order():
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -4.0], [0.5, 0.1], [-2.0, 2.0], [3.0, 3.0]]))
    small = prune_filters(model, torch.rand(1, 2), amount=0.25, seed=0).model
    kept = [0, 2, 3]
    assert torch.equal(small[0].weight, model[0].weight[kept])
    assert torch.equal(small[0].bias, model[0].bias[kept])
    assert torch.equal(small[2].weight, model[2].weight[:, kept])
    assert torch.equal(small[2].bias, model[2].bias)


def test_equal_norms_keep_the_earlier_channels():
    model = nn.Sequential(nn.Linear(2, 6, bias=False), nn.ReLU(), nn.Linear(6, 2))
    nn.init.ones_(model[0].weight)
    assert _kept(prune_filters(model, torch.rand(1, 2), amount=0.5, seed=0), "0") == [0, 1, 2]


def test_random_channels_are_drawn_for_each_group_apart_and_evenly(networks):
    model, x, _ = networks.mlp()
    counts, same = np.zeros(8), 0
    for seed in range(40):
        result = prune_filters(model, x, amount=0.5, seed=seed, norm="random")
        kept = _kept(result, "0")
        counts[kept] += 1
        same += kept[:3] == _kept(result, "4")
        assert len(kept) == 4
    # 40 draws at 1/2: standard deviation 3.2.
    assert counts.min() > 7
    assert counts.max() < 33
    assert same < 20


def test_unknown_norms_name_the_nearest(networks):
    model, x, _ = networks.mlp()
    with pytest.raises(InputError, match="l1"):
        prune_filters(model, x, amount=0.5, seed=0, norm="l11")

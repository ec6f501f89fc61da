import numpy as np
import pytest
import torch
import torch_pruning as tp
from torch import nn

from compressors import prune_filters
from compressors.filters import NORMS
from compressors.groups import find_groups
from compressors.importance import joint_squares, taylor_scores
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


def test_filters_near_the_others_go_first_by_the_geometric_median(networks):
    model, x, groups = networks.resnet(seed=5)
    result = prune_filters(model, x, amount=0.5, seed=0, norm="geometric-median")
    assert result.plan.method == "filters-geometric-median"
    for group in groups:
        filters = [
            [v for p in group.producers for v in model.get_submodule(p).weight[c].flatten().tolist()]
            for c in range(group.size)
        ]
        scores = [
            sum(sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) ** 0.5 for other in filters)
            for one in filters
        ]
        order = sorted(range(group.size), key=lambda c: -scores[c])
        assert _kept(result, group.name) == sorted(order[: group.size // 2])


def test_the_geometric_median_by_hand():
    # Filters on a line at 0, 1, 2 and 10: sums of distances 13, 11, 11 and 27.
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.data = torch.tensor([[0.0], [1.0], [2.0], [10.0]])
    x = torch.rand(2, 1)
    assert _kept(prune_filters(model, x, amount=0.5, seed=0, norm="geometric-median"), "0") == [0, 3]
    assert _kept(prune_filters(model, x, amount=0.5, seed=0, norm="l2"), "0") == [2, 3]


IMPORTANCES = {
    "l2": tp.importance.MagnitudeImportance(p=2, target_types=[nn.Conv2d]),
    "geometric-median": tp.importance.FPGMImportance(p=1),  # with p=2 it takes distances of squares
    "bn-scale": tp.importance.BNScaleImportance(),
}


@pytest.mark.parametrize("norm", IMPORTANCES)
def test_torch_pruning_ranks_the_channels_of_one_layer_alike(norm):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(12, 2),
    ).eval()  # fmt: skip
    nn.init.normal_(model[1].weight)
    model[0].weight.data.abs_()  # it takes distances of magnitudes
    nn.init.ones_(model[5].weight)  # it counts the layer that reads the channels too
    x = torch.rand(2, 3, 8, 8)
    graph = tp.DependencyGraph().build_dependency(model, x)
    group = graph.get_pruning_group(model[0], tp.prune_conv_out_channels, list(range(12)))
    expected = torch.argsort(IMPORTANCES[norm](group), descending=True)[:6].sort().values.tolist()
    assert _kept(prune_filters(model, x, amount=0.5, seed=0, norm=norm), "0") == expected


def test_scales_of_all_norms_of_a_group_are_added(networks):
    model, x, groups = networks.resnet(seed=6)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[::2] *= -1
    result = prune_filters(model, x, amount=0.5, seed=0, norm="bn-scale")
    for group in groups:
        scores = [
            sum(abs(model.get_submodule(norm).weight[start + c].item()) for norm, start in group.norms)
            for c in range(group.size)
        ]
        order = sorted(range(group.size), key=lambda c: -scores[c])
        assert _kept(result, group.name) == sorted(order[: group.size // 2])


@pytest.mark.parametrize("affine", [None, False])
def test_scales_need_a_norm_that_has_them(affine):
    norm = nn.Identity() if affine is None else nn.BatchNorm1d(4, affine=False)
    model = nn.Sequential(nn.Linear(3, 4), norm, nn.ReLU(), nn.Linear(4, 2)).eval()
    with pytest.raises(InputError, match="bn-scale needs a norm with a scale for the channels of '0'"):
        prune_filters(model, torch.rand(2, 3), amount=0.5, seed=0, norm="bn-scale")


def _by_gates(networks, model, groups, batches, seed):
    """Taylor scores from gates that multiply the channels, a factor of each that the loss can see."""
    generator = torch.Generator().manual_seed(seed)
    scores = {group.name: torch.zeros(group.size, dtype=torch.float64) for group in groups}
    for batch in batches:
        gates, handles = {}, []
        for group in groups:
            gate = gates[group.name] = torch.ones(group.size, requires_grad=True, dtype=torch.float64)
            for layer in [norm for norm, _ in group.norms] or group.producers:

                def multiply(module, inputs, out, gate=gate):
                    return out * gate.reshape(-1, *[1] * (out.dim() - 2))

                handles.append(model.get_submodule(layer).register_forward_hook(multiply))
        logits = model(batch)
        labels = torch.multinomial(logits.detach().double().softmax(1), 1, generator=generator)
        loss = -logits.log_softmax(1).gather(1, labels).mean()
        for name, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            scores[name] += gradient.square() / len(batches)
        for handle in handles:
            handle.remove()
    return scores


@pytest.mark.parametrize("name", ["resnet", "lenet", "mlp"])
def test_taylor_scores_are_squared_gradients_of_gates(networks, name):
    model, x, groups = networks.NETWORKS[name](seed=7)
    model, x = model.double(), x.double()
    generator = torch.Generator().manual_seed(0)
    shape = x.shape[1:]
    batches = [torch.rand((n, *shape), generator=generator, dtype=torch.float64) for n in (5, 3, 4)]
    expected = _by_gates(networks, model, groups, batches, seed=3)
    got = taylor_scores(model, find_groups(model, x).groups, batches, seed=3)
    assert got.keys() == expected.keys()
    for group, scores in got.items():
        assert scores == pytest.approx(expected[group].numpy(), rel=1e-9)
    result = prune_filters(model, x, amount=0.5, seed=3, norm="taylor", calibration=batches)
    for group in groups:
        order = np.argsort(-got[group.name], kind="stable")[: (group.size + 1) // 2]
        assert _kept(result, group.name) == sorted(order.tolist())
    assert all(p.grad is None for p in model.parameters())


def test_taylor_scores_do_not_vanish_where_the_model_is_sure(networks):
    # The gradient for the most likely class is nearly zero, and that for a drawn one is zero or large:
    # the mean square over many draws is the Fisher information, here p (1 - p) (w x)^2 for two classes.
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Identity(), nn.Linear(2, 2, bias=False))
    model[0].weight.data = torch.tensor([[1.0], [2.0]])
    model[2].weight.data = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    x = torch.ones(1, 1)
    p = float(torch.sigmoid(torch.tensor(3.0)))
    scores = taylor_scores(model, find_groups(model, x).groups, [x] * 4000, seed=0)["0"]
    fisher = p * (1 - p) * np.array([1.0, 4.0])
    assert scores == pytest.approx(fisher, rel=0.25)  # 4,000 draws of 1 in 21: error 7 %
    assert scores[0] / scores[1] == pytest.approx(0.25)


BAD_TAYLOR = {
    "no calibration": (lambda x: x, None, "norm='taylor' needs calibration"),
    "no batch": (lambda x: x, [], "calibration is empty"),
    "two outputs": (lambda x: (x, x), [torch.rand(3, 3)], "returns logits of shape"),
    "maps": (lambda x: x[:, :, None], [torch.rand(3, 3)], "returns logits of shape"),
    "other inputs": (lambda x: x, [torch.rand(3, 4)], "does not accept a calibration batch"),
    "NaN": (lambda x: x, [torch.full((3, 3), float("nan"))], "NaN or infinite logits"),
}


@pytest.mark.parametrize("case", BAD_TAYLOR)
def test_taylor_needs_batches_and_logits(networks, case):
    function, calibration, message = BAD_TAYLOR[case]
    model = networks.Net(
        lambda net, x: function(net.head(net.a(x).relu())), a=nn.Linear(3, 4), head=nn.Linear(4, 2)
    ).eval()
    with pytest.raises(InputError, match=message) as error:
        prune_filters(model, torch.rand(2, 3), amount=0.5, seed=0, norm="taylor", calibration=calibration)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_repeats_itself_and_meets_a_budget(networks, norm):
    model, x, _ = networks.resnet(seed=8)
    batches = [torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in range(2)]
    arguments = {"amount": 0.4, "seed": 5, "norm": norm, "calibration": batches, "budget": "params"}
    first, again = (prune_filters(model, x, **arguments) for _ in range(2))
    assert all(np.array_equal(c, again.plan.clusters[n]) for n, c in first.plan.clusters.items())
    assert first.cost.after.params <= 0.6 * first.cost.before.params
    assert first.plan.method == f"filters-{norm}"
    assert not torch.allclose(networks.outputs(first.model, x), networks.outputs(model, x))


def test_what_pruning_loses_is_the_share_of_the_removed_weights():
    # Squares by channel, made and read: 1 + 1, 4 + 1, 9 + 1, 16 + 1; biases 0. In all 34.
    model = nn.Sequential(nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].weight.data, model[0].bias.data = torch.tensor([[1.0], [2], [3], [4]]), torch.zeros(4)
    nn.init.ones_(model[2].weight)
    assert joint_squares(model, find_groups(model, torch.rand(1, 1)).groups[0]).tolist() == [2, 5, 10, 17]


def test_unknown_norms_name_the_nearest(networks):
    model, x, _ = networks.mlp()
    with pytest.raises(InputError, match="l1"):
        prune_filters(model, x, amount=0.5, seed=0, norm="l11")

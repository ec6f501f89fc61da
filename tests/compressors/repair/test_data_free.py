import numpy as np
import pytest
import torch
from torch import nn

from compressors import CompressionPlan
from compressors.apply import build_compressed
from compressors.contract import model_digest
from compressors.groups import find_groups
from compressors.repair.data_free import corrected_scales
from merging import merge_channels
from population.errors import InputError


def _net(seed=0, norms=(1, 2, 3, 1, 2, 0.5)):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double().eval()
    rows = torch.randn(6, 10, generator=generator, dtype=torch.float64)
    lengths = torch.tensor(norms, dtype=torch.float64)
    with torch.no_grad():
        model[0].weight.copy_(lengths[:, None] * rows / rows.norm(dim=1, keepdim=True))
        model[1].weight.uniform_(0.5, 1.5, generator=generator)
        model[1].running_mean.copy_(model[0].bias)  # of inputs with mean 0
        model[1].running_var.copy_(lengths**2)  # of uncorrelated inputs with variance 1
    return model


def _scales(model, clusters):
    groups = find_groups(model, torch.rand(2, 10, dtype=torch.float64)).groups
    plan = CompressionPlan("by hand", model_digest(model), {"0": np.array(clusters)})
    small = build_compressed(model, plan, groups)
    return small, corrected_scales(model, small, plan, groups)


@pytest.mark.parametrize("clusters", [[0, 0, 1, 1, 1, 2], [0, 1, 0, 2, 0, 0], [4, 1, 4, 1, 1, 0], [0] * 6])
def test_factor_is_the_published_formula_of_a_double_loop(clusters):
    model = _net()
    small, scales = _scales(model, clusters)
    rows = model[0].weight.detach().numpy()
    order = list(dict.fromkeys(clusters))
    for place, cluster in enumerate(order):
        members = [i for i, c in enumerate(clusters) if c == cluster]
        n, total = len(members), 0.0
        for a in members:
            for b in members:
                if a != b:
                    total += rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b])
        mean = total / (n * n - n) if n > 1 else 0.0
        factor = n / np.sqrt(n + (n * n - n) * mean)
        got = float(scales["1.weight"][place]) / float(small[1].weight.detach()[place])
        assert got == pytest.approx(factor, rel=1e-10)
    assert scales.keys() == {"1.weight"}


def test_merged_channels_get_the_variance_of_their_members():
    model = _net(norms=(1,) * 6)
    nn.init.constant_(model[1].weight, 1.5)
    small, scales = _scales(model, [0, 0, 0, 1, 1, 2])
    x = torch.randn(200_000, 10, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with torch.no_grad():
        dense = model[:2](x).var(0)
        without = small[:2](x).var(0)
        small[1].weight.copy_(scales["1.weight"])
        corrected = small[:2](x).var(0)
    torch.testing.assert_close(dense, torch.full((6,), 1.5**2, dtype=torch.float64), rtol=0.02, atol=0)
    torch.testing.assert_close(corrected, torch.full((3,), 1.5**2, dtype=torch.float64), rtol=0.02, atol=0)
    assert float(without[0]) < 0.8 * 1.5**2


def test_copies_and_single_channels_need_no_correction(networks, edits):
    model, x, groups = networks.resnet()
    model = model.double()
    edits.plant_copies(model, groups)
    result = merge_channels(model, x.double(), amount=0.5, seed=0, repair="data-free")
    assert result.plan.tensors
    got, expected = (networks.outputs(m, x.double()) for m in (result.model, model))
    assert networks.relative_error(got, expected) < 1e-12


def test_filters_that_cancel_or_are_zero_have_no_variance_to_restore():
    model = _net()
    with torch.no_grad():
        model[0].weight[1] = -model[0].weight[0]
        model[0].weight[2:4] = 0
    small, scales = _scales(model, [0, 0, 1, 1, 2, 3])
    torch.testing.assert_close(scales["1.weight"], small[1].weight.detach(), rtol=1e-12, atol=0)


def test_every_norm_of_a_stream_is_corrected_by_its_own_filters(networks):
    model, x, _ = networks.resnet()
    clusters = np.array([0, 1, 0, 1])
    groups = find_groups(model, x).groups
    plan = CompressionPlan("by hand", model_digest(model), {"encoder.conv1": clusters})
    small = build_compressed(model, plan, groups)
    scales = corrected_scales(model, small, plan, groups)
    layers = {"bn1": "conv1", "layer1.0.bn2": "layer1.0.conv2", "layer1.1.bn2": "layer1.1.conv2"}
    assert scales.keys() == {f"encoder.{norm}.weight" for norm in layers}
    for norm, layer in layers.items():
        rows = model.encoder.get_submodule(layer).weight.detach().double().flatten(1)
        for place, (a, b) in enumerate([(0, 2), (1, 3)]):
            cosine = float(rows[a] @ rows[b] / rows[a].norm() / rows[b].norm())
            factor = float(scales[f"encoder.{norm}.weight"][place]) / float(
                small.encoder.get_submodule(norm).weight.detach()[place]
            )
            assert factor == pytest.approx(2 / (2 + 2 * cosine) ** 0.5, rel=1e-5)


def _corrected(model, x, clusters):
    """A model before and after the correction, both merged."""
    groups = find_groups(model, x).groups
    plan = CompressionPlan("by hand", model_digest(model), clusters)
    small = build_compressed(model, plan, groups)
    return small.state_dict(), corrected_scales(model, small, plan, groups)


def _factor(*rows):
    """Of a cluster of two channels, from their filters."""
    a, b = (row.detach().double().flatten() for row in rows)
    return 2 / (2 + 2 * float(a @ b / a.norm() / b.norm())) ** 0.5


def test_filters_without_a_norm_are_scaled_and_their_bias_is_kept(networks):
    model, x, _ = networks.lenet()
    small, scales = _corrected(model, x, {"3": np.array([0, 1, 2, 3, 4, 5, 0, 5])})
    assert scales.keys() == {"3.weight"}
    factors = torch.ones(6)
    factors[0], factors[5] = (_factor(model[3].weight[a], model[3].weight[b]) for a, b in [(0, 6), (5, 7)])
    torch.testing.assert_close(scales["3.weight"], small["3.weight"] * factors.reshape(-1, 1, 1, 1))


def test_a_norm_after_a_concatenation_is_scaled_where_the_layer_lies(networks):
    model, x, _ = networks.concatenated()
    small, scales = _corrected(model, x, {"b": np.array([0, 0, 1, 2, 3, 4])})
    assert scales.keys() == {"norm.weight"}
    factors = torch.ones(9)
    factors[4] = _factor(model.b.weight[0], model.b.weight[1])
    torch.testing.assert_close(scales["norm.weight"], small["norm.weight"] * factors)


def test_a_norm_after_a_sum_is_scaled_by_all_filters_side_by_side(networks):
    model = networks.Net(
        lambda net, x: net.head(net.norm(net.a(x) + net.b(x)).relu()),
        a=nn.Linear(5, 4), b=nn.Linear(5, 4), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 3),
    )  # fmt: skip
    model = networks.randomize(model, 0)
    small, scales = _corrected(model, networks.inputs(2, 5), {"a": np.array([0, 1, 1, 2])})
    assert scales.keys() == {"norm.weight"}
    rows = torch.cat([model.a.weight, model.b.weight], 1)
    factors = torch.tensor([1, _factor(rows[1], rows[2]), 1])
    torch.testing.assert_close(scales["norm.weight"], small["norm.weight"] * factors)


def test_every_layer_of_a_sum_without_norm_is_scaled_by_its_own_filters(networks):
    model, x, _ = networks.reused()
    small, scales = _corrected(model, x, {"stem": np.array([0, 1, 2, 3, 4, 5, 6, 0])})
    assert scales.keys() == {"stem.weight", "a.weight"}
    for name in scales:
        weight = model.get_parameter(name)
        factors = torch.ones(7, 1)
        factors[0] = _factor(weight[0], weight[7])
        torch.testing.assert_close(scales[name], small[name] * factors)


def test_queries_and_values_of_heads_are_scaled_and_keys_are_not(networks):
    model, x = networks.transformer()
    clusters = {
        "m.query_key": np.array([0, 0, 1, 2, 3, 4, 5, 5]),
        "m.value": np.array([0, 1, 2, 2, 3, 3, 4, 5]),
    }
    small, scales = _corrected(model, x, clusters)
    assert scales.keys() == {"m.in_proj_weight"}
    rows = model.m.in_proj_weight
    pairs = {0: (0, 1), 5: (6, 7), 12 + 2: (16 + 2, 16 + 3), 12 + 3: (16 + 4, 16 + 5)}
    factors = torch.ones(18, 1)
    for place, (a, b) in pairs.items():
        factors[place] = _factor(rows[a], rows[b])
    torch.testing.assert_close(scales["m.in_proj_weight"], small["m.in_proj_weight"] * factors)


def test_a_norm_without_scale_is_refused():
    model = nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)).eval()
    with pytest.raises(InputError, match="scale"):
        merge_channels(model, torch.rand(2, 10), amount=0.5, seed=0, repair="data-free")

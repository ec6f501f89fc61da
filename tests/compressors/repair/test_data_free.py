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


def test_copies_and_single_channels_need_no_correction(networks):
    model, x, groups = networks.resnet()
    model = model.double()
    networks.plant_copies(model, groups)
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


@pytest.mark.parametrize("name", ["lenet", "concatenated", "reused"])
def test_a_layer_without_a_norm_of_its_own_is_refused_by_name(networks, name):
    model, x, _ = networks.NETWORKS[name]()
    with pytest.raises(InputError, match="BatchNorm"):
        merge_channels(model, x, amount=0.5, seed=0, repair="data-free")


def test_a_norm_without_scale_is_refused():
    model = nn.Sequential(nn.Linear(10, 6), nn.BatchNorm1d(6, affine=False), nn.Linear(6, 2)).eval()
    with pytest.raises(InputError, match="scale"):
        merge_channels(model, torch.rand(2, 10), amount=0.5, seed=0, repair="data-free")

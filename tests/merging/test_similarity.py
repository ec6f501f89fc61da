import numpy as np
import pytest
import torch

from compressors.groups import find_groups
from merging.similarity import channel_gram


def _features(model, group):
    """One row per channel: all weights that make, normalise or read it."""
    state = {name: t.detach().double().numpy() for name, t in model.state_dict().items()}
    rows = []
    for channel in range(group.size):
        parts = []
        for layer in group.producers:
            parts.append(state[f"{layer}.weight"][channel].ravel())
            if f"{layer}.bias" in state:
                parts.append([state[f"{layer}.bias"][channel]])
        for layer, start in group.norms:
            parts += [[state[f"{layer}.{name}"][start + channel]] for name in ("weight", "bias")]
        for layer, start, often in group.readers:
            first = start + channel * often
            parts += [state[f"{layer}.weight"][:, p].ravel() for p in range(first, first + often)]
        rows.append(np.concatenate(parts))
    return np.array(rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["resnet", "lenet", "mlp", "concatenated", "reused", "tokens"])
def test_gram_is_the_product_of_the_feature_matrix(networks, name, dtype):
    model, x, groups = networks.NETWORKS[name]()
    model = model.to(dtype)
    expected = {g.name: _features(model, g) for g in groups}
    for group in find_groups(model, x.to(dtype)).groups:
        gram = channel_gram(model, group)
        features = expected[group.name]
        assert gram.dtype == torch.float64
        assert gram.shape == (group.size, group.size)
        tolerance = (1e-12 if dtype == torch.float64 else 1e-5) * (features**2).sum(1).max()
        np.testing.assert_allclose(gram, features @ features.T, rtol=0, atol=tolerance)


def test_running_statistics_are_no_features(networks):
    model, x, _ = networks.mlp()
    group = find_groups(model, x).groups[0]
    before = channel_gram(model, group)
    model[1].running_mean.add_(3)
    model[1].running_var.mul_(2)
    assert torch.equal(channel_gram(model, group), before)
    model[1].bias.data.add_(1)
    assert not torch.equal(channel_gram(model, group), before)


def test_gram_follows_the_order_of_channels(networks):
    model, x, _ = networks.mlp()
    group = find_groups(model, x).groups[0]
    before = channel_gram(model, group)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    state = model.state_dict()
    for name in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        state[name].copy_(state[name][order].clone())
    state["4.weight"].copy_(state["4.weight"][:, order].clone())
    torch.testing.assert_close(channel_gram(model, group), before[order][:, order])

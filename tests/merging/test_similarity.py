import numpy as np
import pytest
import torch

from compressors.groups import find_groups
from merging.similarity import activation_grams, channel_gram
from population.errors import InputError


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


def _inputs_read(model, reader, batches):
    """What a layer reads of all batches, one row per channel, and a column per image and position."""
    seen = []
    handle = model.get_submodule(reader).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    channel_axis = -1 if isinstance(model.get_submodule(reader), torch.nn.Linear) else 1
    return np.concatenate([s.moveaxis(channel_axis, 0).flatten(1).double().numpy() for s in seen], axis=1)


def _batches_like(x, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand((n, *x.shape[1:]), generator=generator, dtype=x.dtype) for n in (5, 1, 3)]


@pytest.mark.parametrize("name", ["resnet", "lenet", "mlp", "concatenated", "reused", "tokens"])
def test_activation_grams_are_covariances_of_what_is_read(networks, name):
    model, x, groups = networks.NETWORKS[name]()
    batches = _batches_like(x)
    grams = activation_grams(model, find_groups(model, x).groups, batches)
    assert set(grams) == {g.name for g in groups}
    for group in groups:
        expected = np.zeros((group.size, group.size))
        for layer, start, often in group.readers:
            values = _inputs_read(model, layer, batches)
            for j in range(often):
                rows = values[start + j : start + group.size * often : often]
                expected += np.cov(rows, bias=True)
        gram = grams[group.name]
        assert gram.dtype == torch.float64
        np.testing.assert_allclose(gram, expected, rtol=0, atol=1e-5 * np.diag(expected).max())


def test_activation_grams_bear_a_large_mean():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).eval()
    x = torch.rand(6, 3)
    groups = find_groups(model, x).groups
    before = activation_grams(model, groups, [x])["0"]
    model[0].bias.data += 1000
    after = activation_grams(model, groups, [x[:1], x[1:]])["0"]
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-4)


def test_activation_grams_do_not_depend_on_the_batches_and_leave_the_model_alone(networks):
    model, x, _ = networks.resnet()
    groups = find_groups(model, x).groups
    inputs = torch.rand(6, *x.shape[1:], generator=torch.Generator().manual_seed(1))
    model.train()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    whole = activation_grams(model, groups, [inputs])
    parts = activation_grams(model, groups, [inputs[:1], inputs[1:4], inputs[4:]])
    for name, gram in whole.items():
        torch.testing.assert_close(gram, parts[name], rtol=1e-4, atol=1e-6)
    assert model.training
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    assert not any(m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("calibration", "message"),
    [
        (None, "calibration"),
        ([], "calibration is empty"),
        (["no tensor"], "not str"),
        ([torch.rand(2, 7)], "does not accept a calibration batch"),
        ([torch.full((2, 5), torch.nan)], "NaN or infinite"),
    ],
)
def test_bad_calibration_has_a_clear_error(networks, calibration, message):
    model, x, _ = networks.mlp()
    groups = find_groups(model, x).groups
    with pytest.raises(InputError, match=message):
        activation_grams(model, groups, calibration)


def test_a_layer_that_is_not_called_has_a_clear_error():
    class Functional(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)

        def forward(self, x):
            return torch.nn.functional.linear(self.a(x).relu(), self.b.weight, self.b.bias)

    x = torch.rand(2, 3)
    model = Functional().eval()
    with pytest.raises(InputError, match=r"'b' was not called"):
        activation_grams(model, find_groups(model, x).groups, [x])


def test_weights_too_large_to_compare_have_a_clear_error(networks):
    model, x, _ = networks.mlp()
    model[0].weight.data[0, 0] = 1e30
    with pytest.raises(InputError, match="too large"):
        channel_gram(model, find_groups(model, x).groups[0])

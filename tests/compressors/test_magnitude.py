import copy

import pytest
import torch
import torch.nn.utils.prune
from torch import nn

from compressors import prune_weights
from population.errors import InputError


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9])
def test_global_pruning_is_torchs(networks, amount):
    model, x, _ = networks.resnet()
    expected = copy.deepcopy(model)
    layers = [m for m in expected.modules() if isinstance(m, (nn.Conv2d, nn.Linear))][:-1]
    pairs = [(layer, "weight") for layer in layers]
    torch.nn.utils.prune.global_unstructured(
        pairs, pruning_method=torch.nn.utils.prune.L1Unstructured, amount=amount
    )
    for layer in layers:
        torch.nn.utils.prune.remove(layer, "weight")
    result = prune_weights(model, x, amount=amount, seed=0)
    assert len(pairs) == 20
    got = dict(result.model.named_parameters())
    assert got.keys() == dict(expected.named_parameters()).keys()
    assert all(torch.equal(p, got[n]) for n, p in expected.named_parameters())
    n = sum(layer.weight.numel() for layer in layers)
    assert result.cost.before.params - result.cost.after.params == round(amount * n)
    assert result.cost.achieved == pytest.approx(round(amount * n) / n)
    assert result.cost.after.bytes == result.cost.before.bytes


@pytest.mark.parametrize("amount", [0.3, 0.5])
def test_pruning_by_layer_is_torchs(networks, amount):
    model, x, _ = networks.lenet()
    expected = copy.deepcopy(model)
    for layer in (expected[0], expected[3], expected[6]):
        torch.nn.utils.prune.l1_unstructured(layer, "weight", amount)
    small = prune_weights(model, x, amount=amount, seed=0, scope="layer").model
    for i in (0, 3, 6):
        assert torch.equal(small[i].weight, expected[i].weight)
    assert torch.equal(small[8].weight, model[8].weight)


def _hand():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0], [3.0, -4.0]]))
        model[2].weight.copy_(torch.tensor([[-10.0, 20.0], [-30.0, 40.0]]))
        model[4].weight.copy_(torch.tensor([[0.1, 0.1]]))
    return model


def test_hand_worked_global_and_layer_pruning():
    model = _hand()
    small = prune_weights(model, amount=0.5, seed=0).model
    assert small[0].weight.tolist() == [[0, 0], [0, 0]]
    assert torch.equal(small[2].weight, model[2].weight)
    small = prune_weights(model, amount=0.5, seed=0, scope="layer").model
    assert small[0].weight.tolist() == [[0, 0], [3, -4]]
    assert small[2].weight.tolist() == [[0, 0], [-30, 40]]
    assert torch.equal(small[4].weight, model[4].weight)  # the classifier
    assert torch.equal(small[0].bias, model[0].bias)


def test_equal_magnitudes_lose_the_earlier_weight():
    model = _hand()
    nn.init.ones_(model[0].weight)
    model[0].weight.data[0, 0] = -1
    nn.init.ones_(model[2].weight)
    small = prune_weights(model, amount=0.25, seed=0).model
    assert small[0].weight.tolist() == [[0, 0], [1, 1]]
    assert small[2].weight.tolist() == [[1, 1], [1, 1]]


def test_without_an_example_operations_are_unknown():
    cost = prune_weights(_hand(), amount=0.5, seed=0).cost
    assert cost.before.macs is None
    assert cost.after.macs is None
    assert (cost.before.params, cost.after.params) == (15, 11)


def test_a_weight_that_two_layers_share_is_pruned_once():
    model = _hand()
    model[2].weight = model[0].weight
    result = prune_weights(model, torch.rand(1, 2), amount=0.5, seed=0)
    assert result.model[2].weight is result.model[0].weight
    assert result.model[0].weight.tolist() == [[0, 0], [3, -4]]
    assert (result.cost.before.params, result.cost.after.params) == (11, 9)
    dense = prune_weights(model, torch.rand(1, 2), amount=0, seed=0)
    assert dense.cost.after == dense.cost.before


def test_what_cannot_be_pruned_is_refused():
    with pytest.raises(InputError, match="before its classifier"):
        prune_weights(nn.Sequential(nn.Linear(3, 2)), amount=0.5, seed=0)
    with pytest.raises(InputError, match="before its classifier"):
        prune_weights(nn.Sequential(nn.ReLU()), amount=0.5, seed=0)
    with pytest.raises(InputError, match="layer"):
        prune_weights(_hand(), amount=0.5, seed=0, scope="layr")
    parametrized = _hand()
    nn.utils.parametrizations.weight_norm(parametrized[0])
    with pytest.raises(InputError, match=r"0\.weight"):
        prune_weights(parametrized, amount=0.5, seed=0)

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from compressors import Budget, prune_filters
from compressors.allocation import allocate
from compressors.exactness import leave_inexact_dense
from compressors.groups import find_groups
from compressors.parts import divide
from compressors.sizes import Sizes, measure_sizes
from merging import merge_channels
from population.errors import InputError

NAMES = ("resnet", "lenet", "mlp", "concatenated", "reused", "two_outputs", "tokens")
HARD = ("depthwise", "grouped", "transposed", "concatenated and flattened", "squeeze and excitation")
METHODS = {"merge": merge_channels, "filters": prune_filters}
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture
def build(networks, hard_networks):
    """A network by its name, and inputs."""

    def by_name(name):
        if name in NAMES:
            return networks.NETWORKS[name](seed=2)[:2]
        network, x = hard_networks.HARD[name]
        torch.manual_seed(0)
        return network().eval(), x

    return by_name


def _left(cost, spend):
    return getattr(cost.after, spend) / getattr(cost.before, spend)


def _counts(result):
    return {g.name: g.channels_after for g in result.cost.groups}


@pytest.mark.parametrize("spend", ["params", "macs"])
@pytest.mark.parametrize("name", [*NAMES, *HARD])
def test_sizes_are_those_of_the_compressed_network(build, name, spend):
    model, x = build(name)
    groups = leave_inexact_dense(model, find_groups(model, x), x).groups
    parts = [part for group in groups for part in divide(group, 1)]
    sizes = measure_sizes(model, x, parts, spend)
    amounts = dict(zip((g.name for g in groups), itertools.cycle([0.5, 0.25, 0.75]), strict=False))
    cost = prune_filters(model, x, amount=0.0, seed=0, budget=Budget(amounts=amounts)).cost
    kept = np.array([max(1, round(p.size * (1 - amounts[p.group.name]))) for p in parts])
    assert sizes.total(np.array([p.size for p in parts])) == pytest.approx(getattr(cost.before, spend))
    assert sizes.total(kept) == pytest.approx(getattr(cost.after, spend))
    assert cost.after.params < cost.before.params


def test_savings_are_the_slope_of_the_total(build):
    model, x = build("resnet")
    parts = [part for group in find_groups(model, x).groups for part in divide(group, 1)]
    sizes = measure_sizes(model, x, parts, "params")
    kept = np.array([part.size // 2 + 1 for part in parts])
    step = 1e-4 * np.eye(len(parts))
    slopes = [(sizes.total(kept + s) - sizes.total(kept - s)) / 2e-4 for s in step]
    assert sizes.savings(kept) == pytest.approx(slopes, rel=1e-6)


def _random_problem(rng):
    """Three parts that meet each other in two weights, and convex errors."""
    n = rng.integers(3, 7, 3)
    weights = rng.integers(2, 9, 2).astype(float) * [n[0] * n[1], n[1] * n[2]]
    positions = np.zeros((4, 3))
    positions[[0, 1, 2, 3], [0, 1, 1, 2]] = 1
    lengths = n[[0, 1, 1, 2]].astype(float)
    sizes = Sizes(7.0, weights, np.array([0, 0, 1, 1]), lengths, np.zeros(4), positions)
    errors = [np.append(np.cumsum(np.sort(rng.random(k - 1)))[::-1], 0.0) for k in n]
    return [np.arange(k, 0, -1) for k in n], errors, sizes


def test_the_allocation_is_near_the_best_of_all():
    rng = np.random.default_rng(0)
    excess = []
    for _ in range(40):
        levels, errors, sizes = _random_problem(rng)
        limit = 7.0 + (sizes.total(np.array([k[0] for k in levels])) - 7.0) * rng.uniform(0.3, 0.9)
        kept = allocate(levels, errors, sizes, limit=limit)

        def error(k, errors=errors):
            return sum(e[i - 1] for e, i in zip(errors, k, strict=True))

        possible = [k for k in itertools.product(*levels) if sizes.total(np.array(k)) <= limit]
        assert tuple(kept) in possible
        for p in np.eye(3, dtype=int):  # nothing more fits
            assert (kept + p > [k[0] for k in levels]).any() or sizes.total(kept + p) > limit
        excess.append(error(kept) / max(min(map(error, possible)), 1e-9))
    assert np.median(excess) < 1.1
    assert max(excess) < 2.5


def test_an_allocation_by_hand():
    # Two independent parts of three channels; a channel takes 2 in the first and 1 in the second.
    sizes = Sizes(0.0, np.array([6.0, 3.0]), np.arange(2), np.array([3.0, 3.0]), np.zeros(2), np.eye(2))
    levels = [np.array([3, 2, 1])] * 2
    errors = [np.array([1.0, 0.4, 0.0]), np.array([0.9, 0.3, 0.0])]  # per unit saved .2, .3 | .3, .6
    assert allocate(levels, errors, sizes, limit=9).tolist() == [3, 3]
    assert allocate(levels, errors, sizes, limit=7).tolist() == [2, 3]
    assert allocate(levels, errors, sizes, limit=5).tolist() == [1, 3]
    assert allocate(levels, errors, sizes, limit=4).tolist() == [1, 2]
    # A dear step opens a free one: both of the second part cost 1, one of the first 1.2.
    errors = [np.array([2.6, 1.2, 0.0]), np.array([1.0, 1.0, 0.0])]
    assert allocate(levels, errors, sizes, limit=7).tolist() == [3, 1]


@pytest.mark.parametrize("spend", ["params", "macs"])
@pytest.mark.parametrize("name", ["resnet", "concatenated", "grouped", "multihead attention"])
@every_method
def test_the_target_is_met_and_no_group_could_keep_more(build, method, name, spend):
    model, x = build(name)
    result = METHODS[method](model, x, amount=0.4, seed=0, budget=spend)
    assert _left(result.cost, spend) <= 0.6
    counts, sizes = _counts(result), {g.name: g.channels_before for g in result.cost.groups}
    assert result.cost.requested == 0.4
    assert result.cost.achieved == pytest.approx(1 - _left(result.cost, spend))
    for group in result.cost.groups:
        assert group.requested == group.achieved == pytest.approx(1 - counts[group.name] / sizes[group.name])
    blocks = {g.name: len(np.unique(g.blocks)) for g in find_groups(model, x).groups}
    if (name, spend) == ("multihead attention", "macs"):
        return  # its operations are known in advance only about
    for name, count in counts.items():
        if count < sizes[name]:
            more = {n: 1 - (k + blocks[n] * (n == name)) / sizes[n] for n, k in counts.items()}
            one = prune_filters(model, x, amount=0.0, seed=0, budget=Budget(amounts=more))
            assert _left(one.cost, spend) > 0.6


@every_method
def test_a_budget_is_spent_where_nothing_is_lost(networks, method):
    model, x, groups = networks.resnet(seed=1, width=8)
    chosen = [g for g in groups if g.name in ("encoder.layer3.1.conv1", "encoder.layer4.1.conv1")]
    for coupled in chosen:  # half of the channels do nothing
        conv, norm = (model.get_submodule(layer) for layer in (coupled.producers[0], coupled.norms[0][0]))
        half = coupled.size // 2
        for tensor in (conv.weight, norm.weight, norm.bias):
            tensor.data[half:] = 0
        reader = model.get_submodule(coupled.readers[0][0])
        reader.weight.data[:, half:] = 0
    dense = networks.outputs(model, x)
    even = METHODS[method](model, x, amount=0.15, seed=0)
    small = METHODS[method](model, x, amount=1 - _left(even.cost, "params"), seed=0, budget="params")
    # What may be lost beyond the useless channels is little, and far less than a uniform budget loses.
    errors = [networks.relative_error(networks.outputs(r.model, x), dense) for r in (even, small)]
    assert errors[1] < 0.5 * errors[0]
    lost = {g.name: g.achieved for g in small.cost.groups}
    assert sorted(lost, key=lost.get)[-2:] == sorted((g.name for g in chosen), key=lost.get)


@every_method
def test_single_groups_may_be_set_and_skipped(networks, method):
    model, x, _ = networks.lenet()
    budget = Budget(amounts={"0": 0.5}, skip=["6"])
    result = METHODS[method](model, x, amount=0.25, seed=0, budget=budget)
    assert _counts(result) == {"0": 3, "3": 6}
    assert {g.name: g.requested for g in result.cost.groups} == {"0": 0.5, "3": 0.25}
    assert result.cost.left_dense["6"] == "it is skipped by the budget"
    assert torch.equal(result.model[6].bias, model[6].bias)
    plain = METHODS[method](model, x, amount=0.25, seed=0)
    assert np.array_equal(result.plan.clusters["3"], plain.plan.clusters["3"])
    # What is set by hand is taken off the target for the others.
    budget = Budget("params", amounts={"0": 0.5}, skip=["8"])
    result = METHODS[method](model, x, amount=0.4, seed=0, budget=budget)
    assert _counts(result)["0"] == 3
    assert 0.5 < _left(result.cost, "params") <= 0.6


def test_groups_in_attention_heads_are_skipped_one_by_one(build):
    model, x = build("multihead attention")
    result = prune_filters(model, x, amount=0.5, seed=0, budget=Budget(skip=["m.query_key"]))
    assert "m.value" in _counts(result)
    assert "m.query_key" not in _counts(result)
    assert result.cost.left_dense["m.query_key"] == "it is skipped by the budget"
    assert "m.in_proj_weight" not in result.cost.left_dense


@pytest.mark.parametrize(
    ("size", "amount", "multiple", "kept"),
    [
        (20, 0.0, 8, 20), (20, 0.1, 8, 16), (20, 0.5, 8, 8), (20, 0.99, 8, 8), (24, 0.1, 8, 24),
        (30, 0.03, 8, 30), (6, 0.5, 8, 6), (12, 0.5, 1, 6), (12, 0.4, 4, 8), (8, 0.5, 8, 8), (1, 0.9, 4, 1),
    ],
)  # fmt: skip
def test_channels_are_a_multiple(size, amount, multiple, kept):
    model = nn.Sequential(nn.Linear(3, size), nn.ReLU(), nn.Linear(size, 5), nn.ReLU(), nn.Linear(5, 2))
    budget = Budget(multiple=multiple, skip=["2"])
    result = prune_filters(model, torch.rand(2, 3), amount=amount, seed=0, budget=budget)
    assert len(result.model[0].weight) == kept


@pytest.mark.parametrize("spend", ["uniform", "params", "macs"])
@every_method
def test_multiples_hold_under_every_budget(networks, method, spend):
    model, x, _ = networks.resnet(width=8)
    budget = Budget(spend, multiple=4)
    result = METHODS[method](model, x, amount=0.45, seed=0, budget=budget)
    counts = _counts(result)
    assert all(k % 4 == 0 for k in counts.values())
    assert len(set(counts.values())) > 2
    if spend != "uniform":
        assert _left(result.cost, spend) <= 0.55


def test_blocks_of_one_layer_reach_the_multiple_together(build):
    model, x = build("grouped")  # eight channels that two groups of a convolution read
    result = prune_filters(model, x, amount=0.5, seed=0, budget=Budget(multiple=4))
    clusters = result.plan.clusters["0"]
    assert [int((clusters[b] >= 0).sum()) for b in (slice(0, 4), slice(4, 8))] == [2, 2]


@pytest.mark.parametrize("spend", ["params", "macs"])
@every_method
def test_no_amount_changes_nothing_and_equal_seeds_give_equal_clusters(networks, method, spend):
    model, x, groups = networks.resnet()
    none = METHODS[method](model, x, amount=0.0, seed=0, budget=spend)
    assert _counts(none) == {g.name: g.size for g in groups}
    assert none.cost.after == none.cost.before
    first, again = (METHODS[method](model, x, amount=0.5, seed=3, budget=spend) for _ in range(2))
    assert all(np.array_equal(c, again.plan.clusters[n]) for n, c in first.plan.clusters.items())


BAD_BUDGETS = {
    "unknown word": ({"spend": "flops"}, r"unknown budget 'flops'.*macs, params, uniform"),
    "amount 1": ({"amounts": {"0": 1.0}}, r"amount of '0' must be in \[0, 1\), not 1.0"),
    "amount NaN": ({"amounts": {"0": float("nan")}}, "amount of '0'"),
    "multiple 0": ({"multiple": 0}, "multiple must be a whole number from 1, not 0"),
    "multiple 1.5": ({"multiple": 1.5}, "multiple must be a whole number"),
    "skip is a word": ({"skip": "0"}, "skip must be a collection of names"),
    "both": ({"skip": ["0"], "amounts": {"0": 0.5}}, "both skips '0'"),
}


@pytest.mark.parametrize("case", BAD_BUDGETS)
def test_bad_budgets_are_input_errors(case):
    arguments, message = BAD_BUDGETS[case]
    with pytest.raises(InputError, match=message):
        Budget(**arguments)


UNFIT_BUDGETS = {
    "unknown group": (Budget(amounts={"33": 0.5}), r"unknown group.*did you mean '3'.*allowed: 0, 3, 6"),
    "unknown skip": (Budget(skip=["conv1"]), "unknown group in the budget 'conv1'"),
    "left dense": (Budget(amounts={"8": 0.5}), "'8', which stays dense: "),
    "too much": (Budget("params", skip=["6"]), r"at most 0\.\d+ of the params can be removed"),
    "too much at once": (Budget("macs", multiple=4), r"at most 0\.\d+ of the macs can be removed"),
}


@pytest.mark.parametrize("case", UNFIT_BUDGETS)
@every_method
def test_budgets_that_do_not_fit_the_model_are_input_errors(networks, method, case):
    model, x, _ = networks.lenet()
    budget, message = UNFIT_BUDGETS[case]
    with pytest.raises(InputError, match=message) as error:
        METHODS[method](model, x, amount=0.95, seed=0, budget=budget)
    assert "\n" not in str(error.value)


def test_what_can_be_removed_can_be_removed(networks):
    model, x, _ = networks.lenet()
    with pytest.raises(InputError) as error:
        prune_filters(model, x, amount=0.999, seed=0, budget="params")
    most = float(str(error.value).split()[2])
    result = prune_filters(model, x, amount=most, seed=0, budget="params")
    assert set(_counts(result).values()) == {1}


def test_a_layer_of_a_group_is_told_its_group(networks):
    model, x, _ = networks.resnet()
    budget = Budget(amounts={"encoder.layer1.0.conv2": 0.5})
    with pytest.raises(InputError, match=r"belong to the group 'encoder\.conv1'"):
        prune_filters(model, x, amount=0.5, seed=0, budget=budget)


@every_method
def test_single_channels_leave_nothing_to_merge(method):
    narrow = nn.Sequential(nn.Linear(3, 1), nn.ReLU(), nn.Linear(1, 2))
    x = torch.rand(2, 3)
    with pytest.raises(InputError, match="nothing to merge or remove: 0 has a single channel"):
        METHODS[method](narrow, x, amount=0.5, seed=0)
    assert METHODS[method](narrow, x, amount=0.0, seed=0).cost.left_dense["0"] == "it has a single channel"
    model = nn.Sequential(narrow[0], nn.ReLU(), nn.Linear(1, 4), nn.ReLU(), nn.Linear(4, 2))
    assert _counts(METHODS[method](model, x, amount=0.5, seed=0)) == {"2": 2}

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import nn

from compressors import CompressionPlan, apply_plan, prune_filters
from compressors.apply import gather_columns, spread_columns
from compressors.contract import model_digest
from compressors.exactness import leave_inexact_dense
from compressors.groups import find_groups
from merging import merge_channels
from population.errors import InputError

NAMES = ("resnet", "lenet", "mlp", "concatenated", "reused", "two_outputs", "tokens")
MIXING = (
    "softmax", "layer norm", "layer norm without scale", "group norm without scale", "length one",
    "minus their mean", "reversed", "times fixed numbers", "an output too", "hard-coded size",
    "added to the input",
)  # fmt: skip
HARD = (
    "depthwise", "grouped", "layer norm", "group norm", "instance norm", "transposed", "multihead attention",
    "attention", "permuted and flattened", "concatenated and flattened", "concatenated and added",
    "concatenated with itself", "halves", "shuffled", "pixels shuffled", "squeeze and excitation",
    "outer product", "tied", "one layer, two names", "slope per channel", "weight norm", "unused layer",
    "recurrent",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_groups_are_those_written_down_by_hand(networks, name):
    model, x, expected = networks.NETWORKS[name]()
    found = {g.name: g for g in find_groups(model, x).groups}
    assert {n: g.size for n, g in found.items()} == {g.name: g.size for g in expected}
    for group in expected:
        assert set(found[group.name].producers) == {f"{layer}.weight" for layer in group.producers}
        places = {}
        for layer in group.producers:
            places[f"{layer}.weight", "out"] = dict(enumerate(range(group.size)))
            if model.get_submodule(layer).bias is not None:
                places[f"{layer}.bias", "out"] = dict(enumerate(range(group.size)))
        for layer, start in group.norms:
            for tensor in ("weight", "bias", "running_mean", "running_var"):
                places[f"{layer}.{tensor}", "out"] = {start + c: c for c in range(group.size)}
        for layer, start, often in group.readers:
            columns = {start + c * often + j: c for c in range(group.size) for j in range(often)}
            places[f"{layer}.weight", "in"] = columns
        got = {
            (s.tensor, s.role): dict(zip(s.positions.tolist(), s.channels.tolist(), strict=True))
            for s in found[group.name].slices
        }
        assert got == places


def test_norms_name_the_one_layer_whose_outputs_they_see(networks):
    model, x, _ = networks.resnet()
    group = next(g for g in find_groups(model, x).groups if g.name == "encoder.conv1")
    assert dict(group.norms) == {
        "encoder.bn1": "encoder.conv1.weight",
        "encoder.layer1.0.bn2": "encoder.layer1.0.conv2.weight",
        "encoder.layer1.1.bn2": "encoder.layer1.1.conv2.weight",
    }
    model, x, _ = networks.concatenated()
    assert {g.name: dict(g.norms) for g in find_groups(model, x).groups} == {
        "a": {"norm": None},
        "b": {"norm": None},
        "c": {},
    }


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_left_dense_with_the_reason(networks, name):
    model, x, groups = networks.NETWORKS[name]()
    search = find_groups(model, x)
    assert not set(search.left_dense) & {layer for g in groups for layer in g.producers}
    last = list(dict(model.named_modules()))[-1]
    assert "outputs" in search.left_dense[last]


def test_search_changes_nothing(networks):
    model, x, _ = networks.resnet()
    model.train()
    model.encoder.bn1.eval()
    model.head.requires_grad_(False)
    flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    find_groups(model, x)
    assert flags == ([m.training for m in model.modules()], [p.requires_grad for p in model.parameters()])
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("compress", [merge_channels, prune_filters])
@pytest.mark.parametrize("name", MIXING)
def test_channels_that_are_mixed_are_left_dense(networks, hard_networks, name, compress):
    build, x = hard_networks.MIXING[name]
    model = networks.randomize(build(), 0)
    result = compress(model, x, amount=0.5, seed=0)
    assert result.cost.left_dense["a"]
    assert "a" not in {g.name for g in result.cost.groups}
    assert torch.equal(networks.outputs(result.model, x), networks.outputs(model, x))


@pytest.mark.parametrize("name", HARD)
def test_hard_networks_merge_copies_exactly_or_stay_dense(networks, hard_networks, name):
    """Copies are planted for the very clusters of the merge; whatever is merged must change no output."""
    build, x = hard_networks.HARD[name]
    model = networks.randomize(build(), 0).double()
    x = x.double()
    result = merge_channels(model, x, amount=0.5, seed=0)
    groups = {g.name: g for g in find_groups(model, x).groups}
    state = model.state_dict()
    for group, clusters in result.plan.clusters.items():
        for piece in groups[group].slices:
            if piece.role == "in":
                continue
            rows = state[piece.tensor].moveaxis(piece.axis, 0)
            for position, channel in zip(piece.positions, piece.channels, strict=True):
                twins = piece.positions[clusters[piece.channels] == clusters[channel]]
                rows[position] = rows[twins[0]]
    plan = CompressionPlan("merge", model_digest(model), result.plan.clusters)
    small = apply_plan(model, plan, x)
    assert networks.relative_error(networks.outputs(small, x), networks.outputs(model, x)) < 1e-12
    layers = {
        n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
    }
    grouped = {p.removesuffix(".weight") for g in result.plan.clusters for p in groups[g].producers}
    assert layers <= grouped | set(result.cost.left_dense)
    assert all(result.cost.left_dense.values())


@pytest.mark.parametrize("name", HARD)
def test_hard_networks_lose_filters_exactly_or_stay_dense(networks, hard_networks, name):
    """Filters and the columns that read them are planted as zeros; to remove them must change no output."""
    build, x = hard_networks.HARD[name]
    model = networks.randomize(build(), 0).double()
    x = x.double()
    plan = prune_filters(model, x, amount=0.5, seed=0).plan
    state = model.state_dict()
    for group in find_groups(model, x).groups:
        for piece in group.slices if group.name in plan.clusters else ():
            gone = piece.positions[plan.clusters[group.name][piece.channels] < 0]
            if piece.role == "in":
                spread = spread_columns(state[piece.tensor], piece.conv_groups)
                spread.moveaxis(piece.axis, 0)[torch.from_numpy(gone)] = 0
                state[piece.tensor].copy_(gather_columns(spread, piece.conv_groups))
    small = apply_plan(model, CompressionPlan("filters", model_digest(model), plan.clusters), x)
    assert networks.relative_error(networks.outputs(small, x), networks.outputs(model, x)) < 1e-12


def test_what_can_be_merged_in_hard_networks_is_merged(networks, hard_networks):
    reached = {}
    for name in ("depthwise", "grouped", "group norm", "instance norm", "transposed", "unused layer"):
        build, x = hard_networks.HARD[name]
        cost = prune_filters(networks.randomize(build(), 0), x, amount=0.5, seed=0).cost
        reached[name] = {g.name: (g.channels_before, g.channels_after) for g in cost.groups}
    assert reached["depthwise"].items() >= {"6": (6, 3), "8": (4, 2)}.items()
    assert reached["grouped"].items() >= {"0": (8, 4), "2": (8, 4), "4": (6, 3)}.items()
    assert reached["group norm"].items() >= {"3": (6, 3)}.items()
    assert reached["instance norm"].items() >= {"a": (8, 4), "mid": (6, 3)}.items()
    assert reached["transposed"].items() >= {"4": (4, 2)}.items()
    assert reached["unused layer"] == {"a": (8, 4)}


def test_channels_of_a_grouped_convolution_stay_in_their_group(networks):
    """Two groups as two convolutions side by side: the same outputs after any merge."""
    conv = networks.conv
    model = networks.randomize(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6, groups=2), conv(6, 3)), 0)
    x = networks.inputs(2, 3, 8, 8)
    groups = {g.name: g for g in find_groups(model, x).groups}
    assert groups["0"].blocks.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert groups["2"].blocks.tolist() == [0, 0, 0, 1, 1, 1]
    clusters = {"0": np.array([0, 1, 0, -1, 2, 2, 3, 2]), "2": np.array([0, 1, 0, 2, 3, 3])}
    small = apply_plan(model, CompressionPlan("by hand", model_digest(model), clusters), x)
    assert (small[2].groups, tuple(small[2].weight.shape)) == (2, (4, 2, 3, 3))
    with torch.no_grad():
        y = model[0](x)
        y = torch.stack([y[:, [0, 2]].mean(1), y[:, 1], y[:, [4, 5, 7]].mean(1), y[:, 6]], 1).relu()
        first, second = model[2].weight[:3], model[2].weight[3:]
        first = torch.stack([first[:, [0, 2]].sum(1), first[:, 1]], 1)
        second = torch.stack([second[:, [0, 1, 3]].sum(1), second[:, 2]], 1)
        z = [F.conv2d(y[:, :2], first, padding=1), F.conv2d(y[:, 2:], second, padding=1)]
        z = torch.cat(z, 1) + model[2].bias[:, None, None]
        z = torch.stack([z[:, [0, 2]].mean(1), z[:, 1], z[:, 3], z[:, [4, 5]].mean(1)], 1)
        last = model[3].weight
        last = torch.stack([last[:, [0, 2]].sum(1), last[:, 1], last[:, 3], last[:, [4, 5]].sum(1)], 1)
        expected = F.conv2d(z, last, model[3].bias, padding=1)
        assert networks.relative_error(small(x), expected) < 1e-5


def _read_twice(net, x):
    y = net.a(x).relu()
    return net.head(torch.cat([net.b(y), net.c(y)], 1))


def test_convolutions_whose_groups_would_become_unequal_are_left_dense(networks):
    conv, net = networks.conv, networks.Net
    x = networks.inputs(2, 3, 8, 8)

    def reason(model, layer):
        search = find_groups(model, x)
        assert leave_inexact_dense(model, search, x) is search
        return search.left_dense[layer]

    multiplied = nn.Sequential(conv(3, 4), conv(4, 8, groups=4), conv(8, 3))
    assert reason(multiplied, "0") == "none of its channels can be merged with another"
    # Of 12 channels one convolution reads groups of 6, the other of 4: parts of 4, 2, 2 and 4.
    crossed = net(
        _read_twice, a=conv(3, 12), b=conv(12, 8, groups=2), c=conv(12, 9, groups=3), head=conv(17, 3)
    )
    assert "unequal" in reason(crossed, "a")
    shared = net(
        lambda net, x: net.head(net.c(torch.cat([net.a(x), net.b(x)], 1))),
        a=conv(3, 4), b=conv(3, 4), c=conv(8, 8, groups=2), head=conv(8, 3),
    )  # fmt: skip
    assert "share" in reason(shared, "a")
    transposed = nn.Sequential(conv(3, 8), nn.ConvTranspose2d(8, 4, 2, groups=2), conv(4, 3))
    assert "transposed" in reason(transposed, "0")


def test_a_channel_of_a_flattened_map_has_a_position_per_pixel(networks):
    model, x, _ = networks.lenet()
    piece = next(
        s for g in find_groups(model, x).groups for s in g.slices if s.tensor == "6.weight" and s.role == "in"
    )
    assert piece.positions.tolist() == list(range(32))
    assert piece.channels.tolist() == np.repeat(np.arange(8), 4).tolist()


@pytest.mark.parametrize("shape", [(2, 4, 8, 8), (2, 3, 8), (0, 3, 8, 8), ()])
def test_inputs_that_the_model_does_not_accept(networks, shape):
    model, _, _ = networks.lenet()
    with pytest.raises(InputError):
        find_groups(model, torch.zeros(shape))


def test_inputs_that_are_no_tensor(networks):
    model, _, _ = networks.lenet()
    with pytest.raises(InputError, match="tensor"):
        find_groups(model, None)


def test_a_model_under_torch_pruning_masks_is_refused_with_the_reason():
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    with pytest.raises(InputError, match="copied"):
        find_groups(model, torch.rand(2, 5))


@pytest.mark.parametrize(
    "error", [KeyError("key"), AttributeError("name"), AssertionError(), ZeroDivisionError()]
)
def test_a_model_whose_code_fails_is_refused(networks, error):
    def fail(net, x):
        raise error

    with pytest.raises(InputError, match="does not accept the example inputs"):
        find_groups(networks.Net(fail, a=nn.Linear(3, 2)), torch.rand(2, 3))

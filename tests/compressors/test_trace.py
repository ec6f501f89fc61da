import itertools
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors.contract import ChannelGroup
from compressors.exactness import is_exact, leave_inexact_dense
from compressors.groups import GroupSearch, find_groups
from merging import merge_channels


def cifar_resnet(networks: ModuleType, *, inline: bool) -> nn.Module:
    """Stages of 4, 8 and 16 channels; the padding is a module of its own or inside the block."""
    widths = [4, 4, 8, 8, 16, 16]
    blocks = [networks.CifarBlock(a, b, b // a, as_module=not inline) for a, b in itertools.pairwise(widths)]
    return networks.Net(
        lambda net, x: net.linear(net.blocks(F.relu(net.bn1(net.conv1(x)))).mean((2, 3))),
        conv1=networks.conv(3, 4, bias=False), bn1=nn.BatchNorm2d(4), blocks=nn.Sequential(*blocks),
        linear=nn.Linear(16, 5),
    )  # fmt: skip


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.5 + 0.1 * ("var" in name))
    return model.eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def stream(search: GroupSearch) -> ChannelGroup:
    return next(group for group in search.groups if group.name == "conv1")


@pytest.mark.parametrize("inline", [False, True])
def test_a_stream_through_zero_padding_is_one_group_with_the_true_offsets(
    networks: ModuleType, images: Tensor, inline: bool
) -> None:
    group = stream(find_groups(cifar_resnet(networks, inline=inline).eval(), images))
    assert group.size == 16
    place = {
        piece.tensor: dict(zip(piece.channels.tolist(), piece.positions.tolist(), strict=True))
        for piece in group.slices
        if piece.role == "out" and piece.tensor.endswith("weight")
    }
    # Channel 0 of the first stage is channel 2 of the second and 6 of the third (2 and 4 zeros before).
    assert place["conv1.weight"][0] == 0
    assert place["blocks.1.conv2.weight"][0] == 2
    assert place["blocks.3.conv2.weight"][0] == 6
    # Zeros that a module of its own adds can become fewer; those inside a block's code cannot.
    expected = [0] * 4 + [-1] * 12 if inline else [0] * 4 + [1] * 4 + [2] * 8
    assert group.blocks.tolist() == expected


@pytest.mark.parametrize("inline", [False, True])
def test_zero_padding_is_exact_and_follows_the_channels(
    networks: ModuleType, images: Tensor, inline: bool
) -> None:
    model = randomised(cifar_resnet(networks, inline=inline))
    search = find_groups(model, images)
    assert leave_inexact_dense(model, search, images) is search
    result = merge_channels(model, images, amount=0.5, seed=0)
    assert {g.name: g.channels_after for g in result.cost.groups}["conv1"] == (8 if not inline else 14)
    assert result.model(images).shape == (2, 5)


def test_copies_planted_by_hand_in_a_padded_stream_fold_exactly(networks: ModuleType, images: Tensor) -> None:
    model = randomised(cifar_resnet(networks, inline=False))
    group = stream(find_groups(model, images))
    clusters = np.arange(16)
    for pair in ((0, 1), (4, 7), (8, 15), (9, 10)):  # within the first, second and third stage
        clusters[pair[1]] = clusters[pair[0]]
    assert is_exact(model, [group], {"conv1": np.unique(clusters, return_inverse=True)[1]}, images)
    clusters[4] = clusters[0]  # a channel of the second stage is none of the first: cannot be one
    assert not is_exact(model, [group], {"conv1": np.unique(clusters, return_inverse=True)[1]}, images)


class Branches(nn.Module):
    """Two convolutions side by side, read together, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.c = nn.Conv2d(10, 5, 1)
        self.fc = nn.Linear(5 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([self.a(x).relu(), self.b(x).sigmoid()], 1)
        return self.fc(F.adaptive_avg_pool2d(self.c(joined), 2).flatten(1))


def test_index_maps_of_concatenation_and_flattening(images: Tensor) -> None:
    groups = {g.name: g for g in find_groups(Branches().eval(), images).groups}
    assert set(groups) == {"a", "b", "c"}
    read = {(n, p.tensor): p for n, g in groups.items() for p in g.slices if p.role == "in"}
    assert read["a", "c.weight"].positions.tolist() == [0, 1, 2, 3]
    assert read["b", "c.weight"].positions.tolist() == [4, 5, 6, 7, 8, 9]
    assert read["c", "fc.weight"].channels.tolist() == np.repeat(np.arange(5), 4).tolist()


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: torch.cat(x.chunk(2, 1)[::-1], 1), "split at a fixed position"),
        (lambda x: x.view(len(x), 2, 4, 16, 16).transpose(1, 2).reshape(x.shape), "divided by a reshape"),
        (lambda x: x.softmax(1), "a softmax runs over its channels"),
        (lambda x: x.cumsum(1), "cumsum, which is not understood"),
        (lambda x: x * x.mean(1, keepdim=True), "mean runs over its channels"),
        (lambda x: x + torch.ones(1, 8, 1, 1), "meet inputs or constants"),
        (lambda x: F.group_norm(x, 2), "a norm takes statistics"),
    ],
)
def test_what_cannot_be_followed_is_left_dense_with_the_reason(
    images: Tensor, operation, reason: str
) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(operation(self.first(x)))

    found = find_groups(Net().eval(), images)
    assert not found.groups
    assert reason in found.left_dense["first"]

"""Networks that users bring: what of them is merged, that it is exact, and why the rest stays dense."""

import copy
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import ResNet, SwinTransformer, VisionTransformer
from torchvision.models.resnet import Bottleneck

from compressors import CompressionPlan
from compressors.apply import build_compressed
from compressors.groups import find_groups
from merging import merge_channels

OUTPUTS = "its channels are the model's outputs"
NORM = "a norm takes statistics over its channels"
UNUSED = "it is not used, or in a way that is not understood"
DIVIDED = "its channels are divided by a reshape"

# Per network the number of groups, and of layers left dense per reason.
EXPECTED = {
    "resnet18": (12, {OUTPUTS: 1}),
    "resnet50": (37, {OUTPUTS: 1}),
    "wide_resnet50_2": (17, {OUTPUTS: 1}),
    "resnext50_32x4d": (17, {OUTPUTS: 1}),
    "vgg11_bn": (10, {OUTPUTS: 1}),
    "vgg16": (15, {OUTPUTS: 1}),
    "mobilenet_v2": (25, {OUTPUTS: 1}),
    "mobilenet_v3_small": (27, {OUTPUTS: 1}),
    "efficientnet_b0": (40, {OUTPUTS: 1}),
    "densenet121": (120, {OUTPUTS: 1}),
    "googlenet": (57, {OUTPUTS: 1, UNUSED: 6}),  # the auxiliary heads
    "squeezenet1_1": (25, {OUTPUTS: 1}),
    "shufflenet_v2_x1_0": (18, {OUTPUTS: 1, DIVIDED: 21}),
    "regnet_y_400mf": (53, {OUTPUTS: 1}),
    "convnext_tiny": (18, {OUTPUTS: 1, NORM: 40}),
    "vit_b_16": (36, {OUTPUTS: 1, NORM: 25}),
    "swin_t": (6, {OUTPUTS: 1, NORM: 15, DIVIDED: 6}),
    "lenet5": (4, {OUTPUTS: 1}),
    "mlp": (2, {OUTPUTS: 1}),
    "two_outputs": (1, {OUTPUTS: 2}),
    "cats_and_skips": (4, {OUTPUTS: 2}),
    "cifar_resnet20": (10, {OUTPUTS: 1}),
    "cifar_resnet20_inline": (10, {OUTPUTS: 1}),
    "cifar_resnet20_trained": (10, {OUTPUTS: 1}),
    "cifar_resnet32": (16, {OUTPUTS: 1}),
    "cifar_resnet56": (28, {OUTPUTS: 1}),
}


def _torchvision(name):
    # The costliest are built with fewer blocks or narrower; all that makes them special stays.
    if name in {"wide_resnet50_2", "resnext50_32x4d"}:
        width, groups = (128, 1) if name == "wide_resnet50_2" else (4, 32)
        options = {"groups": groups, "width_per_group": width, "num_classes": 5}
        return ResNet(Bottleneck, [2, 1, 2, 1], **options)
    if name == "vit_b_16":
        return VisionTransformer(64, 16, 12, 12, 192, 384, num_classes=5)
    if name == "swin_t":
        return SwinTransformer([4, 4], 48, [2, 2, 2], [3, 6, 12], [7, 7], num_classes=5)
    extra = {"init_weights": False} if name in {"googlenet", "vgg11_bn", "vgg16"} else {}
    model = torchvision.models.get_model(name, num_classes=5, **extra)
    if name.startswith("vgg"):  # its classifier has 120 million weights
        dense = nn.Linear(512 * 7 * 7, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 48), nn.ReLU()
        model.classifier = nn.Sequential(*dense, nn.Linear(48, 5))
    return model


def _trained_resnet20(networks):
    if "PIE_TEST_DATA" not in os.environ:
        pytest.skip("PIE_TEST_DATA does not name a folder with trained weights")
    path = Path(os.environ["PIE_TEST_DATA"], "weights", "resnet20-12fca82f.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    model = networks.CifarResNet(20, as_module=True)
    model.load_state_dict({name.removeprefix("module."): tensor for name, tensor in state.items()})
    return model.eval()


@pytest.fixture(scope="module", params=EXPECTED)
def network(request, networks):
    """A network's name, itself with random numbers in eval mode, inputs, and its groups."""
    name = request.param
    if name in {"lenet5", "mlp", "two_outputs", "cats_and_skips"}:
        model, x = getattr(networks, name)()[:2]
    elif name == "cifar_resnet20_trained":
        model, x = _trained_resnet20(networks), networks.inputs(2, 3, 32, 32)
    elif name.startswith("cifar"):
        depth, _, inline = name.removeprefix("cifar_resnet").partition("_")
        model = networks.randomize(networks.CifarResNet(int(depth), as_module=not inline), 0)
        x = networks.inputs(2, 3, 16, 16)
    else:
        model, x = networks.randomize(_torchvision(name), 0), networks.inputs(1, 3, 64, 64)
    return name, model, x, find_groups(model, x).groups


@pytest.fixture(scope="module")
def folded(network, edits):
    """A network with copies in every group, their clusters, and what merging half of the channels gives."""
    _, model, x, groups = network
    planted = copy.deepcopy(model)
    clusters = edits.draw_clusters(groups, seed=0, kept=0.5)
    edits.plant_clusters(planted, groups, clusters)
    with torch.no_grad():
        for parameter in planted.parameters():
            if parameter.dim() > 1:  # sums over pairs of equal terms are larger than over independent ones
                parameter *= 0.5**0.5
    return planted, clusters, merge_channels(planted, x, amount=0.5, seed=0)


def test_every_layer_is_in_a_group_or_has_the_reason_why_not(network, folded):
    name, model, _, groups = network
    cost = folded[2].cost
    assert (len(cost.groups), Counter(cost.left_dense.values())) == EXPECTED[name]
    makers = {weight.removesuffix(".weight") for group in groups for weight in group.producers}
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    assert layers <= makers | cost.left_dense.keys()


def test_copies_in_every_group_fold_without_loss(network, folded, networks):
    _, _, x, groups = network
    planted, clusters, result = folded
    assert len(groups) == len(result.plan.clusters)
    for group, expected in clusters.items():
        got = result.plan.clusters[group]
        assert np.array_equal(got[:, None] == got, expected[:, None] == expected), group
    dense = networks.outputs(planted, x)
    assert networks.relative_error(networks.outputs(result.model, x), dense) < 1e-5


def test_any_merge_is_its_simulation_in_a_network_of_dense_shapes(network, networks, edits):
    _, model, x, groups = network
    model, x = copy.deepcopy(model).double(), x.double()
    clusters = edits.draw_clusters(groups, seed=1)
    dense = networks.outputs(model, x)
    small = build_compressed(model, CompressionPlan("random", "", clusters), groups)
    edits.simulate_clusters(model, groups, clusters)
    expected = networks.outputs(model, x)
    assert networks.relative_error(expected, dense) > 1e-2  # the merge does something
    assert networks.relative_error(networks.outputs(small, x), expected) < 1e-9


@pytest.mark.parametrize("name", ["20", "32", "56", "20_inline", "20_trained"])
def test_the_stream_of_a_cifar_resnet_shrinks_too(networks, name):
    if name == "20_trained":
        model = _trained_resnet20(networks)
    else:
        model = networks.CifarResNet(int(name[:2]), as_module=not name.endswith("inline"))
    cost = merge_channels(model, networks.inputs(1, 3, 32, 32), amount=0.25, seed=0).cost
    assert cost.after.params <= 0.7 * cost.before.params

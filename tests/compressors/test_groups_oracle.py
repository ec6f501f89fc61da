"""The traced groups against those that torch-pruning finds by walking autograd's graph."""

import pytest
import torch
import torch_pruning
import torchvision
from torch import nn

from compressors.groups import find_groups


def torch_prunings_groups(model: nn.Module, inputs: torch.Tensor) -> set[frozenset[str]]:
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
    names = {module: name for name, module in model.named_modules()}
    return {
        frozenset(
            f"{names[item.dep.target.module]}.weight"
            for item in group
            if isinstance(item.dep.target.module, (nn.Conv2d, nn.Linear))
            and graph.is_out_channel_pruning_fn(item.dep.handler)
        )
        for group in graph.get_all_groups()
    }


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2", "squeezenet1_1", "densenet121"])
def test_the_same_layers_are_coupled(name: str) -> None:
    model = torchvision.models.get_model(name, num_classes=7).eval()
    inputs = torch.rand(1, 3, 64, 64)
    found = find_groups(model, inputs)
    traced = {frozenset(group.producers) for group in found.groups}
    outputs = {frozenset(f"{layer}.weight" for layer in found.left_dense)}
    assert traced | outputs == torch_prunings_groups(model, inputs)

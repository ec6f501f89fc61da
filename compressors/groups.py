"""Coupled channel groups of a network, found by torch-pruning's DependencyGraph. Changes nothing."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn

from compressors.contract import ChannelGroup, ChannelSlice
from population.errors import InputError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, eq=False)
class GroupSearch:
    """What ``find_groups`` found.

    Attributes:
        groups: groups that can be merged or pruned, in forward order.
        left_dense: per layer the reason why its output channels cannot.
    """

    groups: tuple[ChannelGroup, ...]
    left_dense: Mapping[str, str]


def find_groups(model: nn.Module, example_inputs: Tensor) -> GroupSearch:
    """Finds every set of channels that has to change together.

    Args:
        model: any module of convolutions, linear layers and batch norms; it is not changed.
        example_inputs: a batch that the model accepts.

    Returns:
        The groups. A group that holds the model's outputs, or a layer that is not understood, is
        left out, with the reason.

    Raises:
        InputError: if the model cannot be run on the example inputs or cannot be traced.
    """
    twin = copy.deepcopy(model).requires_grad_(True).eval()
    graph = _trace(twin, example_inputs)
    names = {module: name for name, module in twin.named_modules()}
    groups, left_dense = [], {}
    for found in graph.get_all_groups():
        producers = _producers(graph, found, names)
        reason = _obstacle(graph, found)
        if reason:
            left_dense.update(dict.fromkeys(producers, reason))
            continue
        norms = {
            names[i.dep.target.module]: _normalised_layer(i.dep.target, names, producers)
            for i in found
            if isinstance(i.dep.target.module, _NORMS)
        }
        size = len(found[0].idxs)
        groups.append(ChannelGroup(producers[0], size, producers, norms, _slices(graph, found, names)))
    order = list(twin.state_dict())
    groups.sort(key=lambda g: order.index(f"{g.name}.weight"))
    return GroupSearch(tuple(groups), left_dense)


def _trace(model: nn.Module, example_inputs: Tensor) -> Any:
    try:
        with torch.no_grad():
            model(example_inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the model does not accept the example inputs: {reason}") from error
    with torch.enable_grad():
        return torch_pruning.DependencyGraph().build_dependency(model, example_inputs, verbose=False)


def _producers(graph: Any, found: Any, names: Mapping[nn.Module, str]) -> tuple[str, ...]:
    layers = {
        names[item.dep.target.module]: None
        for item in found
        if isinstance(item.dep.target.module, _LAYERS) and graph.is_out_channel_pruning_fn(item.dep.handler)
    }
    order = {name: i for i, name in enumerate(names.values())}
    return tuple(sorted(layers, key=lambda name: order[name]))


def _normalised_layer(node: Any, names: Mapping[nn.Module, str], producers: tuple[str, ...]) -> str | None:
    sources = [names.get(source.module) for source in node.inputs]
    return sources[0] if len(sources) == 1 and sources[0] in producers else None


def _obstacle(graph: Any, found: Any) -> str | None:
    for item in found:
        node, module = item.dep.target, item.dep.target.module
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)
        if makes and not node.outputs:
            return "its channels are the model's outputs"
        if isinstance(module, nn.Parameter):
            return "a parameter outside any layer is added to its channels"
        if not list(module.parameters(recurse=False)) and not list(module.buffers(recurse=False)):
            continue
        if not isinstance(module, (*_NORMS, *_LAYERS)):
            return f"{type(module).__name__} layers cannot be merged yet"
        if getattr(module, "groups", 1) != 1:
            return "grouped convolutions cannot be merged yet"
        if makes and sorted(item.root_idxs) != list(range(len(found[0].idxs))):
            return "its channels are combined with themselves"
    return None


def _slices(graph: Any, found: Any, names: Mapping[nn.Module, str]) -> tuple[ChannelSlice, ...]:
    slices = []
    for item in found:
        module = item.dep.target.module
        if not isinstance(module, (*_NORMS, *_LAYERS)):
            continue
        order = np.argsort(item.idxs, kind="stable")
        positions = np.asarray(item.idxs, dtype=np.int64)[order]
        channels = np.asarray(item.root_idxs, dtype=np.int64)[order]
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)
        if isinstance(module, _NORMS):
            places = [(t, 0) for t in ("weight", "bias", "running_mean", "running_var")]
        elif makes:
            places = [("weight", 0), ("bias", 0)]
        else:
            places = [("weight", 1)]
        for tensor, axis in places:
            if getattr(module, tensor) is not None:
                role: Literal["out", "in"] = "out" if makes or isinstance(module, _NORMS) else "in"
                slices.append(ChannelSlice(f"{names[module]}.{tensor}", axis, role, positions, channels))
    return tuple(slices)

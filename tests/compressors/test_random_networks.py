"""Small networks drawn at random: whatever they combine, their channels merge exactly or stay dense."""

import copy

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compressors import CompressionPlan, apply_plan
from compressors.contract import model_digest
from compressors.exactness import leave_inexact_dense
from compressors.groups import find_groups
from merging import merge_channels

ACTIVATIONS = {"relu": F.relu, "gelu": F.gelu, "sigmoid": torch.sigmoid}
X = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Zeros(nn.Module):
    """Channels of zeros before and after those of a map of half the size."""

    def __init__(self, before, after):
        super().__init__()
        self.widths = (0, 0, 0, 0, before, after)

    def forward(self, x):
        return F.pad(x[:, :, ::2, ::2], self.widths)


class Drawn(nn.Module):
    """Runs steps, each on earlier values: value 0 is the input, step i makes value i + 1."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        parts = [_part(kind, options) for kind, _, options in steps]
        self.parts = nn.ModuleDict({f"s{i}": part for i, part in enumerate(parts) if part is not None})

    def forward(self, x):
        values = [x]
        for i, (kind, sources, options) in enumerate(self.steps):
            taken = [values[source] for source in sources]
            inside = f"s{i}" in self.parts
            values.append(self.parts[f"s{i}"](*taken) if inside else _step(kind, taken, options))
        return values[-1]


def _part(kind, options):
    if kind == "conv":
        return nn.Conv2d(**options)
    if kind == "norm":
        return nn.BatchNorm2d(options)
    if kind == "linear":
        return nn.Linear(*options)
    if kind == "zeros" and options[2]:
        return Zeros(*options[:2])
    return None


def _step(kind, values, options):
    if kind == "zeros":
        return F.pad(values[0][:, :, ::2, ::2], (0, 0, 0, 0, *options[:2]))
    if kind == "pool":
        return F.max_pool2d(values[0], 2) if options == "max" else F.avg_pool2d(values[0], 2)
    if kind == "act":
        return ACTIVATIONS[options](values[0])
    if kind == "squeeze":
        return values[0] * values[0].mean((2, 3), keepdim=True).sigmoid()
    if kind == "mean":
        return values[0].mean((2, 3))
    if kind == "flatten":
        return values[0].flatten(1)
    return {"add": torch.add, "gate": lambda a, b: a * b.sigmoid(), "cat": lambda *v: torch.cat(v, 1)}[kind](
        *values
    )


@st.composite
def networks_drawn(draw):
    """Steps of a network: a convolution, 3 to 7 operations on any earlier values, and an end."""
    shapes, steps = [(3, 6)], []  # channels and size of each value

    def put(kind, sources, options, channels, size):
        steps.append((kind, sources, options))
        shapes.append((channels, size))

    def put_conv(source, outputs, groups, kernel, stride):
        channels, size = shapes[source]
        options = {
            "in_channels": channels, "out_channels": outputs, "kernel_size": kernel, "stride": stride,
            "padding": kernel // 2, "groups": groups, "bias": draw(st.booleans()),
        }  # fmt: skip
        put("conv", (source,), options, outputs, (size - 1) // stride + 1)

    put_conv(0, draw(st.sampled_from([4, 2, 3, 6])), 1, 3, 1)
    for _ in range(draw(st.integers(3, 7))):
        # Mostly the last values, so that most of what is made is read; chains are the simplest examples.
        source = max(0, len(shapes) - 1 - draw(st.sampled_from([0, 0, 0, 1, 2, 3])))
        channels, size = shapes[source]
        like = [i for i, shape in enumerate(shapes) if shape == shapes[source]]
        sized = [i for i, shape in enumerate(shapes) if shape[1] == size]
        divisors = [g for g in range(2, channels) if channels % g == 0]
        kinds = ["conv", "norm", "act", "add", "gate", "cat", "depthwise", "squeeze", "zeros"]
        kind = draw(st.sampled_from(kinds + ["pool"] * (size > 1) + ["grouped"] * bool(divisors)))
        kernel, stride = draw(st.sampled_from([1, 3])), draw(st.sampled_from([1, 2]))
        if kind == "conv":
            put_conv(source, draw(st.sampled_from([4, 2, 3, 6, 1])), 1, kernel, stride)
        elif kind == "grouped":
            groups = draw(st.sampled_from(divisors))
            put_conv(source, groups * draw(st.integers(1, 3)), groups, kernel, stride)
        elif kind == "depthwise":
            put_conv(source, channels * draw(st.sampled_from([1, 1, 2])), channels, kernel, stride)
        elif kind in {"add", "gate"}:
            put(kind, (source, draw(st.sampled_from(like))), None, channels, size)
        elif kind == "cat":
            other = draw(st.sampled_from(sized))
            put(kind, (source, other), None, channels + shapes[other][0], size)
        elif kind == "zeros":
            before, after = draw(st.sampled_from([(1, 1), (0, 2), (2, 1)]))
            options = (before, after, draw(st.booleans()))
            put(kind, (source,), options, channels + before + after, (size + 1) // 2)
        elif kind == "pool":
            put(kind, (source,), draw(st.sampled_from(["max", "mean"])), channels, size // 2)
        elif kind == "norm":
            put(kind, (source,), channels, channels, size)
        else:
            put(kind, (source,), draw(st.sampled_from(sorted(ACTIVATIONS))), channels, size)
    last, (channels, size) = len(shapes) - 1, shapes[-1]
    end = draw(st.sampled_from(["flatten", "mean", "map"]))
    if end != "map":
        put(end, (last,), None, channels * (size**2 if end == "flatten" else 1), 1)
        put("linear", (last + 1,), (shapes[-1][0], 2), 2, 1)
    return steps


def _state(model):
    return {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in model.state_dict().items()}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(steps=networks_drawn(), seed=st.integers(0, 9))
def test_whatever_is_merged_is_merged_exactly(networks, edits, steps, seed):
    model = networks.randomize(Drawn(steps).double(), seed)
    before = _state(model)
    search = leave_inexact_dense(model, find_groups(model, X), X)
    makers = {weight.removesuffix(".weight") for group in search.groups for weight in group.producers}
    layers = {n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert layers <= makers | search.left_dense.keys()
    assert all(search.left_dense.values())
    if not search.groups:  # merging says so, as other tests check
        return
    merged = merge_channels(model, X, amount=0.5, seed=seed)
    drawn = edits.draw_clusters(search.groups, seed=seed)
    drawn = CompressionPlan("drawn", model_digest(model), drawn)
    for plan, small in ((merged.plan, merged.model), (drawn, apply_plan(model, drawn, X))):
        simulated = copy.deepcopy(model)
        edits.simulate_clusters(simulated, search.groups, plan.clusters)
        got, expected = networks.outputs(small, X), networks.outputs(simulated, X)
        assert got.shape == expected.shape
        # Not a quotient: an activation at the end may make nothing but zeros.
        assert (got - expected).abs().max() <= 1e-9 * expected.abs().max()
        assert _state(apply_plan(model, plan, X)) == _state(small)
    assert _state(model) == before
    assert not model.training

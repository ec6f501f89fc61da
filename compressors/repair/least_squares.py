"""Every changed layer fitted again, so that the small network computes what the dense one does."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors.apply import Part, changes, merge_axis
from compressors.attention import open_attention
from compressors.contract import Calibration, ChannelGroup, CompressionPlan
from compressors.repair.operations import Operation, Value, Watch, observe, value_of
from compressors.repair.recalibrate import BATCH_NORMS, Recalibration, check_calibration
from compressors.repair.ridge import ridge_regression
from compressors.running import copy_model, run_model
from population.errors import InputError

#: Most calibration inputs that are used: the first ones.
IMAGES = 2000
# Rows of a regression: at least so many, and so many for each feature, if the inputs have them. The same
# number of positions is drawn from every input.
_ROWS = 40_000
_ROWS_PER_FEATURE = 8
_HELD_OUT = 5  # one input of so many
_CHUNK = 50  # inputs at a time


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer to fit.

    Attributes:
        module: its name.
        norm: the norm that takes its outputs, and is fitted with it.
        parts: how its outputs were merged.
        other: number of the operation, and of its result, that is added to the layer's outputs and known
            before the layer runs; None where nothing is added.
        rectified: whether only a ReLU takes the outputs (the sum, where something is added).
    """

    module: str
    norm: str | None
    parts: Sequence[Part]
    other: tuple[int, int] | None = None
    rectified: bool = False


def refit_layers(
    dense: nn.Module,
    compressed: nn.Module,
    plan: CompressionPlan,
    groups: Sequence[ChannelGroup],
    calibration: Calibration | None,
) -> Recalibration:
    """Fits the weights of every layer that merging or filter pruning changed, in forward order.

    Each layer, with the batch norm after it, is a ridge regression: from what the small network, fitted
    so far, feeds it, to what the dense layer (after its norm) gives for the same inputs, averaged over
    each cluster; for pruned filters that is what the kept channels gave. Where the result is added to a
    value that is known by then (a residual stream), the sum is fitted to the dense sum, so that a layer
    corrects what is wrong with the stream. Where only a ReLU takes the result, negative values count as
    zeros. The ridge pulls towards the merged weights, rescaled per channel, and its strength is the one
    with the least error on a fifth of the inputs. A fitted norm's statistics are those of the fitted
    outputs; norms that belong to no fitted layer are re-estimated on the way.

    Linear layers and two-dimensional convolutions that are not grouped are fitted. Other layers keep
    their merged weights, and so do layers that are not called exactly once in a forward pass, whose
    weights are used without a call or shared with another layer, or whose first axis is not the batch.

    Args:
        dense: the model before.
        compressed: the model after, without any repair; it is not changed.
        plan: its clusters.
        groups: the dense model's groups.
        calibration: batches of inputs; the first ``IMAGES`` inputs are used, in one batch.

    Returns:
        Tensors of the repaired model by name, and the number of inputs.

    Raises:
        InputError: if calibration is missing or unfit.
    """
    inputs = torch.cat(check_calibration(calibration))[:IMAGES]
    if len(inputs) < _HELD_OUT:
        raise InputError(f"least-squares repair needs at least {_HELD_OUT} calibration inputs")
    # The held-out inputs become the last ones.
    inputs = inputs[torch.arange(len(inputs)).remainder(_HELD_OUT).eq(0).argsort(stable=True)]
    changed = _changed_layers(compressed, plan, groups)
    if not changed:
        return Recalibration({}, len(inputs))
    working = copy_model(compressed)
    layers, free_norms = _rehearse(working, changed, inputs[:2])
    targets, places = _dense_targets(dense, working, layers, inputs)
    # The dense network may take another path than the small one, on which a layer is not called.
    layers = [layer for layer in layers if layer.module in targets]
    return Recalibration(_refit(working, layers, free_norms, inputs, targets, places), len(inputs))


def _changed_layers(
    compressed: nn.Module, plan: CompressionPlan, groups: Sequence[ChannelGroup]
) -> list[_Layer]:
    parts: dict[str, list[Part]] = {}
    touched: set[str] = set()
    norm_of: dict[str, str] = {}
    for group in groups:
        if group.name not in plan.clusters or not changes(plan.clusters[group.name]):
            continue
        norm_of |= {weight: norm for norm, weight in group.norms.items() if weight is not None}
        for piece in group.slices:
            touched.add(piece.tensor)
            if piece.role == "out":
                parts.setdefault(piece.tensor, []).append((piece, plan.clusters[group.name]))
    owners = Counter(id(tensor) for module in compressed.modules() for tensor in module.parameters(False))
    layers = []
    for name, module in compressed.named_modules():
        weight = f"{name}.weight"
        if weight not in touched or not _can_be_fitted(module):
            continue
        if all(owners[id(tensor)] == 1 for tensor in module.parameters(False)):
            norm = norm_of.get(weight)
            fits_norm = norm is not None and _is_affine(compressed.get_submodule(norm))
            layers.append(_Layer(name, norm if fits_norm else None, parts.get(weight, [])))
    return layers


def _can_be_fitted(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, nn.Linear)


def _is_affine(norm: nn.Module) -> bool:
    return isinstance(norm, BATCH_NORMS) and norm.affine and norm.track_running_stats


def _rehearse(model: nn.Module, layers: Sequence[_Layer], inputs: Tensor) -> tuple[list[_Layer], list[str]]:
    """Layers that can be fitted, with what happens to their outputs, and norms to re-estimate."""
    norms = [n for n, m in model.named_modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats]
    seen = observe(model, {*norms, *(layer.module for layer in layers)}, inputs)
    fitted = []
    for layer in layers:
        call = seen.calls.get(layer.module)
        if call is None or call.length != len(inputs):
            continue
        value, norm, other = call.gives, layer.norm, None
        if norm is not None:
            # A norm is fitted with the layer if nothing else takes the layer's outputs.
            takes = norm in seen.calls and seen.calls[norm].takes == value
            norm = norm if takes and seen.only_user(value) is not None else None
            value = seen.calls[norm].gives if norm is not None else value
        user = seen.only_user(value)
        if user is not None and user.name == "add" and len(user.takes) == 2:
            addend = next((v for v in user.takes if v != value), value)
            # Known before the layer runs.
            if addend in seen.made and seen.made[addend][0] < call.number:
                other, value = seen.made[addend], user.makes[0]
        user = seen.only_user(value)
        rectified = user is not None and user.name == "relu"
        fitted.append(replace(layer, norm=norm, other=other, rectified=rectified))
    taken = {layer.norm for layer in fitted}
    return fitted, [n for n in norms if n in seen.calls and n not in taken]


def _dense_targets(
    dense: nn.Module, small: nn.Module, layers: Sequence[_Layer], inputs: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the dense network gives, merged, shape (N, P, k), at drawn places (N, P); both per layer."""
    network = copy_model(dense)
    open_attention(network)  # torch's own does not call its output projection
    found: dict[str, Tensor] = {}
    places: dict[str, Tensor] = {}
    merges: dict[str, Tensor] = {}
    summands: dict[Value, tuple[_Layer, Tensor]] = {}  # the tensor is kept, so that its id is its own
    rng = np.random.default_rng(0)
    done = 0

    def collect(layer: _Layer, values: Tensor) -> None:
        is_conv = isinstance(network.get_submodule(layer.module), nn.Conv2d)
        if layer.module not in places:
            shape = values.shape
            total = shape[2:].numel() if is_conv else shape[1:-1].numel()
            features = small.get_submodule(layer.module).get_parameter("weight")[0].numel()
            wanted = max(_ROWS, _ROWS_PER_FEATURE * features)
            count = min(total, -(-wanted // len(inputs)))
            drawn = rng.random((len(inputs), total)).argsort(axis=1)[:, :count].copy()
            places[layer.module] = torch.from_numpy(drawn).to(values.device)
            eye = torch.eye(shape[1 if is_conv else -1], dtype=_wide(values.dtype))
            merge = (merge_axis(eye, 1, layer.parts) if layer.parts else eye).to(values.device)
            merges[layer.module] = merge
            found[layer.module] = merge.new_empty(len(inputs), count, merge.shape[1])
        here = slice(done, done + len(values))
        rows = _rows_at(values, places[layer.module][here], is_conv)
        found[layer.module][here] = rows @ merges[layer.module]

    def after(module: nn.Module, args: object, output: Tensor, *, layer: _Layer) -> None:
        if layer.other is None:
            with watch.unseen():
                collect(layer, output)
        else:
            summands[value_of(output)] = layer, output

    def see(operation: Operation) -> None:
        for value in operation.takes if operation.name == "add" else ():
            if value in summands:
                collect(summands.pop(value)[0], operation.results[0])

    watch = Watch(see)
    handles = [
        network.get_submodule(layer.norm or layer.module).register_forward_hook(partial(after, layer=layer))
        for layer in layers
    ]
    with watch:
        for batch in torch.split(inputs, _CHUNK):
            run_model(network, batch, what="a calibration batch")
            done += len(batch)
    for handle in handles:  # else the network and what was collected would keep each other alive
        handle.remove()
    return found, places


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _rows_at(values: Tensor, places: Tensor, is_conv: bool) -> Tensor:
    """A layer's outputs or a linear layer's inputs at flat places (n, P): shape (n, P, channels)."""
    flat = values.flatten(2).transpose(1, 2) if is_conv else values.reshape(len(values), -1, values.shape[-1])
    rows = flat.gather(1, places[..., None].expand(-1, -1, flat.shape[2]))
    return rows.to(_wide(values.dtype))


def _refit(
    model: nn.Module,
    layers: Sequence[_Layer],
    free_norms: Sequence[str],
    inputs: Tensor,
    targets: dict[str, Tensor],
    places: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Runs the small network once; each layer is fitted, and each free norm estimated, before its use."""
    edited: dict[str, Tensor] = {}
    added: dict[str, Tensor] = {}
    wanted: dict[int, list[tuple[str, int]]] = defaultdict(list)
    for layer in layers:
        if layer.other is not None:
            wanted[layer.other[0]].append((layer.module, layer.other[1]))

    def see(operation: Operation) -> None:
        for name, result in wanted.get(operation.number, ()):
            is_conv = isinstance(model.get_submodule(name), nn.Conv2d)
            added[name] = _rows_at(operation.results[result], places[name], is_conv)

    def fit(module: nn.Module, args: tuple[Tensor], *, layer: _Layer) -> None:
        with watch.unseen():
            name = layer.module
            new = _fit(model, layer, args[0], places[name], targets.pop(name), added.pop(name, None))
            state = model.state_dict()
            for tensor, value in new.items():
                edited[tensor] = state[tensor].copy_(value.reshape(state[tensor].shape))

    def estimate(module: nn.Module, args: tuple[Tensor], *, name: str) -> None:
        with watch.unseen():
            values = args[0].transpose(0, 1).flatten(1)
            edited[f"{name}.running_mean"] = module.get_buffer("running_mean").copy_(values.mean(1))
            edited[f"{name}.running_var"] = module.get_buffer("running_var").copy_(values.var(1))

    watch = Watch(see)
    hooks = {layer.module: partial(fit, layer=layer) for layer in layers}
    hooks |= {name: partial(estimate, name=name) for name in free_norms}
    handles = [model.get_submodule(n).register_forward_pre_hook(hook) for n, hook in hooks.items()]
    with watch, torch.no_grad():
        model(inputs)
    for handle in handles:
        handle.remove()
    return edited


def _fit(
    model: nn.Module, layer: _Layer, x: Tensor, places: Tensor, target: Tensor, added: Tensor | None
) -> dict[str, Tensor]:
    """New tensors of a layer and its norm, from the layer's input."""
    module = model.get_submodule(layer.module)
    weight = module.get_parameter("weight").detach()
    bias = getattr(module, "bias", None)
    wide = torch.promote_types(weight.dtype, torch.float32)
    features = torch.cat(
        [
            _features(module, *part)
            for part in zip(*(torch.split(t, _CHUNK) for t in (x, places)), strict=True)
        ]
    )
    others = torch.zeros_like(target) if added is None else added
    # Columns are ordered by the place in the kernel, then by channel.
    is_conv = isinstance(module, nn.Conv2d)
    old = (weight.movedim(1, -1) if is_conv else weight).flatten(1)
    fitted = ridge_regression(
        features.flatten(0, 1).to(wide).cpu().numpy(),
        (target - others).flatten(0, 1).cpu().numpy(),
        old.to(wide).cpu().numpy(),
        held_out=-(-len(target) // _HELD_OUT) * places.shape[1],
        has_intercept=layer.norm is not None or bias is not None,
        added=others.flatten(0, 1).cpu().numpy() if layer.rectified else None,
    )
    new_weight, intercept = torch.from_numpy(fitted.weight), torch.from_numpy(fitted.intercept)
    if is_conv:
        new_weight = new_weight.reshape(len(weight), *weight.shape[2:], -1).movedim(-1, 1)
    new = {f"{layer.module}.weight": new_weight}
    if layer.norm is not None:
        # The norm passes the fitted values on, and its statistics are theirs.
        norm = cast("nn.BatchNorm2d", model.get_submodule(layer.norm))
        mean, variance = torch.from_numpy(fitted.mean), torch.from_numpy(fitted.variance)
        new[f"{layer.norm}.running_mean"], new[f"{layer.norm}.running_var"] = mean - intercept, variance
        new[f"{layer.norm}.weight"] = (variance + norm.eps).sqrt()
        new[f"{layer.norm}.bias"] = mean
        intercept = torch.zeros_like(intercept)
    if bias is not None:
        new[f"{layer.module}.bias"] = intercept
    return new


def _features(module: nn.Module, x: Tensor, places: Tensor) -> Tensor:
    """What a layer reads for its outputs at flat places (n, P): shape (n, P, d)."""
    return _patches(module, x, places) if isinstance(module, nn.Conv2d) else _rows_at(x, places, False)


def _patches(conv: nn.Conv2d, x: Tensor, places: Tensor) -> Tensor:
    """What the kernel sees at flat output places (n, P): shape (n, P, height * width * channels)."""
    (high, wide), (step_y, step_x), (gap_y, gap_x) = conv.kernel_size, conv.stride, conv.dilation
    pad_y, pad_x = (int(p) for p in conv.padding)
    padded = F.pad(x, (pad_x, pad_x, pad_y, pad_y)).permute(0, 2, 3, 1).contiguous()
    rows, columns, channels = padded.shape[1:]
    across = (columns - gap_x * (wide - 1) - 1) // step_x + 1
    image = torch.arange(len(x), device=x.device)[:, None]
    corner = (image * rows + places // across * step_y) * columns + places % across * step_x
    taps = [gap_y * i * columns + gap_x * j for i in range(high) for j in range(wide)]
    pixels = padded.reshape(-1, channels)
    return torch.cat([pixels[corner + tap] for tap in taps], -1)

"""Every changed layer fitted again, so that the small network computes what the dense one does."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressors.apply import Part, changes, merge_axis
from compressors.contract import Calibration, ChannelGroup, CompressionPlan
from compressors.repair.recalibrate import BATCH_NORMS, Recalibration, check_calibration
from compressors.running import copy_model, run_model
from population.errors import InputError

#: Most calibration inputs that are used: the first ones.
IMAGES = 2000
# Rows of a regression, about: the same number of positions is drawn from every input.
_ROWS = 60_000
_HELD_OUT = 5  # one input of so many
# Ridges that are tried, in units of the mean second moment of a feature.
_RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_CHUNK = 100  # inputs at a time


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer to fit: its module, the norm that belongs to it, and how its outputs were merged."""

    module: str
    norm: str | None
    parts: Sequence[Part]


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
    each cluster; for pruned filters that is what the kept channels gave. The ridge pulls towards the
    merged weights, rescaled per channel, and its strength is the one with the least error on a fifth of
    the inputs. A fitted norm's statistics are those of the fitted outputs; norms that belong to no
    fitted layer are re-estimated on the way. Linear layers and two-dimensional convolutions that are
    not grouped are fitted; other layers keep their merged weights.

    Args:
        dense: the model before.
        compressed: the model after, without any repair; it is not changed.
        plan: its clusters.
        groups: the dense model's groups.
        calibration: batches of inputs; the first ``IMAGES`` inputs are used.

    Returns:
        Tensors of the repaired model by name, and the number of inputs.

    Raises:
        InputError: if calibration is missing or unfit.
    """
    inputs = torch.cat(check_calibration(calibration))[:IMAGES]
    if len(inputs) < _HELD_OUT:
        raise InputError(f"least-squares repair needs at least {_HELD_OUT} calibration inputs")
    layers = _changed_layers(compressed, plan, groups)
    if not layers:
        return Recalibration({}, len(inputs))
    targets, places = _dense_targets(dense, layers, inputs)
    working = copy_model(compressed)
    edited: dict[str, Tensor] = {}
    handles = []
    for layer in layers:
        fit = partial(_fit_before_use, working, layer, targets[layer.module], places[layer.module], edited)
        handles.append(working.get_submodule(layer.module).register_forward_pre_hook(fit))
    for name in _free_norms(working, layers):
        estimate = partial(_estimate_before_use, name, edited)
        handles.append(working.get_submodule(name).register_forward_pre_hook(estimate))
    run_model(working, inputs, what="calibration")
    for handle in handles:
        handle.remove()
    return Recalibration(edited, len(inputs))


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
    layers = []
    for name, module in compressed.named_modules():
        weight = f"{name}.weight"
        if weight in touched and _can_be_fitted(module):
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


def _free_norms(model: nn.Module, layers: Sequence[_Layer]) -> list[str]:
    fitted = {layer.norm for layer in layers}
    modules = model.named_modules()
    return [n for n, m in modules if isinstance(m, BATCH_NORMS) and m.track_running_stats and n not in fitted]


def _dense_targets(
    dense: nn.Module, layers: Sequence[_Layer], inputs: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What the dense network gives, merged, shape (N, P, k), at drawn places (N, P); both per layer."""
    network = copy_model(dense)
    targets: dict[str, list[Tensor]] = {layer.module: [] for layer in layers}
    places: dict[str, Tensor] = {}
    rng = np.random.default_rng(0)
    done = 0

    def collect(module: nn.Module, args: object, output: Tensor, *, layer: _Layer) -> None:
        flat = output.reshape(len(output), -1, output.shape[-1])
        if isinstance(network.get_submodule(layer.module), nn.Conv2d):
            flat = output.flatten(2).transpose(1, 2)
        if layer.module not in places:
            count = min(flat.shape[1], max(1, _ROWS // len(inputs)))
            drawn = rng.random((len(inputs), flat.shape[1])).argsort(axis=1)[:, :count]
            places[layer.module] = torch.from_numpy(drawn).to(flat.device)
        here = places[layer.module][done : done + len(flat), :, None].expand(-1, -1, flat.shape[2])
        rows = flat.gather(1, here)
        targets[layer.module].append(merge_axis(rows, 2, layer.parts) if layer.parts else rows)

    handles = [
        network.get_submodule(layer.norm or layer.module).register_forward_hook(partial(collect, layer=layer))
        for layer in layers
    ]
    for batch in torch.split(inputs, _CHUNK):
        run_model(network, batch, what="a calibration batch")
        done += len(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(rows) for name, rows in targets.items()}, places


def _estimate_before_use(
    name: str, edited: dict[str, Tensor], module: nn.Module, args: tuple[Tensor]
) -> None:
    values = args[0].transpose(0, 1).flatten(1)
    edited[f"{name}.running_mean"] = module.get_buffer("running_mean").copy_(values.mean(1))
    edited[f"{name}.running_var"] = module.get_buffer("running_var").copy_(values.var(1))


def _fit_before_use(
    model: nn.Module,
    layer: _Layer,
    targets: Tensor,
    places: Tensor,
    edited: dict[str, Tensor],
    module: nn.Module,
    args: tuple[Tensor],
) -> None:
    """Forward pre-hook of a layer: fits it on its input before it is used."""
    old = module.get_parameter("weight").detach().flatten(1).double().cpu()
    has_intercept = layer.norm is not None or getattr(module, "bias", None) is not None
    samples = _Moments(old.shape[1], old.shape[0]), _Moments(old.shape[1], old.shape[0])
    for i, (x, y) in enumerate(_rows(module, args[0], places, targets)):
        held_out = torch.arange(len(x)) % _HELD_OUT == i % _HELD_OUT
        for moments, chosen in zip(samples, (~held_out, held_out), strict=True):
            moments.add(x[chosen].flatten(0, 1), y[chosen].flatten(0, 1))
    weight, bias, mean, variance = _ridge(*samples, old, has_intercept)
    new = {f"{layer.module}.weight": weight}
    if layer.norm is not None:
        # The norm passes the fitted values on, and its statistics are theirs.
        norm = cast("nn.BatchNorm2d", model.get_submodule(layer.norm))
        new[f"{layer.norm}.running_mean"], new[f"{layer.norm}.running_var"] = mean, variance
        new[f"{layer.norm}.weight"] = (variance + norm.eps).sqrt()
        new[f"{layer.norm}.bias"] = bias + mean
        bias = torch.zeros_like(bias)
    if getattr(module, "bias", None) is not None:
        new[f"{layer.module}.bias"] = bias
    state = model.state_dict()
    for name, value in new.items():
        edited[name] = state[name].copy_(value.reshape(state[name].shape))


def _rows(module: nn.Module, x: Tensor, places: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (n, P, d) and targets (n, P, k) of some inputs at a time."""
    for part, here, y in zip(*(torch.split(t, _CHUNK) for t in (x, places, targets)), strict=True):
        if isinstance(module, nn.Conv2d):
            yield _patches(module, part, here), y
        else:
            flat = part.reshape(len(part), -1, part.shape[-1])
            yield flat.gather(1, here[..., None].expand(-1, -1, flat.shape[2])), y


def _patches(conv: nn.Conv2d, x: Tensor, places: Tensor) -> Tensor:
    """What the kernel sees at flat output places (n, P): shape (n, P, channels * height * width)."""
    (high, wide), (step_y, step_x), (gap_y, gap_x) = conv.kernel_size, conv.stride, conv.dilation
    pad_y, pad_x = (int(p) for p in conv.padding)
    columns = (x.shape[3] + 2 * pad_x - gap_x * (wide - 1) - 1) // step_x + 1
    padded = F.pad(x, (pad_x, pad_x, pad_y, pad_y)).permute(0, 2, 3, 1)
    row, column = places // columns * step_y, places % columns * step_x
    image = torch.arange(len(x), device=x.device)[:, None]
    taps = [padded[image, row + gap_y * i, column + gap_x * j] for i in range(high) for j in range(wide)]
    return torch.stack(taps, -1).flatten(2)


class _Moments:
    """Sums over rows of what a regression needs, in float64."""

    def __init__(self, features: int, outputs: int) -> None:
        self.n = 0
        self.x = torch.zeros(features, dtype=torch.float64)
        self.y = torch.zeros(outputs, dtype=torch.float64)
        self.xx = torch.zeros(features, features, dtype=torch.float64)
        self.xy = torch.zeros(features, outputs, dtype=torch.float64)
        self.yy = torch.zeros(outputs, dtype=torch.float64)

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds rows of features and targets."""
        x, y = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, y))
        self.n += len(x)
        self.x += x.sum(0).double().cpu()
        self.y += y.sum(0).double().cpu()
        self.xx += (x.T @ x).double().cpu()
        self.xy += (x.T @ y).double().cpu()
        self.yy += y.square().sum(0).double().cpu()

    def plus(self, other: "_Moments") -> "_Moments":
        """Sums over the rows of both."""
        both = _Moments(len(self.x), len(self.y))
        for name in ("n", "x", "y", "xx", "xy", "yy"):
            setattr(both, name, getattr(self, name) + getattr(other, name))
        return both


def _ridge(
    fit: _Moments, held_out: _Moments, old: Tensor, has_intercept: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (k, d) and intercepts (k,) with the ridge of least error; mean and variance of the fit."""
    errors = []
    for ridge in _RIDGES:
        solved = _solve(fit, old, ridge, has_intercept)
        errors.append(_squared_error(held_out, *solved) if solved else float("inf"))
    every = fit.plus(held_out)
    # With few rows a small ridge may be too small for all of them together: then the next one.
    solutions = (_solve(every, old, ridge, has_intercept) for ridge in _RIDGES[int(np.argmin(errors)) :])
    solved = next((s for s in solutions if s is not None), None)
    if solved is None:
        raise InputError("least-squares repair has too few or too similar calibration inputs")
    weight, bias = solved
    mean = weight @ (every.x / every.n)
    second = (weight @ (every.xx / every.n) * weight).sum(1)
    return weight, bias, mean, (second - mean.square()).clamp_min(0)


def _solve(m: _Moments, old: Tensor, ridge: float, has_intercept: bool) -> tuple[Tensor, Tensor] | None:
    """Weights (k, d) and intercepts (k,); None where the ridge is below the rounding of the sums."""
    centre = 1.0 / m.n if has_intercept else 0.0
    xx = m.xx - centre * m.x[:, None] * m.x
    xy = m.xy - centre * m.x[:, None] * m.y
    # The old weights of each channel, at the scale that fits best.
    reach = (old @ xx * old).sum(1)
    scale = torch.where(reach > 0, (old.T * xy).sum(0) / reach.clamp_min(1e-300), 0.0)
    prior = (old * scale[:, None]).T
    penalty = ridge * xx.diagonal().mean().clamp_min(1e-12)
    factor, failed = torch.linalg.cholesky_ex(xx + penalty * torch.eye(len(xx), dtype=xx.dtype))
    if failed:
        return None
    weight = (prior + torch.cholesky_solve(xy - xx @ prior, factor)).T
    bias = (m.y - weight @ m.x) / m.n if has_intercept else torch.zeros_like(m.y)
    return weight, bias


def _squared_error(m: _Moments, weight: Tensor, bias: Tensor) -> float:
    fitted = weight @ m.xx * weight
    crossed = (weight.T * m.xy).sum(0) + bias * m.y - bias * (weight @ m.x)
    return float(m.yy.sum() - 2 * crossed.sum() + fitted.sum() + m.n * bias.square().sum())

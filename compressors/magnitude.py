"""Unstructured magnitude pruning: the smallest weights become zero."""

from typing import Literal

import torch
from torch import Tensor, nn

from compressors.contract import (
    Calibration,
    CompressionPlan,
    CompressionResult,
    check_amount,
    check_finite,
    model_digest,
)
from compressors.finish import finish
from compressors.groups import GroupSearch
from population.errors import InputError, unknown_name

SCOPES = ("global", "layer")


def prune_weights(
    model: nn.Module,
    example_inputs: Tensor | None = None,
    *,
    amount: float,
    seed: int,
    scope: Literal["global", "layer"] = "global",
    repair: str = "none",
    calibration: Calibration | None = None,
) -> CompressionResult:
    """Sets the weights of smallest magnitude to zero.

    All weights of convolutions and linear layers take part but those of the classifier, which is
    taken to be the last such layer in the order of definition; biases and norms stay. Shapes do not
    change, so neither dense kernels nor plain files gain.

    Args:
        model: any module; it is not changed.
        example_inputs: a batch, to count operations; without it they are not known.
        amount: fraction of weights set to zero, in [0, 1); ``round(amount * n)`` of n weights.
        seed: not used, as nothing is drawn; equal magnitudes lose the earlier weight first.
        scope: ``global`` compares all layers' weights, ``layer`` prunes each layer by ``amount``.
        repair: ``none``, ``data-free`` (nothing to correct here) or ``bn``.
        calibration: batches of inputs for ``bn``.

    Raises:
        InputError: if an argument is out of range, the model has no layer to prune or holds NaN.
    """
    del seed
    check_amount(amount)
    check_finite(model)
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    magnitudes = {n: model.get_parameter(n).detach().abs().flatten() for n in _prunable(model)}
    layers = list(magnitudes)
    if scope == "global":
        sizes = [len(m) for m in magnitudes.values()]
        flat = torch.split(_keep_largest(torch.cat(list(magnitudes.values())), amount), sizes)
        masks = dict(zip(layers, flat, strict=True))
    else:
        masks = {name: _keep_largest(m, amount) for name, m in magnitudes.items()}
    shaped = {name: mask.reshape(model.get_parameter(name).shape) for name, mask in masks.items()}
    plan = CompressionPlan(f"prune-{scope}", model_digest(model), masks=shaped)
    return finish(
        model,
        plan,
        GroupSearch((), {}),
        example_inputs=example_inputs,
        amount=amount,
        repair=repair,
        calibration=calibration,
    )


def _prunable(model: nn.Module) -> list[str]:
    """Names of all weights of convolutions and linear layers but the classifier's, each tensor once."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = [
        f"{n}.weight" if n else "weight"
        for n, m in model.named_modules()
        if isinstance(m, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear))
    ]
    for name in names:
        if name not in parameters:
            raise InputError(f"{name} is computed from other tensors; make it a plain parameter first")
    first: dict[int, str] = {}
    for name in names:
        first.setdefault(id(parameters[name]), name)
    prunable = [name for key, name in first.items() if key != id(parameters[names[-1]])]
    if not prunable:
        raise InputError("the model has no convolution or linear layer before its classifier")
    return prunable


def _keep_largest(magnitudes: Tensor, amount: float) -> Tensor:
    """True for all but the ``round(amount * n)`` smallest of n magnitudes."""
    mask = torch.ones(len(magnitudes), dtype=torch.bool, device=magnitudes.device)
    mask[magnitudes.argsort(stable=True)[: round(amount * len(magnitudes))]] = False
    return mask

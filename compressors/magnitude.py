"""Unstructured magnitude pruning: the smallest weights become zero."""

from collections.abc import Mapping
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
from population.schedule import SCOPES


def prune_weights(
    model: nn.Module,
    example_inputs: Tensor | None = None,
    *,
    amount: float,
    seed: int,
    scope: Literal["global", "layer"] = "global",
    classifier: bool = False,
    repair: str = "none",
    calibration: Calibration | None = None,
) -> CompressionResult:
    """Sets the weights of smallest magnitude to zero.

    All weights of convolutions and linear layers take part, those of the classifier if asked; biases and
    norms stay. Shapes do not change, so neither dense kernels nor plain files gain.

    Args:
        model: any module; it is not changed.
        example_inputs: a batch, to count operations; without it they are not known.
        amount: fraction of weights set to zero, in [0, 1); ``round(amount * n)`` of n weights.
        seed: not used, as nothing is drawn; equal magnitudes lose the earlier weight first.
        scope: ``global`` compares all layers' weights, ``layer`` prunes each layer by ``amount``.
        classifier: whether the classifier takes part, see ``prunable_weights``.
        repair: ``none``, ``data-free`` (nothing to correct here) or ``bn``.
        calibration: batches of inputs for ``bn``.

    Raises:
        InputError: if an argument is out of range, the model has no layer to prune or holds NaN.
    """
    del seed
    check_amount(amount)
    check_finite(model)
    names = prunable_weights(model, classifier=classifier)
    magnitudes = {name: model.get_parameter(name).detach().abs() for name in names}
    masks = magnitude_masks(magnitudes, amount, scope=scope)
    plan = CompressionPlan(f"prune-{scope}", model_digest(model), masks=masks)
    return finish(
        model,
        plan,
        GroupSearch((), {}),
        example_inputs=example_inputs,
        amount=amount,
        repair=repair,
        calibration=calibration,
    )


def magnitude_masks(magnitudes: Mapping[str, Tensor], amount: float, *, scope: str) -> dict[str, Tensor]:
    """Chooses the weights that stay.

    Args:
        magnitudes: of the weights, by name, of any shape.
        amount: fraction that goes, in [0, 1]; ``round(amount * n)`` of n weights.
        scope: ``global`` compares all of them, ``layer`` those of one name with each other.

    Returns:
        Per name a mask of the same shape, False where the weight goes; of equal magnitudes the earlier one.

    Raises:
        InputError: if the scope is unknown.
    """
    if scope not in SCOPES:
        raise unknown_name("scope", scope, SCOPES)
    flat = {name: values.flatten() for name, values in magnitudes.items()}
    if scope == "global":
        kept = _keep_largest(torch.cat(list(flat.values())), amount)
        parts = dict(zip(flat, torch.split(kept, [len(m) for m in flat.values()]), strict=True))
    else:
        parts = {name: _keep_largest(m, amount) for name, m in flat.items()}
    return {name: mask.reshape(magnitudes[name].shape) for name, mask in parts.items()}


def prunable_weights(model: nn.Module, *, classifier: bool = False) -> list[str]:
    """Names of all weights of convolutions and linear layers, each tensor once.

    Args:
        model: any module.
        classifier: whether the classifier's are among them; it is taken to be the last such layer in the
            order of definition.

    Raises:
        InputError: if there are none, or one is no plain parameter.
    """
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
    last = id(parameters[names[-1]]) if names else None
    prunable = [name for key, name in first.items() if classifier or key != last]
    if not prunable:
        raise InputError("the model has no convolution or linear layer before its classifier")
    return prunable


def _keep_largest(magnitudes: Tensor, amount: float) -> Tensor:
    """True for all but the ``round(amount * n)`` smallest of n magnitudes."""
    mask = torch.ones(len(magnitudes), dtype=torch.bool, device=magnitudes.device)
    mask[magnitudes.argsort(stable=True)[: round(amount * len(magnitudes))]] = False
    return mask

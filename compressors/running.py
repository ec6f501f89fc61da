"""Copying and running a user's model, with errors that say what is wrong."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from population.errors import InputError

#: What torch and a user's code raise where shapes, types, devices or names do not fit.
RUN_ERRORS = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError,
)  # fmt: skip


def copy_model(model: nn.Module) -> nn.Module:
    """Returns a copy in eval mode; raises InputError for a model that cannot be copied."""
    try:
        return copy.deepcopy(model).eval()
    except (RuntimeError, TypeError) as error:
        raise InputError(f"the model cannot be copied: {_first_line(error)}") from error


def run_model(model: nn.Module, inputs: Tensor, *, what: str) -> Any:
    """Runs a model without gradients.

    Args:
        model: any module; those of its layers that are in training mode may update their statistics.
        inputs: a batch.
        what: the inputs' name in the error.

    Returns:
        What the model returns.

    Raises:
        InputError: if the inputs are no tensor, have no entry, or the model does not accept them.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() == 0 or len(inputs) == 0:
        raise InputError(f"{what} must be a non-empty tensor, not {type(inputs).__name__}")
    try:
        with torch.no_grad():
            return model(inputs)
    except RUN_ERRORS as error:
        raise InputError(f"the model does not accept {what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

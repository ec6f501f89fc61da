"""BatchNorm statistics, estimated again on the compressed network's own activations."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressors.contract import Calibration
from compressors.running import copy_model, run_model
from population.errors import InputError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, eq=False)
class Recalibration:
    """New statistics by tensor name, and the number of inputs that they come from."""

    tensors: dict[str, Tensor]
    images: int


def recalibrate_batchnorm(model: nn.Module, calibration: Calibration) -> nn.Module:
    """Returns a copy of a model whose BatchNorm statistics are those of the calibration inputs.

    All statistics are reset and become the plain averages over the batches, each layer seeing the
    others in training mode (REPAIR's "reset", Jordan et al. 2022, arXiv 2211.08403; Fold-R of Wang et
    al. 2025, arXiv 2502.10216). Dropout stays off.

    Args:
        model: any module with BatchNorm layers; it is not changed.
        calibration: batches of inputs on the model's device, read once and completely.

    Raises:
        InputError: if there is no batch, a batch is no tensor, does not fit the model, has a single
            value per channel or leads to NaN, or the model has no BatchNorm layer.
    """
    copied = copy_model(model)
    tensors = batchnorm_statistics(model, calibration).tensors
    with torch.no_grad():
        for name, value in tensors.items():
            copied.get_buffer(name).copy_(value)
    return copied


def batchnorm_statistics(model: nn.Module, calibration: Calibration | None) -> Recalibration:
    """Computes what ``recalibrate_batchnorm`` sets."""
    twin = copy_model(model)
    norms = {n: m for n, m in twin.named_modules() if isinstance(m, BATCH_NORMS) and m.track_running_stats}
    if not norms:
        raise InputError("the model has no BatchNorm statistics to re-estimate; choose another repair")
    for norm in norms.values():
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    images = 0
    for batch in check_calibration(calibration):
        run_model(twin, batch, what="a calibration batch")
        images += len(batch)
    tensors = {f"{n}.{b}": getattr(m, b) for n, m in norms.items() for b in ("running_mean", "running_var")}
    for name, value in tensors.items():
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"calibration gives NaN or infinite values in {name}")
    return Recalibration(tensors, images)


def check_calibration(calibration: Calibration | None) -> list[Tensor]:
    """Returns the batches, or raises InputError where there are none or they are not tensors."""
    if calibration is None:
        raise InputError("this repair needs calibration: batches of inputs")
    batches = list(calibration)
    if not batches:
        raise InputError("calibration is empty; this repair needs at least one batch of inputs")
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.dim() == 0 or len(batch) == 0:
            raise InputError(f"calibration must be non-empty tensors, not {type(batch).__name__}")
    return batches

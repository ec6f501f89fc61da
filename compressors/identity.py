"""The method that changes nothing: with a repair, it shows what the repair alone does to a dense model."""

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


def keep_dense(
    model: nn.Module,
    example_inputs: Tensor,
    *,
    amount: float,
    seed: int,
    repair: str = "none",
    calibration: Calibration | None = None,
) -> CompressionResult:
    """Copies the model and applies the repair.

    Args:
        model: any module; it is not changed.
        example_inputs: a batch, to count operations.
        amount: not used.
        seed: not used.
        repair: ``none``, ``data-free`` (nothing to correct here) or ``bn``.
        calibration: batches of inputs for ``bn``.

    Raises:
        InputError: if an argument is out of range or the model holds NaN.
    """
    del seed
    check_amount(amount)
    check_finite(model)
    plan = CompressionPlan("identity", model_digest(model))
    return finish(
        model,
        plan,
        GroupSearch((), {}),
        example_inputs=example_inputs,
        amount=0.0,
        repair=repair,
        calibration=calibration,
    )

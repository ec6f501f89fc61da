"""What a model takes: parameters, operations, bytes."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressors.attention import open_attention
from compressors.contract import Cost
from compressors.running import copy_model, run_model


def measure_cost(model: nn.Module, example_inputs: Tensor | None, masks: Mapping[str, Tensor]) -> Cost:
    """Counts what a model takes.

    Args:
        model: in eval mode.
        example_inputs: a batch; operations are divided by its length. None: operations are not known.
        masks: weights that are False here are zero and not counted as parameters.
    """
    pruned = sum(int((~mask).sum()) for mask in masks.values())
    tensors = model.state_dict().values()
    return Cost(
        params=sum(p.numel() for p in model.parameters()) - pruned,
        macs=None if example_inputs is None else count_macs(model, example_inputs),
        bytes=sum(t.numel() * t.element_size() for t in tensors),
    )


def count_macs(model: nn.Module, example_inputs: Tensor) -> int:
    """Multiply-accumulate operations of one input, by torch's FLOP counter (2 FLOPs each)."""
    plain = copy_model(model)
    open_attention(plain)  # torch's own attention has fused paths that the counter does not see
    with FlopCounterMode(display=False) as counter:
        run_model(plain, example_inputs, what="the example inputs")
    return int(counter.get_total_flops() // (2 * len(example_inputs)))

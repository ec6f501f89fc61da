"""What the processes that train one network together have to share beside the network.

Outside such processes everything here leaves things as they are.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def gathered(part: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks; differentiable.

    A loss of gathered rows is that of the whole batch, and equal in all processes. The mean of the gradients
    that each of them finds for its copy of the weights is the gradient of this loss.

    Args:
        part: this process's rows, shape (n, ...); as many in every process.

    Returns:
        Shape (P * n, ...) for P processes.
    """
    return _stacked(part).flatten(0, 1) if dist.is_initialized() else part


def _stacked(part: Tensor) -> Tensor:
    result: Tensor = _Gather.apply(part)
    return result


class _Gather(torch.autograd.Function):
    """Tensors of all processes, stacked; the gradient of one is the sum of what all of them say of it."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in _ranks()]
        dist.all_gather(parts, part.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[dist.get_rank()]


def average_gradients(module: nn.Module) -> None:
    """Makes gradients the mean of those of all processes, in place; by one message."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    sizes = [gradient.numel() for gradient in gradients]
    for gradient, total in zip(gradients, torch.split(together, sizes), strict=True):
        gradient.copy_(total.reshape(gradient.shape) / len(_ranks()))


class CommonBatchNorm(_BatchNorm):
    """BatchNorm over the images of all processes, as if one of them had the whole batch.

    torch's SyncBatchNorm does the same on GPUs alone; this one can be checked on any machine.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalised images or rows, shape (n, C, ...); as many in every process."""
        if not self.training:
            return super().forward(input)
        over = [axis for axis in range(input.dim()) if axis != 1]
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        variances, means = torch.var_mean(wide, over, correction=0)
        means, variances = _stacked(torch.stack([means, variances])).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + means.var(0, correction=0)
        self._remember(mean.detach(), variance.detach(), input.numel() // input.shape[1] * len(_ranks()))
        shape = [1, -1, *[1] * (input.dim() - 2)]
        scale = torch.rsqrt(variance + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        normal: Tensor = wide * scale.reshape(shape) + shift.reshape(shape)
        return normal.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, weight)
        self.running_var.lerp_(variance * (count / (count - 1)), weight)

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Any number of dimensions will do."""


def with_common_statistics(module: nn.Module) -> nn.Module:
    """Puts CommonBatchNorm in the place of every BatchNorm, with the same tensors; returns the module."""
    if isinstance(module, _BatchNorm):
        common = CommonBatchNorm(
            module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
        )
        common._parameters, common._buffers = module._parameters, module._buffers
        return common.train(module.training)
    for name, child in module.named_children():
        setattr(module, name, with_common_statistics(child))
    return module


def _ranks() -> range:
    return range(dist.get_world_size())

"""The one training loop."""

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from population.spec import TrainingSpec
from ssl_models.augment import random_view
from ssl_models.backbones import Classifier
from ssl_models.checkpoint import Checkpoints, Resumable, TrainingState
from ssl_models.collective import average_gradients, with_common_statistics
from ssl_models.hooks import TrainingHook
from ssl_models.objectives import OBJECTIVES, Objective
from ssl_models.surgery import Surgery

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_WARMUP = 0.1


class DivergedError(RuntimeError):
    """Training ended in numbers that are not finite; the message says which."""


def train(
    model: Classifier,
    objective: str,
    images: Tensor,
    labels: Tensor,
    *,
    spec: TrainingSpec,
    seed: int,
    hooks: Sequence[TrainingHook] = (),
    surgery: Surgery | None = None,
    checkpoints: Checkpoints | None = None,
    fabric: "Fabric | None" = None,
) -> list[float]:
    """Trains a model in place.

    AdamW with a linear warm-up over the first tenth of the steps and a cosine to zero. Everything
    stays on the device of ``images``; weights are put in channels-last format. The last, incomplete
    batch of an epoch is left out.

    Args:
        model: on the same device as the images; its encoder (and its head, if the objective trains
            it) are changed.
        objective: a name in ``OBJECTIVES``.
        images: shape (N, C, H, W), uint8.
        labels: class indices, shape (N,), int64; contrastive objectives do not look at them.
        spec: epochs, batch size, rates, augmentation.
        seed: of the initial heads, the order of images, and the views; the global random state is left
            as it was.
        hooks: are told of the end of each step and epoch, in this order.
        surgery: makes the model smaller on the way. What it changes gets moments of zero; the learning rate
            goes on as it would have.
        checkpoints: where training that was stopped goes on from; the result has the same bits.
        fabric: given in each of the processes that it has launched to train the same model together, each
            with its part of every batch; the first one saves checkpoints. Not together with ``surgery``.

    Returns:
        Mean loss of each epoch.

    Raises:
        DivergedError: if a loss, a weight or an output is NaN or infinite.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU, where heads are made
        learner = OBJECTIVES[objective](model, spec).to(images.device)
    if fabric is not None:
        with_common_statistics(learner)
    learner.train()
    # Views come in this format; weights in another one cost a wide network most of its speed.
    model.to(memory_format=torch.channels_last)
    with contextlib.nullcontext() if fabric is None else fabric.rank_zero_first():
        resumed = None if checkpoints is None else checkpoints.load()
    if resumed is not None and surgery is not None:
        surgery.restore(learner, resumed.tensors)
    optimizer = _optimizer(learner, spec)
    batch = min(spec.batch_size, len(images))
    part = _part(fabric, batch)
    if fabric is not None and not fabric.is_global_zero:
        checkpoints = None
    steps = len(images) // batch
    total = total_steps(spec, len(images))
    step, losses = 0, list[float]()
    epoch_losses = torch.zeros(steps, device=images.device)
    order = torch.zeros(len(images), dtype=torch.int64, device=images.device)
    everything = Resumable(learner, optimizer, generator, hooks, {"losses": epoch_losses, "order": order})
    if resumed is not None:
        step, losses = resumed.step, list(resumed.losses)
        everything.restore(resumed.tensors)
    with deterministic():
        while step < total:
            epoch, position = divmod(step, steps)
            if position == 0:
                torch.randperm(len(images), generator=generator, out=order)
            for group in optimizer.param_groups:
                group["lr"] = spec.learning_rate * _rate(step, total)
            index = order[position * batch : (position + 1) * batch]
            loss = _loss(learner, images[index[part]], labels[index], spec, generator, part)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            if fabric is not None:
                average_gradients(learner)
            optimizer.step()
            step += 1
            epoch_losses[position] = loss.detach()
            learner.after_step(step / total)
            if surgery is not None and step == surgery.step:
                surgery.operate(learner)
                optimizer = _optimizer(learner, spec, before=optimizer)
                everything = replace(everything, optimizer=optimizer)
            for hook in hooks:
                hook.after_step(step, total)
            if position == steps - 1:
                losses.append(float(epoch_losses.mean()))
                if not math.isfinite(losses[-1]):
                    raise DivergedError(f"its loss is {losses[-1]} in epoch {epoch + 1}")
                model.eval()
                for hook in hooks:
                    hook.after_epoch(epoch)
                learner.train()
            # The last step's too: the probe is fitted and everything stored after it.
            if checkpoints is not None and (checkpoints.due or step == total):
                tensors = everything.tensors() | ({} if surgery is None else surgery.state())
                checkpoints.save(TrainingState(step, tensors, tuple(losses)))
    model.eval()
    _check_finite(model, images[:batch])
    return losses


def total_steps(spec: TrainingSpec, images: int) -> int:
    """Optimizer steps of a whole training on a number of images."""
    return images // min(spec.batch_size, images) * spec.epochs


def _optimizer(
    learner: Objective, spec: TrainingSpec, before: torch.optim.Optimizer | None = None
) -> torch.optim.Optimizer:
    """AdamW; parameters that an earlier one had keep their moments."""
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
    )
    if before is not None:
        optimizer.state.update({p: before.state[p] for p in parameters if p in before.state})
    return optimizer


def _check_finite(model: Classifier, images: Tensor) -> None:
    """Raises DivergedError if the last step, whose effect no loss has shown, broke the model."""
    if not all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values()):
        raise DivergedError("its weights are not finite after the last step")
    with torch.inference_mode():
        outputs = model(images.float().div(255))
    if not bool(outputs.isfinite().all()):
        raise DivergedError("its outputs are not finite after the last step")


def _loss(
    learner: Objective,
    images: Tensor,
    labels: Tensor,
    spec: TrainingSpec,
    generator: torch.Generator,
    part: slice,
) -> Tensor:
    """Loss of a batch, of which a part of the images and all labels are given."""
    pixels = images.float().div(255)
    views = [
        random_view(pixels, spec.augmentation, generator=generator, batch=len(labels), part=part).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(learner.views)
    ]
    with torch.autocast(images.device.type, torch.bfloat16):
        loss: Tensor = learner(views, labels)
    return loss


def _part(fabric: "Fabric | None", batch: int) -> slice:
    """Which images of a batch are this process's."""
    if fabric is None:
        return slice(batch)
    share = batch // fabric.world_size
    return slice(fabric.global_rank * share, (fabric.global_rank + 1) * share)


def _rate(step: int, total: int) -> float:
    warmup = max(1, round(_WARMUP * total))
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup))) / 2


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Makes torch choose deterministic algorithms inside the block."""
    # Matrix products on a GPU refuse to be deterministic without it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # whose property type checkers cannot see
    filled = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory finds reads of it; it changes no result otherwise, and takes a tenth of the time.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        memory.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before, warn_only=warn_only)

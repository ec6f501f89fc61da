"""The one training loop."""

import contextlib
import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor

from population.spec import TrainingSpec
from ssl_models.augment import random_view
from ssl_models.backbones import Classifier
from ssl_models.objectives import OBJECTIVES, Objective

_WARMUP = 0.1


class DivergedError(RuntimeError):
    """Training reached a loss that is not finite."""


def train(
    model: Classifier, objective: str, images: Tensor, labels: Tensor, *, spec: TrainingSpec, seed: int
) -> list[float]:
    """Trains a model in place.

    AdamW with a linear warm-up over the first tenth of the steps and a cosine to zero. Everything
    stays on the device of ``images``. The last, incomplete batch of an epoch is left out.

    Args:
        model: on the same device as the images; its encoder (and its head, if the objective trains
            it) are changed.
        objective: a name in ``OBJECTIVES``.
        images: shape (N, C, H, W), uint8.
        labels: class indices, shape (N,), int64; contrastive objectives do not look at them.
        spec: epochs, batch size, rates, augmentation.
        seed: of the initial heads, the order of images, and the views; the global random state is left
            as it was.

    Returns:
        Mean loss of each epoch.

    Raises:
        DivergedError: if a loss is NaN or infinite.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # of the CPU, where heads are made
        learner = OBJECTIVES[objective](model, spec).to(images.device)
    learner.train()
    parameters = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=spec.learning_rate, weight_decay=spec.weight_decay, fused=True
    )
    batch = min(spec.batch_size, len(images))
    steps = len(images) // batch
    total = steps * spec.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total))
    losses = []
    with deterministic():
        for epoch in range(spec.epochs):
            order = torch.randperm(len(images), generator=generator, device=images.device)
            epoch_losses = []
            for step in range(steps):
                index = order[step * batch : (step + 1) * batch]
                loss = _step(learner, images[index], labels[index], spec, generator)
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                optimizer.step()
                schedule.step()
                learner.after_step((epoch * steps + step + 1) / total)
                epoch_losses.append(loss.detach())
            losses.append(float(torch.stack(epoch_losses).mean()))
            if not math.isfinite(losses[-1]):
                raise DivergedError(f"the loss of seed {seed} is {losses[-1]} in epoch {epoch + 1}")
    model.eval()
    return losses


def _step(
    learner: Objective, images: Tensor, labels: Tensor, spec: TrainingSpec, generator: torch.Generator
) -> Tensor:
    pixels = images.float().div(255)
    views = [
        random_view(pixels, spec.augmentation, generator=generator).contiguous(
            memory_format=torch.channels_last
        )
        for _ in range(learner.views)
    ]
    with torch.autocast(images.device.type, torch.bfloat16):
        loss: Tensor = learner(views, labels)
    return loss


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
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)

"""Accuracy after merging and pruning of a trained network, per repair: ``make bench-merging``.

Needs ``PIE_TEST_DATA``, as benchmarks/trained.py says, and ``CIFAR10``, the folder that holds
``cifar-10-batches-py``.
"""

import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from benchmarks.trained import cifar10_resnet18
from compressors import prune_filters
from merging import merge_channels
from ssl_models import load_data

METHODS = {
    "merge": merge_channels,
    "L1 filters": prune_filters,
    "random": partial(prune_filters, norm="random"),
}
REPAIRS = ("none", "data-free", "bn", "least-squares")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Settings:
    """What to run.

    Attributes:
        images: number of test images.
        amounts: fractions of channels removed.
        seeds: number of seeds; means over them are shown.
    """

    images: int = 10_000
    amounts: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75)
    seeds: int = 1


def normalised(images: Tensor) -> Tensor:
    """Images in uint8 as the network takes them."""
    mean, std = torch.tensor(MEAN).reshape(3, 1, 1), torch.tensor(STD).reshape(3, 1, 1)
    return (images.float() / 255 - mean) / std


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that a model classifies right."""
    with torch.inference_mode():
        predicted = torch.cat([model(batch).argmax(1) for batch in torch.split(images, 250)])
    return float((predicted == labels).float().mean())


def main(settings: Settings) -> None:
    """Prints one row per method and amount."""
    data = load_data("cifar10", data_dir=Path(os.environ["CIFAR10"]), download=False)
    images = normalised(torch.from_numpy(data.test.images[: settings.images]))
    labels = torch.from_numpy(data.test.samples.label[: settings.images])
    calibration = list(normalised(torch.from_numpy(data.train.images[:5000])).split(500))
    model = cifar10_resnet18()
    print(f"{len(images)} test images, {settings.seeds} seeds, dense {accuracy(model, images, labels):.4f}")
    print(f"{'':18}{'params kept':>12}" + "".join(f"{repair:>16}" for repair in REPAIRS) + f"{'seconds':>10}")
    for amount in settings.amounts:
        for name, method in METHODS.items():
            cells = []
            for repair in REPAIRS:
                scores = []
                for seed in range(settings.seeds):
                    start = time.perf_counter()
                    result = method(
                        model, images[:1], amount=amount, seed=seed, repair=repair, calibration=calibration
                    )
                    seconds = time.perf_counter() - start
                    scores.append(accuracy(result.model, images, labels))
                cells.append(f"{sum(scores) / len(scores):16.4f}")
            kept = result.cost.after.params / result.cost.before.params
            print(f"{name:12}{amount:6.2f}{kept:12.3f}" + "".join(cells) + f"{seconds:10.1f}", flush=True)


if __name__ == "__main__":
    main(tyro.cli(Settings))

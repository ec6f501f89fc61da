"""Each objective makes features in which classes are told apart that untrained ones confuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from ssl_models import build_model
from ssl_models.backbones import Classifier
from ssl_models.presets import preset
from ssl_models.probe import extract_features
from ssl_models.training import train


def waves(n: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Waves in four directions, the classes; brightness, contrast, phase and length tell nothing."""
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 4
    angle, length = label * np.pi / 4, rng.uniform(0.8, 1.2, n)
    phase, contrast, brightness = (
        rng.uniform(0, 2 * np.pi, n),
        rng.uniform(25, 60, n),
        rng.uniform(60, 190, n),
    )
    row, column = np.mgrid[:16, :16]
    along = np.multiply.outer(np.cos(angle), row) + np.multiply.outer(np.sin(angle), column)
    wave = np.sin(length[:, None, None] * along + phase[:, None, None])
    pixels = brightness[:, None, None] + contrast[:, None, None] * wave + rng.normal(0, 5, wave.shape)
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)[:, None]), torch.from_numpy(label)


def accuracy(model: Classifier, train_set: tuple[Tensor, Tensor], test_set: tuple[Tensor, Tensor]) -> float:
    """Of the five nearest neighbours among the features."""
    features = [extract_features(model, images) for images, _ in (train_set, test_set)]
    return float(KNeighborsClassifier(5).fit(features[0], train_set[1]).score(features[1], test_set[1]))


@pytest.mark.parametrize(
    # A standard deviation of a share of 256 images is 0.03.
    ("objective", "epochs", "batch", "gain"),
    [
        ("supervised", 12, 64, 0.3), ("simclr", 12, 64, 0.3), ("supcon", 12, 64, 0.3),
        ("byol", 25, 64, 0.1), ("barlowtwins", 20, 32, 0.2),
    ],
)  # fmt: skip
def test_training_beats_the_untrained_encoder(objective: str, epochs: int, batch: int, gain: float) -> None:
    sets = waves(256, seed=0), waves(256, seed=1)
    model = build_model(
        f"{objective}_r18", num_classes=4, in_channels=1, width=4, seed=0, mean=[0.5], std=[0.2]
    )
    untrained = accuracy(model, *sets)
    assert untrained < 0.5
    spec = preset("digits", objective).training
    spec = replace(spec, epochs=epochs, batch_size=batch, learning_rate=5e-3, momentum=0.9)
    train(model, objective, *sets[0], spec=spec, seed=0)
    assert accuracy(model, *sets) > untrained + gain

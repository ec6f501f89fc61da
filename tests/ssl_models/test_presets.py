import pytest

from ssl_models.presets import preset
from ssl_models.zoo import OBJECTIVE_NAMES


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
@pytest.mark.parametrize("data", ["digits", "cifar10", "imagefolder:/x"])
def test_every_preset_is_in_range(data: str, objective: str) -> None:
    chosen = preset(data, objective)
    training, augmentation = chosen.training, chosen.training.augmentation
    assert chosen.width == 16
    assert 0 < augmentation.min_scale <= 1
    assert 0 <= augmentation.colour <= 1
    assert 0 <= augmentation.grey <= 1
    assert 0 < training.momentum < 1
    assert training.temperature > 0
    assert training.learning_rate > 0


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
def test_digits_are_never_mirrored_and_photos_are(objective: str) -> None:
    assert not preset("digits", objective).training.augmentation.flip
    assert preset("cifar10", objective).training.augmentation.flip
    assert preset("imagefolder:/x", objective) == preset("cifar10", objective)


def test_only_contrastive_views_change_colours() -> None:
    for data in ("digits", "cifar10"):
        assert preset(data, "supervised").training.augmentation.colour == 0
        assert preset(data, "simclr").training.augmentation.colour > 0
        assert preset(data, "simclr") == preset(data, "byol")

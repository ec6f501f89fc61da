import pytest

from population.errors import InputError
from ssl_models.catalogue import DATA_SETS, OBJECTIVES
from ssl_models.presets import preset

NAMES = [name.replace("PATH", "/x:y") for name in DATA_SETS]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("data", NAMES)
def test_every_preset_is_in_range(data: str, objective: str) -> None:
    chosen = preset(data, objective)
    training, augmentation = chosen.training, chosen.training.augmentation
    assert chosen.width == 16
    assert 0 < augmentation.min_scale <= 1
    assert 0 <= augmentation.rotation <= 15
    assert 0 <= augmentation.colour <= 1
    assert 0 <= augmentation.grey <= 1
    assert 0 < training.momentum < 1
    assert training.temperature > 0
    assert training.learning_rate > 0
    assert training.epochs >= 3


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("data", NAMES)
def test_digits_are_never_mirrored_and_all_else_is(data: str, objective: str) -> None:
    digits = data in {"digits", "mnist", "usps", "svhn"}
    assert preset(data, objective).training.augmentation.flip == (not digits)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_part_of_the_users_own_changes_nothing(objective: str) -> None:
    assert preset("imagefolder:/x", objective) == preset("cifar10", objective)
    assert preset("celeba:Smiling", objective) == preset("celeba", objective)


@pytest.mark.parametrize("data", NAMES)
def test_only_views_change_colours(data: str) -> None:
    assert preset(data, "supervised").training.augmentation.colour == 0
    assert preset(data, "simclr").training.augmentation.colour > 0
    assert preset(data, "simclr") == preset(data, "byol")
    grey = DATA_SETS[data.replace("/x:y", "PATH")].channels == 1
    assert (preset(data, "simclr").training.augmentation.grey == 0) == grey


def test_supcon_has_its_papers_temperature() -> None:
    assert preset("cifar10", "supcon").training.temperature == 0.1
    assert (
        preset("cifar10", "supcon").training.augmentation == preset("cifar10", "simclr").training.augmentation
    )


@pytest.mark.parametrize(
    ("data", "objective", "message"),
    [
        ("cifar", "simclr", "unknown data set 'cifar'"),
        ("digits", "simclr_wrn16", "unknown objective 'simclr_wrn16'"),
    ],
)
def test_what_has_no_preset_is_refused(data: str, objective: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        preset(data, objective)

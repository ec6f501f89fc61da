from dataclasses import replace

import pytest

from population.errors import InputError
from ssl_models.catalogue import DATA_SETS, OBJECTIVES
from ssl_models.presets import for_fewer_images, preset

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
    kinds = {"digits", "mnist", "usps", "svhn", "planted", "unplanted"}
    digits = data.partition(":")[0] in kinds
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


@pytest.mark.parametrize("data", NAMES)
def test_barlow_twins_has_its_papers_weight_of_redundancy(data: str) -> None:
    found, views = preset(data, "barlowtwins"), preset(data, "simclr")
    few = data.partition(":")[0] in ("digits", "planted", "unplanted")
    size = 64 if few else views.training.batch_size
    assert found == replace(views, training=replace(views.training, batch_size=size))
    assert preset(data, "barlowtwins").training.redundancy == 5e-3


def test_finetuning_is_the_labelled_training_at_a_quarter_of_its_rate() -> None:
    labelled = preset("svhn", "supervised").training
    expected = replace(labelled, learning_rate=labelled.learning_rate / 4, weight_decay=0.0)
    assert preset("svhn", "byol").finetuning == preset("svhn", "supervised").finetuning == expected


@pytest.mark.parametrize(
    # of 1,000 images in steps of 64 there are 15; 63 and 10 images are one step, 320 are 5
    ("images", "epochs"),
    [(1000, 8), (320, 24), (63, 120), (10, 120), (999, 8), (130, 60)],
)
def test_fewer_images_take_as_many_steps(images: int, epochs: int) -> None:
    training = replace(preset("digits", "supervised").training, epochs=8, batch_size=64)
    assert for_fewer_images(training, images=images, of=1000) == replace(training, epochs=epochs)


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

import pytest
import torch

from population.errors import InputError
from population.spec import ModelSpec
from ssl_models import build_model
from ssl_models.zoo import MODEL_NAMES, model_spec

SMALL = {"num_classes": 3, "in_channels": 1, "width": 4}


def test_names_are_objective_and_architecture() -> None:
    assert MODEL_NAMES == ("supervised_r18", "simclr_r18", "byol_r18")
    assert model_spec("byol_r18", **SMALL) == ModelSpec("byol", "r18", 3, 1, 4)


@pytest.mark.parametrize("name", ["simclr_r81", "simclr", "r18", "", "simclr_r18 "])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown model"):
        build_model(name, **SMALL, seed=0)


@pytest.mark.parametrize("wrong", [{"num_classes": 0}, {"in_channels": 0}, {"width": -1}])
def test_a_number_below_one_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        build_model("simclr_r18", **(SMALL | wrong), seed=0)


def test_width_64_for_cifar_has_the_known_number_of_parameters() -> None:
    model = build_model("supervised_r18", num_classes=10, in_channels=3, width=64, seed=0)
    # ResNet-18 with a 3x3 stem for CIFAR-10, as widely reported.
    assert sum(p.numel() for p in model.parameters()) == 11_173_962


def test_images_become_logits_in_eval_mode() -> None:
    model = build_model("simclr_r18", **SMALL, seed=0)
    assert not model.training
    assert model(torch.rand(2, 1, 16, 16)).shape == (2, 3)
    assert model.features(torch.rand(2, 1, 16, 16)).shape == (2, 32)


def test_the_seed_decides_the_weights_and_nothing_else() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build_model("simclr_r18", **SMALL, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    again = build_model("byol_r18", **SMALL, seed=1).state_dict()
    other = build_model("simclr_r18", **SMALL, seed=2).state_dict()
    assert first.keys() == again.keys() == other.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.conv1.weight"], other["encoder.conv1.weight"])
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_mean_and_standard_deviation_are_part_of_the_model() -> None:
    plain = build_model("simclr_r18", **SMALL, seed=1)
    scaled = build_model("simclr_r18", **SMALL, seed=1, mean=[0.25], std=[0.5])
    images = torch.rand(2, 1, 16, 16)
    torch.testing.assert_close(scaled(images), plain((images - 0.25) / 0.5))

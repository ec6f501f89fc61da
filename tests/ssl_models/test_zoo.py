import hashlib

import pytest
import torch

from population.errors import InputError
from population.spec import ModelSpec
from ssl_models import build_model
from ssl_models.zoo import check_model_name, model_names, model_spec, split_name, stem_for

SMALL = {"num_classes": 3, "in_channels": 1, "width": 4}


def test_names_are_objective_and_architecture() -> None:
    assert len(model_names()) == 30
    assert model_names()[0] == "supervised_r18"
    for objective in ("supervised", "simclr", "byol", "supcon", "barlowtwins"):
        for architecture in ("r18", "r34", "r50", "wrn16_2", "vgg11_bn", "mobilenet_v2"):
            name = f"{objective}_{architecture}"
            check_model_name(name)
            assert split_name(name) == (objective, architecture)
    assert model_spec("byol_wrn16_2", **SMALL) == ModelSpec("byol", "wrn16_2", 3, 1, 4, "small")


@pytest.mark.parametrize("name", ["simclr_r81", "simclr", "r18", "", "simclr_r18 ", "simclr_wrn16", "_r18"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="unknown model"):
        build_model(name, **SMALL, seed=0)


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown stem 'smal' .did you mean 'small'"):
        build_model("simclr_r18", **SMALL, seed=0, stem="smal")


@pytest.mark.parametrize(
    ("resolution", "stem"),
    [(16, "small"), (64, "small"), (65, "imagenet"), (96, "imagenet"), (224, "imagenet")],
)
def test_the_resolution_decides_the_stem(resolution: int, stem: str) -> None:
    assert stem_for(resolution) == stem


@pytest.mark.parametrize("name", ["simclr_r18", "simclr_wrn16_2", "simclr_vgg11_bn", "simclr_mobilenet_v2"])
def test_the_stem_is_built(name: str) -> None:
    images, shapes = torch.rand(1, 1, 64, 64), {}
    for stem in ("small", "imagenet"):
        model = build_model(name, **SMALL, seed=0, stem=stem)
        model.encoder.avgpool.register_forward_hook(
            lambda _, inputs, __, stem=stem: shapes.update({stem: inputs[0].shape[2]})
        )
        model(images)
    assert shapes["small"] == {"simclr_wrn16_2": 16, "simclr_vgg11_bn": 4}.get(name, 8)
    assert shapes["imagenet"] == shapes["small"] // (2 if name == "simclr_vgg11_bn" else 4)


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


def digest(model: torch.nn.Module) -> str:
    tensors = model.state_dict()
    return hashlib.sha256(b"".join(n.encode() + t.numpy().tobytes() for n, t in tensors.items())).hexdigest()


def test_the_initial_weights_are_pinned() -> None:
    # Members in the store were trained from these.
    model = build_model("simclr_r18", num_classes=10, in_channels=1, width=2, seed=7)
    assert digest(model)[:16] == "7b0aa884481664cd"

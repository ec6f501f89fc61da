import pytest
import torch

from compressors.groups import find_groups
from population.errors import InputError
from ssl_models import build_model
from ssl_models.backbones import ARCHITECTURES, Classifier, Normalize, compared_layers
from ssl_models.catalogue import ARCHITECTURES as ROWS
from ssl_models.encoders.resnet import resnet18


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compared_layers_are_in_forward_order_and_end_with_the_embedding(
    architecture: str, stem: str
) -> None:
    layers = compared_layers(architecture)
    assert 6 <= len(layers) <= 10
    model = build_model(
        f"simclr_{architecture}", num_classes=2, in_channels=1, width=2, seed=0, stem=stem
    ).encoder
    seen = {}
    for name in layers:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *args, name=name: seen.update({name: args[-1].clone()}))
    with torch.no_grad():
        embedding = model(torch.rand(2, 1, 32, 32))
    assert tuple(seen) == layers
    assert torch.equal(seen[layers[-1]].flatten(1), embedding)


def test_compared_layers_of_the_first_architecture_are_pinned() -> None:
    # tables that are kept name these layers
    assert compared_layers("r18") == (
        "bn1", "layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1", "layer4.0",
        "layer4.1", "avgpool",
    )  # fmt: skip
    with pytest.raises(InputError, match=r"unknown architecture 'r81' .did you mean 'r18'"):
        compared_layers("r81")


def test_every_architecture_that_is_listed_can_be_built() -> None:
    assert list(ARCHITECTURES) == list(ROWS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_channels_of_an_encoder_can_be_compressed(architecture: str) -> None:
    model = build_model(f"simclr_{architecture}", num_classes=2, in_channels=1, width=4, seed=0)
    search = find_groups(model, torch.rand(1, 1, 16, 16))
    assert set(search.left_dense) == {"head"}


def test_normalize_by_hand() -> None:
    normalize = Normalize([0.5, 0.1], [0.25, 2.0])
    image = torch.tensor([[[[1.0, 0.5]], [[2.1, 0.1]]]])
    torch.testing.assert_close(normalize(image), torch.tensor([[[[2.0, 0.0]], [[1.0, 0.0]]]]))
    assert set(normalize.state_dict()) == {"mean", "std"}
    assert not list(normalize.parameters())


def test_a_classifier_is_its_three_parts_in_a_row() -> None:
    torch.manual_seed(0)
    model = Classifier(Normalize([0.5], [0.25]), resnet18(in_channels=1, width=2, stem="small"), 3).eval()
    images = torch.rand(2, 1, 16, 16)
    features = model.encoder((images - 0.5) / 0.25)
    torch.testing.assert_close(model.features(images), features)
    torch.testing.assert_close(model(images), features @ model.head.weight.T + model.head.bias)

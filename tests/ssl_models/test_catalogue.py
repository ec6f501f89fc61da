import pytest
import torch
from torchvision import datasets

from compressors.cost import measure_cost
from ssl_models import build_model, load_data
from ssl_models.catalogue import (
    ARCHITECTURES,
    DATA_SETS,
    DEFAULT_WIDTH,
    OBJECTIVES,
    SIZED_CHANNELS,
    SIZED_CLASSES,
    SIZED_RESOLUTION,
)
from ssl_models.datasets import LOADERS
from ssl_models.objectives import OBJECTIVES as BUILT
from ssl_models.presets import PRESETS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_sizes_that_are_listed_are_those_of_the_network(architecture: str) -> None:
    row = ARCHITECTURES[architecture]
    model = build_model(
        f"supervised_{architecture}",
        num_classes=SIZED_CLASSES,
        in_channels=SIZED_CHANNELS,
        width=DEFAULT_WIDTH,
        seed=0,
    )
    cost = measure_cost(model, torch.zeros(1, SIZED_CHANNELS, SIZED_RESOLUTION, SIZED_RESOLUTION), {})
    assert (model.encoder.embedding, cost.params, cost.macs) == (row.embedding, row.params, row.macs)


@pytest.mark.parametrize(
    ("architecture", "params"),
    # As widely reported for CIFAR-10 (ResNets, WRN-16-2); torchvision's without what is not in an encoder.
    [
        ("r18", 11_173_962),
        ("r34", 21_282_122),
        ("r50", 23_520_842),
        ("wrn16_2", 691_674),
        ("vgg11_bn", 9_220_480 + 2 * 2752 + 512 * 10 + 10),
        ("mobilenet_v2", 3_504_872 - 1280 * 1000 - 1000 + 1280 * 10 + 10),
    ],
)
def test_the_published_width_has_the_published_parameters(architecture: str, params: int) -> None:
    width = ARCHITECTURES[architecture].published_width
    with torch.device("meta"):
        model = build_model(f"supervised_{architecture}", num_classes=10, in_channels=3, width=width, seed=0)
    assert sum(p.numel() for p in model.parameters()) == params


def test_what_is_listed_can_be_built_loaded_and_trained() -> None:
    assert list(OBJECTIVES) == list(BUILT)
    with_parts = ["imagefolder:PATH", "planted:SHARE", "unplanted:SHARE"]
    assert [*LOADERS, *with_parts] == list(DATA_SETS)
    assert list(PRESETS) == [name.partition(":")[0] for name in DATA_SETS]


def test_the_places_are_those_that_torchvision_reads() -> None:
    places = {name: row.places for name, row in DATA_SETS.items()}
    for name, kind in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        assert places[name] == (kind.base_folder,)
    for name, other in (("stl10", datasets.STL10), ("celeba", datasets.CelebA)):
        assert places[name] == (other.base_folder,)
    assert places["usps"] == tuple(datasets.USPS.split_list[split][1] for split in ("train", "test"))
    assert places["svhn"] == tuple(datasets.SVHN.split_list[split][1] for split in ("train", "test"))
    assert (places["digits"], places["imagefolder:PATH"]) == ((), ())


def test_the_digits_are_as_listed() -> None:
    data, row = load_data("digits", data_dir=None, download=False), DATA_SETS["digits"]
    assert (len(data.train.samples), len(data.test.samples)) == (row.train, row.test)
    assert (data.num_classes, data.in_channels, data.resolution) == (
        row.classes,
        row.channels,
        row.resolution,
    )
